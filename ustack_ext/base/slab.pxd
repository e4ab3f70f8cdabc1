# Fixed-size objects (TCBs, neighbours, timers' owners) from slabs, counted, with a limit. Memory that is not
# used any more goes back to malloc.
from libc.stdint cimport uint32_t, uint64_t
from ustack_ext.base.chunk cimport ChunkList

cdef struct Slab:
    ChunkList chunks       # private
    uint32_t size          # bytes an object, rounded to 16; of 64, an object has its cache lines to itself
    uint32_t limit         # most objects at a time
    uint32_t live
    uint64_t held          # bytes held from malloc

cdef void slab_init(Slab *s, uint32_t size, uint32_t limit) noexcept nogil
cdef void slab_destroy(Slab *s) noexcept nogil
cdef void *slab_alloc(Slab *s) noexcept nogil        # zeroed; NULL at the limit or without memory
cdef void slab_free(Slab *s, void *obj) noexcept nogil
