"""The event heap of a simulated network and the loop that runs it.

Responsible for: the order of events (by time, then by the order they were asked for), the clock, calls into Python at a
time, and blocking calls in virtual time. Not for: what an event does (path, virtual), which task runs (task).
"""

import errno

from ustack_ext.driver.task import Tasks

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport UINT64_MAX
from libc.stdlib cimport free, realloc
from libc.string cimport memset
from ustack_ext.driver.atomic cimport atomic_get
from ustack_ext.driver.driver cimport waiter_epoch, waiter_fire


cdef enum:
    IDLE = 0                   # nothing will ever happen
    REACHED = 1                # the limit
    STOPPED = 2                # something was fired, needs Python, or `most` events are through
    SLICE = 1 << 16            # events between two looks at signals

DEADLOCK = ("deadlock in virtual time: nothing will ever happen (no frame under way, no timer, no call), and this call "
            "waits for something without a timeout")


# The heap

cdef inline bint before(const HeapItem *a, const HeapItem *b) noexcept nogil:
    return a.time < b.time or (a.time == b.time and a.order < b.order)


cdef inline void place(Heap *h, uint32_t i, HeapItem *item) noexcept nogil:
    h.items[i] = item[0]
    item.node.at = i + 1


cdef void sift_up(Heap *h, uint32_t i, HeapItem item) noexcept nogil:
    cdef uint32_t parent
    while i > 0:
        parent = (i - 1) // 2
        if not before(&item, &h.items[parent]):
            break
        place(h, i, &h.items[parent])
        i = parent
    place(h, i, &item)


cdef void sift_down(Heap *h, uint32_t i, HeapItem item) noexcept nogil:
    cdef uint32_t child = 2 * i + 1
    while child < h.count:
        if child + 1 < h.count and before(&h.items[child + 1], &h.items[child]):
            child += 1
        if not before(&h.items[child], &item):
            break
        place(h, i, &h.items[child])
        i = child
        child = 2 * i + 1
    place(h, i, &item)


cdef int heap_set(Heap *h, Node *n, uint64_t time) noexcept nogil:
    cdef HeapItem item
    cdef HeapItem *grown
    cdef uint32_t i
    if time < h.now:
        time = h.now
    h.order += 1
    n.time = time
    n.order = h.order
    item.time = time
    item.order = n.order
    item.node = n
    if n.at == 0:
        if h.count == h.cap:
            grown = <HeapItem *>realloc(h.items, sizeof(HeapItem) * (h.cap * 2 + 16))
            if grown == NULL:
                return -1
            h.items = grown
            h.cap = h.cap * 2 + 16
        h.count += 1
        sift_up(h, h.count - 1, item)
        return 0
    i = n.at - 1
    if before(&item, &h.items[i]):
        sift_up(h, i, item)
    else:
        sift_down(h, i, item)
    return 0


