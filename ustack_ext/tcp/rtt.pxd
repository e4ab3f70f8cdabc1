# Round-trip time and the retransmission time-out (RFC 6298, RFC 7323 §4).
from libc.stdint cimport uint32_t, uint64_t
from ustack_ext.tcp.tcb cimport TCP_SYN_RECV, TCP_SYN_SENT, TF_RTT_SEEN, Tcb, Tcp

cdef void rtt_init(Tcp *t, Tcb *c) noexcept nogil
cdef void rtt_sample(Tcp *t, Tcb *c, uint32_t us) noexcept nogil

cdef enum:
    INITIAL_RTO_US = 1000000          # RFC 6298 (2.1)
    AFTER_LOST_SYN_US = 3000000       # RFC 6298 (5.7)


cdef inline uint32_t rtt_rto_us(const Tcp *t, const Tcb *c) noexcept nogil:
    """The time-out without back-off."""
    if not c.flags & TF_RTT_SEEN:
        return INITIAL_RTO_US if c.state == TCP_SYN_SENT or c.state == TCP_SYN_RECV else AFTER_LOST_SYN_US
    return min(c.srtt + max(4 * c.rttvar, t.knobs.rto_min_us), t.knobs.rto_max_ms * 1000)


cdef inline uint64_t rtt_rto_ns(const Tcp *t, const Tcb *c) noexcept nogil:
    """The time-out in force, back-off included, in ns."""
    cdef uint64_t us = <uint64_t>rtt_rto_us(t, c) << min(c.tx.backoff, 20)
    return min(us, <uint64_t>t.knobs.rto_max_ms * 1000) * 1000
