# A descriptor that poll() sees as readable while it is set: how one thread wakes another that sleeps in poll().
cdef extern from * nogil:
    """
    #include <errno.h>
    #include <stdint.h>
    #include <unistd.h>
    #ifdef __linux__
    #include <sys/eventfd.h>
    static int wakefd_open(void) { return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }
    #else
    static int wakefd_open(void) { errno = ENOSYS; return -1; }
    #endif
    static void wakefd_set(int fd) { uint64_t one = 1; ssize_t n = write(fd, &one, sizeof one); (void)n; }
    static void wakefd_clear(int fd) { uint64_t got; ssize_t n = read(fd, &got, sizeof got); (void)n; }
    """
    int wakefd_open()              # -1 with errno
    void wakefd_set(int fd)        # never blocks
    void wakefd_clear(int fd)
