"""MD5: RFC 1321 §3, as it stands there."""
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #include <stdint.h>
    /* T[i] of §3.4: the integer part of 2**32 * abs(sin(i)), i from 1, in radians */
    static const uint32_t MD5_T[64] = {
        0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
        0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
        0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
        0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
        0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
        0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
        0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
        0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
    };
    """
    const uint32_t MD5_T[64]


cdef inline uint32_t word(const uint8_t *p) noexcept nogil:
    return p[0] | <uint32_t>p[1] << 8 | <uint32_t>p[2] << 16 | <uint32_t>p[3] << 24


cdef inline void put_word(uint8_t *p, uint32_t v) noexcept nogil:
    p[0] = <uint8_t>v
    p[1] = <uint8_t>(v >> 8)
    p[2] = <uint8_t>(v >> 16)
    p[3] = <uint8_t>(v >> 24)


cdef inline uint32_t step(uint32_t sum, uint32_t b, int s) noexcept nogil:
    """The end of each of the 64: b + (sum <<< s)."""
    return b + (sum << s | sum >> (32 - s))


cdef inline uint32_t F(uint32_t x, uint32_t y, uint32_t z) noexcept nogil:
    return (x & y) | (~x & z)


cdef inline uint32_t G(uint32_t x, uint32_t y, uint32_t z) noexcept nogil:
    return (x & z) | (y & ~z)


cdef inline uint32_t H(uint32_t x, uint32_t y, uint32_t z) noexcept nogil:
    return x ^ y ^ z


cdef inline uint32_t I(uint32_t x, uint32_t y, uint32_t z) noexcept nogil:
    return y ^ (x | ~z)


cdef void transform(uint32_t *state, const uint8_t *p) noexcept nogil:
    """§3.4: four rounds of sixteen steps over one block."""
    cdef uint32_t a = state[0], b = state[1], c = state[2], d = state[3]
    cdef uint32_t x[16]
    cdef int i
    for i in range(16):
        x[i] = word(p + 4 * i)
    for i in range(0, 16, 4):
        a = step(a + F(b, c, d) + x[i] + MD5_T[i], b, 7)
        d = step(d + F(a, b, c) + x[i + 1] + MD5_T[i + 1], a, 12)
        c = step(c + F(d, a, b) + x[i + 2] + MD5_T[i + 2], d, 17)
        b = step(b + F(c, d, a) + x[i + 3] + MD5_T[i + 3], c, 22)
    for i in range(0, 16, 4):
        a = step(a + G(b, c, d) + x[(5 * i + 1) & 15] + MD5_T[16 + i], b, 5)
        d = step(d + G(a, b, c) + x[(5 * i + 6) & 15] + MD5_T[17 + i], a, 9)
        c = step(c + G(d, a, b) + x[(5 * i + 11) & 15] + MD5_T[18 + i], d, 14)
        b = step(b + G(c, d, a) + x[5 * i & 15] + MD5_T[19 + i], c, 20)
    for i in range(0, 16, 4):
        a = step(a + H(b, c, d) + x[(3 * i + 5) & 15] + MD5_T[32 + i], b, 4)
        d = step(d + H(a, b, c) + x[(3 * i + 8) & 15] + MD5_T[33 + i], a, 11)
        c = step(c + H(d, a, b) + x[(3 * i + 11) & 15] + MD5_T[34 + i], d, 16)
        b = step(b + H(c, d, a) + x[(3 * i + 14) & 15] + MD5_T[35 + i], c, 23)
    for i in range(0, 16, 4):
        a = step(a + I(b, c, d) + x[7 * i & 15] + MD5_T[48 + i], b, 6)
        d = step(d + I(a, b, c) + x[(7 * i + 7) & 15] + MD5_T[49 + i], a, 10)
        c = step(c + I(d, a, b) + x[(7 * i + 14) & 15] + MD5_T[50 + i], d, 15)
        b = step(b + I(c, d, a) + x[(7 * i + 5) & 15] + MD5_T[51 + i], c, 21)
    state[0] += a
    state[1] += b
    state[2] += c
    state[3] += d


cdef void md5_init(Md5 *m) noexcept nogil:
    m.n = 0
    m.state[0] = 0x67452301
    m.state[1] = <uint32_t>0xefcdab89
    m.state[2] = <uint32_t>0x98badcfe
    m.state[3] = 0x10325476


cdef void md5_update(Md5 *m, const void *data, size_t n) noexcept nogil:
    cdef const uint8_t *p = <const uint8_t *>data
    cdef size_t at = m.n % 64, piece
    m.n += n
    while n > 0:
        if at == 0 and n >= 64:
            transform(m.state, p)
            piece = 64
        else:
            piece = min(64 - at, n)
            memcpy(m.block + at, p, piece)
            at = (at + piece) % 64
            if at == 0:
                transform(m.state, m.block)
        p += piece
        n -= piece


cdef void md5_final(Md5 *m, uint8_t *digest) noexcept nogil:
    cdef uint64_t bits = m.n * 8
    cdef uint8_t padding[72]
    cdef uint32_t n = 64 - <uint32_t>((m.n + 8) % 64)         # 1 to 64, then the length
    cdef int i
    memset(padding, 0, sizeof(padding))
    padding[0] = 0x80
    put_word(padding + n, <uint32_t>bits)
    put_word(padding + n + 4, <uint32_t>(bits >> 32))
    md5_update(m, padding, n + 8)
    for i in range(4):
        put_word(digest + 4 * i, m.state[i])
