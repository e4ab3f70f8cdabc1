# How large segments are: what a SYN says of it, and what is sent (RFC 9293 §3.7.1; RFC 1191, 4821).
from libc.stdint cimport uint16_t, uint32_t
from ustack_ext.net.state cimport IP_MAX, Dst, Iface
from ustack_ext.tcp.options cimport OPTIONS_MAX
from ustack_ext.tcp.tcb cimport Tcb, Tcp
from ustack_ext.wire.addr cimport Addr, addr_is_v4

cdef enum:
    IP4_TCP_HEADERS = 40
    IP6_TCP_HEADERS = 60
    GSO_HEADERS = IP6_TCP_HEADERS + OPTIONS_MAX

# from the route's MTU, the peer's MSS, the options in force
cdef void update_mss(Tcp *t, Tcb *c) noexcept nogil
# bytes of IP of a segment with so much payload and options
cdef uint32_t mtu_of_mss(const Tcb *c, uint32_t mss) noexcept nogil
# what a SYN says (MUST-67)
cdef uint16_t mss_to_tell(Tcp *t, const Dst *d, const Addr *peer, uint16_t maxseg) noexcept nogil


cdef inline uint32_t gso_room(const Iface *i, const Addr *peer) noexcept nogil:
    """Bytes of IP in a superframe to the peer. Of IPv6 none goes beyond what its length field can say."""
    return i.gso_max if addr_is_v4(peer) else min(i.gso_max, <uint32_t>IP_MAX)
