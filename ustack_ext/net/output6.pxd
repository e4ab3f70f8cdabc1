# IPv6 out: its header, flow label and fragmentation; where to and the link are output's.
from libc.stdint cimport uint8_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport Dst, Net, TxPkt

# net_output's work for IPv6; see net.pxd. Neither address may be IPv4's.
cdef int output6_packet(Net *n, Dst *d, const Addr *src, const Addr *dst, uint8_t proto, uint8_t ttl, uint8_t tos,
                        bint df, TxPkt *t) noexcept nogil
