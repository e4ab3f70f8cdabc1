# Interfaces and our own addresses: what is local, what is broadcast, which source to use.
from libc.stdint cimport uint8_t, uint32_t
from ustack_ext.wire.addr cimport Addr, addr_eq, addr_is_broadcast, addr_is_loopback
from ustack_ext.net.state cimport (
    ADDR_DEPRECATED, ADDR_PREFERRED, AddrState, IfAddr, Iface, IfaceKnobs, Net, transmit_fn,
)

cdef Iface *iface_insert(Net *n, const char *name, int medium, const uint8_t *mac, uint32_t mtu, uint32_t offloads,
                         transmit_fn transmit, void *link) noexcept nogil
# routes and addresses go; neighbours and fragments went before
cdef void iface_free(Net *n, Iface *i) noexcept nogil
cdef Iface *iface_find(Net *n, const char *name) noexcept nogil
cdef Iface *iface_by_index(Net *n, uint32_t index) noexcept nogil
cdef Iface *iface_of(const Net *n, const Addr *a) noexcept nogil  # which has the address, in any state; NULL: none
# A knob that routing depends on was set: what was concluded from it is concluded anew.
cdef void knobs_changed(Net *n) noexcept nogil
# conf.all.forwarding was set (only NULL: each interface takes it over), or an interface's own.
cdef void forwarding_changed(Net *n, Iface *only, bint six) noexcept nogil
# The interface's usable address in `near`'s prefix, else its first one of that family, else NULL.
cdef const Addr *iface_address(Iface *i, const Addr *near) noexcept nogil
cdef int addr_insert(Net *n, Iface *i, const Addr *a, int plen, AddrState state, IfAddr **out) noexcept nogil
cdef int addr_activate(Net *n, IfAddr *ia) noexcept nogil        # usable from now on: connected route, local, broadcast
cdef void addr_disable(Net *n, IfAddr *ia, AddrState state) noexcept nogil
cdef int addr_remove(Net *n, Iface *i, const Addr *a) noexcept nogil
cdef IfAddr *addr_find(Iface *i, const Addr *a) noexcept nogil   # in any state
cdef int source_for(Net *n, const Addr *dst, Addr *source) noexcept nogil
cdef Iface *iface_for_group(Net *n, const Addr *src, const Addr *dst) noexcept nogil
cdef void addr_deprecate(Net *n, IfAddr *ia) noexcept nogil      # nothing new begins with it


cdef inline bint addr_usable(const IfAddr *ia) noexcept nogil:
    return ia.used and (ia.state == ADDR_PREFERRED or ia.state == ADDR_DEPRECATED)


cdef inline bint is_ours(const Net *n, const Addr *a) noexcept nogil:
    """A usable address of any interface (the weak host model of RFC 1122 §3.3.4.2, as Linux has it), or loopback."""
    cdef int k
    for k in range(n.n_locals):
        if addr_eq(&n.locals[k], a):
            return True
    return addr_is_loopback(a)


cdef inline bint sends_as(const Net *n, const Addr *a) noexcept nogil:
    """Whether a packet from this address may have been sent by us: one of ours, or, with forwarders, any host's."""
    return is_ours(n, a) or (n.foreign != 0 and not addr_is_loopback(a))


cdef inline bint is_our_broadcast(const Net *n, const Addr *a) noexcept nogil:
    cdef int k
    if addr_is_broadcast(a):
        return True
    for k in range(n.n_broadcasts):
        if addr_eq(&n.broadcasts[k], a):
            return True
    return False
