"""Evidence that what was sent again had not been lost (RFC 4015's first half; the second, what follows, is recovery's).

D-SACK (RFC 2883, RFC 3708): the receiver reports each duplicate; when as many bytes were reported as were sent again,
all of it was superfluous. Eifel (RFC 3522): an ACK that echoes a time stamp older than the first retransmission answers
the original. Both hold from one reduction of the window to the next, and D-SACK's often comes after the recovery.
F-RTO (RFC 5682) needs no option; it is in recovery, because it is a matter of what is sent.
"""
from libc.stdint cimport int32_t, uint32_t

from ustack_ext.tcp.options cimport OPT_TS
from ustack_ext.tcp.seq cimport seq_geq, seq_gt, seq_lt
from ustack_ext.tcp.tcb cimport TF_TS_OK


cdef void undo_begin(Tcb *c) noexcept nogil:
    c.tx.undo_marker = c.snd_una
    c.tx.undo_retrans = 0
    c.tx.retrans_ts = 0


cdef void undo_resent(Tcp *t, Tcb *c, uint32_t n) noexcept nogil:
    cdef uint32_t ms = <uint32_t>(t.core.now // 1000000) + c.ts_offset
    c.tx.undo_retrans += n
    if c.tx.retrans_ts == 0:
        c.tx.retrans_ts = ms if ms != 0 else 1


cdef bint undo_dsack(Tcb *c, uint32_t left, uint32_t right) noexcept nogil:
    if (c.tx.prior_cwnd == 0 or c.tx.undo_retrans == 0 or seq_geq(left, right) or seq_lt(left, c.tx.undo_marker)
            or seq_gt(right, c.snd_nxt)):
        return False
    c.tx.undo_retrans -= min(c.tx.undo_retrans, right - left)
    return True


cdef bint undo_by_dsack(const Tcb *c) noexcept nogil:
    return c.tx.prior_cwnd != 0 and c.tx.retrans_ts != 0 and c.tx.undo_retrans == 0


cdef bint undo_by_time(const Tcb *c, const Options *o) noexcept nogil:
    return (c.tx.prior_cwnd != 0 and c.tx.retrans_ts != 0 and c.flags & TF_TS_OK != 0 and o.have & OPT_TS != 0
            and o.tsecr != 0 and <int32_t>(o.tsecr - c.tx.retrans_ts) < 0)
