"""The registry of congestion control algorithms, and what TCP says to a connection's own."""
from libc.stdint cimport uint32_t

from ustack_ext.tcp.congestion.ops cimport CC_COUNT, CC_LOSS, CC_RENO, CC_UNDONE, Acked, CcEvent, CcOps
from ustack_ext.tcp.congestion.reno cimport reno_ops

cdef const CcOps *TABLE[<int>CC_COUNT]
TABLE[<int>CC_RENO] = reno_ops()


cdef const CcOps *cc_ops(const Tcb *c) noexcept nogil:
    return TABLE[c.conf.cc]


cdef const char *cc_name(int which) noexcept nogil:
    return TABLE[which].name if 0 <= which < <int>CC_COUNT else NULL


cdef void cc_on_ack(Tcp *t, Tcb *c, const Acked *a) noexcept nogil:
    TABLE[c.conf.cc].on_ack(t, c, a)


cdef void cc_event(Tcp *t, Tcb *c, CcEvent what) noexcept nogil:
    cdef const CcOps *ops = TABLE[c.conf.cc]
    if ops.event != NULL:
        ops.event(t, c, what)


cdef void cc_reduce(Tcp *t, Tcb *c, uint32_t flight) noexcept nogil:
    c.tx.prior_cwnd = c.cwnd
    c.tx.prior_ssthresh = c.ssthresh
    c.ssthresh = TABLE[c.conf.cc].ssthresh(t, c, flight)
    c.tx.cc_acked = 0


cdef void cc_undo(Tcp *t, Tcb *c) noexcept nogil:
    if c.tx.prior_cwnd == 0:
        return
    c.cwnd = max(c.cwnd, c.tx.prior_cwnd)
    c.ssthresh = max(c.ssthresh, c.tx.prior_ssthresh)
    c.tx.prior_cwnd = 0
    cc_event(t, c, CC_UNDONE)
