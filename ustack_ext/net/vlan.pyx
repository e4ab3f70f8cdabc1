"""VLAN interfaces (IEEE 802.1Q): the tag, in and out.

Responsible for finding the interface that a tagged frame is for, and for putting the tag into what such an interface
sends. Nothing else in the stack knows of tags: a VLAN is an interface whose link is another interface, with that one's
link address and its offloads, since whoever can cut and sum up a frame without a tag can do so with one.
Not for priority tags (id 0), which name no VLAN (input), nor for tags within tags (802.1ad).
"""
from libc.errno cimport EEXIST, EINVAL, ENFILE
from libc.string cimport memcpy, memmove

from ustack_ext.wire.bytes cimport get_be16, put_be16
from ustack_ext.wire.headers cimport ETH_HLEN, ETHERTYPE_VLAN, VLAN_HLEN, VLAN_ID_MASK
from ustack_ext.base.buf cimport BUF_HASHED
from ustack_ext.base.iov cimport OFF_CSUM_WANTED, IoVec, Offload
from ustack_ext.net.frame cimport frame_transmit
from ustack_ext.net.iface cimport iface_insert
from ustack_ext.net.state cimport CARRIES_VLANS, MEDIUM_ETHERNET, TX_HEADROOM, TX_IOV_MAX

cdef enum:
    MACS = 12                  # bytes in front of the tag
    TAGGED = MACS + VLAN_HLEN
    ID_LAST = 4094             # 4095 is reserved, 0 is no VLAN
    PRIORITY_LAST = 7
    PRIORITY_SHIFT = 13


cdef int vlan_transmit(void *link, const IoVec *iov, int niov, const Offload *off) noexcept nogil:
    """The transmit function of a VLAN: the frame with its tag, out of the interface below."""
    cdef Iface *i = <Iface *>link
    cdef uint8_t head[TX_HEADROOM + VLAN_HLEN]
    cdef IoVec out[TX_IOV_MAX]
    cdef Offload moved = off[0]
    cdef uint32_t length = VLAN_HLEN
    cdef int k, more = 0
    if iov[0].len < ETH_HLEN:
        return -1
    memcpy(head, iov[0].base, MACS)
    put_be16(head + MACS, ETHERTYPE_VLAN)
    put_be16(head + MACS + 2, <uint16_t>(i.vlan_priority << PRIORITY_SHIFT | i.vlan_id))
    out[0].base = head
    if iov[0].len <= TX_HEADROOM:                      # headers: one piece again
        memcpy(head + TAGGED, <uint8_t *>iov[0].base + MACS, iov[0].len - MACS)
        out[0].len = iov[0].len + VLAN_HLEN
    elif niov < TX_IOV_MAX:
        out[0].len = TAGGED
        out[1].base = <uint8_t *>iov[0].base + MACS
        out[1].len = iov[0].len - MACS
        more = 1
    else:
        return -1
    for k in range(1, niov):
        out[k + more] = iov[k]
    for k in range(niov):
        length += <uint32_t>iov[k].len
    if moved.flags & OFF_CSUM_WANTED:
        moved.csum_start += VLAN_HLEN
    moved.hdr_len += VLAN_HLEN
    return frame_transmit(i.net, i.lower, out, niov + more, length, &moved)


cdef Iface *vlan_add(Net *n, Iface *lower, const char *name, uint32_t vlan_id, uint32_t priority,
                     int *error) noexcept nogil:
    cdef Iface *i = lower.vlans
    error[0] = -EINVAL
    if (lower.medium != MEDIUM_ETHERNET or lower.lower != NULL or not 1 <= vlan_id <= ID_LAST
            or priority > PRIORITY_LAST):
        return NULL
    while i != NULL:
        if i.vlan_id == vlan_id:
            error[0] = -EEXIST
            return NULL
        i = i.next_vlan
    i = iface_insert(n, name, MEDIUM_ETHERNET, lower.mac, lower.mtu, lower.offloads, vlan_transmit, NULL)
    if i == NULL:
        error[0] = -ENFILE
        return NULL
    i.link = i
    i.lower = lower
    i.vlan_id = <uint16_t>vlan_id
    i.vlan_priority = <uint8_t>priority
    i.next_vlan = lower.vlans
    lower.vlans = i
    lower.carries |= CARRIES_VLANS
    return i


cdef void vlan_unlink(Iface *i) noexcept nogil:
    cdef Iface **at = &i.lower.vlans
    while at[0] != i:
        at = &at[0].next_vlan
    at[0] = i.next_vlan
    if i.lower.vlans == NULL:
        i.lower.carries &= ~CARRIES_VLANS
    i.lower = NULL


cdef Iface *vlan_of(const Iface *lower, const Buf *buf) noexcept nogil:
    cdef const uint8_t *p = buf.data + buf.off
    cdef Iface *i = lower.vlans
    cdef uint16_t vlan_id
    if buf.len < ETH_HLEN + VLAN_HLEN or get_be16(p + MACS) != ETHERTYPE_VLAN:
        return NULL
    vlan_id = get_be16(p + ETH_HLEN) & VLAN_ID_MASK
    while i != NULL and i.vlan_id != vlan_id:
        i = i.next_vlan
    return i


cdef void vlan_untag(Buf *buf) noexcept nogil:
    cdef uint8_t *p = buf.data + buf.off
    memmove(p + VLAN_HLEN, p, MACS)
    buf.off += VLAN_HLEN
    buf.len -= VLAN_HLEN
    buf.flags &= <uint8_t>~BUF_HASHED                  # tcp/ahead took the tag for a packet
