"""Options of UDP sockets for groups, ways out, error queues and segmentation, with ip(7)'s and udp(7)'s ranges.

Responsible for: values and where they live (UdpMore). Not for: memberships (sockets/udpcalls), byte layouts
(ustack/ipoptions.py). The engine's lock is held.
"""
from libc.errno cimport EINVAL, ENODEV, ENOMEM, ENOPROTOOPT
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from ustack_ext.net.iface cimport iface_by_index
from ustack_ext.sockets.state cimport CMSG_GRO, CMSG_ORIGDST, SK_UDP
from ustack_ext.udp.member cimport udp_more
from ustack_ext.udp.state cimport UdpMore, UdpSock

cdef enum:
    PMTUDISC_MAX = 5           # IP_PMTUDISC_OMIT
    SEGMENT_MAX = 65535


cdef long long more_get(const UdpMore *m, int which) noexcept nogil:
    """What is not there yet has Linux's defaults."""
    if which == IPOPT_MULTICAST_TTL:
        return m.group_ttl if m != NULL else 1
    if which == IPOPT_MULTICAST_LOOP:
        return m.group_loop if m != NULL else 1
    if which == IPOPT_MULTICAST_ALL:
        return m.group_all if m != NULL else 1
    if m == NULL:
        return 0
    if which == IPOPT_MTU_DISCOVER:
        return m.pmtudisc
    if which == IPOPT_MULTICAST_IF:
        return m.group_if
    if which == IPOPT_BINDTODEVICE:
        return m.bound_if
    if which == IPOPT_NO_CHECK:
        return m.no_check
    return m.gso_size if which == IPOPT_SEGMENT else m.gro


cdef long long ipoption_get(Engine *e, SockState *s, int which) noexcept nogil:
    if s.kind != SK_UDP:
        return -ENOPROTOOPT
    if which == IPOPT_RECVERR:
        return (<UdpSock *>s.obj).want_err
    if which == IPOPT_RECVORIGDSTADDR:
        return (s.cmsg & CMSG_ORIGDST) != 0
    return more_get((<UdpSock *>s.obj).more, which)


cdef int more_set(Engine *e, SockState *s, UdpMore *m, int which, long long value) noexcept nogil:
    if which == IPOPT_MULTICAST_TTL:
        if not -1 <= value <= 255:
            return -EINVAL
        m.group_ttl = 1 if value == -1 else <uint8_t>value
    elif which == IPOPT_MULTICAST_LOOP:
        m.group_loop = value != 0
    elif which == IPOPT_MULTICAST_ALL:
        if not 0 <= value <= 1:
            return -EINVAL
        m.group_all = <uint8_t>value
    elif which == IPOPT_MULTICAST_IF or which == IPOPT_BINDTODEVICE:
        if value != 0 and iface_by_index(&e.net, <uint32_t>value) == NULL:
            return -ENODEV
        if which == IPOPT_MULTICAST_IF:
            m.group_if = <uint32_t>value
        else:
            m.bound_if = <uint32_t>value
    elif which == IPOPT_MTU_DISCOVER:
        if not 0 <= value <= PMTUDISC_MAX:
            return -EINVAL
        m.pmtudisc = <uint8_t>value
    elif which == IPOPT_NO_CHECK:
        m.no_check = value != 0
    elif which == IPOPT_SEGMENT:
        if not 0 <= value <= SEGMENT_MAX:
            return -EINVAL
        m.gso_size = <uint16_t>value
    else:
        m.gro = value != 0
        s.cmsg = s.cmsg | CMSG_GRO if value else s.cmsg & ~CMSG_GRO
    return 0


cdef int ipoption_set(Engine *e, SockState *s, int which, long long value) noexcept nogil:
    cdef UdpMore *m
    if s.kind != SK_UDP:
        return -ENOPROTOOPT
    if which == IPOPT_RECVERR:
        (<UdpSock *>s.obj).want_err = value != 0
        return 0
    if which == IPOPT_RECVORIGDSTADDR:
        s.cmsg = s.cmsg | CMSG_ORIGDST if value else s.cmsg & ~CMSG_ORIGDST
        return 0
    m = udp_more(<UdpSock *>s.obj)
    return more_set(e, s, m, which, value) if m != NULL else -ENOMEM
