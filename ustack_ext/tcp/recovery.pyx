"""Recovery: what an ACK, a time-out or a timer says about losses, and what follows from it for the window.

In it: the congestion states and proportional rate reduction (RFC 6937 and its successor, RFC 9937), tail loss probes
(RFC 8985 §7), NewReno for peers without SACK (RFC 6582), what a retransmission time-out does (RFC 6298 §5, RFC 5681
§3.1), F-RTO (RFC 5682), and the response to losses that were none (RFC 4015). The state of the records is the
scoreboard's, detection by time is rack's, evidence against a loss undo's.
"""
from libc.stdint cimport UINT64_MAX, int32_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memset

from ustack_ext.base.core cimport count
from ustack_ext.net.mib cimport (
    Mib, TCPDSACKUndo, TCPFullUndo, TCPLossProbeRecovery, TCPLossUndo, TCPPartialUndo, TCPRenoRecovery,
    TCPSackRecovery, TCPSackReneging, TCPSpuriousRTOs,
)
from ustack_ext.tcp.congestion.cc cimport cc_event, cc_on_ack, cc_ops, cc_reduce, cc_undo
from ustack_ext.tcp.congestion.ops cimport CC_LOSS, CC_RECOVERED, CC_REDUCED, Acked
from ustack_ext.tcp.congestion.rate cimport rate_make, rate_sent
from ustack_ext.tcp.congestion.usage cimport window_used, window_validated
from ustack_ext.tcp.options cimport OPT_SACK, OPT_TS, Options
from ustack_ext.tcp.rack cimport rack_detect, rack_dsack, rack_recovered
from ustack_ext.tcp.rtt cimport rtt_rto_ns, rtt_sample
from ustack_ext.tcp.scoreboard cimport (
    Delivery, board_ack, board_dsack, board_forget_sacks, board_lose, board_next_lost, board_reordered, board_resent,
    board_sack, board_unlose, seg_size,
)
from ustack_ext.tcp.sendqueue cimport seg_sent_now, seg_split
from ustack_ext.tcp.seq cimport seq_geq, seq_gt, seq_lt
from ustack_ext.tcp.tcb cimport (
    CA_CWR, CA_DISORDER, CA_LOSS, CA_OPEN, CA_RECOVERY, LOSS_ASKING, LOSS_MAYBE, LOSS_REAL, LOSS_SIZE, PROBE_LOST,
    PROBE_NONE, PROBE_OUT, SEG_FIN, SEG_LOST, SEG_SACKED, SEG_SYN, TCP_REORDERING,
    TF_ECN_CWR, TF_ECN_ECE, TF_RTT_SEEN, TF_SACK_OK, TF_TLP_OUT, TF_TLP_RETRANS, TF_TS_OK, TIMER_NONE, TIMER_REO,
    TIMER_RTO, TIMER_TLP, Seg, Tcb, Tcp,
)
from ustack_ext.tcp.undo cimport undo_by_dsack, undo_by_time, undo_resent

cdef enum:
    TLP_SLACK_US = 2000            # on top of 2 SRTT
    TLP_NO_RTT_US = 1000000
    SSTHRESH_UNKNOWN = 0x7FFFFFFF  # also where the algorithm was changed from one that has none


# ---- the congestion states ----

cdef void reduce_window(Tcp *t, Tcb *c, uint32_t flight, uint32_t recover_fs) noexcept nogil:
    """Congestion was found with so many bytes in flight: from here cwnd follows RFC 9937."""
    c.tx.recover_fs = max(recover_fs, <uint32_t>1)
    c.tx.prr_delivered = 0
    c.tx.prr_out = 0
    cc_reduce(t, c, flight)
    cc_event(t, c, CC_REDUCED)


cdef void enter_cwr(Tcp *t, Tcb *c, uint32_t flight) noexcept nogil:
    """RFC 3168 §6.1.2: a mark is answered as a loss is, once a window; nothing is sent again."""
    c.ca_state = CA_CWR
    c.tx.recover = c.snd_nxt
    reduce_window(t, c, flight, flight)
    c.tx.prior_cwnd = 0                                       # nothing can show that it was for nothing
    c.flags |= TF_ECN_CWR


cdef inline bint reducing(const Tcb *c) noexcept nogil:
    return c.ca_state == CA_RECOVERY or c.ca_state == CA_CWR


