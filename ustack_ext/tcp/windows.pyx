"""What a connection may offer (RFC 9293 §3.8.6.2.2, RFC 7323 §2), and what its send queue may hold."""
from libc.stdint cimport int32_t, uint32_t, uint8_t

from ustack_ext.base.buf cimport pool_above
from ustack_ext.base.core cimport count
from ustack_ext.net.mib cimport TCPFromZeroWindowAdv, TCPToZeroWindowAdv
from ustack_ext.tcp.seq cimport seq_gt
from ustack_ext.tcp.tcb cimport CA_CWR, TCP_MAX_WSCALE, Tcb, Tcp, tcb_unread

cdef enum:
    WINDOW_MAX = 0xFFFF
    WARM_QUEUE = 512 << 10  # bytes; half of what a core's own cache has today
    FAST = 2000  # bytes/us: 16 Gbit/s
    SRTT_MOST = 1000000  # us; times FAST still fits


cdef void tune_sndbuf(Tcp *t, Tcb *c) noexcept nogil:
    """The send queue may hold three windows, unless SO_SNDBUF fixed it.

    One in flight, what is sent while the loss of its first segment is repaired, what is to go next. It is not lowered
    while something is repaired, for it still holds what the window was before. But it is no more than a cache has where
    that fills the path at any speed of ours: what is sent is read back from the queue.
    """
    cdef uint32_t windows
    if c.conf.sndbuf:
        c.sndbuf = max(c.conf.sndbuf, t.knobs.wmem_min)
        return
    windows = 3 * c.cwnd                                     # it fits: CWND_MAX
    if c.ca_state >= CA_CWR:
        windows = max(windows, c.sndbuf)
    c.sndbuf = min(max(4 * t.knobs.wmem_default, windows), t.knobs.wmem_max,
                   max(<uint32_t>WARM_QUEUE, min(c.srtt, <uint32_t>SRTT_MOST) * FAST))


cdef uint8_t wscale_for(Tcp *t, uint32_t rcvbuf) noexcept nogil:
    cdef uint32_t space = rcvbuf if rcvbuf else t.knobs.rmem_max
    cdef uint8_t shift = 0
    if not t.knobs.window_scaling:
        return 0
    while shift < TCP_MAX_WSCALE and space >> shift > WINDOW_MAX:
        shift += 1
    return shift


cdef uint32_t window_to_offer(Tcp *t, Tcb *c) noexcept nogil:
    """RFC 9293 §3.8.6.2.2: the right edge moves by a useful step or not at all, and never to the left."""
    cdef int32_t current = <int32_t>(c.rcv_adv - c.rcv_nxt)
    cdef uint32_t limit = window_limit(t, c), free, now_open = <uint32_t>current if current > 0 else 0
    cdef uint32_t unit = <uint32_t>1 << c.rcv_wscale, unread = tcb_unread(c)
    free = limit - unread if limit > unread else 0
    if free < now_open + min(<uint32_t>c.rcv_mss, limit // 2):
        free = now_open
    elif pool_above(&t.core.pool, 12):
        # memory is short: what was promised is kept, nothing is added
        free = now_open
    if c.rcv_wscale and free > now_open:
        free &= ~(unit - 1)
    free = max(free, now_open)
    # Rounding up gives a little away with every ACK, which a sender of small pieces could add up without end. Where it
    # has added up the peer is told of less than its due, by less than a unit; rcv_adv stands, and so what it sends is
    # taken.
    if unread + free <= limit + limit // 8:
        free += unit - 1
    return min(free >> c.rcv_wscale, <uint32_t>WINDOW_MAX) << c.rcv_wscale


cdef void note_window(Tcp *t, Tcb *c, uint32_t wnd) noexcept nogil:
    if wnd == 0 and c.rcv_adv != c.rcv_nxt:
        count(t.core, TCPToZeroWindowAdv)
    elif wnd > 0 and c.rcv_adv == c.rcv_nxt:
        count(t.core, TCPFromZeroWindowAdv)
    if seq_gt(c.rcv_nxt + wnd, c.rcv_adv):
        c.rcv_adv = c.rcv_nxt + wnd
