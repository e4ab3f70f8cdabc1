"""The base of every driver: the engine it owns, attached links, the round of input, poll and events, and waiters.

Not here: when that round is run (thread, manual, virtual). A driver keeps its links alive; a link knows its driver by a
weak reference and the C struct `home`, so dropping the stack ends both.
"""

import os
import weakref

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EBADF, EBUSY, EINTR, ENFILE, ENOBUFS, ETIMEDOUT
from libc.stdint cimport UINT64_MAX
from libc.stdlib cimport malloc
from libc.string cimport memcpy, memset
from ustack_ext.base.buf cimport BUF_HEADROOM, Buf, BufPool, Owner, buf_alloc, buf_unref
from ustack_ext.base.event cimport event_pop
from ustack_ext.base.iov cimport IoVec, Offload
from ustack_ext.driver.atomic cimport atomic_add, atomic_get, atomic_set, atomic_sleep, atomic_wake
from ustack_ext.driver.clock cimport clock_monotonic
from ustack_ext.engine.engine cimport (engine_ahead, engine_enter, engine_free, engine_input, engine_input_end,
                                       engine_many, engine_new, engine_next, engine_poll)
from ustack_ext.link.link cimport FRAME_MIN_ROOM, LINK_BATCH, Home, Link, forget_fn, home_fn, inject_fn
from ustack_ext.net.net cimport iface_add, iface_remove
from ustack_ext.net.state cimport MEDIUM_ETHERNET, MEDIUM_IP, Capture

cdef enum:
    NATIVE_ROUNDS = 8              # polls for native services at a time: over the loopback it could go on for ever
    PUMP = 16                      # frames a driver without a thread of its own reads at a time
    RUN_OUT = 100000               # deadlines that close() lets pass at most
    RESERVE = 256 << 10            # bytes beyond the budget that receiving may use
    PATIENT = 8                    # owners that are told later, at most

BUDGET = 256 << 20                 # bytes of packet memory, unless the stack says otherwise


# What a link may ask of its driver. A Driver is handed out as void *, so that link/ needs to know nothing of it.

cdef void home_lock(Driver d) noexcept nogil:
    d.lock()


cdef void home_unlock(Driver d) noexcept nogil:
    d.unlock()


cdef void home_wake(Driver d) noexcept nogil:
    d.kick()


cdef int home_inject(Driver d, Iface *iface, const uint8_t *frame, uint32_t length,
                     const Offload *off) noexcept nogil:
    cdef Buf *b = receive_buffer(&d.engine.core.pool, BUF_HEADROOM + length)
    if b == NULL:
        iface.rx_dropped += 1
        return -ENOBUFS
    b.len = length
    memcpy(b.data + b.off, frame, length)
    engine_input(d.engine, iface, b, off)
    return 0


cdef void home_forget(Driver d, Iface *iface) noexcept nogil:
    cdef int i
    d.lock()
    for i in range(MAX_LINKS):
        if d.slots[i].iface == iface and iface != NULL:
            iface_remove(&d.engine.net, iface)
            memset(&d.slots[i], 0, sizeof(Slot))
            d.generation += 1
    d.unlock()


cdef Buf *receive_buffer(BufPool *pool, uint32_t need) noexcept nogil:
    cdef uint64_t budget = pool.budget
    cdef Buf *b
    pool.budget += RESERVE
    b = buf_alloc(pool, need)
    pool.budget = budget
    if b != NULL:
        b.off = BUF_HEADROOM
    return b


cdef void look_ahead(Engine *e, const Iface *iface, const RxFrame *frames, int n) noexcept nogil:
    cdef Buf *bufs[LINK_BATCH]
    cdef int i
    if n <= 1 or n > LINK_BATCH or not engine_many(e):
        return
    for i in range(n):
        bufs[i] = frames[i].buf
    engine_ahead(e, iface, bufs, n)


cdef void native_event(Source *source, uint16_t bits) noexcept nogil:
    if source.user != NULL:
        (<Native *>source.user).event(source, bits)


