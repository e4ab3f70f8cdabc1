# A descriptor that poll() sees as readable while it is set: how one thread wakes another that sleeps in poll().
cdef extern from * nogil:
    """
    #include <errno.h>
    #include <stdint.h>
    #include <unistd.h>
    #ifdef __linux__
    #include <sys/eventfd.h>
    static int wakefd_open(void) { return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }
    static void wakefd_clear(int fd) { uint64_t got; ssize_t n = read(fd, &got, sizeof got); (void)n; }
    #else
    /* A datagram socket of the loopback that is connected to itself: nobody else's datagrams come to it. */
    #include <arpa/inet.h>
    #include <fcntl.h>
    #include <netinet/in.h>
    #include <sys/socket.h>
    static int wakefd_open(void) {
        struct sockaddr_in at = {.sin_family = AF_INET};
        socklen_t size = sizeof at;
        int fd = socket(AF_INET, SOCK_DGRAM, 0);
        at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (fd >= 0 &&
            (bind(fd, (struct sockaddr *)&at, size) < 0 || getsockname(fd, (struct sockaddr *)&at, &size) < 0 ||
             connect(fd, (struct sockaddr *)&at, size) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 ||
             fcntl(fd, F_SETFL, O_NONBLOCK) < 0)) {
            int reason = errno;
            close(fd);
            errno = reason;
            return -1;
        }
        return fd;
    }
    static void wakefd_clear(int fd) { uint64_t got; while (read(fd, &got, sizeof got) > 0); }
    #endif
    static void wakefd_set(int fd) { uint64_t one = 1; ssize_t n = write(fd, &one, sizeof one); (void)n; }
    """
    int wakefd_open()              # -1 with errno
    void wakefd_set(int fd)        # never blocks
    void wakefd_clear(int fd)
