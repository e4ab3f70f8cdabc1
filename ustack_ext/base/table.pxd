# Hash tables of Entries: chained, power-of-two buckets, grown and shrunk by itself (only while inserting, so a walk may
# remove); the hash is keyed (SipHash), so nobody outside can choose collisions.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from ustack_ext.base.entry cimport Entry

cdef struct HashKey:
    uint64_t k0
    uint64_t k1

cdef struct Table:
    Entry **buckets
    uint32_t mask
    uint32_t count

# SipHash-2-4: for secrets (ISN, cookies, RNG)
cdef uint64_t siphash(const HashKey *key, const void *data, size_t n) noexcept nogil
# SipHash-1-3 over five words: for tables
cdef uint32_t table_hash(const HashKey *key, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e) noexcept nogil
cdef int table_init(Table *t, uint32_t buckets) noexcept nogil       # 0, or -1 without memory
cdef void table_destroy(Table *t) noexcept nogil                     # frees the buckets, not the entries
cdef void table_insert(Table *t, Entry *e, uint32_t hash) noexcept nogil
cdef void table_remove(Table *t, Entry *e) noexcept nogil            # no-op if not hashed
# Walk over everything: for i in range(t.mask + 1): e = t.buckets[i]; while e: nxt = e.hnext; ...


cdef inline Entry *table_first(const Table *t, uint32_t hash) noexcept nogil:
    """First entry of the hash's chain whose full hash is equal; go on with table_next. The caller compares its key."""
    cdef Entry *e = t.buckets[hash & t.mask]
    while e != NULL and e.hash != hash:
        e = e.hnext
    return e


cdef inline Entry *table_next(Entry *e) noexcept nogil:
    cdef uint32_t hash = e.hash
    e = e.hnext
    while e != NULL and e.hash != hash:
        e = e.hnext
    return e
