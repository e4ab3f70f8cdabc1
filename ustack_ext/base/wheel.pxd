# Hierarchical timer wheel: arm, cancel, expire and the exact earliest deadline, each in a bounded number of steps, with
# however many timers; deadlines are exact nanoseconds.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from ustack_ext.base.entry cimport Entry, TimerLink

cdef enum:
    WHEEL_LEVELS = 8
    WHEEL_SLOTS = 64
    WHEEL_SHIFT = 18       # a slot of the lowest level is 2**18 ns = 262 us

# 64 slots, a digit of 6 bits of the deadline each (private). A slot is a list or, in its `next` alone, the node that a
# crowded list was split into. They are first, so that a slot and its number give the node.
cdef struct WheelNode:
    TimerLink slots[64]
    uint8_t filled[64]     # entries in a list, at most
    uint64_t occupied      # a bit a slot
    uint64_t split         # ... those that are nodes
    WheelNode *parent      # NULL: one of the wheel's own
    uint8_t digit          # counted from the deadline's lowest
    uint8_t place          # slot in the parent

cdef struct Wheel:
    uint64_t now           # ns: no armed deadline is earlier
    uint64_t next_cache    # exact earliest deadline, or WHEEL_UNKNOWN
    uint64_t armed         # entries armed
    uint32_t nodes         # beside the wheel's own
    WheelNode levels[8]

cdef void wheel_init(Wheel *w, uint64_t now) noexcept nogil
cdef void wheel_destroy(Wheel *w) noexcept nogil                              # entries still armed are left alone
# re-arms if armed; a deadline in the past is due at once: it becomes the latest moment that the wheel has seen
cdef void wheel_arm(Wheel *w, Entry *e, uint64_t deadline) noexcept nogil
cdef void wheel_cancel(Wheel *w, Entry *e) noexcept nogil                     # no-op if not armed
# exact earliest deadline, or UINT64_MAX when none
cdef uint64_t wheel_next(Wheel *w) noexcept nogil
# the entry that has it, or NULL
cdef Entry *wheel_first(Wheel *w) noexcept nogil
# the deadline, or a moment shortly before it that is cheaper to find: for who may wake early and ask again
cdef uint64_t wheel_wake(Wheel *w) noexcept nogil
# removes and returns one entry with deadline <= now, earliest first; NULL when none
cdef Entry *wheel_expire(Wheel *w, uint64_t now) noexcept nogil
