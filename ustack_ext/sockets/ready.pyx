"""A socket's descriptor for select, poll, epoll, selectors and asyncio: one end of an AF_UNIX socketpair,
level-triggered.

Responsible for: making the pair, and for showing readable, writable and hung up on the user's end. Not for: what is
true of a socket (sockets/wait asks the engine).

    readable       the engine's end has written one byte, which stays unread
    not writable   the user's end has written until the kernel says that it is full
    hung up        the engine's end is shut down both ways, as TCP's end of both directions looks to poll(2)

An eventfd could show the first only. Edge-triggered epoll sees an edge when a state begins, so a caller that reads
until EAGAIN (or a short read), as epoll(7) asks, misses nothing.
"""
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memset
from posix.fcntl cimport F_GETFD, FD_CLOEXEC, F_GETFL, F_SETFD, F_SETFL, O_NONBLOCK, fcntl
from posix.unistd cimport close, dup2, read, write
from ustack_ext.base.event cimport EV_ERROR, EV_HANGUP, EV_READABLE, EV_WRITABLE
from ustack_ext.sockets.state cimport SockState

cdef extern from "<sys/socket.h>" nogil:
    int AF_UNIX, SOCK_STREAM, SOL_SOCKET, SO_SNDBUF, SHUT_RDWR
    int socketpair(int domain, int type, int protocol, int *fds)
    int setsockopt(int fd, int level, int name, const void *value, unsigned int length)
    int shutdown(int fd, int how)

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int POLLOUT
    int poll(pollfd *fds, unsigned long count, int timeout)

cdef enum:
    FILL_PIECE = 2048          # one such write already fills Linux's smallest send buffer


cdef int make_pair(int *fds) noexcept nogil:
    """A non-blocking, close-on-exec pair whose first end has the smallest send buffer there is. 0 or -errno."""
    cdef int smallest = 1
    cdef int i
    if socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0:
        return -errno
    for i in range(2):
        fcntl(fds[i], F_SETFD, fcntl(fds[i], F_GETFD) | FD_CLOEXEC)
        fcntl(fds[i], F_SETFL, fcntl(fds[i], F_GETFL) | O_NONBLOCK)
    setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &smallest, sizeof(smallest))
    return 0


cdef int pair_open(SockState *s) noexcept nogil:
    cdef int fds[2]
    cdef int rc = make_pair(fds)
    if rc != 0:
        return rc
    s.fd_user = fds[0]
    s.fd_engine = fds[1]
    s.fd_readable = 0
    s.fd_writable = 1
    s.fd_hangup = 0
    return 0


cdef void pair_close(SockState *s) noexcept nogil:
    if s.fd_user >= 0:
        close(s.fd_user)
        close(s.fd_engine)
    s.fd_user = -1
    s.fd_engine = -1


cdef void revive(SockState *s) noexcept nogil:
    """A hang-up can't be taken back on one pair, but a refused connect may be tried again: another pair under the
    same number.
    """
    cdef int fds[2]
    if make_pair(fds) != 0:
        return
    dup2(fds[0], s.fd_user)
    close(fds[0])
    fcntl(s.fd_user, F_SETFD, FD_CLOEXEC)
    close(s.fd_engine)
    s.fd_engine = fds[1]
    s.fd_readable = 0
    s.fd_writable = 1
    s.fd_hangup = 0


cdef void drain(int fd) noexcept nogil:
    cdef char scratch[4096]
    cdef ssize_t n
    while True:
        n = read(fd, scratch, sizeof(scratch))
        if n == 0 or (n < 0 and errno != EINTR):
            return


cdef void set_readable(SockState *s, bint readable) noexcept nogil:
    cdef char byte = 0
    if readable:
        write(s.fd_engine, &byte, 1)
    else:
        drain(s.fd_user)
    s.fd_readable = readable


cdef void set_writable(SockState *s, bint writable) noexcept nogil:
    cdef char filling[FILL_PIECE]
    cdef pollfd state
    if writable:
        drain(s.fd_engine)
    else:
        memset(filling, 0, sizeof(filling))
        state.fd = s.fd_user
        state.events = <short>POLLOUT
        # Writing until EAGAIN alone would do on Linux; asking poll is what makes it true wherever poll is.
        while poll(&state, 1, 0) == 1 and state.revents & POLLOUT:
            if write(s.fd_user, filling, sizeof(filling)) <= 0 and errno != EINTR:
                break
    s.fd_writable = writable


cdef void pair_sync(SockState *s, uint16_t bits) noexcept nogil:
    # As poll(2) has it for TCP: whatever is over or in error can be read and written without blocking.
    cdef bint over = (bits & (EV_ERROR | EV_HANGUP)) != 0
    cdef uint8_t readable = over or (bits & EV_READABLE) != 0
    cdef uint8_t writable = over or (bits & EV_WRITABLE) != 0
    cdef uint8_t hangup = (bits & EV_HANGUP) != 0
    if s.fd_user < 0:
        return
    if s.fd_hangup and not hangup:
        revive(s)
    if s.fd_hangup:
        return
    if readable != s.fd_readable:
        set_readable(s, readable)
    if writable != s.fd_writable:
        set_writable(s, writable)
    if hangup:
        shutdown(s.fd_engine, SHUT_RDWR)
        s.fd_hangup = 1
