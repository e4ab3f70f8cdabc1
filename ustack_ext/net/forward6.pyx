"""A router's part of IPv6: sends on what is for others (RFC 8200 §3, §4.3; RFC 4291 §2.5; RFC 4007 §9 for scopes),
where net.ipv6.conf.all.forwarding asks for it.

Responsible for what may be forwarded, the hop limit, the size, and the errors a router owes (RFC 4443 §3). Not for
routes, the limits of errors (icmp6), redirects (redirect). Nothing is cut: what is too big for the next link is
answered (RFC 8200 §5). Groups, and addresses that mean something on one link only, never pass.

As in forward the packet is not copied: its header is rewritten in front of the bytes it came with.
"""
from libc.errno cimport EHOSTUNREACH, ENOBUFS
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from ustack_ext.wire.addr cimport addr_is_any, addr_is_link_local, addr_is_loopback, addr_is_multicast
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_pseudo, csum_store
from ustack_ext.wire.headers cimport ETHERTYPE_IPV6, IPPROTO_TCP_, IPPROTO_UDP_, TCP_HLEN, UDP_HLEN
from ustack_ext.wire.ip6 cimport (
    EXT6_MAX, ICMP6_TIME_EXCEEDED, ICMP6_TOO_BIG, ICMP6_UNREACH, ICMP6_UNREACH_ADDRESS, ICMP6_UNREACH_NOROUTE,
    ICMP6_UNREACH_SCOPE, IP6_HLEN, IPPROTO_DSTOPTS_, IPPROTO_HOPOPTS_, IPPROTO_ROUTING_, ext6_length,
)
from ustack_ext.base.core cimport count
from ustack_ext.base.iov cimport OFF_GSO_TCP6, OFF_GSO_UDP
from ustack_ext.net.forward cimport renew_checksum, segment_header
from ustack_ext.net.icmp6 cimport icmp6_error_about
from ustack_ext.net.mib cimport (
    DropForwardMartian, DropForwardNoRoute, DropForwardTooBig, DropForwardTtl, Ip6InHdrErrors, Ip6InNoRoutes,
    Ip6InTooBigErrors, Ip6OutForwDatagrams, MIB_COUNT,
)
from ustack_ext.net.output cimport output_link, output_resolve_from
from ustack_ext.net.redirect cimport redirect_about
from ustack_ext.net.state cimport (
    Dst, MEDIUM_LOOPBACK, RX_CSUM_OK, RX_LINK_BROADCAST, RX_LOOPBACK, TxPkt, tx_init, tx_payload, tx_push,
)

cdef enum:
    HOP_LIMIT_AT = 7


cdef bint may_forward(const RxPkt *rx) noexcept nogil:
    """RFC 4291 §2.5.2, §2.5.3, §2.5.6, §2.7."""
    if rx.flags & (RX_LOOPBACK | RX_LINK_BROADCAST):
        return False
    if addr_is_multicast(&rx.dst) or addr_is_loopback(&rx.dst) or addr_is_link_local(&rx.dst):
        return False
    return not (addr_is_any(&rx.src) or addr_is_multicast(&rx.src) or addr_is_loopback(&rx.src))


cdef void finish_checksum(const RxPkt *rx) noexcept nogil:
    """Of a transport header behind extension headers, which no link of ours is asked to do; as renew_checksum. A
    fragment's is not looked for: nobody vouched for it."""
    cdef uint8_t *p = rx.l3 + IP6_HLEN
    cdef uint8_t proto = rx.l3[6]
    cdef uint32_t left = rx.l3_len - IP6_HLEN, length, at
    cdef int headers = EXT6_MAX
    while proto == IPPROTO_HOPOPTS_ or proto == IPPROTO_DSTOPTS_ or proto == IPPROTO_ROUTING_:
        length = ext6_length(p, left)
        headers -= 1
        if length == 0 or headers < 0 or (proto == IPPROTO_ROUTING_ and p[3] != 0):
            return                                     # the checksum covers another destination
        proto = p[0]
        p += length
        left -= length
    if not (proto == IPPROTO_TCP_ and left >= TCP_HLEN or proto == IPPROTO_UDP_ and left >= UDP_HLEN):
        return
    at = 16 if proto == IPPROTO_TCP_ else 6
    if proto == IPPROTO_UDP_ and p[6] == 0 and p[7] == 0:
        return
    csum_store(p + at, 0)
    csum_store(p + at, csum_fold(csum_partial(p, left, csum_pseudo(&rx.src, &rx.dst, proto, left))))
    if proto == IPPROTO_UDP_ and p[6] == 0 and p[7] == 0:
        csum_store(p + at, 0xFFFF)


