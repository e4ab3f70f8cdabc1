"""HyStart++ (RFC 9406): leaving slow start before the path's queue overflows.

When the least round trip of a round is an eighth above that of the round before, growth slows down to a quarter
(conservative slow start); if that lasts for five rounds slow start is over, if the round trip falls again it goes on.
The limit L of §4.2 is infinite here, as Linux has it: receivers that merge segments acknowledge many at once.

Two things are added, because a sender that doesn't pace fills the queue within a round, and the least round trip of a
round tells of it only a round later, when the window is twice too large. A train of ACKs as long as half a round trip
(Linux's HyStart) begins conservative slow start too: the path is half full. And conservative slow start ends early
where the round trip shows that a quarter of the path's bandwidth-delay product stands in the queue.
"""
from libc.stdint cimport uint32_t, uint64_t

from ustack_ext.tcp.seq cimport seq_geq

cdef enum:                         # RFC 9406 §4.3
    MIN_RTT_THRESH = 4000          # us
    MAX_RTT_THRESH = 16000
    MIN_RTT_DIVISOR = 8
    N_RTT_SAMPLE = 8
    CSS_GROWTH_DIVISOR = 4
    CSS_ROUNDS = 5
    TRAIN_GAP = 2000               # us between two ACKs of a train, or a sixteenth of the round trip
    TRAIN_CWND = 16                # segments

cdef uint32_t NONE = 0xFFFFFFFF
cdef uint32_t SSTHRESH_UNKNOWN = 0x7FFFFFFF


cdef void hystart_init(HyStart *h, const Tcb *c) noexcept nogil:
    h.phase = HY_SLOW_START if c.ssthresh >= SSTHRESH_UNKNOWN else HY_OFF
    h.window_end = c.snd_nxt
    h.last_min = NONE
    h.now_min = NONE
    h.baseline = NONE
    h.samples = 0
    h.css_rounds = 0
    h.round_us = 0
    h.train_us = 0


cdef void leave(HyStart *h, Tcb *c) noexcept nogil:
    h.phase = HY_OFF
    c.ssthresh = c.cwnd


cdef void slow_down(HyStart *h, uint32_t baseline) noexcept nogil:
    h.baseline = baseline
    h.phase = HY_CSS
    h.css_rounds = CSS_ROUNDS


cdef void next_round(HyStart *h, Tcb *c, uint32_t now) noexcept nogil:
    h.window_end = c.snd_nxt
    h.last_min = h.now_min
    h.now_min = NONE
    h.samples = 0
    h.round_us = now
    h.train_us = now
    if h.phase == HY_CSS:
        h.css_rounds -= 1
        if h.css_rounds == 0:
            leave(h, c)


cdef void judge(HyStart *h, Tcb *c) noexcept nogil:
    """Enough of the round is known to say whether its delay has grown."""
    cdef uint32_t patience
    if h.phase == HY_CSS:
        if h.now_min < h.baseline:                           # it was nothing
            h.baseline = NONE
            h.phase = HY_SLOW_START
        elif h.now_min >= c.min_rtt + max(c.min_rtt // 4, <uint32_t>MAX_RTT_THRESH):
            leave(h, c)
    elif h.last_min != NONE:
        patience = min(max(h.last_min // MIN_RTT_DIVISOR, <uint32_t>MIN_RTT_THRESH), <uint32_t>MAX_RTT_THRESH)
        if h.now_min >= h.last_min + patience:
            slow_down(h, h.now_min)


cdef void follow_train(HyStart *h, const Tcb *c, uint32_t now) noexcept nogil:
    """Whether ACKs have come without a break for half a round trip since the round began."""
    cdef uint32_t gap = max(<uint32_t>TRAIN_GAP, c.min_rtt // 16)
    if now - h.train_us > gap or c.cwnd < TRAIN_CWND * <uint32_t>c.mss or c.min_rtt < 2 * gap:
        return
    h.train_us = now
    if now - h.round_us > c.min_rtt // 2 and h.samples == N_RTT_SAMPLE and h.phase == HY_SLOW_START:
        slow_down(h, c.min_rtt)


cdef uint32_t hystart_ack(HyStart *h, Tcb *c, const Acked *a, uint64_t now) noexcept nogil:
    cdef uint32_t us = <uint32_t>(now // 1000)
    if h.phase == HY_OFF:
        return a.bytes
    if a.rtt != 0:
        h.now_min = min(h.now_min, a.rtt)
        if h.samples < N_RTT_SAMPLE:
            h.samples += 1
        if h.samples == N_RTT_SAMPLE:
            judge(h, c)
    follow_train(h, c, us)
    if h.phase != HY_OFF and seq_geq(c.snd_una, h.window_end):
        next_round(h, c, us)
    return a.bytes // CSS_GROWTH_DIVISOR if h.phase == HY_CSS else a.bytes
