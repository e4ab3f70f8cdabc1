# What shows that a recovery was for nothing: D-SACK (RFC 2883, 3708), Eifel (3522), F-RTO (5682).
from libc.stdint cimport uint32_t
from ustack_ext.tcp.options cimport Options
from ustack_ext.tcp.tcb cimport Tcb, Tcp

cdef void undo_begin(Tcb *c) noexcept nogil                          # the window was reduced just now
cdef void undo_resent(Tcp *t, Tcb *c, uint32_t n) noexcept nogil     # n bytes go again, for the first time or not
# A duplicate was reported. False: of nothing that was sent again since undo_begin.
cdef bint undo_dsack(Tcb *c, uint32_t left, uint32_t right) noexcept nogil
cdef bint undo_by_dsack(const Tcb *c) noexcept nogil                 # all that was sent again had arrived already
cdef bint undo_by_time(const Tcb *c, const Options *o) noexcept nogil    # this ACK answers what was sent before that
