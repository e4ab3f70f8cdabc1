"""Packets in a stream of bytes, each behind its length, or one behind another where their own headers say it.

Responsible for finding them again, whatever pieces the stream comes in. Not for the stream, and not for what is in the
packets: a length is compared with what may be, and with what has come, and nothing else is believed.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport uint16_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from ustack_ext.wire.bytes cimport get_be16, get_be32, put_be16, put_be32

cdef enum:
    IP_HEAD = 6                # bytes of an IP header of either version that have its length in them
    IP4_LEAST = 20
    IP6_LEAST = 40


cdef int framing_init(Framing *f, int prefix, uint32_t most) noexcept nogil:
    f.prefix = prefix
    f.most = most
    f.have = 0
    f.rest = <uint8_t *>malloc(<size_t>prefix + most + IP_HEAD)
    return 0 if f.rest != NULL else -ENOMEM


cdef void framing_destroy(Framing *f) noexcept nogil:
    free(f.rest)
    f.rest = NULL


cdef inline uint32_t head_size(const Framing *f) noexcept nogil:
    return <uint32_t>f.prefix if f.prefix > 0 else <uint32_t>IP_HEAD


cdef uint32_t packet_size(const Framing *f, const uint8_t *head) noexcept nogil:
    """Bytes of the packet that begins so, without the prefix; 0: none does."""
    cdef uint32_t size = 0
    if f.prefix == 2:
        size = get_be16(head)
    elif f.prefix == 4:
        size = get_be32(head)
    elif head[0] >> 4 == 4:
        size = get_be16(head + 2)
        if size < IP4_LEAST:
            size = 0
    elif head[0] >> 4 == 6:
        size = IP6_LEAST + <uint32_t>get_be16(head + 4)
    return size if size <= f.most else 0


cdef bint fill(Framing *f, const uint8_t **at, size_t *left, uint32_t wanted) noexcept nogil:
    """Has `wanted` bytes in f.rest. False: there are not so many yet."""
    cdef size_t n
    if f.have < wanted:
        n = min(left[0], <size_t>(wanted - f.have))
        memcpy(f.rest + f.have, at[0], n)
        f.have += <uint32_t>n
        at[0] += n
        left[0] -= n
    return f.have >= wanted


cdef int framing_next(Framing *f, const uint8_t **at, size_t *left, const uint8_t **packet,
                      uint32_t *length) noexcept nogil:
    cdef uint32_t head = head_size(f)
    cdef uint32_t size
    if f.have == 0 and left[0] >= head:                    # as most are: nothing is copied
        size = packet_size(f, at[0])
        if size == 0:
            return -1
        if left[0] >= f.prefix + size:
            packet[0] = at[0] + f.prefix
            length[0] = size
            at[0] += f.prefix + size
            left[0] -= f.prefix + size
            return 1
    if not fill(f, at, left, head):
        return 0
    size = packet_size(f, f.rest)
    if size == 0:
        return -1
    if not fill(f, at, left, f.prefix + size):
        return 0
    packet[0] = f.rest + f.prefix
    length[0] = size
    f.have = 0
    return 1


cdef void framing_put(const Framing *f, uint8_t *to, uint32_t length) noexcept nogil:
    if f.prefix == 2:
        put_be16(to, <uint16_t>length)
    elif f.prefix == 4:
        put_be32(to, length)
