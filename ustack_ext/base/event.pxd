# What the engine has to tell whoever holds a socket: a list of sources with pending event bits, each at most once, in
# order. It can't overflow.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    EV_READABLE = 1
    EV_WRITABLE = 2
    EV_ERROR = 4           # so_error was set
    EV_HANGUP = 8          # both directions are over
    EV_CLOSED = 16         # the engine has finished with it
    EV_URGENT = 32         # an urgent pointer names data that was not read yet
    EV_OOB = 64            # ... and its last octet is here

cdef struct Source:
    Source *next
    void *user             # the socket layer's own; NULL: nobody listens
    uint16_t pending       # EV_*
    uint8_t queued
    uint8_t kind           # EntryKind of what it is embedded in
    uint8_t native         # not 0: `user` is a service of the data plane's own (service/), not a socket
    uint16_t mark          # a native service's progress with this source

cdef struct EventList:
    Source *head
    Source *tail


cdef inline void event_raise(EventList *l, Source *s, uint16_t bits) noexcept nogil:
    if s.user == NULL:
        return
    s.pending |= bits
    if s.queued:
        return
    s.queued = 1
    s.next = NULL
    if l.tail == NULL:
        l.head = s
    else:
        l.tail.next = s
    l.tail = s


cdef inline Source *event_pop(EventList *l) noexcept nogil:
    """Next source; its pending bits stay for the caller to read and clear."""
    cdef Source *s = l.head
    if s != NULL:
        l.head = s.next
        if l.head == NULL:
            l.tail = NULL
        s.queued = 0
    return s


cdef void event_forget(EventList *l, Source *s) noexcept nogil     # unlink if queued: the source is going away
