# The socket calls that open connections and move data.
from ustack_ext.sockets.buffers cimport Buffers
from ustack_ext.sockets.handle cimport SocketHandle
from ustack_ext.sockets.state cimport Op

cdef class SocketCore(SocketHandle):
    cdef bytes receive(self, Py_ssize_t size, int flags, Op *op)
    cdef bytes receive_all(self, Py_ssize_t size, int flags)
    cdef long receive_into(self, Buffers into, int flags, Op *op) except -1
    cdef long transmit(self, Buffers data, int flags, Op *op, bint all_of_it) except -1
    cdef long put(self, object data, int flags, Op *op, bint all_of_it) except -1
    cdef int connect_to(self, object address, str caller) except -1
    cdef object sender(self, Op *op)
    cdef tuple message_details(self, Op *op, long taken)
    cdef object _length(self, long taken, int flags, long full)
    cdef _set_destination(self, Op *op, object address, str caller)
