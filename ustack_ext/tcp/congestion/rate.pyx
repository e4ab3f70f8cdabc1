"""Delivery-rate samples (draft-cheng-iccrg-delivery-rate-estimation-02) and the pacer.

Responsible for how fast a path delivered, one sample an ACK, and for when the next transmission may leave at a rate
that somebody else chose. What a sample begins with is noted in each record as it is sent, so TCP_INFO knows a rate
whatever the algorithm is; the last one that says something of the path is in the connection's Tally.
"""
from libc.stdint cimport uint32_t, uint64_t

from ustack_ext.tcp.seq cimport seq_gt
from ustack_ext.tcp.sample cimport Rate, RateSample
from ustack_ext.tcp.tcb cimport SEG_APP_LIMITED, SEG_SYN, Cc, Seg, Tcb, Tcp

cdef enum:
    US = 1000                      # ns
    NS = 1000000000
    MS_US = 1000
    SLOW_RATE = 150000             # bytes/s: below it, a burst is one segment
    RTT_SHIFT = 9                  # as Linux's tcp_tso_rtt_log: half a burst more for each 512 us that are missing
    FULL = 65536


# ---- samples (§3) ----

cdef inline uint32_t us_since(uint64_t then, uint64_t now) noexcept nogil:
    return <uint32_t>min((now - then) // US, <uint64_t>0xFFFFFFFF)


cdef void rate_sent(Tcp *t, Tcb *c, Seg *s) noexcept nogil:
    cdef Rate *k = &c.tx.rate
    if c.tx.flight == 0:                                     # the pipe restarts
        k.first_sent_at = t.core.now
        k.delivered_at = t.core.now
    s.delivered = <uint32_t>k.delivered
    s.since_delivered = us_since(k.delivered_at, t.core.now)
    s.since_first = us_since(k.first_sent_at, t.core.now)
    if k.app_limited:
        s.flags |= SEG_APP_LIMITED
    else:
        s.flags &= <unsigned char>~SEG_APP_LIMITED


cdef void rate_delivered(Tcp *t, Tcb *c, const Seg *s, uint32_t end) noexcept nogil:
    cdef Rate *k = &c.tx.rate
    # the sample is of what was sent last; a SYN's would say nothing of a rate
    if s.flags & SEG_SYN or (k.sample.prior_at != 0 and (s.xmit_ns < k.first_sent_at or (
            s.xmit_ns == k.first_sent_at and not seq_gt(end, k.sample.end)))):
        return
    k.sample.prior_delivered = k.delivered - <uint32_t>(<uint32_t>k.delivered - s.delivered)
    k.sample.prior_at = s.xmit_ns - s.since_delivered * <uint64_t>US
    k.sample.app_limited = s.flags & SEG_APP_LIMITED != 0
    k.sample.interval = s.since_first
    k.sample.end = end
    k.first_sent_at = s.xmit_ns


cdef void rate_make(Tcp *t, Tcb *c, uint32_t delivered) noexcept nogil:
    cdef Rate *k = &c.tx.rate
    cdef RateSample *r = &k.sample
    k.delivered += delivered
    if k.app_limited and k.delivered > k.app_limited:
        k.app_limited = 0
    if delivered:
        k.delivered_at = t.core.now
    r.delivered = 0
    if r.prior_at == 0:
        return
    r.interval = max(r.interval, (t.core.now - r.prior_at) // US)
    r.prior_at = 0
    if r.interval == 0 or r.interval < c.min_rtt:            # shorter than a path is long: no sample
        return
    r.delivered = k.delivered - r.prior_delivered
    if not r.app_limited or r.delivered * c.tally.rate_interval >= c.tally.rate_delivered * r.interval:
        c.tally.rate_delivered = <uint32_t>min(r.delivered, <uint64_t>0xFFFFFFFF)
        c.tally.rate_interval = <uint32_t>min(r.interval, <uint64_t>0xFFFFFFFF)
        c.tally.rate_app_limited = r.app_limited


cdef void rate_app_limited(Tcb *c) noexcept nogil:
    c.tx.rate.app_limited = max(c.tx.rate.delivered + c.tx.flight, <uint64_t>1)


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
