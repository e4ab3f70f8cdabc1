"""BBR version 1 (draft-cardwell-iccrg-bbr-congestion-control-00), with what Linux added: the window of aggregated ACKs,
the rounding for superframes. Not in it: the detection of policers (the draft's appendix has none either).

Responsible for a model of the path, its bandwidth (the largest delivery rate of ten rounds) and its round trip (the
least of ten seconds), and for pacing rate and cwnd that follow from it. Bandwidths are bytes/s, gains are of 256.
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memset

from ustack_ext.base.rng cimport rng_below
from ustack_ext.tcp.congestion.ops cimport (
    CC_LOSS, CC_TX_START, CC_UNDONE, CWND_MAX, Acked, CcEvent, CcOps,
)
from ustack_ext.tcp.congestion.rate cimport pace_burst, rate_app_limited
from ustack_ext.tcp.sample cimport Rate
from ustack_ext.tcp.tcb cimport CA_LOSS, CA_RECOVERY, CC_WORDS, Tcb, Tcp, tcb_burst

cdef enum:
    GAIN = 256
    HIGH_GAIN = 739                # 2 / ln 2: the least that doubles the rate each round
    DRAIN_GAIN = 88                # its inverse
    BW_ROUNDS = 10
    PHASES = 8
    MIN_RTT_WINDOW_S = 10
    PROBE_RTT_MS = 200
    CWND_LEAST = 4                 # segments
    FULL_ROUNDS = 3                # ... without a quarter more
    EXTRA_ROUNDS = 5
    EXTRA_MAX_US = 100000          # of bandwidth
    EPOCH_BYTES_MAX = 1 << 30
    MARGIN_PERCENT = 99            # paced a little below the bandwidth, so that queues drain
    US = 1000
    MS = 1000000
    S_US = 1000000
    S_NS = 1000000000

cdef uint32_t RTT_UNKNOWN = 0xFFFFFFFF


cdef inline Bbr *state_of(const Tcb *c) noexcept nogil:
    return <Bbr *>c.tx.cc.state


cdef const Bbr *bbr_state(const Tcb *c) noexcept nogil:
    if c.tx.cc == NULL or not c.tx.cc.modelled:
        return NULL
    return state_of(c)


# ---- the windowed maximum ----

cdef inline void put(Best *f, int i, uint32_t at, uint64_t value) noexcept nogil:
    f.round[i] = at
    f.value[i] = value


cdef void best_take(Best *f, uint32_t at, uint64_t value) noexcept nogil:
    """The best of the window, the best since, and the best since that: each takes over when the one before is too old.
    A candidate must come from a later part of the window than the one before it, or one old value would leave none.
    """
    cdef uint32_t age
    if value >= f.value[0] or at - f.round[2] > BW_ROUNDS:
        put(f, 0, at, value)
        put(f, 1, at, value)
        put(f, 2, at, value)
        return
    if value >= f.value[1]:
        put(f, 1, at, value)
        put(f, 2, at, value)
    elif value >= f.value[2]:
        put(f, 2, at, value)
    age = at - f.round[0]
    while age > BW_ROUNDS:
        put(f, 0, f.round[1], f.value[1])
        put(f, 1, f.round[2], f.value[2])
        put(f, 2, at, value)
        if at - f.round[0] >= age:
            break
        age = at - f.round[0]
    if f.round[1] == f.round[0] and age > BW_ROUNDS // 4:
        put(f, 1, at, value)
        put(f, 2, at, value)
    elif f.round[2] == f.round[1] and age > BW_ROUNDS // 2:
        put(f, 2, at, value)


# ---- what follows from the model ----

cdef inline uint64_t bandwidth(const Bbr *b) noexcept nogil:
    return b.bw.value[0]


cdef uint32_t bdp(const Tcp *t, const Tcb *c, const Bbr *b, uint64_t bw, uint32_t gain) noexcept nogil:
    cdef uint64_t n
    if b.min_rtt == RTT_UNKNOWN:
        return t.knobs.init_cwnd * c.mss
    n = bw * b.min_rtt // S_US
    return <uint32_t>min(n * gain // GAIN, <uint64_t>CWND_MAX)


cdef uint32_t quantized(const Tcb *c, const Bbr *b, uint32_t window) noexcept nogil:
    """Room for the transmissions that are being put together at either end, an even number of segments, and a probe
    that shows.
    """
    cdef uint32_t segments = (window + 3 * pace_burst(c, tcb_burst(c)) + c.mss - 1) // c.mss
    segments = (segments + 1) & ~<uint32_t>1
    if b.mode == BBR_PROBE_BW and b.phase == 0:
        segments += 2
    return segments * c.mss


cdef uint32_t target(const Tcp *t, const Tcb *c, const Bbr *b, uint64_t bw, uint32_t gain) noexcept nogil:
    return quantized(c, b, bdp(t, c, b, bw, gain))


cdef uint32_t flight_later(const Tcp *t, const Tcb *c, const Bbr *b, uint32_t flight) noexcept nogil:
    """What will be in the network when the pacer lets the next transmission go."""
    cdef uint64_t wait = c.tx.cc.next_send - t.core.now if c.tx.cc.next_send > t.core.now else 0
    cdef uint64_t gone = bandwidth(b) * (wait // US) // S_US
    if b.pacing_gain > GAIN:
        flight += pace_burst(c, tcb_burst(c))
    return <uint32_t>(flight - gone) if gone < flight else 0


cdef uint64_t rate_for(const Tcb *c, uint64_t bw, uint32_t gain) noexcept nogil:
    cdef uint64_t rate = bw * gain // GAIN * MARGIN_PERCENT // 100
    if c.conf.max_pacing_rate:
        rate = min(rate, c.conf.max_pacing_rate)
    return max(rate, <uint64_t>1)


cdef void pace_from_rtt(Tcb *c, Bbr *b) noexcept nogil:
    """Before there is a sample: what the window gives, or a millisecond is guessed."""
    cdef uint32_t rtt = US
    if c.srtt:
        rtt = c.srtt
        b.seen_rtt = True
    c.tx.cc.pacing_rate = rate_for(c, <uint64_t>c.cwnd * S_US // rtt, HIGH_GAIN)


cdef void set_pacing_rate(Tcb *c, Bbr *b, uint64_t bw, uint32_t gain) noexcept nogil:
    cdef uint64_t rate = rate_for(c, bw, gain)
    if not b.seen_rtt and c.srtt:
        pace_from_rtt(c, b)
    if b.full or rate > c.tx.cc.pacing_rate:
        c.tx.cc.pacing_rate = rate


# ---- bandwidth and rounds ----

cdef void update_bw(Tcb *c, Bbr *b) noexcept nogil:
    cdef Rate *k = &c.tx.rate
    cdef uint64_t bw
    b.round_start = False
    if k.sample.delivered == 0:
        return
    if k.sample.prior_delivered >= b.round_end:
        b.round_end = k.delivered
        b.rounds += 1
        b.round_start = True
        b.conserving = False
    bw = k.sample.delivered * S_US // k.sample.interval
    if not k.sample.app_limited or bw >= bandwidth(b):
        best_take(&b.bw, b.rounds, bw)


cdef void update_aggregation(Tcp *t, Tcb *c, Bbr *b, uint32_t acked) noexcept nogil:
    """How much more is acknowledged at a time than the bandwidth explains: receivers and links that hold ACKs together
    need that much more in flight.
    """
    cdef uint64_t expected
    if acked == 0 or bandwidth(b) == 0:
        return
    if b.round_start:
        b.extra_rounds = min(b.extra_rounds + 1, 31)
        if b.extra_rounds >= EXTRA_ROUNDS:
            b.extra_rounds = 0
            b.extra_at ^= 1
            b.extra[b.extra_at] = 0
    expected = bandwidth(b) * ((t.core.now - b.epoch_at) // US) // S_US
    if b.epoch_acked <= expected or b.epoch_acked >= EPOCH_BYTES_MAX:
        b.epoch_acked = 0
        b.epoch_at = t.core.now
        expected = 0
    b.epoch_acked += acked
    b.extra[b.extra_at] = max(b.extra[b.extra_at], min(<uint32_t>(b.epoch_acked - expected), c.cwnd))


cdef uint32_t aggregation_cwnd(const Bbr *b) noexcept nogil:
    if not b.full:
        return 0
    return <uint32_t>min(<uint64_t>max(b.extra[0], b.extra[1]), bandwidth(b) * EXTRA_MAX_US // S_US)


# ---- the modes ----

cdef uint32_t phase_gain(uint32_t phase) noexcept nogil:
    return GAIN * 5 // 4 if phase == 0 else (GAIN * 3 // 4 if phase == 1 else GAIN)


cdef void next_phase(Tcp *t, Bbr *b) noexcept nogil:
    b.phase = (b.phase + 1) % PHASES
    b.cycle_at = t.core.now


cdef void update_phase(Tcp *t, Tcb *c, Bbr *b, const Acked *a) noexcept nogil:
    cdef bint long_enough = t.core.now - b.cycle_at > <uint64_t>b.min_rtt * US
    cdef uint32_t flight
    if b.mode != BBR_PROBE_BW:
        return
    if b.pacing_gain == GAIN:
        if long_enough:
            next_phase(t, b)
        return
    flight = flight_later(t, c, b, a.prior_flight)
    if b.pacing_gain > GAIN:
        if long_enough and (a.lost > 0 or flight >= target(t, c, b, bandwidth(b), b.pacing_gain)):
            next_phase(t, b)
    elif long_enough or flight <= target(t, c, b, bandwidth(b), GAIN):
        next_phase(t, b)


cdef void enter_probe_bw(Tcp *t, Bbr *b) noexcept nogil:
    """Flows don't probe at the same time: each begins anywhere but in the phase that drains."""
    b.mode = BBR_PROBE_BW
    b.phase = <uint8_t>(PHASES - 1 - rng_below(&t.core.rng, PHASES - 1))
    next_phase(t, b)


