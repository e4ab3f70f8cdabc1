"""Options of UDP sockets for groups, ways out, error queues and segmentation, with ip(7)'s, ipv6(7)'s and udp(7)'s
ranges.

Responsible for: values and where they live (UdpMore). Not for: memberships (sockets/udpcalls), byte layouts
(ustack/ipoptions.py). The engine's lock is held.
"""
from libc.errno cimport EINVAL, ENODEV, ENOMEM, ENOPROTOOPT, ENOTCONN
from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t
from ustack_ext.base.entry cimport ENTRY_UDPLITE
from ustack_ext.net.iface cimport iface_by_index
from ustack_ext.net.net cimport net_resolve
from ustack_ext.net.state cimport IP6MTU_MIN
from ustack_ext.sockets.state cimport CMSG_GRO, CMSG_ORIGDST, CMSG_PKTINFO, CMSG_TOS, CMSG_TTL, SK_UDP
from ustack_ext.udp.member cimport udp_more
from ustack_ext.udp.state cimport UDP_CONNECTED, FamilyWay, UdpMore
from ustack_ext.wire.addr cimport addr_is_v4

cdef enum:
    PMTUDISC_MAX = 5           # IP_PMTUDISC_OMIT
    SEGMENT_MAX = 65535
    HOPS_MAX = 255
    COVER_MIN = 8              # the header; udplite(7)
    COVER_MAX = 65535


cdef inline bint is_six(int which) noexcept nogil:
    """Of a pair of options, IPv6's."""
    return (which - IPOPT_RECVERR) % 2 == 1


cdef uint8_t cmsg_bit(int which) noexcept nogil:
    """CMSG_* of an option that asks for ancillary data; 0: it is none."""
    if which == IPOPT_RECVORIGDSTADDR or which == IPOPT_RECVORIGDSTADDR6:
        return CMSG_ORIGDST
    if which == IPOPT_RECVPKTINFO6:
        return CMSG_PKTINFO
    if which == IPOPT_RECVHOPLIMIT6:
        return CMSG_TTL
    return CMSG_TOS if which == IPOPT_RECVTCLASS6 else 0


cdef long long way_get(const UdpMore *m, int which) noexcept nogil:
    """What is not there yet has Linux's defaults, IP_MTU_DISCOVER (udp/state) excepted."""
    cdef bint six = is_six(which)
    cdef const FamilyWay *way
    if m == NULL:
        if IPOPT_MULTICAST_TTL <= which <= IPOPT_MULTICAST_ALL6:
            return 1
        return six if which == IPOPT_MTU_DISCOVER6 else 0
    way = &m.ways[six]
    if which <= IPOPT_MTU_DISCOVER6:
        return way.pmtudisc
    if which <= IPOPT_MULTICAST_IF6:
        return way.group_if
    if which <= IPOPT_MULTICAST_HOPS6:
        return way.group_ttl
    return way.group_loop if which <= IPOPT_MULTICAST_LOOP6 else way.group_all


cdef long long more_get(const UdpMore *m, int which) noexcept nogil:
    if m == NULL:
        return 0
    if which == IPOPT_DONTFRAG6:
        return m.dont_frag
    if which == IPOPT_RECVPATHMTU6:
        return m.wants_path
    if which == IPOPT_BINDTODEVICE:
        return m.bound_if
    if which == IPOPT_NO_CHECK:
        return m.no_check
    if which == IPOPT_SEND_CSCOV:
        return m.send_cover
    if which == IPOPT_RECV_CSCOV:
        return m.recv_cover
    return m.gso_size if which == IPOPT_SEGMENT else m.gro


cdef long long path_mtu(Engine *e, UdpSock *u) noexcept nogil:
    if not u.flags & UDP_CONNECTED or net_resolve(&e.net, &u.dst, &u.laddr, &u.raddr) != 0:
        return -ENOTCONN
    return u.dst.mtu


cdef long long hops_now(Engine *e, const UdpSock *u) noexcept nogil:
    """The socket's, else its way's interface's, else that of interfaces to come."""
    if u.hops >= 0:
        return u.hops
    if u.dst.iface != NULL and not addr_is_v4(&u.raddr):
        return u.dst.iface.six.conf.hop_limit
    return e.net.knobs.conf6.hop_limit


