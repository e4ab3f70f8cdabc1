# Payload that isn't copied: received data lent to the application, and data sent from the application's own memory.
from libc.stdint cimport uint32_t
from ustack_ext.base.buf cimport Buf, Owner
from ustack_ext.base.iov cimport IoVec
from ustack_ext.tcp.reassembly cimport Lent
from ustack_ext.tcp.tcb cimport Tcb, Tcp

# Takes up to `most` bytes, in up to `room` pieces, out of the receive queue. Returns as tcp_recv does. The bytes count
# against the window until tcp_give_back(); the references are the caller's.
cdef long tcp_lend(Tcp *t, Tcb *c, size_t most, Lent *out, int room, int *count) noexcept nogil
cdef void tcp_give_back(Tcp *t, Tcb *c, uint32_t n) noexcept nogil
# For who fills blocks himself: how many bytes the send queue takes now (0: none, EV_WRITABLE tells when), or -errno;
# such a block, whose reference goes to the queue; that none was to be had, so EV_WRITABLE tells when to try again.
cdef long tcp_send_room(Tcp *t, Tcb *c) noexcept nogil
cdef void tcp_send_block(Tcp *t, Tcb *c, Buf *b) noexcept nogil
cdef void tcp_send_later(Tcp *t, Tcb *c) noexcept nogil
# Queues data without copying it: all of it (up to 1 GiB), or as much as the send buffer has room for. Returns as
# tcp_send does.
cdef long tcp_send_owned(Tcp *t, Tcb *c, const IoVec *iov, Owner *o, bint bounded, bint more) noexcept nogil
