# Who runs an engine: holds its lock, knows the clock, reads the links, delivers events, and makes callers wait.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from ustack_ext.base.buf cimport Buf, BufPool
from ustack_ext.base.event cimport Source
from ustack_ext.engine.engine cimport Engine
from ustack_ext.link.link cimport Link, LinkOps, RxFrame
from ustack_ext.net.state cimport Iface

cdef enum:
    MAX_LINKS = 16                 # = MAX_IFACES

# The socket layer's callback for one event source, called with the lock held, after the engine is through. bits: EV_*.
ctypedef void (*event_sink)(Source *source, uint16_t bits) noexcept nogil

ctypedef bint (*host_fn)(void *host) noexcept nogil

cdef struct Native:                # what Source.user of a source with `native` set begins with
    event_sink event

cdef struct Waiter

cdef struct Slot:                  # an attached link
    LinkOps ops
    Iface *iface                   # NULL: the slot is free
    void *link                     # the Link object, borrowed from Driver.links
    uint32_t need                  # bytes a receive buffer must have
    uint8_t gone                   # the device is gone: not read any more

cdef class Driver:
    """Base: owns the Engine.

    Every use of the engine is between lock() and unlock(), both without the GIL: nobody waits for the GIL with the lock
    held.
    """
    cdef Engine *engine
    cdef event_sink sink
    cdef event_sink native_sink        # native_event once there are sources with `native`; it may leave more to send
    cdef readonly str kind             # "thread", "manual", "virtual"
    cdef list links                    # attached Link objects
    cdef Slot slots[16]
    cdef int python_due                # a link has frames for a Python callback
    cdef int *due                      # where links say so: &python_due, or the world's
    cdef uint32_t generation           # changes with the slots
    cdef int ready                     # buffers that wait for frames: nothing lives in them
    # us that the background thread (net.core.busy_poll), and a waiting caller whose socket says no more
    # (net.core.busy_read), look for frames before they sleep
    cdef uint32_t busy_poll
    cdef uint32_t busy_read
    # Sockets of the host that a relay serves: -1, or a descriptor that is readable when they have something, and what
    # is then called, with the lock held: whether there may be more at once
    cdef int host_fd
    cdef host_fn host_ready
    cdef void *host
    cdef list dispatchers              # called by deliver(): forwarders that may have requests
    cdef public object on_ready        # called by deliver() when a selector without a descriptor may have something
    cdef readonly bint closed
    cdef object __weakref__
    # Takes the lock and enters the engine at the present time.
    cdef void lock(self) noexcept nogil
    # engine_poll, events to the sink, then releases the lock, and wakes the background thread if its deadline became
    # too late.
    cdef void unlock(self) noexcept nogil
    # lock(), if nobody has it just now.
    cdef bint try_lock(self) noexcept nogil
    cdef uint64_t now(self) noexcept nogil                         # ns, monotonic (virtual time for a simulated one)
    cdef Iface *attach_link(self, Link link, bytes name) except NULL
    cpdef detach_link(self, Link link)
    # After a socket call, with the GIL and without the lock: hands pending frames to Callback links.
    cdef after(self)
    # Waits (GIL held on entry and exit, released inside; lock not held) until waiter.fired, or the deadline (ns of
    # now(); UINT64_MAX: never), or a signal.
    # Returns 1: fired, 0: timed out; raises what a Python signal handler raises (KeyboardInterrupt);
    # a driver that can't wait (manual) returns -1: the caller raises BlockingIOError.
    cdef int wait(self, Waiter *waiter, uint64_t deadline) except -2
    # Ends a wait. Lock held.
    cdef void fire(self, Waiter *waiter) noexcept nogil
    # After a call that sent much and may send more at once: takes in what has come meanwhile. Lock not held.
    cdef void glance(self) noexcept nogil
    # Wakes the background thread (if any) so that it looks at links and deadlines anew. Any thread, under any lock.
    cdef void kick(self) noexcept nogil
    cpdef close(self)
    cpdef deliver(self)
    cdef hand_back(self)                                           # GIL held, lock not
    # For the drivers:
    cdef settle(self, Link link, Iface *iface)
    cdef int create(self, object seed, object budget, uint64_t now) except -1
    cdef void finish(self) noexcept nogil                          # lock held: engine_poll, events to the sinks
    cdef void tell_captures(self) noexcept nogil
    # lock held: events to the sinks; whether the native one got any
    cdef bint hand_out(self) noexcept nogil
    # lock held: takes in what waits on the links; frames taken
    cdef int pump(self) noexcept nogil
    cdef void run_out(self) noexcept nogil                         # lock not held: close(), after the links are gone
    cdef void mark_gone(self, int slot) noexcept nogil             # lock held: the slot's device is gone
    # lock not held: nobody uses a detached link's functions any more
    cdef void quiesce(self) noexcept

cdef void native_event(Source *source, uint16_t bits) noexcept nogil
# A buffer for a frame to be received; may go somewhat beyond the budget: acknowledgements have to come in to free
# memory. NULL: none at all.
cdef Buf *receive_buffer(BufPool *pool, uint32_t need) noexcept nogil
# before the first of a batch of frames, of at most LINK_BATCH, is given to the engine
cdef void look_ahead(Engine *e, const Iface *iface, const RxFrame *frames, int n) noexcept nogil
cdef void mute(Iface *iface) noexcept nogil                        # frames for it go nowhere from now on

# What one waiting thread waits on.
cdef struct Waiter:
    int fired                          # FIRED: set under the lock; slept on
    int sleeping                       # somebody sleeps on it (private to driver/)
    uint16_t want                      # EV_* bits that fire it
    uint32_t spin_us                   # SO_BUSY_POLL: how long to look for frames before sleeping
    void *driver                       # the Driver that it waits with
    Waiter *next                       # the socket's list of waiters, or the free list

cdef enum:                         # Waiter.fired
    WAITING = 0
    FIRED = 1
    APPOINTED = 2                      # nothing has happened yet, but its thread shall poll (private to driver/)

cdef Waiter *waiter_get(Driver driver) except NULL     # GIL held
cdef void waiter_put(Waiter *w) noexcept           # GIL held; resets it
cdef void waiter_fire(Waiter *w) noexcept nogil    # lock held
# Until `fired` is not WAITING, or CLOCK_MONOTONIC ns. 1: so it is, 0: timed out, -EINTR
cdef int waiter_sleep(Waiter *w, uint64_t deadline) noexcept nogil
cdef int waiter_epoch() noexcept nogil             # changes with every waiter_fire
