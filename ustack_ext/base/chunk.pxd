# Equal-sized objects cut from big aligned chunks: what packet buffers (base/buf) and fixed-size objects (base/slab) are
# made of. An object finds its chunk by masking its own address, so it carries no word for it. Limits and zeroing are
# the caller's. The chunks of a long list are pieces of huge pages, so that who goes to any of a million objects doesn't
# wait for the page tables, too.
from libc.stdint cimport uint32_t, uint64_t

cdef extern from * nogil:
    """
    #include <stdint.h>
    #ifdef __SANITIZE_ADDRESS__
    #define USTACK_ASAN 1
    #else
    #define USTACK_ASAN 0
    #endif
    """
    const bint USTACK_ASAN
    ctypedef unsigned long uintptr_t

cdef struct Chunk:         # private, like all of ChunkList but `object`
    Chunk *next
    Chunk *prev
    void *returned         # objects given back, linked through their first word
    uint32_t fresh         # objects never handed out yet: their pages stay untouched
    uint32_t live          # objects handed out
    uint32_t total
    uint32_t huge          # it is a piece of a huge page ...
    uint32_t pieces        # ... the first one: how many of the page are chunks in use, or spare

cdef struct ChunkList:
    Chunk *usable          # chunks in use with free objects
    Chunk *full            # chunks without
    Chunk *spare           # wholly free ones, for the next rise of the load
    Chunk *pieces          # of huge pages that are in use, those that are no chunks now
    uint32_t spares
    uint32_t keep          # spares at most
    uint32_t chunks        # all
    uint64_t *held         # the owner's count of bytes held from malloc
    uint32_t chunk         # bytes a chunk: a power of two, also its alignment
    uint32_t object        # bytes an object

cdef enum:
    CHUNK_HEADER = 64
    CHUNK_TAIL = 64        # left to malloc for its own header, so that one aligned chunk can follow the other
    HUGE_PAGE = 1 << 21    # bytes; a larger chunk is never a piece
    HUGE_FROM = 1 << 20    # bytes of chunks: the ones from here on

# object: a multiple of 16; two at least fit beside header and tail. keep: wholly free chunks not given back to malloc.
cdef void chunk_init(ChunkList *l, uint32_t object, uint32_t chunk, uint32_t keep, uint64_t *held) noexcept nogil
cdef void chunk_free_all(ChunkList *l) noexcept nogil           # every chunk, whatever is still handed out
cdef void *chunk_take_slow(ChunkList *l) noexcept nogil
cdef void chunk_give_slow(ChunkList *l, void *object) noexcept nogil
cdef void huge_pages(void *at, size_t n) noexcept nogil         # what of fresh memory is whole huge pages shall be some


cdef inline void *chunk_take_quick(ChunkList *l) noexcept nogil:
    """An object that was given back, if that is all there is to it; NULL: ask chunk_take_slow."""
    cdef Chunk *c = l.usable
    cdef void *object
    if c == NULL or c.returned == NULL or c.live + 1 >= c.total:
        return NULL
    object = c.returned
    c.returned = (<void **>object)[0]
    c.live += 1
    return object


cdef inline void *chunk_take(ChunkList *l) noexcept nogil:
    """An object (contents undefined), or NULL without memory."""
    cdef void *object = chunk_take_quick(l)
    return object if object != NULL else chunk_take_slow(l)


cdef inline void chunk_give(ChunkList *l, void *object) noexcept nogil:
    cdef Chunk *c = <Chunk *>(<uintptr_t>object & ~(<uintptr_t>l.chunk - 1))
    if USTACK_ASAN or c.live <= 1 or c.live == c.total:
        chunk_give_slow(l, object)
        return
    (<void **>object)[0] = c.returned
    c.returned = object
    c.live -= 1
