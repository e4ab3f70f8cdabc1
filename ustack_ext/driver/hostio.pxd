# The host's own sockets, never blocking, without the GIL: what a relay reads and writes, and how it hears of them.
from libc.stdint cimport uint32_t
from ustack_ext.base.iov cimport IoVec

cdef enum:                         # HostEvent.bits
    HOST_READ = 1                  # there is something, or the end of it
    HOST_WRITE = 2
    HOST_END = 4                   # the peer closed its side, or all is over: no read will be short for want of data
    HOST_EVENTS = 64               # that host_poll gives at most

cdef struct HostEvent:
    void *who
    uint32_t bits

cdef int host_open() noexcept nogil                                # a set of sockets: a descriptor, or -errno
# Adds a socket: each change of its state is one event. 0 or -errno.
cdef int host_watch(int set, int fd, void *who) noexcept nogil
cdef int host_poll(int set, HostEvent *out) noexcept nogil         # what has happened, at most HOST_EVENTS; never waits
# Bytes, or -errno: -EAGAIN for none now; of a stream 0 is its end.
cdef long host_receive(int fd, const IoVec *iov, int niov) noexcept nogil
cdef long host_send(int fd, const IoVec *iov, int niov) noexcept nogil
cdef int host_error(int fd) noexcept nogil                         # SO_ERROR: how connect() ended; 0 or an errno
cdef void host_end(int fd) noexcept nogil                          # no more will be sent: FIN
cdef void host_abort(int fd) noexcept nogil                        # RST, and the descriptor is closed
cdef void host_close(int fd) noexcept nogil
