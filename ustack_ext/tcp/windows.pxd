# How large the receive window and the send queue of a connection may be.
from libc.stdint cimport uint32_t, uint8_t
from ustack_ext.tcp.tcb cimport Tcb, Tcp

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
