# Path MTU discovery (RFC 1191, 8201, 5927) and packetization layer path MTU discovery (RFC 4821, 8899).
from libc.stdint cimport uint32_t
from ustack_ext.tcp.tcb cimport Tcb, Tcp

# An ICMP error, proved to be about a segment in flight, says that the path carries `mtu` bytes of IP (0: not told).
cdef void path_too_big(Tcp *t, Tcb *c, uint32_t mtu) noexcept nogil
# Time-outs in a row: what is sent may be too large for a path whose routers say nothing.
cdef void path_black_hole(Tcp *t, Tcb *c) noexcept nogil
# Before output, with tcp_mtu_probing: what became of the last probe, and a new one if it is time.
cdef void path_probe(Tcp *t, Tcb *c) noexcept nogil
