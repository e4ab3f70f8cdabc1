# What happens when a handshake is complete, on either side.
from libc.stdint cimport uint32_t
from ustack_ext.tcp.options cimport Options
from ustack_ext.tcp.tcb cimport SynReq, Tcb, Tcp

# Takes over what the peer's SYN said. `asked`: TF_* options we offered ourselves.
cdef void take_syn_options(Tcp *t, Tcb *c, const Options *o, uint32_t asked) noexcept nogil
# A connection of what the SYN queue (or a cookie) says, without state, windows and place in the table; NULL: limit
cdef Tcb *tcb_of_request(Tcp *t, const SynReq *r) noexcept nogil
# What may be sent from the first segment on: MSS, windows, send buffer
cdef void ready_to_send(Tcp *t, Tcb *c) noexcept nogil
cdef void establish(Tcp *t, Tcb *c) noexcept nogil
cdef void arm_keepalive(Tcp *t, Tcb *c) noexcept nogil
