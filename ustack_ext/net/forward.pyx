"""A router's part of IPv4: sends on what is for others (RFC 1812 §5.2, §5.3), where net.ipv4.ip_forward asks for it.

Responsible for what may be forwarded, the time to live, the size, and the errors a router owes. Not for routes (route),
the limits of errors (icmp), redirects (redirect), nor for the translation of addresses (nat). Broadcasts, groups and
sources that no host can have are not forwarded; source-routed packets were dropped before this.

The packet is not copied: its header is rewritten (time to live and checksum, RFC 1141) in front of the bytes it came
with. What a link vouched for without a checksum in the packet gets one, or the next link is asked for it.
"""
from libc.errno cimport EHOSTUNREACH
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from ustack_ext.wire.addr cimport addr_is_any, addr_is_broadcast, addr_is_loopback, addr_is_multicast, addr_to_v4
from ustack_ext.wire.bytes cimport get_be16, put_be16
from ustack_ext.wire.checksum cimport csum_fold, csum_fold32, csum_partial, csum_pseudo, csum_store
from ustack_ext.wire.headers cimport (ETHERTYPE_IPV4, ICMP_PARAM_PROBLEM, ICMP_TIME_EXCEEDED, ICMP_UNREACH,
                                      ICMP_UNREACH_HOST, ICMP_UNREACH_NEEDFRAG, ICMP_UNREACH_NET, IP4_DF_BIT,
                                      IP4_HLEN, IP4_MF_BIT, IP4_OFFSET_MASK, IPPROTO_TCP_, IPPROTO_UDP_, TCP_HLEN,
                                      UDP_HLEN, WIRE_OK, ip4_options_check)
from ustack_ext.base.core cimport count
from ustack_ext.base.iov cimport OFF_CSUM_WANTED, OFF_GSO_TCP4, OFF_GSO_UDP
from ustack_ext.net.icmp cimport icmp_error_about
from ustack_ext.net.mib cimport (DropForwardMartian, DropForwardNoRoute, DropForwardTooBig, DropForwardTtl,
                                 DropIpOptions, DropIpSourceRoute, IpForwDatagrams, IpFragCreates, IpFragFails,
                                 IpFragOKs, IpOutNoRoutes, MIB_COUNT)
from ustack_ext.net.nat cimport nat_out, nat_undo
from ustack_ext.net.output cimport output_link, output_resolve_from, tx_csum
from ustack_ext.net.redirect cimport redirect_about
from ustack_ext.net.rule cimport route_for
from ustack_ext.net.state cimport (Dst, Iface, MEDIUM_LOOPBACK, RX_CSUM_OK, RX_LINK_BROADCAST, RX_LOOPBACK, Route,
                                   TxPkt, tx_init, tx_payload, tx_push)

cdef enum:
    LOOSE = 2
    LINK_LOCAL = 0xA9FE            # 169.254/16 (RFC 3927 §2.7)


cdef bint reverse_path_ok(Net *n, const RxPkt *rx) noexcept nogil:
    cdef uint8_t mode = max(n.knobs.rp_filter, rx.iface.conf.rp_filter)
    cdef Route *r
    cdef Route *best
    if mode == 0 or rx.flags & RX_LOOPBACK or addr_is_any(&rx.src):
        return True
    best = route_for(n, &rx.dst, &rx.src, NULL, NULL)
    if mode == LOOSE or best == NULL:
        return best != NULL
    # Strict: no better way leads to it elsewhere (RFC 3704 §2.2); one that is as good is as good (§2.3).
    r = route_for(n, &rx.dst, &rx.src, NULL, rx.iface)
    return r != NULL and r.table == best.table and best.plen <= r.plen


cdef bint may_forward(const RxPkt *rx) noexcept nogil:
    """RFC 1812 §5.3.4, §5.3.7: addresses that no packet between two networks has."""
    cdef uint32_t dst = addr_to_v4(&rx.dst)
    cdef uint32_t src = addr_to_v4(&rx.src)
    if rx.flags & (RX_LOOPBACK | RX_LINK_BROADCAST):
        return False
    if addr_is_multicast(&rx.dst) or addr_is_broadcast(&rx.dst) or addr_is_loopback(&rx.dst) or dst >> 28 >= 0xE:
        return False
    return not (addr_is_any(&rx.src) or src >> 24 == 0 or dst >> 24 == 0 or src >> 16 == LINK_LOCAL
                or dst >> 16 == LINK_LOCAL)