cdef int transmit_nowhere(void *link, const IoVec *iov, int niov, const Offload *off) noexcept nogil:
    return -1


cdef void mute(Iface *iface) noexcept nogil:
    iface.up = 0
    iface.transmit = transmit_nowhere


cdef void tell_owners(Owner *o) noexcept:
    """The list has the latest first."""
    cdef Owner *following
    cdef Owner *first = NULL
    while o != NULL:
        following = o.next
        o.next = first
        first = o
        o = following
    while first != NULL:
        following = first.next
        first.done(first)
        first = following


cdef class Driver:
    """Base of the drivers. Not made directly."""

    def __cinit__(self, *args, **kwargs):
        memset(self.slots, 0, sizeof(self.slots))
        self.due = &self.python_due
        self.links = []
        self.dispatchers = []
        self.host_fd = -1

    def __init__(self):
        raise TypeError("Driver is a base class")

    def __dealloc__(self):
        cdef Link link
        cdef int i
        if self.links is not None:
            for item in self.links:
                link = item
                link.unbind()
                memset(&link.home, 0, sizeof(Home))
        if self.engine != NULL:
            for i in range(MAX_LINKS):
                if self.slots[i].iface != NULL:
                    mute(self.slots[i].iface)
            tell_owners(engine_free(self.engine))

    cdef int create(self, object seed, object budget, uint64_t now) except -1:
        """Make the engine. seed: 32 bytes of secret, None: from the OS. budget: bytes of packet memory, 0: BUDGET."""
        secret = os.urandom(32) if seed is None else bytes(seed)
        if len(secret) != 32:
            raise ValueError(f"seed: 32 bytes are needed, not {len(secret)}")
        cdef const uint8_t *bytes32 = secret
        self.engine = engine_new(bytes32, budget or BUDGET, now)
        if self.engine == NULL:
            raise MemoryError("no memory for a stack")
        return 0

    # The round

    cdef void lock(self) noexcept nogil:
        engine_enter(self.engine, self.now())

    cdef bint try_lock(self) noexcept nogil:
        self.lock()
        return True

    cdef void unlock(self) noexcept nogil:
        self.finish()

    cdef uint64_t now(self) noexcept nogil:
        return clock_monotonic()

    cdef void finish(self) noexcept nogil:
        cdef int rounds = NATIVE_ROUNDS
        if self.native_sink != NULL:
            engine_input_end(self.engine)
            self.hand_out()            # before anything is sent: an answer carries the ACK of what it answers
        engine_poll(self.engine)
        while self.hand_out() and rounds > 0:
            engine_poll(self.engine)
            rounds -= 1
        if self.engine.core.pool.returned != NULL and (
                self.engine.core.pool.urgent or self.engine.core.pool.patient >= PATIENT):
            atomic_set(self.due, 1)
        if self.engine.net.captures != NULL:
            self.tell_captures()

    cdef void tell_captures(self) noexcept nogil:
        """Wakes the threads that write captures down, or has Python do it, where there is something for them."""
        cdef Capture *c = self.engine.net.captures
        while c != NULL:
            if c.used > 0 and c.told == 0:
                c.told = 1
                if c.waiter != NULL:
                    self.fire(<Waiter *>c.waiter)
            if c.used >= c.enough and c.told < 2:
                c.told = 2
                if c.waiter != NULL:
                    self.fire(<Waiter *>c.waiter)
                else:
                    atomic_set(self.due, 1)
            c = c.next

    cdef bint hand_out(self) noexcept nogil:
        cdef Source *s = event_pop(&self.engine.core.events)
        cdef bint native = False
        cdef uint16_t bits
        while s != NULL:
            bits = s.pending
            s.pending = 0
            if s.native:
                native = True
                self.native_sink(s, bits)
            elif self.sink != NULL:
                self.sink(s, bits)
            s = event_pop(&self.engine.core.events)
        return native

    cdef int pump(self) noexcept nogil:
        cdef RxFrame frames[PUMP]
        cdef Slot *slot
        cdef int i, j, have, got, taken = 0
        for i in range(MAX_LINKS):
            slot = &self.slots[i]
            if slot.iface == NULL or slot.ops.receive == NULL or slot.gone:
                continue
            have = 0
            while have < PUMP:
                frames[have].buf = receive_buffer(&self.engine.core.pool, slot.need)
                if frames[have].buf == NULL:
                    break
                have += 1
            got = slot.ops.receive(slot.ops.state, frames, have)
            look_ahead(self.engine, slot.iface, frames, got)
            for j in range(have):
                if j < got:
                    engine_input(self.engine, slot.iface, frames[j].buf, &frames[j].off)
                else:
                    buf_unref(&self.engine.core.pool, frames[j].buf)
            if got < 0:
                self.mark_gone(i)
            else:
                taken += got
        return taken

    cdef void mark_gone(self, int slot) noexcept nogil:
        self.slots[slot].gone = 1
        self.slots[slot].iface.up = 0
        self.generation += 1

    # Links

    cdef Iface *attach_link(self, Link link, bytes name) except NULL:
        cdef Iface *iface = NULL
        cdef const uint8_t *mac = NULL
        cdef const char *cname = name
        cdef int medium = MEDIUM_ETHERNET if link.medium == "ethernet" else MEDIUM_IP
        cdef uint32_t mtu = link.mtu
        cdef int i, at = -1
        if self.closed:
            raise OSError(EBADF, "the stack is closed")
        if link.closed or link.ops.transmit == NULL:
            raise OSError(EBADF, f"{link!r} is closed")
        if link.attached:
            raise OSError(EBUSY, f"{link!r} is attached to a stack already")
        if not 0 < len(name) < 16:
            raise ValueError(f"name: an interface name has 1 to 15 bytes, not {name!r}")
        if link.mac is not None:
            mac = link.mac
        with nogil:
            self.lock()
            for i in range(MAX_LINKS):
                if self.slots[i].iface == NULL:
                    at = i
                    break
            if at >= 0:
                iface = iface_add(&self.engine.net, cname, medium, mac, mtu, link.offload_flags, link.ops.transmit,
                                  link.ops.state)
            if iface != NULL:
                iface.gso_max = max(iface.gso_max, link.gso_max)
                self.slots[at].iface = iface
                self.slots[at].ops = link.ops
                self.slots[at].link = <void *>link
                self.slots[at].need = BUF_HEADROOM + max(mtu, link.receive_max) + FRAME_MIN_ROOM
                self.slots[at].gone = 0
                self.generation += 1
            self.unlock()
        if iface == NULL:
            raise OSError(ENFILE, f"a stack has at most {MAX_LINKS - 1} interfaces beside lo")
        self.links.append(link)
        self.settle(link, iface)
        return iface

    cdef settle(self, Link link, Iface *iface):
        """Tell the link where it lives, and whoever reads links that there is one more."""
        link.home.driver = <void *>self
        link.home.iface = iface
        link.home.python_due = self.due
        link.home.lock = <home_fn>home_lock
        link.home.unlock = <home_fn>home_unlock
        link.home.inject = <inject_fn>home_inject
        link.home.wake = <home_fn>home_wake
        link.home.forget = <forget_fn>home_forget
        link.driver_ref = weakref.ref(self)
        try:
            link.bind()
        except BaseException:
            self.detach_link(link)
            raise
        self.kick()

    cpdef detach_link(self, Link link):
        """The interface goes, with its addresses, routes and neighbours.

        A link that is not attached here is left alone.
        """
        cdef Iface *iface = link.home.iface
        cdef int i
        if link.home.driver != <void *>self:
            return
        link.unbind()
        memset(&link.home, 0, sizeof(Home))
        link.driver_ref = None
        with nogil:
            self.lock()
            for i in range(MAX_LINKS):
                if self.slots[i].iface == iface:
                    iface_remove(&self.engine.net, iface)
                    memset(&self.slots[i], 0, sizeof(Slot))
                    self.generation += 1
            self.unlock()
        self.quiesce()
        self.links = [other for other in self.links if other is not link]

    cdef void quiesce(self) noexcept:
        pass

    cdef after(self):
        if self.due[0]:
            self.deliver()

    cpdef deliver(self):
        """Hand waiting frames to Callback links, and memory that was sent from to its owners, with no lock held."""
        cdef Link link
        atomic_set(self.due, 0)
        self.hand_back()
        for item in self.links:
            link = item
            if link.pending_python():
                link.deliver()
        for dispatch in list(self.dispatchers):
            dispatch()
        if self.on_ready is not None:
            self.on_ready()

    cdef hand_back(self):
        cdef Owner *o
        if self.engine.core.pool.returned == NULL:
            return
        with nogil:
            self.lock()
            o = self.engine.core.pool.returned
            self.engine.core.pool.returned = NULL
            self.engine.core.pool.patient = 0
            self.engine.core.pool.urgent = 0
            self.unlock()
        tell_owners(o)

    # Waiting

    cdef int wait(self, Waiter *waiter, uint64_t deadline) except -2:
        cdef int got
        self.after()
        while True:
            with nogil:
                got = waiter_sleep(waiter, deadline)
            if got >= 0:
                return got
            PyErr_CheckSignals()

    cdef void fire(self, Waiter *waiter) noexcept nogil:
        waiter_fire(waiter)

    cdef void glance(self) noexcept nogil:
        pass

    cdef void kick(self) noexcept nogil:
        pass

    cpdef close(self):
        """Detach every link.

        What sockets still hold of the engine lives until the driver object dies. Can be called again.
        """
        if self.closed:
            return
        self.closed = True
        for link in list(self.links):
            self.detach_link(link)
        with nogil:
            self.run_out()
        self.deliver()

    cdef void run_out(self) noexcept nogil:
        """Nobody will answer any more: what applications let go ends at once, as if its last timer were over."""
        cdef uint64_t deadline
        self.lock()
        for _ in range(RUN_OUT):
            deadline = engine_next(self.engine)
            if deadline == UINT64_MAX:
                break
            engine_enter(self.engine, deadline)
            self.finish()
        self.unlock()

    def __repr__(self):
        return f"<{type(self).__name__} {len(self.links)} links{', closed' if self.closed else ''}>"


