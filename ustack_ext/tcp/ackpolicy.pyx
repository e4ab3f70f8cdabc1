"""When to acknowledge (RFC 9293 §3.8.6.3, RFC 5681 §4.2), and the limits of ACKs that an attacker could provoke (RFC
5961 §7).
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from ustack_ext.base.core cimport count
from ustack_ext.base.rng cimport rng_below
from ustack_ext.net.mib cimport TCPACKSkippedChallenge, TCPACKSkippedSeq, TCPChallengeACK
from ustack_ext.tcp.output cimport send_ack
from ustack_ext.tcp.rtt cimport rtt_rto_us
from ustack_ext.tcp.tcb cimport TF_ACK_DELAYED, TF_ACK_NOW, Tcb, Tcp, has_gap, tcp_ms

cdef enum:
    NS = 1000000000
    MS = 1000000
    ANSWER_NS = 1000000            # how long an answer may take to spare a quick ACK
    DELACK_MAX_MS = 1000           # delack_at holds less than 2**31 ns


cdef void adapt(Tcp *t, Tcb *c) noexcept nogil:
    """The delay follows the gaps between segments, between tcp_delack_min and tcp_delack_max, as Linux's ato."""
    cdef uint32_t gap = tcp_ms(t.core) - c.last_recv, least = t.knobs.delack_min_us // 1000
    cdef uint32_t ato = c.ato
    if gap == 0 and ato == least:
        return
    if gap <= least // 2:
        ato = ato // 2 + least // 2
    elif gap < ato:
        ato = ato // 2 + gap
    elif gap > rtt_rto_us(t, c) // 1000:
        # after a pause the sender may be in slow start: don't keep it waiting
        c.quick = max(c.quick, 2)
    c.ato = <uint16_t>min(min(max(ato, least), t.knobs.delack_max_us // 1000), <uint32_t>DELACK_MAX_MS)


cdef void ack_data(Tcp *t, Tcb *c, uint32_t segment, bint pushed) noexcept nogil:
    cdef uint32_t wait = <uint32_t>c.ato * MS
    adapt(t, c)
    if segment > c.rcv_mss:
        c.rcv_mss = <uint16_t>min(segment, <uint32_t>0xFFFF)
    if has_gap(c) or c.flags & TF_ACK_NOW:
        c.flags |= TF_ACK_NOW                                # a gap is there, or was just filled (RFC 5681 §4.2)
        return
    if c.rcv_nxt - c.last_ack_sent >= 2 * <uint32_t>c.rcv_mss:
        c.flags |= TF_ACK_NOW                                # SHLD-19: every second full segment
        return
    if c.quick > 0:
        c.quick -= 1
        if not pushed or segment >= c.rcv_mss:
            c.flags |= TF_ACK_NOW
            return
        # A small segment with PSH is a request or the end of something: nothing waits behind it in slow start, and the
        # answer is often a moment away and can carry the ACK.
        wait = ANSWER_NS
    if not c.flags & TF_ACK_DELAYED:
        c.flags |= TF_ACK_DELAYED
        c.delack_at = <uint32_t>t.core.now + wait


cdef bint too_soon(Tcp *t, Tcb *c) noexcept nogil:
    cdef uint32_t now = tcp_ms(t.core)
    if c.last_oow_ack and now - c.last_oow_ack < t.knobs.invalid_ratelimit:
        return True
    c.last_oow_ack = now
    return False


cdef void challenge_ack(Tcp *t, Tcb *c) noexcept nogil:
    cdef uint64_t second = t.core.now // NS + 1    # 0: none yet; a clock may begin at 0
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
