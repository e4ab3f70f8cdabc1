# Congestion window validation (RFC 7661): a window that is not used does not grow, as with Linux, and what was not used
# of it does not count when it is reduced.
from libc.stdint cimport uint32_t
from ustack_ext.tcp.seq cimport seq_geq
from ustack_ext.tcp.tcb cimport TF_CWND_LIMITED, Tcb


cdef enum:
    USED_MS = 1000                 # the period that pipeACK is measured in, at least (§4.2)


cdef inline void note_usage(Tcb *c, uint32_t limited, uint32_t now_ms) noexcept nogil:
    """Whether the congestion window was the limit at some time in the last round trip, and how much of it was used
    (§4.2). limited: TF_CWND_LIMITED or 0.
    """
    cdef uint32_t out = c.snd_nxt - c.snd_una
    cdef bint next_round = seq_geq(c.snd_una, c.tx.usage_seq)
    if next_round:
        if now_ms - c.tx.used_ms > max(<uint32_t>USED_MS, 3 * (c.srtt // 1000)):
            c.tx.used_ms = now_ms
            c.tx.used = 0
        c.tx.used = max(c.tx.used, c.tx.max_out)
    if limited or next_round or (not c.flags & TF_CWND_LIMITED and out > c.tx.max_out):
        c.flags = (c.flags & ~<uint32_t>TF_CWND_LIMITED) | limited
        c.tx.max_out = out
        c.tx.usage_seq = c.snd_nxt


cdef inline bint window_used(const Tcb *c) noexcept nogil:
    """Whether the window may grow (§4.3). In slow start half of it used is enough, as Linux has it: a burst of
    the application's needn't match it.
    """
    return c.flags & TF_CWND_LIMITED or (c.cwnd < c.ssthresh and c.cwnd < 2 * c.tx.max_out)


cdef inline uint32_t window_validated(const Tcb *c, uint32_t flight) noexcept nogil:
    """What congestion reduces (§4.4.1): the window; in the non-validated phase what was used of it."""
    cdef uint32_t used = max(c.tx.used, c.tx.max_out, flight)
    return c.cwnd if c.flags & TF_CWND_LIMITED or used >= c.cwnd // 2 else used
