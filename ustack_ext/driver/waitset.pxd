# What a poller sleeps on: its doorbell (an eventfd), the links' descriptors, a deadline. On Linux an epoll set with a
# timerfd in it: falling asleep then costs neither a copy of the set nor a timer, which is set only when the deadline
# comes nearer; one that has moved on wakes the poller once for nothing.
from libc.stdint cimport uint64_t

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <poll.h>
    #include <stdint.h>
    #include <time.h>
    #include <unistd.h>

    #define WAITSET_LINKS 16

    struct waitset {
        int bell;                  /* -1: not open */
        int links;                 /* descriptors of links, in the order of waitset_add */
        int epoll, timer;
        uint64_t armed;            /* what the timer is set to, UINT64_MAX: nothing */
        struct pollfd fds[1 + WAITSET_LINKS];
    };

    #ifdef __linux__
    #include <sys/epoll.h>
    #include <sys/timerfd.h>

    static int waitset_watch(struct waitset *w, int fd, int number) {
        struct epoll_event e = {.events = EPOLLIN, .data.u64 = (uint64_t)number};
        return epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &e) == 0 ? 0 : -errno;
    }
    static void waitset_close(struct waitset *w) {
        if (w->bell < 0) return;
        close(w->bell);
        if (w->epoll >= 0) close(w->epoll);
        if (w->timer >= 0) close(w->timer);
        w->bell = -1;
    }
    /* bell: an eventfd, or -1 with errno. 0, or -errno. */
    static int waitset_open(struct waitset *w, int bell) {
        w->bell = bell;
        if (bell < 0) return -errno;
        w->fds[0].fd = bell;
        w->fds[0].events = POLLIN;
        w->links = 0;
        w->armed = UINT64_MAX;
        w->epoll = epoll_create1(EPOLL_CLOEXEC);
        w->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        if (w->epoll >= 0 && w->timer >= 0 && waitset_watch(w, bell, 0) == 0 && waitset_watch(w, w->timer, 1) == 0)
            return 0;
        waitset_close(w);
        return -EMFILE;
    }
    static void waitset_add(struct waitset *w, int fd) {
        w->fds[++w->links].fd = fd;
        waitset_watch(w, fd, 1 + w->links);
    }
    static void waitset_clear(struct waitset *w) {
        for (; w->links > 0; w->links--) epoll_ctl(w->epoll, EPOLL_CTL_DEL, w->fds[w->links].fd, NULL);
    }
    static int waitset_wait(struct waitset *w, uint64_t until, uint32_t *ready) {
        struct epoll_event e[2 + WAITSET_LINKS];
        int i, n;
        *ready = 0;
        if (until < w->armed) {
            struct itimerspec t = {.it_value = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)}};
            if (until == 0) t.it_value.tv_nsec = 1;
            timerfd_settime(w->timer, TFD_TIMER_ABSTIME, &t, NULL);
            w->armed = until;
        }
        n = epoll_wait(w->epoll, e, 2 + WAITSET_LINKS, -1);
        if (n < 0) return errno == EINTR ? -1 : 0;
        for (i = 0; i < n; i++) {
            if (e[i].data.u64 == 1) {
                uint64_t times;
                ssize_t got = read(w->timer, &times, sizeof times);
                (void)got;
                w->armed = UINT64_MAX;
            } else if (e[i].data.u64 == 0)
                *ready |= 1;
            else
                *ready |= (e[i].events & (EPOLLERR | EPOLLHUP) ? 0x20000u : 2u) << (e[i].data.u64 - 2);
        }
        return 0;
    }
    #else
    static void waitset_close(struct waitset *w) { if (w->bell >= 0) close(w->bell); w->bell = -1; }
    static int waitset_open(struct waitset *w, int bell) {
        w->bell = bell;
        w->fds[0].fd = bell;
        w->fds[0].events = POLLIN;
        w->links = 0;
        return bell < 0 ? -errno : 0;
    }
    static void waitset_add(struct waitset *w, int fd) {
        w->fds[++w->links].fd = fd;
        w->fds[w->links].events = POLLIN;
    }
    static void waitset_clear(struct waitset *w) { w->links = 0; }
    static int waitset_wait(struct waitset *w, uint64_t until, uint32_t *ready) {
        struct timespec t;
        int i, ms = -1;
        *ready = 0;
        if (until != UINT64_MAX) {
            uint64_t now;
            clock_gettime(CLOCK_MONOTONIC, &t);
            now = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
            ms = until <= now ? 0 : until - now > 3600000000000u ? 3600000 : (int)((until - now + 999999) / 1000000);
        }
        if (poll(w->fds, (nfds_t)(1 + w->links), ms) < 0) return errno == EINTR ? -1 : 0;
        if (w->fds[0].revents) *ready |= 1;
        for (i = 1; i <= w->links; i++)
            if (w->fds[i].revents) *ready |= (w->fds[i].revents & POLLIN ? 2u : 0x20000u) << (i - 1);
        return 0;
    }
    #endif
    /* The bell alone, for at most so many ns. */
    static void waitset_doze(struct waitset *w, uint64_t ns) {
        poll(w->fds, 1, ns == UINT64_MAX ? -1 : (int)((ns + 999999) / 1000000));
    }
    """
    struct waitset:
        int bell
        int links
    int waitset_open(waitset *w, int bell)     # 0, or -errno; takes the bell
    void waitset_close(waitset *w)
    void waitset_add(waitset *w, int fd)       # at most 16
    void waitset_clear(waitset *w)             # forgets the links
    # Sleeps until something is ready or the time (CLOCK_MONOTONIC ns). -1: a signal. *ready: bit 0 the bell, bit 1 + i
    # the i-th link, bit 17 + i the i-th link is broken.
    int waitset_wait(waitset *w, uint64_t until, unsigned int *ready)
    void waitset_doze(waitset *w, uint64_t ns)
