# Who is told when a socket's state changes: blocked threads, the descriptor, selectors.
from libc.stdint cimport uint16_t
from ustack_ext.base.event cimport Source
from ustack_ext.driver.driver cimport Waiter
from ustack_ext.sockets.state cimport SockState

cdef void waiter_link(SockState *s, Waiter *w) noexcept nogil
cdef void waiter_unlink(SockState *s, Waiter *w) noexcept nogil    # no-op when it isn't there
cdef void waiters_fire(SockState *s, uint16_t bits) noexcept nogil
cdef uint16_t sock_ready(SockState *s) noexcept nogil              # EV_* true now
# brings the descriptor and the selectors, if there are any, to what is true now
cdef void sock_sync(SockState *s) noexcept nogil
cdef void sock_event(Source *source, uint16_t bits) noexcept nogil  # the driver's event_sink
