# The Internet checksum over memory (RFC 1071). Pseudo headers, folding and storing are inline in checksum.pxd; where
# the field sits in which header is wire/headers' business.
#
# 32-bit words are added into 64-bit lanes, so carries need no care until the fold (RFC 1071 §2 (C): deferred carries),
# and the loop has no order between its lanes, which is what lets the compiler use vector registers.
from libc.stdint cimport uint8_t, uint64_t

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


cdef uint64_t csum_long(const uint8_t *p, size_t n, uint64_t sum) noexcept nogil:
    cdef size_t whole = n & ~<size_t>7
    return ustack_csum_short(p + whole, n - whole, sum + USTACK_CSUM_BLOCKS(p, whole))
