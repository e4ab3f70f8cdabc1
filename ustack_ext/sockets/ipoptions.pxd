# Options of UDP sockets that live in UdpMore: groups, ways out, error queues, UDP_SEGMENT. Numbers follow those of Opt.
from ustack_ext.engine.engine cimport Engine
from ustack_ext.sockets.state cimport SockState
from ustack_ext.udp.state cimport UdpSock

cpdef enum IpOpt:
    IPOPT_FIRST = 100
    # of both families, IPv6's with a 6
    IPOPT_RECVERR
    IPOPT_RECVERR6
    IPOPT_MTU_DISCOVER
    IPOPT_MTU_DISCOVER6
    IPOPT_MULTICAST_IF         # an interface's index
    IPOPT_MULTICAST_IF6
    IPOPT_MULTICAST_TTL
    IPOPT_MULTICAST_HOPS6
    IPOPT_MULTICAST_LOOP
    IPOPT_MULTICAST_LOOP6
    IPOPT_MULTICAST_ALL
    IPOPT_MULTICAST_ALL6
    IPOPT_RECVORIGDSTADDR
    IPOPT_RECVORIGDSTADDR6
    # of IPv6: what is received with a datagram
    IPOPT_RECVPKTINFO6
    IPOPT_RECVHOPLIMIT6
    IPOPT_RECVTCLASS6
    IPOPT_DONTFRAG6
    IPOPT_MTU6                 # to be set; what is read is the path's
    IPOPT_UNICAST_HOPS6        # -1: the interface's
    IPOPT_RECVPATHMTU6
    IPOPT_BINDTODEVICE         # an interface's index
    IPOPT_NO_CHECK
    IPOPT_SEGMENT
    IPOPT_GRO
    IPOPT_SEND_CSCOV           # UDP-Lite
    IPOPT_RECV_CSCOV

# What the path to the peer carries, or -ENOTCONN.
cdef long long path_mtu(Engine *e, UdpSock *u) noexcept nogil
cdef long long ipoption_get(Engine *e, SockState *s, int which) noexcept nogil
cdef int ipoption_set(Engine *e, SockState *s, int which, long long value) noexcept nogil