# Waiters: made once, kept on a free list (the GIL guards it).

cdef Waiter *free_waiters = NULL
cdef int fires = 0


cdef Waiter *waiter_get(Driver driver) except NULL:
    global free_waiters
    cdef Waiter *w = free_waiters
    if w != NULL:
        free_waiters = w.next
    else:
        w = <Waiter *>malloc(sizeof(Waiter))
        if w == NULL:
            raise MemoryError("no memory to wait with")
    memset(w, 0, sizeof(Waiter))
    w.driver = <void *>driver
    return w


cdef void waiter_put(Waiter *w) noexcept:
    global free_waiters
    w.next = free_waiters
    free_waiters = w


cdef void waiter_fire(Waiter *w) noexcept nogil:
    atomic_add(&fires, 1)
    atomic_set(&w.fired, FIRED)
    if atomic_get(&w.sleeping):
        atomic_wake(&w.fired)


cdef int waiter_epoch() noexcept nogil:
    return atomic_get(&fires)


cdef int waiter_sleep(Waiter *w, uint64_t deadline) noexcept nogil:
    cdef int got
    atomic_set(&w.sleeping, 1)
    while True:
        if atomic_get(&w.fired):
            got = 1
            break
        got = atomic_sleep(&w.fired, 0, deadline)
        if got == -ETIMEDOUT or got == -EINTR:
            # The event may have come together with the signal or the deadline; it counts for more.
            if atomic_get(&w.fired):
                got = 1
            elif got == -ETIMEDOUT:
                got = 0
            break
    atomic_set(&w.sleeping, 0)
    return got
