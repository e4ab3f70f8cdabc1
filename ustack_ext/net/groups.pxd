# The groups of an interface: what sockets want of each, joined, and what has to be told of changes.
from libc.stdint cimport uint8_t, uint16_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport Group, GroupSource, Iface, Net

cdef Group *group_find(Iface *i, const Addr *group) noexcept nogil
# Whether anybody wants what is sent to the group at all; whose packets, is each socket's filter's business.
cdef bint group_joined(Iface *i, const Addr *group) noexcept nogil
# What sockets want of a group from now on (RFC 3376 §3.2): INCLUDE with no sources is nothing. *changed: there is
# something to report, `reports` times. 0 or -ENOMEM.
cdef int group_set(Net *n, Iface *i, const Addr *group, bint exclude, const Addr *sources, int count, uint8_t reports,
                   bint *changed) noexcept nogil
cdef GroupSource *group_source(Group *g, const Addr *source) noexcept nogil
# Frees the groups that nobody wants and nothing is to be told of.
cdef void groups_sweep(Iface *i) noexcept nogil
cdef void groups_forget(Net *n, Iface *i) noexcept nogil


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
