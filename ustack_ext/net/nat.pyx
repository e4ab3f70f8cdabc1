"""IPv4 network address translation for what is forwarded (RFC 3022; RFC 4787, 5382 and 5508 for how it has to behave).

Responsible for the table of flows and for rewriting addresses, ports, checksums and what ICMP errors quote. Not for
what may be forwarded (forward), nor for fragments: they are put together before they come here.

A flow is what goes between an inner endpoint and a remote one. The port it gets outside follows from the inner
endpoint by a keyed hash, so that an endpoint has one port for all remotes (RFC 4787 REQ-1), unless another has it
towards the same remote. Only a flow's own remote is let in (REQ-8, address and port dependent). Ports are those that
sockets of the stack do not choose: a connection of its own never has one. There is no hairpinning (REQ-9), and no
protocol is looked into.

The table is bounded. At its limit the flow used least recently goes, established TCP connections last, so that a host
that opens flows without end closes nobody's connection.
"""
from libc.errno cimport EEXIST, ENOBUFS, ENOENT, ENOMEM
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memmove, memset

from ustack_ext.wire.addr cimport addr_eq, addr_to_v4, addr_v4
from ustack_ext.wire.bytes cimport get_be16, get_be32, put_be16, put_be32
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_store
from ustack_ext.wire.headers cimport (ICMP_ECHO, ICMP_ECHOREPLY, ICMP_HLEN, ICMP_PARAM_PROBLEM, ICMP_TIME_EXCEEDED,
                                      ICMP_UNREACH, IP4_HLEN, IP4_OFFSET_MASK, IPPROTO_ICMP_, IPPROTO_TCP_,
                                      IPPROTO_UDP_, TCP_HLEN, TH_ACK, TH_FIN, TH_RST, UDP_HLEN)
from ustack_ext.base.core cimport count
from ustack_ext.base.entry cimport ENTRY_NAT, Entry
from ustack_ext.base.slab cimport slab_alloc, slab_destroy, slab_free, slab_init
from ustack_ext.base.table cimport (table_destroy, table_first, table_hash, table_init, table_insert, table_next,
                                    table_remove)
from ustack_ext.base.wheel cimport wheel_arm, wheel_cancel
from ustack_ext.net.iface cimport iface_address, is_ours
from ustack_ext.net.mib cimport DropNatFull, DropNatProtocol, MIB_COUNT, NatFlowsMade, NatFlowsShed
from ustack_ext.net.state cimport (NAT_FLOWS, NAT_FORWARDS, NatBack, NatForward, NatList, RX_IP_BROADCAST,
                                   RX_IP_MULTICAST)

cdef enum:
    OUT = 0
    BACK = 1
    BOTH = 3
    # Outer ports: 10000 to 32767 and 61000 to 65535, the registered ones that are not in net.ipv4.ip_local_port_range.
    LOW_FIRST = 10000
    LOW_COUNT = 22768
    HIGH_FIRST = 61000
    PORTS = 27304
    TRIES = 64                             # ports looked at, of a flow whose own is taken

cdef uint64_t SECOND = 1000000000
cdef uint64_t ESTABLISHED_IDLE = 7440 * SECOND     # RFC 5382 REQ-5: 2 hours and 4 minutes
cdef uint64_t TRANSITORY_IDLE = 240 * SECOND       # ... and 4 minutes
cdef uint64_t UDP_IDLE = 300 * SECOND              # RFC 4787 REQ-5: 5 minutes
cdef uint64_t ICMP_IDLE = 60 * SECOND              # RFC 5508 REQ-2

# What a transport header says of its ends, seen from inside: `near` is the inner (or outer) port, `far` the remote's.
cdef struct Ends:
    uint16_t near
    uint16_t far
    uint8_t near_at                        # where the near port stands in the header
    uint8_t csum_at
    uint8_t pseudo                         # the checksum covers the addresses


# --- headers ---

cdef bint ends_of(uint8_t proto, const uint8_t *l4, uint32_t length, bint source_is_near, uint8_t echo,
                  Ends *e) noexcept nogil:
    """Of the first 8 bytes, which is what an error quotes. echo: the ICMP type that may pass. False: it has no ends."""
    if length < ICMP_HLEN:
        return False
    if proto == IPPROTO_ICMP_:
        if l4[0] != echo:
            return False
        e.near_at = 4
        e.near = get_be16(l4 + 4)
        e.far = 0
        e.csum_at = 2
        e.pseudo = 0
        return True
    if proto != IPPROTO_TCP_ and proto != IPPROTO_UDP_:
        return False
    e.near_at = 0 if source_is_near else 2
    e.near = get_be16(l4 + e.near_at)
    e.far = get_be16(l4 + (2 - e.near_at))
    e.csum_at = 16 if proto == IPPROTO_TCP_ else 6
    e.pseudo = 1
    return True


