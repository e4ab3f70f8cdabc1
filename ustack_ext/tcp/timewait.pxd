# The small struct a connection leaves behind (RFC 9293 §3.6, RFC 1337, RFC 6191).
from libc.stdint cimport uint32_t
from ustack_ext.tcp.segment cimport SegIn
from ustack_ext.tcp.tcb cimport Tcb, Tcp, TimeWait

cdef void timewait_from(Tcp *t, Tcb *c) noexcept nogil       # the connection goes to TIME-WAIT: the Tcb is done with
# True: the segment is a SYN that may open a new incarnation; the entry is gone, *iss is where its sequence space may
# start.
cdef bint timewait_input(Tcp *t, TimeWait *w, SegIn *s, uint32_t *iss) noexcept nogil
cdef void timewait_free(Tcp *t, TimeWait *w) noexcept nogil
