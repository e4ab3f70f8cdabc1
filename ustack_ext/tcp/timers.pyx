"""What happens when a connection's deadline comes: RTO (RFC 6298 §5), loss probe and reordering (RFC 8985),
                                                         window probe (RFC 9293 §3.8.6.1),
delayed ACK, keep-alive (§3.8.4), FIN-WAIT-2's end, 2 MSL, and the SYN queue's retries."""
from libc.errno cimport ETIMEDOUT
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t

from ustack_ext.base.buf cimport pool_above
from ustack_ext.base.core cimport count
from ustack_ext.base.entry cimport ENTRY_SYNREQ, ENTRY_TIMEWAIT, Entry
from ustack_ext.base.event cimport EV_WRITABLE
from ustack_ext.base.wheel cimport wheel_cancel
from ustack_ext.net.mib cimport (
    DelayedACKs, TCPAbortOnTimeout, TcpAttemptFails, TCPFastOpenActiveFail, TCPKeepAlive, TCPLossProbes, TCPTimeouts,
    TCPWinProbe,
)
from ustack_ext.tcp.congestion.cc cimport cc_forget
from ustack_ext.tcp.conn cimport tcb_dirty, tcb_done, tcb_raise, tcb_set_timer
from ustack_ext.tcp.fastopen cimport fastopen_lost
from ustack_ext.tcp.listen cimport synreq_timer
from ustack_ext.tcp.output cimport resend, send_new, send_probe, send_rst
from ustack_ext.tcp.pathmtu cimport path_black_hole
from ustack_ext.tcp.quick cimport ACK_EXPIRED
from ustack_ext.tcp.recovery cimport recovery_arm, recovery_reo_timer, recovery_rto
from ustack_ext.tcp.rtt cimport rtt_rto_ns
from ustack_ext.tcp.sendqueue cimport seg_split, sendq_unsent, tx_give
from ustack_ext.tcp.tcb cimport (
    SEG_SACKED, TCP_FIN_WAIT2, TCP_SYN_RECV, TCP_SYN_SENT, TF_ACK_DELAYED, TF_ACK_NOW, TF_DEAD,
    TF_ORPHAN, TF_SYN_LOST, TF_TLP_OUT, TF_TLP_RETRANS, TIMER_MEMORY, TIMER_NONE, TIMER_PERSIST, TIMER_REO, TIMER_RTO,
    TIMER_STALE, TIMER_TLP, Seg, SynReq, Tcb, Tcp, TimeWait, tcb_deadline, tcb_delack_at, tcp_ms,
)
from ustack_ext.tcp.timewait cimport timewait_free
from ustack_ext.tcp.uto cimport uto_in_force

cdef enum:
    NS = 1000000000
    MS = 1000000
    BACKOFF_MAX = 20


cdef void tcp_timer(Tcp *t, Entry *e) noexcept nogil:
    if e.kind == ENTRY_TIMEWAIT:
        timewait_free(t, <TimeWait *>e)
    elif e.kind == ENTRY_SYNREQ:
        synreq_timer(t, <SynReq *>e)
    else:
        tcb_timer(t, <Tcb *>e)


cdef bint tcp_timer_settle(Tcp *t, Entry *e) noexcept nogil:
    cdef uint64_t at = tcb_deadline(<Tcb *>e, t.core.now)
    if at <= e.deadline:
        return True
    wheel_cancel(&t.core.wheel, e)
    tcb_set_timer(t, <Tcb *>e)
    return False


cdef void tcb_timer(Tcp *t, Tcb *c) noexcept nogil:
    if t.core.now < tcb_deadline(c, t.core.now):             # it was put off since
        tcb_set_timer(t, c)
        return
    tcb_dirty(t, c)                                          # tcp_flush sends, and arms the wheel again
    if t.core.now >= tcb_delack_at(c, t.core.now):
        count(t.core, DelayedACKs)
        c.quick |= ACK_EXPIRED
        c.delack_at = <uint32_t>t.core.now                   # when it is sent, which may be late
        c.flags = (c.flags & ~<uint32_t>TF_ACK_DELAYED) | TF_ACK_NOW
    if t.core.now >= c.tx.pace_at:
        c.tx.pace_at = UINT64_MAX
    if t.core.now >= c.tx.rto_at:
        c.tx.rto_at = UINT64_MAX
        if c.tx.timer_what == TIMER_MEMORY:
            c.tx.timer_what = TIMER_NONE
            tcb_raise(t, c, EV_WRITABLE)
        elif c.tx.timer_what == TIMER_STALE:
            c.tx.timer_what = TIMER_NONE
            cc_forget(t, c)
            if c.tx.sndq_bytes == 0:                         # else there was a write just now, still to be sent
                tx_give(t, c)
        elif c.tx.timer_what == TIMER_PERSIST:
            window_probe(t, c)
        elif c.tx.timer_what == TIMER_TLP:
            loss_probe(t, c)
        elif c.tx.timer_what == TIMER_REO:
            recovery_reo_timer(t, c)
        else:
            retransmission_timeout(t, c)
    if not c.flags & TF_DEAD and t.core.now >= c.idle_at:
        c.idle_at = UINT64_MAX
        idle(t, c)


cdef bint given_up(Tcp *t, Tcb *c, uint32_t tries, uint32_t most) noexcept nogil:
    """R2 of RFC 9293 §3.8.3: by count as Linux, or by the user timeout; orphans sooner."""
    cdef uint64_t patience = uto_in_force(c.conf)
    if c.flags & TF_ORPHAN:
        most = min(most, <uint32_t>t.knobs.orphan_retries)
    elif patience and c.tx.retrans_since:
        return t.core.now - c.tx.retrans_since >= patience * MS
    return tries >= most


