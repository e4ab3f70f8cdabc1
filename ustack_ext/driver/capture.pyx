"""pcap files (draft-ietf-opsawg-pcap §4) with nanosecond timestamps, of what passes a point in a simulated network.

Not here: which frames (wire.pyx). The same run gives the same bytes.
"""

import struct

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

cdef enum:
    FULL = 1 << 20             # bytes that make a write worth its while
    SNAPLEN = 262144
    RECORD = 16

cdef struct Record:
    uint32_t seconds
    uint32_t nanoseconds
    uint32_t captured
    uint32_t length


cdef class Capture:
    """A pcap file; made by Wire.capture().

    Parameters: target, a path or a binary file object; linktype, 1 for Ethernet, 101 for IP packets.
    """

    def __init__(self, target, linktype):
        self.own = not hasattr(target, "write")
        self.file = open(target, "wb") if self.own else target
        self.file.write(struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, SNAPLEN, linktype))

    def __dealloc__(self):
        free(self.data)

    cdef bint add(self, uint64_t now, const uint8_t *frame, uint32_t length) noexcept nogil:
        cdef size_t need = self.used + RECORD + length
        cdef Record record
        cdef void *grown
        if self.closed:
            return False
        if need > self.cap:
            grown = realloc(self.data, need * 2)
            if grown == NULL:
                self.dropped += 1
                return True
            self.data = <uint8_t *>grown
            self.cap = need * 2
        record.seconds = <uint32_t>(now // 1000000000)
        record.nanoseconds = <uint32_t>(now % 1000000000)
        record.captured = length
        record.length = length
        memcpy(self.data + self.used, &record, RECORD)
        memcpy(self.data + self.used + RECORD, frame, length)
        self.used = need
        self.frames += 1
        return need >= FULL

    def flush(self):
        """Write what is held back."""
        if self.file is not None and self.used > 0:
            held = self.data[:self.used]
            self.used = 0
            self.file.write(held)
        if self.file is not None and hasattr(self.file, "flush"):
            self.file.flush()

    def write_full(self):
        if self.used >= FULL:
            held = self.data[:self.used]
            self.used = 0
            self.file.write(held)

    def close(self):
        """Write the rest, and close the file if it was given as a path. Can be called again."""
        if self.file is not None:
            self.flush()
            self.closed = True
            if self.own:
                self.file.close()
            self.file = None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
