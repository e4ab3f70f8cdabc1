# Sequentially consistent access to an int that two threads share, and sleeping on it: a futex where there is one, else
# short sleeps.
from libc.stdint cimport uint64_t

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <stdint.h>
    #include <time.h>
    static int atomic_get(int *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
    static void atomic_set(int *p, int v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
    static int atomic_swap(int *p, int v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }
    static int atomic_add(int *p, int v) { return __atomic_add_fetch(p, v, __ATOMIC_SEQ_CST); }
    static int atomic_change(int *p, int from, int to) {
        return __atomic_compare_exchange_n(p, &from, to, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    #ifdef __linux__
    #include <linux/futex.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    /* Sleeps while *p == was. deadline: CLOCK_MONOTONIC ns, UINT64_MAX: none. 0, or -EINTR, -ETIMEDOUT, -EAGAIN. */
    static int atomic_sleep(int *p, int was, uint64_t deadline) {
        struct timespec t = {(time_t)(deadline / 1000000000u), (long)(deadline % 1000000000u)};
        long r = syscall(SYS_futex, p, FUTEX_WAIT_BITSET_PRIVATE, was, deadline == UINT64_MAX ? NULL : &t, NULL,
                         FUTEX_BITSET_MATCH_ANY);
        return r == 0 ? 0 : -errno;
    }
    static void atomic_wake(int *p) { syscall(SYS_futex, p, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0); }
    #else
    static int atomic_sleep(int *p, int was, uint64_t deadline) {
        struct timespec nap = {0, 1000000}, t;
        if (atomic_get(p) != was) return -EAGAIN;
        clock_gettime(CLOCK_MONOTONIC, &t);
        if ((uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec >= deadline) return -ETIMEDOUT;
        return nanosleep(&nap, NULL) == 0 ? 0 : -errno;
    }
    static void atomic_wake(int *p) { (void)p; }
    #endif
    """
    int atomic_get(int *p)
    void atomic_set(int *p, int v)
    int atomic_swap(int *p, int v)              # the value before
    int atomic_add(int *p, int v)               # the value after
    bint atomic_change(int *p, int before, int after)       # whether it was `before`, and is `after` now
    int atomic_sleep(int *p, int was, uint64_t deadline)
    void atomic_wake(int *p)
