# Which socket a datagram or an ICMP error belongs to, and who may have which port.
from libc.stdint cimport uint16_t, uint32_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.udp.state cimport Udp, UdpSock

# kind: ENTRY_UDP, ENTRY_UDPLITE or ENTRY_PING, each with ports (identifiers) of its own.
cdef UdpSock *first_on_port(Udp *u, uint16_t port, int kind) noexcept nogil
cdef UdpSock *next_on_port(UdpSock *s) noexcept nogil
# 0: no match; else the higher the better. ifindex: of the interface it came by, 0 for what did not come by one.
cdef int match_score(const UdpSock *s, const Addr *laddr, const Addr *raddr, uint16_t rport,
                     uint32_t ifindex) noexcept nogil
cdef UdpSock *best_match(Udp *u, uint16_t port, int kind, const Addr *laddr, const Addr *raddr,
                         uint16_t rport, uint32_t ifindex) noexcept nogil
# Enters the socket under port (0: a random free one). 0 or -EADDRINUSE.
cdef int claim_port(Udp *u, UdpSock *s, const Addr *a, uint16_t port) noexcept nogil
