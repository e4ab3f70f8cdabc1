"""Loss detection and recovery over the records of sent segments.

In it: the scoreboard (RFC 2018), RACK-TLP (RFC 8985), proportional rate reduction (RFC 6937),
                       NewReno for peers without SACK (RFC 6582),
what a retransmission time-out does (RFC 6298 §5, RFC 5681 §3.1). Each record is in one of four states, and tx.flight,
tx.sacked and tx.lost count their bytes:

    in flight -> SACKED                    -> acknowledged
              -> LOST -> LOST|RETRANS      -> SACKED or acknowledged, or LOST again
"""
from libc.stdint cimport UINT64_MAX, int32_t, uint32_t, uint64_t, uint8_t

from ustack_ext.base.core cimport count
from ustack_ext.net.mib cimport (
    TCPDSACKRecv, TCPLossProbeRecovery, TCPLostRetransmit, TCPRenoRecovery, TCPSACKDiscard, TCPSackRecovery,
    TCPSackReneging,
)
from ustack_ext.tcp.congestion.cc cimport cc_event, cc_on_ack, cc_ops, cc_reduce
from ustack_ext.tcp.congestion.ops cimport CC_LOSS, CC_RECOVERED, CC_REDUCED, Acked
from ustack_ext.tcp.congestion.rate cimport rate_delivered, rate_make
from ustack_ext.tcp.congestion.usage cimport window_used
from ustack_ext.tcp.options cimport OPT_SACK, OPT_TS, Options
from ustack_ext.tcp.rtt cimport rtt_rto_ns, rtt_sample
from ustack_ext.tcp.sendqueue cimport seg_free_head, seg_sent_now, seg_split, seg_untime, sendq_advance, sendq_drop
from ustack_ext.tcp.seq cimport seq_geq, seq_gt, seq_leq, seq_lt
from ustack_ext.tcp.tcb cimport (
    CA_CWR, CA_DISORDER, CA_LOSS, CA_OPEN, CA_RECOVERY, PROBE_LOST, PROBE_NONE, PROBE_OUT, SEG_EVER_RETRANS,
    SEG_FIN, SEG_LOST, SEG_RETRANS, SEG_SACKED, SEG_SYN, TCP_REORDERING, TF_ECN_CWR, TF_ECN_ECE, TF_REO_SEEN,
    TF_RTT_SEEN, TF_SACK_OK, TF_TLP_OUT, TF_TLP_RETRANS, TF_TS_OK, TIMER_NONE, TIMER_REO, TIMER_RTO, TIMER_TLP, Seg,
    Tcb, Tcp,
)

cdef enum:
    TLP_SLACK_US = 2000            # on top of 2 SRTT
    TLP_NO_RTT_US = 1000000
    REO_WND_MIN_US = 1000

cdef struct Delivery:              # what one ACK told us
    uint32_t bytes                 # newly acknowledged or SACKed
    # transmission time of the newest never-retransmitted segment cumulatively acknowledged; 0: none
    uint64_t rtt_xmit
    bint dsack


cdef uint32_t recovery_pipe(const Tcb *c) noexcept nogil:
    """flight, less what duplicate ACKs of a peer without SACK stand for (c.tx.sacked is an estimate then)."""
    if c.flags & TF_SACK_OK:
        return c.tx.flight
    return c.tx.flight - min(c.tx.flight, c.tx.sacked)


# ---- state changes of one record ----

cdef inline uint32_t size_of(const Seg *s) noexcept nogil:
    return s.end - s.seq


cdef void uncount(Tcb *c, Seg *s) noexcept nogil:
    """Takes the record out of the counter of its state."""
    if s.flags & SEG_SACKED:
        c.tx.sacked -= size_of(s)
    elif s.flags & SEG_LOST and not s.flags & SEG_RETRANS:
        c.tx.lost -= size_of(s)
    else:
        c.tx.flight -= size_of(s)


cdef void mark_lost(Tcb *c, Seg *s) noexcept nogil:
    if s.flags & SEG_SACKED or (s.flags & SEG_LOST and not s.flags & SEG_RETRANS):
        return
    uncount(c, s)
    s.flags |= SEG_LOST
    s.flags &= <unsigned char>~SEG_RETRANS
    c.tx.lost += size_of(s)
    seg_untime(c, s)
    if c.tx.retrans_hint == NULL or seq_lt(s.seq, c.tx.retrans_hint.seq):
        c.tx.retrans_hint = s


