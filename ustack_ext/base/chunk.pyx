# The chunk lists of chunk.pxd. One circular list holds all chunks of an owner in this order:
#
#     [at most one wholly free chunk, the spare] [chunks in use with free objects] [full chunks]
#
# so the spare, a free object and "nothing free" are each found by looking at the first two chunks. The spare is used
# last. Further ones are kept aside, up to the owner's limit, and go back to malloc beyond it: memory follows the load
# down, but a queue that swings by megabytes doesn't map and fault in the same pages over and over.
#
# Under AddressSanitizer every object is a chunk of its own, so that use after free and overruns are seen.
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <stdlib.h>
    #ifdef __SANITIZE_ADDRESS__
    #define USTACK_ASAN 1
    #else
    #define USTACK_ASAN 0
    #endif
    """
    const bint USTACK_ASAN
    void *aligned_alloc(size_t alignment, size_t size) noexcept
    ctypedef unsigned long uintptr_t

cdef struct Chunk:
    Chunk *next
    Chunk *prev
    void *returned         # objects given back, linked through their first word
    uint32_t fresh         # objects never handed out yet: their pages stay untouched
    uint32_t live          # objects handed out
    uint32_t total


cdef inline bint has_free(const Chunk *c) noexcept nogil:
    return c.live < c.total


cdef inline Chunk *chunk_of(const ChunkList *l, void *object) noexcept nogil:
    return <Chunk *>(<uintptr_t>object & ~(<uintptr_t>l.chunk - 1))


cdef inline void unlink(const ChunkList *l, Chunk *c) noexcept nogil:
    if c.next == c:
        l.head[0] = NULL
        return
    c.prev.next = c.next
    c.next.prev = c.prev
    if l.head[0] == c:
        l.head[0] = c.next


cdef inline void link_last(const ChunkList *l, Chunk *c) noexcept nogil:
    cdef Chunk *head = <Chunk *>l.head[0]
    if head == NULL:
        c.next = c
        c.prev = c
        l.head[0] = c
        return
    c.next = head
    c.prev = head.prev
    head.prev.next = c
    head.prev = c


cdef inline void link_first(const ChunkList *l, Chunk *c) noexcept nogil:
    link_last(l, c)
    l.head[0] = c


cdef inline size_t chunk_size(const ChunkList *l) noexcept nogil:
    return CHUNK_HEADER + l.object if USTACK_ASAN else l.chunk


cdef Chunk *new_chunk(const ChunkList *l) noexcept nogil:
    cdef Chunk *c
    if l.spares != NULL and l.spares.count > 0:
        c = <Chunk *>l.spares.first
        l.spares.first = c.next
        l.spares.count -= 1
        link_first(l, c)
        return c
    c = <Chunk *>aligned_alloc(l.chunk, l.chunk)
    if c == NULL:
        return NULL
    l.held[0] += l.chunk
    c.returned = NULL
    c.live = 0
    c.total = (l.chunk - CHUNK_HEADER) // l.object
    c.fresh = c.total
    link_first(l, c)
    return c


cdef void drop_chunk(const ChunkList *l, Chunk *c) noexcept nogil:
    unlink(l, c)
    l.held[0] -= chunk_size(l)
    free(c)


cdef void put_aside(const ChunkList *l, Chunk *c) noexcept nogil:
    """A second wholly free chunk: kept if there is room for it."""
    if l.spares == NULL or l.spares.count >= l.keep:
        drop_chunk(l, c)
        return
    unlink(l, c)
    c.next = <Chunk *>l.spares.first
    l.spares.first = c
    l.spares.count += 1


cdef Chunk *usable_chunk(const ChunkList *l) noexcept nogil:
    """A chunk with a free object: one in use, else the spare, else a new one; NULL without memory."""
    cdef Chunk *c = <Chunk *>l.head[0]
    if c == NULL or not has_free(c):
        return new_chunk(l)
    if c.live == 0 and c.next.live != 0 and has_free(c.next):
        return c.next
    return c


cdef void *lone_take(const ChunkList *l) noexcept nogil:
    """An object in a chunk of its own."""
    cdef Chunk *c = <Chunk *>malloc(chunk_size(l))
    if c == NULL:
        return NULL
    l.held[0] += chunk_size(l)
    link_last(l, c)
    return <char *>c + CHUNK_HEADER


cdef void *chunk_take(const ChunkList *l) noexcept nogil:
    cdef Chunk *c
    cdef void *object
    if USTACK_ASAN:
        return lone_take(l)
    c = usable_chunk(l)
    if c == NULL:
        return NULL
    if c.returned != NULL:
        object = c.returned
        c.returned = (<void **>object)[0]
    else:
        object = <char *>c + CHUNK_HEADER + <size_t>(c.total - c.fresh) * l.object
        c.fresh -= 1
    c.live += 1
    if not has_free(c):
        unlink(l, c)
        link_last(l, c)
    return object


cdef void chunk_give(const ChunkList *l, void *object) noexcept nogil:
    cdef Chunk *c
    cdef Chunk *head
    cdef bint was_full
    if USTACK_ASAN:
        drop_chunk(l, <Chunk *>(<char *>object - CHUNK_HEADER))
        return
    c = chunk_of(l, object)
    was_full = not has_free(c)
    (<void **>object)[0] = c.returned
    c.returned = object
    c.live -= 1
    if not was_full and c.live != 0:
        return
    head = <Chunk *>l.head[0]
    if c.live == 0 and head != c and head.live == 0:
        put_aside(l, c)
        return
    unlink(l, c)
    link_first(l, c)
    if c.live != 0 and head != c and head.live == 0:     # the spare stays in front
        unlink(l, head)
        link_first(l, head)


cdef void chunk_free_all(const ChunkList *l) noexcept nogil:
    while l.spares != NULL and l.spares.count > 0:
        new_chunk(l)
    while l.head[0] != NULL:
        drop_chunk(l, <Chunk *>l.head[0])