cdef bint ends_of_packet(const RxPkt *rx, bint out, Ends *e) noexcept nogil:
    if rx.proto == IPPROTO_TCP_ and rx.l4_len < TCP_HLEN or rx.proto == IPPROTO_UDP_ and rx.l4_len < UDP_HLEN:
        return False
    return ends_of(rx.proto, rx.l4, rx.l4_len, out, ICMP_ECHO if out else ICMP_ECHOREPLY, e)


cdef void adjust16(uint8_t *p, uint16_t old, uint16_t new) noexcept nogil:
    """RFC 1624 [Eqn. 3]."""
    cdef uint32_t sum = <uint32_t>(get_be16(p) ^ 0xFFFF) + (old ^ 0xFFFF) + new
    sum = (sum & 0xFFFF) + (sum >> 16)
    sum = (sum & 0xFFFF) + (sum >> 16)
    put_be16(p, <uint16_t>(sum ^ 0xFFFF))


cdef void adjust32(uint8_t *p, uint32_t old, uint32_t new) noexcept nogil:
    adjust16(p, <uint16_t>(old >> 16), <uint16_t>(new >> 16))
    adjust16(p, <uint16_t>old, <uint16_t>new)


cdef void rewrite(uint8_t *l3, uint32_t addr_at, uint8_t *l4, uint32_t l4_len, uint8_t proto, const Ends *e,
                  const Addr *to, uint16_t port) noexcept nogil:
    """Puts the near address and port in an IP and a transport header; of a quoted one as far as it is there."""
    cdef uint32_t old = get_be32(l3 + addr_at)
    cdef uint32_t new = addr_to_v4(to)
    cdef uint8_t *sum = l4 + e.csum_at
    put_be32(l3 + addr_at, new)
    adjust32(l3 + 10, old, new)
    put_be16(l4 + e.near_at, port)
    if l4_len < <uint32_t>e.csum_at + 2 or (proto == IPPROTO_UDP_ and sum[0] == 0 and sum[1] == 0):
        return
    adjust16(sum, e.near, port)
    if e.pseudo:
        adjust32(sum, old, new)
    if proto == IPPROTO_UDP_ and sum[0] == 0 and sum[1] == 0:
        csum_store(sum, 0xFFFF)


# --- the table ---

cdef inline uint32_t hash_of(Net *n, uint8_t proto, const Addr *near, uint16_t near_port, const Addr *remote,
                             uint16_t remote_port) noexcept nogil:
    return table_hash(&n.key, near.lo, remote.lo, <uint64_t>proto << 32 | <uint32_t>near_port << 16 | remote_port, 0, 0)


cdef NatFlow *find_inside(Net *n, uint8_t proto, const Addr *inner, uint16_t inner_port, const Addr *remote,
                          uint16_t remote_port) noexcept nogil:
    cdef Entry *e = table_first(&n.nat.inside, hash_of(n, proto, inner, inner_port, remote, remote_port))
    cdef NatFlow *f
    while e != NULL:
        f = <NatFlow *>e
        if (f.proto == proto and f.inner_port == inner_port and f.remote_port == remote_port
                and addr_eq(&f.inner, inner) and addr_eq(&f.remote, remote)):
            return f
        e = table_next(e)
    return NULL


cdef NatFlow *find_outside(Net *n, uint8_t proto, const Addr *outer, uint16_t outer_port, const Addr *remote,
                           uint16_t remote_port) noexcept nogil:
    cdef Entry *e = table_first(&n.nat.outside, hash_of(n, proto, outer, outer_port, remote, remote_port))
    cdef NatFlow *f
    while e != NULL:
        f = (<NatBack *>e).flow
        if (f.proto == proto and f.outer_port == outer_port and f.remote_port == remote_port
                and addr_eq(&f.outer, outer) and addr_eq(&f.remote, remote)):
            return f
        e = table_next(e)
    return NULL


cdef void list_remove(Net *n, NatFlow *f) noexcept nogil:
    cdef NatList *l = &n.nat.lists[f.lasting]
    if f.older != NULL:
        f.older.newer = f.newer
    else:
        l.oldest = f.newer
    if f.newer != NULL:
        f.newer.older = f.older
    else:
        l.newest = f.older


