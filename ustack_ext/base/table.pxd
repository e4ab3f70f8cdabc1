# Hash tables of Entries: chained, grown and shrunk by itself, a few buckets with each insertion (and then only, so a
# walk may remove); the hash is keyed (SipHash), so nobody outside can choose collisions.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from ustack_ext.base.entry cimport Entry

cdef struct HashKey:
    uint64_t k0
    uint64_t k1

cdef enum:
    TABLE_SEGMENTS = 27        # 16 buckets, then each as many as all before it
    TABLE_FIRST = 4            # log2 of the first

# Bucket i is segments[the number of bits in i beyond the first four][i]: the pointers are as if each segment began with
# bucket 0.
cdef struct Table:
    uint32_t mask              # a power of two less 1: of the buckets before the present doubling
    uint32_t split             # so many of them have been split in two already
    uint32_t count
    Entry **segments[27]

# SipHash-2-4: for secrets (ISN, cookies, RNG)
cdef uint64_t siphash(const HashKey *key, const void *data, size_t n) noexcept nogil
# SipHash-1-3 over five words: for tables
cdef uint32_t table_hash(const HashKey *key, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e) noexcept nogil
# the same over 12 bytes: a word and a half, told apart from five words by their length
cdef uint32_t table_hash_short(const HashKey *key, uint64_t a, uint32_t b) noexcept nogil
cdef int table_init(Table *t, uint32_t buckets) noexcept nogil       # 0, or -1 without memory
cdef void table_destroy(Table *t) noexcept nogil                     # frees the buckets, not the entries
cdef void table_insert(Table *t, Entry *e, uint32_t hash) noexcept nogil
cdef void table_remove(Table *t, Entry *e) noexcept nogil            # no-op if not hashed
# Walk over everything: for i in range(table_buckets(t)): e = table_bucket(t, i)[0]; while e: nxt = e.hnext; ...


cdef extern from * nogil:
    int __builtin_clz(unsigned int) noexcept


cdef inline uint32_t table_buckets(const Table *t) noexcept nogil:
    """How many buckets there are; 0 in a table that found no memory, or was never made."""
    return t.mask + 1 + t.split if t.segments[0] != NULL else 0


cdef inline Entry **table_bucket(const Table *t, uint32_t i) noexcept nogil:
    return t.segments[32 - TABLE_FIRST - __builtin_clz(i | ((1 << TABLE_FIRST) - 1))] + i


cdef inline uint32_t table_place(const Table *t, uint32_t hash) noexcept nogil:
    """The number of a hash's bucket."""
    cdef uint32_t at = hash & t.mask
    return at if at >= t.split else hash & (2 * t.mask + 1)


cdef inline Entry *table_first(const Table *t, uint32_t hash) noexcept nogil:
    """First entry of the hash's chain whose full hash is equal; go on with table_next. The caller compares its key."""
    cdef Entry *e = table_bucket(t, table_place(t, hash))[0]
    while e != NULL and e.hash != hash:
        e = e.hnext
    return e


cdef inline Entry *table_next(Entry *e) noexcept nogil:
    cdef uint32_t hash = e.hash
    e = e.hnext
    while e != NULL and e.hash != hash:
        e = e.hnext
    return e
