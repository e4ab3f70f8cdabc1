"""The multicast groups of an interface, of either family (RFC 3376 §3.2, §5.1; RFC 3810 §4.2, §6.1).

Responsible for each group's filter as all sockets together want it, and for the bookkeeping of changes: which sources
and which change of mode have to be reported how many times still. Not for the messages (reports), nor for the sockets'
own filters (udp/member).
"""
from libc.errno cimport ENOMEM
from libc.stdlib cimport calloc, free

from ustack_ext.wire.addr cimport addr_eq
from ustack_ext.base.wheel cimport wheel_cancel
from ustack_ext.net.state cimport GROUP_SOURCES


cdef Group *group_find(Groups *m, const Addr *group) noexcept nogil:
    cdef Group *g = m.first
    while g != NULL and not addr_eq(&g.addr, group):
        g = g.next
    return g


cdef bint group_joined(Iface *i, const Addr *group) noexcept nogil:
    cdef Group *g = group_find(groups_of(i, group), group)
    return g != NULL and group_open(g)


cdef GroupSource *group_source(Group *g, const Addr *source) noexcept nogil:
    cdef int k
    for k in range(g.n_sources):
        if addr_eq(&g.sources[k].addr, source):
            return &g.sources[k]
    return NULL


cdef void purge(Group *g) noexcept nogil:
    """Drops sources that are neither listed nor to be reported."""
    cdef int k, kept = 0
    for k in range(g.n_sources):
        if g.sources[k].listed or g.sources[k].left > 0:
            g.sources[kept] = g.sources[k]
            kept += 1
    g.n_sources = <uint8_t>kept


cdef void list_sources(Group *g, const Addr *sources, int count, uint8_t reports, bint *changed) noexcept nogil:
    """The mode is as it was: what is new on the list or gone from it has to be reported."""
    cdef GroupSource *s
    cdef uint8_t was[GROUP_SOURCES]
    cdef int k
    for k in range(g.n_sources):
        was[k] = g.sources[k].listed
        g.sources[k].listed = 0
    for k in range(count):
        s = group_source(g, &sources[k])
        if s == NULL and g.n_sources < GROUP_SOURCES:
            s = &g.sources[g.n_sources]
            s.addr = sources[k]
            s.left = 0
            s.asked = 0
            was[g.n_sources] = 0
            g.n_sources += 1
        if s != NULL:
            s.listed = 1
    for k in range(g.n_sources):
        if g.sources[k].listed != was[k]:
            g.sources[k].left = reports
            changed[0] = True


cdef Group *obtain(Groups *m, const Addr *group) noexcept nogil:
    cdef Group *g = group_find(m, group)
    if g == NULL:
        g = <Group *>calloc(1, sizeof(Group))
        if g != NULL:
            g.addr = group[0]
            g.next = m.first
            m.first = g
    return g


cdef void change(Group *g, bint exclude, const Addr *sources, int count, uint8_t reports, bint *changed) noexcept nogil:
    cdef int k
    if count > GROUP_SOURCES:                          # more than is kept count of: all of them, sockets filter
        exclude = True
        count = 0
    if (g.exclude != 0) != exclude:
        # §5.1: the report of the new mode has the whole list in it, and so all older news.
        g.exclude = exclude
        g.mode_left = reports
        g.n_sources = 0
        changed[0] = True
        list_sources(g, sources, count, 0, changed)
    else:
        purge(g)
        list_sources(g, sources, count, reports, changed)
    for k in range(g.n_sources):
        if g.mode_left > 0:
            g.sources[k].left = 0


cdef int group_set(Groups *m, const Addr *group, bint exclude, const Addr *sources, int count, uint8_t reports,
                   bint *changed) noexcept nogil:
    cdef bint wanted = exclude or count > 0
    cdef Group *g = obtain(m, group) if wanted else group_find(m, group)
    changed[0] = False
    if g == NULL:
        return -ENOMEM if wanted else 0
    g.asked_for = wanted
    if not g.own:
        change(g, exclude, sources, count, reports, changed)
    return 0


cdef int group_own(Groups *m, const Addr *group, bint on, uint8_t reports, bint *changed) noexcept nogil:
    """What sockets want of it beside is all of it until they say something else: their filters are theirs."""
    cdef Group *g = obtain(m, group) if on else group_find(m, group)
    if g == NULL:
        return -ENOMEM if on else 0
    g.own = on
    if on or not g.asked_for:
        change(g, on, NULL, 0, reports, changed)
    return 0


cdef void groups_sweep(Groups *m) noexcept nogil:
    cdef Group **at = &m.first
    cdef Group *g
    while at[0] != NULL:
        g = at[0]
        purge(g)
        if not group_open(g) and g.mode_left == 0 and g.n_sources == 0:
            at[0] = g.next
            free(g)
        else:
            at = &g.next


cdef void groups_forget(Net *n, Groups *m) noexcept nogil:
    cdef Group *g
    wheel_cancel(&n.core.wheel, &m.entry)
    while m.first != NULL:
        g = m.first
        m.first = g.next
        free(g)
