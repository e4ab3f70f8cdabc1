# One direction of a simulated wire, and the way of a frame along it.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from ustack_ext.base.iov cimport IoVec, Offload
from ustack_ext.base.rng cimport Rng
from ustack_ext.driver.driver cimport Waiter
from ustack_ext.driver.world cimport Heap, Node
from ustack_ext.link.link cimport Home

cdef enum:
    FRAME_ROOM = 2048          # frames up to this size come from the free list
    MAX_CAPTURES = 8
    POINT_SENT = 1
    POINT_DELIVERED = 2

cdef struct SimFrame:
    Node node
    SimFrame *next             # in the queue of an end without a stack
    uint32_t len
    uint32_t cap
    uint64_t number            # 1, 2, ... in the order the direction was given them

cdef struct Queued:            # a frame that has not left the queue yet
    uint64_t leaves            # ns
    uint32_t len

cdef struct Stats:
    uint64_t sent              # frames put on the wire
    uint64_t sent_bytes
    uint64_t delivered         # frames that came out, duplicates included
    uint64_t delivered_bytes
    uint64_t lost              # by chance
    uint64_t duplicated
    uint64_t reordered
    uint64_t corrupted
    uint64_t queue_dropped     # the queue was full
    uint64_t too_big           # longer than the wire's MTU
    uint64_t filtered          # taken off by the filter
    uint64_t unclaimed         # nobody at the other end, or the wire was down

cdef struct Dir:
    Heap *heap
    Home *home                 # of the receiving end while it is attached, else driver is NULL
    Waiter *came               # of the receiving end, fired when a frame came for one without a stack; NULL: unplugged
    uint64_t rate              # bit/s, 0: without limit
    uint64_t delay             # ns
    uint64_t jitter            # ns
    uint64_t reorder_delay     # ns
    uint64_t loss              # probability * 2**64
    uint64_t duplicate
    uint64_t reorder
    uint64_t corrupt
    uint64_t limit_bytes       # 0: without limit
    uint64_t limit_frames
    uint32_t frame_max
    uint8_t up
    uint64_t busy_until        # ns: the link sends until then
    uint64_t last_arrival
    Queued *queue              # ring
    uint32_t queue_cap         # power of two
    uint32_t queue_head
    uint32_t queue_count
    uint64_t queue_bytes
    SimFrame *raw_head         # what came for an end without a stack
    SimFrame *raw_tail
    Rng rng
    Stats stats
    void *captures[MAX_CAPTURES]
    uint8_t points[MAX_CAPTURES]
    int n_captures
    void *filter               # a Python callable, borrowed; NULL: none

# The transmit function of a wire's end; `link` is the Dir that leads away from it.
cdef int path_transmit(void *link, const IoVec *iov, int niov, const Offload *off) noexcept nogil
cdef void path_free(Dir *d) noexcept nogil                 # what waits at its end, and the queue's memory
cdef void frame_free(Heap *h, SimFrame *f) noexcept nogil


cdef inline uint8_t *data_of(SimFrame *f) noexcept nogil:
    return <uint8_t *>(f + 1)
