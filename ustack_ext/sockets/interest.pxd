# Sockets registered with a selector, and the list of those that may be ready. Under the engine's lock.
from libc.stdint cimport uint16_t
from ustack_ext.sockets.state cimport Hub, Interest, Watch

cdef void interest_add(Watch *w, Interest *i) noexcept nogil
cdef void interest_remove(Interest *i) noexcept nogil              # also from the hub's list; no-op when it is out
cdef void interests_drop(Watch *w) noexcept nogil                  # the socket is closing
# The socket's state (EV_*) as of now. True: its hub has something that it had not, and its threads must wake.
cdef bint interest_note(Interest *i, uint16_t bits) noexcept nogil
cdef uint16_t interest_shown(const Interest *i, uint16_t bits) noexcept nogil      # what of it select() tells: EV_*
cdef void hub_unlist(Interest *i) noexcept nogil
