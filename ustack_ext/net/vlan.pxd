# 802.1Q VLANs: an interface whose frames are another one's, with a tag.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from ustack_ext.base.buf cimport Buf
from ustack_ext.net.state cimport Iface, Net

# A new interface on `lower`, with its MTU, link address and offloads. NULL, and in *error: -EINVAL (no Ethernet, a VLAN
# itself, no such id or priority), -EEXIST (there is one with this id), -ENFILE (there are MAX_IFACES).
cdef Iface *vlan_add(Net *n, Iface *lower, const char *name, uint32_t vlan_id, uint32_t priority,
                     int *error) noexcept nogil
cdef void vlan_unlink(Iface *i) noexcept nogil
# The VLAN that a frame of `lower` belongs to, by its tag; NULL: none.
cdef Iface *vlan_of(const Iface *lower, const Buf *buf) noexcept nogil
# Takes the tag off a frame that vlan_of found an interface for.
cdef void vlan_untag(Buf *buf) noexcept nogil
