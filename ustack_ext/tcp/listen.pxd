# Passive opens: the SYN queue and the accept queue (RFC 9293 §3.10.7.2 and the passive half of SYN-RECEIVED; RFC 4987
# §3.3's cache under pressure).
from libc.stdint cimport uint32_t, uint64_t
from ustack_ext.tcp.segment cimport SegIn
from ustack_ext.tcp.tcb cimport Listener, SynReq, Tcb, Tcp

# iss 0: choose. Returns the connection that the segment completed (by a cookie), which takes it from there, or NULL.
cdef Tcb *listen_input(Tcp *t, Listener *l, SegIn *s, uint32_t iss) noexcept nogil
# A segment for an entry of the SYN queue. Returns the connection if the handshake is complete: the segment is then its
# first.
cdef Tcb *synreq_input(Tcp *t, SynReq *r, SegIn *s) noexcept nogil
# What a SYN says; r is zeroed.
cdef void read_syn(Tcp *t, Listener *l, const SegIn *s, SynReq *r) noexcept nogil
# Enters a request at the end of its listener's SYN queue, and in the table; its timer runs for so many ns.
cdef void synreq_insert(Tcp *t, SynReq *r, uint64_t ns) noexcept nogil
cdef void synreq_free(Tcp *t, SynReq *r) noexcept nogil
cdef void synreq_timer(Tcp *t, SynReq *r) noexcept nogil
