# Python buffers as an IoVec, for one call.
from cpython.buffer cimport Py_buffer
from ustack_ext.base.iov cimport IoVec

cdef class Buffers:
    cdef Py_buffer *views
    cdef IoVec *iov
    cdef int count
    cdef size_t total              # bytes
    cdef Py_buffer one_view        # where views and iov point for a single buffer
    cdef IoVec one_iov

cdef Buffers one_buffer(object buffer, bint writable)              # raises TypeError, BufferError
cdef Buffers many_buffers(object buffers, bint writable)           # ... and OSError(EMSGSIZE) beyond 1024
