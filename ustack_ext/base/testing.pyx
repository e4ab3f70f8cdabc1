"""The data structures of ustack_ext.base for Python, so that tests can drive them against simple models.

Nothing in the data plane uses this module. Entries of wheels and tables are named by their index; objects of pools and
slabs by a handle (their address as an int), which must be one that was handed out and not given back.
"""
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from ustack_ext.base.bpf cimport Bpf, BpfPacket, bpf_free, bpf_new, bpf_run
from ustack_ext.base.buf cimport Buf, BufPool, BufQueue, buf_alloc, buf_class_cap, buf_ref, buf_truesize, buf_unref
from ustack_ext.base.buf cimport bufq_clear, bufq_pop, bufq_push, pool_destroy, pool_init
from ustack_ext.base.entry cimport Entry
from ustack_ext.base.event cimport EventList, Source, event_forget, event_pop, event_raise
from ustack_ext.base.limiter cimport Limiter, limiter_init, limiter_take
from ustack_ext.base.md5 cimport Md5, md5_final, md5_init, md5_update
from ustack_ext.base.rng cimport Rng, rng_below, rng_init, rng_key, rng_u64
from ustack_ext.base.slab cimport Slab, slab_alloc, slab_destroy, slab_free, slab_init
from ustack_ext.base.table cimport HashKey, Table, siphash, table_bucket, table_buckets, table_destroy, table_first
from ustack_ext.base.table cimport table_hash, table_init, table_insert, table_next, table_remove
from ustack_ext.base.wheel cimport Wheel, wheel_arm, wheel_cancel, wheel_destroy, wheel_expire, wheel_init
from ustack_ext.base.wheel cimport wheel_next, wheel_wake

NEVER = 0xFFFFFFFFFFFFFFFF         # what next() says when nothing is armed

cdef extern from *:
    """
    #ifdef __SANITIZE_ADDRESS__
    #define USTACK_OWN_BLOCKS 1
    #else
    #define USTACK_OWN_BLOCKS 0
    #endif
    """
    const bint USTACK_OWN_BLOCKS

# True in a sanitizer build, where every object is a malloc of its own and no chunk is kept.
UNPOOLED = bool(USTACK_OWN_BLOCKS)


cdef Entry *new_entries(uint32_t n) except NULL:
    cdef Entry *entries = <Entry *>calloc(n, sizeof(Entry))
    if entries == NULL:
        raise MemoryError
    return entries


cdef HashKey to_key(bytes key) except *:
    cdef HashKey k
    if len(key) != 16:
        raise ValueError("a key has 16 bytes")
    k.k0 = int.from_bytes(key[:8], "little")
    k.k1 = int.from_bytes(key[8:], "little")
    return k


@cython.final
cdef class TimerWheel:
    """A wheel and `entries` timers; times are ns."""
    cdef Wheel wheel
    cdef Entry *entries
    cdef readonly uint32_t size

    def __cinit__(self, uint64_t now=0, uint32_t entries=64):
        wheel_init(&self.wheel, now)
        self.entries = new_entries(entries)
        self.size = entries

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.size):
            wheel_cancel(&self.wheel, &self.entries[i])
        wheel_destroy(&self.wheel)
        free(self.entries)

    cdef Entry *entry(self, uint32_t i) except NULL:
        if i >= self.size:
            raise IndexError(i)
        return &self.entries[i]

    def arm(self, uint32_t i, uint64_t deadline):
        wheel_arm(&self.wheel, self.entry(i), deadline)

    def cancel(self, uint32_t i):
        wheel_cancel(&self.wheel, self.entry(i))

    def next(self):
        return wheel_next(&self.wheel)

    def wake(self):
        return wheel_wake(&self.wheel)

    def expire(self, uint64_t now):
        """(index, deadline) of the earliest due timer, disarmed; None when none is due."""
        cdef Entry *e = wheel_expire(&self.wheel, now)
        return None if e == NULL else (e - self.entries, e.deadline)

    def is_armed(self, uint32_t i):
        return bool(self.entry(i).armed)

    @property
    def armed(self):
        return self.wheel.armed

    @property
    def nodes(self):
        """Nodes that crowded slots were split into."""
        return self.wheel.nodes


