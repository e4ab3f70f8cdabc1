# Packet buffers in three sizes under one budget (buf.pxd), and the queue of them. What a buffer holds is its owner's
# business; where the memory comes from is base/chunk's.
from libc.stdint cimport uint32_t, uint64_t
from ustack_ext.base.chunk cimport ChunkList, chunk_free_all, chunk_give, chunk_init, chunk_take_quick
from ustack_ext.base.chunk cimport chunk_take_slow
from ustack_ext.base.live cimport LIVE_BUFFERS, live_count

cdef enum:
    HEADER = 64            # the Buf and its padding: data starts on a cache line of its own

    # The step from block to block is not a power of two on purpose: headers and frames of different blocks then fall
    # into different cache sets.
    SMALL_CAP = 2048
    MEDIUM_CAP = 16384
    LARGE_CAP = 73728

    CHUNK_BYTES = 262144
    LARGE_CHUNK_BYTES = 524288
    KEEP_BYTES = 8 << 20   # a class, when nothing is in use: about what one bulk connection's queues swing by


cdef inline uint32_t class_cap(int cls) noexcept nogil:
    return SMALL_CAP if cls == BUF_SMALL else (MEDIUM_CAP if cls == BUF_MEDIUM else LARGE_CAP)


cdef void pool_init(BufPool *p, uint64_t budget) noexcept nogil:
    cdef int cls
    cdef uint32_t chunk
    for cls in range(BUF_CLASSES):
        chunk = LARGE_CHUNK_BYTES if cls == BUF_LARGE else CHUNK_BYTES
        chunk_init(&p.blocks[cls], class_cap(cls) + HEADER, chunk, KEEP_BYTES // chunk, &p.held)
    p.used = 0
    p.held = 0
    p.budget = budget
    p.failures = 0
    p.live = 0
    p.returned = NULL
    p.patient = 0
    p.urgent = 0


cdef void pool_destroy(BufPool *p) noexcept nogil:
    cdef int cls
    for cls in range(BUF_CLASSES):
        chunk_free_all(&p.blocks[cls])


cdef inline Buf *made(BufPool *p, int cls, void *block) noexcept nogil:
    cdef Buf *b = <Buf *>block
    p.used += p.blocks[cls].object
    p.live += 1
    live_count(LIVE_BUFFERS, 1)
    b.next = NULL
    b.refs = 1
    b.cap = p.blocks[cls].object - HEADER
    b.off = 0
    b.len = 0
    b.seq = 0
    b.cls = cls
    b.flags = 0
    b.data = <unsigned char *>b + HEADER
    return b


cdef Buf *buf_alloc_slow(BufPool *p, int cls) noexcept nogil:
    cdef void *block = chunk_take_slow(&p.blocks[cls])
    if block == NULL:
        p.failures += 1
        return NULL
    return made(p, cls, block)


cdef Buf *buf_alloc(BufPool *p, uint32_t need) noexcept nogil:
    cdef int cls = BUF_SMALL if need <= SMALL_CAP else (BUF_MEDIUM if need <= MEDIUM_CAP else BUF_LARGE)
    cdef void *block
    if need > LARGE_CAP or p.used + p.blocks[cls].object > p.budget:
        p.failures += 1
        return NULL
    block = chunk_take_quick(&p.blocks[cls])
    return made(p, cls, block) if block != NULL else buf_alloc_slow(p, cls)


cdef uint32_t buf_class_cap(int cls) noexcept nogil:
    return class_cap(cls)


cdef inline Owner **owner_of(Buf *b) noexcept nogil:
    """Where a foreign block's own memory names the owner."""
    return <Owner **>(<char *>b + HEADER)


cdef Buf *buf_foreign(BufPool *p, Owner *o, uint8_t *data, uint32_t n) noexcept nogil:
    cdef Buf *b = buf_alloc(p, 1)
    if b == NULL:
        return NULL
    b.cls |= BUF_FOREIGN
    owner_of(b)[0] = o
    o.refs += 1
    b.data = data
    b.cap = n
    b.len = n
    return b


cdef void buf_give_up(Buf *b) noexcept nogil:
    if b.cls & BUF_FOREIGN:
        owner_of(b)[0].given_up = 1


cdef void buf_release(BufPool *p, Buf *b) noexcept nogil:
    cdef ChunkList *l
    if b.cls & BUF_FOREIGN:
        owner_unref(p, owner_of(b)[0])
        b.cls &= <uint8_t>~BUF_FOREIGN
    l = &p.blocks[b.cls]
    p.used -= l.object
    p.live -= 1
    live_count(LIVE_BUFFERS, -1)
    chunk_give(l, b)


cdef void bufq_push(BufQueue *q, Buf *b) noexcept nogil:
    b.next = NULL
    if q.tail == NULL:
        q.head = b
    else:
        q.tail.next = b
    q.tail = b
    q.count += 1
    q.bytes += b.len


cdef Buf *bufq_pop(BufQueue *q) noexcept nogil:
    cdef Buf *b = q.head
    if b == NULL:
        return NULL
    q.head = b.next
    if q.head == NULL:
        q.tail = NULL
    q.count -= 1
    q.bytes -= b.len
    b.next = NULL
    return b


cdef void bufq_clear(BufQueue *q, BufPool *p) noexcept nogil:
    cdef Buf *b = bufq_pop(q)
    while b != NULL:
        buf_unref(p, b)
        b = bufq_pop(q)