cdef int send_on(Net *n, RxPkt *rx, Dst *d, uint32_t segment) noexcept nogil:
    cdef bint plain = rx.l4 == rx.l3 + IP6_HLEN
    cdef uint8_t *body = rx.l3 + IP6_HLEN
    cdef uint32_t length = rx.l3_len - IP6_HLEN
    cdef TxPkt t
    cdef uint8_t *p
    tx_init(&t)
    if segment > 0:
        memcpy(tx_push(&t, segment), body, segment)
        t.off.gso_size = rx.gso_size
        t.off.flags |= OFF_GSO_TCP6 if rx.proto == IPPROTO_TCP_ else OFF_GSO_UDP
    if length > segment:
        tx_payload(&t, body + segment, length - segment)
    if rx.flags & RX_CSUM_OK:
        if plain:
            renew_checksum(rx, d.iface, True, &t)
        else:
            finish_checksum(rx)
    p = tx_push(&t, IP6_HLEN)
    memcpy(p, rx.l3, IP6_HLEN)
    p[HOP_LIMIT_AT] -= 1
    t.off.csum_start += IP6_HLEN
    return output_link(n, d, &rx.dst, ETHERTYPE_IPV6, &t)


cdef int no_way(Net *n, RxPkt *rx, int status) noexcept nogil:
    count(n.core, Ip6InNoRoutes)
    if status != -ENOBUFS:                             # no room for a neighbour is nobody's fault
        icmp6_error_about(n, rx, ICMP6_UNREACH,
                          ICMP6_UNREACH_ADDRESS if status == -EHOSTUNREACH else ICMP6_UNREACH_NOROUTE, 0)
    return DropForwardNoRoute


cdef int forward6_input(Net *n, RxPkt *rx) noexcept nogil:
    cdef uint32_t segment = segment_header(rx) if rx.l4 == rx.l3 + IP6_HLEN else 0
    cdef uint32_t largest = rx.l3_len if segment == 0 else IP6_HLEN + segment + rx.gso_size
    cdef Dst d
    cdef int status
    if not may_forward(rx):
        return DropForwardMartian
    if addr_is_link_local(&rx.src):                    # RFC 4007 §9: it would leave its zone
        icmp6_error_about(n, rx, ICMP6_UNREACH, ICMP6_UNREACH_SCOPE, 0)
        return DropForwardMartian
    if rx.ttl <= 1:
        count(n.core, Ip6InHdrErrors)
        icmp6_error_about(n, rx, ICMP6_TIME_EXCEEDED, 0, 0)
        return DropForwardTtl
    memset(&d, 0, sizeof(d))
    status = output_resolve_from(n, &d, &rx.src, &rx.dst, rx.iface)
    if status == 0 and d.iface.medium == MEDIUM_LOOPBACK:
        return DropForwardMartian
    if status != 0:
        return no_way(n, rx, status)
    if largest > d.mtu:
        count(n.core, Ip6InTooBigErrors)
        icmp6_error_about(n, rx, ICMP6_TOO_BIG, 0, d.mtu)
        return DropForwardTooBig
    if rx.gso_size != 0 and segment == 0:              # a superframe of what we could not cut
        return DropForwardTooBig
    if d.iface == rx.iface:
        redirect_about(n, rx, &d)
    count(n.core, Ip6OutForwDatagrams)
    send_on(n, rx, &d, segment)
    return MIB_COUNT