cdef void mark_sacked(Tcp *t, Tcb *c, Seg *s, Delivery *d) noexcept nogil:
    note_delivered(t, c, s, s.end, d)
    if seq_lt(s.seq, c.tx.high_sacked) and not s.flags & SEG_EVER_RETRANS:
        # RFC 8985 §6.2 step 4: an original below the highest SACKed arrived late
        c.flags |= TF_REO_SEEN
    uncount(c, s)
    s.flags |= SEG_SACKED
    s.flags &= <unsigned char>~(SEG_LOST | SEG_RETRANS)
    c.tx.sacked += size_of(s)
    seg_untime(c, s)


cdef void note_delivered(Tcp *t, Tcb *c, const Seg *s, uint32_t end, Delivery *d) noexcept nogil:
    """RFC 8985 §6.2 step 2: the most recently sent segment known to have arrived; of a record, what lies before end."""
    cdef uint64_t rtt = (t.core.now - s.xmit_ns) // 1000
    d.bytes += end - s.seq
    if s.rated:
        rate_delivered(t, c, s, end)
    # the ACK is for the original: says nothing of the retransmission
    if s.flags & SEG_EVER_RETRANS and rtt < c.min_rtt:
        return
    if s.xmit_ns > c.tx.rack_xmit or (s.xmit_ns == c.tx.rack_xmit and seq_gt(end, c.tx.rack_end)):
        c.tx.rack_xmit = s.xmit_ns
        c.tx.rack_end = end
        c.tx.rack_rtt = <uint32_t>min(rtt, <uint64_t>0x7FFFFFFF)


# ---- the cumulative acknowledgement ----

cdef void ack_records(Tcp *t, Tcb *c, uint32_t ack, Delivery *d) noexcept nogil:
    cdef Seg *s
    cdef uint32_t data = ack - c.snd_una
    while c.tx.seg_head != NULL:
        s = c.tx.seg_head
        if seq_gt(s.end, ack):
            if seq_gt(ack, s.seq):                          # part of a record
                trim_head(t, c, s, ack, d)
            break
        if s.flags & (SEG_SYN | SEG_FIN):
            data -= 1
        if not s.flags & SEG_SACKED:
            if s.flags & SEG_EVER_RETRANS == 0:
                d.rtt_xmit = s.xmit_ns
                if seq_lt(s.seq, c.tx.high_sacked) and c.flags & TF_SACK_OK:
                    c.flags |= TF_REO_SEEN
            note_delivered(t, c, s, s.end, d)
        uncount(c, s)
        seg_free_head(t, c)
    c.snd_una = ack
    sendq_drop(t, c, data)


cdef void trim_head(Tcp *t, Tcb *c, Seg *s, uint32_t ack, Delivery *d) noexcept nogil:
    if not s.flags & SEG_SACKED:
        if not s.flags & SEG_EVER_RETRANS:
            d.rtt_xmit = s.xmit_ns
        note_delivered(t, c, s, ack, d)
    uncount(c, s)
    sendq_advance(&s.block, &s.block_off, ack - s.seq)
    s.seq = ack
    if s.flags & SEG_SACKED:
        c.tx.sacked += size_of(s)
    elif s.flags & SEG_LOST and not s.flags & SEG_RETRANS:
        c.tx.lost += size_of(s)
    else:
        c.tx.flight += size_of(s)


# ---- SACK blocks ----

cdef bint sack_block(Tcp *t, Tcb *c, uint32_t left, uint32_t right, Delivery *d) noexcept nogil:
    """Marks the records inside [left, right). False: nothing new in it."""
    cdef Seg *s = c.tx.sack_hint
    cdef bint fresh = False
    if s == NULL:
        s = c.tx.seg_head
    while s != NULL and seq_gt(s.seq, left) and s.prev != NULL:
        s = s.prev
    while s != NULL and seq_leq(s.end, left):
        s = s.next
    if s != NULL and seq_lt(s.seq, left) and not s.flags & SEG_SACKED:
        s = seg_split(t, c, s, left)
    while s != NULL and seq_lt(s.seq, right):
        if seq_gt(s.end, right) and (s.flags & SEG_SACKED or seg_split(t, c, s, right) == NULL):
            break
        if not s.flags & SEG_SACKED:
            mark_sacked(t, c, s, d)
            fresh = True
        c.tx.sack_hint = s
        s = s.next
    if seq_gt(right, c.tx.high_sacked):
        c.tx.high_sacked = right
    return fresh