cdef void list_append(Net *n, NatFlow *f) noexcept nogil:
    cdef NatList *l = &n.nat.lists[f.lasting]
    f.newer = NULL
    f.older = l.newest
    if f.older != NULL:
        f.older.newer = f
    else:
        l.oldest = f
    l.newest = f


cdef void forget(Net *n, NatFlow *f) noexcept nogil:
    wheel_cancel(&n.core.wheel, &f.entry)
    table_remove(&n.nat.inside, &f.entry)
    table_remove(&n.nat.outside, &f.back.entry)
    list_remove(n, f)
    slab_free(&n.nat.slab, f)


cdef uint64_t idle_limit(const NatFlow *f) noexcept nogil:
    if f.proto == IPPROTO_UDP_:
        return UDP_IDLE
    if f.proto == IPPROTO_ICMP_:
        return ICMP_IDLE
    return ESTABLISHED_IDLE if f.lasting else TRANSITORY_IDLE


cdef uint16_t pick_port(Net *n, uint8_t proto, const Addr *inner, uint16_t inner_port, const Addr *outer,
                        const Addr *remote, uint16_t remote_port) noexcept nogil:
    """0: none is free towards this remote."""
    cdef uint32_t start = table_hash(&n.secret6, inner.lo, <uint64_t>proto << 16 | inner_port, 0, 0, 0)
    cdef uint32_t k, at
    cdef uint16_t port
    for k in range(TRIES):
        at = (start + k) % PORTS
        port = <uint16_t>(LOW_FIRST + at if at < LOW_COUNT else HIGH_FIRST + (at - LOW_COUNT))
        if find_outside(n, proto, outer, port, remote, remote_port) == NULL:
            return port
    return 0


cdef bint make_room(Net *n) noexcept nogil:
    cdef NatFlow *f
    while n.nat.inside.count >= n.knobs.nf_conntrack_max:
        f = n.nat.lists[0].oldest
        if f == NULL:
            f = n.nat.lists[1].oldest
        if f == NULL:
            return False
        forget(n, f)
        count(n.core, NatFlowsShed)
    return True


cdef NatFlow *make(Net *n, Iface *i, uint8_t proto, const Addr *inner, uint16_t inner_port, const Addr *outer,
                   uint16_t outer_port, const Addr *remote, uint16_t remote_port) noexcept nogil:
    """NULL without memory."""
    cdef NatFlow *f
    if not make_room(n):
        return NULL
    f = <NatFlow *>slab_alloc(&n.nat.slab)
    if f == NULL:
        return NULL
    f.entry.kind = ENTRY_NAT
    f.back.flow = f
    f.iface = i
    f.proto = proto
    f.inner = inner[0]
    f.inner_port = inner_port
    f.outer = outer[0]
    f.outer_port = outer_port
    f.remote = remote[0]
    f.remote_port = remote_port
    f.used = n.core.now
    table_insert(&n.nat.inside, &f.entry, hash_of(n, proto, inner, inner_port, remote, remote_port))
    table_insert(&n.nat.outside, &f.back.entry, hash_of(n, proto, outer, outer_port, remote, remote_port))
    list_append(n, f)
    wheel_arm(&n.core.wheel, &f.entry, n.core.now + idle_limit(f))
    count(n.core, NatFlowsMade)
    return f


cdef void touch(Net *n, NatFlow *f, const RxPkt *rx, int direction) noexcept nogil:
    """A packet of the flow: it is the one used last. The timer is set anew only where it has to come earlier."""
    cdef uint8_t flags
    cdef bint was = f.lasting
    list_remove(n, f)
    f.used = n.core.now
    if f.proto == IPPROTO_TCP_:
        flags = rx.l4[13]
        if flags & TH_ACK:
            f.acked |= 1 << direction
        if flags & TH_FIN:
            f.fins |= 1 << direction
        f.rst = flags & TH_RST != 0               # not believed for longer than until the next segment
        f.lasting = f.acked == BOTH and f.fins != BOTH and not f.rst
    list_append(n, f)
    if was and not f.lasting:
        wheel_arm(&n.core.wheel, &f.entry, n.core.now + idle_limit(f))


cdef void nat_timer(Net *n, NatFlow *f) noexcept nogil:
    cdef uint64_t end = f.used + idle_limit(f)
    if end > n.core.now:
        wheel_arm(&n.core.wheel, &f.entry, end)
    else:
        forget(n, f)


