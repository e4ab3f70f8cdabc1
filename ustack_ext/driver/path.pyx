"""The way of a frame along one direction of a simulated wire: what happens to it is decided when it is sent.

A frame meets, in this order: the filter, the MTU, the queue limit, the rate, loss, duplication, corruption, delay with
jitter, reordering. Not here: the settings' Python face (wire.pyx), the clock and the event heap (world.pyx).
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from ustack_ext.base.rng cimport rng_below, rng_u64
from ustack_ext.driver.capture cimport Capture
from ustack_ext.driver.driver cimport waiter_fire
from ustack_ext.driver.world cimport heap_defer, heap_set


# Frames

cdef SimFrame *frame_new(Heap *h, uint32_t length) noexcept nogil:
    cdef SimFrame *f
    cdef uint32_t cap = FRAME_ROOM if length <= FRAME_ROOM else length
    if cap == FRAME_ROOM and h.free_frames != NULL:
        f = <SimFrame *>h.free_frames
        h.free_frames = (<void **>f)[0]
    else:
        f = <SimFrame *>malloc(sizeof(SimFrame) + cap)
        if f == NULL:
            return NULL
    memset(f, 0, sizeof(SimFrame))
    f.len = length
    f.cap = cap
    return f


cdef void frame_free(Heap *h, SimFrame *f) noexcept nogil:
    if f.cap == FRAME_ROOM:
        (<void **>f)[0] = h.free_frames
        h.free_frames = f
    else:
        free(f)


cdef void frame_drop(void *owner, Node *n) noexcept:
    free(<SimFrame *>n)


# The way of a frame

cdef void note(Dir *d, SimFrame *f, int point) noexcept nogil:
    cdef int i
    for i in range(d.n_captures):
        if d.points[i] & point and add_to(<Capture>d.captures[i], d.heap.now, data_of(f), f.len):
            d.heap.python_due = 1


cdef inline bint add_to(Capture c, uint64_t now, const uint8_t *data, uint32_t length) noexcept nogil:
    return c.add(now, data, length)


cdef int path_transmit(void *link, const IoVec *iov, int niov, const Offload *off) noexcept nogil:
    cdef Dir *d = <Dir *>link
    cdef SimFrame *f
    cdef size_t total = 0
    cdef uint8_t *at
    cdef int i
    for i in range(niov):
        total += iov[i].len
    f = frame_new(d.heap, <uint32_t>total)
    if f == NULL:
        return -1
    at = data_of(f)
    for i in range(niov):
        memcpy(at, iov[i].base, iov[i].len)
        at += iov[i].len
    d.stats.sent += 1
    d.stats.sent_bytes += total
    f.number = d.stats.sent
    f.node.owner = d
    f.node.drop = frame_drop
    if d.n_captures:
        note(d, f, POINT_SENT)
    if d.filter != NULL:
        # Python is asked from the world's loop, at this same time: never inside an engine.
        f.node.fire = filter_fire
        f.node.run = filter_run
        return to_heap(d, f, d.heap.now)
    admit(d, f)
    return 0


cdef int to_heap(Dir *d, SimFrame *f, uint64_t time) noexcept nogil:
    if heap_set(d.heap, &f.node, time) != 0:
        frame_free(d.heap, f)
        return -1
    return 0


cdef inline bint chance(Dir *d, uint64_t probability) noexcept nogil:
    return probability != 0 and (probability == UINT64_MAX or rng_u64(&d.rng) < probability)


cdef void admit(Dir *d, SimFrame *f) noexcept nogil:
    """Everything that happens to a frame is decided here, when it is sent; what is left is its arrival."""
    cdef uint64_t departure = d.heap.now
    cdef SimFrame *twin
    cdef uint32_t bit
    if not d.up:
        d.stats.unclaimed += 1
        frame_free(d.heap, f)
        return
    if f.len > d.frame_max:
        d.stats.too_big += 1
        frame_free(d.heap, f)
        return
    if d.rate != 0 and not enqueue(d, f.len, &departure):
        d.stats.queue_dropped += 1
        frame_free(d.heap, f)
        return
    if chance(d, d.loss):
        d.stats.lost += 1
        frame_free(d.heap, f)
        return
    if chance(d, d.duplicate):
        twin = frame_new(d.heap, f.len)
        if twin != NULL:
            d.stats.duplicated += 1
            twin.number = f.number
            twin.node.owner = d
            twin.node.drop = frame_drop
            memcpy(data_of(twin), data_of(f), f.len)
            travel(d, twin, departure)
    if chance(d, d.corrupt) and f.len > 0:
        d.stats.corrupted += 1
        bit = rng_below(&d.rng, f.len * 8)
        data_of(f)[bit >> 3] ^= <uint8_t>(1 << (bit & 7))
    travel(d, f, departure)


cdef bint enqueue(Dir *d, uint32_t length, uint64_t *departure) noexcept nogil:
    """The frame's place in the queue and the time its last bit leaves; False: the queue is full."""
    cdef Queued *q
    while d.queue_count > 0:
        q = &d.queue[d.queue_head]
        if q.leaves > d.heap.now:
            break
        d.queue_bytes -= q.len
        d.queue_count -= 1
        d.queue_head = (d.queue_head + 1) & (d.queue_cap - 1)
    if d.limit_frames != 0 and d.queue_count >= d.limit_frames:
        return False
    if d.limit_bytes != 0 and d.queue_bytes + length > d.limit_bytes and d.queue_count > 0:
        return False
    if d.queue_count == d.queue_cap and not grow(d):
        return False
    if d.busy_until < d.heap.now:
        d.busy_until = d.heap.now
    d.busy_until += <uint64_t>length * 8 * 1000000000 // d.rate
    q = &d.queue[(d.queue_head + d.queue_count) & (d.queue_cap - 1)]
    q.leaves = d.busy_until
    q.len = length
    d.queue_count += 1
    d.queue_bytes += length
    departure[0] = d.busy_until
    return True


