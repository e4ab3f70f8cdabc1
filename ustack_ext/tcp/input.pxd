# SEGMENT ARRIVES (RFC 9293 §3.10.7).
from ustack_ext.net.state cimport RxPkt
from ustack_ext.tcp.segment cimport SegIn
from ustack_ext.tcp.tcb cimport Tcb, Tcp

cdef void tcp_input(Tcp *t, RxPkt *rx) noexcept nogil
# A parsed segment of a connection.
cdef void segment_arrives(Tcp *t, Tcb *c, SegIn *s) noexcept nogil
