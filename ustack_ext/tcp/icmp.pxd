# ICMP errors about our segments (RFC 5927, RFC 9293 §3.9.2.2, RFC 1191).
from ustack_ext.net.state cimport IcmpError
from ustack_ext.tcp.tcb cimport Tcp

cdef void tcp_icmp_error(Tcp *t, IcmpError *e) noexcept nogil
