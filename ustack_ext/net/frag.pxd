# Reassembly of IPv4 datagrams and IPv6 packets.
from libc.stdint cimport uint8_t, uint32_t
from ustack_ext.base.buf cimport Buf
from ustack_ext.net.state cimport FragQueue, Fragment, Iface, Net, RxPkt

# rx holds one fragment, rx.l4 its payload. Returns the whole datagram (header at data[off], caller owns it) or NULL.
# *f is then that of the fragment at offset 0. *reason: what was dropped and why (a Drop counter), MIB_COUNT when
# nothing was.
cdef Buf *frag_input(Net *n, const RxPkt *rx, Fragment *f, int *reason) noexcept nogil
cdef void frag_timer(Net *n, FragQueue *q) noexcept nogil
cdef void frag_forget_iface(Net *n, Iface *i) noexcept nogil    # NULL: all
