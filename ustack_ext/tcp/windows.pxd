# How large the receive window and the send queue of a connection may be.
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from ustack_ext.tcp.tcb cimport RCV_GOAL_SHIFT, Tcb, Tcp

cdef uint32_t window_to_offer(Tcp *t, Tcb *c) noexcept nogil         # bytes RCV.WND would be in a segment sent now
cdef void tune_sndbuf(Tcp *t, Tcb *c) noexcept nogil                 # after cwnd or SO_SNDBUF changed
cdef uint8_t wscale_for(Tcp *t, uint32_t rcvbuf) noexcept nogil
cdef void note_window(Tcp *t, Tcb *c, uint32_t wnd) noexcept nogil   # it was told to the peer


cdef inline uint32_t window_limit(const Tcp *t, const Tcb *c) noexcept nogil:
    """Bytes that the receive window may reach now."""
    cdef uint32_t limit = max(c.conf.rcvbuf, t.knobs.rmem_min) // 2 if c.conf.rcvbuf else c.rcv_ssthresh
    if c.conf.rcvlowat:                                      # else what SO_RCVLOWAT waits for could never come
        limit = max(limit, c.conf.rcvlowat + 2 * <uint32_t>c.rcv_mss)
    return min(limit, c.conf.window_clamp) if c.conf.window_clamp else limit


cdef inline uint32_t window_goal(const Tcp *t, const Tcb *c, uint32_t held) noexcept nogil:
    """Bytes that window_grow() leads to. held: of the window, taken by what came out of order."""
    cdef uint64_t goal = max(<uint64_t>c.tally.rcv_goal << RCV_GOAL_SHIFT, <uint64_t>(t.knobs.rmem_default // 2))
    return <uint32_t>min(goal + held, <uint64_t>t.knobs.rmem_max)


cdef inline void window_grow(const Tcp *t, Tcb *c, uint32_t n, uint32_t held) noexcept nogil:
    """n bytes arrived: the window may be twice that larger, as Linux has it, for all at once would be all at once from
    the sender. It must not end while a loss is repaired: what is held behind the loss is no room.
    """
    cdef uint32_t goal = window_goal(t, c, held)
    if c.rcv_ssthresh < goal and t.knobs.moderate_rcvbuf:
        c.rcv_ssthresh = min(goal, c.rcv_ssthresh + 2 * n)
