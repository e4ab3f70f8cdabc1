"""The driver of a stack that lives in an asyncio event loop: no thread; the links' descriptors and one timer are the
loop's.

Responsible for: when the loop runs the engine, and being woken from other threads. Not for: what transports and
protocols make of it (ustack/aio). Only the public interface of event loops is used, so that any will do.

Socket calls from other threads run the engine there, under the lock; what is left to do in Python, frames for Callback
links among it, is the loop's.
"""
from libc.errno cimport EMFILE
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from posix.unistd cimport close as close_fd
from ustack_ext.driver.atomic cimport atomic_set, atomic_swap
from ustack_ext.driver.clock cimport clock_monotonic
from ustack_ext.driver.driver cimport MAX_LINKS, Driver, Waiter
from ustack_ext.engine.engine cimport engine_enter, engine_wake
from ustack_ext.link.link cimport Link
from ustack_ext.link.mutex cimport (pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_t,
                                    pthread_mutex_trylock, pthread_mutex_unlock)
from ustack_ext.link.wakefd cimport wakefd_clear, wakefd_open, wakefd_set

cdef extern from "Python.h" nogil:
    unsigned long PyThread_get_thread_ident()

cdef enum:
    ROUNDS = 8                     # of reading the links, before other callbacks have their turn
    ENOUGH = 16                    # frames in a round after which there may be more


