"""What received Neighbor Discovery messages may do (RFC 4861 §6.1, §7.1, §8.1; RFC 4862 §5.4 and RFC 7527 for
duplicate address detection).

Responsible for judging packets; the table is neigh's, our addresses are addr6's.

- Every message must have come with hop limit 255 and code 0: it then comes from this link. Every option must have a
  length, and be all there, or the message is dropped (a length of 0 would be read for ever).
- Solicitations are answered for the addresses of the interface they came in on. They may make an entry; an
  advertisement that nobody asked for may not.
- Redirects are ignored unless accept_redirects says otherwise, and then believed only from the router that the
  destination is reached by; a router never listens to them (§8.3).
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from ustack_ext.wire.addr cimport (
    Addr, addr_eq, addr_is_any, addr_is_link_local, addr_is_multicast, addr_zoned,
)
from ustack_ext.wire.bytes cimport get_be64, put_be32
from ustack_ext.wire.checksum cimport csum_fold, csum_pseudo, csum_store
from ustack_ext.wire.ip6 cimport (
    ICMP6_HLEN, IPPROTO_ICMPV6_, ND_NA_OVERRIDE, ND_NA_ROUTER, ND_NA_SOLICITED, ND_NEIGHBOR_ADVERT,
    ND_NEIGHBOR_SOLICIT, ND_OPT_NONCE, ND_OPT_SOURCE, ND_OPT_TARGET, ND_REDIRECT, ND_ROUTER_ADVERT, addr_get, addr_put,
    nd_option, nd_options_whole,
)
from ustack_ext.base.core cimport count
from ustack_ext.net.addr6 cimport addr6_conflict, iface6_arm
from ustack_ext.net.frame cimport mac_is_group, mac_is_zero
from ustack_ext.net.iface cimport addr_find, addr_usable
from ustack_ext.net.mib cimport (
    DropNdHopLimit, DropNdMalformed, DropNdNotOurs, Icmp6InNeighborAdvertisements, Icmp6InNeighborSolicits,
    Icmp6InRedirects, Icmp6InRouterAdvertisements, Icmp6OutMsgs, Icmp6OutNeighborAdvertisements,
)
from ustack_ext.net.ndout cimport ND_HOP_LIMIT, addr_all_nodes, nd_advertise
from ustack_ext.net.neigh cimport neigh_advert, neigh_find, neigh_told
from ustack_ext.net.output cimport tx_csum, tx_length
from ustack_ext.net.output6 cimport output6_packet
from ustack_ext.net.ra cimport ra_input
from ustack_ext.net.route cimport route_forget_router, route_learn, route_lookup
from ustack_ext.net.state cimport (
    ADDR_CONFLICT, MEDIUM_ETHERNET, RX_IP_MULTICAST, Dst, IfAddr, Iface, Neigh, Route, TxPkt, tx_init, tx_push,
)

cdef enum:
    NS_LEN = ICMP6_HLEN + 16       # also an advertisement's
    REDIRECT_LEN = ICMP6_HLEN + 32
    REDIRECT_S = 600               # a redirect holds
    SECOND = 1000000000


cdef const uint8_t *link_address(const uint8_t *options, uint32_t n, uint8_t kind) noexcept nogil:
    """The six bytes of a link-layer address option, or NULL."""
    cdef const uint8_t *o = nd_option(options, n, kind, 8)
    if o == NULL or o[1] != 1 or mac_is_group(o + 2) or mac_is_zero(o + 2):
        return NULL
    return o + 2


cdef inline uint8_t own_flags(const Iface *i) noexcept nogil:
    return ND_NA_OVERRIDE | (ND_NA_ROUTER if i.conf.forwarding6 else 0)


cdef void answer_at_length(Net *n, Iface *i, const Addr *target, const Addr *dst) noexcept nogil:
    """An advertisement to who did not say his link address: it is found out like anybody's."""
    cdef uint8_t *p
    cdef TxPkt t
    cdef Dst d
    cdef Addr bare = addr_zoned(target, 0)
    memset(&d, 0, sizeof(d))
    tx_init(&t)
    p = tx_push(&t, NS_LEN + 8)
    memset(p, 0, NS_LEN + 8)
    p[0] = ND_NEIGHBOR_ADVERT
    put_be32(p + 4, <uint32_t>(ND_NA_SOLICITED | own_flags(i)) << 24)
    addr_put(p + 8, &bare)
    p[24] = ND_OPT_TARGET
    p[25] = 1
    p[26] = i.mac[0]
    p[27] = i.mac[1]
    p[28] = i.mac[2]
    p[29] = i.mac[3]
    p[30] = i.mac[4]
    p[31] = i.mac[5]
    csum_store(p + 2, csum_fold(tx_csum(&t, csum_pseudo(target, dst, IPPROTO_ICMPV6_, tx_length(&t)))))
    count(n.core, Icmp6OutMsgs)
    count(n.core, Icmp6OutNeighborAdvertisements)
    output6_packet(n, &d, target, dst, IPPROTO_ICMPV6_, ND_HOP_LIMIT, 0, True, &t)


cdef void solicited_by_nobody(Net *n, IfAddr *ia, const uint8_t *options, uint32_t length) noexcept nogil:
    """From `::`: somebody checks whether he may have the address (RFC 4862 §5.4.3)."""
    cdef Addr all = addr_all_nodes(ia.iface.index)
    cdef const uint8_t *nonce
    if addr_usable(ia):
        nd_advertise(n, ia.iface, &ia.addr, &all, NULL, own_flags(ia.iface))
        return
    nonce = nd_option(options, length, ND_OPT_NONCE, 8)
    if nonce != NULL and nonce[1] == 1 and get_be64(nonce) << 16 >> 16 == ia.nonce:
        return                                         # our own, looped back (RFC 7527 §4.2)
    addr6_conflict(n, ia)


