# Round-trip time and the retransmission time-out (RFC 6298, RFC 7323 §4).
from libc.stdint cimport uint32_t, uint64_t
from ustack_ext.tcp.tcb cimport Tcb, Tcp

cdef void rtt_init(Tcp *t, Tcb *c) noexcept nogil
cdef void rtt_sample(Tcp *t, Tcb *c, uint32_t us) noexcept nogil

cdef uint32_t rtt_rto_us(const Tcp *t, const Tcb *c) noexcept nogil                # without back-off
# The time-out in force, back-off included, in ns.
cdef uint64_t rtt_rto_ns(Tcp *t, Tcb *c) noexcept nogil
