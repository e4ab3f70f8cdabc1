# What happens when a handshake is complete, on either side.
from libc.stdint cimport uint32_t
from ustack_ext.tcp.options cimport Options
from ustack_ext.tcp.tcb cimport Tcb, Tcp

# Takes over what the peer's SYN said. `asked`: TF_* options we offered ourselves.
cdef void take_syn_options(Tcp *t, Tcb *c, const Options *o, uint32_t asked) noexcept nogil
cdef void establish(Tcp *t, Tcb *c) noexcept nogil
cdef void arm_keepalive(Tcp *t, Tcb *c) noexcept nogil
