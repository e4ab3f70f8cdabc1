"""The scoreboard: what became of each range of sequence space that was sent (RFC 2018, RFC 6675 §3, RFC 2883).

Responsible for the state of the records and the counters over them; not for deciding what is lost (rack, recovery) nor
for what follows from it. A record is in one of four states, and tx.flight, tx.sacked and tx.lost count their bytes:

    in flight -> SACKED                    -> acknowledged
              -> LOST -> LOST|RETRANS      -> SACKED or acknowledged, or LOST again
              <- LOST                         where the loss turned out to be none

A record may be a superframe; it is split where a SACK block or what may be sent splits it.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from ustack_ext.base.core cimport count
from ustack_ext.net.mib cimport (
    TCPDSACKIgnoredNoUndo, TCPDSACKIgnoredOld, TCPDSACKOfoRecv, TCPDSACKRecv, TCPSACKDiscard, TCPSACKReorder,
)
from ustack_ext.tcp.congestion.rate cimport rate_delivered
from ustack_ext.tcp.sendindex cimport INDEX_LOST, INDEX_OPEN, index_changed, index_find, index_next
from ustack_ext.tcp.sendqueue cimport seg_free_head, seg_split, seg_timed_again, seg_untime, sendq_advance, sendq_drop
from ustack_ext.tcp.seq cimport seq_geq, seq_gt, seq_leq, seq_lt
from ustack_ext.tcp.tcb cimport (
    CA_LOSS, SEG_EVER_RETRANS, SEG_FIN, SEG_LOST, SEG_RETRANS, SEG_SACKED, SEG_SYN, TF_REO_SEEN, TF_SACK_OK, Seg, Tcb,
    Tcp,
)
from ustack_ext.tcp.undo cimport undo_dsack

cdef enum:
    MS = 1000000                   # ns


# ---- state changes of one record ----

cdef void uncount(Tcb *c, Seg *s) noexcept nogil:
    """Takes the record out of the counter of its state."""
    if s.flags & SEG_SACKED:
        c.tx.sacked -= seg_size(s)
    elif s.flags & SEG_LOST and not s.flags & SEG_RETRANS:
        c.tx.lost -= seg_size(s)
    else:
        c.tx.flight -= seg_size(s)
        if s.flags & SEG_RETRANS:
            c.tx.resent -= seg_size(s)


cdef void changed(Tcb *c, Seg *s) noexcept nogil:
    """Its state did: the index is told."""
    if c.tx.index != NULL:
        index_changed(c, s)


cdef void board_lose(Tcb *c, Seg *s) noexcept nogil:
    if s.flags & SEG_SACKED or (s.flags & SEG_LOST and not s.flags & SEG_RETRANS):
        return
    uncount(c, s)
    s.flags |= SEG_LOST
    s.flags &= <unsigned char>~SEG_RETRANS
    c.tx.lost += seg_size(s)
    changed(c, s)
    seg_untime(c, s)


cdef void board_resent(Tcb *c, Seg *s) noexcept nogil:
    if s.flags & SEG_LOST and not s.flags & SEG_RETRANS:
        s.flags |= SEG_RETRANS
        c.tx.lost -= seg_size(s)
        c.tx.flight += seg_size(s)
        c.tx.resent += seg_size(s)
        changed(c, s)
    s.flags |= SEG_EVER_RETRANS


cdef Seg *board_next_lost(Tcb *c, Seg *s) noexcept nogil:
    if c.tx.index != NULL and s != NULL:
        return index_next(c, s, INDEX_LOST)
    while s != NULL and s.flags & (SEG_SACKED | SEG_LOST | SEG_RETRANS) != SEG_LOST:
        s = s.next
        c.tx.steps += 1
    return s


cdef void board_unlose(Tcb *c) noexcept nogil:
    cdef Seg *s = c.tx.seg_head
    cdef Seg *chain = NULL
    cdef Seg **end = &chain
    while c.tx.lost > 0:
        s = board_next_lost(c, s)
        uncount(c, s)
        s.flags &= <unsigned char>~SEG_LOST
        c.tx.flight += seg_size(s)
        changed(c, s)
        end[0] = s
        end = &s.tnext
    seg_timed_again(c, chain)


cdef void board_reordered(Tcp *t, Tcb *c) noexcept nogil:
    if not c.flags & TF_REO_SEEN:
        count(t.core, TCPSACKReorder)
    c.flags |= TF_REO_SEEN
    c.tally.reord_seen += 1


cdef void mark_sacked(Tcp *t, Tcb *c, Seg *s, Delivery *d) noexcept nogil:
    note_delivered(t, c, s, s.end, d)
    if not s.flags & SEG_EVER_RETRANS:
        if seq_lt(s.seq, c.tx.high_sacked):
            board_reordered(t, c)
        if seq_leq(s.end, c.tx.recover):
            d.original = True
    uncount(c, s)
    s.flags |= SEG_SACKED
    s.flags &= <unsigned char>~(SEG_LOST | SEG_RETRANS)
    c.tx.sacked += seg_size(s)
    if seq_gt(s.end, c.tx.high_sacked):
        c.tx.high_sacked = s.end
    changed(c, s)
    seg_untime(c, s)


cdef void note_delivered(Tcp *t, Tcb *c, const Seg *s, uint32_t end, Delivery *d) noexcept nogil:
    """RFC 8985 §6.2 step 2: the most recently sent segment known to have arrived; of a record, what lies before end."""
    cdef uint64_t rtt = (t.core.now - s.xmit_ns) // 1000
    d.bytes += end - s.seq
    rate_delivered(t, c, s, end)
    # the ACK is for the original: says nothing of the retransmission
    if s.flags & SEG_EVER_RETRANS and rtt < c.min_rtt:
        return
    if s.xmit_ns > c.tx.rack_xmit or (s.xmit_ns == c.tx.rack_xmit and seq_gt(end, c.tx.rack_end)):
        c.tx.rack_xmit = s.xmit_ns
        c.tx.rack_end = end
        c.tx.rack_rtt = <uint32_t>min(rtt, <uint64_t>0x7FFFFFFF)


# ---- the cumulative acknowledgement ----

cdef void note_acked(Tcp *t, Tcb *c, Seg *s, uint32_t end, Delivery *d) noexcept nogil:
    """What lies before `end` of a record that was not SACKed."""
    if s.flags & SEG_EVER_RETRANS:
        d.resent = True
        if d.echoes and <int32_t>(d.echo - <uint32_t>(s.xmit_ns // MS)) < 0:
            d.bytes += end - s.seq                           # §6.2 step 2: it answers an earlier transmission
            rate_delivered(t, c, s, end)
            return
    else:
        d.rtt_xmit = s.xmit_ns
        if seq_leq(end, c.tx.recover):
            d.original = True
        if seq_lt(s.seq, c.tx.high_sacked) and c.flags & TF_SACK_OK and end == s.end:
            board_reordered(t, c)
    note_delivered(t, c, s, end, d)


cdef void board_ack(Tcp *t, Tcb *c, uint32_t ack, Delivery *d) noexcept nogil:
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
            note_acked(t, c, s, s.end, d)
        uncount(c, s)
        seg_free_head(t, c)
    c.snd_una = ack
    sendq_drop(t, c, data)


cdef void trim_head(Tcp *t, Tcb *c, Seg *s, uint32_t ack, Delivery *d) noexcept nogil:
    if not s.flags & SEG_SACKED:
        note_acked(t, c, s, ack, d)
    uncount(c, s)
    sendq_advance(&s.block, &s.block_off, ack - s.seq)
    s.seq = ack
    if s.flags & SEG_SACKED:
        c.tx.sacked += seg_size(s)
    elif s.flags & SEG_LOST and not s.flags & SEG_RETRANS:
        c.tx.lost += seg_size(s)
    else:
        c.tx.flight += seg_size(s)
        if s.flags & SEG_RETRANS:
            c.tx.resent += seg_size(s)


# ---- SACK blocks ----

cdef Seg *holding(Tcb *c, uint32_t seq) noexcept nogil:
    """The record that holds seq, or the first behind it; NULL: none."""
    cdef Seg *s = c.tx.seg_head
    if c.tx.index != NULL:
        return index_find(c, seq)
    while s != NULL and seq_leq(s.end, seq):
        s = s.next
        c.tx.steps += 1
    return s


cdef Seg *next_open(Tcb *c, Seg *s) noexcept nogil:
    """From s on the first that is not SACKed."""
    if c.tx.index != NULL:
        return index_next(c, s, INDEX_OPEN)
    while s != NULL and s.flags & SEG_SACKED:
        s = s.next
        c.tx.steps += 1
    return s


cdef bint cut_left(Tcp *t, Tcb *c, Seg **s, uint32_t left) noexcept nogil:
    """s holds the left edge of a block: makes it the first record of which all may be meant. False: no memory.

    A record is cut between its segments and nowhere else, as Linux cuts: else each byte in a window could be made a
    record of its own. A segment that is not SACKed as a whole has not arrived.
    """
    cdef uint32_t keep = (left - s[0].seq + c.mss - 1) // c.mss * c.mss
    if keep < seg_size(s[0]):
        s[0] = seg_split(t, c, s[0], s[0].seq + keep)
        return s[0] != NULL
    s[0] = s[0].next
    return True


cdef bint cut_right(Tcp *t, Tcb *c, Seg *s, uint32_t right) noexcept nogil:
    """s holds the right edge: leaves in it what the block covers. False: nothing, or no memory."""
    cdef uint32_t keep = (right - s.seq) // c.mss * c.mss
    return keep > 0 and seg_split(t, c, s, s.seq + keep) != NULL


cdef void sack_block(Tcp *t, Tcb *c, uint32_t left, uint32_t right, Delivery *d) noexcept nogil:
    """Marks the segments inside [left, right)."""
    cdef Seg *s = holding(c, left)
    if s != NULL and seq_lt(s.seq, left) and not s.flags & SEG_SACKED and not cut_left(t, c, &s, left):
        return
    if s != NULL:
        s = next_open(c, s)
    while s != NULL and seq_lt(s.seq, right):
        if seq_gt(s.end, right) and not cut_right(t, c, s, right):
            break
        mark_sacked(t, c, s, d)
        c.tx.steps += 1
        s = s.next
        if s != NULL and s.flags & SEG_SACKED:
            s = next_open(c, s)


cdef void board_sack(Tcp *t, Tcb *c, uint32_t ack, const Options *o, Delivery *d) noexcept nogil:
    cdef uint32_t i, left, right
    for i in range(o.nsack):
        left = o.sack[2 * i]
        right = o.sack[2 * i + 1]
        if i == 0 and board_dsack(t, c, ack, o):
            d.dsack = True
            continue
        if seq_geq(left, right) or seq_lt(left, ack) or seq_gt(right, c.snd_nxt):
            count(t.core, TCPSACKDiscard)
            continue
        sack_block(t, c, left, right, d)


cdef bint board_dsack(Tcp *t, Tcb *c, uint32_t ack, const Options *o) noexcept nogil:
    """RFC 2883 §4: whether the first block reports a duplicate, which is then counted."""
    if not is_dsack(o, ack):
        return False
    count(t.core, TCPDSACKRecv if seq_lt(o.sack[0], ack) else TCPDSACKOfoRecv)
    c.tally.dsack_dups += 1
    if not undo_dsack(c, o.sack[0], o.sack[1]):
        count(t.core, TCPDSACKIgnoredOld if c.tx.prior_cwnd else TCPDSACKIgnoredNoUndo)
    elif c.ca_state != CA_LOSS:                              # after a fast retransmit what was not lost was late
        board_reordered(t, c)
    return True


cdef bint is_dsack(const Options *o, uint32_t ack) noexcept nogil:
    if seq_lt(o.sack[0], ack):
        return seq_leq(o.sack[1], ack)
    return o.nsack > 1 and seq_geq(o.sack[0], o.sack[2]) and seq_leq(o.sack[1], o.sack[3])


cdef void board_forget_sacks(Tcb *c) noexcept nogil:
    """RFC 2018 §8."""
    cdef Seg *s = c.tx.seg_head
    while s != NULL:
        if s.flags & SEG_SACKED:
            s.flags = s.flags & <unsigned char>~SEG_SACKED
            c.tx.sacked -= seg_size(s)
            c.tx.flight += seg_size(s)
            changed(c, s)
        s = s.next
    c.tx.high_sacked = c.snd_una
