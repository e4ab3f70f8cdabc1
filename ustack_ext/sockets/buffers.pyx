"""Python buffers held for the time of one call, as the vector that the engine reads and writes.

Responsible for: taking and giving back the buffers' memory. Not for: what is done with it.
"""
import os as _os

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cython cimport final, freelist, no_gc
from libc.errno cimport EMSGSIZE
from libc.stdlib cimport calloc, free
from ustack_ext.base.iov cimport IoVec

cdef enum:
    IOV_MAX = 1024                 # Linux's UIO_MAXIOV


@final
@no_gc
@freelist(16)
cdef class Buffers:
    """Made by one_buffer and many_buffers; gives the buffers back when it goes."""

    def __dealloc__(self):
        cdef int i
        for i in range(self.count):
            PyBuffer_Release(&self.views[i])
        if self.views != &self.one_view:
            free(self.views)
            free(self.iov)


cdef int take(Buffers self, object buffer, bint writable) except -1:
    cdef Py_buffer *view = &self.views[self.count]
    PyObject_GetBuffer(buffer, view, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
    self.iov[self.count].base = view.buf
    self.iov[self.count].len = view.len
    self.total += view.len
    self.count += 1
    return 0


cdef Buffers one_buffer(object buffer, bint writable):
    cdef Buffers self = Buffers.__new__(Buffers)
    self.views = &self.one_view
    self.iov = &self.one_iov
    take(self, buffer, writable)
    return self


cdef Buffers many_buffers(object buffers, bint writable):
    cdef Buffers self = Buffers.__new__(Buffers)
    cdef list items = list(buffers)
    if len(items) > IOV_MAX:
        raise OSError(EMSGSIZE, _os.strerror(EMSGSIZE))
    self.views = <Py_buffer *>calloc(len(items) + 1, sizeof(Py_buffer))
    self.iov = <IoVec *>calloc(len(items) + 1, sizeof(IoVec))
    if self.views == NULL or self.iov == NULL:
        raise MemoryError
    for item in items:
        take(self, item, writable)
    return self
