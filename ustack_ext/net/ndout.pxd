# Neighbor Discovery's messages out, on Ethernet, to a link address that is known: below the neighbour table.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport Iface, Net

# A neighbour solicitation from src (`::`: duplicate address detection, with the nonce) for target; mac NULL: to the
# target's solicited-node group.
cdef void nd_solicit(Net *n, Iface *i, const Addr *src, const Addr *target, const uint8_t *mac,
                     uint64_t nonce) noexcept nogil
# A neighbour advertisement for one of our addresses, to dst at mac (NULL: the group's).
cdef void nd_advertise(Net *n, Iface *i, const Addr *target, const Addr *dst, const uint8_t *mac,
                       uint8_t flags) noexcept nogil
cdef void nd_ask_routers(Net *n, Iface *i, const Addr *src) noexcept nogil

cdef enum:
    ND_HOP_LIMIT = 255


cdef inline Addr addr_all_nodes(uint32_t zone) noexcept nogil:
    cdef Addr a
    a.hi = <uint64_t>0xFF02 << 48 | <uint64_t>zone << 32
    a.lo = 1
    return a


cdef inline Addr addr_solicited_node(const Addr *a, uint32_t zone) noexcept nogil:
    """ff02::1:ffXX:XXXX (RFC 4291 §2.7.1)."""
    cdef Addr r
    r.hi = <uint64_t>0xFF02 << 48 | <uint64_t>zone << 32
    r.lo = <uint64_t>1 << 32 | <uint64_t>0xFF000000 | (a.lo & 0xFFFFFF)
    return r
