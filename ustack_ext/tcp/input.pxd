# SEGMENT ARRIVES (RFC 9293 §3.10.7).
from ustack_ext.net.state cimport RxPkt
from ustack_ext.tcp.tcb cimport Tcp

cdef void tcp_input(Tcp *t, RxPkt *rx) noexcept nogil
