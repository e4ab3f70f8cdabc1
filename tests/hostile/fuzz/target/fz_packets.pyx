"""Frames from the other side of the wire. Knows layouts only: what to send is fz_ops' choice."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from ustack_ext.net.state cimport MEDIUM_ETHERNET
from ustack_ext.wire.addr cimport Addr, addr_v4
from ustack_ext.wire.bytes cimport get_be16, get_be32, put_be16, put_be32
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_pseudo, csum_store
from ustack_ext.wire.headers cimport (ETH_HLEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, IP4_HLEN, IP4_MF, IPPROTO_ICMP_,
                                      IPPROTO_TCP_, IPPROTO_UDP_, TCP_HLEN, UDP_HLEN, ArpPkt, Ip4Hdr, TcpHdr, UdpHdr,
                                      arp_emit, ip4_emit, tcp_emit, udp_emit)
from ustack_ext.wire.headers cimport ETHERTYPE_IPV6
from ustack_ext.wire.ip6 cimport IP6_HLEN, IPPROTO_ICMPV6_, addr_get
from fz_world cimport PEER, US, World, world_feed

cdef enum:
    OPTION_BYTES = 8


cdef uint32_t link_header(World *w, uint16_t ethertype, uint8_t flags) noexcept nogil:
    if w.medium != MEDIUM_ETHERNET:
        return 0
    memset(w.frame, 0xFF if flags & TO_BROADCAST else 0x02, 6)
    memset(w.frame + 6, 0x06, 6)
    put_be16(w.frame + 12, ethertype)
    return ETH_HLEN


cdef void send_piece(World *w, const Way *way, uint32_t offset, bint more, const uint8_t *p, uint32_t n) noexcept nogil:
    cdef uint32_t at = link_header(w, ETHERTYPE_IPV4, way.flags), hlen = IP4_HLEN
    cdef Ip4Hdr h
    memset(&h, 0, sizeof(h))
    if way.flags & IP_OPTIONS:
        hlen += OPTION_BYTES
    h.tos = way.tos
    h.ttl = 64
    h.proto = way.proto
    h.flags = IP4_MF if more else 0
    h.total_len = <uint16_t>(hlen + n)
    h.id = way.ident
    h.frag_off = offset
    h.src = way.src
    h.dst = way.dst
    ip4_emit(w.frame + at, &h)
    if way.flags & IP_OPTIONS:
        memset(w.frame + at + IP4_HLEN, 1, OPTION_BYTES)
        w.frame[at] = <uint8_t>(0x40 | hlen // 4)
        mend_ip_checksum(w.frame + at, hlen)
    memcpy(w.frame + at + hlen, p, n)
    world_feed(w, w.frame, at + hlen + n, way.flags & AT_END)


cdef void mend_ip_checksum(uint8_t *p, uint32_t hlen) noexcept nogil:
    put_be16(p + 10, 0)
    csum_store(p + 10, csum_fold(csum_partial(p, hlen, 0)))


cdef void feed_ip(World *w, const Way *way, uint32_t n) noexcept nogil:
    cdef uint32_t half = (n // 2) & ~<uint32_t>7
    if way.flags & IN_FRAGMENTS and half >= 24:
        send_piece(w, way, half, False, w.data + half, n - half)
        send_piece(w, way, 0, True, w.data, half)
    else:
        send_piece(w, way, 0, False, w.data, n)


cdef void feed_fragment(World *w, const Way *way, uint32_t offset, bint more, uint32_t n) noexcept nogil:
    send_piece(w, way, offset, more, w.data, n)


cdef void transport_checksum(World *w, const Way *way, uint32_t n, uint32_t where) noexcept nogil:
    cdef Addr src = addr_v4(way.src), dst = addr_v4(way.dst)
    cdef uint64_t sum = 0
    put_be16(w.data + where, 0)
    if way.proto != IPPROTO_ICMP_:
        sum = csum_pseudo(&src, &dst, way.proto, n)
    csum_store(w.data + where, csum_fold(csum_partial(w.data, n, sum)))
    if way.flags & BAD_CHECKSUM:
        w.data[where] ^= 0x55


cdef void feed_tcp(World *w, Way *way, TcpHdr *h, const uint8_t *options, uint32_t noptions, uint32_t payload) noexcept nogil:
    h.hlen = <uint8_t>(TCP_HLEN + noptions)
    tcp_emit(w.data, h)
    memcpy(w.data + TCP_HLEN, options, noptions)
    memset(w.data + h.hlen, <int>(h.seq & 0xFF), payload)
    way.proto = IPPROTO_TCP_
    transport_checksum(w, way, h.hlen + payload, 16)
    feed_ip(w, way, h.hlen + payload)


cdef void feed_udp(World *w, Way *way, uint16_t sport, uint16_t dport, uint32_t payload) noexcept nogil:
    cdef UdpHdr h
    h.sport = sport
    h.dport = dport
    h.length = <uint16_t>(UDP_HLEN + payload)
    h.checksum = 0
    udp_emit(w.data, &h)
    memset(w.data + UDP_HLEN, 0x75, payload)
    way.proto = IPPROTO_UDP_
    transport_checksum(w, way, UDP_HLEN + payload, 6)
    feed_ip(w, way, UDP_HLEN + payload)


cdef void feed_arp(World *w, uint16_t op, const uint8_t *sha, uint32_t spa, uint32_t tpa, uint8_t flags) noexcept nogil:
    cdef ArpPkt a
    cdef uint32_t at = link_header(w, ETHERTYPE_ARP, flags)
    if at == 0:
        return
    a.op = op
    memcpy(a.sha, sha, 6)
    memset(a.tha, 0x02, 6)
    a.spa = spa
    a.tpa = tpa
    arp_emit(w.frame + at, &a)
    world_feed(w, w.frame, at + 28, flags & AT_END)


cdef void mend_transport(World *w, uint8_t *p, uint32_t hlen, uint32_t n) noexcept nogil:
    cdef Addr src = addr_v4(get_be32(p + 12)), dst = addr_v4(get_be32(p + 16))
    cdef uint32_t where = 16 if p[9] == IPPROTO_TCP_ else (6 if p[9] == IPPROTO_UDP_ else 2)
    cdef uint64_t sum = 0
    n -= hlen
    if n < where + 2 or (p[9] != IPPROTO_TCP_ and p[9] != IPPROTO_UDP_ and p[9] != IPPROTO_ICMP_):
        return
    if p[9] != IPPROTO_ICMP_:
        sum = csum_pseudo(&src, &dst, p[9], n)
    put_be16(p + hlen + where, 0)
    csum_store(p + hlen + where, csum_fold(csum_partial(p + hlen, n, sum)))


cdef void address6(uint8_t *at, uint8_t which) noexcept nogil:
    """One that means something here: ours and the peer's, both scopes, groups, nobody."""
    cdef uint8_t last = which & 1
    memset(at, 0, 16)
    if which & 6 == 6:
        return
    if which & 2:
        put_be16(at, 0xFE80)
    elif which & 4:
        put_be16(at, 0xFF02)
        if last:
            put_be32(at + 8, 1)
            put_be32(at + 12, 0xFF000002)
            return
        last = 1
        at[15] = 1
        return
    else:
        put_be16(at, 0xFD09)
    at[15] = 1 + last


