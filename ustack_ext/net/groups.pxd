# The groups of an interface: what sockets want of each, joined, and what has to be told of changes.
from libc.stdint cimport uint8_t, uint16_t
from ustack_ext.wire.addr cimport Addr, addr_is_v4
from ustack_ext.net.state cimport Group, Groups, GroupSource, Iface, Net

cdef Group *group_find(Groups *m, const Addr *group) noexcept nogil
# Whether anybody wants what is sent to the group at all; whose packets, is each socket's filter's business. With its
# zone, where it has one.
cdef bint group_joined(Iface *i, const Addr *group) noexcept nogil
# What sockets want of a group from now on (RFC 3376 §3.2): INCLUDE with no sources is nothing. *changed: there is
# something to report, `reports` times. 0 or -ENOMEM.
cdef int group_set(Groups *m, const Addr *group, bint exclude, const Addr *sources, int count, uint8_t reports,
                   bint *changed) noexcept nogil
# An address of the interface needs the group (net/mld), or no longer.
cdef int group_own(Groups *m, const Addr *group, bint on, uint8_t reports, bint *changed) noexcept nogil
cdef GroupSource *group_source(Group *g, const Addr *source) noexcept nogil
# Frees the groups that nobody wants and nothing is to be told of.
cdef void groups_sweep(Groups *m) noexcept nogil
cdef void groups_forget(Net *n, Groups *m) noexcept nogil


cdef inline Groups *groups_of(Iface *i, const Addr *group) noexcept nogil:
    return &i.igmp if addr_is_v4(group) else &i.mld


cdef inline bint source_wanted(const Group *g, const GroupSource *s) noexcept nogil:
    return (s.listed != 0) != (g.exclude != 0)


cdef inline bint group_open(const Group *g) noexcept nogil:
    """Whether it is joined: a group that was left stays until that has been reported."""
    cdef int k
    if g.exclude:
        return True
    for k in range(g.n_sources):
        if g.sources[k].listed:
            return True
    return False
