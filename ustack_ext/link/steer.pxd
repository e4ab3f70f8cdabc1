# Which queue of a device with several a frame belongs to, and how what belongs to all, or came to the wrong one, gets
# there.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from ustack_ext.link.frameq cimport FrameQ
from ustack_ext.link.link cimport RxFrame

cdef enum:
    KEY_BYTES = 40
    MAX_QUEUES = 16
    FRAG_SLOTS = 16

cdef struct FragNote:          # fragments say only in the first of them whose they are
    uint64_t ident             # and the family: 0 is an empty slot
    uint32_t pair              # fan_pair()
    uint32_t queue

cdef struct Fan:               # shared by the links of one device; goes with the last of them
    int refs                   # changed with the GIL held
    uint32_t queues
    uint32_t header            # bytes of link header: 14 or 0
    uint32_t key[2]
    uint64_t key6[4]
    uint8_t target[16]         # queue of each bucket: set with the GIL held, read by every thread
    uint8_t attached[16]
    FrameQ inbox[16]           # frames on the way to a queue from its siblings
    FragNote notes[16]         # written by the thread that reads the queue fragments come to
    uint32_t next_note

# secret: KEY_BYTES of them
cdef Fan *fan_new(uint32_t queues, uint32_t header, const uint8_t *secret) noexcept nogil
cdef void fan_free(Fan *f) noexcept nogil
# Two addresses, of 4 bytes or of 16, as one number
cdef uint32_t fan_pair(const Fan *f, const uint8_t *src, const uint8_t *dst, uint32_t bytes) noexcept nogil
cdef uint32_t fan_bucket(const Fan *f, uint32_t pair, uint32_t sport, uint32_t dport) noexcept nogil
# Of the frames that queue `self` has just read: gives siblings theirs. Frames left, in order; buffers stay in `frames`.
cdef int fan_out(Fan *f, uint32_t self, RxFrame *frames, int n) noexcept nogil
cdef int fan_take(Fan *f, uint32_t self, RxFrame *frames, int most) noexcept nogil     # what siblings gave
