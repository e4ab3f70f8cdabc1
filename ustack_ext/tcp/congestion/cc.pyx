"""The registry of congestion control algorithms, and what TCP says to a connection's own.

An algorithm's state (Cc) is taken when the window first moves and hangs at the sending side, so a connection that only
ever sends less than its initial window has none (but with BBR, or a pacing rate of its own). While there is one the
sending side is kept over pauses, until what is known of the path is too old to act on: until the window has decayed to
the initial one (RFC 5681 §4.1, halved each RTO as RFC 2861 §3.1 and Linux have it), or ten seconds where
tcp_slow_start_after_idle is off and for BBR, whose least round trip is not believed any longer than that. ssthresh
outlives it in the Tcb; CUBIC's W_max does not, for it is of a path that others have used since.
"""
from libc.stdint cimport uint32_t, uint64_t

from ustack_ext.base.slab cimport slab_alloc, slab_free
from ustack_ext.tcp.congestion.bbr cimport bbr_ops
from ustack_ext.tcp.congestion.cubic cimport cubic_ops
from ustack_ext.tcp.congestion.ops cimport (
    CC_BBR, CC_COUNT, CC_CUBIC, CC_CWND_RESTART, CC_RENO, CC_TX_START, CC_UNDONE, Acked, CcEvent, CcOps,
)
from ustack_ext.tcp.congestion.reno cimport reno_ops
from ustack_ext.tcp.congestion.usage cimport window_validated
from ustack_ext.tcp.rtt cimport rtt_rto_us
from ustack_ext.tcp.tcb cimport CA_OPEN, TF_CONNECTED, Cc, Tcb, Tcp, tcp_ms
from ustack_ext.tcp.undo cimport undo_begin

cdef enum:
    US = 1000                      # ns
    KEPT_NS = 10000000000

cdef const CcOps *TABLE[<int>CC_COUNT]
TABLE[<int>CC_RENO] = reno_ops()
TABLE[<int>CC_CUBIC] = cubic_ops()
TABLE[<int>CC_BBR] = bbr_ops()


cdef const CcOps *cc_ops(const Tcb *c) noexcept nogil:
    return TABLE[c.conf.cc]


cdef const char *cc_name(int which) noexcept nogil:
    return TABLE[which].name if 0 <= which < <int>CC_COUNT else NULL


# ---- the state ----

cdef bint cc_take(Tcp *t, Tcb *c) noexcept nogil:
    cdef Cc *k = <Cc *>slab_alloc(&t.ccs)
    if k == NULL:
        return False
    c.tx.cc = k
    if TABLE[c.conf.cc].init != NULL:
        TABLE[c.conf.cc].init(t, c)
    set_pace(c)
    return True


cdef inline bint wanted_at_once(const Tcb *c) noexcept nogil:
    return TABLE[c.conf.cc].model != NULL or c.conf.max_pacing_rate != 0


cdef void cc_switch(Tcp *t, Tcb *c) noexcept nogil:
    if c.tx.cc != NULL:
        slab_free(&t.ccs, c.tx.cc)
        c.tx.cc = NULL
    if c.tx != &t.no_tx:
        c.tx.cc_acked = 0
        c.tx.prior_cwnd = 0
        cc_pace(t, c)


# ---- pacing ----

cdef uint64_t cc_pacing_rate(const Tcb *c) noexcept nogil:
    """Without a model it is twice what the window gives in slow start, and 1.2 times that later: so the pacer spreads
    what there is to send, and never is the limit.
    """
    cdef uint64_t rate
    if c.tx.cc != NULL and c.tx.cc.modelled:
        return c.tx.cc.pacing_rate
    rate = <uint64_t>c.cwnd * 1000000 // max(c.srtt, <uint32_t>1)
    rate = rate * 2 if c.cwnd < c.ssthresh // 2 else rate * 6 // 5
    return min(rate, c.conf.max_pacing_rate) if c.conf.max_pacing_rate else rate


cdef inline void set_pace(Tcb *c) noexcept nogil:
    if not c.tx.cc.modelled:
        c.tx.cc.pacing_rate = cc_pacing_rate(c) if c.conf.max_pacing_rate else 0