cdef void give_up(Tcp *t, Tcb *c) noexcept nogil:
    count(t.core, TCPAbortOnTimeout)
    tcb_done(t, c, c.soft_error if c.soft_error else ETIMEDOUT)


cdef uint32_t syn_tries(const Tcp *t, const Tcb *c) noexcept nogil:
    if c.conf.syncnt:
        return c.conf.syncnt
    return t.knobs.syn_retries if c.state == TCP_SYN_SENT else t.knobs.synack_retries


cdef void retransmission_timeout(Tcp *t, Tcb *c) noexcept nogil:
    if c.tx.seg_head == NULL:
        return
    count(t.core, TCPTimeouts)
    if c.state == TCP_SYN_SENT or c.state == TCP_SYN_RECV:
        if given_up(t, c, c.tx.retries, syn_tries(t, c)):
            count(t.core, TcpAttemptFails)
            give_up(t, c)
            return
        if c.tx.retries > 0:
            c.flags |= TF_SYN_LOST
        if c.tx.fastopen > 0:                                   # without data and option from here on
            c.tx.fastopen = 0
            count(t.core, TCPFastOpenActiveFail)
            fastopen_lost(t, &c.raddr)
    elif given_up(t, c, c.tx.retries, t.knobs.retries2):
        give_up(t, c)
        return
    c.tx.retries += 1
    c.tally.total_rto += 1
    if c.tx.retries >= t.knobs.retries1:                        # R1: ask IP for another way
        c.dst.generation = 0
        path_black_hole(t, c)
    recovery_rto(t, c)
    c.tx.timer_what = TIMER_NONE
    resend(t, c, c.tx.seg_head, c.mss)
    recovery_arm(t, c)


cdef Seg *last_segment(Tcp *t, Tcb *c, Seg *s) noexcept nogil:
    """A record's last segment as a record of its own, where it is longer than one."""
    cdef uint32_t full = (s.end - s.seq - 1) // c.mss * c.mss
    cdef Seg *tail = seg_split(t, c, s, s.seq + full) if full > 0 else s
    return tail if tail != NULL else s


cdef void loss_probe(Tcp *t, Tcb *c) noexcept nogil:
    """RFC 8985 §7.3: new data if the window has room, else the last segment again."""
    cdef uint32_t usable = c.snd_una + c.snd_wnd - c.snd_nxt
    cdef Seg *s = c.tx.seg_tail
    c.tx.timer_what = TIMER_NONE
    if sendq_unsent(c) > 0 and <int>usable > 0 and send_new(t, c, usable):
        c.flags |= TF_TLP_OUT
    elif s != NULL and not s.flags & SEG_SACKED and resend(t, c, last_segment(t, c, s), c.mss):
        c.flags |= TF_TLP_OUT | TF_TLP_RETRANS
    c.tx.tlp_end = c.snd_nxt
    count(t.core, TCPLossProbes)
    recovery_arm(t, c)
    if c.tx.timer_what == TIMER_TLP:                         # none could be sent: not again at once, the RTO is next
        c.tx.timer_what = TIMER_RTO
        c.tx.rto_at = t.core.now + rtt_rto_ns(t, c)


cdef void window_probe(Tcp *t, Tcb *c) noexcept nogil:
    """The window is shut, or too small for the rule against silly windows: whatever fits goes now, else something that
    brings an ACK.
    """
    cdef uint32_t usable = c.snd_una + c.snd_wnd - c.snd_nxt
    # MUST-37: answered probes don't count; but nobody waits for an orphan, which its peer could keep for ever so.
    if given_up(t, c, max(c.probes, c.tx.backoff) if c.flags & TF_ORPHAN else c.probes, t.knobs.retries2) or (
            c.flags & TF_ORPHAN and pool_above(&t.core.pool, 13)):
        if c.flags & TF_ORPHAN:
            send_rst(t, c)
        give_up(t, c)
        return
    count(t.core, TCPWinProbe)
    if c.tx.backoff < BACKOFF_MAX:
        c.tx.backoff += 1
    if <int>usable > 0:
        c.tx.timer_what = TIMER_NONE
        c.tx.backoff = 0
        if send_new(t, c, usable):
            return
    c.probes += 1
    if c.tx.retrans_since == 0:
        c.tx.retrans_since = t.core.now
    send_probe(t, c)
    c.tx.timer_what = TIMER_PERSIST
    c.tx.rto_at = t.core.now + rtt_rto_ns(t, c)


cdef void idle(Tcp *t, Tcb *c) noexcept nogil:
    cdef uint64_t silent = tcp_ms(t.core) - c.last_recv, patience = <uint64_t>c.conf.keepidle * 1000         # ms
    if c.state == TCP_FIN_WAIT2 and c.flags & TF_ORPHAN:
        tcb_done(t, c, 0)
        return
    if not c.conf.keepalive or c.flags & TF_ORPHAN:
        return
    if not c.conf.user_timeout:
        patience = max(patience, <uint64_t>uto_in_force(c.conf) + 1)         # RFC 5482 §4.2: longer than what is agreed
    if silent < patience:
        c.idle_at = t.core.now + (patience - silent) * MS
        return
    # MUST-26: only when idle; the retransmission timer is at work
    if c.tx.seg_head != NULL or sendq_unsent(c) > 0:
        c.idle_at = t.core.now + <uint64_t>c.conf.keepidle * NS
        return
    if c.probes >= c.conf.keepcnt or (c.conf.user_timeout and c.probes and silent >= c.conf.user_timeout):
        send_rst(t, c)
        give_up(t, c)
        return
    c.probes += 1
    count(t.core, TCPKeepAlive)
    send_probe(t, c)
    c.idle_at = t.core.now + <uint64_t>c.conf.keepintvl * NS
