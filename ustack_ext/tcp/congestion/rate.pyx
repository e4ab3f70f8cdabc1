"""Delivery-rate samples (draft-cheng-iccrg-delivery-rate-estimation-02) and the pacer.

Responsible for how fast a path delivered, one sample an ACK, and for when the next transmission may leave at a rate
that somebody else chose. The snapshot that a sample begins with is taken when a record is sent, and lies behind it
(RateSeg): only connections whose algorithm asks for samples have such records.
"""
from libc.stdint cimport uint32_t, uint64_t

from ustack_ext.tcp.seq cimport seq_gt
from ustack_ext.tcp.tcb cimport Cc, RateSeg, Seg, Tcb, Tcp

cdef enum:
    US = 1000                      # ns
    NS = 1000000000
    S_US = 1000000
    MS_US = 1000
    SLOW_RATE = 150000             # bytes/s: below it, a burst is one segment
    RTT_SHIFT = 9                  # as Linux's tcp_tso_rtt_log: half a burst more for each 512 us that are missing
    FULL = 65536


# ---- samples (§3) ----

cdef void rate_sent(Tcp *t, Tcb *c, Seg *s) noexcept nogil:
    cdef Cc *k = c.tx.cc
    cdef RateSeg *r = <RateSeg *>s
    if k == NULL:
        return
    if c.tx.flight == 0:                                     # the pipe restarts
        k.first_sent_at = t.core.now
        k.delivered_at = t.core.now
    r.delivered = k.delivered
    r.delivered_at = k.delivered_at
    r.first_sent_at = k.first_sent_at
    r.app_limited = k.app_limited != 0


cdef void rate_delivered(Tcp *t, Tcb *c, const Seg *s, uint32_t end) noexcept nogil:
    cdef Cc *k = c.tx.cc
    cdef const RateSeg *r = <const RateSeg *>s
    if k == NULL:
        return
    # the sample is of what was sent last
    if (k.sample.prior_at == 0 or s.xmit_ns > k.first_sent_at
            or (s.xmit_ns == k.first_sent_at and seq_gt(end, k.sample.end))):
        k.sample.prior_delivered = r.delivered
        k.sample.prior_at = r.delivered_at
        k.sample.app_limited = r.app_limited
        k.sample.interval = (s.xmit_ns - r.first_sent_at) // US
        k.sample.end = end
        k.first_sent_at = s.xmit_ns


cdef void rate_make(Tcp *t, Tcb *c, uint32_t delivered) noexcept nogil:
    cdef Cc *k = c.tx.cc
    cdef uint64_t rate
    k.delivered += delivered
    if k.app_limited and k.delivered > k.app_limited:
        k.app_limited = 0
    if delivered:
        k.delivered_at = t.core.now
    k.sample.delivered = 0
    # prior_delivered can be of an earlier Cc, where the algorithm was changed and changed back
    if k.sample.prior_at == 0 or k.sample.prior_delivered > k.delivered:
        return
    k.sample.interval = max(k.sample.interval, (t.core.now - k.sample.prior_at) // US)
    if k.sample.interval == 0 or k.sample.interval < c.min_rtt:            # shorter than a path is long: no sample
        return
    k.sample.delivered = k.delivered - k.sample.prior_delivered
    rate = k.sample.delivered * S_US // k.sample.interval
    if not k.sample.app_limited or rate >= k.rate:
        k.rate = rate


cdef void rate_app_limited(Tcb *c) noexcept nogil:
    cdef Cc *k = c.tx.cc
    k.app_limited = max(k.delivered + c.tx.flight, <uint64_t>1)


# ---- the pacer ----

cdef bint paced_holds(const Tcp *t, Tcb *c) noexcept nogil:
    if c.tx.cc.next_send <= t.core.now:
        return False
    c.tx.pace_at = c.tx.cc.next_send
    return True


cdef void paced_sent(const Tcp *t, Tcb *c, uint32_t n) noexcept nogil:
    """As Linux: a transmission that is late may make up for it by half of its own time."""
    cdef Cc *k = c.tx.cc
    cdef uint64_t takes, late
    takes = <uint64_t>n * NS // k.pacing_rate
    late = t.core.now - k.next_send if k.next_send != 0 and t.core.now > k.next_send else 0
    k.next_send = max(k.next_send, t.core.now) + takes - min(takes // 2, late)


cdef uint32_t pace_burst(const Tcb *c, uint32_t most) noexcept nogil:
    """A millisecond's worth, and more where round trips are short (tcp_tso_autosize)."""
    cdef uint64_t n = c.tx.cc.pacing_rate >> 10
    cdef uint32_t least = 1 if c.tx.cc.pacing_rate < SLOW_RATE else 2, shift = c.min_rtt >> RTT_SHIFT
    if shift < 16:
        n += FULL >> shift
    n = min(n, <uint64_t>most) // c.mss
    return min(max(<uint32_t>n, least) * c.mss, most)


cdef uint32_t burst_of_window(const Tcb *c, uint32_t burst) noexcept nogil:
    cdef uint64_t rate = <uint64_t>c.cwnd * (MS_US * 2) // c.srtt
    if rate >= burst:
        return burst
    return min(max(<uint32_t>rate // c.mss, <uint32_t>2) * c.mss, burst)
