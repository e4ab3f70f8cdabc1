"""System calls on the host's own sockets, for relays (hostio.pxd). Nothing here waits, and nothing needs the GIL.

Not here: what is relayed (service/relay), making and connecting those sockets (ustack/gateway.py).
"""
from libc.errno cimport EINTR, errno as c_errno

cdef extern from "sys/epoll.h" nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <string.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #include <unistd.h>

    static int ustack_host_watch(int set, int fd, void *who) {
        struct epoll_event e;
        memset(&e, 0, sizeof e);
        e.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
        e.data.ptr = who;
        return epoll_ctl(set, EPOLL_CTL_ADD, fd, &e) == 0 ? 0 : -errno;
    }
    static long ustack_host_message(int fd, const void *iov, int niov, int out) {
        struct msghdr m;
        memset(&m, 0, sizeof m);
        m.msg_iov = (struct iovec *)iov;
        m.msg_iovlen = (size_t)niov;
        return out ? sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) : recvmsg(fd, &m, MSG_DONTWAIT);
    }
    static int ustack_host_error(int fd) {
        int error = 0;
        socklen_t size = sizeof error;
        return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
    }
    static void ustack_host_abort(int fd) {
        struct linger now = {1, 0};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        close(fd);
    }
    """
    ctypedef union epoll_data_t:
        void *ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_wait(int set, epoll_event *events, int most, int timeout)
    enum:
        EPOLL_CLOEXEC
        EPOLLIN
        EPOLLOUT
        EPOLLRDHUP
        EPOLLERR
        EPOLLHUP
        SHUT_WR
    int shutdown(int fd, int how)
    int close(int fd)
    int ustack_host_watch(int set, int fd, void *who)
    long ustack_host_message(int fd, const IoVec *iov, int niov, int out)
    int ustack_host_error(int fd)
    void ustack_host_abort(int fd)


cdef int host_open() noexcept nogil:
    cdef int fd = epoll_create1(EPOLL_CLOEXEC)
    return fd if fd >= 0 else -c_errno


cdef int host_watch(int set, int fd, void *who) noexcept nogil:
    return ustack_host_watch(set, fd, who)


cdef int host_poll(int set, HostEvent *out) noexcept nogil:
    cdef epoll_event found[HOST_EVENTS]
    cdef int i, n = epoll_wait(set, found, HOST_EVENTS, 0)
    for i in range(n):
        out[i].who = found[i].data.ptr
        out[i].bits = 0
        if found[i].events & <uint32_t>(EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            out[i].bits |= HOST_READ
        if found[i].events & <uint32_t>(EPOLLOUT | EPOLLHUP | EPOLLERR):
            out[i].bits |= HOST_WRITE
        if found[i].events & <uint32_t>(EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            out[i].bits |= HOST_END
    return max(n, 0)


cdef long message(int fd, const IoVec *iov, int niov, int out) noexcept nogil:
    cdef long n
    while True:
        n = ustack_host_message(fd, iov, niov, out)
        if n >= 0:
            return n
        if c_errno != EINTR:
            return -c_errno


cdef long host_receive(int fd, const IoVec *iov, int niov) noexcept nogil:
    return message(fd, iov, niov, 0)


cdef long host_send(int fd, const IoVec *iov, int niov) noexcept nogil:
    return message(fd, iov, niov, 1)


cdef int host_error(int fd) noexcept nogil:
    return ustack_host_error(fd)


cdef void host_end(int fd) noexcept nogil:
    shutdown(fd, SHUT_WR)


cdef void host_abort(int fd) noexcept nogil:
    ustack_host_abort(fd)


cdef void host_close(int fd) noexcept nogil:
    close(fd)