cdef bint grow(Dir *d) noexcept nogil:
    cdef uint32_t cap = d.queue_cap * 2 if d.queue_cap else 64
    cdef uint32_t i
    cdef Queued *bigger = <Queued *>malloc(cap * sizeof(Queued))
    if bigger == NULL:
        return False
    for i in range(d.queue_count):
        bigger[i] = d.queue[(d.queue_head + i) & (d.queue_cap - 1)]
    free(d.queue)
    d.queue = bigger
    d.queue_cap = cap
    d.queue_head = 0
    return True


cdef void travel(Dir *d, SimFrame *f, uint64_t departure) noexcept nogil:
    cdef uint64_t arrival = departure + d.delay
    if d.jitter:
        arrival += rng_u64(&d.rng) % (d.jitter + 1)
    if chance(d, d.reorder):
        # Held back, so that later ones overtake it.
        d.stats.reordered += 1
        arrival += d.reorder_delay
    else:
        # Jitter and a delay that became shorter do not reorder.
        if arrival < d.last_arrival:
            arrival = d.last_arrival
        d.last_arrival = arrival
    f.node.fire = arrive
    to_heap(d, f, arrival)


cdef void arrive(void *owner, Node *n, Heap *h) noexcept nogil:
    cdef Dir *d = <Dir *>owner
    cdef SimFrame *f = <SimFrame *>n
    if d.came == NULL or not d.up:
        d.stats.unclaimed += 1
        frame_free(h, f)
        return
    d.stats.delivered += 1
    d.stats.delivered_bytes += f.len
    if d.n_captures:
        note(d, f, POINT_DELIVERED)
    if d.home.driver == NULL:
        raw_push(d, f)
        return
    d.home.lock(d.home.driver)
    d.home.inject(d.home.driver, d.home.iface, data_of(f), f.len, NULL)
    d.home.unlock(d.home.driver)
    frame_free(h, f)


cdef void raw_push(Dir *d, SimFrame *f) noexcept nogil:
    f.next = NULL
    if d.raw_tail == NULL:
        d.raw_head = f
    else:
        d.raw_tail.next = f
    d.raw_tail = f
    waiter_fire(d.came)


# The filter

cdef void filter_fire(void *owner, Node *n, Heap *h) noexcept nogil:
    heap_defer(h, n)


cdef int filter_run(void *owner, Node *n, Heap *h) except -1:
    cdef Dir *d = <Dir *>owner
    cdef SimFrame *f = <SimFrame *>n
    cdef const uint8_t *raw
    hook = None if d.filter == NULL else <object>d.filter
    number = f.number
    frame = PyBytes_FromStringAndSize(<char *>data_of(f), f.len)
    frame_free(h, f)
    answer = frame if hook is None else hook(frame, number)
    if answer is None:
        d.stats.filtered += 1
        return 0
    for out in (answer if isinstance(answer, (list, tuple)) else (answer,)):
        out = bytes(out)
        f = frame_new(h, len(out))
        if f == NULL:
            raise MemoryError("no memory for a frame")
        raw = out
        memcpy(data_of(f), raw, len(out))
        f.number = number
        f.node.owner = d
        f.node.drop = frame_drop
        admit(d, f)
    return 0


cdef void path_free(Dir *d) noexcept nogil:
    cdef SimFrame *f = d.raw_head
    cdef SimFrame *following
    while f != NULL:
        following = f.next
        free(f)
        f = following
    free(d.queue)
