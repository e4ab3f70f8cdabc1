"""When to acknowledge (RFC 9293 §3.8.6.3, RFC 5681 §4.2), and the limits of ACKs that an attacker could provoke (RFC
5961 §7).
"""
from libc.stdint cimport UINT64_MAX, uint16_t, uint32_t, uint64_t

from ustack_ext.base.core cimport count
from ustack_ext.base.rng cimport rng_below
from ustack_ext.net.mib cimport TCPACKSkippedChallenge, TCPACKSkippedSeq, TCPChallengeACK
from ustack_ext.tcp.output cimport send_ack
from ustack_ext.tcp.tcb cimport TF_ACK_DELAYED, TF_ACK_NOW, Tcb, Tcp

cdef enum:
    NS = 1000000000


cdef void adapt(Tcp *t, Tcb *c) noexcept nogil:
    """The delay follows the gaps between segments, between tcp_delack_min and tcp_delack_max, as Linux's ato."""
    cdef uint64_t gap = (t.core.now - c.last_recv) // 1000
    cdef uint32_t least = t.knobs.delack_min_us
    if gap <= least // 2:
        c.ato = c.ato // 2 + least // 2
    elif gap < c.ato:
        c.ato = c.ato // 2 + <uint32_t>gap
    elif gap > c.rto:
        # after a pause the sender may be in slow start: don't keep it waiting
        c.quick = max(c.quick, 2)
    c.ato = min(max(c.ato, least), t.knobs.delack_max_us)


cdef void ack_data(Tcp *t, Tcb *c, uint32_t segment) noexcept nogil:
    adapt(t, c)
    if segment > c.rcv_mss:
        c.rcv_mss = <uint16_t>min(segment, <uint32_t>0xFFFF)
    if c.reasm != NULL or c.flags & TF_ACK_NOW:
        c.flags |= TF_ACK_NOW                                # a gap is there, or was just filled (RFC 5681 §4.2)
        return
    if c.rcv_nxt - c.last_ack_sent >= 2 * <uint32_t>c.rcv_mss:
        c.flags |= TF_ACK_NOW                                # SHLD-19: every second full segment
        return
    if c.quick > 0:
        c.quick -= 1
        c.flags |= TF_ACK_NOW
        return
    c.flags |= TF_ACK_DELAYED
    if c.delack_at == UINT64_MAX:
        c.delack_at = t.core.now + <uint64_t>c.ato * 1000


cdef bint too_soon(Tcp *t, Tcb *c) noexcept nogil:
    if c.last_oow_ack and t.core.now - c.last_oow_ack < <uint64_t>t.knobs.invalid_ratelimit * 1000000:
        return True
    c.last_oow_ack = t.core.now
    return False


cdef void challenge_ack(Tcp *t, Tcb *c) noexcept nogil:
    cdef uint64_t second = t.core.now // NS
    if too_soon(t, c):
        count(t.core, TCPACKSkippedChallenge)
        return
    # the budget is random, so that it can't be used to count (CVE-2016-5696)
    if t.challenge_epoch != second:
        t.challenge_epoch = second
        t.challenge_left = t.knobs.challenge_ack_limit // 2 + rng_below(&t.core.rng, t.knobs.challenge_ack_limit)
    if t.challenge_left == 0:
        count(t.core, TCPACKSkippedChallenge)
        return
    t.challenge_left -= 1
    count(t.core, TCPChallengeACK)
    send_ack(t, c)


cdef void out_of_window_ack(Tcp *t, Tcb *c, bint has_data) noexcept nogil:
    """RFC 9293 §3.10.7.4, first. Segments with data may be retransmissions whose ACK was lost: always answered."""
    if not has_data and too_soon(t, c):
        count(t.core, TCPACKSkippedSeq)
        return
    send_ack(t, c)
