"""UDP and ping sockets to the layers above: open, bind, connect, send, receive, shut down, and what comes from the
network.

Responsible for the life of a socket and for the errors it is told of (RFC 1122 §4.1.3.3); matching is demux's, queues
are recv's, headers are send's.
"""
from libc.errno cimport (EADDRNOTAVAIL, EAGAIN, EINVAL, EISCONN, EMSGSIZE, ENOMEM, ENOTCONN, EPIPE)
from libc.string cimport memset

from ustack_ext.wire.addr cimport addr_eq, addr_is_any, addr_is_multicast, addr_is_v4, addr_localhost, addr_none
from ustack_ext.wire.ip6 cimport ICMP6_ECHO, IPPROTO_ICMPV6_
from ustack_ext.wire.bytes cimport get_be16
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_pseudo
from ustack_ext.wire.headers cimport (ICMP_ECHO, ICMP_HLEN, ICMP_UNREACH_PORT, IPPROTO_ICMP_, IPPROTO_UDP_, UDP_HLEN,
                                      UdpHdr, WIRE_OK, udp_parse)
from ustack_ext.base.core cimport count
from ustack_ext.base.entry cimport ENTRY_PING, ENTRY_UDP, ENTRY_UDPLITE
from ustack_ext.base.event cimport EV_ERROR, EV_HANGUP, EV_READABLE, EV_WRITABLE, event_raise
from ustack_ext.base.limiter cimport limiter_init
from ustack_ext.base.slab cimport slab_destroy, slab_init
from ustack_ext.base.table cimport table_bucket, table_buckets, table_destroy, table_init
from ustack_ext.net.mib cimport (DropIcmpUnmatched, DropUdpMalformed, UdpInCsumErrors, UdpInErrors, UdpNoPorts)
from ustack_ext.net.net cimport icmp_send_unreach, net_is_broadcast, net_is_local, net_source_for
from ustack_ext.net.state cimport RX_CSUM_OK, RX_FOREIGN, RX_IP_BROADCAST, RX_IP_MULTICAST
from ustack_ext.udp.demux cimport best_match, claim_port
from ustack_ext.udp.errqueue cimport queue_icmp_error
from ustack_ext.udp.flow cimport flow_open, flows_destroy, flows_init
from ustack_ext.udp.flowtable cimport flow_find
from ustack_ext.udp.life cimport udp_close, udp_wildcard
from ustack_ext.udp.member cimport deliver_group
from ustack_ext.udp.pathmtu cimport learn_path_mtu, path_mtu_waits
from ustack_ext.udp.recv cimport deliver, set_error, take
from ustack_ext.udp.send cimport check_destination, send_datagram
from ustack_ext.udp.state cimport pmtudisc_for, wants_errors

cdef enum:
    SOCKS_MAX = 1 << 20
    PAGE = 4096
    MOST_PAGES = 1 << 28
    HEARSAY_RATE = 100         # a second
    HEARSAY_BURST = 50


# --- life ---

