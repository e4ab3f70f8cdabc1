# One datagram out.
from libc.stdint cimport uint16_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.base.iov cimport IoVec
from ustack_ext.udp.state cimport Udp, UdpSock

cdef int check_destination(Udp *u, const UdpSock *s, const Addr *a) noexcept nogil
cdef long send_datagram(Udp *u, UdpSock *s, const IoVec *iov, int niov, const Addr *to, uint16_t port) noexcept nogil
