# The timer wheel of one engine (wheel.pxd). Who owns a timer, and what its expiry means, is the caller's business.
#
# A deadline is read in digits of 6 bits. Time is cut into ticks of 2**WHEEL_SHIFT ns; an entry lives in the level of
# the highest digit in which its tick differs from that of `now`, in the slot of that digit; so all of one level is
# earlier than all of the next, and within a level the lowest occupied slot is the earliest: no slot ever wraps. The 46
# bits of a tick fit the 8 levels, so no deadline is too far.
#
# A slot's list holds SPLIT entries at most. One more, and the slot becomes a node: 64 slots by the next lower digit,
# which may split again, down to slots of 1 ns, where all deadlines are equal. So the earliest entry is found by going
# down and walking one short list, and a slot whose time has come is dealt out to the level below in a few steps too,
# as a list or as a whole node, with a million timers in it. Lists within a tick are sorted, others in order of arming.
from libc.stdint cimport UINT64_MAX, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from ustack_ext.base.entry cimport Entry, TimerLink
from ustack_ext.base.live cimport LIVE_TIMERS, live_count

cdef extern from * nogil:
    int __builtin_clzll(unsigned long long) noexcept
    int __builtin_ctzll(unsigned long long) noexcept

cdef enum:
    DIGIT = 6              # bits
    FINE = 3               # digit of the lowest level, WHEEL_SHIFT // DIGIT: its lists and those below are sorted
    # entries in a list at most, except of 1 ns, or without memory for a node: a batch of frames may arm as many at once
    SPLIT = 64
    GLANCE = 4             # entries that wheel_wake looks at
    WHEEL_UNKNOWN = 0      # next_cache: has to be looked for (a deadline of 0 is never cached)


cdef void wheel_init(Wheel *w, uint64_t now) noexcept nogil:
    cdef int level
    memset(w, 0, sizeof(Wheel))
    w.now = now
    w.next_cache = UINT64_MAX
    for level in range(WHEEL_LEVELS):
        w.levels[level].digit = <uint8_t>(FINE + level)


cdef inline WheelNode *child_of(WheelNode *n, int slot) noexcept nogil:
    return <WheelNode *><void *>n.slots[slot].next


cdef inline int slot_of(const WheelNode *n, uint64_t deadline) noexcept nogil:
    return (deadline >> (DIGIT * n.digit)) & (WHEEL_SLOTS - 1)


cdef inline bint is_sorted(const WheelNode *n) noexcept nogil:
    return n.digit <= FINE


cdef void free_below(Wheel *w, WheelNode *n) noexcept nogil:
    cdef WheelNode *child
    while n.split:
        child = child_of(n, __builtin_ctzll(n.split))
        n.split &= n.split - 1
        free_below(w, child)
        free(child)
        w.nodes -= 1


cdef void wheel_destroy(Wheel *w) noexcept nogil:
    cdef int level
    for level in range(WHEEL_LEVELS):
        free_below(w, &w.levels[level])


cdef inline void insert(WheelNode *n, int slot, Entry *e) noexcept nogil:
    """Into the slot's list: at the end, but in a sorted one behind the last that is not later."""
    cdef TimerLink *head = &n.slots[slot]
    cdef TimerLink *at = head
    cdef uint64_t bit = <uint64_t>1 << slot
    if not n.occupied & bit:
        n.occupied |= bit
        n.filled[slot] = 0
        head.next = head
        head.prev = head
    else:
        at = head.prev
        if is_sorted(n):
            while at != head and (<Entry *>at).deadline > e.deadline:
                at = at.prev
    e.timer.prev = at
    e.timer.next = at.next
    at.next.prev = &e.timer
    at.next = &e.timer
    e.slot = <uint8_t>slot
    n.filled[slot] += n.filled[slot] < SPLIT


cdef bint crowded(WheelNode *n, int slot) noexcept nogil:
    """Whether a list in which SPLIT entries were armed still holds most of them; cancelling doesn't count."""
    cdef TimerLink *head = &n.slots[slot]
    cdef TimerLink *at = head.next
    cdef int count = 0
    if n.digit == 0:
        return False
    while at != head and count < SPLIT:
        count += 1
        at = at.next
    n.filled[slot] = <uint8_t>count
    return count > SPLIT // 2