cdef void read_sacks(Tcp *t, Tcb *c, uint32_t ack, const Options *o, Delivery *d) noexcept nogil:
    cdef uint32_t i, k, left, right, known
    for i in range(o.nsack):
        left = o.sack[2 * i]
        right = o.sack[2 * i + 1]
        if i == 0 and is_dsack(o, ack):                      # RFC 2883 §4
            d.dsack = True
            count(t.core, TCPDSACKRecv)
            continue
        if seq_geq(left, right) or seq_lt(left, ack) or seq_gt(right, c.snd_nxt):
            count(t.core, TCPSACKDiscard)
            continue
        # the usual block is a known one, or one that grew to the right
        for k in range(4):
            known = c.tx.sack_cache[2 * k + 1]
            if c.tx.sack_cache[2 * k] == left and seq_leq(known, right) and seq_gt(known, left):
                left = known
                break
        if left != right:
            sack_block(t, c, left, right, d)
    for i in range(8):
        c.tx.sack_cache[i] = o.sack[i] if i < 2 * <uint32_t>o.nsack and seq_geq(o.sack[i & ~1], ack) else 0


cdef bint is_dsack(const Options *o, uint32_t ack) noexcept nogil:
    if seq_lt(o.sack[0], ack):
        return seq_leq(o.sack[1], ack)
    return o.nsack > 1 and seq_geq(o.sack[0], o.sack[2]) and seq_leq(o.sack[1], o.sack[3])


cdef void forget_sacks(Tcb *c) noexcept nogil:
    """The receiver dropped what it had SACKed (RFC 2018 §8)."""
    cdef Seg *s = c.tx.seg_head
    cdef int i
    while s != NULL:
        if s.flags & SEG_SACKED:
            s.flags = s.flags & <unsigned char>~SEG_SACKED
            c.tx.sacked -= size_of(s)
            c.tx.flight += size_of(s)
        s = s.next
    for i in range(8):
        c.tx.sack_cache[i] = 0
    c.tx.high_sacked = c.snd_una


# ---- RACK ----

