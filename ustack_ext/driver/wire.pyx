"""The Python face of simulated wires: ends, settings of each direction, captures.

Each direction has its own settings, random numbers and queue. Not here: what happens to a frame (path.pyx).
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EBADF, EBUSY, EXDEV
from libc.stdint cimport UINT64_MAX, uint8_t, uint64_t
from libc.string cimport memset
from ustack_ext.base.iov cimport IoVec
from ustack_ext.base.rng cimport rng_init
from ustack_ext.driver.capture cimport Capture
from ustack_ext.driver.path cimport MAX_CAPTURES, Dir, SimFrame, data_of, frame_free, path_free, path_transmit
from ustack_ext.driver.world cimport Flag, World
from ustack_ext.link.link cimport FRAME_MIN_ROOM, Link, check_mac, check_mtu


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
        path_free(&self.dirs[0])
        path_free(&self.dirs[1])


cdef class WireEnd(Link):
    """One end of a simulated wire: attached to a stack, or used raw, with send() and recv() in place of a stack."""
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
            self.into.came = NULL
            self.into.home = NULL

    cdef int bind(self) except -1:
        if getattr(self.driver_ref(), "world", None) is not self.world:
            raise OSError(EXDEV, "a simulated wire joins stacks of its own network only")
        return 0

    cpdef close(self):
        """Unplug this end. Can be called again."""
        if not self.closed:
            Link.close(self)
            self.into.came = NULL

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
        path_transmit(self.out, &iov, 1, NULL)

    def recv(self, timeout=None):
        """Run the network until a frame comes to this end, and return it (bytes).

        Parameters: timeout, seconds of virtual time; 0: take only what is there. Raises TimeoutError, OSError EBUSY if
        a stack has this end, and EDEADLK if nothing will ever come.
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
    """One direction of a Wire.

    Every setting can be changed while the network runs; it holds for frames sent from then on.
    """
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
        """filter(frame: bytes, n: int) for every frame.

        It returns the frame, another one, a list of them, or None to take it off; n counts from 1.

        It is called at the time the frame is sent, outside the stack, before everything else.
        """
        return self.state.filters[self.index]

    @filter.setter
    def filter(self, hook):
        if hook is not None and not callable(hook):
            raise TypeError(f"filter: {hook!r} is not callable")
        self.state.filters[self.index] = hook
        self.d.filter = NULL if hook is None else <void *>hook

    @property
    def backlog(self) -> "tuple[int, int]":
        """Frames and bytes in the queue when the last frame was sent."""
        return self.d.queue_count, self.d.queue_bytes

    @property
    def stats(self) -> dict:
        """Counters by name.

        sent, sent_bytes, delivered, delivered_bytes, lost, duplicated, reordered, corrupted, queue_dropped, too_big,
        filtered (taken off by the filter), unclaimed (nobody at the other end, or the wire was cut).
        """
        return self.d.stats

    cdef tap(self, Capture capture, int points):
        if self.d.n_captures == MAX_CAPTURES:
            raise ValueError(f"a wire has at most {MAX_CAPTURES} captures")
        self.d.captures[self.d.n_captures] = <void *>capture
        self.d.points[self.d.n_captures] = points
        self.d.n_captures += 1


SETTINGS = ("rate", "delay", "jitter", "loss", "duplicate", "reorder", "reorder_delay", "corrupt", "queue",
            "queue_bytes", "up", "filter")


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
        end.ops.transmit = path_transmit
        end.ops.state = end.out
        end.into.came = &end.came.waiter
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
