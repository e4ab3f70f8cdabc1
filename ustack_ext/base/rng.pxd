# Keyed random numbers: SipHash-2-4 in counter mode under a key given at creation. Same seed, same numbers.
from libc.stdint cimport uint32_t, uint64_t
from ustack_ext.base.table cimport HashKey

cdef struct Rng:
    HashKey key
    uint64_t counter

cdef void rng_init(Rng *r, const unsigned char *seed32) noexcept nogil       # 32 bytes
cdef uint64_t rng_u64(Rng *r) noexcept nogil
cdef uint32_t rng_below(Rng *r, uint32_t bound) noexcept nogil              # uniform in [0, bound); 0 if bound is 0
cdef HashKey rng_key(Rng *r) noexcept nogil                                 # a fresh key for a table or a secret
