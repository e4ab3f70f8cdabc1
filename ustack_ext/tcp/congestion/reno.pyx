"""NewReno's window arithmetic (RFC 5681 §3.1, RFC 3465 without its limit, as Linux)."""
from libc.stdint cimport uint32_t

from ustack_ext.tcp.congestion.ops cimport CWND_MAX, Acked, CcOps
from ustack_ext.tcp.tcb cimport Tcb, Tcp


cdef void on_ack(Tcp *t, Tcb *c, const Acked *a) noexcept nogil:
    cdef uint32_t acked = a.bytes, step
    if c.cwnd < c.ssthresh:                                  # slow start, byte counted
        step = min(acked, c.ssthresh - c.cwnd)
        c.cwnd += step
        acked -= step
    c.tx.cc_acked += acked                                   # congestion avoidance: a segment a window
    while c.tx.cc_acked >= c.cwnd:
        c.tx.cc_acked -= c.cwnd
        c.cwnd += c.mss
    c.cwnd = min(c.cwnd, <uint32_t>CWND_MAX)


cdef uint32_t ssthresh(Tcp *t, Tcb *c, uint32_t flight) noexcept nogil:
    return max(flight // 2, 2 * <uint32_t>c.mss)             # RFC 5681 equation (4)


cdef CcOps OPS
OPS.name = b"reno"
OPS.init = NULL
OPS.on_ack = on_ack
OPS.ssthresh = ssthresh
OPS.model = NULL
OPS.event = NULL


cdef const CcOps *reno_ops() noexcept nogil:
    return &OPS
