# Random numbers of one engine (rng.pxd): SipHash-2-4 of a counter, keyed by the seed. Where the seed comes from is the
# driver's business; unpredictable to a peer as long as SipHash is a good PRF (RFC 6528 §3 and RFC 6056 §3.3.3 ask for
# no more).
from libc.stdint cimport uint32_t, uint64_t
from ustack_ext.base.table cimport HashKey, siphash


cdef void rng_init(Rng *r, const unsigned char *seed32) noexcept nogil:
    """Folds all 32 bytes into the key's 16: the second half hashed under the first and a byte for each word."""
    cdef HashKey first
    cdef unsigned char message[17]
    cdef int i
    first.k0 = 0
    first.k1 = 0
    for i in range(8):
        first.k0 |= <uint64_t>seed32[i] << (8 * i)
        first.k1 |= <uint64_t>seed32[8 + i] << (8 * i)
    for i in range(16):
        message[i] = seed32[16 + i]
    message[16] = 0
    r.key.k0 = siphash(&first, message, 17)
    message[16] = 1
    r.key.k1 = siphash(&first, message, 17)
    r.counter = 0


cdef uint64_t rng_u64(Rng *r) noexcept nogil:
    cdef unsigned char message[8]
    cdef int i
    for i in range(8):
        message[i] = <unsigned char>(r.counter >> (8 * i))
    r.counter += 1
    return siphash(&r.key, message, 8)


cdef uint32_t rng_below(Rng *r, uint32_t bound) noexcept nogil:
    """Lemire, "Fast Random Integer Generation in an Interval" (2019): multiply, and redraw the few that would bias."""
    cdef uint64_t product
    cdef uint32_t threshold
    if bound == 0:
        return 0
    product = (rng_u64(r) >> 32) * bound
    if <uint32_t>product < bound:
        threshold = (<uint32_t>0 - bound) % bound
        while <uint32_t>product < threshold:
            product = (rng_u64(r) >> 32) * bound
    return <uint32_t>(product >> 32)


cdef HashKey rng_key(Rng *r) noexcept nogil:
    cdef HashKey key
    key.k0 = rng_u64(r)
    key.k1 = rng_u64(r)
    return key
