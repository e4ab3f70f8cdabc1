# Which of our IPv6 addresses a packet should come from (RFC 6724 §5).
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport Iface, Net

# To dst, which is neither ours nor a loopback address, through `out`. 0 or -EADDRNOTAVAIL.
cdef int source6(Net *n, const Iface *out, const Addr *dst, Addr *source) noexcept nogil
