# Forwarding between interfaces, and the reverse path filter.
from libc.stdint cimport uint32_t
from ustack_ext.net.state cimport Iface, Net, RxPkt, TxPkt

# A packet that is for somebody else, its IP header and source found good: sends it on, or says why not to its sender.
# The Drop counter it falls under, or MIB_COUNT.
cdef int forward_input(Net *n, RxPkt *rx) noexcept nogil
# RFC 3704: whether the source can be where the packet came from.
cdef bint reverse_path_ok(Net *n, const RxPkt *rx) noexcept nogil
# For both families. Bytes of the TCP header of a superframe, which has no extension headers; 0: it is none.
cdef uint32_t segment_header(const RxPkt *rx) noexcept nogil
# ... and a checksum that the link which brought the packet did without. t begins with the transport header.
cdef void renew_checksum(const RxPkt *rx, Iface *out, bint whole, TxPkt *t) noexcept nogil
