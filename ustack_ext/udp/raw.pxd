# Raw IP sockets: which packets they get, and what becomes of what they send.
from libc.stdint cimport uint8_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport Dst, IcmpError, TxPkt
from ustack_ext.udp.state cimport Udp, UdpSock

# Makes a new socket, whose family was said, one for an IP protocol. 0 or -ENOMEM.
cdef int raw_attach(Udp *u, UdpSock *s, uint8_t proto) noexcept nogil
cdef void raw_detach(Udp *u, UdpSock *s) noexcept nogil
cdef void raw_icmp_error(Udp *u, IcmpError *e) noexcept nogil
# The packet whose payload, or all of it (IP_HDRINCL), is t's. d may be stale. 0 or -errno.
cdef int raw_send(Udp *u, UdpSock *s, Dst *d, const Addr *src, const Addr *dst, bint df, TxPkt *t) noexcept nogil
