"""A socket's descriptor for select, poll, epoll, selectors and asyncio: one end of an AF_UNIX socketpair,
level-triggered.

Responsible for: making the pair, and for showing readable, writable and hung up on the user's end. Not for: what is
true of a socket (sockets/wait asks the engine).

    readable       the engine's end has written one byte, which stays unread
    not writable   the user's end has written until the kernel says that it is full
    hung up        the engine's end is shut down both ways, as TCP's end of both directions looks to poll(2)
    urgent         the engine's end has sent a byte out of band, where the system can (Linux 5.15): POLLPRI

An eventfd could show the first only. Edge-triggered epoll sees an edge when a state begins, so a caller that reads
until EAGAIN (or a short read), as epoll(7) asks, misses nothing.
"""
from libc.errno cimport EINTR, ENOMEM, errno
from libc.stdint cimport uint8_t, uint16_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.fcntl cimport FD_CLOEXEC, F_SETFD, fcntl
from posix.unistd cimport close, dup2, read, write
from ustack_ext.base.event cimport EV_ERROR, EV_HANGUP, EV_OOB, EV_READABLE, EV_WRITABLE
from ustack_ext.sockets.interest cimport interests_drop
from ustack_ext.sockets.msg cimport MSG_OOB
from ustack_ext.sockets.state cimport SockState, Watch

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <sys/socket.h>
    /* A non-blocking, close-on-exec pair: in one call where the system can, a pair is made for each connection. */
    static int make_pair(int *fds) {
    #if defined(SOCK_NONBLOCK) && defined(SOCK_CLOEXEC)
        return socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0 ? 0 : -errno;
    #else
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0)
            return -errno;
        for (int i = 0; i < 2; i++) {
            fcntl(fds[i], F_SETFD, FD_CLOEXEC);
            fcntl(fds[i], F_SETFL, fcntl(fds[i], F_GETFL) | O_NONBLOCK);
        }
        return 0;
    #endif
    }
    """
    int make_pair(int *fds)            # 0 or -errno
    int SOL_SOCKET, SO_SNDBUF, SHUT_RDWR
    int setsockopt(int fd, int level, int name, const void *value, unsigned int length)
    int shutdown(int fd, int how)
    ssize_t send(int fd, const void *data, size_t n, int flags)
    ssize_t recv(int fd, void *data, size_t n, int flags)

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int POLLOUT
    int poll(pollfd *fds, unsigned long count, int timeout)

cdef enum:
    FILL_PIECE = 2048                  # one such write already fills Linux's smallest send buffer


cdef Watch *watch_of(SockState *s) noexcept nogil:
    cdef Watch *w = s.watch
    if w == NULL:
        w = <Watch *>malloc(sizeof(Watch))
        if w != NULL:
            memset(w, 0, sizeof(Watch))
            w.fd_user = -1
            w.fd_engine = -1
            s.watch = w
    return w


cdef void watch_close(SockState *s) noexcept nogil:
    cdef Watch *w = s.watch
    if w == NULL:
        return
    s.watch = NULL
    interests_drop(w)
    if w.fd_user >= 0:
        close(w.fd_user)
        close(w.fd_engine)
    free(w)


cdef void show_new(Watch *w, int fd_engine) noexcept nogil:
    w.fd_engine = fd_engine
    w.readable = 0
    w.writable = 1
    w.hangup = 0
    w.urgent = 0
    w.small = 0


cdef int pair_open(SockState *s) noexcept nogil:
    cdef Watch *w = watch_of(s)
    cdef int fds[2]
    cdef int rc
    if w == NULL:
        return -ENOMEM
    if w.fd_user >= 0:
        return 0
    rc = make_pair(fds)
    if rc == 0:
        w.fd_user = fds[0]
        show_new(w, fds[1])
    return rc


cdef void revive(Watch *w) noexcept nogil:
    """A hang-up can't be taken back on one pair, but a refused connect may be tried again: another pair under the
    same number.
    """
    cdef int fds[2]
    if make_pair(fds) != 0:
        return
    dup2(fds[0], w.fd_user)
    close(fds[0])
    fcntl(w.fd_user, F_SETFD, FD_CLOEXEC)
    close(w.fd_engine)
    show_new(w, fds[1])


cdef void drain(int fd) noexcept nogil:
    cdef char scratch[4096]
    cdef ssize_t n
    while True:
        n = read(fd, scratch, sizeof(scratch))
        # Short: that was all. What is written into the pair is never touched by anybody else.
        if 0 <= n < <ssize_t>sizeof(scratch) or (n < 0 and errno != EINTR):
            return


cdef void set_readable(Watch *w, bint readable) noexcept nogil:
    cdef char byte = 0
    if readable:
        write(w.fd_engine, &byte, 1)
    else:
        drain(w.fd_user)
    w.readable = readable


cdef void set_urgent(Watch *w, bint urgent) noexcept nogil:
    """As long as the byte is there poll says POLLIN, too. Taking it empties the pair; what it showed is put back."""
    cdef char byte = 0
    if urgent:
        send(w.fd_engine, &byte, 1, MSG_OOB)
    else:
        recv(w.fd_user, &byte, 1, MSG_OOB)
        while read(w.fd_user, &byte, 1) > 0:
            pass
        if w.readable:
            write(w.fd_engine, &byte, 1)
    w.urgent = urgent


cdef void fill(Watch *w) noexcept nogil:
    cdef char filling[FILL_PIECE]
    cdef pollfd state
    cdef int smallest = 1
    if not w.small:                    # only now: most sockets are never seen full
        setsockopt(w.fd_user, SOL_SOCKET, SO_SNDBUF, &smallest, sizeof(smallest))
        w.small = 1
    memset(filling, 0, sizeof(filling))
    state.fd = w.fd_user
    state.events = <short>POLLOUT
    # Writing until EAGAIN alone would do on Linux; asking poll is what makes it true wherever poll is.
    while poll(&state, 1, 0) == 1 and state.revents & POLLOUT:
        if write(w.fd_user, filling, sizeof(filling)) <= 0 and errno != EINTR:
            break


cdef void set_writable(Watch *w, bint writable) noexcept nogil:
    if writable:
        drain(w.fd_engine)
    else:
        fill(w)
    w.writable = writable


cdef void pair_sync(Watch *w, uint16_t bits) noexcept nogil:
    # As poll(2) has it for TCP: whatever is over or in error can be read and written without blocking.
    cdef bint over = (bits & (EV_ERROR | EV_HANGUP)) != 0
    cdef uint8_t readable = over or (bits & EV_READABLE) != 0
    cdef uint8_t writable = over or (bits & EV_WRITABLE) != 0
    cdef uint8_t hangup = (bits & EV_HANGUP) != 0
    cdef uint8_t urgent = (bits & EV_OOB) != 0
    if w.fd_user < 0:
        return
    if w.hangup and not hangup:
        revive(w)
    if w.hangup:
        return
    if w.urgent and (not urgent or readable != w.readable):     # its byte is the last in the pair, or a read takes it
        set_urgent(w, False)
    if readable != w.readable:
        set_readable(w, readable)
    if writable != w.writable:
        set_writable(w, writable)
    if urgent and not w.urgent:
        set_urgent(w, True)
    if hangup:
        shutdown(w.fd_engine, SHUT_RDWR)
        w.hangup = 1
