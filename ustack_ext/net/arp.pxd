# ARP packets in, and RFC 5227's probing, announcing and defending of our own addresses.
from libc.stdint cimport uint8_t, uint32_t
from ustack_ext.net.state cimport IfAddr, Iface, Net

# One ARP packet (behind the Ethernet header). MIB_COUNT when it was used, else the drop reason.
cdef int arp_input(Net *n, Iface *i, const uint8_t *p, uint32_t length, bint to_us) noexcept nogil
# a new address: probe it if tentative, else announce it
cdef void arp_start(Net *n, IfAddr *ia) noexcept nogil
cdef void arp_timer(Net *n, IfAddr *ia) noexcept nogil
