# Addresses are 128 bits everywhere; IPv4 is ::ffff:a.b.c.d (RFC 4291 §2.5.5.2). Values are kept in host order: hi holds
# the first 64 bits. Prefix lengths count in the 128-bit space: an IPv4 /24 is 120.
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


cdef inline bint addr_is_any(const Addr *a) noexcept nogil:
    """`::` or 0.0.0.0."""
    return a.hi == 0 and (a.lo == 0 or a.lo == (<uint64_t>0xFFFF << 32))


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
