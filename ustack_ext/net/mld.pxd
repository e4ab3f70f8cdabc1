# MLDv2 (RFC 3810) as a listener: so that snooping switches let the groups of our addresses through.
from libc.stdint cimport uint64_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport Iface, Net, RxPkt

cdef void mld_input(Net *n, RxPkt *rx) noexcept nogil             # a query
cdef void mld_changed(Net *n, Iface *i) noexcept nogil            # there is a group more: reports soon, and once again
cdef void mld_left(Net *n, Iface *i, const Addr *group) noexcept nogil
cdef uint64_t mld_timer(Net *n, Iface *i) noexcept nogil          # sends what is due. When next, ns; UINT64_MAX: never