cdef void cc_pace(Tcp *t, Tcb *c) noexcept nogil:
    if c.tx.cc == NULL and c.tx != &t.no_tx and c.flags & TF_CONNECTED and wanted_at_once(c):
        cc_take(t, c)
    elif c.tx.cc != NULL:
        set_pace(c)
        if c.conf.max_pacing_rate and c.tx.cc.modelled:
            c.tx.cc.pacing_rate = min(c.tx.cc.pacing_rate, c.conf.max_pacing_rate)


cdef uint64_t cc_stale_at(Tcp *t, const Tcb *c) noexcept nogil:
    cdef uint64_t rto = <uint64_t>rtt_rto_us(t, c) * US
    cdef uint32_t cwnd = c.cwnd, initial = t.knobs.init_cwnd * c.mss
    if not t.knobs.slow_start_after_idle or c.tx.cc.modelled:
        return t.core.now + KEPT_NS
    while cwnd > initial:
        cwnd //= 2
        rto += <uint64_t>rtt_rto_us(t, c) * US
    return t.core.now + rto


cdef void cc_restart(Tcp *t, Tcb *c) noexcept nogil:
    cdef uint32_t idle = tcp_ms(t.core) - c.last_send, rto, least
    if not c.last_send or idle <= min(t.knobs.rto_min_us // US, t.knobs.rto_max_ms):         # no RTO is less
        return
    if TABLE[c.conf.cc].model != NULL or not t.knobs.slow_start_after_idle:
        return
    rto = rtt_rto_us(t, c) // US
    if idle <= rto:
        return
    least = min(c.cwnd, t.knobs.init_cwnd * c.mss)
    c.ssthresh = max(c.ssthresh, c.cwnd // 4 * 3)
    while idle > rto and c.cwnd > least:
        idle -= rto
        c.cwnd = max(c.cwnd // 2, least)
    cc_event(t, c, CC_CWND_RESTART)


cdef void cc_forget(Tcp *t, Tcb *c) noexcept nogil:
    if c.tx.cc.modelled:
        c.cwnd = min(c.cwnd, t.knobs.init_cwnd * c.mss)
    else:
        cc_restart(t, c)


cdef void cc_start(Tcp *t, Tcb *c) noexcept nogil:
    if c.ca_state == CA_OPEN:
        cc_restart(t, c)
    if c.tx.cc != NULL:
        cc_event(t, c, CC_TX_START)
    elif wanted_at_once(c):
        cc_take(t, c)


# ---- what happens ----

cdef void cc_on_ack(Tcp *t, Tcb *c, const Acked *a) noexcept nogil:
    cdef const CcOps *ops = TABLE[c.conf.cc]
    if ops.init != NULL and c.tx.cc == NULL and not cc_take(t, c):
        ops = TABLE[<int>CC_RENO]
    ops.on_ack(t, c, a)
    if c.conf.max_pacing_rate and c.tx.cc != NULL:
        set_pace(c)


cdef void cc_event(Tcp *t, Tcb *c, CcEvent what) noexcept nogil:
    cdef const CcOps *ops = TABLE[c.conf.cc]
    if ops.event != NULL and c.tx.cc != NULL:
        ops.event(t, c, what)


cdef void cc_reduce(Tcp *t, Tcb *c, uint32_t flight) noexcept nogil:
    cdef const CcOps *ops = TABLE[c.conf.cc]
    # also where the algorithm keeps nothing: while there is one, what an undo needs outlasts the flight
    if c.tx.cc == NULL and not cc_take(t, c) and ops.init != NULL:
        ops = TABLE[<int>CC_RENO]
    c.tx.prior_cwnd = c.cwnd
    c.tx.prior_ssthresh = c.ssthresh
    undo_begin(c)
    if ops.model == NULL:
        c.cwnd = window_validated(c, flight)
    c.ssthresh = ops.ssthresh(t, c, flight)
    c.tx.cc_acked = 0


cdef void cc_undo(Tcp *t, Tcb *c) noexcept nogil:
    if c.tx.prior_cwnd == 0:
        return
    c.cwnd = max(c.cwnd, c.tx.prior_cwnd)
    c.ssthresh = max(c.ssthresh, c.tx.prior_ssthresh)
    c.tx.prior_cwnd = 0
    cc_event(t, c, CC_UNDONE)
