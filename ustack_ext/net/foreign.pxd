# Flows to any destination: what is taken in though it is for no address of ours, and how a flow is refused.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport Net, RxPkt

cdef struct FlowId:                # one request to open a flow; what is stale finds nothing
    Addr laddr                     # the original destination
    Addr raddr                     # who asks
    uint16_t lport
    uint16_t rport
    uint32_t serial                # TCP: the SYN's sequence number; UDP: a count

cdef enum FlowRefusal:
    FLOW_DROP                      # say nothing
    FLOW_RESET                     # TCP: RST, as if nobody listened there
    FLOW_UNREACHABLE               # ICMP destination unreachable, with a code

# Whether somebody forwards flows such as this packet's, which is to no address of ours; sets RX_FOREIGN.
cdef bint foreign_takes(Net *n, RxPkt *rx) noexcept nogil
# Tells `src` that its packet to `dst` went nowhere: destination unreachable with that code of its family's ICMP,
# quoting the packet's header, made anew, and the first `length` bytes (at least 8) of its transport header.
cdef void foreign_refuse(Net *n, const Addr *src, const Addr *dst, uint8_t proto, const uint8_t *l4, uint32_t length,
                         uint8_t code) noexcept nogil
# Switches FOREIGN_* bits on or off.
cdef void foreign_set(Net *n, uint8_t bits, bint on) noexcept nogil
