# Equal-sized objects cut from big aligned chunks: what packet buffers (base/buf) and fixed-size objects (base/slab) are
# made of. An object finds its chunk by masking its own address, so it carries no word for it. Limits and zeroing are
# the caller's.
from libc.stdint cimport uint32_t, uint64_t

cdef struct Spares:        # wholly free chunks kept for the next rise of the load
    void *first
    uint32_t count

cdef struct ChunkList:
    void **head            # where the owner keeps the list's head (NULL: no chunk)
    Spares *spares         # ... and its spares beyond the one in the list; NULL: none are kept
    uint32_t keep          # spares at most
    uint64_t *held         # the owner's count of bytes held from malloc
    uint32_t chunk         # bytes a chunk: a power of two, also its alignment
    uint32_t object        # bytes an object: a multiple of 16; two at least fit beside the chunk's header

cdef enum:
    CHUNK_HEADER = 64

# an object (contents undefined), or NULL without memory
cdef void *chunk_take(const ChunkList *l) noexcept nogil
cdef void chunk_give(const ChunkList *l, void *object) noexcept nogil
cdef void chunk_free_all(const ChunkList *l) noexcept nogil           # every chunk, whatever is still handed out