cdef void enter_startup(Bbr *b) noexcept nogil:
    b.mode = BBR_STARTUP


cdef void check_full(const Tcb *c, Bbr *b) noexcept nogil:
    if b.full or not b.round_start or c.tx.rate.sample.app_limited:
        return
    if bandwidth(b) >= b.full_bw * 5 // 4:
        b.full_bw = bandwidth(b)
        b.full_rounds = 0
        return
    b.full_rounds += 1
    b.full = b.full_rounds >= FULL_ROUNDS


cdef void check_drain(Tcp *t, Tcb *c, Bbr *b) noexcept nogil:
    if b.mode == BBR_STARTUP and b.full:
        b.mode = BBR_DRAIN
        c.ssthresh = target(t, c, b, bandwidth(b), GAIN)
    if b.mode == BBR_DRAIN and flight_later(t, c, b, c.tx.flight) <= target(t, c, b, bandwidth(b), GAIN):
        enter_probe_bw(t, b)


cdef void save_cwnd(const Tcb *c, Bbr *b) noexcept nogil:
    """What to go back to after recovery or PROBE_RTT."""
    if b.ca_state < CA_RECOVERY and b.mode != BBR_PROBE_RTT:
        b.prior_cwnd = c.cwnd
    else:
        b.prior_cwnd = max(b.prior_cwnd, c.cwnd)


