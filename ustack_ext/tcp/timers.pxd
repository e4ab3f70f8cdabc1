# What happens when a connection's deadline comes.
from ustack_ext.base.entry cimport Entry
from ustack_ext.tcp.tcb cimport Tcp

cdef void tcp_timer(Tcp *t, Entry *e) noexcept nogil
