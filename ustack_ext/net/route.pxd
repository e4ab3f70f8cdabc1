# The routing tables: sorted, longest prefix first, then metric, then age. What looks for a way asks rule's route_for.
from libc.stdint cimport uint32_t, uint64_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport Iface, Net, Route

cdef Route *route_lookup(Net *n, const Addr *dst, Iface *only) noexcept nogil     # only NULL: any interface
cdef Route *table_lookup(Net *n, uint32_t table, const Addr *dst, Iface *only) noexcept nogil
cdef int route_insert(Net *n, uint32_t table, const Addr *prefix, int plen, const Addr *gateway, Iface *i,
                      uint32_t metric, uint32_t mtu, const Addr *source) noexcept nogil
cdef int route_remove(Net *n, uint32_t table, const Addr *prefix, int plen, const Addr *gateway,
                      Iface *i) noexcept nogil
cdef void route_forget_iface(Net *n, Iface *i) noexcept nogil
cdef void route_forget_source(Net *n, Iface *i, const Addr *source) noexcept nogil
cdef void route_learn(Net *n, const Addr *prefix, int plen, const Addr *gateway, Iface *i, uint32_t metric,
                      uint64_t until) noexcept nogil
cdef void route_forget_router(Net *n, Iface *i, const Addr *gateway) noexcept nogil
cdef void route_forget_routers(Net *n, Iface *i) noexcept nogil
cdef uint64_t route_expire(Net *n, Iface *i) noexcept nogil


cdef inline void net_changed(Net *n) noexcept nogil:
    """Every Dst kept anywhere has to be resolved again. 0 stays "never resolved"."""
    n.generation += 1
    if n.generation == 0:
        n.generation = 1
