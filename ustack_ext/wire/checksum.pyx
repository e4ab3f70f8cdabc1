# The Internet checksum over memory and over pseudo headers (RFC 1071). Folding and storing are inline in checksum.pxd;
# where the field sits in which header is wire/headers' business.
#
# 32-bit words are added into 64-bit lanes, so carries need no care until the fold (RFC 1071 §2 (C): deferred carries),
# and the loop has no order between its lanes, which is what lets the compiler use vector registers.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from ustack_ext.wire.addr cimport Addr, addr_is_v4
from ustack_ext.wire.bytes cimport USTACK_SWAP16, USTACK_SWAP32, USTACK_SWAP64

cdef extern from * nogil:
    """
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>

    /* One body, compiled twice: for every machine, and for those with AVX2. `n` is a multiple of 8. */
    #define USTACK_CSUM_BODY \
        uint64_t low = 0, high = 0; \
        for (size_t i = 0; i < n; i += 8) { \
            uint64_t word; \
            memcpy(&word, p + i, 8); \
            low += (uint32_t)word; \
            high += word >> 32; \
        } \
        return low + high;

    #if defined(__GNUC__) && !defined(__clang__)
    #define USTACK_O3 __attribute__((optimize("O3")))
    #else
    #define USTACK_O3
    #endif

    USTACK_O3 static uint64_t ustack_csum_plain(const uint8_t *p, size_t n) { USTACK_CSUM_BODY }

    #if defined(__x86_64__) && defined(__GNUC__)
    USTACK_O3 __attribute__((target("avx2")))
    static uint64_t ustack_csum_avx2(const uint8_t *p, size_t n) { USTACK_CSUM_BODY }
    #define USTACK_CSUM_BLOCKS(p, n) (__builtin_cpu_supports("avx2") ? ustack_csum_avx2(p, n) : ustack_csum_plain(p, n))
    #else
    #define USTACK_CSUM_BLOCKS(p, n) ustack_csum_plain(p, n)
    #endif
    """
    uint64_t USTACK_CSUM_BLOCKS(const uint8_t *p, size_t n) noexcept


cdef uint64_t csum_partial(const uint8_t *p, size_t n, uint64_t sum) noexcept nogil:
    cdef size_t whole
    cdef uint32_t word
    cdef uint16_t half = 0
    if n >= 64:
        whole = n & ~<size_t>7
        sum += USTACK_CSUM_BLOCKS(p, whole)
        p += whole
        n -= whole
    while n >= 4:
        memcpy(&word, p, 4)
        sum += word
        p += 4
        n -= 4
    if n >= 2:
        memcpy(&half, p, 2)
        sum += half
        p += 2
        n -= 2
        half = 0
    if n:
        memcpy(&half, p, 1)      # the first byte of the word in memory: padded with zero on either byte order
        sum += half
    return sum


cdef inline uint64_t word_sum(uint64_t value) noexcept nogil:
    """The partial sum of eight bytes given in host order."""
    value = USTACK_SWAP64(value)
    return <uint32_t>value + (value >> 32)


cdef uint64_t csum_pseudo(const Addr *src, const Addr *dst, uint8_t proto, uint32_t length) noexcept nogil:
    cdef uint64_t sum = USTACK_SWAP32(length)
    sum += USTACK_SWAP16(proto)
    if addr_is_v4(src):
        return sum + USTACK_SWAP32(<uint32_t>src.lo) + USTACK_SWAP32(<uint32_t>dst.lo)
    return sum + word_sum(src.hi) + word_sum(src.lo) + word_sum(dst.hi) + word_sum(dst.lo)
