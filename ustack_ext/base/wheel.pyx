# The timer wheel of one engine (wheel.pxd). Who owns a timer, and what its expiry means, is the caller's business.
#
# Time is cut into ticks of 2**WHEEL_SHIFT ns. An entry lives in the level of the highest 6-bit digit in which its tick
# differs from that of `now`, in the slot of that digit; so all of level 0 is earlier than all of level 1, and so on,
# and within a level the lowest occupied slot is the earliest: no slot ever wraps. The 46 bits of a tick fit the 8
# levels, so no deadline is too far. A slot's list is circular through tprev (head.tprev is the tail). Level 0 is kept
# sorted by deadline; above it lists are in order of arming, and are sorted out as they cascade down.
from libc.stdint cimport UINT64_MAX, uint8_t, uint64_t
from libc.string cimport memset
from ustack_ext.base.entry cimport Entry
from ustack_ext.base.live cimport LIVE_TIMERS, live_count

cdef extern from * nogil:
    int __builtin_clzll(unsigned long long) noexcept
    int __builtin_ctzll(unsigned long long) noexcept

cdef enum:
    DIGIT = 6              # bits a level
    WHEEL_UNKNOWN = 0      # next_cache: has to be looked for (a deadline of 0 is never cached)


cdef void wheel_init(Wheel *w, uint64_t now) noexcept nogil:
    memset(w, 0, sizeof(Wheel))
    w.now = now
    w.next_cache = UINT64_MAX


cdef inline int level_of(uint64_t tick, uint64_t now_tick) noexcept nogil:
    return (63 - __builtin_clzll(tick ^ now_tick)) // DIGIT if tick > now_tick else 0


cdef inline void link_after(Entry *at, Entry *e) noexcept nogil:
    """Insert `e` behind `at`, which is not the tail."""
    e.tprev = at
    e.tnext = at.tnext
    at.tnext.tprev = e
    at.tnext = e


cdef void place(Wheel *w, Entry *e) noexcept nogil:
    """Put `e` into its slot's list: at the end, but in level 0 behind the last that is not later."""
    cdef uint64_t now_tick = w.now >> WHEEL_SHIFT
    cdef uint64_t tick = max(e.deadline >> WHEEL_SHIFT, now_tick)      # already due: the current slot
    cdef int level = level_of(tick, now_tick)
    cdef int slot = (tick >> (DIGIT * level)) & (WHEEL_SLOTS - 1)
    cdef Entry *head = w.slots[level][slot]
    cdef Entry *at
    e.armed = <uint8_t>(level + 1)
    e.slot = <uint8_t>slot
    w.occupied[level] |= <uint64_t>1 << slot
    if head == NULL:
        e.tprev = e
        e.tnext = NULL
        w.slots[level][slot] = e
        return
    at = head.tprev
    if level == 0 and at.deadline > e.deadline:
        if head.deadline > e.deadline:
            e.tprev = at
            e.tnext = head
            head.tprev = e
            w.slots[level][slot] = e
            return
        while at.deadline > e.deadline:
            at = at.tprev
        link_after(at, e)
        return
    e.tprev = at
    e.tnext = NULL
    at.tnext = e
    head.tprev = e


cdef void displace(Wheel *w, Entry *e) noexcept nogil:
    """Take `e` out of its slot's list."""
    cdef int level = e.armed - 1
    cdef Entry *head = w.slots[level][e.slot]
    if e.tnext != NULL:
        e.tnext.tprev = e.tprev
    elif head != e:
        head.tprev = e.tprev
    if head != e:
        e.tprev.tnext = e.tnext
    else:
        w.slots[level][e.slot] = e.tnext
        if e.tnext == NULL:
            w.occupied[level] &= ~(<uint64_t>1 << e.slot)
    e.armed = 0


cdef void wheel_arm(Wheel *w, Entry *e, uint64_t deadline) noexcept nogil:
    if e.armed:
        if e.deadline == deadline:
            return
        wheel_cancel(w, e)
    e.deadline = deadline
    place(w, e)
    w.armed += 1
    live_count(LIVE_TIMERS, 1)
    if deadline < w.next_cache:
        w.next_cache = deadline


cdef void wheel_cancel(Wheel *w, Entry *e) noexcept nogil:
    if not e.armed:
        return
    displace(w, e)
    w.armed -= 1
    live_count(LIVE_TIMERS, -1)
    if w.armed == 0:
        w.next_cache = UINT64_MAX
    elif e.deadline == w.next_cache:
        w.next_cache = WHEEL_UNKNOWN


cdef inline int first_level(const Wheel *w) noexcept nogil:
    """The level that holds the earliest entry, or WHEEL_LEVELS when nothing is armed."""
    cdef int level = 0
    while level < WHEEL_LEVELS and w.occupied[level] == 0:
        level += 1
    return level


cdef uint64_t wheel_next(Wheel *w) noexcept nogil:
    cdef int level
    cdef Entry *e
    cdef uint64_t earliest
    if w.next_cache != WHEEL_UNKNOWN:
        return w.next_cache
    level = first_level(w)
    if level == WHEEL_LEVELS:
        w.next_cache = UINT64_MAX
        return UINT64_MAX
    e = w.slots[level][__builtin_ctzll(w.occupied[level])]
    earliest = e.deadline
    if level > 0:
        while e != NULL:
            earliest = min(earliest, e.deadline)
            e = e.tnext
    w.next_cache = earliest
    return earliest


cdef void cascade(Wheel *w, int level, int slot) noexcept nogil:
    """Deal out a slot whose time has come (w.now is at its start) to the levels below."""
    cdef Entry *e = w.slots[level][slot]
    cdef Entry *following
    w.slots[level][slot] = NULL
    w.occupied[level] &= ~(<uint64_t>1 << slot)
    while e != NULL:
        following = e.tnext
        place(w, e)
        e = following


cdef Entry *pop_due(Wheel *w, Entry *e) noexcept nogil:
    cdef uint64_t following = e.tnext.deadline if e.tnext != NULL else WHEEL_UNKNOWN
    displace(w, e)
    w.armed -= 1
    live_count(LIVE_TIMERS, -1)
    w.next_cache = following if w.armed else UINT64_MAX
    return e


cdef Entry *wheel_expire(Wheel *w, uint64_t now) noexcept nogil:
    cdef uint64_t target = now >> WHEEL_SHIFT
    cdef uint64_t start
    cdef int level, slot, below
    cdef Entry *e
    if w.next_cache > now and target <= w.now >> WHEEL_SHIFT:
        return NULL
    while True:
        level = first_level(w)
        if level == WHEEL_LEVELS:
            break
        slot = __builtin_ctzll(w.occupied[level])
        below = DIGIT * level
        start = w.now >> WHEEL_SHIFT >> (below + DIGIT) << (below + DIGIT) | <uint64_t>slot << below
        if level == 0:
            e = w.slots[0][slot]
            if e.deadline > now:
                break
            w.now = max(w.now, start << WHEEL_SHIFT)
            return pop_due(w, e)
        if start > target:
            break
        w.now = start << WHEEL_SHIFT
        cascade(w, level, slot)
    w.now = max(w.now, now)
    return NULL
