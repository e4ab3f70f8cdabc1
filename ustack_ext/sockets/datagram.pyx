"""UDP, ping, raw and packet sockets: what one attempt of each socket call does, with Linux's results.

Responsible for: which call is allowed in which state of a socket, and a datagram's own TTL and TOS (sendmsg(2)'s
ancillary data). Not for: waiting (sockets/core), UDP itself (udp/).
"""
from libc.errno cimport EINVAL, ENETUNREACH, ENOMEM, ENOTCONN, EOPNOTSUPP
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memset
from ustack_ext.base.entry cimport ENTRY_PACKET, ENTRY_PING, ENTRY_UDP, ENTRY_UDPLITE
from ustack_ext.base.event cimport EV_CLOSED
from ustack_ext.engine.engine cimport Engine
from ustack_ext.sockets.msg cimport MSG_OOB, MSG_PEEK
from ustack_ext.sockets.state cimport (
    CMSG_PATHMTU, OP_CONNECT, OP_GROW, OP_RECV, OP_SEND, SHAPE_CODE, SHAPE_COOKED, SHAPE_LITE, SHAPE_PACKET,
    SHAPE_RAW, SHAPE_V6, SK_NONE, SK_UDP, SOCK_V6ONLY, Op, SockState, sock_wildcard,
)
from ustack_ext.sockets.wait cimport waiters_fire
from ustack_ext.udp.packet cimport packet_attach, packet_send
from ustack_ext.udp.pathmtu cimport forget_path_mtu, path_mtu_waits
from ustack_ext.udp.raw cimport raw_attach
from ustack_ext.udp.udp cimport (
    UDP_BOTH, UDP_BOUND, UDP_CONNECTED, UDP_IPV4, UDP_IPV6, UdpSock, udp_bind, udp_close,
    udp_connect, udp_open, udp_recv, udp_send, udp_set_family, udp_shutdown,
)
from ustack_ext.wire.addr cimport Addr, addr_any_holds, addr_has_zone, addr_is_any, addr_scope, addr_zone
from ustack_ext.wire.headers cimport IPPROTO_ICMP_
from ustack_ext.wire.ip6 cimport IPPROTO_ICMPV6_

cdef enum:
    LINK_SCOPE = 2                 # RFC 4291 §2.7


cdef int datagram_open(Engine *e, SockState *s, int proto) noexcept nogil:
    cdef int code = s.shape & SHAPE_CODE
    cdef bint ping = code == IPPROTO_ICMP_ or code == IPPROTO_ICMPV6_
    cdef UdpSock *u = udp_open(&e.udp, ENTRY_PING if ping else ENTRY_UDPLITE if code == SHAPE_LITE else ENTRY_UDP)
    cdef int rc = 0
    if u == NULL:
        return -ENOMEM
    u.source.user = s
    udp_set_family(u, UDP_IPV4 if not s.shape & SHAPE_V6 else UDP_IPV6 if ping or code == SHAPE_RAW else UDP_BOTH)
    if code == SHAPE_RAW:
        s.connect = <uint8_t>proto
        if s.shape & SHAPE_V6:
            s.cmsg |= SOCK_V6ONLY
        rc = raw_attach(&e.udp, u, <uint8_t>proto)
    elif code == SHAPE_PACKET or code == SHAPE_COOKED:
        rc = packet_attach(&e.udp, u, <uint16_t>proto, code == SHAPE_COOKED)
    if rc != 0:
        udp_close(&e.udp, u)
        return rc
    s.obj = u
    s.kind = SK_UDP
    return 0


cdef long recv_path_mtu(UdpSock *u, Op *op) noexcept nogil:
    """IPV6_PATHMTU comes by itself, before any datagram (RFC 3542 §11.3): no bytes, "from" the path's destination."""
    op.wants = CMSG_PATHMTU << 8
    op.meta.src = u.more.path_to
    op.meta.dst = u.more.path_to
    op.meta.gro_size = <uint16_t>u.more.path_mtu
    if addr_has_zone(&u.more.path_to):
        op.meta.ifindex = <uint16_t>addr_zone(&u.more.path_to)
    if not op.flags & MSG_PEEK:
        forget_path_mtu(u)
    return 0


