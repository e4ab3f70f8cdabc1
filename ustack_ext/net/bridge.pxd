# A bridge of Ethernet interfaces (IEEE 802.1D, without spanning tree).
from libc.stdint cimport uint8_t, uint64_t
from ustack_ext.base.buf cimport Buf
from ustack_ext.base.iov cimport Offload
from ustack_ext.net.state cimport Bridge, Iface, Net

# A bridge and its own interface, with the least MTU and the common offloads of `ports` (one at least). NULL, and in
# *error: -EINVAL (no Ethernet, or a port with an address), -EBUSY (a port of a bridge already), -ELOOP (a bridge, or on
# one), -ENFILE (there are MAX_IFACES), -ENOMEM.
cdef Iface *bridge_add(Net *n, const char *name, Iface **ports, int n_ports, const uint8_t *mac, uint64_t ageing,
                       int *error) noexcept nogil
# An interface is about to go: as a port, or with its bridge.
cdef void bridge_forget(Net *n, Iface *i) noexcept nogil
# A frame, of ETH_HLEN bytes at least, from a port: learns, and sends it on. The bridge's own interface where it is
# (also) for the stack itself, NULL where that was all.
cdef Iface *bridge_input(Net *n, Iface *port, Buf *buf, const Offload *off) noexcept nogil


cdef inline bint is_port(const Iface *i) noexcept nogil:
    return i.bridge != NULL and i.bridge.iface != i
