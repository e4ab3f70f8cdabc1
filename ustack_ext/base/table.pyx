# Hash tables of entries and the keyed hashes they and others use (table.pxd): SipHash (Aumasson, Bernstein, "SipHash: a
# fast short-input PRF", 2012). What an entry is, and which key fields make its hash, is the caller's business.
#
# A table shrinks only when something is inserted: removing while walking must not move what was not visited yet.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from ustack_ext.base.entry cimport Entry

cdef enum:
    MIN_BUCKETS = 16
    MAX_BUCKETS = 1 << 30

cdef struct Sip:
    uint64_t v0
    uint64_t v1
    uint64_t v2
    uint64_t v3


cdef inline uint64_t rotl(uint64_t x, int bits) noexcept nogil:
    return (x << bits) | (x >> (64 - bits))


cdef inline void sip_round(Sip *s) noexcept nogil:
    s.v0 += s.v1
    s.v2 += s.v3
    s.v1 = rotl(s.v1, 13) ^ s.v0
    s.v3 = rotl(s.v3, 16) ^ s.v2
    s.v0 = rotl(s.v0, 32)
    s.v2 += s.v1
    s.v0 += s.v3
    s.v1 = rotl(s.v1, 17) ^ s.v2
    s.v3 = rotl(s.v3, 21) ^ s.v0
    s.v2 = rotl(s.v2, 32)


cdef inline Sip sip_start(const HashKey *key) noexcept nogil:
    cdef Sip s
    s.v0 = key.k0 ^ <uint64_t>0x736F6D6570736575
    s.v1 = key.k1 ^ <uint64_t>0x646F72616E646F6D
    s.v2 = key.k0 ^ <uint64_t>0x6C7967656E657261
    s.v3 = key.k1 ^ <uint64_t>0x7465646279746573
    return s


cdef inline void sip24_word(Sip *s, uint64_t m) noexcept nogil:
    s.v3 ^= m
    sip_round(s)
    sip_round(s)
    s.v0 ^= m


cdef inline void sip13_word(Sip *s, uint64_t m) noexcept nogil:
    s.v3 ^= m
    sip_round(s)
    s.v0 ^= m


cdef inline uint64_t load_le64(const uint8_t *p) noexcept nogil:
    return (<uint64_t>p[0] | <uint64_t>p[1] << 8 | <uint64_t>p[2] << 16 | <uint64_t>p[3] << 24
            | <uint64_t>p[4] << 32 | <uint64_t>p[5] << 40 | <uint64_t>p[6] << 48 | <uint64_t>p[7] << 56)


cdef uint64_t siphash(const HashKey *key, const void *data, size_t n) noexcept nogil:
    cdef const uint8_t *p = <const uint8_t *>data
    cdef Sip s = sip_start(key)
    cdef uint64_t last = <uint64_t>n << 56
    cdef size_t left = n, i
    while left >= 8:
        sip24_word(&s, load_le64(p))
        p += 8
        left -= 8
    for i in range(left):
        last |= <uint64_t>p[i] << (8 * i)
    sip24_word(&s, last)
    s.v2 ^= 0xFF
    sip_round(&s)
    sip_round(&s)
    sip_round(&s)
    sip_round(&s)
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3


cdef uint32_t table_hash(const HashKey *key, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e) noexcept nogil:
    cdef Sip s = sip_start(key)
    cdef uint64_t h
    sip13_word(&s, a)
    sip13_word(&s, b)
    sip13_word(&s, c)
    sip13_word(&s, d)
    sip13_word(&s, e)
    sip13_word(&s, <uint64_t>40 << 56)
    s.v2 ^= 0xFF
    sip_round(&s)
    sip_round(&s)
    sip_round(&s)
    h = s.v0 ^ s.v1 ^ s.v2 ^ s.v3
    return <uint32_t>(h ^ (h >> 32))


cdef uint32_t buckets_for(uint32_t wanted) noexcept nogil:
    cdef uint32_t n = MIN_BUCKETS
    while n < wanted and n < MAX_BUCKETS:
        n *= 2
    return n


cdef int table_init(Table *t, uint32_t buckets) noexcept nogil:
    buckets = buckets_for(buckets)
    t.count = 0
    t.mask = buckets - 1
    t.buckets = <Entry **>calloc(buckets, sizeof(Entry *))
    return 0 if t.buckets != NULL else -1


cdef void table_destroy(Table *t) noexcept nogil:
    free(t.buckets)
    t.buckets = NULL
    t.mask = 0
    t.count = 0


cdef void resize(Table *t, uint32_t buckets) noexcept nogil:
    """Rehash into `buckets` (a power of two). Without memory for them the table stays as it is: slower, not broken."""
    cdef Entry **fresh = <Entry **>calloc(buckets, sizeof(Entry *))
    cdef Entry *e
    cdef Entry *following
    cdef uint32_t i, at
    if fresh == NULL:
        return
    for i in range(t.mask + 1):
        e = t.buckets[i]
        while e != NULL:
            following = e.hnext
            at = e.hash & (buckets - 1)
            e.hnext = fresh[at]
            fresh[at] = e
            e = following
    free(t.buckets)
    t.buckets = fresh
    t.mask = buckets - 1


cdef void table_insert(Table *t, Entry *e, uint32_t hash) noexcept nogil:
    cdef uint32_t at
    if t.count > t.mask and t.mask < MAX_BUCKETS - 1:
        resize(t, (t.mask + 1) * 2)
    elif t.mask >= MIN_BUCKETS and t.count < (t.mask + 1) // 8:
        resize(t, buckets_for(t.count * 2 + 1))
    at = hash & t.mask
    e.hash = hash
    e.hnext = t.buckets[at]
    e.hashed = 1
    t.buckets[at] = e
    t.count += 1


cdef void table_remove(Table *t, Entry *e) noexcept nogil:
    cdef Entry **link
    if not e.hashed:
        return
    link = &t.buckets[e.hash & t.mask]
    while link[0] != e:
        link = &link[0].hnext
    link[0] = e.hnext
    e.hnext = NULL
    e.hashed = 0
    t.count -= 1
