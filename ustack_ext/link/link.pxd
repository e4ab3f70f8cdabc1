# What a link is to a driver: a C struct with functions, so that the engine's side needs no Python; owned by a Python
# Link object.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from ustack_ext.base.buf cimport Buf
from ustack_ext.base.iov cimport IoVec, Offload
from ustack_ext.net.state cimport Iface, transmit_fn

cdef enum:
    LINK_BATCH = 64
    FRAME_MIN_ROOM = 18        # bytes of link header at most: Ethernet and one VLAN tag

cdef struct RxFrame:
    Buf *buf                   # bytes at data[off : off + len]
    Offload off

# Reads up to `max` waiting frames. Each frames[i].buf is an empty buffer that the caller owns, with data[off : cap] to
# be filled; the link sets len and frames[i].off. So a driver may hold no lock meanwhile. Returns the count (0: none
# now), or -errno (device gone). Never blocks.
ctypedef int (*receive_fn)(void *state, RxFrame *frames, int max) noexcept nogil

cdef struct LinkOps:
    transmit_fn transmit
    receive_fn receive         # NULL: frames are handed in by the embedder
    void *state
    int fd                     # what to wait on for reading, or -1: the link calls home.wake when there is something
    uint8_t calls              # it does both: home.wake for what fd does not show

# Where a link is attached: what it may ask of its driver, without knowing what a driver is. All of it is valid while
# attached.
ctypedef void (*home_fn)(void *driver) noexcept nogil
ctypedef int (*inject_fn)(void *driver, Iface *iface, const uint8_t *frame, uint32_t length,
                          const Offload *off) noexcept nogil
ctypedef void (*forget_fn)(void *driver, Iface *iface) noexcept nogil

cdef struct Home:
    void *driver               # NULL: not attached
    Iface *iface
    int *python_due            # transmit sets it (the lock is held): some link has frames for a Python callback
    home_fn lock
    home_fn unlock
    # a frame for the engine, copied; between lock and unlock; off may be NULL. 0, or -ENOBUFS: it was not taken
    inject_fn inject
    home_fn wake               # there is something to receive: from any thread, under any lock; never enters an engine
    forget_fn forget           # the link is going away without having been detached

cdef class Link:
    """Base of every link. Subclasses fill in `ops` and these; a link is attached to at most one stack at a time."""
    cdef LinkOps ops
    cdef Home home
    cdef object driver_ref             # weak reference to the driver while attached, else None
    cdef public str name
    cdef readonly int mtu              # bytes of IP
    cdef int receive_max               # bytes of IP in a frame it hands over, where that may be more than the MTU
    cdef readonly str medium           # "ethernet" or "ip"
    cdef readonly bytes mac            # of the stack's side; 6 bytes, ethernet only (else None)
    cdef readonly bint closed
    cdef uint32_t offload_flags        # OFF_* it can do on transmit
    cdef uint32_t gso_max              # bytes of IP in a superframe it takes; 0: those a length field can say
    cdef int bind(self) except -1              # self.home was filled in; lock not held
    cdef void unbind(self) noexcept            # self.home is about to be cleared; lock not held
    cpdef close(self)
    cdef bint pending_python(self) noexcept    # has frames for a Python callback (Callback links)
    # hands them over; called by drivers and socket calls with the GIL held and no lock
    cpdef deliver(self)


cdef bytes check_mac(object mac)                # 6 bytes, unicast; None: a random locally administered one
cdef int check_mtu(object mtu) except -1
