# Router advertisements (RFC 4861 §6.3.4, RFC 4862 §5.5.3, RFC 8106).
from libc.stdint cimport uint8_t, uint32_t
from ustack_ext.wire.ip6 cimport Icmp6Hdr
from ustack_ext.net.state cimport Net, RxPkt

cdef enum:                         # Iface6.ra_flags
    RA_MANAGED = 0x80
    RA_OTHER = 0x40
    RA_HEARD = 0x01                # of ours: there was one

# Its options are whole; what stands before them is all there.
cdef void ra_input(Net *n, RxPkt *rx, const Icmp6Hdr *h, const uint8_t *options, uint32_t length) noexcept nogil
