# UDP-Lite (RFC 3828): datagrams whose checksum may cover a part.
from libc.stdint cimport uint16_t, uint32_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport RxPkt, TxPkt
from ustack_ext.udp.state cimport Udp, UdpSock

cdef void lite_input(Udp *u, RxPkt *rx) noexcept nogil            # sends port unreachable itself
# The header in front of t's payload.
cdef void lite_push_header(const UdpSock *s, const Addr *src, const Addr *dst, uint16_t port, TxPkt *t) noexcept nogil
# Bytes of a datagram, header included, that the socket's checksum covers; 0: all.
cdef uint16_t lite_cover(const UdpSock *s, uint32_t whole) noexcept nogil
