# When to acknowledge (RFC 9293 §3.8.6.3, RFC 5681 §4.2), and the rate limits of ACKs that an attacker could provoke
# (RFC 5961 §7).
from libc.stdint cimport uint32_t
from ustack_ext.tcp.tcb cimport Tcb, Tcp

# Data arrived in order, in segments of that size.
cdef void ack_data(Tcp *t, Tcb *c, uint32_t segment, bint pushed) noexcept nogil
cdef void challenge_ack(Tcp *t, Tcb *c) noexcept nogil                   # RFC 5961: limited a connection and a stack
cdef void out_of_window_ack(Tcp *t, Tcb *c, bint has_data) noexcept nogil
