"""What a selector of the stack keeps for each socket registered with it, without a descriptor.

Responsible for: the list of sockets that may be ready. A socket joins it when something becomes true of it, and leaves
it when select() finds that it is no longer so, as in epoll(7): level-triggered, at a cost that follows what happens,
not how many sockets are registered. Not for: waiting (sockets/select), what is true of a socket (sockets/wait).
"""
from libc.stdint cimport uint16_t
from ustack_ext.base.event cimport EV_ERROR, EV_HANGUP, EV_READABLE, EV_WRITABLE
from ustack_ext.link.wakefd cimport wakefd_set
from ustack_ext.sockets.state cimport Hub, Interest, Watch


cdef void interest_add(Watch *w, Interest *i) noexcept nogil:
    i.next = w.interests
    w.interests = i


cdef void interest_remove(Interest *i) noexcept nogil:
    cdef Interest **at
    hub_unlist(i)
    if i.sock == NULL:
        return
    at = &i.sock.watch.interests
    while at[0] != i:
        at = &at[0].next
    at[0] = i.next
    i.sock = NULL


cdef void interests_drop(Watch *w) noexcept nogil:
    cdef Interest *i = w.interests
    while i != NULL:
        hub_unlist(i)
        i.sock = NULL
        i = i.next
    w.interests = NULL


cdef uint16_t interest_shown(const Interest *i, uint16_t bits) noexcept nogil:
    # As poll(2) has it for TCP: whatever is over or in error can be read and written without blocking.
    if bits & (EV_ERROR | EV_HANGUP):
        return i.want & (EV_READABLE | EV_WRITABLE | bits)
    return bits & i.want


cdef bint interest_note(Interest *i, uint16_t bits) noexcept nogil:
    cdef Hub *h = i.hub
    if i.listed or not interest_shown(i, bits):
        return False
    i.listed = 1
    i.after = NULL
    i.before = h.last
    if h.last != NULL:
        h.last.after = i
    else:
        h.first = i
        if h.wakefd >= 0:
            wakefd_set(h.wakefd)
        if h.due != NULL:
            h.due[0] = 1
    h.last = i
    return True


cdef void hub_unlist(Interest *i) noexcept nogil:
    cdef Hub *h = i.hub
    if not i.listed:
        return
    i.listed = 0
    if i.before != NULL:
        i.before.after = i.after
    else:
        h.first = i.after
    if i.after != NULL:
        i.after.before = i.before
    else:
        h.last = i.before
