"""The default driver: a background thread that never holds the GIL while packets flow, and callers that take its place.

Who polls the links, and sleeps on them until the engine's earliest deadline, is one at a time (leader/follower): a
caller that has to wait in recv(), accept() or connect() does it itself if it is the only one that waits, so that a
request and its response cost no hand-over between threads; the background thread does it at all other times. While
callers poll now and then the thread stands aside: it looks once in a while whether that goes on, and takes over again
when it doesn't. A caller that finds the thread in the middle of reading claims the next turn.

Socket calls run the engine in their own thread, under the lock, and wake whoever polls only when it would sleep too
long.
Waiting threads are woken after the lock was given back: they need it first thing.
"""

import atexit
import errno
import os
import signal
import threading
import time
import weakref

from libc.errno cimport EINTR
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from ustack_ext.driver.atomic cimport atomic_add, atomic_change, atomic_get, atomic_set, atomic_swap, atomic_wake
from ustack_ext.driver.clock cimport clock_monotonic
from ustack_ext.driver.driver cimport (APPOINTED, FIRED, MAX_LINKS, WAITING, Driver, Waiter, mute, waiter_sleep)
from ustack_ext.driver.poller cimport (Poller, poller_doze, poller_free, poller_init, poller_look, poller_pending,
                                       poller_prepare, poller_read, poller_release, poller_rouse, poller_sleep,
                                       poller_spin, poller_take_in)
from ustack_ext.engine.engine cimport engine_enter, engine_wake
from ustack_ext.link.mutex cimport (pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_t,
                                    pthread_mutex_trylock, pthread_mutex_unlock)

from cpython.exc cimport PyErr_CheckSignals

cdef extern from * nogil:
    """
    #include <sched.h>
    #ifdef __linux__
    #include <sys/prctl.h>
    /* Timers of this thread end when they should, not up to 50 us later. */
    static void exact_timers(void) { prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0); }
    #else
    static void exact_timers(void) {}
    #endif
    """
    int sched_yield()
    void exact_timers()

cdef enum:
    YIELDS = 32                # chances given to threads that wait for the lock
    WAKES = 16                 # waiters woken after the lock is given back; more than that, at once
    ROUNDS = 1024              # a caller polls at most without a look at signals
    # ns: how often the thread, standing aside, looks whether callers still poll. Two of these are less than what a peer
    # waits for an acknowledgment before it probes (RFC 8985 §7).
    TICK = 1000000

cdef enum State:               # of the thread
    READING                    # reads links, or has the lock
    SLEEPING                   # sleeps on the links: who changes this reads them, be it the thread or a caller
    ASIDE                      # leaves the links to callers

cdef enum:                     # why run() returned
    STOPPED = 0
    PYTHON = 1


drivers = weakref.WeakSet()


