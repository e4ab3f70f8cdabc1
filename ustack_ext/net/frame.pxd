# The last step out: one frame to the interface's link. Knows Ethernet's addresses, nothing of who they belong to.
from libc.stdint cimport uint8_t, uint32_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.base.iov cimport IoVec, Offload
from ustack_ext.net.state cimport Iface, Net

cdef int frame_transmit(Net *n, Iface *i, const IoVec *iov, int niov, uint32_t length,
                        const Offload *off) noexcept nogil
cdef void frame_arp(Net *n, Iface *i, const uint8_t *to, uint8_t op, uint32_t spa, const uint8_t *tha,
                    uint32_t tpa) noexcept nogil
cdef void mac_for_group(const Addr *dst, uint8_t *mac) noexcept nogil


cdef inline bint mac_is_group(const uint8_t *mac) noexcept nogil:
    return mac[0] & 1


cdef inline bint mac_is_zero(const uint8_t *mac) noexcept nogil:
    return (mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]) == 0
