"""The driver of an embedder who wants no thread: nothing happens but in poll() and in socket calls, which never block.

Not here: a clock, unless poll() is called without a time.
"""

from operator import index

from libc.stdint cimport UINT64_MAX, uint64_t
from ustack_ext.driver.clock cimport clock_monotonic
from ustack_ext.driver.driver cimport Driver, Waiter
from ustack_ext.engine.engine cimport engine_enter, engine_next
from ustack_ext.link.mutex cimport (pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_t,
                                    pthread_mutex_trylock, pthread_mutex_unlock)


cdef class ManualDriver(Driver):
    """ManualDriver(seed=None, budget=0): the embedder calls poll() when a frame came or next_deadline() is reached.

    Parameters: seed, 32 bytes from which every random number of the stack follows (None: from the OS); budget, bytes of
    packet memory at most (0: 256 MiB).
    """
    cdef pthread_mutex_t mutex
    cdef uint64_t given                # the last time poll() was given
    cdef bint real                     # poll() was called without one: the clock is CLOCK_MONOTONIC

    def __init__(self, seed=None, budget=0):
        pthread_mutex_init(&self.mutex, NULL)
        self.kind = "manual"
        self.create(seed, budget, 0)

    def __dealloc__(self):
        pthread_mutex_destroy(&self.mutex)

    cdef void lock(self) noexcept nogil:
        pthread_mutex_lock(&self.mutex)
        engine_enter(self.engine, self.now())

    cdef bint try_lock(self) noexcept nogil:
        if pthread_mutex_trylock(&self.mutex) != 0:
            return False
        engine_enter(self.engine, self.now())
        return True

    cdef void unlock(self) noexcept nogil:
        self.finish()
        pthread_mutex_unlock(&self.mutex)

    cdef uint64_t now(self) noexcept nogil:
        return clock_monotonic() if self.real else self.given

    cdef int wait(self, Waiter *waiter, uint64_t deadline) except -2:
        return -1

    def poll(self, now_ns=None):
        """Take in what waits on the links, run what is due, send what may be sent.

        Parameters: now_ns, the time in ns, of any clock that never goes back; None: CLOCK_MONOTONIC
        (time.monotonic_ns()), from then on. Returns next_deadline(). At a time before the last one nothing is due.
        """
        cdef uint64_t now = 0
        if now_ns is None:
            self.real = True
        else:
            now = index(now_ns)
        with nogil:
            pthread_mutex_lock(&self.mutex)
            if now > self.given:
                self.given = now
            engine_enter(self.engine, self.now())
            while self.pump() > 0:
                self.finish()
            self.finish()
            pthread_mutex_unlock(&self.mutex)
        self.after()
        return self.next_deadline()

    def next_deadline(self):
        """The time in ns when poll() has something to do even if no frame comes, exactly; None: never."""
        cdef uint64_t deadline
        with nogil:
            pthread_mutex_lock(&self.mutex)
            deadline = engine_next(self.engine)
            pthread_mutex_unlock(&self.mutex)
        return None if deadline == UINT64_MAX else deadline
