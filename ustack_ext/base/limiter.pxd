# Token bucket: `rate` tokens a second, at most `burst`; time comes in.
from libc.stdint cimport uint32_t, uint64_t

cdef struct Limiter:
    uint64_t last          # ns
    uint64_t credit        # ns of credit; a token costs 1e9 / rate
    uint32_t rate          # tokens/s; 0: never
    uint32_t burst

cdef void limiter_init(Limiter *l, uint32_t rate, uint32_t burst, uint64_t now) noexcept nogil   # starts full
cdef bint limiter_take(Limiter *l, uint64_t now) noexcept nogil
