# Our IPv6 addresses: where they come from, whether somebody else has them, how long they hold.
from libc.stdint cimport uint32_t, uint64_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport IfAddr, Iface, Net

# An address by hand; its zone is filled in. The first one brings a link-local address with it (RFC 4291 §2.1). check:
# by duplicate address detection first. 0 or -errno as addr_insert.
cdef int addr6_add(Net *n, Iface *i, const Addr *a, int plen, bint check) noexcept nogil
# From now on routers' advertisements are listened to and asked for (RFC 4861 §6.3.7, RFC 4862).
cdef int addr6_autoconf(Net *n, Iface *i) noexcept nogil
# net.ipv6.conf.IF.disable_ipv6.
cdef void addr6_disable(Net *n, Iface *i, bint disable) noexcept nogil
# A router's prefix with the autonomous flag (RFC 4862 §5.5.3); lifetimes in s, all ones: for ever.
cdef void addr6_prefix(Net *n, Iface *i, const Addr *prefix, uint32_t preferred, uint32_t valid) noexcept nogil
cdef void addr6_conflict(Net *n, IfAddr *ia) noexcept nogil       # somebody else has, or wants, it
cdef void addr6_timer(Net *n, IfAddr *ia) noexcept nogil
cdef void iface6_timer(Net *n, Iface *i) noexcept nogil
cdef void iface6_arm(Net *n, Iface *i) noexcept nogil             # something of Iface6 changed that has a time


cdef inline uint64_t lifetime_until(uint64_t now, uint32_t seconds) noexcept nogil:
    """ns; all ones are for ever (RFC 4861 §4.6.2)."""
    return ~<uint64_t>0 if seconds == <uint32_t>0xFFFFFFFF else now + <uint64_t>seconds * 1000000000
