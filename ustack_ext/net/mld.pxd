# MLD as a listener: what comes in, and the groups that the addresses of an interface need.
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport Iface, Net, RxPkt

cdef void mld_input(Net *n, RxPkt *rx) noexcept nogil             # a query, or another's report of version 1
# The interface has an address more or less: the solicited-node groups follow.
cdef void mld_addresses(Net *n, Iface *i) noexcept nogil
# There is a link-local address to report from: what was said from `::` is said again.
cdef void mld_announce(Net *n, Iface *i) noexcept nogil
# Whether what is sent to the group is for the interface (RFC 4291 §2.7.1).
cdef bint mld_listens(Iface *i, const Addr *group) noexcept nogil