# --- ICMP errors (RFC 5508 §4.2, §7.1) ---

cdef bint is_error(const RxPkt *rx) noexcept nogil:
    return rx.proto == IPPROTO_ICMP_ and rx.l4_len >= ICMP_HLEN + IP4_HLEN and (
        rx.l4[0] == ICMP_UNREACH or rx.l4[0] == ICMP_TIME_EXCEEDED or rx.l4[0] == ICMP_PARAM_PROBLEM)


cdef NatFlow *translate_quote(Net *n, RxPkt *rx, bint out) noexcept nogil:
    """Finds the flow whose packet an error quotes, rewrites the quotation and the error's checksum. A quoted packet
    goes the other way than the error. NULL: it is about none of our flows, or too short to tell."""
    cdef uint8_t *q = rx.l4 + ICMP_HLEN
    cdef uint32_t have = rx.l4_len - ICMP_HLEN
    cdef uint32_t hlen = <uint32_t>(q[0] & 15) * 4
    cdef uint8_t proto = q[9]
    cdef Addr source, destination
    cdef NatFlow *f
    cdef Ends e
    if q[0] >> 4 != 4 or hlen < IP4_HLEN or have < hlen + ICMP_HLEN or get_be16(q + 6) & IP4_OFFSET_MASK:
        return NULL
    source = addr_v4(get_be32(q + 12))
    destination = addr_v4(get_be32(q + 16))
    if not ends_of(proto, q + hlen, have - hlen, not out, ICMP_ECHOREPLY if out else ICMP_ECHO, &e):
        return NULL
    if csum_fold(csum_partial(rx.l4, rx.l4_len, 0)) != 0:
        return NULL                                    # what is wrong must not become right
    if out:
        f = find_inside(n, proto, &destination, e.near, &source, e.far)
        if f != NULL:
            rewrite(q, 16, q + hlen, have - hlen, proto, &e, &f.outer, f.outer_port)
    else:
        f = find_outside(n, proto, &source, e.near, &destination, e.far)
        if f != NULL:
            rewrite(q, 12, q + hlen, have - hlen, proto, &e, &f.inner, f.inner_port)
    if f != NULL:
        csum_store(rx.l4 + 2, 0)
        csum_store(rx.l4 + 2, csum_fold(csum_partial(rx.l4, rx.l4_len, 0)))
    return f


cdef inline void new_source(RxPkt *rx, const Addr *a) noexcept nogil:
    put_be32(rx.l3 + 12, addr_to_v4(a))                # the header's checksum is made anew when it is sent on
    rx.src = a[0]


cdef inline void new_destination(RxPkt *rx, const Addr *a) noexcept nogil:
    put_be32(rx.l3 + 16, addr_to_v4(a))
    rx.dst = a[0]


# --- packets ---

cdef int nat_out(Net *n, RxPkt *rx, Iface *i) noexcept nogil:
    cdef const Addr *own
    cdef NatFlow *f
    cdef uint16_t port
    cdef Ends e
    if is_error(rx):
        f = translate_quote(n, rx, True)
        if f == NULL:
            return DropNatProtocol
        new_source(rx, &f.outer)
        return MIB_COUNT
    if not ends_of_packet(rx, True, &e):
        return DropNatProtocol
    f = find_inside(n, rx.proto, &rx.src, e.near, &rx.dst, e.far)
    if f == NULL:
        own = iface_address(i, &rx.dst)
        port = pick_port(n, rx.proto, &rx.src, e.near, own, &rx.dst, e.far) if own != NULL else 0
        if port != 0:
            f = make(n, i, rx.proto, &rx.src, e.near, own, port, &rx.dst, e.far)
        if f == NULL:
            return DropNatFull
    touch(n, f, rx, OUT)
    rewrite(rx.l3, 12, rx.l4, rx.l4_len, rx.proto, &e, &f.outer, f.outer_port)
    rx.src = f.outer
    return MIB_COUNT


cdef NatFlow *forwarded(Net *n, RxPkt *rx, const Ends *e) noexcept nogil:
    """A new flow from outside, to a port that is forwarded; NULL: it is not."""
    cdef NatForward *r
    cdef int k
    for k in range(n.nat.n_forwards):
        r = &n.nat.forwards[k]
        if r.iface == rx.iface and r.proto == rx.proto and r.port == e.near:
            return make(n, rx.iface, rx.proto, &r.to, r.to_port, &rx.dst, e.near, &rx.src, e.far)
    return NULL


