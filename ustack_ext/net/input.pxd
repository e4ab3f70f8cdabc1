# Frames in: Ethernet, ARP, IPv4, fragments, ICMP; what remains is the transport's. IPv6 is input6's.
from ustack_ext.base.buf cimport Buf
from ustack_ext.base.iov cimport Offload
from ustack_ext.net.state cimport IcmpError, Iface, Net, RxPkt

cdef int frame_input(Net *n, Iface *i, Buf *buf, const Offload *off, RxPkt *rx, IcmpError *err,
                     Buf **owned) noexcept nogil
