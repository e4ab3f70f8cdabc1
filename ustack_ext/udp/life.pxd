# Datagram sockets come and go.
from ustack_ext.udp.state cimport Udp, UdpSock
from ustack_ext.wire.addr cimport Addr

# kind: ENTRY_UDP, ENTRY_UDPLITE or ENTRY_PING. NULL: no memory
cdef UdpSock *udp_open(Udp *u, int kind) noexcept nogil
# A UdpFamily; IPv4 unless said. Before it is bound.
cdef void udp_set_family(UdpSock *s, int family) noexcept nogil
cdef void udp_close(Udp *u, UdpSock *s) noexcept nogil                                         # frees it
cdef Addr udp_wildcard(const UdpSock *s) noexcept nogil                                        # bound to no address