cdef void heap_remove(Heap *h, Node *n) noexcept nogil:
    cdef uint32_t i
    cdef HeapItem last
    if n.at == 0:
        return
    i = n.at - 1
    n.at = 0
    h.count -= 1
    if i == h.count:
        return
    last = h.items[h.count]
    if i > 0 and before(&last, &h.items[(i - 1) // 2]):
        sift_up(h, i, last)
    else:
        sift_down(h, i, last)


cdef void heap_defer(Heap *h, Node *n) noexcept nogil:
    n.next = NULL
    if h.deferred_last == NULL:
        h.deferred = n
    else:
        h.deferred_last.next = n
    h.deferred_last = n


cdef int heap_run(Heap *h, uint64_t limit, uint64_t most) noexcept nogil:
    """Fires events until the limit (ns, inclusive), until `most` are through, or until somebody above has to look."""
    cdef Node *n
    cdef int epoch = waiter_epoch()
    while most > 0:
        if h.count == 0:
            return IDLE
        n = h.items[0].node
        if n.time > limit:
            return REACHED
        h.now = n.time
        heap_remove(h, n)
        h.events += 1
        n.fire(n.owner, n, h)
        most -= 1
        if h.deferred != NULL or h.python_due or waiter_epoch() != epoch:
            return STOPPED
    return STOPPED


# Calls at a time

cdef void call_fire(void *owner, Node *n, Heap *h) noexcept nogil:
    heap_defer(h, n)


cdef int call_run(void *owner, Node *n, Heap *h) except -1:
    call = <Call>owner
    call.world.calls.discard(call)
    if not call.cancelled:
        call.function(*call.arguments)
    return 0


cdef class Call:
    """A function that the network calls at a virtual time; made by call_later() and call_at()."""
    cdef Node node
    cdef World world                   # which keeps the call until it is made
    cdef Heap *heap                    # of the world
    cdef object function
    cdef tuple arguments
    cdef readonly bint cancelled

    def __dealloc__(self):
        # Only a garbage collection that takes the whole network gets here with the call still to be made.
        if self.node.at:
            heap_remove(self.heap, &self.node)

    def cancel(self):
        """It is not called any more."""
        self.cancelled = True
        if self.node.at:
            heap_remove(self.heap, &self.node)
            self.world.calls.discard(self)

    @property
    def when(self) -> int:
        """Virtual time in ns."""
        return self.node.time


cdef class World:
    """The clock and the events of one simulated network. Used through ustack.sim.Network."""

    def __cinit__(self):
        memset(&self.heap, 0, sizeof(Heap))
        self.drivers = []
        self.wires = []
        self.captures = []
        self.calls = set()
        self.tasks = Tasks(fired)

    def __dealloc__(self):
        cdef void *following
        self.drop_events()
        free(self.heap.items)
        while self.heap.free_frames != NULL:
            following = (<void **>self.heap.free_frames)[0]
            free(self.heap.free_frames)
            self.heap.free_frames = following

    cdef void drop_events(self) noexcept:
        cdef Node *n
        while self.heap.deferred != NULL:
            n = self.heap.deferred
            self.heap.deferred = n.next
            if n.drop != NULL:
                n.drop(n.owner, n)
        self.heap.deferred_last = NULL
        while self.heap.count > 0:
            n = self.heap.items[0].node
            heap_remove(&self.heap, n)
            if n.drop != NULL:
                n.drop(n.owner, n)

    def close(self):
        """End the tasks, write the captures, forget every event. Can be called again."""
        self.tasks.cancel_all()
        for capture in self.captures:
            capture.close()
        self.captures = []
        self.drop_events()
        self.calls.clear()

    @property
    def now(self) -> int:
        """Virtual time in ns; it starts at 0."""
        return self.heap.now

    @property
    def events(self) -> int:
        """Events that happened so far."""
        return self.heap.events

    @property
    def next_event(self):
        """When the next event happens, in ns; None: nothing will happen by itself."""
        return self.heap.items[0].time if self.heap.count else None

    def call_at(self, when, function, *arguments):
        """Call function(*arguments) at `when` (ns; a time that is past is now).

        Returns a Call, which can be cancelled.
        """
        cdef Call call = Call.__new__(Call)
        call.function = function
        call.arguments = arguments
        call.node.owner = <void *>call
        call.node.fire = call_fire
        call.node.run = call_run
        call.world = self
        call.heap = &self.heap
        if heap_set(&self.heap, &call.node, when) != 0:
            raise MemoryError("no memory for an event")
        self.calls.add(call)
        return call

    cdef int python(self) except -1:
        """What the events left to be done in Python, in their order."""
        cdef Node *n
        while self.heap.deferred != NULL:
            n = self.heap.deferred
            self.heap.deferred = n.next
            if n.next == NULL:
                self.heap.deferred_last = NULL
            n.run(n.owner, n, &self.heap)
        if self.heap.python_due:
            self.heap.python_due = 0
            for capture in self.captures:
                capture.write_full()
            for reference in self.drivers:
                driver = reference()
                if driver is not None:
                    driver.deliver()
        return 0

    cdef int step(self, uint64_t limit, uint64_t most) except -1:
        """One stretch of events without the GIL, then what they left for Python. IDLE, REACHED or STOPPED."""
        cdef int why
        with nogil:
            why = heap_run(&self.heap, limit, most)
        if self.heap.deferred != NULL or self.heap.python_due:
            self.python()
            why = STOPPED
        if why == REACHED and limit != UINT64_MAX and limit > self.heap.now:
            self.heap.now = limit
        return why

    cdef int block(self, Waiter *w, uint64_t deadline, object until) except -2:
        """Runs the world until `w` fires (1), until() is true (1), or the deadline comes (0)."""
        cdef uint64_t limit
        cdef int why
        tasks = self.tasks
        tasks.enter()
        while True:
            if (w != NULL and atomic_get(&w.fired)) or (until is not None and until()):
                return 1
            if self.heap.now >= deadline:
                return 0
            watched = until is not None
            if tasks.waiting:
                # A task whose wait is over goes on before the next event; it comes back here by blocking or ending.
                other = tasks.runnable(self.heap.now)
                if other is not None:
                    tasks.switch(other, <size_t>w, deadline, until)
                    continue
                limit = min(deadline, tasks.earliest())
                watched = watched or tasks.watched()
            else:
                limit = deadline
            why = self.step(limit, 1 if watched else SLICE)
            if why == IDLE:
                if limit == UINT64_MAX:
                    raise OSError(errno.EDEADLK, DEADLOCK)
                self.heap.now = limit
            PyErr_CheckSignals()

    def run_until(self, deadline, until=None) -> bool:
        """Run to the virtual time `deadline` (ns; None: no limit) or until until() is true; whether it became true.

        Without a deadline, OSError EDEADLK if until() can never become true.
        """
        return self.block(NULL, UINT64_MAX if deadline is None else deadline, until) == 1

    def run_idle(self) -> None:
        """Run until nothing is left to happen."""
        self.tasks.enter()
        while self.step(UINT64_MAX, SLICE) != IDLE:
            PyErr_CheckSignals()

    def spawn(self, function, arguments, name):
        """A Task that runs function(*arguments) from the next time somebody blocks."""
        return self.tasks.spawn(function, arguments, name, Flag(self))


cdef class Flag:
    """Something that happens once and can be waited for in virtual time."""

    def __init__(self, World world):
        self.world = world

    @property
    def is_set(self) -> bool:
        return atomic_get(&self.waiter.fired) != 0

    def set(self):
        waiter_fire(&self.waiter)

    cdef void fire(self) noexcept nogil:
        waiter_fire(&self.waiter)

    def clear(self):
        self.waiter.fired = 0

    def wait(self, timeout=None) -> bool:
        """Run the network until the flag is set; False if it is not after `timeout` seconds of virtual time."""
        cdef uint64_t deadline = UINT64_MAX
        if timeout is not None:
            deadline = self.world.heap.now + <uint64_t>max(0, int(timeout * 1e9))
        return self.world.block(&self.waiter, deadline, None) == 1


def fired(address) -> bool:
    """Whether the Waiter at this address has fired (for task.py)."""
    return address != 0 and atomic_get(&(<Waiter *><size_t>address).fired) != 0
