# Hierarchical timer wheel: O(1) arm, cancel and expire; deadlines are exact nanoseconds (the lowest level's
# lists are sorted).
from libc.stdint cimport uint64_t
from ustack_ext.base.entry cimport Entry

cdef enum:
    WHEEL_LEVELS = 8
    WHEEL_SLOTS = 64
    WHEEL_SHIFT = 18       # a level-0 slot is 2**18 ns = 262 us

cdef struct Wheel:
    uint64_t now           # ns: all before it has been expired or cascaded
    uint64_t occupied[8]   # a bit a slot
    Entry *slots[8][64]
    uint64_t next_cache    # exact earliest deadline, or WHEEL_UNKNOWN
    uint64_t armed         # entries armed

cdef void wheel_init(Wheel *w, uint64_t now) noexcept nogil
# re-arms if armed; a deadline in the past is due at once
cdef void wheel_arm(Wheel *w, Entry *e, uint64_t deadline) noexcept nogil
cdef void wheel_cancel(Wheel *w, Entry *e) noexcept nogil                     # no-op if not armed
# exact earliest deadline, or UINT64_MAX when none
cdef uint64_t wheel_next(Wheel *w) noexcept nogil
# removes and returns one entry with deadline <= now, earliest first; NULL when none
cdef Entry *wheel_expire(Wheel *w, uint64_t now) noexcept nogil
