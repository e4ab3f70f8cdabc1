# The socket as Python holds it, and the one loop that makes a call wait.
from libc.stdint cimport int64_t, uint16_t, uint64_t
from ustack_ext.driver.driver cimport Driver
from ustack_ext.sockets.buffers cimport Buffers
from ustack_ext.sockets.stackcore cimport StackCore
from ustack_ext.sockets.state cimport Op, SockState

cdef class SocketCore:
    cdef readonly StackCore stack
    cdef SockState state
    cdef int64_t timeout_ns        # -1: blocking, 0: non-blocking
    cdef public int _io_refs       # files that makefile() made and nobody closed
    cdef public bint _closed
    cdef readonly int _type        # SOCK_STREAM or SOCK_DGRAM
    cdef readonly int proto
    cdef object __weakref__

    cdef _adopt(self, StackCore stack, int type, int proto)
    cdef Driver _usable(self)
    cdef uint64_t deadline(self, int flags)
    cdef long perform(self, Op *op, uint64_t deadline) except -0x10002
    cdef long perform_waiting(self, Op *op, uint64_t deadline) except -0x10002
    cdef bytes receive(self, Py_ssize_t size, int flags, Op *op)
    cdef bytes receive_all(self, Py_ssize_t size, int flags)
    cdef long receive_into(self, Buffers into, int flags, Op *op) except -1
    cdef long transmit(self, Buffers data, int flags, Op *op, bint whole) except -1
    cdef int connect_to(self, object address, str caller) except -1
    cdef object sender(self, Op *op)
    cdef tuple message_details(self, Op *op, long taken)
    cdef _nothing(self, result)
    cdef object _length(self, long taken, int flags, long full)
    cdef _set_destination(self, Op *op, object address, str caller)
    cdef int release(self) except -1
