"""Sends redirects: there is a better first hop on your own link (RFC 1812 §5.2.7.2; RFC 4861 §4.5, §8.2).

Responsible for who is told and for IPv6's message; IPv4's is icmp's. Not for believing those of others (icmp, nd).
Sent within the limits of errors, by send_redirects; a host that does not listen is told again and forwarded for.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from ustack_ext.wire.addr cimport (
    Addr, addr_bare_hi, addr_eq, addr_is_any, addr_is_link_local, addr_is_v4, addr_none, addr_zoned,
)
from ustack_ext.wire.checksum cimport csum_fold, csum_pseudo, csum_store
from ustack_ext.wire.ip6 cimport (
    ICMP6_HLEN, IP6_HLEN, IP6_MIN_MTU, IPPROTO_ICMPV6_, ND_OPT_REDIRECTED, ND_OPT_TARGET, ND_REDIRECT, addr_put,
)
from ustack_ext.base.core cimport count
from ustack_ext.net.icmp cimport icmp_global_allows, icmp_redirect_about, icmp_target_allows
from ustack_ext.net.icmp6 cimport icmp6_may_complain
from ustack_ext.net.iface cimport iface_address
from ustack_ext.net.mib cimport Icmp6OutMsgs, Icmp6OutRedirects
from ustack_ext.net.ndout cimport ND_HOP_LIMIT
from ustack_ext.net.output cimport tx_csum, tx_length
from ustack_ext.net.output6 cimport output6_packet
from ustack_ext.net.rule cimport route_for
from ustack_ext.net.state cimport NUD_FAILED, NUD_INCOMPLETE, Neigh, Route, TxPkt, tx_init, tx_payload, tx_push

cdef enum:
    FIXED = ICMP6_HLEN + 32        # with the target's and the destination's address
    OPTION = 8                     # bytes: the target's link address, and the head of the quotation
    QUOTE_MAX = IP6_MIN_MTU - IP6_HLEN - FIXED - 2 * OPTION


cdef bint is_neighbour(Net *n, const RxPkt *rx) noexcept nogil:
    cdef Addr none = addr_none()
    cdef Route *r = route_for(n, &none, &rx.src, NULL, rx.iface)
    return r != NULL and addr_is_any(&r.gateway)


cdef void send6(Net *n, const RxPkt *rx, const Addr *own, const Neigh *e) noexcept nogil:
    cdef uint32_t quote = min(rx.l3_len, <uint32_t>QUOTE_MAX) & ~<uint32_t>7
    cdef bint known = e.state != NUD_INCOMPLETE and e.state != NUD_FAILED
    cdef Addr target = e.addr
    cdef uint8_t *p
    cdef TxPkt t
    cdef Dst d
    memset(&d, 0, sizeof(d))
    tx_init(&t)
    tx_payload(&t, rx.l3, quote)
    p = tx_push(&t, OPTION)
    memset(p, 0, OPTION)
    p[0] = ND_OPT_REDIRECTED
    p[1] = <uint8_t>(1 + quote // 8)
    if known:
        p = tx_push(&t, OPTION)
        p[0] = ND_OPT_TARGET
        p[1] = 1
        memcpy(p + 2, e.mac, 6)
    p = tx_push(&t, FIXED)
    memset(p, 0, FIXED)
    p[0] = ND_REDIRECT
    target.hi = addr_bare_hi(target.hi)
    addr_put(p + 8, &target)
    addr_put(p + 24, &rx.dst)
    csum_store(p + 2, csum_fold(tx_csum(&t, csum_pseudo(own, &rx.src, IPPROTO_ICMPV6_, tx_length(&t)))))
    count(n.core, Icmp6OutMsgs)
    count(n.core, Icmp6OutRedirects)
    output6_packet(n, &d, own, &rx.src, IPPROTO_ICMPV6_, ND_HOP_LIMIT, 0, True, &t)


cdef void redirect_about(Net *n, const RxPkt *rx, const Dst *d) noexcept nogil:
    cdef Addr link
    cdef const Addr *own
    if d.neigh == NULL or not is_neighbour(n, rx):
        return
    if addr_is_v4(&rx.dst):
        if n.knobs.send_redirects or rx.iface.conf.send_redirects:
            icmp_redirect_about(n, rx, &d.neigh.addr)
        return
    # A router is named by its link-local address (RFC 4861 §4.5); one that is known by another can't be.
    if not n.knobs.send_redirects6 or not (addr_eq(&d.neigh.addr, &rx.dst) or addr_is_link_local(&d.neigh.addr)):
        return
    link = addr_none()
    link.hi = <unsigned long long>0xFE80 << 48
    link = addr_zoned(&link, rx.iface.index)
    own = iface_address(rx.iface, &link)
    if own == NULL or not addr_is_link_local(own) or not icmp6_may_complain(rx, ND_REDIRECT, 0):
        return
    if icmp_target_allows(n, &rx.src) and icmp_global_allows(n):
        send6(n, rx, own, d.neigh)
