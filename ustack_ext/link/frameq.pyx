"""A bounded queue of frames between two threads. It knows neither where the frames come from nor who takes them.

Frames are copied in (a transmit may not keep the iovec) and dropped at the limit, as a full device queue drops them.
"""
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport close
from ustack_ext.link.mutex cimport (pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock,
                                    pthread_mutex_unlock)
from ustack_ext.link.wakefd cimport wakefd_clear, wakefd_open, wakefd_set


cdef int frameq_init(FrameQ *q, uint32_t limit) noexcept nogil:
    memset(q, 0, sizeof(FrameQ))
    q.limit = limit
    q.fd = -1
    return -pthread_mutex_init(&q.lock, NULL)


cdef void frameq_destroy(FrameQ *q) noexcept nogil:
    cdef Frame *f = q.head
    cdef Frame *after
    while f != NULL:
        after = f.next
        free(f)
        f = after
    q.head = NULL
    q.tail = NULL
    if q.fd >= 0:
        close(q.fd)
        q.fd = -1
    pthread_mutex_destroy(&q.lock)


cdef int frameq_push(FrameQ *q, const IoVec *iov, int niov) noexcept nogil:
    cdef size_t total = 0
    cdef int i
    cdef uint8_t *at
    cdef Frame *f = NULL
    for i in range(niov):
        total += iov[i].len
    if total > 0 and total <= 0x20000:
        f = <Frame *>malloc(sizeof(Frame) + total)
    if f != NULL:
        f.next = NULL
        f.len = <uint32_t>total
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


cdef Frame *frameq_pop(FrameQ *q) noexcept nogil:
    cdef Frame *f
    pthread_mutex_lock(&q.lock)
    f = q.head
    if f != NULL:
        q.head = f.next
        q.count -= 1
        if q.head == NULL:
            q.tail = NULL
            # A closed queue stays readable: that is how the end is noticed.
            if q.fd >= 0 and not q.closed:
                wakefd_clear(q.fd)
    pthread_mutex_unlock(&q.lock)
    return f


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
