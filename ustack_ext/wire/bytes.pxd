# Network byte order, unaligned: the only place that turns wire bytes into integers and back. No bounds here: the parser
# that calls has proved them.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from * nogil:
    """
    #define USTACK_SWAP16(v) __builtin_bswap16(v)
    #define USTACK_SWAP32(v) __builtin_bswap32(v)
    #define USTACK_SWAP64(v) __builtin_bswap64(v)
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #undef USTACK_SWAP16
    #undef USTACK_SWAP32
    #undef USTACK_SWAP64
    #define USTACK_SWAP16(v) (v)
    #define USTACK_SWAP32(v) (v)
    #define USTACK_SWAP64(v) (v)
    #endif
    """
    uint16_t USTACK_SWAP16(uint16_t) noexcept
    uint32_t USTACK_SWAP32(uint32_t) noexcept
    uint64_t USTACK_SWAP64(uint64_t) noexcept


cdef inline uint16_t get_be16(const uint8_t *p) noexcept nogil:
    cdef uint16_t v
    memcpy(&v, p, 2)
    return USTACK_SWAP16(v)


cdef inline uint32_t get_be32(const uint8_t *p) noexcept nogil:
    cdef uint32_t v
    memcpy(&v, p, 4)
    return USTACK_SWAP32(v)


cdef inline uint64_t get_be64(const uint8_t *p) noexcept nogil:
    cdef uint64_t v
    memcpy(&v, p, 8)
    return USTACK_SWAP64(v)


cdef inline void put_be16(uint8_t *p, uint16_t value) noexcept nogil:
    cdef uint16_t v = USTACK_SWAP16(value)
    memcpy(p, &v, 2)


cdef inline void put_be32(uint8_t *p, uint32_t value) noexcept nogil:
    cdef uint32_t v = USTACK_SWAP32(value)
    memcpy(p, &v, 4)


cdef inline void put_be64(uint8_t *p, uint64_t value) noexcept nogil:
    cdef uint64_t v = USTACK_SWAP64(value)
    memcpy(p, &v, 8)
