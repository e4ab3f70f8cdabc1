# Packet buffers: reference-counted blocks of three sizes from slabs, under one hard budget (bytes).
# A buffer is also a node of the queue that holds it (next, off, len, seq), so queues need no nodes of their own.
from ustack_ext.base.chunk cimport ChunkList
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum BufFlags:
    BUF_HASHED = 1         # of a received frame: seq is the hash of its connection (tcp/ahead)

cdef enum:
    BUF_SMALL = 0          # 2 KiB blocks: one MTU-1500 frame with headroom
    BUF_MEDIUM = 1         # 16 KiB blocks: send queues of bulk writers, reassembled datagrams
    BUF_LARGE = 2          # 72 KiB blocks: 64 KiB superframes and datagrams with headers
    BUF_CLASSES = 3
    BUF_FOREIGN = 0x80     # in cls, beside the class: `data` is memory of an Owner's
    # what a driver leaves before a received frame's first byte (virtio header, alignment); may be smaller
    BUF_HEADROOM = 64

cdef struct Buf:
    Buf *next
    uint32_t refs
    uint32_t cap           # bytes at data
    uint32_t off           # the part in use: data[off : off + len]
    uint32_t len
    uint32_t seq           # for the queue's owner (TCP: sequence number of data[off])
    uint8_t cls
    uint8_t flags          # for the queue's owner
    uint8_t *data

ctypedef void (*owner_fn)(Owner *o) noexcept

cdef struct Owner:         # memory of somebody else's that blocks point into
    Owner *next            # the pool's list of those whose memory nobody needs any more
    uint32_t refs          # the blocks, and whoever adds some
    uint8_t given_up       # some of it left its queue without having been acknowledged
    uint8_t patient        # it may be called done later, when others are
    owner_fn done          # for whoever takes it from the list: called with the GIL, without the lock
    void *holder           # for `done`

cdef struct BufPool:
    ChunkList blocks[3]    # per class (private)
    uint64_t used          # bytes in blocks handed out
    uint64_t held          # bytes in chunks held from malloc
    uint64_t budget        # hard limit on `used`
    uint64_t failures      # allocations refused
    int64_t live           # blocks handed out: 0 when the engine is idle and empty
    Owner *returned        # the last reference went; latest first
    uint32_t patient       # of them
    uint8_t urgent         # there are others among them

cdef void pool_init(BufPool *p, uint64_t budget) noexcept nogil
cdef void pool_destroy(BufPool *p) noexcept nogil             # frees every slab; live must be 0
# smallest class with cap >= need; refs 1, off 0, len 0; NULL at the budget or if need is too large
cdef Buf *buf_alloc(BufPool *p, uint32_t need) noexcept nogil
cdef uint32_t buf_class_cap(int cls) noexcept nogil
cdef void buf_release(BufPool *p, Buf *b) noexcept nogil      # the last reference went (use buf_unref)


# A block of n bytes that are somebody else's, all in use; it has a reference to the owner. NULL: no memory.
cdef Buf *buf_foreign(BufPool *p, Owner *o, uint8_t *data, uint32_t n) noexcept nogil
cdef void buf_give_up(Buf *b) noexcept nogil                  # tells a foreign block's owner


cdef inline void owner_unref(BufPool *p, Owner *o) noexcept nogil:
    o.refs -= 1
    if o.refs == 0:
        o.next = p.returned
        p.returned = o
        if o.patient:
            p.patient += 1
        else:
            p.urgent = 1


cdef inline void buf_ref(Buf *b) noexcept nogil:
    b.refs += 1


cdef inline void buf_unref(BufPool *p, Buf *b) noexcept nogil:
    b.refs -= 1
    if b.refs == 0:
        buf_release(p, b)


cdef inline uint32_t buf_truesize(const Buf *b) noexcept nogil:
    """What the block costs the budget."""
    return b.cap + 64


cdef inline bint pool_above(const BufPool *p, uint32_t sixteenths) noexcept nogil:
    """Whether more than so many sixteenths of the budget are handed out: what sheds load asks this."""
    return p.used > p.budget // 16 * sixteenths


cdef struct BufQueue:
    Buf *head
    Buf *tail
    uint32_t count
    uint32_t bytes         # sum of len

cdef void bufq_push(BufQueue *q, Buf *b) noexcept nogil
cdef Buf *bufq_pop(BufQueue *q) noexcept nogil                # NULL when empty
cdef void bufq_clear(BufQueue *q, BufPool *p) noexcept nogil