cdef void enter_recovery(Tcp *t, Tcb *c, uint32_t delivered) noexcept nogil:
    """`delivered`: bytes that the ACK which brought the news acknowledged or SACKed."""
    cdef uint8_t was = c.ca_state
    cdef uint32_t flight = c.snd_nxt - c.snd_una, fs = flight
    c.ca_state = CA_RECOVERY
    c.tx.recover = c.snd_nxt
    if was != CA_CWR:                                         # that reduction holds for this window, too
        if c.flags & TF_SACK_OK:                             # RFC 9937 §6: what was SACKed before isn't delivered now
            fs -= min(c.tx.sacked, fs)
            fs += delivered
        reduce_window(t, c, flight, fs)
    count(t.core, TCPSackRecovery if c.flags & TF_SACK_OK else TCPRenoRecovery)


cdef inline bint has_model(const Tcb *c) noexcept nogil:
    """Whether the congestion control algorithm sets cwnd in recovery, too."""
    return c.tx.cc != NULL and c.tx.cc.modelled


cdef void back_to_open(Tcb *c) noexcept nogil:
    c.tx.loss = LOSS_REAL
    c.tx.dupacks = 0
    if not c.flags & TF_SACK_OK:
        c.tx.sacked = 0
    c.ca_state = CA_DISORDER if c.tx.sacked > 0 else CA_OPEN
    rack_recovered(c)


cdef void leave_recovery(Tcp *t, Tcb *c) noexcept nogil:
    if reducing(c) and not has_model(c) and c.ssthresh < <uint32_t>SSTHRESH_UNKNOWN:
        c.cwnd = max(c.ssthresh, 2 * <uint32_t>c.mss)
    back_to_open(c)
    cc_event(t, c, CC_RECOVERED)


cdef void nothing_was_lost(Tcp *t, Tcb *c, Mib why) noexcept nogil:
    """RFC 4015 §3.2: the window is what it was, what is marked and not sent again is in flight after all.

    After a fast retransmit, what was not lost was late: that is reordering, too, though RFC 8985 §6.2 step 3 sees only
    what arrives before it is sent again, as nothing does on a path that delays by more than the reordering window.
    """
    count(t.core, why)
    if why != TCPLossUndo and c.flags & TF_SACK_OK:
        board_reordered(t, c)
    board_unlose(c)
    c.tx.rack_xmit = 0                                       # what looked like a retransmission's arrival was none
    back_to_open(c)
    cc_undo(t, c)
    c.tx.prior_cwnd = 0


