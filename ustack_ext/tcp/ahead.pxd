# Looking ahead in a batch of frames, so that the memory their connections lie in is under way before it is needed.
from ustack_ext.base.buf cimport Buf
from ustack_ext.tcp.tcb cimport Tcp

cdef enum:
    AHEAD_MIN = 4096           # connections; with fewer, what is in use stays in the cache


# bufs: received frames, each with `l2` bytes before its IP header
cdef void tcp_ahead(Tcp *t, Buf **bufs, int n, int l2) noexcept nogil


cdef inline bint tcp_many(const Tcp *t) noexcept nogil:
    """Whether looking ahead is worth its while."""
    return t.conns.count >= AHEAD_MIN
