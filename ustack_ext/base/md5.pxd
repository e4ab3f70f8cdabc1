# MD5 (RFC 1321), for the one protocol here that asks for it. It is no protection against who wants a collision.
from libc.stdint cimport uint32_t, uint64_t, uint8_t

cdef struct Md5:
    uint32_t state[4]
    uint64_t n                     # bytes so far
    uint8_t block[64]              # the last n % 64 of them

cdef void md5_init(Md5 *m) noexcept nogil
cdef void md5_update(Md5 *m, const void *data, size_t n) noexcept nogil
cdef void md5_final(Md5 *m, uint8_t *digest) noexcept nogil                 # 16 bytes
