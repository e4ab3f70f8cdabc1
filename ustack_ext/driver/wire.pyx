"""A simulated wire between two stacks: rate, queue, delay, jitter, loss, duplication, reordering, corruption, all by seed.

Each direction has its own settings, random numbers and queue. A frame meets, in this order: the filter, the queue limit, the
rate, loss, duplication, corruption, delay with jitter, reordering. Not here: the clock and the event heap (world.pyx).
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EBADF, EBUSY, EXDEV
from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from ustack_ext.base.iov cimport IoVec, Offload
from ustack_ext.base.rng cimport Rng, rng_below, rng_init, rng_u64
from ustack_ext.driver.capture cimport Capture
from ustack_ext.driver.world cimport Flag, Heap, Node, World, heap_defer, heap_set
from ustack_ext.link.link cimport FRAME_MIN_ROOM, Home, Link, check_mac, check_mtu

cdef enum:
    FRAME_ROOM = 2048          # frames up to this size come from the free list
    MAX_CAPTURES = 8
    POINT_SENT = 1
    POINT_DELIVERED = 2

cdef struct SimFrame:
    Node node
    SimFrame *next             # free list, or a raw end's queue; first of all for the free list: see frame_free
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
    void *receiver             # the receiving _WireEnd, NULL: gone
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
    uint8_t filtered
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
    void *state                # the _State it is part of


# Frames

cdef inline uint8_t *data_of(SimFrame *f) noexcept nogil:
    return <uint8_t *>(f + 1)


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


cdef int wire_transmit(void *link, const IoVec *iov, int niov, const Offload *off) noexcept nogil:
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
    if d.filtered:
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
    if d.receiver == NULL or not d.up:
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
    d.home.inject(d.home.driver, d.home.iface, data_of(f), f.len)
    d.home.unlock(d.home.driver)
    frame_free(h, f)


cdef void raw_push(Dir *d, SimFrame *f) noexcept nogil:
    f.next = NULL
    if d.raw_tail == NULL:
        d.raw_head = f
    else:
        d.raw_tail.next = f
    d.raw_tail = f
    raw_came(<WireEnd>d.receiver)


cdef inline void raw_came(WireEnd end) noexcept nogil:
    end.came.fire()


# The filter

cdef void filter_fire(void *owner, Node *n, Heap *h) noexcept nogil:
    heap_defer(h, n)


cdef int filter_run(void *owner, Node *n, Heap *h) except -1:
    cdef Dir *d = <Dir *>owner
    cdef SimFrame *f = <SimFrame *>n
    cdef _State state = <_State>d.state
    cdef const uint8_t *raw
    hook = state.filters[0 if d == &state.dirs[0] else 1]
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


cdef class _State:
    """The two directions of a wire. The world keeps it, because frames under way point into it."""
    cdef Dir dirs[2]
    cdef list filters
    cdef list captures         # what dirs[].captures point to

    def __cinit__(self):
        memset(self.dirs, 0, sizeof(self.dirs))
        self.filters = [None, None]
        self.captures = []

    def __dealloc__(self):
        cdef SimFrame *f
        cdef SimFrame *following
        cdef int i
        for i in range(2):
            f = self.dirs[i].raw_head
            while f != NULL:
                following = f.next
                free(f)
                f = following
            free(self.dirs[i].queue)


cdef class WireEnd(Link):
    """One end of a simulated wire: attached to a stack, or used raw: send() and recv() make the test itself the peer."""
    cdef World world
    cdef _State state
    cdef Dir *out
    cdef Dir *into
    cdef Flag came

    def __init__(self):
        raise TypeError("wires are made by Network.wire()")

    def __dealloc__(self):
        if self.home.driver != NULL:
            self.home.forget(self.home.driver, self.home.iface)
            self.home.driver = NULL
        if self.into != NULL:
            self.into.receiver = NULL
            self.into.home = NULL

    cdef int bind(self) except -1:
        if getattr(self.driver_ref(), "world", None) is not self.world:
            raise OSError(EXDEV, "a simulated wire joins stacks of its own network only")
        return 0

    cpdef close(self):
        """Unplug this end. Can be called again."""
        if not self.closed:
            Link.close(self)
            self.into.receiver = NULL

    def send(self, frame) -> None:
        """Put a frame (bytes-like) on the wire, as a stack at this end would."""
        cdef IoVec iov
        if self.closed:
            raise OSError(EBADF, "this end is closed")
        data = bytes(frame)
        iov.base = <void *><const uint8_t *>data
        iov.len = len(data)
        if iov.len > 0x20000:
            raise ValueError(f"a frame of {iov.len} bytes")
        wire_transmit(self.out, &iov, 1, NULL)

    def recv(self, timeout=None):
        """Run the network until a frame comes to this end, and return it (bytes).

        Parameters: timeout, seconds of virtual time; 0: take only what is there. Raises TimeoutError, OSError EBUSY if a
        stack has this end, and EDEADLK if nothing will ever come.
        """
        cdef SimFrame *f
        if self.home.driver != NULL:
            raise OSError(EBUSY, "a stack is attached to this end and takes its frames")
        if self.into.raw_head == NULL:
            self.came.clear()
            if timeout == 0 or not self.came.wait(timeout):
                raise TimeoutError("no frame came")
        f = self.into.raw_head
        self.into.raw_head = f.next
        if f.next == NULL:
            self.into.raw_tail = NULL
        frame = PyBytes_FromStringAndSize(<char *>data_of(f), f.len)
        frame_free(self.into.heap, f)
        return frame

    @property
    def pending(self) -> int:
        """Frames that recv() would return without waiting."""
        cdef SimFrame *f = self.into.raw_head
        cdef int n = 0
        while f != NULL:
            n += 1
            f = f.next
        return n


cdef uint64_t probability(object p) except? 1:
    value = float(p)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{p!r} is no probability: it must be between 0 and 1")
    return UINT64_MAX if value == 1.0 else int(value * 18446744073709551616.0)


cdef uint64_t nanoseconds(object s) except? 1:
    value = float(s)
    if not 0.0 <= value < 1e9:
        raise ValueError(f"{s!r} seconds is not between 0 and 1e9")
    return int(round(value * 1e9))


cdef uint64_t whole(object n, str what) except? 1:
    value = int(n)
    if not 0 <= value < 1 << 62:
        raise ValueError(f"{what}: {n!r} is out of range")
    return value


cdef class Direction:
    """One direction of a Wire. Every setting can be changed while the network runs; it holds for frames sent from then on."""
    cdef _State state
    cdef Dir *d
    cdef int index

    @property
    def rate(self) -> int:
        """bit/s, counted over whole frames as they are passed in; 0: without limit."""
        return self.d.rate

    @rate.setter
    def rate(self, value):
        self.d.rate = whole(value, "rate")

    @property
    def delay(self) -> float:
        """Seconds from the last bit sent to the frame's arrival."""
        return self.d.delay / 1e9

    @delay.setter
    def delay(self, value):
        self.d.delay = nanoseconds(value)

    @property
    def jitter(self) -> float:
        """Seconds: up to this much more delay, uniform; frames stay in order."""
        return self.d.jitter / 1e9

    @jitter.setter
    def jitter(self, value):
        self.d.jitter = nanoseconds(value)

    @property
    def loss(self) -> float:
        """Probability that a frame is lost (after it used up its time on the wire)."""
        return self.d.loss / 18446744073709551616.0

    @loss.setter
    def loss(self, value):
        self.d.loss = probability(value)

    @property
    def duplicate(self) -> float:
        """Probability that a frame arrives twice."""
        return self.d.duplicate / 18446744073709551616.0

    @duplicate.setter
    def duplicate(self, value):
        self.d.duplicate = probability(value)

    @property
    def reorder(self) -> float:
        """Probability that a frame is held back by reorder_delay, so that later ones overtake it."""
        return self.d.reorder / 18446744073709551616.0

    @reorder.setter
    def reorder(self, value):
        self.d.reorder = probability(value)

    @property
    def reorder_delay(self) -> float:
        """Seconds a reordered frame is held back."""
        return self.d.reorder_delay / 1e9

    @reorder_delay.setter
    def reorder_delay(self, value):
        self.d.reorder_delay = nanoseconds(value)

    @property
    def corrupt(self) -> float:
        """Probability that one random bit of a frame is turned over."""
        return self.d.corrupt / 18446744073709551616.0

    @corrupt.setter
    def corrupt(self, value):
        self.d.corrupt = probability(value)

    @property
    def queue(self):
        """Frames the queue before the wire holds (0: without limit). Only a wire with a rate has a queue."""
        return self.d.limit_frames

    @queue.setter
    def queue(self, value):
        self.d.limit_frames = whole(value, "queue")

    @property
    def queue_bytes(self):
        """Bytes the queue before the wire holds (0: without limit); both limits hold."""
        return self.d.limit_bytes

    @queue_bytes.setter
    def queue_bytes(self, value):
        self.d.limit_bytes = whole(value, "queue_bytes")

    @property
    def up(self) -> bool:
        """False: the wire is cut; frames sent and frames that would arrive are gone."""
        return bool(self.d.up)

    @up.setter
    def up(self, value):
        self.d.up = 1 if value else 0

    @property
    def filter(self):
        """filter(frame: bytes, n: int) for every frame: return it, another one, a list of them, or None to take it off. n counts from 1.

        It is called at the time the frame is sent, outside the stack, before everything else.
        """
        return self.state.filters[self.index]

    @filter.setter
    def filter(self, hook):
        if hook is not None and not callable(hook):
            raise TypeError(f"filter: {hook!r} is not callable")
        self.state.filters[self.index] = hook
        self.d.filtered = hook is not None

    @property
    def backlog(self) -> "tuple[int, int]":
        """Frames and bytes in the queue when the last frame was sent."""
        return self.d.queue_count, self.d.queue_bytes

    @property
    def stats(self) -> dict:
        """Counters: sent, sent_bytes, delivered, delivered_bytes, lost, duplicated, reordered, corrupted, queue_dropped, too_big, filtered, unclaimed."""
        return self.d.stats

    cdef tap(self, Capture capture, int points):
        if self.d.n_captures == MAX_CAPTURES:
            raise ValueError(f"a wire has at most {MAX_CAPTURES} captures")
        self.d.captures[self.d.n_captures] = <void *>capture
        self.d.points[self.d.n_captures] = points
        self.d.n_captures += 1


