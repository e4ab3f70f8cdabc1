# Payload that isn't copied, as Python holds it: what recv_view() returns, and what send_zerocopy() returns.
from ustack_ext.base.buf cimport Owner
from ustack_ext.driver.driver cimport Driver
from ustack_ext.sockets.buffers cimport Buffers
from ustack_ext.sockets.handle cimport SocketHandle
from ustack_ext.sockets.state cimport SockState
from ustack_ext.tcp.reassembly cimport Lent

cdef enum:
    LEND_MOST = 64                 # pieces of one View

cdef class View:
    cdef list pieces               # memoryviews; empty once released
    cdef readonly Py_ssize_t nbytes

cdef View lend(SocketHandle sock, void *tcb, const Lent *pieces, int count)

cdef class Completion:
    cdef Owner owner
    cdef Buffers buffers           # None once completed
    cdef Driver driver
    cdef object callback
    cdef SockState hub             # only its waiters are used: threads in wait()
    cdef readonly Py_ssize_t nbytes
    cdef bint completed
    cdef object __weakref__
    cdef void sent(self, Py_ssize_t nbytes) noexcept

# An owner of the bytes, which are the stack's too until the last block of them goes; NULL: no memory. It is the
# caller's until kept().
cdef Owner *keep(bytes data)
cdef void kept(Driver driver, Owner *owner) noexcept           # no more of it will be queued
cdef Completion begin_completion(Driver driver, Buffers buffers, object callback)
