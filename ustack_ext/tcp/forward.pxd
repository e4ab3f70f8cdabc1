# The forwarder: SYNs that no listener takes, to any address and port, wait for a decision before anything is answered.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from ustack_ext.base.event cimport Source
from ustack_ext.net.foreign cimport FlowId
from ustack_ext.tcp.segment cimport SegIn
from ustack_ext.tcp.tcb cimport Tcb, Tcp

# Begins to take SYNs. backlog: requests that may be undecided at a time, and accepted connections whose handshake is
# not done. 0 or -EBUSY, -ENOMEM.
cdef int forward_open(Tcp *t, uint32_t backlog, uint64_t patience, void *user) noexcept nogil
cdef Source *forward_event(Tcp *t) noexcept nogil                  # raised as readable when there is a request
cdef void forward_close(Tcp *t) noexcept nogil                     # the undecided are forgotten
# A segment that belongs to no connection and no listener. True: it was a SYN, and is taken care of.
cdef bint forward_syn(Tcp *t, SegIn *s, uint32_t iss) noexcept nogil
cdef bint forward_take(Tcp *t, FlowId *id) noexcept nogil          # the next request; False: there is none
# Answers the SYN. The connection is in SYN-RECEIVED and becomes writable when its handshake is done. 0, -ENOENT: the
# request is gone, -ENOBUFS.
cdef int forward_accept(Tcp *t, const FlowId *id, void *user, Tcb **out) noexcept nogil
cdef int forward_refuse(Tcp *t, const FlowId *id, int how, uint8_t code) noexcept nogil     # 0 or -ENOENT
