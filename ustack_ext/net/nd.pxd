# Neighbor Discovery in (RFC 4861): solicitations, advertisements and redirects; routers' advertisements are ra's.
from ustack_ext.wire.ip6 cimport Icmp6Hdr
from ustack_ext.net.state cimport Net, RxPkt

cdef void nd_input(Net *n, RxPkt *rx, const Icmp6Hdr *h) noexcept nogil       # the checksum is right