cdef void complain(Net *n, RxPkt *rx, uint8_t type, uint8_t code, uint32_t rest) noexcept nogil:
    """To the sender, about the packet as it was sent."""
    nat_undo(rx)
    icmp_error_about(n, rx, type, code, rest)


cdef int options_ok(Net *n, RxPkt *rx, uint32_t hlen) noexcept nogil:
    """Options stay as they are (RFC 7126 §4); a source route is refused."""
    cdef uint32_t where = 0
    cdef bint source_route = False
    if hlen == IP4_HLEN:
        return MIB_COUNT
    if ip4_options_check(rx.l3, hlen, &where, &source_route) != WIRE_OK:
        complain(n, rx, ICMP_PARAM_PROBLEM, 0, where << 24)
        return DropIpOptions
    return DropIpSourceRoute if source_route else MIB_COUNT


cdef uint32_t segment_header(const RxPkt *rx) noexcept nogil:
    """Bytes of the TCP or UDP header of a superframe; 0: it isn't one."""
    cdef uint32_t length
    if rx.gso_size == 0:
        return 0
    if rx.proto == IPPROTO_UDP_:                       # UDP_SEGMENT's, of a TAP with USO
        return UDP_HLEN if rx.l4_len > UDP_HLEN else 0
    if rx.proto != IPPROTO_TCP_ or rx.l4_len < TCP_HLEN:
        return 0
    length = <uint32_t>(rx.l4[12] >> 4) * 4
    return length if TCP_HLEN <= length <= rx.l4_len else 0


cdef void renew_checksum(const RxPkt *rx, Iface *out, bint whole, TxPkt *t) noexcept nogil:
    """The link that brought it did without a transport checksum, or checked it: what stands there may be a sum of the
    pseudo header alone. t begins with the transport header."""
    cdef uint32_t at = 16 if rx.proto == IPPROTO_TCP_ else 6
    cdef uint8_t *p = rx.l4
    if rx.proto == IPPROTO_TCP_ and rx.l4_len < TCP_HLEN or rx.proto == IPPROTO_UDP_ and rx.l4_len < UDP_HLEN:
        return
    if rx.proto != IPPROTO_TCP_ and (rx.proto != IPPROTO_UDP_ or (p[6] == 0 and p[7] == 0 and rx.gso_size == 0)):
        return
    if t.hdr < t.hdr_space + sizeof(t.hdr_space):
        p = t.hdr
    csum_store(p + at, <uint16_t>csum_fold32(csum_pseudo(&rx.src, &rx.dst, rx.proto, rx.l4_len)))
    t.off.flags |= OFF_CSUM_WANTED
    t.off.csum_start = 0
    t.off.csum_offset = <uint16_t>at
    if not whole or (not out.offloads & OFF_CSUM_WANTED and t.off.gso_size == 0):
        t.off.flags &= ~OFF_CSUM_WANTED
        csum_store(p + at, csum_fold(tx_csum(t, 0)))
        if rx.proto == IPPROTO_UDP_ and p[6] == 0 and p[7] == 0:
            csum_store(p + at, 0xFFFF)


