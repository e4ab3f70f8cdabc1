"""What a router's advertisement may do: default routes, prefixes, parameters, name servers.

Responsible for reading it and for bounds on what it says; addresses are addr6's, routes route's, the table neigh's.
Listened to only where autoconfiguration was asked for. However many come, and whatever they say: at most MAX_LEARNED
routes, MAX_DNS name servers, as many search domains and max_addresses addresses an interface, an MTU from 1,280 to the
link's, a hop limit that leads off the link (RFC 6583's spirit; CVE-2020-16898 for RDNSS lengths).
"""
from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy

from ustack_ext.wire.addr cimport (
    Addr, addr_eq, addr_is_any, addr_is_link_local, addr_is_loopback, addr_is_multicast, addr_is_v4, addr_mask,
    addr_none, addr_zoned,
)
from ustack_ext.wire.bytes cimport get_be32
from ustack_ext.wire.ip6 cimport (
    ICMP6_HLEN, IP6_MIN_MTU, ND_OPT_DNSSL, ND_OPT_MTU, ND_OPT_PREFIX, ND_OPT_RDNSS, ND_OPT_SOURCE, addr_get, nd_option,
)
from ustack_ext.base.core cimport count
from ustack_ext.net.addr6 cimport addr6_prefix, iface6_arm, lifetime_until
from ustack_ext.net.frame cimport mac_is_group, mac_is_zero
from ustack_ext.net.mib cimport DropNdMalformed, DropNdNotOurs
from ustack_ext.net.neigh cimport neigh_find, neigh_told
from ustack_ext.net.route cimport net_changed, route_learn
from ustack_ext.net.state cimport DNS_NAME_MAX, MAX_DNS, DnsSuffix, Iface, Neigh

cdef enum:
    METRIC = 1024                  # Linux's, of what routers say
    PREFIX_LEN = 32                # of the option
    ON_LINK = 0x80
    AUTONOMOUS = 0x40
    HOP_LIMIT_MIN = 32             # less would keep packets from leaving the neighbourhood
    REACHABLE_MAX = 3600000        # ms (RFC 4861 §6.2.1)
    RETRANS_MIN = 10               # ms
    LABEL_MAX = 63                 # bytes (RFC 1035 §3.1)


