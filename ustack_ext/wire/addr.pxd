# Addresses are 128 bits everywhere; IPv4 is ::ffff:a.b.c.d (RFC 4291 §2.5.5.2). Values are kept in host order: hi holds
# the first 64 bits. Prefix lengths count in the 128-bit space: an IPv4 /24 is 120.
#
# An address that means something on one link only (fe80::/10, groups of interface-local and link-local scope) carries
# its zone (RFC 4007 §6), the index of the interface, in bits 32..47 of `hi`, which are zero on the wire: so two links'
# fe80::1 differ in every table. It is put there where packets and sockaddrs come in and taken out where they leave.
#
# There are three wildcards: `::` is any address of both families, and "not given"; 0.0.0.0 (::ffff:0:0) any of IPv4;
# addr_any6() any of IPv6 only (what an IPV6_V6ONLY socket is bound to; its bits are no address).
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef struct Addr:
    uint64_t hi
    uint64_t lo

cdef enum:
    V4_BITS = 96                  # an IPv4 prefix length plus this is the length in the 128-bit space
    V4_MARK = 0xFFFF              # bits 32..47 of lo


cdef inline Addr addr_v4(uint32_t ip) noexcept nogil:
    cdef Addr a
    a.hi = 0
    a.lo = (<uint64_t>0xFFFF << 32) | ip
    return a


cdef inline Addr addr_none() noexcept nogil:
    """`::`, meaning "not given": also what a wildcard bind holds."""
    cdef Addr a
    a.hi = 0
    a.lo = 0
    return a


cdef inline bint addr_is_v4(const Addr *a) noexcept nogil:
    return a.hi == 0 and (a.lo >> 32) == 0xFFFF


cdef inline uint32_t addr_to_v4(const Addr *a) noexcept nogil:
    return <uint32_t>a.lo


cdef inline bint addr_eq(const Addr *a, const Addr *b) noexcept nogil:
    return a.hi == b.hi and a.lo == b.lo


cdef inline Addr addr_any6() noexcept nogil:
    """Any IPv6 address, and no IPv4 one."""
    cdef Addr a
    a.hi = 0
    a.lo = <uint64_t>1 << 63
    return a


cdef inline bint addr_is_any(const Addr *a) noexcept nogil:
    """`::`, 0.0.0.0, or any IPv6 address."""
    return a.hi == 0 and (a.lo == 0 or a.lo == (<uint64_t>0xFFFF << 32) or a.lo == <uint64_t>1 << 63)


cdef inline Addr addr_localhost(const Addr *wild) noexcept nogil:
    """What a wildcard means as a destination: 127.0.0.1 for IPv4's, else ::1."""
    cdef Addr a = addr_v4(0x7F000001)
    if not addr_is_v4(wild):
        a.lo = 1
    return a


cdef inline bint addr_any_holds(const Addr *wild, const Addr *a) noexcept nogil:
    """Whether a wildcard covers the address."""
    return wild.lo == 0 or addr_is_v4(wild) == addr_is_v4(a)


cdef inline bint addr_meet(const Addr *a, const Addr *b) noexcept nogil:
    """Whether two bound addresses, wildcards or not, have an address in common."""
    if addr_is_any(a):
        return b.lo == 0 and b.hi == 0 or addr_any_holds(a, b)
    if addr_is_any(b):
        return addr_any_holds(b, a)
    return addr_eq(a, b)


cdef inline bint addr_is_link_local(const Addr *a) noexcept nogil:
    """fe80::/10."""
    return a.hi >> 54 == 0x3FA


cdef inline int addr_scope(const Addr *a) noexcept nogil:
    """RFC 4291 §2.7's number: of a group the one it says, else 2 (link), 5 (site) or 14. RFC 6724 §3.2 for IPv4."""
    if a.hi >> 56 == 0xFF:
        return <int>(a.hi >> 48 & 15)
    if addr_is_v4(a):
        return 2 if (<uint32_t>a.lo >> 16) == 0xA9FE or (<uint32_t>a.lo >> 24) == 127 else 14
    if a.hi >> 54 == 0x3FA or (a.hi == 0 and a.lo == 1):
        return 2
    return 5 if a.hi >> 54 == 0x3FB else 14


cdef inline bint addr_has_zone(const Addr *a) noexcept nogil:
    """Whether it means something on one link only."""
    return a.hi >> 54 == 0x3FA or (a.hi >> 56 == 0xFF and (a.hi >> 48 & 15) <= 2)


cdef inline uint32_t addr_zone(const Addr *a) noexcept nogil:
    """The index of its interface, 0: none is said. Of an address with addr_has_zone()."""
    return <uint32_t>(a.hi >> 32 & 0xFFFF)


cdef inline uint64_t addr_bare_hi(uint64_t hi) noexcept nogil:
    """The upper half as it stands on the wire."""
    if hi >> 54 == 0x3FA or (hi >> 56 == 0xFF and (hi >> 48 & 15) <= 2):
        return hi & ~(<uint64_t>0xFFFF << 32)
    return hi


cdef inline Addr addr_zoned(const Addr *a, uint32_t zone) noexcept nogil:
    """The address with its zone, where it is of a kind that has one."""
    cdef Addr r = a[0]
    if addr_has_zone(a):
        r.hi = (a.hi & ~(<uint64_t>0xFFFF << 32)) | <uint64_t>(zone & 0xFFFF) << 32
    return r


cdef inline bint addr_is_loopback(const Addr *a) noexcept nogil:
    """127/8 or ::1."""
    return a.hi == 0 and (a.lo == 1 or (a.lo >> 24) == 0xFFFF7F)


cdef inline bint addr_is_multicast(const Addr *a) noexcept nogil:
    """224/4 or ff00::/8."""
    return (a.hi >> 56) == 0xFF or (addr_is_v4(a) and (<uint32_t>a.lo >> 28) == 0xE)


cdef inline bint addr_is_broadcast(const Addr *a) noexcept nogil:
    """255.255.255.255."""
    return a.hi == 0 and a.lo == ((<uint64_t>0xFFFF << 32) | <uint64_t>0xFFFFFFFF)


cdef inline bint addr_in_prefix(const Addr *a, const Addr *prefix, int plen) noexcept nogil:
    if plen <= 0:
        return True
    if plen <= 64:
        return ((a.hi ^ prefix.hi) >> (64 - plen)) == 0
    if plen >= 128:
        return a.hi == prefix.hi and a.lo == prefix.lo
    return a.hi == prefix.hi and ((a.lo ^ prefix.lo) >> (128 - plen)) == 0


cdef inline Addr addr_mask(const Addr *a, int plen) noexcept nogil:
    """The prefix: `a` with all but the first `plen` bits cleared."""
    cdef Addr r
    r.hi = 0 if plen <= 0 else (a.hi if plen >= 64 else a.hi & ~((<uint64_t>1 << (64 - plen)) - 1))
    r.lo = 0 if plen <= 64 else (a.lo if plen >= 128 else a.lo & ~((<uint64_t>1 << (128 - plen)) - 1))
    return r
