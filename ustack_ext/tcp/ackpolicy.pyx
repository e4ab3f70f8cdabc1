"""When to acknowledge (RFC 9293 §3.8.6.3, RFC 5681 §4.2), and the limits of ACKs that an attacker could provoke (RFC
5961 §7).
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ustack_ext.base.core cimport count
from ustack_ext.base.rng cimport rng_below
from ustack_ext.net.mib cimport TCPACKSkippedChallenge, TCPACKSkippedSeq, TCPChallengeACK
from ustack_ext.tcp.output cimport send_ack
from ustack_ext.tcp.quick cimport ACK_AWAITED, ACK_EXPIRED, ACK_RIDES, QUICK_LEFT, quick_acks
from ustack_ext.tcp.rtt cimport rtt_rto_us
from ustack_ext.tcp.tcb cimport TF_ACK_DELAYED, TF_ACK_NOW, Tcb, Tcp, has_gap, tcp_ms

cdef enum:
    NS = 1000000000
    MS = 1000000
    US = 1000
    ANSWER_NS = 1000000            # how long an answer may take to spare a quick ACK
    AT_ONCE_US = 2000              # beyond a round trip: what comes so soon behind an ACK has waited for it
    AWAITED_MAX_MS = 4000          # delack_at means something for 2**32 ns
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
        quick_acks(c, 2)
    c.ato = <uint16_t>min(min(max(ato, least), t.knobs.delack_max_us // 1000), <uint32_t>DELACK_MAX_MS)


cdef void learn(Tcp *t, Tcb *c) noexcept nogil:
    """A sender with Nagle's algorithm keeps the end of a message back until its beginning is acknowledged. It shows
    when an ACK that was delayed brings more, a round trip later: from then on it is not made to wait.
    """
    cdef uint32_t behind = <uint32_t>t.core.now - c.delack_at
    c.quick &= ~<uint8_t>ACK_EXPIRED
    if tcp_ms(t.core) - c.last_recv < AWAITED_MAX_MS and behind // US < min(c.srtt, <uint32_t>1000000) + AT_ONCE_US:
        c.quick |= ACK_AWAITED


cdef void ack_data(Tcp *t, Tcb *c, uint32_t segment, bint pushed) noexcept nogil:
    cdef uint32_t wait = <uint32_t>c.ato * MS
    cdef bint small
    if c.quick & ACK_EXPIRED:
        learn(t, c)
    adapt(t, c)
    if segment > c.rcv_mss:
        c.rcv_mss = <uint16_t>min(segment, <uint32_t>0xFFFF)
    if has_gap(c) or c.flags & TF_ACK_NOW:
        c.flags |= TF_ACK_NOW                                # a gap is there, or was just filled (RFC 5681 §4.2)
        return
    if c.rcv_nxt - c.last_ack_sent >= 2 * <uint32_t>c.rcv_mss:
        c.flags |= TF_ACK_NOW                                # SHLD-19: every second full segment
        return
    small = pushed and segment < c.rcv_mss
    if small and c.quick & ACK_AWAITED:
        c.flags |= TF_ACK_NOW
        return
    if c.quick & QUICK_LEFT:
        c.quick -= 1
        if not small:
            c.flags |= TF_ACK_NOW
            return
    if small and c.quick & (QUICK_LEFT | ACK_RIDES):
        # A small segment with PSH is a request or the end of something: nothing waits behind it in slow start, and the
        # answer is often a moment away and can carry the ACK. If it is not, the sender may wait for the ACK.
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
