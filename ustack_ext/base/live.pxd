# Debug builds count what is alive in the whole process, over all engines; in others these calls compile to nothing.
from libc.stdint cimport int64_t

cdef extern from *:
    const int USTACK_DEBUG     # 0 or 1, from the compiler's command line (setup.py)

cdef enum LiveKind:
    LIVE_BUFFERS           # packet buffers handed out
    LIVE_OBJECTS           # slab objects handed out: connections, neighbours, fragment queues, sockets
    LIVE_TIMERS            # timers armed
    LIVE_KINDS

cdef void live_add(int kind, int64_t n) noexcept nogil


cdef inline void live_count(int kind, int64_t n) noexcept nogil:
    if USTACK_DEBUG:
        live_add(kind, n)