cdef long long ipoption_get(Engine *e, SockState *s, int which) noexcept nogil:
    cdef UdpSock *u = <UdpSock *>s.obj
    if s.kind != SK_UDP:
        return -ENOPROTOOPT
    if which == IPOPT_RECVERR or which == IPOPT_RECVERR6:
        return u.want_err >> is_six(which) & 1
    if which == IPOPT_RECVORIGDSTADDR:
        return (s.cmsg & CMSG_ORIGDST) != 0
    if cmsg_bit(which) != 0:
        return u.more != NULL and u.more.wants6 & cmsg_bit(which) != 0
    if which == IPOPT_MTU6:
        return path_mtu(e, u)
    if which == IPOPT_UNICAST_HOPS6:
        return hops_now(e, u)
    return way_get(u.more, which) if which <= IPOPT_MULTICAST_ALL6 else more_get(u.more, which)


cdef int index_set(Engine *e, uint32_t *at, long long value) noexcept nogil:
    if value != 0 and (value < 0 or iface_by_index(&e.net, <uint32_t>value) == NULL):
        return -ENODEV
    at[0] = <uint32_t>value
    return 0


cdef int way_set(Engine *e, UdpMore *m, int which, long long value) noexcept nogil:
    cdef bint six = is_six(which)
    cdef FamilyWay *way = &m.ways[six]
    if which <= IPOPT_MTU_DISCOVER6:
        if not 0 <= value <= PMTUDISC_MAX:
            return -EINVAL
        way.pmtudisc = <uint8_t>value
    elif which <= IPOPT_MULTICAST_IF6:
        if six and value != 0 and m.bound_if != 0 and m.bound_if != value:
            return -EINVAL
        return index_set(e, &way.group_if, value)
    elif which <= IPOPT_MULTICAST_HOPS6:
        if not -1 <= value <= 255:
            return -EINVAL
        way.group_ttl = 1 if value == -1 else <uint8_t>value
    elif which <= IPOPT_MULTICAST_LOOP6:
        if six and not 0 <= value <= 1:
            return -EINVAL
        way.group_loop = value != 0
    else:
        if not six and not 0 <= value <= 1:
            return -EINVAL
        way.group_all = value != 0
    return 0


cdef uint16_t coverage(long long value) noexcept nogil:
    """As Linux: what is between 0 and the header means the header."""
    return 0 if value == 0 else <uint16_t>min(max(value, <long long>COVER_MIN), <long long>COVER_MAX)


cdef int more_set(Engine *e, SockState *s, UdpMore *m, int which, long long value) noexcept nogil:
    if which == IPOPT_BINDTODEVICE:
        return index_set(e, &m.bound_if, value)
    if which == IPOPT_DONTFRAG6:
        m.dont_frag = value != 0
    elif which == IPOPT_RECVPATHMTU6:
        m.wants_path = value != 0
        if not m.wants_path:
            m.path_mtu = 0
    elif which == IPOPT_MTU6:
        if value != 0 and value < IP6MTU_MIN:
            return -EINVAL
        m.frag_size = <uint32_t>value
    elif which == IPOPT_NO_CHECK:
        m.no_check = value != 0
    elif which == IPOPT_SEGMENT:
        if not 0 <= value <= SEGMENT_MAX:
            return -EINVAL
        m.gso_size = <uint16_t>value
    elif which == IPOPT_SEND_CSCOV:
        m.send_cover = coverage(value)
        m.send_covers = 1
    elif which == IPOPT_RECV_CSCOV:
        m.recv_cover = coverage(value)
        m.recv_covers = 1
    else:
        m.gro = value != 0
        s.cmsg = s.cmsg | CMSG_GRO if value else s.cmsg & ~CMSG_GRO
    return 0


cdef int ipoption_set(Engine *e, SockState *s, int which, long long value) noexcept nogil:
    cdef UdpSock *u = <UdpSock *>s.obj
    cdef uint8_t bit
    if s.kind != SK_UDP or (which >= IPOPT_SEND_CSCOV and u.entry.kind != ENTRY_UDPLITE):
        return -ENOPROTOOPT
    if which == IPOPT_RECVERR or which == IPOPT_RECVERR6:
        bit = 1 << is_six(which)
        u.want_err = u.want_err | bit if value else u.want_err & ~bit
        return 0
    bit = cmsg_bit(which)
    if which == IPOPT_RECVORIGDSTADDR:
        s.cmsg = s.cmsg | bit if value else s.cmsg & ~bit
        return 0
    if which == IPOPT_UNICAST_HOPS6:
        if not -1 <= value <= HOPS_MAX:
            return -EINVAL
        u.hops = <int16_t>value
        return 0
    if udp_more(u) == NULL:
        return -ENOMEM
    if bit != 0:
        u.more.wants6 = u.more.wants6 | bit if value else u.more.wants6 & ~bit
        return 0
    return way_set(e, u.more, which, value) if which <= IPOPT_MULTICAST_ALL6 else more_set(e, s, u.more, which, value)
