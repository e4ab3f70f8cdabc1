# What a host tells the routers of its groups, over IPv4 (IGMP) and IPv6 (MLD): what, and when.
from libc.stdint cimport uint8_t, uint32_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport Groups, Iface, Net

cdef enum GroupLevel:          # what is spoken
    LEVEL_1 = 1                # IGMPv1
    LEVEL_2 = 2                # IGMPv2, MLDv1
    LEVEL_3 = 3                # IGMPv3, MLDv2

# What sockets want of a group on an interface (see groups.pxd); reports it. 0 or -ENOMEM.
cdef int reports_set(Net *n, Iface *i, const Addr *group, bint exclude, const Addr *sources, int count) noexcept nogil
# An address of the interface needs the group, or no longer; reported with the next poll. 0 or -ENOMEM.
cdef int reports_own(Net *n, Iface *i, const Addr *group, bint on, bint silent) noexcept nogil
# Everything is reported as if it had just been joined.
cdef void reports_again(Net *n, Groups *m) noexcept nogil
cdef GroupLevel reports_level(const Net *n, const Groups *m) noexcept nogil
# A query of an older version was heard, which gives `most_ms` for an answer.
cdef void reports_older(Net *n, Groups *m, GroupLevel level, uint32_t most_ms) noexcept nogil
# A query: about everything (group `::` or 0.0.0.0), a group, or `many` sources of it, as they stand on the wire.
cdef void reports_asked(Net *n, Groups *m, const Addr *group, const uint8_t *sources, uint32_t many,
                        uint32_t most_ms) noexcept nogil
# Somebody else has reported the group: of use to who speaks an older version.
cdef void reports_heard(Net *n, Groups *m, const Addr *group) noexcept nogil
cdef void reports_timer(Net *n, Groups *m) noexcept nogil