cdef void prefix_option(Net *n, Iface *i, const uint8_t *o) noexcept nogil:
    cdef uint8_t plen = o[2], flags = o[3]
    cdef uint32_t valid = get_be32(o + 4), preferred = get_be32(o + 8)
    cdef Addr prefix = addr_get(o + 16)
    cdef Addr none = addr_none()
    if plen > 128:
        return
    prefix = addr_mask(&prefix, plen)
    if (addr_is_link_local(&prefix) or addr_is_multicast(&prefix) or addr_is_v4(&prefix) or addr_is_loopback(&prefix)
            or addr_is_any(&prefix)):
        return
    if flags & ON_LINK:
        route_learn(n, &prefix, plen, &none, i, METRIC // 4, lifetime_until(n.core.now, valid) if valid != 0 else 0)
    if flags & AUTONOMOUS and plen == 64 and preferred <= valid:       # RFC 4862 §5.5.3 (c), (d)
        addr6_prefix(n, i, &prefix, preferred, valid)


cdef void name_servers(Net *n, Iface *i, const uint8_t *o) noexcept nogil:
    """RFC 8106 §5.1: 8 bytes, then addresses; its length is odd. §5.3.1: one that is there gets a new lifetime; where
    there is no room, one more takes the place of the one that ends first, if it lasts longer."""
    cdef uint64_t until = dns_until(n, o)
    cdef uint32_t k
    cdef Addr a
    cdef int j, at
    if o[1] % 2 == 0:
        return
    for k in range((<uint32_t>o[1] - 1) // 2):
        a = addr_get(o + 8 + 16 * k)
        if addr_is_any(&a) or addr_is_multicast(&a) or addr_is_v4(&a) or addr_is_loopback(&a):
            continue
        a = addr_zoned(&a, i.index)
        at = 0
        for j in range(MAX_DNS):
            if i.six.dns[j].until > n.core.now and addr_eq(&i.six.dns[j].addr, &a):
                at = j
                break
            if i.six.dns[j].until < i.six.dns[at].until:
                at = j
        if addr_eq(&i.six.dns[at].addr, &a) or until > i.six.dns[at].until:
            i.six.dns[at].addr = a
            i.six.dns[at].until = until


cdef uint64_t dns_until(const Net *n, const uint8_t *o) noexcept nogil:
    cdef uint32_t lifetime = get_be32(o + 4)
    return lifetime_until(n.core.now, lifetime) if lifetime != 0 else n.core.now


cdef uint32_t name_length(const uint8_t *p, uint32_t room) noexcept nogil:
    """Bytes of the uncompressed domain name at p; 0: there is none, or it is the root's."""
    cdef uint32_t at = 0
    while at < room and p[at] != 0:
        if p[at] > LABEL_MAX:                          # a pointer, too: RFC 8106 §5.2 wants none
            return 0
        at += 1 + <uint32_t>p[at]
    return at + 1 if 0 < at < room and at < DNS_NAME_MAX else 0


cdef void search_list(Net *n, Iface *i, const uint8_t *o) noexcept nogil:
    """RFC 8106 §5.2: 8 bytes, then names, then zeros. As with name_servers."""
    cdef const uint8_t *p = o + 8
    cdef const uint8_t *end = o + <uint32_t>o[1] * 8
    cdef uint64_t until = dns_until(n, o)
    cdef uint32_t length = name_length(p, <uint32_t>(end - p))
    cdef DnsSuffix *s
    cdef int j, at
    while length > 0:
        at = 0
        for j in range(MAX_DNS):
            s = &i.six.suffixes[j]
            if s.until > n.core.now and s.length == length and memcmp(s.name, p, length) == 0:
                at = j
                break
            if s.until < i.six.suffixes[at].until:
                at = j
        s = &i.six.suffixes[at]
        if until > s.until or (s.length == length and memcmp(s.name, p, length) == 0):
            s.until = until
            s.length = <uint8_t>length
            memcpy(s.name, p, length)
        p += length
        length = name_length(p, <uint32_t>(end - p))


cdef void parameters(Net *n, Iface *i, const uint8_t *p, const uint8_t *options, uint32_t length) noexcept nogil:
    cdef uint32_t reachable = get_be32(p + ICMP6_HLEN), retrans = get_be32(p + ICMP6_HLEN + 4), mtu
    cdef const uint8_t *o = nd_option(options, length, ND_OPT_MTU, 8)
    if p[4] >= HOP_LIMIT_MIN:
        i.six.conf.hop_limit = p[4]
    i.six.ra_flags = p[5] & (RA_MANAGED | RA_OTHER) | RA_HEARD
    if 0 < reachable <= REACHABLE_MAX:
        i.six.reachable_ms = reachable
    if RETRANS_MIN <= retrans <= REACHABLE_MAX:
        i.six.retrans_ms = retrans
    if o != NULL:
        mtu = get_be32(o + 4)
        if IP6_MIN_MTU <= mtu <= i.mtu and mtu != i.six.mtu:
            i.six.mtu = mtu
            net_changed(n)


cdef void ra_input(Net *n, RxPkt *rx, const Icmp6Hdr *h, const uint8_t *options, uint32_t length) noexcept nogil:
    cdef Iface *i = rx.iface
    cdef Addr none = addr_none()
    cdef uint32_t lifetime = h.rest & 0xFFFF
    cdef const uint8_t *o
    cdef const uint8_t *end = options + length
    cdef Neigh *e
    if not addr_is_link_local(&rx.src):
        count(n.core, DropNdMalformed)
        return
    if not i.six.autoconf or i.six.conf.accept_ra <= i.conf.forwarding6:   # a router listens only where it is 2
        count(n.core, DropNdNotOurs)
        return
    i.six.solicit_at = 0                               # §6.3.7: heard one
    o = nd_option(options, length, ND_OPT_SOURCE, 8)
    if o != NULL and o[1] == 1 and not mac_is_group(o + 2) and not mac_is_zero(o + 2):
        neigh_told(n, i, &rx.src, o + 2)
    e = neigh_find(n, i, &rx.src)
    if e != NULL:
        e.router = 1
    parameters(n, i, rx.l4, options, length)
    route_learn(n, &none, 0, &rx.src, i, METRIC, lifetime_until(n.core.now, lifetime) if lifetime != 0 else 0)
    o = options
    while o < end:
        if o[0] == ND_OPT_PREFIX and o[1] * 8 == PREFIX_LEN:
            prefix_option(n, i, o)
        elif o[0] == ND_OPT_RDNSS and o[1] >= 3:
            name_servers(n, i, o)
        elif o[0] == ND_OPT_DNSSL and o[1] >= 2:
            search_list(n, i, o)
        o += <uint32_t>o[1] * 8
    iface6_arm(n, i)