@cython.final
cdef class HashTable:
    """A table and `entries` entries, each with the hash it is inserted under."""
    cdef Table table
    cdef Entry *entries
    cdef readonly uint32_t size

    def __cinit__(self, uint32_t buckets=0, uint32_t entries=64):
        if table_init(&self.table, buckets) != 0:
            raise MemoryError
        self.entries = new_entries(entries)
        self.size = entries

    def __dealloc__(self):
        table_destroy(&self.table)
        free(self.entries)

    cdef Entry *entry(self, uint32_t i) except NULL:
        if i >= self.size:
            raise IndexError(i)
        return &self.entries[i]

    def insert(self, uint32_t i, uint32_t hash):
        if self.entry(i).hashed:
            raise ValueError("already in the table")
        table_insert(&self.table, self.entry(i), hash)

    def remove(self, uint32_t i):
        table_remove(&self.table, self.entry(i))

    def find(self, uint32_t hash):
        """Indexes of all entries with this hash."""
        cdef Entry *e = table_first(&self.table, hash)
        found = set()
        while e != NULL:
            found.add(e - self.entries)
            e = table_next(e)
        return found

    def walk(self, bint remove=False):
        """Indexes of all entries, met in the walk that table.pxd describes; removing each on the way if asked."""
        cdef Entry *e
        cdef Entry *following
        cdef uint32_t i
        met = []
        for i in range(table_buckets(&self.table)):
            e = table_bucket(&self.table, i)[0]
            while e != NULL:
                following = e.hnext
                met.append(e - self.entries)
                if remove:
                    table_remove(&self.table, e)
                e = following
        return met

    @property
    def count(self):
        return self.table.count

    @property
    def buckets(self):
        return table_buckets(&self.table)


@cython.final
cdef class ObjectSlab:
    """A slab of objects of `size` bytes, at most `limit` of them."""
    cdef Slab slab

    def __cinit__(self, uint32_t size, uint32_t limit):
        slab_init(&self.slab, size, limit)

    def __dealloc__(self):
        slab_destroy(&self.slab)

    def alloc(self):
        """A handle, or None at the limit."""
        cdef void *obj = slab_alloc(&self.slab)
        return None if obj == NULL else <size_t>obj

    def free(self, size_t handle):
        slab_free(&self.slab, <void *>handle)

    def fill(self, size_t handle, uint8_t value):
        memset(<void *>handle, value, self.slab.size)

    def read(self, size_t handle):
        return (<const char *>handle)[:self.slab.size]

    @property
    def size(self):
        return self.slab.size

    @property
    def live(self):
        return self.slab.live

    @property
    def held(self):
        return self.slab.held


@cython.final
cdef class Pool:
    """A buffer pool with a budget in bytes, and one queue of its buffers."""
    cdef BufPool pool
    cdef BufQueue queue

    def __cinit__(self, uint64_t budget):
        pool_init(&self.pool, budget)
        memset(&self.queue, 0, sizeof(BufQueue))

    def __dealloc__(self):
        pool_destroy(&self.pool)

    def alloc(self, uint32_t need):
        """A handle, or None when refused."""
        cdef Buf *b = buf_alloc(&self.pool, need)
        return None if b == NULL else <size_t>b

    def ref(self, size_t handle):
        buf_ref(<Buf *>handle)

    def unref(self, size_t handle):
        buf_unref(&self.pool, <Buf *>handle)

    def fill(self, size_t handle, uint8_t value):
        cdef Buf *b = <Buf *>handle
        memset(b.data, value, b.cap)

    def read(self, size_t handle):
        cdef Buf *b = <Buf *>handle
        return (<const char *>b.data)[:b.cap]

    def fields(self, size_t handle):
        cdef Buf *b = <Buf *>handle
        return {"refs": b.refs, "cap": b.cap, "off": b.off, "len": b.len, "seq": b.seq, "cls": b.cls, "flags": b.flags,
                "truesize": buf_truesize(b), "last": b.next == NULL}

    def push(self, size_t handle, uint32_t length):
        cdef Buf *b = <Buf *>handle
        b.len = length
        bufq_push(&self.queue, b)

    def pop(self):
        cdef Buf *b = bufq_pop(&self.queue)
        return None if b == NULL else <size_t>b

    def clear(self):
        bufq_clear(&self.queue, &self.pool)

    @property
    def queued(self):
        """(buffers, bytes) in the queue."""
        return self.queue.count, self.queue.bytes

    @property
    def used(self):
        return self.pool.used

    @property
    def held(self):
        return self.pool.held

    @property
    def live(self):
        return self.pool.live

    @property
    def failures(self):
        return self.pool.failures


