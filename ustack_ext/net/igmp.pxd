# IGMP, host side: what comes in, what is reported, and when.
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport Iface, Igmp, Net, RxPkt

# What sockets want of a group on an interface (see groups.pxd); reports it. 0 or -ENOMEM.
cdef int igmp_set(Net *n, Iface *i, const Addr *group, bint exclude, const Addr *sources, int count) noexcept nogil
cdef void igmp_input(Net *n, RxPkt *rx) noexcept nogil
cdef void igmp_timer(Net *n, Igmp *m) noexcept nogil
