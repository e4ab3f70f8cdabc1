"""What is alive in the whole process: debug and sanitizer builds count it, so that a test can see that nothing is left.

A buffer is alive until its last reference is dropped, also when its pool goes first: that is the leak to be seen.
Objects of a slab end with the slab. Counts are right whenever no engine is running; several may run at once.
"""
from libc.stdint cimport int64_t

cdef extern from * nogil:
    """
    #include <stdint.h>
    static int64_t ustack_live[8];
    #define USTACK_LIVE_ADD(kind, n) __atomic_add_fetch(&ustack_live[kind], n, __ATOMIC_RELAXED)
    """
    int64_t USTACK_LIVE_ADD(int kind, int64_t n) noexcept


cdef void live_add(int kind, int64_t n) noexcept nogil:
    USTACK_LIVE_ADD(kind, n)


def live_objects():
    """Live objects by kind (buffers, objects, timers); an empty dict in a build that does not count."""
    if not USTACK_DEBUG:
        return {}
    return {"buffers": USTACK_LIVE_ADD(LIVE_BUFFERS, 0), "objects": USTACK_LIVE_ADD(LIVE_OBJECTS, 0),
            "timers": USTACK_LIVE_ADD(LIVE_TIMERS, 0)}