cdef void check_probe_rtt_done(Tcp *t, Tcb *c, Bbr *b) noexcept nogil:
    if b.probe_rtt_done_at == 0 or t.core.now <= b.probe_rtt_done_at:
        return
    b.min_rtt_at = t.core.now
    c.cwnd = max(c.cwnd, b.prior_cwnd)
    if b.full:
        enter_probe_bw(t, b)
    else:
        enter_startup(b)


cdef void update_min_rtt(Tcp *t, Tcb *c, Bbr *b, const Acked *a) noexcept nogil:
    cdef bint expired = t.core.now > b.min_rtt_at + <uint64_t>MIN_RTT_WINDOW_S * S_NS
    if a.rtt and (a.rtt < b.min_rtt or expired):
        b.min_rtt = a.rtt
        b.min_rtt_at = t.core.now
    if expired and not b.idle_restart and b.mode != BBR_PROBE_RTT:
        save_cwnd(c, b)
        b.mode = BBR_PROBE_RTT
        b.probe_rtt_done_at = 0
    if b.mode == BBR_PROBE_RTT:
        rate_app_limited(c)                                  # the little that is in flight says nothing of the path
        if b.probe_rtt_done_at == 0:
            if c.tx.flight <= CWND_LEAST * <uint32_t>c.mss:
                b.probe_rtt_done_at = t.core.now + <uint64_t>PROBE_RTT_MS * MS
                b.probe_round_done = False
                b.round_end = c.tx.rate.delivered
        else:
            b.probe_round_done = b.probe_round_done or b.round_start
            if b.probe_round_done:
                check_probe_rtt_done(t, c, b)
    if c.tx.rate.sample.delivered > 0:
        b.idle_restart = False


cdef void update_gains(Bbr *b) noexcept nogil:
    if b.mode == BBR_STARTUP:
        b.pacing_gain = HIGH_GAIN
        b.cwnd_gain = HIGH_GAIN
    elif b.mode == BBR_DRAIN:
        b.pacing_gain = DRAIN_GAIN
        b.cwnd_gain = HIGH_GAIN
    elif b.mode == BBR_PROBE_BW:
        b.pacing_gain = <uint16_t>phase_gain(b.phase)
        b.cwnd_gain = 2 * GAIN
    else:
        b.pacing_gain = GAIN
        b.cwnd_gain = GAIN