cdef bint split(Wheel *w, WheelNode *n, int slot) noexcept nogil:
    """Deal a slot's list out to a node of its own; without memory for one, or of 1 ns, it stays a list."""
    cdef WheelNode *child = <WheelNode *>malloc(sizeof(WheelNode))
    cdef TimerLink *head = &n.slots[slot]
    cdef TimerLink *at = head.next
    cdef TimerLink *following
    if child == NULL:
        n.filled[slot] = 0
        return False
    w.nodes += 1
    child.occupied = 0
    child.split = 0
    child.parent = n
    child.digit = <uint8_t>(n.digit - 1)
    child.place = <uint8_t>slot
    while at != head:
        following = at.next
        insert(child, slot_of(child, (<Entry *>at).deadline), <Entry *>at)
        at = following
    n.split |= <uint64_t>1 << slot
    head.next = <TimerLink *><void *>child
    return True


cdef inline void place(Wheel *w, Entry *e) noexcept nogil:
    """Put `e`, which is not before w.now, into its list."""
    cdef uint64_t differ = (e.deadline ^ w.now) >> WHEEL_SHIFT
    cdef WheelNode *n = &w.levels[(63 - __builtin_clzll(differ)) // DIGIT if differ else 0]
    cdef int slot = slot_of(n, e.deadline)
    while True:
        if n.split >> slot & 1:
            n = child_of(n, slot)
            slot = slot_of(n, e.deadline)
        elif not (n.occupied >> slot & 1 and n.filled[slot] >= SPLIT and crowded(n, slot) and split(w, n, slot)):
            break
    insert(n, slot, e)


cdef void prune(Wheel *w, WheelNode *n) noexcept nogil:
    """An empty node goes, and so does its parent if that was all it held."""
    cdef WheelNode *parent
    while n.occupied == 0 and n.parent != NULL:
        parent = n.parent
        parent.occupied &= ~(<uint64_t>1 << n.place)
        parent.split &= ~(<uint64_t>1 << n.place)
        free(n)
        w.nodes -= 1
        n = parent


cdef inline void displace(Wheel *w, Entry *e) noexcept nogil:
    """Take `e` out of its list."""
    cdef TimerLink *before = e.timer.prev
    cdef WheelNode *n
    before.next = e.timer.next
    e.timer.next.prev = before
    e.armed = 0
    if before == e.timer.next:                 # both are the slot: it is empty
        n = <WheelNode *>(before - e.slot)
        n.occupied &= ~(<uint64_t>1 << e.slot)
        if n.occupied == 0:
            prune(w, n)


cdef void wheel_arm(Wheel *w, Entry *e, uint64_t deadline) noexcept nogil:
    if e.armed:
        if e.deadline == deadline:
            return
        wheel_cancel(w, e)
    e.deadline = max(deadline, w.now)
    e.armed = 1
    place(w, e)
    w.armed += 1
    live_count(LIVE_TIMERS, 1)
    if e.deadline < w.next_cache:
        w.next_cache = e.deadline


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
    while level < WHEEL_LEVELS and w.levels[level].occupied == 0:
        level += 1
    return level


cdef inline uint64_t start_of(const Wheel *w, int level, int slot) noexcept nogil:
    """When the slot of a level begins, in ns."""
    cdef int below = WHEEL_SHIFT + DIGIT * level
    cdef uint64_t above = w.now >> below >> DIGIT << DIGIT
    return (above | <uint64_t>slot) << below


cdef inline TimerLink *first_list(WheelNode **node) noexcept nogil:
    """Go down from a node to the earliest list in it, and to the node that has it."""
    cdef WheelNode *n = node[0]
    cdef int slot = __builtin_ctzll(n.occupied)
    while n.split >> slot & 1:
        n = child_of(n, slot)
        slot = __builtin_ctzll(n.occupied)
    node[0] = n
    return &n.slots[slot]


cdef uint64_t look_for(Wheel *w, uint64_t most) noexcept nogil:
    """The earliest deadline; the start of its slot if that takes a look at more than `most` entries."""
    cdef int level = first_level(w)
    cdef WheelNode *n
    cdef TimerLink *head
    cdef TimerLink *at
    cdef uint64_t earliest = UINT64_MAX
    if level == WHEEL_LEVELS:
        w.next_cache = UINT64_MAX
        return UINT64_MAX
    n = &w.levels[level]
    head = first_list(&n)
    at = head.next
    if is_sorted(n):
        earliest = (<Entry *>at).deadline
    else:
        while at != head:
            if most == 0:
                return max(w.now, start_of(w, level, __builtin_ctzll(w.levels[level].occupied)))
            most -= 1
            earliest = min(earliest, (<Entry *>at).deadline)
            at = at.next
    w.next_cache = earliest
    return earliest


cdef Entry *wheel_first(Wheel *w) noexcept nogil:
    cdef int level = first_level(w)
    cdef WheelNode *n
    cdef TimerLink *head
    cdef TimerLink *at
    cdef TimerLink *first
    if level == WHEEL_LEVELS:
        return NULL
    n = &w.levels[level]
    head = first_list(&n)
    first = head.next
    if not is_sorted(n):
        at = first.next
        while at != head:
            if (<Entry *>at).deadline < (<Entry *>first).deadline:
                first = at
            at = at.next
    w.next_cache = (<Entry *>first).deadline
    return <Entry *>first


cdef uint64_t wheel_next(Wheel *w) noexcept nogil:
    return w.next_cache if w.next_cache != WHEEL_UNKNOWN else look_for(w, UINT64_MAX)


cdef uint64_t wheel_wake(Wheel *w) noexcept nogil:
    return w.next_cache if w.next_cache != WHEEL_UNKNOWN else look_for(w, GLANCE)


cdef void adopt(Wheel *w, WheelNode *n, WheelNode *child) noexcept nogil:
    """Make all that is in `child` that of `n`, an empty node of the same digit."""
    cdef uint64_t left = child.occupied
    cdef TimerLink *head
    cdef int slot
    n.occupied = child.occupied
    n.split = child.split
    while left:
        slot = __builtin_ctzll(left)
        left &= left - 1
        head = &n.slots[slot]
        head[0] = child.slots[slot]
        n.filled[slot] = child.filled[slot]
        if n.split >> slot & 1:
            child_of(n, slot).parent = n
        else:
            head.next.prev = head
            head.prev.next = head
    free(child)
    w.nodes -= 1


cdef void cascade(Wheel *w, int level, int slot) noexcept nogil:
    """Deal out a slot whose time has come (w.now is at its start, the levels below are empty) to the levels below."""
    cdef WheelNode *n = &w.levels[level]
    cdef TimerLink *head = &n.slots[slot]
    cdef TimerLink *at = head.next
    cdef TimerLink *following
    cdef uint64_t bit = <uint64_t>1 << slot
    n.occupied &= ~bit
    if n.split & bit:
        n.split &= ~bit
        adopt(w, &w.levels[level - 1], child_of(n, slot))
        return
    while at != head:
        following = at.next
        place(w, <Entry *>at)
        at = following


cdef Entry *pop_due(Wheel *w, TimerLink *head) noexcept nogil:
    cdef Entry *e = <Entry *>head.next
    w.next_cache = (<Entry *>e.timer.next).deadline if e.timer.next != head else WHEEL_UNKNOWN
    w.now = e.deadline
    displace(w, e)
    w.armed -= 1
    live_count(LIVE_TIMERS, -1)
    if w.armed == 0:
        w.next_cache = UINT64_MAX
    return e


cdef Entry *wheel_expire(Wheel *w, uint64_t now) noexcept nogil:
    cdef uint64_t start
    cdef int level, slot
    cdef WheelNode *n
    cdef TimerLink *head
    if w.next_cache > now and now >> WHEEL_SHIFT <= w.now >> WHEEL_SHIFT:
        w.now = max(w.now, now)
        return NULL
    while True:
        level = first_level(w)
        if level == WHEEL_LEVELS:
            break
        if level == 0:
            n = &w.levels[0]
            head = first_list(&n)
            if (<Entry *>head.next).deadline > now:
                break
            return pop_due(w, head)
        slot = __builtin_ctzll(w.levels[level].occupied)
        start = start_of(w, level, slot)
        if start > now:
            break
        w.now = start
        cascade(w, level, slot)
    w.now = max(w.now, now)
    return NULL
