"""A bounded queue of frames between two threads. It knows neither where the frames come from nor who takes them.

Frames are copied in (a transmit may not keep the iovec) and dropped at the limit, as a full device queue drops them.
The memory of a frame comes back with frameq_give() and is used again: a heap that grows and shrinks by superframes
would be faulted in anew, page by page.
"""
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport close
from ustack_ext.link.mutex cimport (pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock,
                                    pthread_mutex_unlock)
from ustack_ext.link.wakefd cimport wakefd_clear, wakefd_open, wakefd_set

cdef extern from *:
    """
    static const unsigned USTACK_CLASS_SIZE[] = {2048, 16384, 67584};      /* the last: a superframe and its headers */
    static const unsigned USTACK_CLASS_SPARES[] = {256, 64, 64};           /* at most: 6 MB a queue */
    """
    const uint32_t CLASS_SIZE "USTACK_CLASS_SIZE"[3]
    const uint32_t CLASS_SPARES "USTACK_CLASS_SPARES"[3]

cdef enum:
    FRAME_LIMIT = 0x20000


cdef int frameq_init(FrameQ *q, uint32_t limit) noexcept nogil:
    memset(q, 0, sizeof(FrameQ))
    q.limit = limit
    q.fd = -1
    return -pthread_mutex_init(&q.lock, NULL)


cdef void free_list(Frame *f) noexcept nogil:
    cdef Frame *after
    while f != NULL:
        after = f.next
        free(f)
        f = after


cdef void frameq_destroy(FrameQ *q) noexcept nogil:
    cdef int i
    free_list(q.head)
    q.head = NULL
    q.tail = NULL
    for i in range(FRAME_CLASSES):
        free_list(q.spare[i].list)
        q.spare[i].list = NULL
    if q.fd >= 0:
        close(q.fd)
        q.fd = -1
    pthread_mutex_destroy(&q.lock)


cdef Frame *frame_get(FrameQ *q, size_t total) noexcept nogil:
    """Memory for a frame of `total` bytes; the lock is taken for a moment."""
    cdef Frame *f = NULL
    cdef uint16_t cls = 0
    while cls < FRAME_CLASSES and total > CLASS_SIZE[cls] - sizeof(Frame):
        cls += 1
    if cls < FRAME_CLASSES:
        pthread_mutex_lock(&q.lock)
        f = q.spare[cls].list
        if f != NULL:
            q.spare[cls].list = f.next
            q.spare[cls].count -= 1
        pthread_mutex_unlock(&q.lock)
    if f == NULL:
        f = <Frame *>malloc(CLASS_SIZE[cls] if cls < FRAME_CLASSES else sizeof(Frame) + total)
        if f != NULL:
            f.cls = cls
    return f


cdef int frameq_push(FrameQ *q, const IoVec *iov, int niov, const Offload *off) noexcept nogil:
    cdef size_t total = 0
    cdef int i
    cdef uint8_t *at
    cdef Frame *f = NULL
    for i in range(niov):
        total += iov[i].len
    if total > 0 and total <= FRAME_LIMIT and not (q.closed or q.count >= q.limit):
        f = frame_get(q, total)
    if f != NULL:
        f.next = NULL
        f.len = <uint32_t>total
        if off != NULL:
            f.off = off[0]
        else:
            memset(&f.off, 0, sizeof(Offload))
        at = frame_data(f)
        for i in range(niov):
            memcpy(at, iov[i].base, iov[i].len)
            at += iov[i].len
    pthread_mutex_lock(&q.lock)
    if f == NULL or q.closed or q.count >= q.limit:
        q.dropped += 1
        pthread_mutex_unlock(&q.lock)
        free(f)
        return -1
    if q.tail == NULL:
        q.head = f
    else:
        q.tail.next = f
    q.tail = f
    q.count += 1
    q.frames += 1
    if q.fd >= 0 and q.count == 1:
        wakefd_set(q.fd)
    if q.wake != NULL:
        q.wake(q.wake_arg)
    pthread_mutex_unlock(&q.lock)
    return 0


cdef Frame *frameq_take(FrameQ *q, uint32_t most) noexcept nogil:
    cdef Frame *first
    cdef Frame *last
    cdef uint32_t n = 1
    if q.head == NULL:                 # a stale look is made up for by the wake-up, or the descriptor
        return NULL
    pthread_mutex_lock(&q.lock)
    first = q.head
    last = first
    if first != NULL:
        while n < most and last.next != NULL:
            last = last.next
            n += 1
        q.head = last.next
        last.next = NULL
        q.count -= n
        if q.head == NULL:
            q.tail = NULL
            # A closed queue stays readable: that is how the end is noticed.
            if q.fd >= 0 and not q.closed:
                wakefd_clear(q.fd)
    pthread_mutex_unlock(&q.lock)
    return first


cdef void frameq_give(FrameQ *q, Frame *list) noexcept nogil:
    cdef Frame *f = list
    cdef Frame *excess = NULL
    cdef Spare *spare
    pthread_mutex_lock(&q.lock)
    while f != NULL:
        list = f.next
        spare = &q.spare[f.cls]
        if f.cls < FRAME_CLASSES and spare.count < CLASS_SPARES[f.cls]:
            f.next = spare.list
            spare.list = f
            spare.count += 1
        else:
            f.next = excess
            excess = f
        f = list
    pthread_mutex_unlock(&q.lock)
    free_list(excess)


cdef void frameq_listen(FrameQ *q, home_fn wake, void *arg) noexcept nogil:
    pthread_mutex_lock(&q.lock)
    q.wake = wake
    q.wake_arg = arg
    if wake != NULL and q.count > 0:
        wake(arg)
    pthread_mutex_unlock(&q.lock)


cdef void frameq_close(FrameQ *q) noexcept nogil:
    pthread_mutex_lock(&q.lock)
    q.closed = 1
    if q.fd >= 0:
        wakefd_set(q.fd)
    pthread_mutex_unlock(&q.lock)


cdef int frameq_fd(FrameQ *q) noexcept nogil:
    cdef int fd
    pthread_mutex_lock(&q.lock)
    if q.fd < 0:
        q.fd = wakefd_open()
        if q.fd >= 0 and (q.count > 0 or q.closed):
            wakefd_set(q.fd)
    fd = q.fd
    pthread_mutex_unlock(&q.lock)
    return fd
