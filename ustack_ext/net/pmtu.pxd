# Path MTU by destination, of either family: what routers said, and what packetization layer discovery knows.
from libc.stdint cimport uint32_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport Net, Pmtu

cdef Pmtu *pmtu_find(Net *n, const Addr *dst) noexcept nogil       # NULL: nothing is known
cdef Pmtu *pmtu_get(Net *n, const Addr *dst) noexcept nogil        # found or made; NULL: no memory
# A router says that the path to `dst` carries packets of `mtu` bytes, where `current` is what is assumed (ICMP's
# fragmentation needed, ICMPv6's packet too big). Whoever calls has proved that it is about a packet of its own. True:
# it is smaller than that, is kept, and every Dst is stale.
cdef bint pmtu_too_big(Net *n, const Addr *dst, uint32_t mtu, uint32_t current) noexcept nogil
# The packetization layer has proved packets of `low` bytes, and disproved ones beyond `high` (0: none yet).
cdef void pmtu_search(Net *n, Pmtu *p, uint32_t low, uint32_t high) noexcept nogil
cdef void pmtu_clear(Net *n) noexcept nogil
cdef void pmtu_timer(Net *n, Pmtu *p) noexcept nogil
