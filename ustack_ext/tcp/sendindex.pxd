# An index over the records of what was sent (Seg), kept where there are many of them.
from libc.stdint cimport uint32_t
from ustack_ext.tcp.tcb cimport Seg, Tcb, Tcp

cdef enum:
    INDEX_FROM = 32                # records; fewer are looked through one by one

cdef enum IndexKind:               # what is looked for: IndexNode.has
    INDEX_OPEN                     # a record that is not SACKed
    INDEX_LOST                     # one that is lost and not sent again

# The record that holds seq, or the first behind it; NULL: none.
cdef Seg *index_find(Tcb *c, uint32_t seq) noexcept nogil
# The first record of that kind, from s on (s itself, too); NULL: none.
cdef Seg *index_next(Tcb *c, Seg *s, IndexKind what) noexcept nogil
# A record was linked into the list, or is the next to be (at its end). False: no memory, it must not be there.
cdef bint index_add(Tcp *t, Tcb *c, Seg *s, bint at_end) noexcept nogil
cdef void index_changed(Tcb *c, Seg *s) noexcept nogil         # its state did
cdef void index_drop_head(Tcp *t, Tcb *c) noexcept nogil       # the first record leaves