cdef uint32_t reo_window(Tcb *c) noexcept nogil:
    """RFC 8985 §6.2 step 4, us: no patience while no reordering was seen and there is other evidence of loss."""
    if not c.flags & TF_REO_SEEN and (c.ca_state >= CA_RECOVERY or c.tx.sacked >= TCP_REORDERING * <uint32_t>c.mss):
        return 0
    return min(max(c.min_rtt // 4, <uint32_t>REO_WND_MIN_US), max(c.srtt, <uint32_t>REO_WND_MIN_US))


cdef uint64_t rack_detect(Tcp *t, Tcb *c) noexcept nogil:
    """Marks what was sent long enough before something that arrived. Returns when to look again (ns), or UINT64_MAX."""
    cdef uint64_t patience = (<uint64_t>c.tx.rack_rtt + reo_window(c)) * 1000
    cdef Seg *s = c.tx.time_head
    cdef Seg *nxt
    while s != NULL:
        if s.xmit_ns > c.tx.rack_xmit or (s.xmit_ns == c.tx.rack_xmit and seq_geq(s.end, c.tx.rack_end)):
            break
        if s.xmit_ns + patience > t.core.now:
            return s.xmit_ns + patience
        nxt = s.tnext
        if s.flags & SEG_RETRANS:
            count(t.core, TCPLostRetransmit)
        mark_lost(c, s)
        s = nxt
    return UINT64_MAX


# ---- the congestion states ----

cdef void reduce_window(Tcp *t, Tcb *c, uint32_t flight) noexcept nogil:
    """Congestion was found with so many bytes in flight: from here cwnd follows RFC 6937."""
    c.tx.recover_fs = max(flight, <uint32_t>1)
    c.tx.prr_delivered = 0
    c.tx.prr_out = 0
    cc_reduce(t, c, flight)
    cc_event(t, c, CC_REDUCED)


cdef void enter_cwr(Tcp *t, Tcb *c, uint32_t flight) noexcept nogil:
    """RFC 3168 §6.1.2: a mark is answered as a loss is, once a window; nothing is sent again."""
    c.ca_state = CA_CWR
    c.tx.recover = c.snd_nxt
    reduce_window(t, c, flight)
    c.tx.prior_cwnd = 0                                       # nothing can show that it was for nothing
    c.flags |= TF_ECN_CWR


cdef inline bint reducing(const Tcb *c) noexcept nogil:
    return c.ca_state == CA_RECOVERY or c.ca_state == CA_CWR


cdef void enter_recovery(Tcp *t, Tcb *c) noexcept nogil:
    cdef uint8_t was = c.ca_state
    c.ca_state = CA_RECOVERY
    c.tx.recover = c.snd_nxt
    if was != CA_CWR:                                         # that reduction holds for this window, too
        reduce_window(t, c, c.snd_nxt - c.snd_una)
    count(t.core, TCPSackRecovery if c.flags & TF_SACK_OK else TCPRenoRecovery)


cdef inline bint has_model(const Tcb *c) noexcept nogil:
    """Whether the congestion control algorithm sets cwnd in recovery, too."""
    return c.tx.cc != NULL and c.tx.cc.rated


cdef void leave_recovery(Tcp *t, Tcb *c) noexcept nogil:
    if reducing(c) and not has_model(c):
        c.cwnd = max(c.ssthresh, 2 * <uint32_t>c.mss)
    c.ca_state = CA_OPEN
    cc_event(t, c, CC_RECOVERED)
    c.tx.dupacks = 0
    if not c.flags & TF_SACK_OK:
        c.tx.sacked = 0


cdef void prr(Tcb *c, uint32_t delivered, bint progress, bint partial) noexcept nogil:
    """RFC 6937 §3.1 (SSRB where the ACK made progress, CRB otherwise). `partial`: RFC 6582 wants a retransmission
    whatever the window says.
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
    if size_of(s) > c.mss and not s.flags & SEG_LOST:
        seg_split(t, c, s, s.seq + c.mss)
    mark_lost(c, s)


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
        cc_reduce(t, c, c.cwnd)                              # what was in flight then is not known any more
        cc_event(t, c, CC_REDUCED)
        c.cwnd = min(c.cwnd, c.ssthresh)
        cc_event(t, c, CC_RECOVERED)
    c.flags &= ~<uint32_t>(TF_TLP_OUT | TF_TLP_RETRANS)


cdef void take_rtt(Tcp *t, Tcb *c, const Options *o, const Delivery *d, bint advanced) noexcept nogil:
    """Karn's rule, or a timestamp echo that can only be of what it acknowledges (RFC 7323 §4.3: only ACKs that advance
    SND.UNA).
    """
    cdef uint32_t ms
    if not advanced:
        return
    if d.rtt_xmit:
        rtt_sample(t, c, <uint32_t>min((t.core.now - d.rtt_xmit) // 1000, <uint64_t>0x7FFFFFFF))
        c.tx.backoff = 0
    elif c.flags & TF_TS_OK and o.have & OPT_TS and o.tsecr != 0:
        ms = <uint32_t>(t.core.now // 1000000) + c.ts_offset - o.tsecr
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
    rate_make(t, c, d.bytes)
    a.bytes = d.bytes
    a.rtt = rtt_of(t, d)
    a.lost = lost
    a.prior_flight = prior_flight
    cc_ops(c).model(t, c, &a)
    c.tx.cc.sample.prior_at = 0


cdef void recovery_ack(Tcp *t, Tcb *c, uint32_t ack, const Options *o, bint duplicate) noexcept nogil:
    cdef Delivery d
    cdef uint32_t was_una = c.snd_una, lost_before = c.tx.lost, flight = recovery_pipe(c), counted
    cdef bint advanced = seq_gt(ack, c.snd_una)
    cdef uint64_t again = UINT64_MAX
    d.bytes = 0
    d.rtt_xmit = 0
    d.dsack = False
    if c.flags & TF_SACK_OK and o.have & OPT_SACK:
        read_sacks(t, c, ack, o, &d)
    if advanced:
        ack_records(t, c, ack, &d)
        if not c.flags & TF_SACK_OK and c.tx.sacked:         # NewReno: the ACK covers what duplicates were counted for
            counted = min(c.tx.sacked, ack - was_una)
            c.tx.sacked -= counted
            d.bytes -= min(counted, d.bytes)
        if c.tx.seg_head == NULL or seq_lt(c.tx.high_sacked, ack):
            c.tx.high_sacked = ack
        c.tx.retries = 0
        c.tx.retrans_since = t.core.now if c.tx.seg_head != NULL else 0
    take_rtt(t, c, o, &d, advanced)
    tlp_check(t, c, ack, d.dsack)
    if advanced:
        c.tx.dupacks = 0
    if duplicate and not c.flags & TF_SACK_OK:
        c.tx.dupacks += 1
        d.bytes += reno_duplicate(t, c)
    if c.ca_state >= CA_RECOVERY and seq_geq(ack, c.tx.recover) and (c.ca_state == CA_RECOVERY or advanced):
        leave_recovery(t, c)
    if c.flags & TF_SACK_OK:
        if d.bytes > 0:
            again = rack_detect(t, c)
    elif advanced and c.ca_state == CA_RECOVERY and c.tx.seg_head != NULL:
        lose_first(t, c)                                     # RFC 6582 §3.2 step 3: a partial acknowledgment
    if c.ca_state < CA_RECOVERY:
        if c.tx.lost > 0:
            if only_probe_lost(c):
                resend_without_blame(c)
            else:
                enter_recovery(t, c)
        elif c.ca_state != CA_CWR:
            c.ca_state = CA_DISORDER if c.tx.sacked > 0 else CA_OPEN
        elif seq_gt(ack, c.tx.recover):
            leave_recovery(t, c)
    if c.flags & TF_ECN_ECE:
        c.flags &= ~<uint32_t>TF_ECN_ECE
        if c.ca_state < CA_CWR:
            enter_cwr(t, c, c.snd_nxt - was_una)
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


# ---- sending ----

cdef void recovery_sent(Tcp *t, Tcb *c, Seg *s) noexcept nogil:
    cdef bint first = c.tx.flight == 0 and c.tx.lost == 0 and c.tx.sacked == 0
    c.tx.flight += size_of(s)
    if reducing(c):
        c.tx.prr_out += size_of(s)
    seg_sent_now(t, c, s)
    if c.tx.retrans_since == 0:
        c.tx.retrans_since = t.core.now
    if first or c.tx.timer_what == TIMER_NONE or (c.tx.timer_what != TIMER_REO and probe_allowed(t, c)):
        recovery_arm(t, c)


cdef void recovery_resent(Tcp *t, Tcb *c, Seg *s) noexcept nogil:
    if s.flags & SEG_LOST and not s.flags & SEG_RETRANS:
        s.flags |= SEG_RETRANS
        c.tx.lost -= size_of(s)
        c.tx.flight += size_of(s)
    s.flags |= SEG_EVER_RETRANS
    if s.end == c.tx.probe_end and c.tx.probe == PROBE_OUT:
        c.tx.probe = PROBE_NONE                              # what arrives says nothing of its size now
    if reducing(c):
        c.tx.prr_out += size_of(s)
    seg_sent_now(t, c, s)
    if c.tx.timer_what != TIMER_RTO and c.tx.timer_what != TIMER_REO:
        recovery_arm(t, c)


cdef Seg *recovery_next_lost(Tcb *c) noexcept nogil:
    cdef Seg *s = c.tx.retrans_hint
    if c.tx.lost == 0:
        c.tx.retrans_hint = NULL
        return NULL
    if s == NULL:
        s = c.tx.seg_head
    while s != NULL and (not s.flags & SEG_LOST or s.flags & SEG_RETRANS):
        s = s.next
    c.tx.retrans_hint = s
    return s


cdef uint64_t probe_timeout_ns(Tcp *t, Tcb *c) noexcept nogil:
    """RFC 8985 §7.2, with Linux's slack."""
    cdef uint64_t us = TLP_NO_RTT_US
    if c.flags & TF_RTT_SEEN:
        us = 2 * <uint64_t>c.srtt + TLP_SLACK_US
        if c.tx.flight <= c.mss:
            us += t.knobs.delack_max_us
    return us * 1000


cdef bint probe_allowed(Tcp *t, Tcb *c) noexcept nogil:
    """RFC 8985 §7.2: one probe a flight, and none while anything else is going on."""
    return (t.knobs.early_retrans >= 3 and c.flags & TF_SACK_OK and c.ca_state == CA_OPEN and not c.flags & TF_TLP_OUT
            and c.tx.backoff == 0 and not c.tx.seg_head.flags & SEG_SYN)


cdef void recovery_arm(Tcp *t, Tcb *c) noexcept nogil:
    cdef uint64_t rto, pto
    if c.tx.seg_head == NULL:
        c.tx.rto_at = UINT64_MAX
        c.tx.timer_what = TIMER_NONE
        return
    rto = rtt_rto_ns(t, c)
    c.tx.timer_what = TIMER_RTO
    c.tx.rto_at = t.core.now + rto
    if probe_allowed(t, c):
        pto = t.core.now + probe_timeout_ns(t, c)
        if c.tx.time_head != NULL:                               # a stream of new data can't put it off for ever
            c.tx.rto_at = min(c.tx.rto_at, c.tx.time_head.xmit_ns + rto)
        if pto < c.tx.rto_at:
            c.tx.timer_what = TIMER_TLP
            c.tx.rto_at = pto


cdef void recovery_rto(Tcp *t, Tcb *c) noexcept nogil:
    cdef Seg *s
    if c.tx.seg_head != NULL and c.tx.seg_head.flags & SEG_SACKED:
        count(t.core, TCPSackReneging)
        forget_sacks(c)
    if c.ca_state < CA_LOSS:                                  # not again for a second time-out of the same window
        cc_reduce(t, c, c.snd_nxt - c.snd_una)
        c.tx.recover = c.snd_nxt
    c.ca_state = CA_LOSS
    c.cwnd = c.mss                                            # RFC 5681 §3.1: the loss window
    c.tx.cc_acked = 0
    cc_event(t, c, CC_LOSS)
    c.tx.dupacks = 0
    c.tx.probe = PROBE_NONE
    c.flags &= ~<uint32_t>(TF_TLP_OUT | TF_TLP_RETRANS)
    if not c.flags & TF_SACK_OK:
        c.tx.sacked = 0
    s = c.tx.seg_head
    while s != NULL:                                          # once a time-out: the window is walked
        mark_lost(c, s)
        s = s.next
    if c.tx.backoff < 20:
        c.tx.backoff += 1


# ---- the path's MTU ----

cdef void resend_without_blame(Tcb *c) noexcept nogil:
    """What is marked goes again, and the window stays as it is: it was lost for its size."""
    c.tx.recover = c.snd_nxt
    c.ca_state = CA_LOSS
    c.flags &= ~<uint32_t>(TF_TLP_OUT | TF_TLP_RETRANS)


cdef bint only_probe_lost(Tcb *c) noexcept nogil:
    """RFC 4821 §7.6.2: the probe, first of what is outstanding, is all that is missing."""
    cdef Seg *s = c.tx.seg_head
    if c.tx.probe != PROBE_OUT or s.end != c.tx.probe_end or c.tx.lost != size_of(s) or not s.flags & SEG_LOST:
        return False
    c.tx.probe = PROBE_LOST
    return True


cdef void recovery_resize(Tcp *t, Tcb *c) noexcept nogil:
    """The path carries less than was sent: what is longer than a segment is now has not arrived (a walk over the
    window, once an estimate)."""
    cdef Seg *s = c.tx.seg_head
    while s != NULL:
        if size_of(s) > <uint32_t>c.mss + (1 if s.flags & SEG_FIN else 0):
            mark_lost(c, s)
        s = s.next
    c.tx.probe = PROBE_NONE
    if c.tx.lost > 0 and c.ca_state < CA_RECOVERY:
        resend_without_blame(c)
    recovery_arm(t, c)


cdef void recovery_reo_timer(Tcp *t, Tcb *c) noexcept nogil:
    """RFC 8985 §6.3's reordering timer: what was given time is late now."""
    cdef uint64_t again = rack_detect(t, c)
    if c.tx.lost > 0 and c.ca_state < CA_RECOVERY:
        if only_probe_lost(c):
            resend_without_blame(c)
        else:
            enter_recovery(t, c)
    if c.ca_state == CA_RECOVERY and not has_model(c):
        prr(c, 0, False, False)
    recovery_arm(t, c)
    if again != UINT64_MAX and again < c.tx.rto_at:
        c.tx.rto_at = again
        c.tx.timer_what = TIMER_REO