cdef void solicit_input(Net *n, RxPkt *rx, const uint8_t *options, uint32_t length) noexcept nogil:
    cdef Iface *i = rx.iface
    cdef Addr target = addr_get(rx.l4 + 8)
    cdef const uint8_t *mac = link_address(options, length, ND_OPT_SOURCE)
    cdef IfAddr *ia
    target = addr_zoned(&target, i.index)
    ia = addr_find(i, &target)
    if addr_is_multicast(&target) or (addr_is_any(&rx.src) and (not rx.flags & RX_IP_MULTICAST or mac != NULL)):
        count(n.core, DropNdMalformed)
    elif ia == NULL or ia.state == ADDR_CONFLICT:
        count(n.core, DropNdNotOurs)
    elif addr_is_any(&rx.src):
        solicited_by_nobody(n, ia, options, length)
    elif not addr_usable(ia):
        count(n.core, DropNdNotOurs)                   # RFC 4862 §5.4.3: not ours yet
    elif mac != NULL:
        neigh_told(n, i, &rx.src, mac)
        nd_advertise(n, i, &target, &rx.src, mac, ND_NA_SOLICITED | own_flags(i))
    else:
        answer_at_length(n, i, &target, &rx.src)


cdef void advert_input(Net *n, RxPkt *rx, const Icmp6Hdr *h, const uint8_t *options, uint32_t length) noexcept nogil:
    cdef Iface *i = rx.iface
    cdef uint8_t flags = <uint8_t>(h.rest >> 24)
    cdef const uint8_t *mac = link_address(options, length, ND_OPT_TARGET)
    cdef Addr target = addr_get(rx.l4 + 8)
    cdef IfAddr *ia
    cdef Neigh *e
    target = addr_zoned(&target, i.index)
    if (addr_is_multicast(&target) or addr_is_any(&rx.src)
            or (rx.flags & RX_IP_MULTICAST and flags & ND_NA_SOLICITED)):
        count(n.core, DropNdMalformed)
        return
    ia = addr_find(i, &target)
    if ia != NULL and ia.state != ADDR_CONFLICT:
        addr6_conflict(n, ia)                          # RFC 4862 §5.4.4
        return
    e = neigh_find(n, i, &target)
    if e == NULL:
        count(n.core, DropNdNotOurs)
        return
    if neigh_advert(n, e, mac, flags & ND_NA_SOLICITED != 0, flags & ND_NA_OVERRIDE != 0, flags & ND_NA_ROUTER != 0):
        route_forget_router(n, i, &target)


cdef void redirect_input(Net *n, RxPkt *rx, const uint8_t *options, uint32_t length) noexcept nogil:
    """RFC 4861 §8.1, §8.3."""
    cdef Iface *i = rx.iface
    cdef Addr target = addr_get(rx.l4 + 8), dst = addr_get(rx.l4 + 24)
    cdef Addr none
    cdef const uint8_t *mac = link_address(options, length, ND_OPT_TARGET)
    cdef Route *r
    memset(&none, 0, sizeof(none))
    target = addr_zoned(&target, i.index)
    if not addr_is_link_local(&rx.src) or addr_is_multicast(&dst) or not (
            addr_eq(&target, &dst) or addr_is_link_local(&target)):
        count(n.core, DropNdMalformed)
        return
    r = route_lookup(n, &dst, i)
    if (not i.six.conf.accept_redirects or i.conf.forwarding6 or r == NULL
            or not addr_eq(&r.gateway, &rx.src)):
        count(n.core, DropNdNotOurs)
        return
    if mac != NULL:
        neigh_told(n, i, &target, mac)
    route_learn(n, &dst, 128, &none if addr_eq(&target, &dst) else &target, i, 0,
                n.core.now + <uint64_t>REDIRECT_S * SECOND)
    iface6_arm(n, i)


cdef void nd_input(Net *n, RxPkt *rx, const Icmp6Hdr *h) noexcept nogil:
    cdef uint32_t fixed = NS_LEN
    if rx.iface.medium != MEDIUM_ETHERNET:             # no link addresses, no neighbours
        count(n.core, DropNdNotOurs)
        return
    if h.type == ND_ROUTER_ADVERT:
        fixed = ICMP6_HLEN + 8
        count(n.core, Icmp6InRouterAdvertisements)
    elif h.type == ND_NEIGHBOR_SOLICIT:
        count(n.core, Icmp6InNeighborSolicits)
    elif h.type == ND_NEIGHBOR_ADVERT:
        count(n.core, Icmp6InNeighborAdvertisements)
    elif h.type == ND_REDIRECT:
        fixed = REDIRECT_LEN
        count(n.core, Icmp6InRedirects)
    else:
        count(n.core, DropNdNotOurs)                   # a solicitation for routers: we are none
        return
    if rx.ttl != ND_HOP_LIMIT:
        count(n.core, DropNdHopLimit)
        return
    if h.code != 0 or rx.l4_len < fixed or not nd_options_whole(rx.l4 + fixed, rx.l4_len - fixed):
        count(n.core, DropNdMalformed)
        return
    if h.type == ND_ROUTER_ADVERT:
        ra_input(n, rx, h, rx.l4 + fixed, rx.l4_len - fixed)
    elif h.type == ND_NEIGHBOR_SOLICIT:
        solicit_input(n, rx, rx.l4 + fixed, rx.l4_len - fixed)
    elif h.type == ND_NEIGHBOR_ADVERT:
        advert_input(n, rx, h, rx.l4 + fixed, rx.l4_len - fixed)
    else:
        redirect_input(n, rx, rx.l4 + fixed, rx.l4_len - fixed)
