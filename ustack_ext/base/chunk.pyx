# The chunk lists of chunk.pxd: chunks in use with free objects, full ones, and wholly free ones, each in its list. An
# object comes from the first chunk in use, so a load that falls gathers in few chunks; then from a spare, then from
# malloc. Wholly free chunks beyond the owner's limit go back to malloc: memory follows the load down, but a queue that
# swings by megabytes doesn't map and fault in the same pages over and over. From HUGE_FROM bytes on a new chunk is a
# piece of a huge page, which goes back with the last of its pieces.
#
# Taking and giving are a few instructions, in chunk.pxd; here is what happens at the edges of a chunk.
#
# Under AddressSanitizer every object is a chunk of its own, in the list of the full, so that use after free and
# overruns are seen.
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **memory, size_t alignment, size_t size) noexcept

cdef extern from * nogil:
    """
    #ifdef __linux__
    #include <sys/mman.h>
    #endif
    #ifdef MADV_HUGEPAGE
    #define ust_advise(at, n) ((void)!madvise(at, n, MADV_HUGEPAGE))
    #else
    #define ust_advise(at, n) ((void)(at), (void)(n))
    #endif
    """
    void ust_advise(void *at, size_t n) noexcept


cdef inline void unlink(Chunk **head, Chunk *c) noexcept nogil:
    if c.prev != NULL:
        c.prev.next = c.next
    else:
        head[0] = c.next
    if c.next != NULL:
        c.next.prev = c.prev


cdef inline void link_first(Chunk **head, Chunk *c) noexcept nogil:
    c.prev = NULL
    c.next = head[0]
    if c.next != NULL:
        c.next.prev = c
    head[0] = c


cdef void chunk_init(ChunkList *l, uint32_t object, uint32_t chunk, uint32_t keep, uint64_t *held) noexcept nogil:
    l.usable = NULL
    l.full = NULL
    l.spare = NULL
    l.pieces = NULL
    l.spares = 0
    l.chunks = 0
    l.keep = keep
    l.held = held
    l.chunk = CHUNK_HEADER + object if USTACK_ASAN else chunk
    l.object = object


cdef void huge_pages(void *at, size_t n) noexcept nogil:
    cdef uintptr_t first = (<uintptr_t>at + HUGE_PAGE - 1) & ~(<uintptr_t>HUGE_PAGE - 1)
    cdef uintptr_t end = (<uintptr_t>at + n) & ~(<uintptr_t>HUGE_PAGE - 1)
    if first < end:
        ust_advise(<void *>first, end - first)         # where it is refused the pages are small


cdef inline Chunk *page_of(Chunk *piece) noexcept nogil:
    """The first piece of its huge page."""
    return <Chunk *>(<uintptr_t>piece & ~(<uintptr_t>HUGE_PAGE - 1))


cdef bint cut_page(ChunkList *l) noexcept nogil:
    """One more huge page, all of it pieces. False: no memory."""
    cdef void *memory = NULL
    cdef Chunk *c
    cdef uint32_t at = HUGE_PAGE
    if posix_memalign(&memory, HUGE_PAGE, HUGE_PAGE) != 0:
        return False
    huge_pages(memory, HUGE_PAGE)
    while at > 0:                                      # the first will be taken first
        at -= l.chunk
        c = <Chunk *>(<char *>memory + at)
        c.huge = 1
        c.pieces = 0
        link_first(&l.pieces, c)
    return True


cdef void free_page(ChunkList *l, Chunk *page) noexcept nogil:
    """None of its pieces is a chunk."""
    cdef uint32_t at = 0
    while at < HUGE_PAGE:
        unlink(&l.pieces, <Chunk *>(<char *>page + at))
        at += l.chunk
    free(page)


cdef Chunk *new_chunk(ChunkList *l) noexcept nogil:
    cdef void *memory = NULL
    cdef Chunk *c
    if (l.pieces != NULL or (<uint64_t>l.chunks * l.chunk >= HUGE_FROM and l.chunk < HUGE_PAGE and cut_page(l))):
        c = l.pieces
        unlink(&l.pieces, c)
        page_of(c).pieces += 1
    else:
        if posix_memalign(&memory, l.chunk, l.chunk - CHUNK_TAIL) != 0:
            return NULL
        c = <Chunk *>memory
        c.huge = 0
    l.held[0] += l.chunk
    l.chunks += 1
    c.returned = NULL
    c.live = 0
    c.total = (l.chunk - CHUNK_HEADER - CHUNK_TAIL) // l.object
    c.fresh = c.total
    return c


cdef void drop_chunk(ChunkList *l, Chunk *c) noexcept nogil:
    cdef Chunk *page
    l.held[0] -= l.chunk
    l.chunks -= 1
    if not c.huge:
        free(c)
        return
    page = page_of(c)
    page.pieces -= 1
    link_first(&l.pieces, c)
    if page.pieces == 0:
        free_page(l, page)


cdef Chunk *usable_chunk(ChunkList *l) noexcept nogil:
    """A chunk with a free object: one in use, else a spare, else a new one; NULL without memory."""
    cdef Chunk *c = l.usable
    if c != NULL:
        return c
    c = l.spare
    if c != NULL:
        l.spare = c.next
        l.spares -= 1
    else:
        c = new_chunk(l)
    if c != NULL:
        link_first(&l.usable, c)
    return c


cdef void *lone_take(ChunkList *l) noexcept nogil:
    """An object in a chunk of its own."""
    cdef Chunk *c = <Chunk *>malloc(l.chunk)
    if c == NULL:
        return NULL
    l.held[0] += l.chunk
    l.chunks += 1
    c.huge = 0
    link_first(&l.full, c)
    return <char *>c + CHUNK_HEADER


cdef void *chunk_take_slow(ChunkList *l) noexcept nogil:
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
    if c.live == c.total:
        unlink(&l.usable, c)
        link_first(&l.full, c)
    return object


cdef void chunk_give_slow(ChunkList *l, void *object) noexcept nogil:
    cdef Chunk *c
    if USTACK_ASAN:
        c = <Chunk *>(<char *>object - CHUNK_HEADER)
        unlink(&l.full, c)
        drop_chunk(l, c)
        return
    c = <Chunk *>(<uintptr_t>object & ~(<uintptr_t>l.chunk - 1))
    (<void **>object)[0] = c.returned
    c.returned = object
    if c.live == c.total:
        unlink(&l.full, c)
        link_first(&l.usable, c)
    c.live -= 1
    if c.live > 0:
        return
    if l.usable == c and c.next == NULL and l.spares < l.keep:
        return                                         # what is taken and given back by turns moves no chunk
    unlink(&l.usable, c)
    if l.spares >= l.keep:
        drop_chunk(l, c)
        return
    c.next = l.spare
    l.spare = c
    l.spares += 1


cdef void drop_all(ChunkList *l, Chunk *c) noexcept nogil:
    cdef Chunk *following
    while c != NULL:
        following = c.next
        drop_chunk(l, c)
        c = following


cdef void chunk_free_all(ChunkList *l) noexcept nogil:
    drop_all(l, l.usable)
    drop_all(l, l.full)
    drop_all(l, l.spare)
    l.usable = NULL
    l.full = NULL
    l.spare = NULL
    l.spares = 0