cdef void feed_mended6(World *w, uint32_t n, uint8_t how) noexcept nogil:
    cdef uint32_t at = ETH_HLEN if w.medium == MEDIUM_ETHERNET else 0, size
    cdef uint8_t *p = w.frame + at
    cdef Addr src, dst
    cdef uint8_t proto
    cdef uint32_t where
    if n < at + IP6_HLEN:
        return
    size = n - at - IP6_HLEN
    p[0] = 0x60 | (p[0] & 0x0F)
    if how & 2:
        put_be16(p + 4, <uint16_t>size)
        p[7] = 255                                     # what Neighbor Discovery wants
    if how & 4:
        address6(p + 8, p[8])
        address6(p + 24, p[24])
    if how & 1 and at:
        link_header(w, ETHERTYPE_IPV6, TO_BROADCAST if p[24] == 0xFF else 0)
    proto = p[6]
    where = 16 if proto == IPPROTO_TCP_ else 6 if proto == IPPROTO_UDP_ else 2
    if how & 8 and size >= where + 2 and (proto == IPPROTO_TCP_ or proto == IPPROTO_UDP_ or proto == IPPROTO_ICMPV6_):
        src = addr_get(p + 8)
        dst = addr_get(p + 24)
        put_be16(p + IP6_HLEN + where, 0)
        csum_store(p + IP6_HLEN + where, csum_fold(csum_partial(p + IP6_HLEN, size, csum_pseudo(&src, &dst, proto, size))))
    world_feed(w, w.frame, n, how & 0x10)


cdef void feed_mended(World *w, uint32_t n, uint8_t how) noexcept nogil:
    cdef uint32_t at = ETH_HLEN if w.medium == MEDIUM_ETHERNET else 0, hlen
    cdef uint8_t *p = w.frame + at
    if how & 0x80:
        feed_mended6(w, n, how)
        return
    if how & 1 and at and n >= at:
        link_header(w, ETHERTYPE_ARP if how & 0x40 else ETHERTYPE_IPV4, TO_BROADCAST if how & 0x20 else 0)
    if n >= at + IP4_HLEN:
        if how & 2:
            p[0] = 0x40 | max(p[0] & 0x0F, 5)
            put_be16(p + 2, <uint16_t>(n - at))
        hlen = (p[0] & 0x0F) * 4
        if how & 4:
            put_be32(p + 12, PEER)
            put_be32(p + 16, US)
        if how & 8 and hlen >= IP4_HLEN and n - at >= hlen:
            mend_transport(w, p, hlen, n - at)
        if how & 2 and n - at >= hlen:
            mend_ip_checksum(p, hlen)
    world_feed(w, w.frame, n, how & 0x10)
