# Reading a stack's links and sleeping until there is something to read: what the background thread and a caller that
# took over from it have in common. A Poller belongs to one thread at a time.
from libc.stdint cimport uint32_t, uint64_t
from ustack_ext.base.buf cimport Buf
from ustack_ext.driver.driver cimport Driver
from ustack_ext.driver.waitset cimport waitset
from ustack_ext.link.link cimport LINK_BATCH, RxFrame, receive_fn

cdef struct Rx:                # what reading one link needs outside the lock
    RxFrame frames[LINK_BATCH]
    int have                   # buffers ready in frames
    int asked                  # frames the last read was for
    int got                    # of them filled by the last read, or -errno
    int want                   # buffers to have; grows while the link fills them
    int most                   # ... up to so many: a batch should fit the cache
    int slot
    int fd_at                  # its number in the waitset, or -1
    bint calls                 # the link calls home.wake for what no descriptor shows
    int ready                  # is worth a read
    # A lone frame may have the next right behind it, where both ends of an exchange share a core: then a read at once
    # saves the wait.
    bint tried                 # the next read tries that
    int shy                    # frames until it is tried again
    int misses                 # ... after the last time it was in vain: 1, 3, 7, ... SHY_MOST
    receive_fn receive
    void *state

cdef struct Poller:
    Rx *rx
    int n_rx
    waitset set
    uint32_t generation        # of the driver's links, when rx was made for them
    int busy                   # outside the lock, using links: set and cleared under it
    int reading                # in a link's receive function
    int asleep                 # or about to be
    int look                   # somebody wants it to look again; cleared by its owner
    uint64_t last              # ns of the last round
    bint keen                  # the last round ended with frames to come, or with reason to try
    unsigned int rounds        # times it took the lock again
    Buf scratch                # frames are read into it, and dropped, when there is no memory at all

cdef int poller_init(Poller *p) noexcept nogil                     # 0, or -errno
cdef void poller_free(Poller *p) noexcept nogil
# Under the lock:
# Buffers for a read: all that are wanted, or one a link
cdef void poller_prepare(Poller *p, Driver d, bint all_wanted) noexcept nogil
cdef bint poller_take_in(Poller *p, Driver d) noexcept nogil       # what was read goes in; whether links have more
cdef void poller_release(Poller *p, Driver d) noexcept nogil       # gives all buffers back
# Not under the lock:
# Links without a descriptor (or all) may have something, and are to be read; whether there are such without.
cdef void poller_look(Poller *p, bint everywhere) noexcept nogil
cdef bint poller_pending(Poller *p) noexcept nogil
cdef int poller_read(Poller *p) noexcept nogil                     # a batch of each link that is ready; frames
# Looks for frames again and again, for spin_us or until a time. Whether it read some, or was roused.
cdef bint poller_spin(Poller *p, uint64_t until, uint32_t spin_us) noexcept nogil
# Sleeps until a link has a frame, the time comes (ns; UINT64_MAX: never), or poller_rouse. False: a signal came.
cdef bint poller_sleep(Poller *p, uint64_t until) noexcept nogil
# The same without the links, for at most so many ns
cdef void poller_doze(Poller *p, uint64_t ns) noexcept nogil
cdef void poller_rouse(Poller *p) noexcept nogil                   # any thread, under any lock