SETTINGS = ("rate", "delay", "jitter", "loss", "duplicate", "reorder", "reorder_delay", "corrupt", "queue", "queue_bytes",
            "up", "filter")


cdef class WirePair:
    """Both directions and both ends of a wire; ustack.sim.Wire is the face of it."""
    cdef readonly World world
    cdef readonly WireEnd a
    cdef readonly WireEnd b
    cdef readonly Direction a_to_b
    cdef readonly Direction b_to_a
    cdef readonly int linktype
    cdef _State state

    def __init__(self, World world, str name, seeds, medium="ethernet", mtu=1500, macs=(None, None)):
        if medium not in ("ethernet", "ip"):
            raise ValueError(f'medium: {medium!r} is neither "ethernet" nor "ip"')
        cdef int i
        cdef _State state = _State()
        cdef const uint8_t *secret
        cdef int size = check_mtu(mtu)
        self.world = world
        self.state = state
        self.linktype = 1 if medium == "ethernet" else 101
        self.a = WireEnd.__new__(WireEnd)
        self.b = WireEnd.__new__(WireEnd)
        self.a_to_b = Direction.__new__(Direction)
        self.b_to_a = Direction.__new__(Direction)
        for i in range(2):
            seed = seeds[i]
            secret = seed
            state.dirs[i].heap = &world.heap
            state.dirs[i].up = 1
            state.dirs[i].frame_max = size + (FRAME_MIN_ROOM if medium == "ethernet" else 0)
            state.dirs[i].reorder_delay = 1000000
            state.dirs[i].state = <void *>state
            rng_init(&state.dirs[i].rng, secret)
            self.make_end(self.a if i == 0 else self.b, i, f"{name}.{i}", medium, size, macs[i])
            self.make_direction(self.a_to_b if i == 0 else self.b_to_a, i)
        world.wires.append(state)

    cdef make_end(self, WireEnd end, int i, name, medium, int mtu, mac):
        end.world = self.world
        end.state = self.state
        end.out = &self.state.dirs[i]
        end.into = &self.state.dirs[1 - i]
        end.came = Flag(self.world)
        end.name = name
        end.medium = medium
        end.mtu = mtu
        end.mac = check_mac(mac) if medium == "ethernet" else None
        end.ops.transmit = wire_transmit
        end.ops.state = end.out
        end.into.receiver = <void *>end
        end.into.home = &end.home

    cdef make_direction(self, Direction direction, int i):
        direction.state = self.state
        direction.d = &self.state.dirs[i]
        direction.index = i

    def capture(self, target, a_to_b, b_to_a):
        """A Capture of each direction at the points given: 1 sent, 2 delivered, 3 both, 0 not at all."""
        cdef Capture capture = Capture(target, self.linktype)
        if a_to_b:
            self.a_to_b.tap(capture, a_to_b)
        if b_to_a:
            self.b_to_a.tap(capture, b_to_a)
        self.state.captures.append(capture)
        self.world.captures.append(capture)
        return capture
