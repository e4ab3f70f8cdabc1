# Counted, limited, zeroed objects of one size (slab.pxd): TCBs, neighbours, fragment queues. Memory comes from
# base/chunk.
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset
from ustack_ext.base.chunk cimport CHUNK_HEADER, ChunkList, chunk_free_all, chunk_give, chunk_take
from ustack_ext.base.live cimport LIVE_OBJECTS, live_count

cdef enum:
    MIN_CHUNK = 16384
    MAX_CHUNK = 262144
    WANTED = 64            # objects a chunk should hold, where that fits the largest chunk


cdef inline ChunkList slab_chunks(Slab *s) noexcept nogil:
    cdef ChunkList l
    l.head = &s.free_chunks
    l.held = &s.held
    l.spares = NULL
    l.keep = 0
    l.object = s.size
    l.chunk = MIN_CHUNK
    while l.chunk < MAX_CHUNK and l.chunk < s.size * WANTED:
        l.chunk *= 2
    while l.chunk < s.size * 2 + CHUNK_HEADER:
        l.chunk *= 2
    return l


cdef void slab_init(Slab *s, uint32_t size, uint32_t limit) noexcept nogil:
    s.free_chunks = NULL
    s.size = (size + 15) & ~<uint32_t>15 if size else 16
    s.limit = limit
    s.live = 0
    s.held = 0


cdef void slab_destroy(Slab *s) noexcept nogil:
    cdef ChunkList l = slab_chunks(s)
    chunk_free_all(&l)
    live_count(LIVE_OBJECTS, -<int64_t>s.live)
    s.live = 0


cdef void *slab_alloc(Slab *s) noexcept nogil:
    cdef ChunkList l
    cdef void *obj
    if s.live >= s.limit:
        return NULL
    l = slab_chunks(s)
    obj = chunk_take(&l)
    if obj == NULL:
        return NULL
    s.live += 1
    live_count(LIVE_OBJECTS, 1)
    memset(obj, 0, s.size)
    return obj


cdef void slab_free(Slab *s, void *obj) noexcept nogil:
    cdef ChunkList l = slab_chunks(s)
    s.live -= 1
    live_count(LIVE_OBJECTS, -1)
    chunk_give(&l, obj)