cdef class LoopDriver(Driver):
    """LoopDriver(seed=None, budget=0): runs a stack in the event loop that bind() names.

    Parameters: seed, 32 bytes from which every random number of the stack follows (None: from the OS); budget, bytes of
    packet memory at most (0: 256 MiB). In the loop's own thread no socket call blocks.
    """
    cdef pthread_mutex_t mutex
    cdef readonly object loop          # None: bind() was not called, or unbind() was
    cdef object timer
    cdef set readers                   # descriptors of links that the loop watches
    cdef int bell                      # a descriptor that wakes the loop
    cdef int kicked                    # it was rung
    cdef readonly bint turning         # the loop has called this driver, not a socket call
    cdef bint late                     # the timer has to be set anew; under the lock
    cdef uint64_t armed                # what the timer is set to, UINT64_MAX: it is not
    cdef uint32_t learnt               # `generation` when `readers` was made
    cdef unsigned long home            # the loop's thread

    def __cinit__(self, *args, **kwargs):
        self.bell = -1
        self.armed = UINT64_MAX
        self.readers = set()

    def __init__(self, seed=None, budget=0):
        pthread_mutex_init(&self.mutex, NULL)
        self.kind = "asyncio"
        self.home = PyThread_get_thread_ident()
        self.create(seed, budget, clock_monotonic())
        self.bell = wakefd_open()
        if self.bell < 0:
            raise OSError(EMFILE, "cannot make an eventfd: too many open files")

    def __dealloc__(self):
        pthread_mutex_destroy(&self.mutex)
        if self.bell >= 0:
            close_fd(self.bell)

    # The lock

    cdef void lock(self) noexcept nogil:
        pthread_mutex_lock(&self.mutex)
        engine_enter(self.engine, clock_monotonic())

    cdef bint try_lock(self) noexcept nogil:
        if pthread_mutex_trylock(&self.mutex) != 0:
            return False
        engine_enter(self.engine, clock_monotonic())
        return True

    cdef void unlock(self) noexcept nogil:
        self.finish()
        if engine_wake(self.engine) < self.armed:
            self.late = True
            atomic_set(self.due, 1)                # whoever holds the lock calls after() next
        pthread_mutex_unlock(&self.mutex)

    cdef void kick(self) noexcept nogil:
        if atomic_swap(&self.kicked, 1) == 0:
            wakefd_set(self.bell)

    cdef bint is_home(self) noexcept nogil:
        return PyThread_get_thread_ident() == self.home

    cdef int wait(self, Waiter *waiter, uint64_t deadline) except -2:
        if self.loop is None or self.is_home():
            return -1
        return Driver.wait(self, waiter, deadline)

    cpdef deliver(self):
        """What is to be done in Python: in the loop's thread, and by the loop if this is another."""
        if self.loop is not None and not self.is_home():
            self.kick()
            return
        Driver.deliver(self)
        if self.late and self.loop is not None:
            self.arm()

    # The loop

    def bind(self, loop):
        """Live in this event loop from here on; to be called in its thread. Raises RuntimeError if it has another."""
        if self.loop is loop or self.closed:
            return
        if self.loop is not None and not self.loop.is_closed():
            raise RuntimeError("this stack is driven by another event loop")
        self.unbind()
        self.loop = loop
        self.home = PyThread_get_thread_ident()
        loop.add_reader(self.bell, self._rung)
        self.learn()
        loop.call_soon(self._turn)

    def unbind(self):
        """Leave the event loop: nothing happens in the stack until bind() gives it another."""
        loop = self.loop
        self.loop = None
        if self.timer is not None:
            self.timer.cancel()
        self.timer = None
        self.armed = UINT64_MAX
        if loop is not None and not loop.is_closed():
            for fd in (self.bell, *self.readers):
                loop.remove_reader(fd)
        self.readers.clear()

    cdef learn(self):
        """Watch the links that there are now."""
        cdef int i
        wanted = set()
        self.learnt = self.generation
        for i in range(MAX_LINKS):
            if self.slots[i].iface != NULL and self.slots[i].ops.receive != NULL and self.slots[i].ops.fd >= 0 \
                    and not self.slots[i].gone:
                wanted.add(self.slots[i].ops.fd)
        if self.loop is None or self.loop.is_closed():
            return
        for fd in self.readers - wanted:
            self.loop.remove_reader(fd)
        for fd in wanted - self.readers:
            self.loop.add_reader(fd, self._turn)
        self.readers = wanted

    cpdef detach_link(self, Link link):
        """As Driver.detach_link; to be called in the loop's thread, if the link has a descriptor."""
        Driver.detach_link(self, link)
        self.learn()                               # while the descriptor is the link's

    def _rung(self):
        wakefd_clear(self.bell)
        atomic_set(&self.kicked, 0)
        self._turn()

    def _expired(self):
        self.timer = None
        self.armed = UINT64_MAX
        self._turn()

    def _turn(self):
        """Read the links, run the engine."""
        cdef bint more
        if self.closed or self.loop is None:
            return
        self.home = PyThread_get_thread_ident()
        if self.learnt != self.generation:
            self.learn()
        with nogil:
            more = self.run()
        self.turning = True
        try:
            self.after()
        finally:
            self.turning = False
        if more:
            self.loop.call_soon(self._turn)

    cdef bint run(self) noexcept nogil:
        cdef int rounds = ROUNDS
        cdef bint more = True
        self.lock()
        while more and rounds > 0:
            more = self.pump() >= ENOUGH
            rounds -= 1
            if more:
                self.finish()
        self.unlock()
        return more

    cdef arm(self):
        """Set the loop's timer to the engine's earliest deadline, unless it ends earlier anyway."""
        cdef uint64_t deadline, now = clock_monotonic()
        if self.loop.is_closed():                  # before the stack was
            return
        with nogil:
            pthread_mutex_lock(&self.mutex)
            self.late = False
            deadline = engine_wake(self.engine)
            pthread_mutex_unlock(&self.mutex)
        if deadline >= self.armed:
            return
        if self.timer is not None:
            self.timer.cancel()
        self.armed = deadline
        self.timer = self.loop.call_later((deadline - now) / 1e9 if deadline > now else 0, self._expired)

    cpdef close(self):
        """Leave the loop and detach every link. Can be called again."""
        if self.closed:
            return
        self.unbind()
        Driver.close(self)
