# The descriptor that select, poll, epoll and asyncio wait on.
from libc.stdint cimport uint16_t
from ustack_ext.sockets.state cimport SockState, Watch

cdef Watch *watch_of(SockState *s) noexcept nogil                  # made when there is none; NULL: no memory
cdef void watch_close(SockState *s) noexcept nogil
cdef int pair_open(SockState *s) noexcept nogil                    # 0 or -errno; watch.fd_user is what fileno() returns
# bits: EV_* true now. System calls only where they changed, none without a pair
cdef void pair_sync(Watch *w, uint16_t bits) noexcept nogil
