# Delivery-rate samples (draft-cheng-iccrg-delivery-rate-estimation) and the pacer.
from libc.stdint cimport uint32_t, uint64_t
from ustack_ext.tcp.tcb cimport Seg, Tcb, Tcp

# A record leaves; before it is counted as in flight.
cdef void rate_sent(Tcp *t, Tcb *c, Seg *s) noexcept nogil
# ... was acknowledged or SACKed for the first time, as far as `end`
cdef void rate_delivered(Tcp *t, Tcb *c, const Seg *s, uint32_t end) noexcept nogil
# An ACK is through, which newly delivered so many bytes: c.tx.rate.sample is its sample.
cdef void rate_make(Tcp *t, Tcb *c, uint32_t delivered) noexcept nogil
# There is nothing to send though the window has room: what is delivered from here on is the application's rate.
cdef void rate_app_limited(Tcb *c) noexcept nogil

# Whether the pacer holds transmissions back now; if so it has set c.tx.pace_at.
cdef bint pace_holds(const Tcp *t, Tcb *c) noexcept nogil
cdef void pace_sent(const Tcp *t, Tcb *c, uint32_t n) noexcept nogil       # n bytes left
# Bytes of one transmission at the pacer's rate.
cdef uint32_t pace_burst(const Tcb *c, uint32_t most) noexcept nogil
# ... at the pacer's, or without one at what the window gives.
cdef uint32_t burst_now(const Tcb *c) noexcept nogil
