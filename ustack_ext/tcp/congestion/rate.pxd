# Delivery-rate samples (draft-cheng-iccrg-delivery-rate-estimation) and the pacer.
from libc.stdint cimport uint32_t, uint64_t
from ustack_ext.tcp.tcb cimport Seg, Tcb, Tcp, tcb_burst

# A record leaves; before it is counted as in flight.
cdef void rate_sent(Tcp *t, Tcb *c, Seg *s) noexcept nogil
# ... was acknowledged or SACKed for the first time, as far as `end`
cdef void rate_delivered(Tcp *t, Tcb *c, const Seg *s, uint32_t end) noexcept nogil
# An ACK is through, which newly delivered so many bytes: c.tx.rate.sample is its sample.
cdef void rate_make(Tcp *t, Tcb *c, uint32_t delivered) noexcept nogil
# There is nothing to send though the window has room: what is delivered from here on is the application's rate.
cdef void rate_app_limited(Tcb *c) noexcept nogil

cdef bint paced_holds(const Tcp *t, Tcb *c) noexcept nogil
cdef void paced_sent(const Tcp *t, Tcb *c, uint32_t n) noexcept nogil
# Bytes of one transmission at the pacer's rate.
cdef uint32_t pace_burst(const Tcb *c, uint32_t most) noexcept nogil
cdef uint32_t burst_of_window(const Tcb *c, uint32_t burst) noexcept nogil

cdef enum:
    SHORT_RTT = 1000               # us


cdef inline bint is_paced(const Tcb *c) noexcept nogil:
    return c.tx.cc != NULL and c.tx.cc.pacing_rate != 0


cdef inline bint pace_holds(const Tcp *t, Tcb *c) noexcept nogil:
    """Whether the pacer holds transmissions back now; if so it has set c.tx.pace_at."""
    return is_paced(c) and paced_holds(t, c)


cdef inline void pace_sent(const Tcp *t, Tcb *c, uint32_t n) noexcept nogil:
    """n bytes left."""
    if is_paced(c):
        paced_sent(t, c, n)


cdef inline uint32_t burst_now(const Tcb *c) noexcept nogil:
    """Bytes of one transmission: what leaves in about a millisecond at the present rate, two segments at least.

    As Linux sizes its own (tcp_tso_autosize): on a slow path a record of what was sent stays small, so that its round
    trip and its loss are those of a moment.
    """
    cdef uint32_t burst = tcb_burst(c)
    if is_paced(c):
        return pace_burst(c, burst)
    return burst if c.srtt <= SHORT_RTT else burst_of_window(c, burst)         # a millisecond holds more than a window
