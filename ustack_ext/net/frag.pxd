# Reassembly of IPv4 datagrams.
from libc.stdint cimport uint8_t, uint32_t
from ustack_ext.wire.headers cimport Ip4Hdr
from ustack_ext.base.buf cimport Buf
from ustack_ext.net.state cimport FragQueue, Iface, Net, RxPkt

# rx holds one fragment with header h. Returns the whole datagram (header at data[off], caller owns it) or NULL.
# *reason: what was dropped and why (a Drop counter), MIB_COUNT when nothing was.
cdef Buf *frag_input(Net *n, const RxPkt *rx, const Ip4Hdr *h, int *reason) noexcept nogil
cdef void frag_timer(Net *n, FragQueue *q) noexcept nogil
cdef void frag_forget_iface(Net *n, Iface *i) noexcept nogil    # NULL: all
