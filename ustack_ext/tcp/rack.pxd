# RACK (RFC 8985 §6): what is lost by time.
from libc.stdint cimport uint32_t, uint64_t
from ustack_ext.tcp.tcb cimport Tcb, Tcp

# Marks what was sent long enough before something that arrived. When to look again, ns; UINT64_MAX: no need.
cdef uint64_t rack_detect(Tcp *t, Tcb *c) noexcept nogil
# a duplicate was reported: we were not patient enough
cdef void rack_dsack(Tcp *t, Tcb *c, uint32_t ack) noexcept nogil
cdef void rack_recovered(Tcb *c) noexcept nogil                     # a recovery is over