cdef int forward_fragments(Net *n, const RxPkt *rx, Dst *d, uint32_t hlen) noexcept nogil:
    """RFC 791 §3.2, of what may be a fragment itself. Options stand in the first alone, as none that is forwarded is to
    be copied."""
    cdef uint16_t field = get_be16(rx.l3 + 6)
    cdef uint32_t at = 0, take, head = hlen, most
    cdef TxPkt f
    cdef uint8_t *p
    while at < rx.l4_len:
        most = (d.mtu - head) & ~<uint32_t>7
        take = min(rx.l4_len - at, most)
        tx_init(&f)
        tx_payload(&f, rx.l4 + at, take)
        p = tx_push(&f, head)
        memcpy(p, rx.l3, head)
        p[0] = <uint8_t>(0x40 | head // 4)
        p[8] -= 1
        put_be16(p + 2, <uint16_t>(head + take))
        put_be16(p + 6, <uint16_t>((field & IP4_OFFSET_MASK) + at // 8)
                 | (IP4_MF_BIT if at + take < rx.l4_len else field & IP4_MF_BIT))
        csum_store(p + 10, 0)
        csum_store(p + 10, csum_fold(csum_partial(p, head, 0)))
        if output_link(n, d, &rx.dst, ETHERTYPE_IPV4, &f) != 0:
            count(n.core, IpFragFails)
            return 0
        count(n.core, IpFragCreates)
        at += take
        head = IP4_HLEN
    count(n.core, IpFragOKs)
    return 0


cdef int send_on(Net *n, RxPkt *rx, Dst *d, uint32_t hlen) noexcept nogil:
    """It fits, or may be cut."""
    cdef bint whole = get_be16(rx.l3 + 6) & (IP4_MF_BIT | IP4_OFFSET_MASK) == 0
    cdef bint fits = rx.l3_len <= d.mtu
    cdef uint32_t segment = segment_header(rx)
    cdef TxPkt t
    cdef uint8_t *p
    tx_init(&t)
    if segment > 0:
        memcpy(tx_push(&t, segment), rx.l4, segment)
        t.off.gso_size = rx.gso_size
        t.off.flags |= OFF_GSO_TCP4 if rx.proto == IPPROTO_TCP_ else OFF_GSO_UDP
    if rx.l4_len > segment:
        tx_payload(&t, rx.l4 + segment, rx.l4_len - segment)
    if rx.flags & RX_CSUM_OK and whole:
        renew_checksum(rx, d.iface, fits or segment > 0, &t)
    if not fits and segment == 0:
        return forward_fragments(n, rx, d, hlen)
    p = tx_push(&t, hlen)
    memcpy(p, rx.l3, hlen)
    p[8] -= 1
    csum_store(p + 10, 0)
    csum_store(p + 10, csum_fold(csum_partial(p, hlen, 0)))
    t.off.csum_start += hlen
    return output_link(n, d, &rx.dst, ETHERTYPE_IPV4, &t)


cdef int forward_input(Net *n, RxPkt *rx) noexcept nogil:
    cdef uint32_t hlen = <uint32_t>(rx.l4 - rx.l3)
    cdef uint32_t segment = segment_header(rx)
    cdef uint32_t largest = rx.l3_len if segment == 0 else hlen + segment + rx.gso_size
    cdef Dst d
    cdef int status = options_ok(n, rx, hlen)
    if status != MIB_COUNT:
        return status
    if not may_forward(rx):
        return DropForwardMartian
    if rx.ttl <= 1:                                    # RFC 1812 §5.3.1
        complain(n, rx, ICMP_TIME_EXCEEDED, 0, 0)
        return DropForwardTtl
    memset(&d, 0, sizeof(d))
    status = output_resolve_from(n, &d, &rx.src, &rx.dst, rx.iface)
    if status == 0 and d.iface.medium == MEDIUM_LOOPBACK:
        return DropForwardMartian
    if status != 0:
        count(n.core, IpOutNoRoutes)
        complain(n, rx, ICMP_UNREACH, ICMP_UNREACH_HOST if status == -EHOSTUNREACH else ICMP_UNREACH_NET, 0)
        return DropForwardNoRoute
    if largest > d.mtu and (segment > 0 or get_be16(rx.l3 + 6) & IP4_DF_BIT):
        count(n.core, IpFragFails)
        complain(n, rx, ICMP_UNREACH, ICMP_UNREACH_NEEDFRAG, d.mtu)
        return DropForwardTooBig
    if rx.gso_size != 0 and segment == 0:              # a superframe of what we could not cut
        return DropForwardTooBig
    if d.iface == rx.iface and not d.iface.masquerade:
        redirect_about(n, rx, &d)
    if d.iface.masquerade and rx.nat == NULL:
        status = nat_out(n, rx, d.iface)
        if status != MIB_COUNT:
            return status
    count(n.core, IpForwDatagrams)
    send_on(n, rx, &d, hlen)
    return MIB_COUNT