cdef bint nat_in(Net *n, RxPkt *rx) noexcept nogil:
    cdef NatFlow *f
    cdef Ends e
    if rx.flags & (RX_IP_BROADCAST | RX_IP_MULTICAST) or not is_ours(n, &rx.dst):
        return False
    if is_error(rx):
        f = translate_quote(n, rx, False)
        if f != NULL:
            new_destination(rx, &f.inner)
        return f != NULL
    if not ends_of_packet(rx, False, &e):
        return False
    f = find_outside(n, rx.proto, &rx.dst, e.near, &rx.src, e.far)
    if f == NULL:
        f = forwarded(n, rx, &e)
    if f == NULL:
        return False
    touch(n, f, rx, BACK)
    rewrite(rx.l3, 16, rx.l4, rx.l4_len, rx.proto, &e, &f.inner, f.inner_port)
    rx.dst = f.inner
    rx.nat = f
    return True


cdef void nat_undo(RxPkt *rx) noexcept nogil:
    cdef NatFlow *f = rx.nat
    cdef Ends e
    if f == NULL:
        return
    rx.nat = NULL
    ends_of_packet(rx, False, &e)
    rewrite(rx.l3, 16, rx.l4, rx.l4_len, rx.proto, &e, &f.outer, f.outer_port)
    rx.dst = f.outer


# --- set-up ---

cdef int prepare(Net *n) noexcept nogil:
    if n.nat != NULL:
        return 0
    n.nat = <Nat *>calloc(1, sizeof(Nat))
    if n.nat == NULL:
        return -ENOMEM
    slab_init(&n.nat.slab, sizeof(NatFlow), NAT_FLOWS)
    if table_init(&n.nat.inside, 64) != 0 or table_init(&n.nat.outside, 64) != 0:
        nat_destroy(n)
        return -ENOMEM
    return 0


cdef int nat_masquerade(Net *n, Iface *i, bint on) noexcept nogil:
    cdef int status = prepare(n) if on else 0
    if status == 0:
        i.masquerade = on
    return status


cdef int nat_forward_add(Net *n, Iface *i, uint8_t proto, uint16_t port, const Addr *to,
                         uint16_t to_port) noexcept nogil:
    cdef int status = prepare(n)
    cdef NatForward *r
    cdef int k
    if status != 0:
        return status
    for k in range(n.nat.n_forwards):
        r = &n.nat.forwards[k]
        if r.iface == i and r.proto == proto and r.port == port:
            return -EEXIST
    if n.nat.n_forwards >= NAT_FORWARDS:
        return -ENOBUFS
    r = &n.nat.forwards[n.nat.n_forwards]
    memset(r, 0, sizeof(NatForward))
    r.iface = i
    r.proto = proto
    r.port = port
    r.to = to[0]
    r.to_port = to_port
    n.nat.n_forwards += 1
    return 0


cdef void drop_forward(Net *n, int at) noexcept nogil:
    n.nat.n_forwards -= 1
    memmove(&n.nat.forwards[at], &n.nat.forwards[at + 1], (n.nat.n_forwards - at) * sizeof(NatForward))


cdef int nat_forward_del(Net *n, Iface *i, uint8_t proto, uint16_t port) noexcept nogil:
    cdef int k
    cdef NatForward *r
    if n.nat != NULL:
        for k in range(n.nat.n_forwards):
            r = &n.nat.forwards[k]
            if r.iface == i and r.proto == proto and r.port == port:
                drop_forward(n, k)
                return 0
    return -ENOENT


cdef void nat_forget_iface(Net *n, Iface *i) noexcept nogil:
    cdef NatFlow *f
    cdef NatFlow *next
    cdef int k
    if n.nat == NULL:
        return
    for k in range(2):
        f = n.nat.lists[k].oldest
        while f != NULL:
            next = f.newer
            if i == NULL or f.iface == i:
                forget(n, f)
            f = next
    k = n.nat.n_forwards
    while k > 0:
        k -= 1
        if i == NULL or n.nat.forwards[k].iface == i:
            drop_forward(n, k)


cdef void nat_destroy(Net *n) noexcept nogil:
    if n.nat == NULL:
        return
    nat_forget_iface(n, NULL)
    table_destroy(&n.nat.inside)
    table_destroy(&n.nat.outside)
    slab_destroy(&n.nat.slab)
    free(n.nat)
    n.nat = NULL
