# The Internet checksum (RFC 1071). Partial sums are uint64_t in native word order; fold once at the end.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from ustack_ext.wire.addr cimport Addr

# Adds `n` bytes at `p` (which sit at an even offset of the checksummed data) to `sum`. An odd last byte is padded with
# zero.
cdef uint64_t csum_partial(const uint8_t *p, size_t n, uint64_t sum) noexcept nogil
# Pseudo header of RFC 9293 §3.1 / RFC 768 (IPv4) or RFC 8200 §8.1 (IPv6), by the family of `src`.
cdef uint64_t csum_pseudo(const Addr *src, const Addr *dst, uint8_t proto, uint32_t length) noexcept nogil


cdef inline uint32_t csum_fold32(uint64_t sum) noexcept nogil:
    """Folds to 16 bits without complementing."""
    sum = <uint32_t>sum + (sum >> 32)
    sum = <uint32_t>sum + (sum >> 32)
    sum = (sum & 0xFFFF) + (sum >> 16)
    sum = (sum & 0xFFFF) + (sum >> 16)
    return <uint32_t>sum


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