@cython.final
cdef class Random:
    """The keyed generator, from a seed of 32 bytes."""
    cdef Rng rng

    def __cinit__(self, bytes seed):
        if len(seed) != 32:
            raise ValueError("a seed has 32 bytes")
        rng_init(&self.rng, <const unsigned char *><const char *>seed)

    def u64(self):
        return rng_u64(&self.rng)

    def below(self, uint32_t bound):
        return rng_below(&self.rng, bound)

    def key(self):
        cdef HashKey k = rng_key(&self.rng)
        return k.k0, k.k1


@cython.final
cdef class TokenBucket:
    """`rate` tokens a second, at most `burst`; times are ns."""
    cdef Limiter limiter

    def __cinit__(self, uint32_t rate, uint32_t burst, uint64_t now=0):
        limiter_init(&self.limiter, rate, burst, now)

    def take(self, uint64_t now):
        return bool(limiter_take(&self.limiter, now))


@cython.final
cdef class Events:
    """An event list and `sources` sources, each with a listener unless it is in `deaf`."""
    cdef EventList events
    cdef Source *sources
    cdef readonly uint32_t size

    def __cinit__(self, uint32_t sources=16, deaf=()):
        cdef uint32_t i
        memset(&self.events, 0, sizeof(EventList))
        self.sources = <Source *>calloc(sources, sizeof(Source))
        if self.sources == NULL:
            raise MemoryError
        self.size = sources
        for i in range(sources):
            self.sources[i].user = NULL if i in deaf else <void *>self

    def __dealloc__(self):
        free(self.sources)

    cdef Source *source(self, uint32_t i) except NULL:
        if i >= self.size:
            raise IndexError(i)
        return &self.sources[i]

    def raise_(self, uint32_t i, int bits):
        event_raise(&self.events, self.source(i), <unsigned short>bits)

    def pop(self):
        """(index, bits) of the next source, its bits cleared; None when there is none."""
        cdef Source *s = event_pop(&self.events)
        if s == NULL:
            return None
        bits = s.pending
        s.pending = 0
        return s - self.sources, bits

    def forget(self, uint32_t i):
        event_forget(&self.events, self.source(i))


def class_cap(int cls):
    """Bytes of data a buffer of class `cls` (0 to 2) holds."""
    return buf_class_cap(cls)


def md5(pieces):
    """The digest of some bytes objects, one after the other."""
    cdef Md5 m
    cdef uint8_t digest[16]
    cdef bytes piece
    md5_init(&m)
    for piece in pieces:
        md5_update(&m, <const char *>piece, len(piece))
    md5_final(&m, digest)
    return digest[:16]


def siphash24(bytes key, bytes data):
    """SipHash-2-4 under a 16-byte key."""
    cdef HashKey k = to_key(key)
    return siphash(&k, <const char *>data, len(data))


def hash_words(bytes key, words):
    """What tables use: SipHash-1-3 over five 64-bit words, folded to 32 bits."""
    cdef HashKey k = to_key(key)
    a, b, c, d, e = words
    return table_hash(&k, a, b, c, d, e)


def bpf_verdict(bytes program, bytes packet, int link=0, protocol=0, pkttype=0, ifindex=0):
    """Bytes that a classic BPF program keeps of a packet with a link header of `link` bytes. OSError: refused."""
    cdef BpfPacket p
    cdef int status = 0
    cdef const uint8_t *data = packet
    cdef Bpf *b = bpf_new(program, len(program), &status)
    if b == NULL:
        raise OSError(-status, "refused")
    memset(&p, 0, sizeof(p))
    p.data = p.link = data
    p.length = p.link_length = <uint32_t>len(packet)
    if link <= len(packet):
        p.net = data + link
        p.net_length = <uint32_t>(len(packet) - link)
    p.protocol = protocol
    p.pkttype = pkttype
    p.ifindex = ifindex
    try:
        return bpf_run(b, &p)
    finally:
        bpf_free(b)
