# The descriptor that select, poll, epoll and asyncio wait on.
from libc.stdint cimport uint16_t
from ustack_ext.sockets.state cimport SockState

cdef int pair_open(SockState *s) noexcept nogil                    # 0 or -errno; s.fd_user is what fileno() returns
cdef void pair_close(SockState *s) noexcept nogil
# bits: EV_* true now. System calls only where they changed
cdef void pair_sync(SockState *s, uint16_t bits) noexcept nogil
