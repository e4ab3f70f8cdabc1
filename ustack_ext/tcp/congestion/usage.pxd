# Congestion window validation (RFC 7661), as Linux does it: a window that is not used does not grow.
from libc.stdint cimport uint32_t
from ustack_ext.tcp.seq cimport seq_geq
from ustack_ext.tcp.tcb cimport TF_CWND_LIMITED, Tcb


cdef inline void note_usage(Tcb *c, uint32_t limited) noexcept nogil:
    """Whether the congestion window was the limit at some time in the last round trip, and how much of it was used
    (§4.2). limited: TF_CWND_LIMITED or 0.
    """
    cdef uint32_t out = c.snd_nxt - c.snd_una
    if (limited or seq_geq(c.snd_una, c.tx.usage_seq)
            or (not c.flags & TF_CWND_LIMITED and out > c.tx.max_out)):
        c.flags = (c.flags & ~<uint32_t>TF_CWND_LIMITED) | limited
        c.tx.max_out = out
        c.tx.usage_seq = c.snd_nxt


cdef inline bint window_used(const Tcb *c) noexcept nogil:
    """Whether the window may grow (§4.3). In slow start half of it used is enough, as Linux has it: a burst of
    the application's needn't match it.
    """
    return c.flags & TF_CWND_LIMITED or (c.cwnd < c.ssthresh and c.cwnd < 2 * c.tx.max_out)