cdef void prr(Tcb *c, uint32_t delivered, bint progress, bint partial) noexcept nogil:
    """RFC 9937 §6 (slow start where the ACK made safe progress, conservation otherwise). `partial`: RFC 6582 wants a
    retransmission whatever the window says.
    """
    cdef uint32_t pipe = recovery_pipe(c), allowed, limit
    cdef int32_t debt
    c.tx.prr_delivered += delivered
    if pipe > c.ssthresh:
        allowed = <uint32_t>((<uint64_t>c.tx.prr_delivered * c.ssthresh + c.tx.recover_fs - 1) // c.tx.recover_fs)
        allowed = allowed - c.tx.prr_out if allowed > c.tx.prr_out else 0
    else:
        debt = <int32_t>(c.tx.prr_delivered - c.tx.prr_out)
        limit = max(delivered, <uint32_t>debt if debt > 0 else 0)
        if progress:
            limit += c.mss
        allowed = min(c.ssthresh - pipe, limit)
    if c.tx.prr_out == 0 or partial:
        allowed = max(allowed, <uint32_t>c.mss)              # the fast retransmit itself
    c.cwnd = pipe + allowed


cdef void lose_first(Tcp *t, Tcb *c) noexcept nogil:
    """Without SACK all that is known is that the first segment is missing."""
    cdef Seg *s = c.tx.seg_head
    if seg_size(s) > c.mss and not s.flags & SEG_LOST:
        seg_split(t, c, s, s.seq + c.mss)
    board_lose(c, s)


cdef uint32_t reno_duplicate(Tcp *t, Tcb *c) noexcept nogil:
    """A duplicate ACK of a peer without SACK: one more segment has left the network (RFC 5681 §3.2).

    Returns the bytes that stands for. Duplicates count for what was outstanding when the loss was found, no more:
    else a lying receiver could draw data without end (§3.2, step 4).
    """
    cdef uint32_t before = c.tx.sacked, most = c.tx.flight
    if c.ca_state >= CA_RECOVERY:
        most = min(most, c.tx.recover - c.snd_una)
    c.tx.sacked = max(before, min(before + c.mss, most))
    if c.tx.dupacks >= TCP_REORDERING and c.ca_state < CA_RECOVERY and c.tx.seg_head != NULL:
        lose_first(t, c)
    return c.tx.sacked - before


cdef void tlp_check(Tcp *t, Tcb *c, uint32_t ack, bint dsack) noexcept nogil:
    """RFC 8985 §7.4: did the probe repair a loss that nobody else saw?"""
    if not c.flags & TF_TLP_OUT or seq_lt(ack, c.tx.tlp_end):
        return
    if c.flags & TF_TLP_RETRANS and not dsack and seq_gt(ack, c.tx.tlp_end) and c.ca_state < CA_RECOVERY:
        count(t.core, TCPLossProbeRecovery)
        cc_reduce(t, c, window_validated(c, 0))              # what was in flight then is not known any more
        cc_event(t, c, CC_REDUCED)
        c.cwnd = min(c.cwnd, c.ssthresh)
        cc_event(t, c, CC_RECOVERED)
    c.flags &= ~<uint32_t>(TF_TLP_OUT | TF_TLP_RETRANS)


cdef void take_rtt(Tcp *t, Tcb *c, const Delivery *d, bint advanced) noexcept nogil:
    """Karn's rule, or a timestamp echo that can only be of what it acknowledges (RFC 7323 §4.3: only ACKs that advance
    SND.UNA).
    """
    cdef uint32_t ms
    if not advanced:
        return
    if d.rtt_xmit:
        rtt_sample(t, c, <uint32_t>min((t.core.now - d.rtt_xmit) // 1000, <uint64_t>0x7FFFFFFF))
        c.tx.backoff = 0
    elif d.echoes:
        ms = <uint32_t>(t.core.now // 1000000) - d.echo
        if ms < t.knobs.rto_max_ms:
            rtt_sample(t, c, max(ms, <uint32_t>1) * 1000)
            c.tx.backoff = 0


cdef inline uint32_t rtt_of(const Tcp *t, const Delivery *d) noexcept nogil:
    return <uint32_t>min((t.core.now - d.rtt_xmit) // 1000, <uint64_t>0x7FFFFFFF) if d.rtt_xmit else 0


cdef void grow(Tcp *t, Tcb *c, const Delivery *d) noexcept nogil:
    cdef Acked a
    a.bytes = d.bytes
    a.rtt = rtt_of(t, d)
    cc_on_ack(t, c, &a)


cdef void follow_model(Tcp *t, Tcb *c, const Delivery *d, uint32_t lost, uint32_t prior_flight) noexcept nogil:
    cdef Acked a
    a.bytes = d.bytes
    a.rtt = rtt_of(t, d)
    a.lost = lost
    a.prior_flight = prior_flight
    cc_ops(c).model(t, c, &a)


cdef bint was_spurious(Tcp *t, Tcb *c, const Delivery *d, const Options *o, bint advanced, bint over) noexcept nogil:
    """Evidence, if there is any, that what is (or was) being recovered had not been lost; acts on it."""
    cdef bint by_dsack = d.dsack and undo_by_dsack(c), by_time = advanced and undo_by_time(c, o)
    if c.ca_state == CA_LOSS:
        if not by_dsack and not by_time:
            return False
        nothing_was_lost(t, c, TCPLossUndo)
    elif c.ca_state == CA_RECOVERY and over and (by_dsack or by_time):
        nothing_was_lost(t, c, TCPFullUndo)
    elif by_dsack:                                           # often after the recovery
        nothing_was_lost(t, c, TCPDSACKUndo)
    elif c.ca_state == CA_RECOVERY and by_time and c.tx.resent == 0:
        nothing_was_lost(t, c, TCPPartialUndo)
    else:
        return False
    return True


cdef void loss_ack(Tcp *t, Tcb *c, const Delivery *d, bint advanced, bint duplicate, bint over) noexcept nogil:
    """An ACK after a time-out. F-RTO in its SACK-enhanced form (RFC 5682 §3), as Linux."""
    if c.tx.loss == LOSS_MAYBE or c.tx.loss == LOSS_ASKING:
        if d.original and (c.flags & TF_SACK_OK or not d.resent):           # step 3.b, or 2 already
            count(t.core, TCPSpuriousRTOs)
            nothing_was_lost(t, c, TCPLossUndo)
            return
        if seq_gt(c.snd_nxt, c.tx.recover):                  # step 3.a: new data was sent, and what comes is about it
            c.tx.loss = LOSS_MAYBE if advanced or not (d.bytes > 0 or duplicate) else LOSS_REAL
        elif advanced and not over:                          # step 2.b
            c.tx.recover = c.snd_nxt
            c.tx.loss = LOSS_ASKING
    if over and advanced:
        leave_recovery(t, c)


cdef uint64_t find_losses(Tcp *t, Tcb *c, const Delivery *d, bint advanced) noexcept nogil:
    """Returns when to look again, or UINT64_MAX."""
    cdef uint64_t again = UINT64_MAX
    if c.flags & TF_SACK_OK:
        if d.bytes > 0:
            again = rack_detect(t, c)
    elif advanced and c.ca_state == CA_RECOVERY and c.tx.seg_head != NULL:
        lose_first(t, c)                                     # RFC 6582 §3.2 step 3: a partial acknowledgment
    if c.ca_state < CA_RECOVERY:
        if c.tx.lost > 0:
            begin_recovery(t, c, d.bytes)
        elif c.ca_state != CA_CWR:
            c.ca_state = CA_DISORDER if c.tx.sacked > 0 else CA_OPEN
        elif seq_gt(c.snd_una, c.tx.recover):
            leave_recovery(t, c)
    return again


cdef void recovery_ack(Tcp *t, Tcb *c, uint32_t ack, const Options *o, bint duplicate) noexcept nogil:
    cdef Delivery d
    cdef uint32_t was_una = c.snd_una, lost_before = c.tx.lost, flight = recovery_pipe(c), counted
    cdef bint advanced = seq_gt(ack, c.snd_una), over
    cdef uint64_t again
    memset(&d, 0, sizeof(d))
    if c.flags & TF_TS_OK and o.have & OPT_TS and o.tsecr != 0:
        d.echoes = True
        d.echo = o.tsecr - c.ts_offset
    if c.flags & TF_SACK_OK and o.have & OPT_SACK:
        board_sack(t, c, ack, o, &d)
    if advanced:
        board_ack(t, c, ack, &d)
        if not c.flags & TF_SACK_OK and c.tx.sacked:         # NewReno: the ACK covers what duplicates were counted for
            counted = min(c.tx.sacked, ack - was_una)
            c.tx.sacked -= counted
            d.bytes -= min(counted, d.bytes)
        if c.tx.seg_head == NULL or seq_lt(c.tx.high_sacked, ack):
            c.tx.high_sacked = ack
        c.tx.retries = 0
        c.tx.retrans_since = t.core.now if c.tx.seg_head != NULL else 0
        c.tx.dupacks = 0
    take_rtt(t, c, &d, advanced)
    if d.dsack and not c.flags & TF_TLP_RETRANS:
        rack_dsack(t, c, ack)
    tlp_check(t, c, ack, d.dsack)
    if duplicate and not c.flags & TF_SACK_OK:
        c.tx.dupacks += 1
        d.bytes += reno_duplicate(t, c)
    over = seq_geq(ack, c.tx.recover)
    if c.tx.prior_cwnd == 0 or not was_spurious(t, c, &d, o, advanced, over):
        if c.ca_state == CA_LOSS:
            loss_ack(t, c, &d, advanced, duplicate, over)
        elif c.ca_state == CA_RECOVERY and over:
            leave_recovery(t, c)
    again = find_losses(t, c, &d, advanced)
    if c.flags & TF_ECN_ECE:
        c.flags &= ~<uint32_t>TF_ECN_ECE
        c.tally.delivered_ce += (d.bytes + c.mss - 1) // c.mss
        if c.ca_state < CA_CWR:
            enter_cwr(t, c, c.snd_nxt - was_una)
    rate_make(t, c, d.bytes)
    if has_model(c):
        follow_model(t, c, &d, c.tx.lost - lost_before if c.tx.lost > lost_before else 0, flight)
    elif reducing(c):
        prr(c, d.bytes, advanced and c.tx.lost <= lost_before, advanced and not c.flags & TF_SACK_OK)
    elif d.bytes > 0 and (advanced or c.ca_state == CA_LOSS) and window_used(c):
        grow(t, c, &d)
    if advanced or c.tx.timer_what != TIMER_RTO:                # an ACK that only SACKs doesn't put the time-out off
        recovery_arm(t, c)
    if again != UINT64_MAX and again < c.tx.rto_at:
        c.tx.rto_at = again
        c.tx.timer_what = TIMER_REO


cdef void recovery_late(Tcp *t, Tcb *c, uint32_t ack, const Options *o) noexcept nogil:
    if board_dsack(t, c, ack, o) and undo_by_dsack(c):
        nothing_was_lost(t, c, TCPDSACKUndo)


# ---- sending ----

cdef void recovery_sent(Tcp *t, Tcb *c, Seg *s) noexcept nogil:
    cdef bint first = c.tx.flight == 0 and c.tx.lost == 0 and c.tx.sacked == 0
    rate_sent(t, c, s)
    c.tx.flight += seg_size(s)
    if reducing(c):
        c.tx.prr_out += seg_size(s)
    seg_sent_now(t, c, s)
    if c.tx.retrans_since == 0:
        c.tx.retrans_since = t.core.now
    if first or c.tx.timer_what == TIMER_NONE or (c.tx.timer_what != TIMER_REO and probe_allowed(t, c)):
        recovery_arm(t, c)


cdef void recovery_resent(Tcp *t, Tcb *c, Seg *s) noexcept nogil:
    rate_sent(t, c, s)
    board_resent(c, s)
    undo_resent(t, c, seg_size(s))
    if s.end == c.tx.probe_end and c.tx.probe == PROBE_OUT:
        c.tx.probe = PROBE_NONE                              # what arrives says nothing of its size now
    if reducing(c):
        c.tx.prr_out += seg_size(s)
    seg_sent_now(t, c, s)
    if c.tx.timer_what != TIMER_RTO and c.tx.timer_what != TIMER_REO:
        recovery_arm(t, c)


cdef Seg *recovery_next_lost(Tcb *c) noexcept nogil:
    return board_next_lost(c, c.tx.seg_head) if c.tx.lost > 0 else NULL


cdef uint64_t probe_at(const Tcp *t, const Tcb *c, uint64_t armed) noexcept nogil:
    """RFC 8985 §7.2: two round trips, and Linux's slack; ns. With one segment in flight its ACK may be delayed: by
    Linux's longest where it is sent alone. What ACKs of every second segment have left over was sent behind others, so
    its receiver delays no longer than in a stream; and since it is that transmission's ACK that is overdue, the two
    round trips are counted from it, not from the ACK of what came before: else the repair of a tail would take four.
    Nor does it put off the probe that is armed for when such an ACK was late itself, and SRTT has become longer.
    """
    cdef uint64_t us = TLP_NO_RTT_US, late
    cdef const Seg *last = c.tx.time_tail
    if c.flags & TF_RTT_SEEN:
        us = 2 * <uint64_t>c.srtt + TLP_SLACK_US
        if c.tx.flight <= 2 * <uint32_t>c.mss and last != NULL and last.xmit_ns < t.core.now:
            late = TLP_SLACK_US + t.knobs.delack_min_us
            armed = max(armed, last.xmit_ns + (2 * <uint64_t>c.min_rtt + late) * 1000)
            return max(t.core.now, min(armed, last.xmit_ns + (2 * <uint64_t>c.srtt + late) * 1000))
        if c.tx.flight <= c.mss:
            us += t.knobs.delack_max_us
    return t.core.now + us * 1000


cdef bint probe_allowed(Tcp *t, Tcb *c) noexcept nogil:
    """RFC 8985 §7.2: one probe a flight, and none while anything else is going on."""
    return (t.knobs.early_retrans >= 3 and c.flags & TF_SACK_OK and c.ca_state == CA_OPEN and not c.flags & TF_TLP_OUT
            and c.tx.backoff == 0 and not c.tx.seg_head.flags & SEG_SYN)


cdef void recovery_arm(Tcp *t, Tcb *c) noexcept nogil:
    cdef uint64_t rto, probe = c.tx.rto_at if c.tx.timer_what == TIMER_TLP else UINT64_MAX
    if c.tx.seg_head == NULL:
        c.tx.rto_at = UINT64_MAX
        c.tx.timer_what = TIMER_NONE
        return
    rto = rtt_rto_ns(t, c)
    c.tx.timer_what = TIMER_RTO
    c.tx.rto_at = t.core.now + rto
    if probe_allowed(t, c):
        if c.tx.time_head != NULL:                               # a stream of new data can't put it off for ever
            c.tx.rto_at = min(c.tx.rto_at, c.tx.time_head.xmit_ns + rto)
        if c.tx.rto_at > t.core.now:                             # RFC 8985 §7.2: when the time-out comes first, then
            c.tx.timer_what = TIMER_TLP
            c.tx.rto_at = min(c.tx.rto_at, probe_at(t, c, probe))


cdef void recovery_refused(Tcp *t, Tcb *c) noexcept nogil:
    cdef Seg *s = c.tx.seg_head
    while s != NULL:
        board_lose(c, s)
        s = s.next
    recovery_arm(t, c)


cdef void recovery_rto(Tcp *t, Tcb *c) noexcept nogil:
    cdef Seg *s
    cdef bint first = c.ca_state < CA_RECOVERY
    if c.tx.seg_head != NULL and c.tx.seg_head.flags & SEG_SACKED:
        count(t.core, TCPSackReneging)
        board_forget_sacks(c)
    if c.ca_state < CA_LOSS or c.tx.loss == LOSS_SIZE:        # not again for a second time-out of the same window
        cc_reduce(t, c, c.snd_nxt - c.snd_una)
        c.tx.recover = c.snd_nxt
    # RFC 5682 §3: only where no other recovery is going on
    c.tx.loss = LOSS_MAYBE if t.knobs.frto and (first or c.tx.retries > 1) and c.tx.probe == PROBE_NONE else LOSS_REAL
    c.ca_state = CA_LOSS
    c.cwnd = c.mss                                            # RFC 5681 §3.1: the loss window
    cc_event(t, c, CC_LOSS)
    c.tx.dupacks = 0
    c.tx.probe = PROBE_NONE
    c.flags &= ~<uint32_t>(TF_TLP_OUT | TF_TLP_RETRANS)
    if not c.flags & TF_SACK_OK:
        c.tx.sacked = 0
    s = c.tx.seg_head
    while s != NULL:                                          # once a time-out: the window is walked
        board_lose(c, s)
        s = s.next
    if c.tx.backoff < 20:
        c.tx.backoff += 1


# ---- the path's MTU ----

cdef void resend_without_blame(Tcb *c) noexcept nogil:
    """What is marked goes again, and the window stays as it is: it was lost for its size."""
    c.tx.recover = c.snd_nxt
    c.ca_state = CA_LOSS
    c.tx.loss = LOSS_SIZE
    c.tx.prior_cwnd = 0
    c.flags &= ~<uint32_t>(TF_TLP_OUT | TF_TLP_RETRANS)


cdef bint only_probe_lost(Tcb *c) noexcept nogil:
    """RFC 4821 §7.6.2: the probe, first of what is outstanding, is all that is missing."""
    cdef Seg *s = c.tx.seg_head
    if c.tx.probe != PROBE_OUT or s.end != c.tx.probe_end or c.tx.lost != seg_size(s) or not s.flags & SEG_LOST:
        return False
    c.tx.probe = PROBE_LOST
    return True


cdef void recovery_resize(Tcp *t, Tcb *c) noexcept nogil:
    """The path carries less than was sent: what is longer than a segment is now has not arrived (a walk over the
    window, once an estimate)."""
    cdef Seg *s = c.tx.seg_head
    while s != NULL:
        if seg_size(s) > <uint32_t>c.mss + (1 if s.flags & SEG_FIN else 0):
            board_lose(c, s)
        s = s.next
    c.tx.probe = PROBE_NONE
    if c.tx.lost > 0 and c.ca_state < CA_RECOVERY:
        resend_without_blame(c)
    recovery_arm(t, c)


cdef void begin_recovery(Tcp *t, Tcb *c, uint32_t delivered) noexcept nogil:
    if only_probe_lost(c):
        resend_without_blame(c)
    else:
        enter_recovery(t, c, delivered)


cdef void recovery_reo_timer(Tcp *t, Tcb *c) noexcept nogil:
    """RFC 8985 §6.3's reordering timer: what was given time is late now."""
    cdef uint64_t again = rack_detect(t, c)
    if c.tx.lost > 0 and c.ca_state < CA_RECOVERY:
        begin_recovery(t, c, 0)
    if c.ca_state == CA_RECOVERY and not has_model(c):
        prr(c, 0, False, False)
    recovery_arm(t, c)
    if c.tx.timer_what == TIMER_RTO and c.cwnd <= recovery_pipe(c) and c.tx.time_tail != NULL:
        # Nothing goes out now: the time-out is of what went out last, or the silence were longer (RFC 6298 §5).
        c.tx.rto_at = max(t.core.now, c.tx.time_tail.xmit_ns + rtt_rto_ns(t, c))
    if again != UINT64_MAX and again < c.tx.rto_at:
        c.tx.rto_at = again
        c.tx.timer_what = TIMER_REO
