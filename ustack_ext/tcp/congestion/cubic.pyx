"""CUBIC (RFC 9438) in integers, with HyStart++ (RFC 9406) for slow start.

Windows are bytes, time runs in ticks of 1/1024 s. What is kept of a stage of congestion avoidance is its curve; time in
which the application or the receiver was the limit, or something was being recovered, doesn't move along it (§5.8).
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from ustack_ext.tcp.congestion.hystart cimport hystart_ack, hystart_init
from ustack_ext.tcp.congestion.ops cimport (
    CC_CWND_RESTART, CC_LOSS, CC_REDUCED, CC_UNDONE, CWND_MAX, Acked, CcEvent, CcOps,
)
from ustack_ext.tcp.tcb cimport CC_WORDS, Tcb, Tcp

cdef enum:
    TICK_NS = 976562               # 1/1024 s
    TICKS_MAX = 1 << 17            # from the plateau: by then the curve is beyond any window
    C_1024 = 410                   # C = 0.4 (§5.1)
    BETA_NUM = 7                   # beta_cubic = 0.7 (§4.6)
    BETA_DEN = 10
    ALPHA_NUM = 9                  # alpha_cubic = 3 (1 - beta) / (1 + beta) = 9/17 (§4.3)
    ALPHA_DEN = 17
    PAUSE_NS = 200000000           # on top of two round trips: a delayed ACK is no pause


cdef inline Cubic *state_of(const Tcb *c) noexcept nogil:
    return <Cubic *>c.tx.cc.state


# ---- the curve (§4.2) ----

cdef uint32_t cube_root(uint64_t x) noexcept nogil:
    """The largest y with y**3 <= x, digit by digit."""
    cdef uint64_t y = 0, b
    cdef int s = 63
    while s >= 0:
        y *= 2
        b = (3 * y * (y + 1) + 1) << s
        if x >> s >= 3 * y * (y + 1) + 1:
            x -= b
            y += 1
        s -= 3
    return <uint32_t>y


cdef uint32_t curve_k(uint32_t w_max, uint32_t cwnd, uint32_t mss) noexcept nogil:
    """Equation (2): K = cbrt((W_max - cwnd_epoch) / C), windows in segments, ticks."""
    if w_max <= cwnd:
        return 0
    return cube_root((<uint64_t>(w_max - cwnd) << 30) // mss * 5 // 2)


cdef uint32_t curve_at(const Curve *v, uint32_t tick, uint32_t mss) noexcept nogil:
    """Equation (1): W_cubic(t) = C (t - K)**3 + W_max."""
    cdef bint rising = tick >= v.k
    cdef uint64_t away = min(tick - v.k if rising else v.k - tick, <uint32_t>TICKS_MAX)
    cdef uint64_t grown = (((away * away * away) >> 10) * C_1024 >> 20) * mss >> 10       # C: in 1/1024 of a segment
    if rising:
        return <uint32_t>min(v.origin + grown, <uint64_t>CWND_MAX)
    return <uint32_t>(v.origin - grown) if grown < v.origin else 0


cdef void begin(Cubic *q, const Tcb *c, uint64_t now) noexcept nogil:
    """A stage of congestion avoidance begins where the window is now."""
    q.now.epoch = now
    q.now.k = curve_k(q.now.w_max, c.cwnd, c.mss)
    q.now.origin = max(q.now.w_max, c.cwnd)
    q.now.w_est = c.cwnd
    q.est_acked = 0
    q.last_ack = now
    q.tick = <uint32_t>0xFFFFFFFF


# ---- the window grows ----

cdef void look(Cubic *q, const Tcb *c, uint64_t now) noexcept nogil:
    """Where the curve is now, and a round trip from now: once a tick."""
    cdef uint64_t pause = now - q.last_ack
    cdef uint32_t tick
    if pause > 2000 * <uint64_t>c.srtt + PAUSE_NS:
        q.now.epoch += pause
    q.last_ack = now
    tick = <uint32_t>((now - q.now.epoch) // TICK_NS)
    if tick != q.tick:
        q.tick = tick
        q.w_cubic = curve_at(&q.now, tick, c.mss)
        q.target = curve_at(&q.now, tick + <uint32_t>(<uint64_t>c.srtt * 1000 // TICK_NS), c.mss)


cdef void reno_friendly(Cubic *q, const Tcb *c, uint32_t acked) noexcept nogil:
    """§4.3: W_est grows by alpha segments a window, by one once it is beyond where the last reduction began."""
    cdef uint64_t a_segment = c.cwnd
    if q.now.w_est < q.cwnd_prior:
        a_segment = a_segment * ALPHA_DEN // ALPHA_NUM
    q.est_acked += acked
    if q.est_acked >= a_segment:
        q.est_acked -= <uint32_t>a_segment
        q.now.w_est += c.mss


cdef void avoid(Tcp *t, Tcb *c, Cubic *q, uint32_t acked) noexcept nogil:
    """§4.4 and 4.5: (target - cwnd) / cwnd segments for each that was acknowledged, the target not more than half a
    window away.
    """
    cdef uint64_t step
    cdef uint32_t target
    if q.now.epoch == 0:
        begin(q, c, t.core.now)
    look(q, c, t.core.now)
    reno_friendly(q, c, acked)
    if q.w_cubic < q.now.w_est:
        c.cwnd = max(c.cwnd, q.now.w_est)
    else:
        target = min(q.target, c.cwnd + c.cwnd // 2)
        if target > c.cwnd:
            step = <uint64_t>(target - c.cwnd) * acked + c.tx.cc_acked
            c.tx.cc_acked = <uint32_t>(step % c.cwnd)
            c.cwnd += <uint32_t>(step // c.cwnd)
    c.cwnd = min(c.cwnd, <uint32_t>CWND_MAX)


cdef void on_ack(Tcp *t, Tcb *c, const Acked *a) noexcept nogil:
    cdef Cubic *q = state_of(c)
    cdef uint32_t acked = a.bytes, step
    if c.cwnd < c.ssthresh:
        step = hystart_ack(&q.hystart, c, a, t.core.now)
        if c.cwnd < c.ssthresh:
            if step <= c.ssthresh - c.cwnd:
                c.cwnd = min(c.cwnd + step, <uint32_t>CWND_MAX)
                return
            acked = step - (c.ssthresh - c.cwnd)
            c.cwnd = c.ssthresh
    avoid(t, c, q, acked)


# ---- the window shrinks (§4.6, 4.7, 4.8, 4.9) ----

cdef inline uint32_t scaled(uint32_t w, uint32_t num, uint32_t den) noexcept nogil:
    return <uint32_t>(<uint64_t>w * num // den)


cdef uint32_t ssthresh(Tcp *t, Tcb *c, uint32_t flight) noexcept nogil:
    """The window's, not the flight's: it grew only while it was used (§4.6)."""
    cdef Cubic *q = state_of(c)
    q.before = q.now
    q.cwnd_prior = c.cwnd
    # fast convergence: a flow that lost before it got back gives way to new ones
    q.now.w_max = c.cwnd if c.cwnd >= q.now.w_max else scaled(c.cwnd, BETA_DEN + BETA_NUM, 2 * BETA_DEN)
    q.now.epoch = 0
    return max(scaled(c.cwnd, BETA_NUM, BETA_DEN), 2 * <uint32_t>c.mss)


cdef void event(Tcp *t, Tcb *c, CcEvent what) noexcept nogil:
    cdef Cubic *q = state_of(c)
    if what == CC_LOSS:
        q.now.w_max = 0                                      # §4.8: what follows begins at the plateau
        q.now.epoch = 0
        hystart_init(&q.hystart, c)
    elif what == CC_REDUCED or what == CC_CWND_RESTART:
        hystart_init(&q.hystart, c)
    elif what == CC_UNDONE:
        q.now = q.before
        hystart_init(&q.hystart, c)


cdef void init(Tcp *t, Tcb *c) noexcept nogil:
    memset(c.tx.cc.state, 0, sizeof(uint64_t) * CC_WORDS)
    hystart_init(&state_of(c).hystart, c)


cdef CcOps OPS
OPS.name = b"cubic"
OPS.init = init
OPS.on_ack = on_ack
OPS.ssthresh = ssthresh
OPS.model = NULL
OPS.event = event

assert sizeof(Cubic) <= sizeof(uint64_t) * CC_WORDS


cdef const CcOps *cubic_ops() noexcept nogil:
    return &OPS
