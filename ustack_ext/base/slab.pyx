# Counted, limited, zeroed objects of one size (slab.pxd): TCBs, neighbours, fragment queues. Memory comes from
# base/chunk.
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset
from ustack_ext.base.chunk cimport CHUNK_HEADER, CHUNK_TAIL, chunk_free_all, chunk_give, chunk_init, chunk_take
from ustack_ext.base.live cimport LIVE_OBJECTS, live_count

cdef enum:
    MIN_CHUNK = 16384
    MAX_CHUNK = 262144
    SPARES = 1             # wholly free chunks kept
    WANTED = 64            # objects a chunk should hold, where that fits the largest chunk


cdef uint32_t chunk_bytes(uint32_t size) noexcept nogil:
    """A power of two with room for WANTED objects where the largest chunk has it, and always for two."""
    cdef uint32_t chunk = MIN_CHUNK
    while chunk < MAX_CHUNK and chunk < size * WANTED:
        chunk *= 2
    while chunk < size * 2 + CHUNK_HEADER + CHUNK_TAIL:
        chunk *= 2
    return chunk


cdef void slab_init(Slab *s, uint32_t size, uint32_t limit) noexcept nogil:
    s.size = (size + 15) & ~<uint32_t>15 if size else 16
    s.limit = limit
    s.live = 0
    s.held = 0
    chunk_init(&s.chunks, s.size, chunk_bytes(s.size), SPARES, &s.held)


cdef void slab_destroy(Slab *s) noexcept nogil:
    chunk_free_all(&s.chunks)
    live_count(LIVE_OBJECTS, -<int64_t>s.live)
    s.live = 0


cdef void *slab_alloc(Slab *s) noexcept nogil:
    cdef void *obj
    if s.live >= s.limit:
        return NULL
    obj = chunk_take(&s.chunks)
    if obj == NULL:
        return NULL
    s.live += 1
    live_count(LIVE_OBJECTS, 1)
    memset(obj, 0, s.size)
    return obj


cdef void slab_free(Slab *s, void *obj) noexcept nogil:
    s.live -= 1
    live_count(LIVE_OBJECTS, -1)
    chunk_give(&s.chunks, obj)
