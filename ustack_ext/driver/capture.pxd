# A capture file being written: records gather in C and go to the file now and then.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef class Capture:
    cdef uint8_t *data
    cdef size_t used
    cdef size_t cap
    cdef readonly uint64_t frames
    cdef uint64_t dropped              # for want of memory
    cdef object file
    cdef bint own
    cdef readonly bint closed
    # whether it is time to write
    cdef bint add(self, uint64_t now, const uint8_t *frame, uint32_t length) noexcept nogil
