# Errors with all that is known of them, for IP_RECVERR and MSG_ERRQUEUE.
from libc.stdint cimport uint16_t, uint32_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.base.iov cimport IoVec
from ustack_ext.net.state cimport IcmpError
from ustack_ext.udp.state cimport Udp, UdpError, UdpSock

cdef void queue_icmp_error(Udp *u, UdpSock *s, const IcmpError *e, uint32_t header) noexcept nogil
cdef void queue_too_big(Udp *u, UdpSock *s, const Addr *dst, uint16_t port, uint32_t mtu) noexcept nogil
# The first, its quoted payload into iov. Bytes copied, or -EAGAIN.
cdef long udp_take_error(Udp *u, UdpSock *s, const IoVec *iov, int niov, UdpError *what, uint32_t *full) noexcept nogil
