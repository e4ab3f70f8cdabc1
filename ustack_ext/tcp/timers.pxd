# What happens when a connection's deadline comes.
from ustack_ext.base.entry cimport Entry
from ustack_ext.tcp.tcb cimport Tcp

# A connection's entry may be armed earlier than it has to: one that is, is armed anew. False: it was.
cdef bint tcp_timer_settle(Tcp *t, Entry *e) noexcept nogil
cdef void tcp_timer(Tcp *t, Entry *e) noexcept nogil
