# SYN cookies (RFC 4987 §3.6): a SYN-ACK from which the handshake's last ACK brings back what would be in the SYN queue.
from libc.stdint cimport uint32_t
from ustack_ext.tcp.segment cimport SegIn
from ustack_ext.tcp.tcb cimport Listener, SynReq, Tcp

# Makes *r's initial sequence number a cookie, and notes that one was sent. Without timestamps *r loses window scaling
# and SACK: nothing could bring them back.
cdef void cookie_make(Tcp *t, Listener *l, SynReq *r) noexcept nogil
# TSval of a SYN-ACK with a cookie: the time, of which the last bits are the options
cdef uint32_t cookie_ts(Tcp *t, const SynReq *r) noexcept nogil
# Fills *r from an ACK. False: cookies are off, none was sent of late, or this is none (counted).
cdef bint cookie_check(Tcp *t, Listener *l, SegIn *s, SynReq *r) noexcept nogil