cdef int udp_init(Udp *u, Core *core, Net *net) noexcept nogil:
    memset(u, 0, sizeof(u[0]))
    u.core = core
    u.net = net
    u.rmem_default = 212992
    u.wmem_default = 212992
    u.port_lo = 32768
    u.port_hi = 60999
    u.mem[0] = <uint32_t>min(core.pool.budget // 8 // PAGE, <uint64_t>MOST_PAGES)
    u.mem[1] = u.mem[0] // 3 * 4
    u.mem[2] = u.mem[0] * 2                            # as Linux: in these proportions; a quarter of the memory
    limiter_init(&u.hearsay, HEARSAY_RATE, HEARSAY_BURST, core.now)
    slab_init(&u.slab, sizeof(UdpSock), SOCKS_MAX)
    if flows_init(u) != 0:
        return -ENOMEM
    return 0 if table_init(&u.socks, 64) == 0 else -ENOMEM


cdef void udp_destroy(Udp *u) noexcept nogil:
    """Sockets still open lose their queues and their memory."""
    cdef uint32_t k
    for k in range(<uint32_t>u.net.n_ifaces):          # the links are gone: nobody is told of groups that were left
        u.net.ifaces[k].up = 0
    while u.raws != NULL:
        udp_close(u, u.raws)
    while u.packets != NULL:
        udp_close(u, u.packets)
    for k in range(table_buckets(&u.socks)):           # removing moves no bucket
        while table_bucket(&u.socks, k)[0] != NULL:
            udp_close(u, <UdpSock *>table_bucket(&u.socks, k)[0])
    flows_destroy(u)
    table_destroy(&u.socks)
    slab_destroy(&u.slab)


cdef int udp_bind(Udp *u, UdpSock *s, const Addr *a, uint16_t port) noexcept nogil:
    """A socket is bound once, a raw one until it has a peer: -EINVAL then.
    -EADDRNOTAVAIL unless the address is any, ours, a broadcast or a group."""
    cdef int status = 0
    if s.flags & (UDP_CONNECTED if s.raw != NULL else UDP_BOUND):
        return -EINVAL
    if not (addr_is_any(a) or net_is_local(u.net, a) or net_is_broadcast(u.net, a) or addr_is_multicast(a)):
        return -EADDRNOTAVAIL
    if s.raw != NULL:
        s.laddr = a[0]
        s.flags &= ~UDP_LADDR_GIVEN
    else:
        status = claim_port(u, s, a, port)
    if status == 0 and not addr_is_any(a):
        s.flags |= UDP_LADDR_GIVEN
    return status


cdef int bind_if_needed(Udp *u, UdpSock *s) noexcept nogil:
    cdef Addr wild = udp_wildcard(s)
    return 0 if s.flags & UDP_BOUND else claim_port(u, s, &wild, 0)


cdef int udp_connect(Udp *u, UdpSock *s, const Addr *a, uint16_t port) noexcept nogil:
    """Sets the one peer; nothing is sent. To 0.0.0.0 means to this host. a NULL takes the peer away again.

    0, -EACCES (broadcast), -ENETUNREACH, -EADDRNOTAVAIL, -EADDRINUSE (no port left).
    """
    cdef Addr peer, source
    cdef int status
    if s.flow != NULL:                                 # its peer is what it is found by
        return -EISCONN
    if a == NULL:
        s.flags &= ~UDP_CONNECTED
        s.raddr = addr_none()
        s.rport = 0
        if not s.flags & UDP_LADDR_GIVEN:
            s.laddr = udp_wildcard(s)
        return 0
    peer = addr_localhost(a) if addr_is_any(a) else a[0]
    status = check_destination(u, s, &peer)
    if status == 0:
        status = net_source_for(u.net, &peer, &source)
    if status == 0:
        status = bind_if_needed(u, s)
    if status != 0:
        return status
    if not s.flags & UDP_LADDR_GIVEN:
        s.laddr = source
    s.raddr = peer
    s.rport = port
    s.flags |= UDP_CONNECTED
    memset(&s.dst, 0, sizeof(s.dst))
    return 0


# --- data ---

cdef int pop_error(UdpSock *s) noexcept nogil:
    cdef int error = s.error
    s.error = 0
    return error


cdef long udp_send(Udp *u, UdpSock *s, const IoVec *iov, int niov, const Addr *to, uint16_t port,
                   int flags) noexcept nogil:
    """`flags` is for MSG_* that change what is sent: there is none yet."""
    cdef Addr here
    cdef int status
    if s.flags & UDP_SHUT_WR:
        return -EPIPE
    if s.error != 0:
        return -pop_error(s)
    status = bind_if_needed(u, s)
    if status != 0:
        return status
    if s.flow != NULL:
        s.flow.active = u.core.now
    if to != NULL and addr_is_any(to):
        here = addr_localhost(to)                      # Linux: 0.0.0.0 is this host
        to = &here
    return send_datagram(u, s, iov, niov, to, port)


cdef long udp_recv(Udp *u, UdpSock *s, const IoVec *iov, int niov, bint peek, UdpMeta *meta,
                   uint32_t *full) noexcept nogil:
    full[0] = 0
    if s.error != 0:
        return -pop_error(s)
    if s.queue.count != 0:
        return take(u, s, iov, niov, peek, meta, full)
    if s.flags & UDP_SHUT_RD:
        memset(meta, 0, sizeof(meta[0]))
        return 0
    return -EAGAIN


cdef int udp_shutdown(Udp *u, UdpSock *s, int how) noexcept nogil:
    """how: 0 RD, 1 WR, 2 both. -ENOTCONN without a peer, -EINVAL."""
    if how < 0 or how > 2:
        return -EINVAL
    if not s.flags & UDP_CONNECTED:
        return -ENOTCONN
    if how != 1:
        s.flags |= UDP_SHUT_RD
    if how != 0:
        s.flags |= UDP_SHUT_WR
    event_raise(&u.core.events, &s.source, udp_ready(s))
    return 0


cdef uint16_t udp_ready(UdpSock *s) noexcept nogil:
    cdef uint16_t ready = EV_WRITABLE
    if s.queue.count != 0 or s.flags & UDP_SHUT_RD or s.error != 0 or path_mtu_waits(s):
        ready |= EV_READABLE
    if s.error != 0 or (s.more != NULL and s.more.errors.count != 0):
        ready |= EV_ERROR
    if s.flags & UDP_SHUT_RD and s.flags & UDP_SHUT_WR:
        ready |= EV_HANGUP
    return ready


# --- from the network ---

cdef inline bint takes_whole(const UdpSock *s) noexcept nogil:
    return s.more != NULL and s.more.gro


cdef inline UdpSock *receiver(Udp *u, const RxPkt *rx, uint16_t sport, uint16_t dport) noexcept nogil:
    """A flow's own socket, one that is bound to our address, or a new flow's."""
    cdef UdpSock *s = NULL
    if u.flows.live > 0:
        s = flow_find(u, &rx.dst, dport, &rx.src, sport)
    if s == NULL and not rx.flags & RX_FOREIGN:
        s = best_match(u, dport, ENTRY_UDP, &rx.dst, &rx.src, sport, rx.iface.index)
    if s == NULL and u.flows.on and sport != 0 and dport != 0:
        s = flow_open(u, &rx.dst, dport, &rx.src, sport)
    if s != NULL and s.flow != NULL:
        s.flow.active = u.core.now
    return s


cdef void udp_input(Udp *u, RxPkt *rx) noexcept nogil:
    cdef UdpHdr h
    cdef UdpSock *s
    cdef uint8_t *data
    cdef uint32_t length
    cdef uint64_t pseudo
    if udp_parse(rx.l4, rx.l4_len, &h) != WIRE_OK:
        count(u.core, DropUdpMalformed)
        count(u.core, UdpInErrors)
        return
    # A length below what IP carried is legal: the rest is not ours (and not checksummed).
    # Over IPv6 there is no "not computed" (RFC 8200 §8.1).
    if not rx.flags & RX_CSUM_OK and (h.checksum != 0 or not addr_is_v4(&rx.src)):
        pseudo = csum_pseudo(&rx.src, &rx.dst, IPPROTO_UDP_, h.length)
        if h.checksum == 0 or csum_fold(csum_partial(rx.l4, h.length, pseudo)) != 0:
            count(u.core, UdpInCsumErrors)
            count(u.core, UdpInErrors)
            return
    rx.l4_len = h.length
    data = rx.l4 + UDP_HLEN
    length = h.length - UDP_HLEN
    if rx.flags & (RX_IP_BROADCAST | RX_IP_MULTICAST):
        while rx.gso_size != 0 and length > rx.gso_size:
            deliver_group(u, rx, ENTRY_UDP, data, rx.gso_size, h.sport, h.dport)
            data += rx.gso_size
            length -= rx.gso_size
        deliver_group(u, rx, ENTRY_UDP, data, length, h.sport, h.dport)
        return
    s = receiver(u, rx, h.sport, h.dport)
    if s != NULL:
        # a superframe (UDP_SEGMENT) is as many datagrams
        while rx.gso_size != 0 and length > rx.gso_size and not takes_whole(s):
            deliver(u, s, rx, data, rx.gso_size, h.sport, False)
            data += rx.gso_size
            length -= rx.gso_size
        deliver(u, s, rx, data, length, h.sport, True)
        return
    if u.flows.on:                                     # it was to be a flow's, and there are too many
        return
    count(u.core, UdpNoPorts)
    icmp_send_unreach(u.net, rx, ICMP_UNREACH_PORT, 0)


cdef void ping_input(Udp *u, RxPkt *rx) noexcept nogil:
    """An echo reply (net has verified it) to the ping socket with its identifier; header and data are delivered."""
    cdef UdpSock *s = best_match(u, get_be16(rx.l4 + 4), ENTRY_PING, &rx.dst, &rx.src, 0, rx.iface.index)
    if s == NULL:
        count(u.core, DropIcmpUnmatched)
        return
    deliver(u, s, rx, rx.l4, rx.l4_len, 0, True)


cdef void ping_icmp_error(Udp *u, IcmpError *e) noexcept nogil:
    """Every error about a request of its own is news to a ping socket: Linux keeps that for IP_RECVERR, which its ping
    asks for."""
    cdef UdpSock *s = NULL
    if e.l4_len >= ICMP_HLEN and e.l4[0] == (ICMP_ECHO if addr_is_v4(&e.dst) else ICMP6_ECHO):
        s = best_match(u, get_be16(e.l4 + 4), ENTRY_PING, &e.src, &e.dst, 0, 0)
    if s == NULL:
        count(u.core, DropIcmpUnmatched)
        return
    if e.error == EMSGSIZE:
        learn_path_mtu(u, s, e)
    if wants_errors(s, &e.dst):
        queue_icmp_error(u, s, e, 0)
    set_error(u, s, e.error)


cdef void udp_icmp_error(Udp *u, IcmpError *e) noexcept nogil:
    """Only a connected socket whose four-tuple the error quotes hears of it, and only of hard errors, unless it wants
    all (IP_RECVERR); "fragmentation needed" says nothing to a socket that lets its datagrams be fragmented. What the
    path carries is learnt for sockets without a peer, too (udp/pathmtu). All as Linux."""
    cdef UdpSock *s = NULL
    cdef int kind = ENTRY_UDP if e.proto == IPPROTO_UDP_ else ENTRY_UDPLITE
    if e.proto == IPPROTO_ICMP_ or e.proto == IPPROTO_ICMPV6_:
        ping_icmp_error(u, e)
        return
    if u.flows.live > 0 and kind == ENTRY_UDP:
        s = flow_find(u, &e.src, get_be16(e.l4), &e.dst, get_be16(e.l4 + 2))
    if s == NULL:
        s = best_match(u, get_be16(e.l4), kind, &e.src, &e.dst, get_be16(e.l4 + 2), 0)
    if s != NULL and e.error == EMSGSIZE:
        learn_path_mtu(u, s, e)
    if s == NULL or not (wants_errors(s, &e.dst) or (s.flags & UDP_CONNECTED and addr_eq(&s.raddr, &e.dst))):
        count(u.core, DropIcmpUnmatched)
        return
    if e.error == EMSGSIZE:
        if pmtudisc_for(s, &e.dst) == 0:
            return
    elif not (e.hard or wants_errors(s, &e.dst)):
        return
    if wants_errors(s, &e.dst):
        queue_icmp_error(u, s, e, UDP_HLEN)
    set_error(u, s, e.error)
