# The Internet checksum (RFC 1071). Partial sums are uint64_t in native word order; fold once at the end.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from ustack_ext.wire.addr cimport Addr, addr_bare_hi, addr_is_v4
from ustack_ext.wire.bytes cimport USTACK_SWAP16, USTACK_SWAP32, USTACK_SWAP64

cdef extern from * nogil:
    """
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>
    #define USTACK_CSUM_SHORT 160      /* bytes; with more, vectors are worth what they cost to set up */

    /* Eight bytes a step with the carry added back (RFC 1071 §2 (B), (C)): a sum modulo 2**64 - 1, which 2**16 - 1
       divides. What is returned is below 2**33, and so can be added to without care. */
    static inline uint64_t ustack_csum_short(const uint8_t *p, size_t n, uint64_t sum) {
        uint64_t word;
        for (; n >= 8; n -= 8, p += 8) {
            memcpy(&word, p, 8);
            sum += word;
            sum += sum < word;
        }
        word = 0;                      /* what is left over is padded with zero, on either byte order */
        if (n & 4) {
            uint32_t half;
            memcpy(&half, p, 4);
            word = half;
            p += 4;
        }
        if (n & 2) {
            uint16_t two;
            memcpy(&two, p, 2);
            word += two;
            p += 2;
        }
        if (n & 1) {
            uint16_t one = 0;
            memcpy(&one, p, 1);
            word += one;
        }
        sum += word;
        sum += sum < word;
        return (sum >> 32) + (uint32_t)sum;
    }
    """
    const size_t USTACK_CSUM_SHORT
    uint64_t ustack_csum_short(const uint8_t *p, size_t n, uint64_t sum) noexcept

cdef uint64_t csum_long(const uint8_t *p, size_t n, uint64_t sum) noexcept nogil


cdef inline uint64_t csum_partial(const uint8_t *p, size_t n, uint64_t sum) noexcept nogil:
    """Adds `n` bytes at `p` (which sit at an even offset of the checksummed data) to `sum`. An odd last byte is padded
    with zero.
    """
    return ustack_csum_short(p, n, sum) if n <= USTACK_CSUM_SHORT else csum_long(p, n, sum)


cdef inline uint64_t csum_words(uint64_t value) noexcept nogil:
    """The partial sum of eight bytes given in host order."""
    value = USTACK_SWAP64(value)
    return <uint32_t>value + (value >> 32)


cdef inline uint64_t csum_pseudo(const Addr *src, const Addr *dst, uint8_t proto, uint32_t length) noexcept nogil:
    """Pseudo header of RFC 9293 §3.1 / RFC 768 (IPv4) or RFC 8200 §8.1 (IPv6), by the family of `src`."""
    cdef uint64_t sum = <uint64_t>USTACK_SWAP32(length) + USTACK_SWAP16(proto)
    if addr_is_v4(src):
        return sum + USTACK_SWAP32(<uint32_t>src.lo) + USTACK_SWAP32(<uint32_t>dst.lo)
    return (sum + csum_words(addr_bare_hi(src.hi)) + csum_words(src.lo) + csum_words(addr_bare_hi(dst.hi))
            + csum_words(dst.lo))


cdef inline uint32_t csum_fold32(uint64_t sum) noexcept nogil:
    """Folds to 16 bits without complementing."""
    cdef uint32_t half
    # The upper half of a number plus itself with its halves swapped is the sum of both halves and their carry.
    sum += sum << 32 | sum >> 32
    half = <uint32_t>(sum >> 32)
    half += half << 16 | half >> 16
    return half >> 16


cdef inline bint csum_right(uint64_t sum) noexcept nogil:
    """Whether a sum over data and their checksum says that nothing changed: csum_fold() of it would be 0."""
    return sum % 0xFFFF == 0 and sum != 0


cdef inline uint64_t csum_swap(uint64_t part) noexcept nogil:
    """A partial sum of bytes that start at an odd offset (RFC 1071 §2 (B))."""
    cdef uint32_t v = csum_fold32(part)
    return ((v & 0xFF) << 8) | (v >> 8)


cdef inline uint16_t csum_fold(uint64_t sum) noexcept nogil:
    """The checksum field in native order: store it with csum_store. Over data with a right checksum it is 0."""
    return <uint16_t>(~csum_fold32(sum) & 0xFFFF)


cdef inline void csum_store(uint8_t *p, uint16_t folded) noexcept nogil:
    p[0] = (<uint8_t *>&folded)[0]
    p[1] = (<uint8_t *>&folded)[1]


cdef inline uint64_t csum_pseudo4(const uint8_t *ip, uint8_t proto, uint32_t length) noexcept nogil:
    """Pseudo header of a packet whose IPv4 header is at `ip`."""
    cdef uint64_t addresses
    memcpy(&addresses, ip + 12, 8)
    return (addresses >> 32) + <uint32_t>addresses + USTACK_SWAP32(length) + USTACK_SWAP16(proto)


cdef inline uint64_t csum_pseudo6(const uint8_t *ip, uint8_t proto, uint32_t length) noexcept nogil:
    """Pseudo header of a packet whose IPv6 header, without a routing header, is at `ip`."""
    cdef uint64_t w[4]
    memcpy(w, ip + 8, 32)
    return ((w[0] >> 32) + <uint32_t>w[0] + (w[1] >> 32) + <uint32_t>w[1] + (w[2] >> 32) + <uint32_t>w[2]
            + (w[3] >> 32) + <uint32_t>w[3] + USTACK_SWAP32(length) + USTACK_SWAP16(proto))
