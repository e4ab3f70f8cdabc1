# Hash tables of entries and the keyed hashes they and others use (table.pxd): SipHash (Aumasson, Bernstein, "SipHash: a
# fast short-input PRF", 2012). What an entry is, and which key fields make its hash, is the caller's business.
#
# Buckets are split one by one (linear hashing: Litwin, "Linear hashing: a new tool for file and table addressing",
# 1980), so that no insertion moves more than a chain or two, and they lie in segments that never move, each as large as
# all before it; the system gives such memory as it is touched. A table shrinks, likewise by a few buckets, only when
# something is inserted: removing while walking must not move what was not visited yet.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from ustack_ext.base.chunk cimport huge_pages
from ustack_ext.base.entry cimport Entry

cdef enum:
    FIRST = 1 << TABLE_FIRST
    MERGES = 16            # buckets that one insertion takes back at most
    MAX_MASK = (1 << 30) - 1
    SPARSE = 8             # buckets an entry, when they are too many

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


cdef inline uint32_t sip13_end(Sip *s) noexcept nogil:
    cdef uint64_t h
    s.v2 ^= 0xFF
    sip_round(s)
    sip_round(s)
    sip_round(s)
    h = s.v0 ^ s.v1 ^ s.v2 ^ s.v3
    return <uint32_t>(h ^ (h >> 32))


cdef uint32_t table_hash_short(const HashKey *key, uint64_t a, uint32_t b) noexcept nogil:
    cdef Sip s = sip_start(key)
    sip13_word(&s, a)
    sip13_word(&s, <uint64_t>12 << 56 | b)
    return sip13_end(&s)


cdef uint32_t table_hash(const HashKey *key, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e) noexcept nogil:
    cdef Sip s = sip_start(key)
    sip13_word(&s, a)
    sip13_word(&s, b)
    sip13_word(&s, c)
    sip13_word(&s, d)
    sip13_word(&s, e)
    sip13_word(&s, <uint64_t>40 << 56)
    return sip13_end(&s)


cdef inline int segment_of(uint32_t bucket) noexcept nogil:
    return 32 - TABLE_FIRST - __builtin_clz(bucket | (FIRST - 1))


cdef bint segment_add(Table *t, uint32_t first, uint32_t buckets) noexcept nogil:
    """Memory for so many buckets from `first` on."""
    cdef Entry **made = <Entry **>calloc(buckets, sizeof(Entry *))
    if made == NULL:
        return False
    huge_pages(made, buckets * sizeof(Entry *))
    t.segments[segment_of(first)] = made - first
    return True


cdef void segment_drop(Table *t, uint32_t first) noexcept nogil:
    cdef int which = segment_of(first)
    if t.segments[which] != NULL:
        free(t.segments[which] + first)
        t.segments[which] = NULL


cdef int table_init(Table *t, uint32_t buckets) noexcept nogil:
    memset(t, 0, sizeof(Table))
    if not segment_add(t, 0, FIRST):
        return -1
    t.mask = FIRST - 1
    while t.mask + 1 < buckets and t.mask < MAX_MASK:
        if not segment_add(t, t.mask + 1, t.mask + 1):
            table_destroy(t)
            return -1
        t.mask = 2 * t.mask + 1
    return 0


cdef void table_destroy(Table *t) noexcept nogil:
    cdef uint32_t first = FIRST
    while first <= t.mask + t.split:
        segment_drop(t, first)
        first *= 2
    segment_drop(t, 0)
    memset(t, 0, sizeof(Table))


cdef void grow(Table *t) noexcept nogil:
    """One bucket more: the next in turn is split. Without memory the table stays as it is: slower, not broken."""
    cdef uint32_t other = t.mask + 1 + t.split
    cdef Entry **kept
    cdef Entry **moved
    cdef Entry *e
    if t.split == 0 and (t.mask >= MAX_MASK or not segment_add(t, other, other)):
        return
    kept = table_bucket(t, t.split)
    moved = table_bucket(t, other)
    e = kept[0]
    while e != NULL:                           # both chains keep their order
        if e.hash & (t.mask + 1):
            moved[0] = e
            moved = &e.hnext
        else:
            kept[0] = e
            kept = &e.hnext
        e = e.hnext
    kept[0] = NULL
    moved[0] = NULL
    t.split += 1
    if t.split > t.mask:
        t.mask = 2 * t.mask + 1
        t.split = 0


cdef void shrink(Table *t) noexcept nogil:
    """One bucket less: the last goes back into that which it was split from."""
    cdef uint32_t last = t.mask + t.split
    cdef Entry **end
    if t.split == 0:
        t.mask //= 2
        t.split = t.mask + 1
    t.split -= 1
    end = table_bucket(t, t.split)
    while end[0] != NULL:
        end = &end[0].hnext
    end[0] = table_bucket(t, last)[0]
    table_bucket(t, last)[0] = NULL
    if t.split == 0:
        segment_drop(t, last)


cdef void adjust(Table *t) noexcept nogil:
    cdef uint32_t buckets = table_buckets(t)
    cdef int left = MERGES
    if t.count >= buckets:
        grow(t)
    while left > 0 and buckets > FIRST and t.count < buckets // SPARSE:
        shrink(t)
        buckets -= 1
        left -= 1


cdef void table_insert(Table *t, Entry *e, uint32_t hash) noexcept nogil:
    cdef Entry **bucket
    adjust(t)
    bucket = table_bucket(t, table_place(t, hash))
    e.hash = hash
    e.hnext = bucket[0]
    e.hashed = 1
    bucket[0] = e
    t.count += 1


cdef void table_remove(Table *t, Entry *e) noexcept nogil:
    cdef Entry **link
    if not e.hashed:
        return
    link = table_bucket(t, table_place(t, e.hash))
    while link[0] != e:
        link = &link[0].hnext
    link[0] = e.hnext
    e.hnext = NULL
    e.hashed = 0
    t.count -= 1