cdef class ThreadDriver(Driver):
    """ThreadDriver(seed=None, budget=0): runs a stack in a background thread of its own.

    Parameters: seed, 32 bytes (None: from the OS); budget, bytes of packet memory at most (0: 256 MiB).
    close() stops the thread. In a child after fork() the driver is closed: the devices stay the parent's.
    """
    cdef pthread_mutex_t mutex
    cdef int waiting                   # threads that want the lock
    cdef int stop
    cdef int state                     # State
    cdef int followers                 # callers that wait while somebody else polls
    cdef bint parked                   # the thread stands aside without looking up
    cdef readonly unsigned int turns   # times a caller has polled
    cdef unsigned int turns_seen
    cdef uint64_t sleep_until          # 0 while nobody is about to sleep; under the lock
    cdef Waiter *leader                # the caller that polls
    cdef Waiter nobody                 # ... if it doesn't wait for anything
    cdef Waiter *claim                 # a caller that wants to, once the thread has read what there is
    cdef Waiter *wakes[WAKES]          # to be woken when the lock is given back
    cdef int n_wakes
    cdef Poller own                    # the thread's
    cdef Poller turn                   # the leader's
    cdef object thread

    def __init__(self, seed=None, budget=0):
        self.kind = "thread"
        pthread_mutex_init(&self.mutex, NULL)
        self.create(seed, budget, clock_monotonic())
        if poller_init(&self.own) != 0 or poller_init(&self.turn) != 0:
            raise OSError(errno.EMFILE, "cannot make an eventfd: too many open files")
        self.start()
        drivers.add(self)

    def __dealloc__(self):
        pthread_mutex_destroy(&self.mutex)
        poller_free(&self.own)
        poller_free(&self.turn)

    cdef start(self):
        self.thread = threading.Thread(target=self._main, name="ustack", daemon=True)
        # The thread inherits the mask: signals are for the threads that run the program.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    # The lock

    cdef void lock(self) noexcept nogil:
        self.take()
        engine_enter(self.engine, clock_monotonic())

    cdef bint try_lock(self) noexcept nogil:
        if pthread_mutex_trylock(&self.mutex) != 0:
            return False
        engine_enter(self.engine, clock_monotonic())
        return True

    cdef void take(self) noexcept nogil:
        if pthread_mutex_trylock(&self.mutex) != 0:
            atomic_add(&self.waiting, 1)
            pthread_mutex_lock(&self.mutex)
            atomic_add(&self.waiting, -1)

    cdef void unlock(self) noexcept nogil:
        cdef uint64_t deadline
        self.finish()
        if self.sleep_until:
            deadline = engine_wake(self.engine)
            if deadline < self.sleep_until:
                self.sleep_until = 0
                self.kick()
        self.give()

    cdef void give(self) noexcept nogil:
        """Gives the lock back, and wakes those who have something to do. A waiter may have gone on by then, even be in
        use anew: it looks at `fired` whenever it is woken.
        """
        cdef Waiter *woken[WAKES]
        cdef int i, n = self.n_wakes
        for i in range(n):
            woken[i] = self.wakes[i]
        self.n_wakes = 0
        pthread_mutex_unlock(&self.mutex)
        for i in range(n):
            if atomic_get(&woken[i].sleeping):
                atomic_wake(&woken[i].fired)

    cdef void kick(self) noexcept nogil:
        """Whoever polls looks again."""
        poller_rouse(&self.turn)
        if atomic_get(&self.state) != ASIDE:
            poller_rouse(&self.own)

    cdef void summon(self) noexcept nogil:
        """The thread comes back to the links, or notices that it has to stand aside."""
        poller_rouse(&self.own)

    # Waiting

    cdef void fire(self, Waiter *w) noexcept nogil:
        cdef bint asleep = w.fired == WAITING
        atomic_set(&w.fired, FIRED)
        if w == self.leader:
            poller_rouse(&self.turn)
        elif asleep:
            self.wake(w)

    cdef void wake(self, Waiter *w) noexcept nogil:
        if self.n_wakes < WAKES:
            self.wakes[self.n_wakes] = w
            self.n_wakes += 1
        else:
            atomic_wake(&w.fired)

    cdef int wait(self, Waiter *waiter, uint64_t deadline) except -2:
        cdef int got
        if self.thread is None:
            raise OSError(errno.EBADF, "this stack belongs to the parent process: a child of fork() makes its own")
        self.after()
        while True:
            with nogil:
                got = self.wait_once(waiter, deadline)
            if got >= 0:
                return got
            self.after()
            PyErr_CheckSignals()

    cdef int wait_once(self, Waiter *w, uint64_t deadline) noexcept nogil:
        """1: fired, 0: the deadline came, -EINTR: the caller has something else to look at first."""
        cdef bint claims = False
        cdef int got
        self.take()
        if w.fired == FIRED:
            self.give()
            return 1
        if self.leader == NULL and self.claim == NULL and self.followers == 0 and not self.stop:
            if self.take_over():
                return self.lead(w, deadline)
            self.claim = w
            claims = True
            if self.busy_poll:
                self.kick()                                  # the thread may go on looking for long
        atomic_add(&self.followers, 1)
        self.give()
        got = waiter_sleep(w, deadline)
        if claims:
            self.take()
            atomic_add(&self.followers, -1)
            if self.claim == w:
                self.claim = NULL
            if self.leader == w:
                if w.fired == APPOINTED:
                    w.fired = WAITING
                return self.lead(w, deadline)
            self.give()
        else:
            atomic_add(&self.followers, -1)
        return 1 if atomic_get(&w.fired) == FIRED else got

    cdef bint take_over(self) noexcept nogil:
        """The links are the caller's, unless the thread is reading: what it reads goes in first, or frames would
        overtake one another.
        """
        if atomic_change(&self.state, SLEEPING, ASIDE):
            self.summon()
        return self.state == ASIDE

    cdef int lead(self, Waiter *w, uint64_t deadline) noexcept nogil:
        """Poll in the place of the thread, as wait_once. The lock is held at the beginning and not at the end."""
        cdef int rounds = 0, got = 1
        cdef bint more = self.turn.keen, heard = True
        self.leader = w
        atomic_set(&self.turn.look, 0)
        poller_look(&self.turn, False)
        while w.fired != FIRED:
            heard = self.round(&more, deadline, max(w.spin_us, self.busy_read))
            rounds += 1
            if w.fired == FIRED:
                break
            if self.engine.core.now >= deadline:
                got = 0
                break
            if not heard or self.stop or rounds == ROUNDS or atomic_get(self.due):
                got = -EINTR
                break
        self.step_down()
        return got

    cdef bint round(self, bint *more, uint64_t until, uint32_t spin_us) noexcept nogil:
        """A caller's turn at the links; see read(). *more: there may be more. The lock is held before and after."""
        cdef Poller *p = &self.turn
        cdef uint64_t wake
        cdef bint heard
        poller_prepare(p, self, True)
        wake = engine_wake(self.engine)
        self.sleep_until = 0 if more[0] else wake
        p.busy = 1
        self.give()
        heard = self.read(p, more[0], min(wake, until), spin_us)
        self.take()
        p.busy = 0
        p.rounds += 1
        self.sleep_until = 0
        engine_enter(self.engine, clock_monotonic())
        more[0] = poller_take_in(p, self)
        self.finish()
        return heard

    cdef void step_down(self) noexcept nogil:
        """The leader leaves. The lock is held before and not after."""
        poller_release(&self.turn, self)
        self.leader = NULL
        self.turns += 1
        if self.parked or atomic_get(&self.followers):
            self.summon()
        self.give()

    cdef void glance(self) noexcept nogil:
        """One look at the links without waiting, if nobody else polls. A caller that sends much and never waits takes
        in the acknowledgments itself: what they free is used again while it is in the cache.
        """
        cdef bint more = True
        self.take()
        if self.leader != NULL or self.claim != NULL or atomic_get(&self.followers) or self.stop:
            self.give()
        elif self.state != ASIDE:
            self.turns += 1                                  # the thread makes room for the next look
            if self.state == SLEEPING:
                self.kick()
            self.give()
        else:
            self.leader = &self.nobody
            poller_look(&self.turn, True)
            self.round(&more, 0, 0)
            self.step_down()

    cdef bint read(self, Poller *p, bint more, uint64_t until, uint32_t spin_us) noexcept nogil:
        """Without the lock: a batch from each link that has something, after sleeping until one has. False: a signal
        came.
        """
        cdef bint heard = True
        if not more and not poller_pending(p):
            if spin_us and poller_spin(p, until, spin_us):
                if atomic_swap(&p.look, 0):                  # or no later round would ever sleep
                    poller_look(p, False)
                return True
            heard = poller_sleep(p, until)
        else:
            self.give_way()
        if p == &self.turn or self.state == READING or atomic_change(&self.state, SLEEPING, READING):
            if atomic_swap(&p.look, 0):
                poller_look(p, False)
            poller_read(p)
        return heard

    # The thread

    def _main(self):
        cdef int why
        exact_timers()
        while True:
            with nogil:
                why = self.run()
            if why == STOPPED:
                break
            try:
                self.deliver()
            except BaseException as error:
                threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, self.thread)))

    cdef int run(self) noexcept nogil:
        """Reads links and runs the engine until it must stop or Python has frames to take."""
        cdef Poller *p = &self.own
        cdef bint more
        cdef uint64_t deadline
        while True:
            self.take()
            p.busy = 0
            p.rounds += 1
            if self.leader == NULL:
                self.sleep_until = 0
            if self.state != ASIDE:
                engine_enter(self.engine, clock_monotonic())
                more = poller_take_in(p, self)
                self.finish()
            else:
                more = True
            if self.stop or atomic_get(self.due):
                poller_release(p, self)
                self.give()
                return STOPPED if self.stop else PYTHON
            if self.stands_aside():
                poller_release(p, self)
                if more and self.state != ASIDE:
                    self.kick()                              # for what this thread was woken for, but leaves unread
                atomic_set(&self.state, ASIDE)
                self.give()
                poller_doze(p, UINT64_MAX if self.parked else TICK)
                continue
            if self.state == ASIDE:
                poller_look(p, False)
                more = False
            poller_prepare(p, self, more)
            deadline = engine_wake(self.engine)
            atomic_set(&self.state, READING if more or self.busy_poll else SLEEPING)
            self.sleep_until = 0 if more else deadline
            p.busy = 1
            self.give()
            self.read(p, more, deadline, self.busy_poll)

    cdef bint stands_aside(self) noexcept nogil:
        """Whether callers poll; the first that claimed to does from now on."""
        cdef bint same
        if self.claim != NULL and self.leader == NULL and self.claim.fired == WAITING and self.followers == 1:
            self.leader = self.claim
            atomic_set(&self.claim.fired, APPOINTED)
            self.wake(self.claim)
        self.claim = NULL
        same = self.turns == self.turns_seen
        self.turns_seen = self.turns
        self.parked = False
        if self.leader == NULL and (same or atomic_get(&self.followers)):
            return False
        self.parked = self.leader != NULL and same and self.state == ASIDE
        return True

    cdef void give_way(self) noexcept nogil:
        """A mutex is not fair: who waits for it gets it before this thread asks again."""
        cdef int _
        for _ in range(YIELDS):
            if atomic_get(&self.waiting) == 0:
                return
            sched_yield()

    # Control

    cdef void quiesce(self) noexcept:
        """Returns when nobody reads by what the links were: not the thread, not a caller in its place, who may still
        be at it when the thread has gone.
        """
        if self.thread is None:
            return
        if threading.current_thread() is not self.thread:
            self.outlast(&self.own)
        self.outlast(&self.turn)

    cdef void outlast(self, Poller *p) noexcept:
        cdef unsigned int seen = p.rounds
        poller_rouse(p)
        while p.busy and p.rounds == seen and (p == &self.turn or self.thread.is_alive()):
            time.sleep(0.0001)
            poller_rouse(p)

    cpdef close(self):
        """Stop the thread and detach every link. Returns when the thread is gone. Can be called again."""
        if self.closed:
            return
        self.closed = True
        drivers.discard(self)
        with nogil:
            self.take()
            self.stop = 1
            self.kick()
            self.summon()
            self.give()
        inside = threading.current_thread() is self.thread
        if not inside:
            self.thread.join()
        for link in list(self.links):
            self.detach_link(link)
        with nogil:
            self.run_out()
        self.deliver()
        if not inside:
            poller_free(&self.own)         # nobody is left to be woken
            with nogil:
                self.take()
                if self.leader == NULL:
                    poller_free(&self.turn)
                self.give()

    cdef bint hold(self):
        """For fork(): the lock, without ever waiting for the GIL with it."""
        if pthread_mutex_trylock(&self.mutex) != 0:
            return False
        # A link's own lock must not be taken in the child either. Reading never blocks, and needs neither lock nor GIL.
        while atomic_get(&self.own.reading) or atomic_get(&self.turn.reading):
            sched_yield()
        return True

    cdef void let_go(self, bint child) noexcept:
        cdef int i
        if not child:
            pthread_mutex_unlock(&self.mutex)
            return
        # The thread does not exist here, and the devices are the parent's.
        pthread_mutex_init(&self.mutex, NULL)
        self.waiting = 0
        self.own.busy = 0
        self.turn.busy = 0
        self.leader = NULL
        self.claim = NULL
        self.n_wakes = 0
        self.sleep_until = 0
        self.closed = True
        self.thread = None
        for i in range(MAX_LINKS):
            if self.slots[i].iface != NULL:
                mute(self.slots[i].iface)


held = []


def before_fork():
    cdef ThreadDriver d
    for d in list(drivers):
        while not d.hold():
            time.sleep(0.0001)
        held.append(d)


def after_fork(child):
    cdef ThreadDriver d
    for d in held:
        d.let_go(child)
    held.clear()
    if child:
        drivers.clear()


def close_all():
    """At exit: threads that are still in the engine would otherwise outlive the interpreter."""
    for d in list(drivers):
        d.close()


os.register_at_fork(before=before_fork, after_in_parent=lambda: after_fork(False),
                    after_in_child=lambda: after_fork(True))
atexit.register(close_all)
