# IPv6 in: header, extension headers, fragments; what remains is the transport's.
from libc.stdint cimport uint8_t, uint32_t
from ustack_ext.base.buf cimport Buf
from ustack_ext.net.state cimport IcmpError, Net, RxPkt

# The packet of `length` captured bytes at p. rx.buf, iface, flags and gso_size are filled in. A NetVerdict.
cdef int ip6_input(Net *n, RxPkt *rx, uint8_t *p, uint32_t length, IcmpError *err, Buf **owned) noexcept nogil
