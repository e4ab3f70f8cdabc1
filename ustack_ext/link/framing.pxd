# Packets one behind another in a stream of bytes, as tunnels over TCP or TLS carry them: where each begins and ends.
from libc.stdint cimport uint8_t, uint32_t

cdef struct Framing:
    int prefix                 # bytes of length in front of each packet, big-endian: 2 or 4; 0: its IP header says it
    uint32_t most              # bytes of a packet
    uint8_t *rest              # the beginning of a packet of which more is to come
    uint32_t have

cdef int framing_init(Framing *f, int prefix, uint32_t most) noexcept nogil      # 0, or -ENOMEM
cdef void framing_destroy(Framing *f) noexcept nogil
# The next packet of the bytes at `at`, which are stepped over; it is valid until the next call. 1; 0: that was all, and
# what is not whole is kept for when more comes; -1: no packet of that length can be, the stream is out of step.
cdef int framing_next(Framing *f, const uint8_t **at, size_t *left, const uint8_t **packet,
                      uint32_t *length) noexcept nogil
cdef void framing_put(const Framing *f, uint8_t *to, uint32_t length) noexcept nogil      # the prefix of a packet
