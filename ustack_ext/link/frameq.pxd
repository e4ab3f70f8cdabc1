# A bounded queue of copied frames with a lock of its own, for frames that leave one stack's lock for a Python callback
# or another stack. Their memory is kept for the next ones.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from ustack_ext.base.iov cimport IoVec, Offload
from ustack_ext.link.link cimport home_fn
from ustack_ext.link.mutex cimport pthread_mutex_t

cdef enum:
    FRAME_CLASSES = 3          # sizes of frames whose memory is kept

cdef struct Frame:
    Frame *next
    uint32_t len               # the bytes follow the struct: frame_data()
    uint16_t cls               # FRAME_CLASSES: of no class
    Offload off                # as the sender gave it

cdef struct Spare:
    Frame *list
    uint32_t count

cdef struct FrameQ:
    pthread_mutex_t lock
    Frame *head
    Frame *tail
    Spare spare[3]
    uint32_t count
    uint32_t limit             # frames
    uint64_t frames            # taken in all
    uint64_t dropped           # refused: full, no memory, or closed
    uint8_t closed
    home_fn wake               # called at each push, under the queue's lock; NULL: nobody
    void *wake_arg
    int fd                     # set while frames wait; -1: none

cdef int frameq_init(FrameQ *q, uint32_t limit) noexcept nogil
cdef void frameq_destroy(FrameQ *q) noexcept nogil                  # frees what waits
# copies; off: NULL for a frame that is complete. 0, or -1: dropped
cdef int frameq_push(FrameQ *q, const IoVec *iov, int niov, const Offload *off) noexcept nogil
cdef Frame *frameq_take(FrameQ *q, uint32_t most) noexcept nogil    # the first `most` as a list; NULL when empty
cdef void frameq_give(FrameQ *q, Frame *list) noexcept nogil        # what was taken, no longer needed
# NULL, NULL: nobody any more; wakes at once if frames wait
cdef void frameq_listen(FrameQ *q, home_fn wake, void *arg) noexcept nogil
cdef void frameq_close(FrameQ *q) noexcept nogil                    # takes nothing any more; wakes who waits
cdef int frameq_fd(FrameQ *q) noexcept nogil                        # its descriptor, made on first use; -1 with errno


cdef inline uint8_t *frame_data(Frame *f) noexcept nogil:
    return <uint8_t *>(f + 1)
