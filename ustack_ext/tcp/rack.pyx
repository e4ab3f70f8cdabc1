"""RACK's loss detection (RFC 8985 §6): a segment is lost if one sent sufficiently later has arrived.

Responsible for the reordering window and for marking; RACK.xmit_ts, RACK.end_seq and RACK.rtt are kept by the
scoreboard as data arrives. The records are in the order of their last transmission too, and what is marked leaves
that order, so a look costs what it finds and one record more.
"""
from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t

from ustack_ext.base.core cimport count
from ustack_ext.net.mib cimport TCPLostRetransmit
from ustack_ext.tcp.scoreboard cimport board_lose
from ustack_ext.tcp.seq cimport seq_geq
from ustack_ext.tcp.tcb cimport CA_RECOVERY, SEG_RETRANS, TCP_REORDERING, TF_REO_SEEN, Seg, Tcb, Tcp

cdef enum:
    REO_WND_MIN_US = 1000
    REO_MULT_MAX = 255
    REO_PERSIST = 16               # recoveries that a widened window lasts
    STATIC_WINDOW = 2              # tcp_recovery's bit


cdef uint32_t reo_window(Tcb *c) noexcept nogil:
    """RFC 8985 §6.2 step 4, us: no patience while no reordering was seen and there is other evidence of loss."""
    if not c.flags & TF_REO_SEEN and (c.ca_state >= CA_RECOVERY or c.tx.sacked >= TCP_REORDERING * <uint32_t>c.mss):
        return 0
    return <uint32_t>min(max((c.tx.reo_more + <uint64_t>1) * c.min_rtt // 4, <uint64_t>REO_WND_MIN_US),
                         <uint64_t>max(c.srtt, <uint32_t>REO_WND_MIN_US))


cdef void rack_dsack(Tcp *t, Tcb *c, uint32_t ack) noexcept nogil:
    """§6.2 step 4: the window doubles once a round trip in which something was sent again for nothing: a path that
    delays by a round trip has shown it after two of them, not three (the RFC leaves the measure open).
    """
    if t.knobs.recovery & STATIC_WINDOW or (c.tx.reo_persist > 0 and not seq_geq(ack, c.tx.dsack_round)):
        return
    c.tx.dsack_round = c.snd_nxt
    c.tx.reo_persist = REO_PERSIST
    c.tx.reo_more = <uint8_t>min(2 * c.tx.reo_more + 1, REO_MULT_MAX)


cdef void rack_recovered(Tcb *c) noexcept nogil:
    if c.tx.reo_persist > 0:
        c.tx.reo_persist -= 1
        if c.tx.reo_persist == 0:
            c.tx.reo_more = 0


cdef uint64_t rack_detect(Tcp *t, Tcb *c) noexcept nogil:
    cdef uint64_t patience = (<uint64_t>c.tx.rack_rtt + reo_window(c)) * 1000
    cdef Seg *s = c.tx.time_head
    cdef Seg *nxt
    while s != NULL:
        if s.xmit_ns > c.tx.rack_xmit or (s.xmit_ns == c.tx.rack_xmit and seq_geq(s.end, c.tx.rack_end)):
            break
        if s.xmit_ns + patience > t.core.now:
            return s.xmit_ns + patience
        c.tx.steps += 1
        nxt = s.tnext
        if s.flags & SEG_RETRANS:
            count(t.core, TCPLostRetransmit)
        board_lose(c, s)
        s = nxt
    return UINT64_MAX
