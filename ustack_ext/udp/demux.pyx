"""The table of bound datagram sockets, by local port (UDP) or echo identifier (ping).

Responsible for matching and for port conflicts and choice (RFC 6056 §3.3.1: a random start in the range, then upwards).
Sockets with one port share a chain: few do, and the hash is keyed.
"""
from libc.errno cimport EADDRINUSE
from libc.stdint cimport uint32_t

from ustack_ext.wire.addr cimport addr_any_holds, addr_eq, addr_is_any, addr_meet
from ustack_ext.base.entry cimport ENTRY_PING, Entry
from ustack_ext.base.rng cimport rng_below
from ustack_ext.base.table cimport table_first, table_hash, table_insert, table_next
from ustack_ext.udp.state cimport UDP_BOUND, UDP_CONNECTED, UDP_IS_PING, UDP_REUSEADDR


cdef inline uint32_t port_hash(Udp *u, uint16_t port, int kind) noexcept nogil:
    return table_hash(&u.net.key, port, kind, 0, 0, 0)


cdef inline UdpSock *on_port(Entry *e, uint16_t port, int kind) noexcept nogil:
    """The first of the chain with exactly this port."""
    while e != NULL and ((<UdpSock *>e).lport != port or e.kind != kind):
        e = table_next(e)
    return <UdpSock *>e


cdef UdpSock *first_on_port(Udp *u, uint16_t port, int kind) noexcept nogil:
    return on_port(table_first(&u.socks, port_hash(u, port, kind)), port, kind)


cdef UdpSock *next_on_port(UdpSock *s) noexcept nogil:
    return on_port(table_next(&s.entry), s.lport, s.entry.kind)


cdef int match_score(const UdpSock *s, const Addr *laddr, const Addr *raddr, uint16_t rport,
                     uint32_t ifindex) noexcept nogil:
    """A connected socket hears only its peer, and hears it before all others; a bound address comes before the
    wildcard."""
    cdef int score = 1
    if s.more != NULL and s.more.bound_if != 0 and ifindex != 0:
        if s.more.bound_if != ifindex:
            return 0
        score += 1
    if not addr_is_any(&s.laddr):
        if not addr_eq(&s.laddr, laddr):
            return 0
        score += 1
    elif not addr_any_holds(&s.laddr, laddr):
        return 0
    if s.flags & UDP_CONNECTED:
        if not addr_eq(&s.raddr, raddr) or (s.rport != rport and not s.flags & UDP_IS_PING):
            return 0
        score += 2
    return score


cdef UdpSock *best_match(Udp *u, uint16_t port, int kind, const Addr *laddr, const Addr *raddr,
                         uint16_t rport, uint32_t ifindex) noexcept nogil:
    """Of equals the latest bound, as Linux (SO_REUSEADDR); or one chosen by a keyed hash of the peer (SO_REUSEPORT)."""
    cdef UdpSock *s = first_on_port(u, port, kind)
    cdef UdpSock *best = NULL
    cdef int score, top = 0
    while s != NULL:
        score = match_score(s, laddr, raddr, rport, ifindex)
        if score > top or (score == top and score > 0 and <int>(s.bind_order - best.bind_order) > 0):
            top = score
            best = s
        s = next_on_port(s)
    if best != NULL and best.reuseport and kind != ENTRY_PING:
        return shared(u, best, top, laddr, raddr, rport, ifindex)
    return best


cdef UdpSock *shared(Udp *u, UdpSock *best, int top, const Addr *laddr, const Addr *raddr,
                     uint16_t rport, uint32_t ifindex) noexcept nogil:
    """One of those with SO_REUSEPORT that match as well as the best."""
    cdef UdpSock *s = first_on_port(u, best.lport, best.entry.kind)
    cdef uint32_t members = 0, which
    while s != NULL:
        if s.reuseport and match_score(s, laddr, raddr, rport, ifindex) == top:
            members += 1
        s = next_on_port(s)
    if members <= 1:
        return best
    which = table_hash(&u.net.key, raddr.hi, raddr.lo, rport, laddr.lo, best.lport) % members
    s = first_on_port(u, best.lport, best.entry.kind)
    while s != NULL:
        if s.reuseport and match_score(s, laddr, raddr, rport, ifindex) == top:
            if which == 0:
                return s
            which -= 1
        s = next_on_port(s)
    return best


cdef bint apart(const UdpSock *s, const UdpSock *other) noexcept nogil:
    """SO_BINDTODEVICE: on two devices the same port is two."""
    return (s.more != NULL and other.more != NULL and s.more.bound_if != 0 and other.more.bound_if != 0
            and s.more.bound_if != other.more.bound_if)


cdef bint conflicts(Udp *u, const UdpSock *s, const Addr *a, uint16_t port) noexcept nogil:
    """Another socket with the port and an address in common, unless both said SO_REUSEADDR, or both SO_REUSEPORT."""
    cdef UdpSock *other = first_on_port(u, port, s.entry.kind)
    while other != NULL:
        if not apart(s, other) and addr_meet(a, &other.laddr) and not (
                s.flags & UDP_REUSEADDR and other.flags & UDP_REUSEADDR) and not (s.reuseport and other.reuseport):
            return True
        other = next_on_port(other)
    return False


cdef uint16_t free_port(Udp *u, const UdpSock *s) noexcept nogil:
    """A port nobody has, or 0. Identifiers of ping sockets are drawn from all 65,535."""
    cdef bint ping = s.flags & UDP_IS_PING != 0
    cdef uint32_t low = 1 if ping else u.port_lo
    cdef uint32_t high = 65535 if ping else u.port_hi
    cdef uint32_t size, start, k
    cdef uint16_t port
    if low > high or low == 0:
        return 0
    size = high - low + 1
    start = rng_below(&u.core.rng, size)
    for k in range(size):
        port = <uint16_t>(low + (start + k) % size)
        if first_on_port(u, port, s.entry.kind) == NULL:
            return port
    return 0


cdef int claim_port(Udp *u, UdpSock *s, const Addr *a, uint16_t port) noexcept nogil:
    if port == 0:
        port = free_port(u, s)
        if port == 0:
            return -EADDRINUSE
    elif conflicts(u, s, a, port):
        return -EADDRINUSE
    s.laddr = a[0]
    s.lport = port
    s.flags |= UDP_BOUND
    u.bind_count += 1
    s.bind_order = u.bind_count
    table_insert(&u.socks, &s.entry, port_hash(u, port, s.entry.kind))
    return 0
