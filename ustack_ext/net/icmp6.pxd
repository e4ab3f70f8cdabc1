# ICMPv6: what comes in (Neighbor Discovery and MLD are nd's and mld's), and what we say.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport Dst, IcmpError, Iface, Net, RxPkt, TxPkt

cdef int icmp6_input(Net *n, RxPkt *rx, IcmpError *err) noexcept nogil        # a NetVerdict
cdef void icmp6_error_about(Net *n, const RxPkt *rx, uint8_t type, uint8_t code, uint32_t rest) noexcept nogil
# RFC 4443 §2.4 (e): whether anything may be said about the packet.
cdef bint icmp6_may_complain(const RxPkt *rx, uint8_t type, uint8_t code) noexcept nogil
# Address unreachable, to whoever sent the packet (at `packet`, which is changed) that nobody took: us, or for whom we
# forwarded it.
cdef void icmp6_tell_sender(Net *n, Iface *i, uint8_t *packet, uint32_t length) noexcept nogil
# An error made elsewhere about a packet that is quoted, within the limits.
cdef void icmp6_refuse(Net *n, const Addr *src, const Addr *dst, uint8_t type, uint8_t code, const uint8_t *quote,
                       uint32_t length) noexcept nogil
cdef int icmp6_echo_out(Net *n, Dst *d, const Addr *src, const Addr *dst, uint8_t ttl, uint8_t tos, bint reply,
                        uint16_t ident, uint16_t seq, TxPkt *t) noexcept nogil