# ---- cwnd ----

cdef bint conserve(Tcb *c, Bbr *b, const Acked *a) noexcept nogil:
    """In the first round of recovery a segment leaves for each that was delivered; afterwards, slow start towards the
    target; at the end, what was before. True: cwnd is decided.
    """
    cdef uint8_t before = b.ca_state, now = c.ca_state
    if a.lost > 0:
        c.cwnd = max(c.cwnd - a.lost, <uint32_t>c.mss) if c.cwnd > a.lost else c.mss
    if now == CA_RECOVERY and before != CA_RECOVERY:
        b.conserving = True
        b.round_end = c.tx.rate.delivered
        c.cwnd = c.tx.flight + a.bytes
    elif before >= CA_RECOVERY and now < CA_RECOVERY:
        c.cwnd = max(c.cwnd, b.prior_cwnd)
        b.conserving = False
    b.ca_state = now
    if b.conserving:
        c.cwnd = max(c.cwnd, c.tx.flight + a.bytes)
    return b.conserving


cdef void set_cwnd(Tcp *t, Tcb *c, Bbr *b, const Acked *a) noexcept nogil:
    cdef uint32_t want
    if a.bytes and not conserve(c, b, a):
        want = quantized(c, b, min(bdp(t, c, b, bandwidth(b), b.cwnd_gain) + aggregation_cwnd(b), <uint32_t>CWND_MAX))
        if b.full:
            c.cwnd = min(c.cwnd + a.bytes, want)
        elif c.cwnd < want or c.tx.rate.delivered < t.knobs.init_cwnd * <uint64_t>c.mss:
            c.cwnd += a.bytes
        c.cwnd = min(max(c.cwnd, CWND_LEAST * <uint32_t>c.mss), <uint32_t>CWND_MAX)
    if b.mode == BBR_PROBE_RTT:
        c.cwnd = min(c.cwnd, CWND_LEAST * <uint32_t>c.mss)


cdef void model(Tcp *t, Tcb *c, const Acked *a) noexcept nogil:
    cdef Bbr *b = state_of(c)
    update_bw(c, b)
    update_aggregation(t, c, b, a.bytes)
    update_phase(t, c, b, a)
    check_full(c, b)
    check_drain(t, c, b)
    update_min_rtt(t, c, b, a)
    update_gains(b)
    set_pacing_rate(c, b, bandwidth(b), b.pacing_gain)
    set_cwnd(t, c, b, a)


# ---- the table ----

cdef void on_ack(Tcp *t, Tcb *c, const Acked *a) noexcept nogil:
    pass                                                     # the model has done it


cdef uint32_t ssthresh(Tcp *t, Tcb *c, uint32_t flight) noexcept nogil:
    """A loss says nothing of the bandwidth."""
    save_cwnd(c, state_of(c))
    return c.ssthresh


cdef void event(Tcp *t, Tcb *c, CcEvent what) noexcept nogil:
    cdef Bbr *b = state_of(c)
    if what == CC_TX_START and c.tx.rate.app_limited:
        b.idle_restart = True
        b.epoch_at = t.core.now
        b.epoch_acked = 0
        if b.mode == BBR_PROBE_BW:
            set_pacing_rate(c, b, bandwidth(b), GAIN)        # no burst: the pacer is as fast as the path
        elif b.mode == BBR_PROBE_RTT:
            check_probe_rtt_done(t, c, b)
    elif what == CC_LOSS:
        b.ca_state = CA_LOSS
        b.full_bw = 0
        b.round_start = True
    elif what == CC_UNDONE:
        b.full_bw = 0                                        # another look at whether the path is full
        b.full_rounds = 0


cdef void init(Tcp *t, Tcb *c) noexcept nogil:
    cdef Bbr *b = state_of(c)
    memset(b, 0, sizeof(uint64_t) * CC_WORDS)
    c.tx.cc.modelled = True
    b.min_rtt = c.min_rtt
    b.min_rtt_at = t.core.now
    b.epoch_at = t.core.now
    b.cycle_at = t.core.now
    b.ca_state = c.ca_state
    c.ssthresh = <uint32_t>0x7FFFFFFF
    enter_startup(b)
    update_gains(b)
    pace_from_rtt(c, b)


cdef CcOps OPS
OPS.name = b"bbr"
OPS.init = init
OPS.on_ack = on_ack
OPS.ssthresh = ssthresh
OPS.model = model
OPS.event = event

assert sizeof(Bbr) <= sizeof(uint64_t) * CC_WORDS


cdef const CcOps *bbr_ops() noexcept nogil:
    return &OPS
