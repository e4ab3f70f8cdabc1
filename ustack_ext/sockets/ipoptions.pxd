# Options of UDP sockets that live in UdpMore: groups, ways out, error queues, UDP_SEGMENT. Numbers follow those of Opt.
from ustack_ext.engine.engine cimport Engine
from ustack_ext.sockets.state cimport SockState

cpdef enum IpOpt:
    IPOPT_FIRST = 100
    IPOPT_RECVERR
    IPOPT_MTU_DISCOVER
    IPOPT_RECVORIGDSTADDR
    IPOPT_MULTICAST_IF         # an interface's index
    IPOPT_MULTICAST_TTL
    IPOPT_MULTICAST_LOOP
    IPOPT_MULTICAST_ALL
    IPOPT_BINDTODEVICE         # an interface's index
    IPOPT_NO_CHECK
    IPOPT_SEGMENT
    IPOPT_GRO

cdef long long ipoption_get(Engine *e, SockState *s, int which) noexcept nogil
cdef int ipoption_set(Engine *e, SockState *s, int which, long long value) noexcept nogil
