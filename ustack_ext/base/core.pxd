# What every layer of one engine shares: the time, the buffers, the timers, the random numbers, the events, the
# counters.
from libc.stdint cimport uint64_t, int64_t
from ustack_ext.base.buf cimport BufPool
from ustack_ext.base.wheel cimport Wheel
from ustack_ext.base.rng cimport Rng
from ustack_ext.base.event cimport EventList

cdef enum:
    MAX_COUNTERS = 384

cdef struct Core:
    uint64_t now           # ns, monotonic: set by the engine at each entry, read by everybody
    BufPool pool
    Wheel wheel
    Rng rng
    EventList events
    uint64_t counters[384]  # MAX_COUNTERS; indexed by net/mib's names


cdef inline void count(Core *c, int which) noexcept nogil:
    c.counters[which] += 1


cdef inline void count_add(Core *c, int which, uint64_t n) noexcept nogil:
    c.counters[which] += n
