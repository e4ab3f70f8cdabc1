# IPv4 network address translation behind interfaces that masquerade.
from libc.stdint cimport uint8_t, uint16_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport Iface, Nat, NatFlow, Net, RxPkt

# Begin or end masquerading on an interface. 0 or -ENOMEM.
cdef int nat_masquerade(Net *n, Iface *i, bint on) noexcept nogil
# What comes to a port of the interface's addresses is for to:to_port. 0, -EEXIST, -ENOBUFS, -ENOMEM.
cdef int nat_forward_add(Net *n, Iface *i, uint8_t proto, uint16_t port, const Addr *to,
                         uint16_t to_port) noexcept nogil
cdef int nat_forward_del(Net *n, Iface *i, uint8_t proto, uint16_t port) noexcept nogil        # 0 or -ENOENT
cdef void nat_forget_iface(Net *n, Iface *i) noexcept nogil         # with its flows and forwards; NULL: all
cdef void nat_destroy(Net *n) noexcept nogil
cdef void nat_timer(Net *n, NatFlow *f) noexcept nogil

# A packet that goes out by a masqueraded interface: its source becomes the interface's. A Drop counter, or MIB_COUNT.
cdef int nat_out(Net *n, RxPkt *rx, Iface *i) noexcept nogil
# A packet for one of our addresses that came in by such an interface. True: it is for an inner host, as rx now says.
cdef bint nat_in(Net *n, RxPkt *rx) noexcept nogil
# Makes a packet what it was before nat_in, to be quoted to who sent it.
cdef void nat_undo(RxPkt *rx) noexcept nogil
