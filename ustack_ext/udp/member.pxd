# What few UDP sockets have: memberships of groups and their filters, options of multicast.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport Iface, RxPkt
from ustack_ext.udp.state cimport Member, Udp, UdpMore, UdpSock

cdef enum MemberAction:
    MEMBER_JOIN                # IP_ADD_MEMBERSHIP, IPV6_JOIN_GROUP, MCAST_JOIN_GROUP
    MEMBER_LEAVE
    MEMBER_BLOCK               # IP_BLOCK_SOURCE
    MEMBER_UNBLOCK
    MEMBER_JOIN_SOURCE         # IP_ADD_SOURCE_MEMBERSHIP
    MEMBER_LEAVE_SOURCE

# Makes it, with Linux's defaults. NULL: no memory.
cdef UdpMore *udp_more(UdpSock *s) noexcept nogil
cdef void more_free(Udp *u, UdpSock *s) noexcept nogil
# ifindex 0: by the route to the group. 0, -EINVAL, -ENODEV, -EADDRINUSE (joined already), -EADDRNOTAVAIL, -ENOBUFS
# (igmp_max_memberships, igmp_max_msf, mld_max_msf), -ENOMEM
cdef int udp_member(Udp *u, UdpSock *s, int action, const Addr *group, uint32_t ifindex,
                    const Addr *source) noexcept nogil
# The socket's membership of a group, ifindex 0: on any interface; NULL: none.
cdef Member *udp_membership(UdpSock *s, const Addr *group, uint32_t ifindex) noexcept nogil
# The whole filter at once (IP_MSFILTER, MCAST_MSFILTER).
cdef int udp_filter(Udp *u, UdpSock *s, const Addr *group, uint32_t ifindex, bint exclude, const Addr *sources,
                    int count) noexcept nogil
# Whether the socket's filters let what came to a group through.
cdef bint wants(const UdpSock *s, const RxPkt *rx) noexcept nogil
# A broadcast's or a group's datagram to every socket of the kind (ENTRY_UDP, ENTRY_UDPLITE) that matches and wants it.
cdef void deliver_group(Udp *u, RxPkt *rx, int kind, uint8_t *data, uint32_t length, uint16_t sport,
                        uint16_t dport) noexcept nogil
