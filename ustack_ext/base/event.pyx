# Taking a source out of the event list (event.pxd) before it goes away. Raising and popping are inline there.


cdef void event_forget(EventList *l, Source *s) noexcept nogil:
    cdef Source *prev = NULL
    cdef Source *at = l.head
    if not s.queued:
        return
    while at != s:
        prev = at
        at = at.next
    if prev == NULL:
        l.head = s.next
    else:
        prev.next = s.next
    if l.tail == s:
        l.tail = prev
    s.queued = 0
    s.pending = 0