cdef long recv(Engine *e, SockState *s, UdpSock *u, Op *op) noexcept nogil:
    if op.flags & MSG_OOB:
        return -EOPNOTSUPP
    if u.error == 0 and path_mtu_waits(u):
        return recv_path_mtu(u, op)
    if op.grow and u.error == 0 and u.queue.head != NULL and u.queue.head.len > op.room:
        op.full = u.queue.head.len
        return OP_GROW
    op.wants = s.cmsg | (<uint16_t>u.more.wants6 << 8 if u.more != NULL else 0)
    return udp_recv(&e.udp, u, op.iov, op.niov, (op.flags & MSG_PEEK) != 0, &op.meta, &op.full)


cdef long send(Engine *e, UdpSock *u, Op *op) noexcept nogil:
    cdef uint8_t tos = u.tos
    cdef long n
    if op.flags & MSG_OOB:
        return -EOPNOTSUPP
    if op.has_to and op.port == 0 and (u.entry.kind == ENTRY_UDP or u.entry.kind == ENTRY_UDPLITE):
        return -EINVAL
    e.udp.via.has_ttl = op.has_ttl
    e.udp.via.ttl = op.ttl
    e.udp.via.src = op.source
    e.udp.via.ifindex = op.ifindex
    e.udp.via.gso_size = op.gso_size
    e.udp.via.dont_frag = op.dont_frag
    if op.has_tos:
        u.tos = op.tos
    n = udp_send(&e.udp, u, op.iov, op.niov, &op.to if op.has_to else NULL, op.port, op.flags)
    memset(&e.udp.via, 0, sizeof(e.udp.via))
    u.tos = tos
    return n


cdef long packet_attempt(Engine *e, SockState *s, UdpSock *u, Op *op) noexcept nogil:
    if op.kind == OP_RECV:
        return recv(e, s, u, op)
    if op.kind != OP_SEND or op.flags & MSG_OOB:
        return -EOPNOTSUPP
    return packet_send(&e.udp, u, op.iov, op.niov, op.ifindex, op.port, op.to.lo, <uint32_t>op.to.hi)


cdef long datagram_attempt(Engine *e, SockState *s, Op *op) noexcept nogil:
    cdef UdpSock *u = <UdpSock *>s.obj
    cdef Addr wild = sock_wildcard(s)
    if u.entry.kind == ENTRY_PACKET:
        return packet_attempt(e, s, u, op)
    if op.has_to and not addr_any_holds(&wild, &op.to):
        return -ENETUNREACH
    if op.kind == OP_RECV:
        return recv(e, s, u, op)
    if op.kind == OP_SEND:
        return send(e, u, op)
    if op.kind == OP_CONNECT:
        return udp_connect(&e.udp, u, &op.to if op.has_to else NULL, op.port)
    return -EOPNOTSUPP


cdef int datagram_bind(Engine *e, SockState *s, const Addr *a, uint16_t port) noexcept nogil:
    cdef UdpSock *u = <UdpSock *>s.obj
    cdef Addr wild = sock_wildcard(s)
    if u.flags & UDP_BOUND and u.raw == NULL:
        return -EINVAL
    if addr_scope(a) == LINK_SCOPE and addr_has_zone(a) and addr_zone(a) == 0:     # on which link?
        return -EINVAL
    if addr_is_any(a):
        a = &wild
    elif not addr_any_holds(&wild, a):
        return -EINVAL
    return udp_bind(&e.udp, u, a, port)


cdef int datagram_shutdown(Engine *e, SockState *s, int how) noexcept nogil:
    if (<UdpSock *>s.obj).entry.kind == ENTRY_PACKET:
        return -EOPNOTSUPP
    return udp_shutdown(&e.udp, <UdpSock *>s.obj, how)


cdef void datagram_release(Engine *e, SockState *s) noexcept nogil:
    if s.kind == SK_UDP:
        udp_close(&e.udp, <UdpSock *>s.obj)
    s.obj = NULL
    s.kind = SK_NONE
    waiters_fire(s, EV_CLOSED)


cdef int datagram_names(SockState *s, Addr *laddr, uint16_t *lport, Addr *raddr, uint16_t *rport) noexcept nogil:
    cdef UdpSock *u = <UdpSock *>s.obj
    laddr[0] = u.laddr
    lport[0] = u.lport
    raddr[0] = u.raddr
    rport[0] = u.rport
    return 0 if u.flags & UDP_CONNECTED else -ENOTCONN
