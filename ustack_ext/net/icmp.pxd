# ICMP for IPv4: what comes in, and what we say.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.base.buf cimport Buf
from ustack_ext.net.state cimport Dst, IcmpError, Net, RxPkt, TxPkt

cdef int icmp_input(Net *n, RxPkt *rx, IcmpError *err) noexcept nogil         # a NetVerdict
cdef void icmp_error_about(Net *n, const RxPkt *rx, uint8_t type, uint8_t code, uint32_t rest) noexcept nogil
# That the gateway, on the link it came from, is the better first hop for it.
cdef void icmp_redirect_about(Net *n, const RxPkt *rx, const Addr *gateway) noexcept nogil
cdef void icmp_tell_sender(Net *n, const uint8_t *packet, uint32_t length) noexcept nogil
# An error made elsewhere about a packet that is quoted, within the limits.
cdef void icmp_refuse(Net *n, const Addr *src, const Addr *dst, uint8_t type, uint8_t code, const uint8_t *quote,
                      uint32_t length) noexcept nogil
cdef int icmp_echo_out(Net *n, Dst *d, const Addr *src, const Addr *dst, uint8_t ttl, uint8_t tos, bint reply,
                       uint16_t ident, uint16_t seq, TxPkt *t) noexcept nogil
# The limits of errors, ICMPv6's too: per target, and over all.
cdef bint icmp_target_allows(Net *n, const Addr *dst) noexcept nogil
cdef bint icmp_global_allows(Net *n) noexcept nogil
