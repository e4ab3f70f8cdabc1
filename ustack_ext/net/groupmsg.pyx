"""IGMP and MLD messages (RFC 3376 §4, RFC 3810 §5): the headers that each has, and the link.

Responsible for the time to live of 1, the router alert (RFC 2113, RFC 2711), the source and the checksum. Not for what
is said, nor for when (reports).
"""
from libc.stdint cimport uint16_t
from libc.string cimport memset

from ustack_ext.wire.addr cimport (
    addr_bare_hi, addr_is_link_local, addr_none, addr_to_v4,
)
from ustack_ext.wire.bytes cimport put_be32
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_pseudo, csum_store
from ustack_ext.wire.headers cimport ETHERTYPE_IPV4, ETHERTYPE_IPV6
from ustack_ext.wire.ip6 cimport IP6_HLEN, IPPROTO_HOPOPTS_, IPPROTO_ICMPV6_, Ip6Hdr, ip6_emit
from ustack_ext.base.core cimport count
from ustack_ext.net.iface cimport addr_usable, iface_address
from ustack_ext.net.mib cimport Icmp6OutMsgs, Ip6OutRequests
from ustack_ext.net.output cimport output_link
from ustack_ext.net.state cimport Dst, Iface, MAX_IFADDRS, MEDIUM_LOOPBACK, TxPkt, tx_init, tx_payload, tx_push

cdef enum:
    ROUTER_ALERT = 0x94040000
    ROUTER_ALERT6 = 0x0502     # ... of two bytes that say MLD; then PadN
    ALERT6_LEN = 8
    CONTROL_TOS = 0xC0         # RFC 3376 §4: internetwork control
    IGMP = 2


cdef void push_ip4(Iface *i, const Addr *to, uint32_t length, TxPkt *t) noexcept nogil:
    cdef const Addr *own = iface_address(i, to)
    cdef uint8_t *p = tx_push(t, GROUP_HEADERS4)
    put_be32(p, <uint32_t>0x46 << 24 | <uint32_t>CONTROL_TOS << 16 | (GROUP_HEADERS4 + length))
    put_be32(p + 4, 0x4000)                            # atomic (RFC 6864 §4.1)
    put_be32(p + 8, <uint32_t>1 << 24 | <uint32_t>IGMP << 16)
    put_be32(p + 12, addr_to_v4(own) if own != NULL else 0)
    put_be32(p + 16, addr_to_v4(to))
    put_be32(p + 20, ROUTER_ALERT)
    csum_store(p + 10, csum_fold(csum_partial(p, GROUP_HEADERS4, 0)))


cdef Addr own_address(const Iface *i) noexcept nogil:
    """RFC 3810 §5.2.13: link-local, or `::` while there is none."""
    cdef int k
    for k in range(MAX_IFADDRS):
        if addr_usable(&i.addrs[k]) and addr_is_link_local(&i.addrs[k].addr):
            return i.addrs[k].addr
    return addr_none()


cdef void push_ip6(Iface *i, const Addr *to, uint8_t *message, uint32_t length, TxPkt *t) noexcept nogil:
    cdef uint8_t *p = tx_push(t, ALERT6_LEN)
    cdef Ip6Hdr h
    memset(&h, 0, sizeof(h))
    h.next = IPPROTO_HOPOPTS_
    h.hop_limit = 1
    h.payload_len = <uint16_t>(ALERT6_LEN + length)
    h.src = own_address(i)
    h.dst = to[0]
    csum_store(message + 2, csum_fold(csum_partial(message, length,
                                                   csum_pseudo(&h.src, to, IPPROTO_ICMPV6_, length))))
    h.src.hi = addr_bare_hi(h.src.hi)
    h.dst.hi = addr_bare_hi(h.dst.hi)
    put_be32(p, <uint32_t>IPPROTO_ICMPV6_ << 24 | ROUTER_ALERT6)
    put_be32(p + 4, 0x00000100)
    ip6_emit(tx_push(t, IP6_HLEN), &h)


cdef void group_send(Net *n, Groups *m, const Addr *to, uint8_t *message, uint32_t length) noexcept nogil:
    cdef Iface *i = m.iface
    cdef TxPkt t
    cdef Dst d
    if i.medium == MEDIUM_LOOPBACK or not i.up:
        return
    memset(&d, 0, sizeof(d))
    d.iface = i
    d.mtu = <uint16_t>min(i.mtu, <uint32_t>0xFFFF)
    d.generation = n.generation
    csum_store(message + 2, 0)
    tx_init(&t)
    tx_payload(&t, message, length)
    if m.six:
        push_ip6(i, to, message, length, &t)
        count(n.core, Ip6OutRequests)
        count(n.core, Icmp6OutMsgs)
    else:
        csum_store(message + 2, csum_fold(csum_partial(message, length, 0)))
        push_ip4(i, to, length, &t)
    output_link(n, &d, to, ETHERTYPE_IPV6 if m.six else ETHERTYPE_IPV4, &t)
