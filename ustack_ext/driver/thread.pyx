"""The default driver: a background thread that never holds the GIL while packets flow.

The thread sleeps in ppoll() on the links' descriptors until the engine's earliest deadline. It reads frames without the
lock, into buffers it took under the lock, so that a socket call waits for the engine's work only, not for system calls.
Socket calls run the engine in their own thread, under the lock, and wake this one only when it would sleep too long.
"""

import atexit
import errno
import os
import signal
import threading
import time
import weakref

from libc.stdint cimport UINT64_MAX, uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from posix cimport unistd
from ustack_ext.base.buf cimport BUF_LARGE, Buf, BufPool, buf_class_cap, buf_unref
from ustack_ext.driver.atomic cimport atomic_add, atomic_get, atomic_set, atomic_swap
from ustack_ext.driver.clock cimport clock_monotonic
from ustack_ext.driver.driver cimport MAX_LINKS, Driver, Slot, Waiter, mute, receive_buffer
from ustack_ext.engine.engine cimport engine_enter, engine_input, engine_wake
from ustack_ext.link.link cimport LINK_BATCH, RxFrame, receive_fn
from ustack_ext.link.mutex cimport (pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_t,
                                    pthread_mutex_trylock, pthread_mutex_unlock)
from ustack_ext.link.wakefd cimport wakefd_clear, wakefd_open, wakefd_set

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <poll.h>
    #include <sched.h>
    #include <stdint.h>
    #include <time.h>
    #ifdef __linux__
    #include <sys/prctl.h>
    /* Timers of this thread end when they should, not up to 50 us later. */
    static void exact_timers(void) { prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0); }
    /* timeout in ns, UINT64_MAX: none */
    static int poll_ns(struct pollfd *fds, int n, uint64_t timeout) {
        struct timespec t = {(time_t)(timeout / 1000000000u), (long)(timeout % 1000000000u)};
        return ppoll(fds, (nfds_t)n, timeout == UINT64_MAX ? NULL : &t, NULL);
    }
    #else
    static void exact_timers(void) {}
    static int poll_ns(struct pollfd *fds, int n, uint64_t timeout) {
        uint64_t ms = timeout / 1000000u + (timeout % 1000000u != 0);
        return poll(fds, (nfds_t)n, timeout == UINT64_MAX ? -1 : ms > 3600000 ? 3600000 : (int)ms);
    }
    #endif
    """
    struct pollfd:
        int fd
        short events
        short revents
    enum: POLLIN, POLLERR, POLLHUP, POLLNVAL
    int sched_yield()
    void exact_timers()
    int poll_ns(pollfd *fds, int n, uint64_t timeout)

cdef enum:
    BATCH_FIRST = 4            # buffers taken for a link that was quiet; doubled while it fills them, up to LINK_BATCH
    YIELDS = 32                # chances given to threads that wait for the lock
    STOPPED = 0
    PYTHON = 1

cdef struct Rx:                # what one link's reading needs outside the lock
    RxFrame frames[LINK_BATCH]
    int have                   # buffers ready in frames
    int got                    # frames read into them, or -errno
    int want
    int slot
    receive_fn receive
    void *state


drivers = weakref.WeakSet()


cdef class ThreadDriver(Driver):
    """ThreadDriver(seed=None, budget=0): runs a stack in a background thread of its own.

    Parameters: seed, 32 bytes (None: from the OS); budget, bytes of packet memory at most (0: 256 MiB).
    close() stops the thread. In a child after fork() the driver is closed: the devices stay the parent's.
    """
    cdef pthread_mutex_t mutex
    cdef int waiting                   # threads that want the lock
    cdef int stop
    cdef int busy                      # the thread is reading or asleep, outside the lock (set and cleared under it)
    cdef int reading                   # the thread is in a link's receive function
    cdef int asleep
    cdef int woken                     # somebody wants the thread to look again
    cdef int wakefd
    cdef unsigned int rounds           # times the thread took the lock
    cdef uint64_t sleep_until          # 0 while it is not about to sleep; under the lock
    cdef Rx *rx
    cdef int n_rx
    cdef pollfd fds[17]
    cdef int n_fds
    cdef Buf scratch                   # frames are read into it, and dropped, when there is no memory at all
    cdef object thread

    def __init__(self, seed=None, budget=0):
        self.kind = "thread"
        self.wakefd = -1
        pthread_mutex_init(&self.mutex, NULL)
        self.create(seed, budget, clock_monotonic())
        self.rx = <Rx *>calloc(MAX_LINKS, sizeof(Rx))
        self.scratch.cap = buf_class_cap(BUF_LARGE)
        self.scratch.data = <uint8_t *>malloc(self.scratch.cap)
        if self.rx == NULL or self.scratch.data == NULL:
            raise MemoryError("no memory for a driver")
        self.wakefd = wakefd_open()
        if self.wakefd < 0:
            raise OSError(errno.EMFILE, "cannot make an eventfd: too many open files")
        self.start()
        drivers.add(self)

    def __dealloc__(self):
        pthread_mutex_destroy(&self.mutex)
        if self.wakefd >= 0:
            unistd.close(self.wakefd)
        free(self.rx)
        free(self.scratch.data)

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

    cdef void take(self) noexcept nogil:
        if pthread_mutex_trylock(&self.mutex) != 0:
            atomic_add(&self.waiting, 1)
            pthread_mutex_lock(&self.mutex)
            atomic_add(&self.waiting, -1)

    cdef void unlock(self) noexcept nogil:
        cdef uint64_t deadline
        self.finish()
        deadline = engine_wake(self.engine)
        if deadline < self.sleep_until:
            self.sleep_until = 0
            self.kick()
        pthread_mutex_unlock(&self.mutex)

    cdef void kick(self) noexcept nogil:
        atomic_set(&self.woken, 1)
        if atomic_swap(&self.asleep, 0):
            wakefd_set(self.wakefd)

    cdef int wait(self, Waiter *waiter, uint64_t deadline) except -2:
        if self.thread is None:
            raise OSError(errno.EBADF, "this stack belongs to the parent process: a child of fork() makes its own")
        return Driver.wait(self, waiter, deadline)

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
        cdef bint more
        cdef uint64_t deadline
        while True:
            self.take()
            self.busy = 0
            self.rounds += 1
            self.sleep_until = 0
            engine_enter(self.engine, clock_monotonic())
            more = self.take_in()
            self.finish()
            if self.stop or atomic_get(self.due):
                self.release_buffers()
                pthread_mutex_unlock(&self.mutex)
                return STOPPED if self.stop else PYTHON
            deadline = engine_wake(self.engine)
            self.snapshot()
            if more:
                self.fill_buffers()
            else:
                self.release_buffers()
                self.sleep_until = deadline
            self.busy = 1
            self.reading = more
            pthread_mutex_unlock(&self.mutex)
            self.give_way()
            if more:
                self.read_links()
                atomic_set(&self.reading, 0)
            else:
                self.doze(deadline)

    cdef void give_way(self) noexcept nogil:
        """A mutex is not fair: who waits for it gets it before this thread asks again."""
        cdef int _
        for _ in range(YIELDS):
            if atomic_get(&self.waiting) == 0:
                return
            sched_yield()

    cdef void snapshot(self) noexcept nogil:
        """Copies of what is read and polled outside the lock.

        Buffers ready for a link that went are taken back first.
        """
        cdef Slot *slot
        cdef int i, n = 0
        self.fds[0].fd = self.wakefd
        self.fds[0].events = POLLIN
        self.n_fds = 1
        for i in range(MAX_LINKS):
            slot = &self.slots[i]
            if slot.iface == NULL or slot.ops.receive == NULL or slot.gone:
                continue
            self.rx[n].slot = i
            self.rx[n].receive = slot.ops.receive
            self.rx[n].state = slot.ops.state
            if self.rx[n].want == 0:
                self.rx[n].want = BATCH_FIRST
            n += 1
            if slot.ops.fd >= 0:
                self.fds[self.n_fds].fd = slot.ops.fd
                self.fds[self.n_fds].events = POLLIN
                self.n_fds += 1
        self.n_rx = n

    cdef bint take_in(self) noexcept nogil:
        """Frames read since the last round go to the engine. Whether any link had some, or was not looked at yet."""
        cdef BufPool *pool = &self.engine.core.pool
        cdef bint more = atomic_swap(&self.woken, 0)
        cdef Rx *rx
        cdef Slot *slot
        cdef int i, j
        for i in range(self.n_rx):
            rx = &self.rx[i]
            slot = &self.slots[rx.slot]
            for j in range(rx.have):
                if j < rx.got and slot.iface != NULL:
                    engine_input(self.engine, slot.iface, rx.frames[j].buf, &rx.frames[j].off)
                else:
                    buf_unref(pool, rx.frames[j].buf)
            if rx.got > 0:
                more = True
                if rx.have == 0 and slot.iface != NULL:
                    slot.iface.rx_dropped += 1
                if rx.got == rx.want and rx.want < LINK_BATCH:
                    rx.want *= 2
            elif rx.got < 0 and slot.iface != NULL and slot.ops.state == rx.state:
                self.mark_gone(rx.slot)
            rx.have = 0
            rx.got = 0
        return more

    cdef void fill_buffers(self) noexcept nogil:
        cdef BufPool *pool = &self.engine.core.pool
        cdef Rx *rx
        cdef Buf *b
        cdef int i
        for i in range(self.n_rx):
            rx = &self.rx[i]
            while rx.have < rx.want:
                b = receive_buffer(pool, self.slots[rx.slot].need)
                if b == NULL:
                    break
                rx.frames[rx.have].buf = b
                rx.have += 1

    cdef void release_buffers(self) noexcept nogil:
        cdef int i, j
        for i in range(self.n_rx):
            for j in range(self.rx[i].have):
                buf_unref(&self.engine.core.pool, self.rx[i].frames[j].buf)
            self.rx[i].have = 0
            self.rx[i].got = 0
            self.rx[i].want = BATCH_FIRST

    cdef void read_links(self) noexcept nogil:
        """Without the lock: one batch from each link."""
        cdef RxFrame dropped
        cdef Rx *rx
        cdef int i
        for i in range(self.n_rx):
            rx = &self.rx[i]
            if rx.have > 0:
                rx.got = rx.receive(rx.state, rx.frames, rx.have)
            else:
                self.scratch.off = 0
                dropped.buf = &self.scratch
                rx.got = rx.receive(rx.state, &dropped, 1)

    cdef void doze(self, uint64_t deadline) noexcept nogil:
        """Without the lock: sleep until a link has a frame, the deadline comes, or somebody kicks."""
        cdef uint64_t now, timeout = UINT64_MAX
        cdef int i
        if deadline != UINT64_MAX:
            now = clock_monotonic()
            timeout = deadline - now if deadline > now else 0
        atomic_set(&self.asleep, 1)
        # kick() sets woken, then looks at asleep; here it is the other way round, so one of the two sees the other.
        if atomic_get(&self.woken):
            atomic_set(&self.asleep, 0)
            return
        for i in range(self.n_fds):
            self.fds[i].revents = 0
        poll_ns(self.fds, self.n_fds, timeout)
        atomic_set(&self.asleep, 0)
        if self.fds[0].revents:
            wakefd_clear(self.wakefd)
        for i in range(1, self.n_fds):
            if self.fds[i].revents:
                atomic_set(&self.woken, 1)
            if self.fds[i].revents & (POLLERR | POLLHUP | POLLNVAL):
                self.note_error(self.fds[i].fd)

    cdef void note_error(self, int fd) noexcept nogil:
        """A device that poll() reports broken but that reads as empty would be polled for ever."""
        cdef int i
        for i in range(self.n_rx):
            if self.slots[self.rx[i].slot].ops.fd == fd:
                self.rx[i].got = -1

    # Control

    cdef void quiesce(self) noexcept:
        cdef unsigned int seen = self.rounds
        if self.thread is None or threading.current_thread() is self.thread:
            return
        self.kick()
        while self.busy and self.rounds == seen and self.thread.is_alive():
            time.sleep(0.0001)
            self.kick()

    cpdef close(self):
        """Stop the thread and detach every link. Returns when the thread is gone. Can be called again."""
        if self.closed:
            return
        self.closed = True
        drivers.discard(self)
        with nogil:
            self.take()
            self.stop = 1
            pthread_mutex_unlock(&self.mutex)
            self.kick()
        inside = threading.current_thread() is self.thread
        if not inside:
            self.thread.join()
        for link in list(self.links):
            self.detach_link(link)
        with nogil:
            self.run_out()
        if not inside:
            # Nobody is left to be woken, and nobody who would: the thread is gone, and the links are detached.
            unistd.close(self.wakefd)
            self.wakefd = -1

    cdef bint hold(self):
        """For fork(): the lock, without ever waiting for the GIL with it."""
        if pthread_mutex_trylock(&self.mutex) != 0:
            return False
        # A link's own lock must not be taken in the child either. Reading never blocks, and needs neither lock nor GIL.
        while atomic_get(&self.reading):
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
        self.busy = 0
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
