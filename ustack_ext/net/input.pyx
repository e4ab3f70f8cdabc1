"""One received frame, checked from the outside in (RFC 894, RFC 791, RFC 1122 §3.2.1, RFC 1812 §5.3.7 for martians).

Responsible for deciding whether a frame is for us and whole, and for finding its transport packet. Every refusal is
counted under its reason; nothing is believed about a length before it was compared with what was captured. What is for
others goes to forward, if the stack is a router, or ends here.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp

from ustack_ext.wire.addr cimport (addr_is_any, addr_is_broadcast, addr_is_loopback, addr_is_multicast,
                                   addr_to_v4, addr_v4)
from ustack_ext.wire.bytes cimport get_be16, get_be32
from ustack_ext.wire.headers cimport (
    ETH_HLEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, ICMP_PARAM_PROBLEM, IP4_HLEN, IP4_MF,
    IPPROTO_ICMP_, IPPROTO_TCP_, IPPROTO_UDPLITE_, IPPROTO_UDP_, Ip4Hdr, VLAN_HLEN, VLAN_ID_MASK, WIRE_CHECKSUM,
    WIRE_OK, WIRE_TRUNCATED, WIRE_VERSION, ip4_is_plain, ip4_options_check, ip4_parse,
)
from ustack_ext.base.core cimport count, count_add
from ustack_ext.base.iov cimport OFF_CSUM_VERIFIED, OFF_GSO_TCP, OFF_GSO_UDP, IoVec
from ustack_ext.net.arp cimport arp_input
from ustack_ext.net.bridge cimport bridge_input
from ustack_ext.net.frag cimport frag_input
from ustack_ext.net.foreign cimport foreign_takes
from ustack_ext.net.forward cimport forward_input, reverse_path_ok
from ustack_ext.net.frame cimport mac_is_group
from ustack_ext.net.groups cimport group_joined
from ustack_ext.net.icmp cimport icmp_error_about, icmp_input
from ustack_ext.net.input6 cimport ip6_input
from ustack_ext.net.iface cimport addr_find, is_our_broadcast, is_ours
from ustack_ext.net.igmp cimport igmp_input
from ustack_ext.net.nat cimport nat_in
from ustack_ext.net.mib cimport (DropEthNotOurs, DropEthSource, DropEthTruncated, DropEthType, DropIfaceDown,
                                 DropIpChecksum, DropIpHeader, DropIpMartianDestination, DropIpMartianSource,
                                 DropIpNotOurs, DropIpOptions, DropIpReversePath, DropIpSourceRoute,
                                 DropIpTruncated, DropIpUnknownProtocol, DropIpVersion, DropVlanMalformed,
                                 DropVlanUnknown, IpInAddrErrors,
                                 IpInDelivers, IpInHdrErrors,
                                 IpInMcastPkts, IpInOctets, IpInReceives, IpInUnknownProtos, MIB_COUNT)
from ustack_ext.net.vlan cimport vlan_of, vlan_untag
from ustack_ext.net.state cimport (ACCEPTED, Accepted, CARRIES_BRIDGE, CARRIES_VLANS, Fragment, MEDIUM_ETHERNET,
                                   MEDIUM_LOOPBACK, NET_DONE, NET_TCP, NET_UDP, NET_UDPLITE,
                                   NET_UNKNOWN_PROTO, RX_CSUM_OK, RX_FOREIGN, RX_IP_BROADCAST, RX_IP_MULTICAST,
                                   RX_LINK_BROADCAST, RX_LOOPBACK, RX_SEEN, RX_TAKEN)

cdef enum:
    IPPROTO_IGMP_ = 2
    ALL_HOSTS = 0xE0000001     # 224.0.0.1: the one group every host is in (RFC 1112 §4)

cdef extern from *:
    """
    static const unsigned char USTACK_MAC_BROADCAST[6] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};
    static const unsigned char USTACK_MAC_ALL_HOSTS[6] = {0x01, 0x00, 0x5E, 0x00, 0x00, 0x01};
    """
    const uint8_t USTACK_MAC_BROADCAST[6]
    const uint8_t USTACK_MAC_ALL_HOSTS[6]


cdef inline int drop(Net *n, Iface *i, int reason) noexcept nogil:
    count(n.core, reason)
    i.rx_dropped += 1
    return NET_DONE


cdef int frame_input(Net *n, Iface *i, Buf *buf, const Offload *off, RxPkt *rx, IcmpError *err,
                     Buf **owned) noexcept nogil:
    """net_input's work; see net.pxd."""
    cdef uint8_t *p = buf.data + buf.off
    cdef uint32_t length = buf.len
    cdef uint16_t ethertype
    cdef int reason
    owned[0] = NULL
    i.rx_packets += 1
    i.rx_bytes += length
    if not i.up:
        return drop(n, i, DropIfaceDown)
    rx.buf = buf
    rx.iface = i
    rx.flags = 0
    rx.gso_size = 0
    rx.nat = NULL
    rx.more = NULL
    rx.more_len = 0
    rx.segs = 0
    if n.frames != NULL and show_frame(n, i, buf):
        rx.flags = RX_SEEN
    if off != NULL:
        if off.flags & OFF_CSUM_VERIFIED:
            rx.flags |= RX_CSUM_OK
        if off.flags & (OFF_GSO_TCP | OFF_GSO_UDP):
            rx.gso_size = off.gso_size
    if i.medium == MEDIUM_ETHERNET:
        if length < ETH_HLEN:
            return drop(n, i, DropEthTruncated)
        if i.carries != 0 and not_its_own(n, &i, buf, off):
            return NET_DONE if i == NULL else frame_input(n, i, buf, off, rx, err, owned)
        reason = link_filter(i, p, p + 6, rx)
        if reason != MIB_COUNT:
            return drop(n, i, reason)
        ethertype = get_be16(p + 12)
        p += ETH_HLEN
        length -= ETH_HLEN
        if ethertype != ETHERTYPE_IPV4:
            return not_ip4(n, rx, ethertype, p, length, err, owned)
    else:
        if i.medium == MEDIUM_LOOPBACK:
            rx.flags |= RX_CSUM_OK | RX_LOOPBACK
        if length > 0 and p[0] >> 4 == 6:
            return ip6_input(n, rx, p, length, err, owned)
    return ip4_input(n, rx, p, length, err, owned)


cdef bint not_its_own(Net *n, Iface **i, Buf *buf, const Offload *off) noexcept nogil:
    """Whether a frame of *i is another interface's, which *i is then: that of a VLAN, or of the bridge that *i is a
    port of; NULL: the bridge has sent it on, and that was all."""
    cdef Iface *vlan = vlan_of(i[0], buf) if i[0].carries & CARRIES_VLANS else NULL
    if vlan != NULL:
        vlan_untag(buf)
        i[0] = vlan
        return True
    if not i[0].carries & CARRIES_BRIDGE:
        return False
    i[0] = bridge_input(n, i[0], buf, off)
    return True


cdef bint show_frame(Net *n, Iface *i, Buf *buf) noexcept nogil:
    cdef IoVec whole
    whole.base = buf.data + buf.off
    whole.len = buf.len
    return n.frames(n.hook_user, i, &whole, 1, False)


cdef inline int link_filter(const Iface *i, const uint8_t *dst, const uint8_t *src, RxPkt *rx) noexcept nogil:
    """Is the frame for us? A Drop counter, or MIB_COUNT."""
    if mac_is_group(src):
        return DropEthSource
    if memcmp(dst, i.mac, 6) == 0 and not mac_is_group(dst):
        return MIB_COUNT
    if (memcmp(dst, USTACK_MAC_BROADCAST, 6) != 0 and memcmp(dst, USTACK_MAC_ALL_HOSTS, 6) != 0
            and (dst[0] != 0x33 or dst[1] != 0x33)     # IPv6's groups (RFC 2464 §7): which are ours, input6 says
            and (i.igmp.first == NULL or memcmp(dst, USTACK_MAC_ALL_HOSTS, 3) != 0)):
        return DropEthNotOurs
    rx.flags |= RX_LINK_BROADCAST
    return MIB_COUNT


cdef int priority_tag(const uint8_t *p, uint32_t length) noexcept nogil:
    """IEEE 802.1Q: id 0 names no VLAN, so the frame is the interface's own. One tag; a Drop counter, or MIB_COUNT."""
    if length < VLAN_HLEN:
        return DropVlanMalformed
    if get_be16(p) & VLAN_ID_MASK != 0:
        return DropVlanUnknown
    return DropVlanMalformed if get_be16(p + 2) == ETHERTYPE_VLAN else MIB_COUNT


cdef int not_ip4(Net *n, RxPkt *rx, uint16_t ethertype, uint8_t *p, uint32_t length, IcmpError *err,
                 Buf **owned) noexcept nogil:
    """IPv6 and ARP, also with a priority tag; or what nobody reads, 802.3 lengths among it."""
    cdef int reason = DropEthType
    if ethertype == ETHERTYPE_IPV6:
        return ip6_input(n, rx, p, length, err, owned)
    if ethertype == ETHERTYPE_ARP:
        reason = arp_input(n, rx.iface, p, length, not rx.flags & RX_LINK_BROADCAST)
    elif rx.flags & RX_SEEN:
        return NET_DONE                                # a packet socket's protocol
    elif ethertype == ETHERTYPE_VLAN:
        reason = priority_tag(p, length)
        if reason == MIB_COUNT:
            ethertype = get_be16(p + 2)
            p += VLAN_HLEN
            length -= VLAN_HLEN
            if ethertype == ETHERTYPE_IPV4:
                return ip4_input(n, rx, p, length, err, owned)
            return not_ip4(n, rx, ethertype, p, length, err, owned)
    return NET_DONE if reason == MIB_COUNT else drop(n, rx.iface, reason)


cdef int header_error(Net *n, Iface *i, int status) noexcept nogil:
    count(n.core, IpInHdrErrors)
    if status == WIRE_TRUNCATED:
        return drop(n, i, DropIpTruncated)
    if status == WIRE_VERSION:
        return drop(n, i, DropIpVersion)
    if status == WIRE_CHECKSUM:
        return drop(n, i, DropIpChecksum)
    return drop(n, i, DropIpHeader)


cdef int source_check(Net *n, const RxPkt *rx) noexcept nogil:
    """RFC 1122 §3.2.1.3: a source is one host, and on a wire not ourselves (LAND). A Drop counter, or MIB_COUNT."""
    cdef uint32_t ip = addr_to_v4(&rx.src)
    if rx.flags & RX_LOOPBACK:
        return MIB_COUNT if is_ours(n, &rx.src) else DropIpMartianSource
    if ip == 0 and addr_is_broadcast(&rx.dst) and rx.proto == IPPROTO_UDP_:
        return MIB_COUNT                               # a host without an address asks for one (RFC 2131 §4.1)
    if ip == 0 and addr_is_multicast(&rx.dst) and rx.proto == IPPROTO_IGMP_:
        return MIB_COUNT                               # a switch asks for groups (RFC 4541 §2.1.1)
    if ip >> 24 == 0 or ip >> 24 == 127 or ip >> 28 >= 0xE:
        return DropIpMartianSource
    if is_our_broadcast(n, &rx.src) or is_ours(n, &rx.src):
        return DropIpMartianSource
    return MIB_COUNT if reverse_path_ok(n, rx) else DropIpReversePath


cdef int destination_check(Net *n, RxPkt *rx) noexcept nogil:
    """Is it for us, as a host, a broadcast or a group? A Drop counter, or MIB_COUNT."""
    if addr_is_loopback(&rx.dst) and not rx.flags & RX_LOOPBACK:
        return DropIpMartianDestination
    if is_ours(n, &rx.dst):
        if (n.knobs.strong_es and not rx.iface.conf.forwarding and not rx.flags & RX_LOOPBACK
                and addr_find(rx.iface, &rx.dst) == NULL):
            return DropIpNotOurs
        # RFC 1122 §3.3.6: a unicast packet has no business in a link-level broadcast.
        return DropIpMartianDestination if rx.flags & RX_LINK_BROADCAST else MIB_COUNT
    if addr_is_any(&rx.dst):
        return DropIpMartianDestination
    if is_our_broadcast(n, &rx.dst):
        rx.flags |= RX_IP_BROADCAST
        return MIB_COUNT
    if addr_is_multicast(&rx.dst) and (addr_to_v4(&rx.dst) == ALL_HOSTS or group_joined(rx.iface, &rx.dst)):
        count(n.core, IpInMcastPkts)
        rx.flags |= RX_IP_MULTICAST
        return MIB_COUNT
    return MIB_COUNT if n.foreign != 0 and foreign_takes(n, rx) else DropIpNotOurs


cdef inline int addresses_check(Net *n, RxPkt *rx) noexcept nogil:
    """Both of the above. What was found good for a host and an address of ours stays so until addresses change, and
    needs no walk through them a packet. A Drop counter, or MIB_COUNT."""
    cdef Accepted *known = &n.accepted[(rx.src.lo ^ rx.dst.lo ^ rx.src.lo >> 8) & (ACCEPTED - 1)]
    if (known.generation == n.generation and known.src.lo == rx.src.lo and known.dst.lo == rx.dst.lo
            and not rx.flags & (RX_LOOPBACK | RX_LINK_BROADCAST) and known.src.hi == rx.src.hi
            and known.dst.hi == rx.dst.hi):
        return MIB_COUNT
    return addresses_learn(n, rx, known)


cdef int addresses_learn(Net *n, RxPkt *rx, Accepted *known) noexcept nogil:
    cdef int reason = source_check(n, rx)
    if reason == MIB_COUNT:
        reason = destination_check(n, rx)
    if (reason == MIB_COUNT and not n.by_interface
            and not rx.flags & (RX_LOOPBACK | RX_LINK_BROADCAST | RX_IP_BROADCAST | RX_IP_MULTICAST | RX_FOREIGN)):
        known.src = rx.src
        known.dst = rx.dst
        known.generation = n.generation
    return reason


cdef bint options_input(Net *n, RxPkt *rx, uint32_t hlen) noexcept nogil:
    """Options are validated and passed over (RFC 1122 §3.2.1.8); a source route is refused in silence, as nothing good
    asks for it (RFC 7126 §4.3). True: go on."""
    cdef uint32_t where = 0
    cdef bint source_route = False
    if ip4_options_check(rx.l3, hlen, &where, &source_route) != WIRE_OK:
        count(n.core, IpInHdrErrors)
        drop(n, rx.iface, DropIpOptions)
        icmp_error_about(n, rx, ICMP_PARAM_PROBLEM, 0, where << 24)
        return False
    if source_route:
        drop(n, rx.iface, DropIpSourceRoute)
        return False
    return True


cdef inline int ip4_input(Net *n, RxPkt *rx, uint8_t *p, uint32_t length, IcmpError *err, Buf **owned) noexcept nogil:
    cdef int reason
    count(n.core, IpInReceives)
    count_add(n.core, IpInOctets, length)
    if not ip4_is_plain(p, length):
        return ip4_special(n, rx, p, length, err, owned)
    fill(rx, p, IP4_HLEN, get_be16(p + 2))
    reason = addresses_check(n, rx)
    if reason != MIB_COUNT:
        return not_ours(n, rx, reason)
    return dispatch(n, rx, err)


cdef int send_on(Net *n, RxPkt *rx) noexcept nogil:
    cdef int reason = forward_input(n, rx)
    return NET_DONE if reason == MIB_COUNT else drop(n, rx.iface, reason)


cdef int not_ours(Net *n, RxPkt *rx, int reason) noexcept nogil:
    """For somebody else, which a router sends on; or for nobody."""
    if reason == DropIpNotOurs and rx.iface.conf.forwarding:
        return send_on(n, rx)
    count(n.core, IpInAddrErrors)
    return drop(n, rx.iface, reason)


cdef int ip4_special(Net *n, RxPkt *rx, uint8_t *p, uint32_t length, IcmpError *err, Buf **owned) noexcept nogil:
    """With options, a fragment, or with something wrong."""
    cdef Ip4Hdr h
    cdef Iface *i = rx.iface
    cdef int status = ip4_parse(p, length, &h)
    cdef Buf *whole
    cdef Fragment f
    cdef int reason, missing = MIB_COUNT
    cdef bint is_fragment
    if status != WIRE_OK:
        return header_error(n, i, status)
    is_fragment = h.frag_off != 0 or h.flags & IP4_MF
    fill(rx, p, h.hlen, h.total_len)
    reason = addresses_check(n, rx)
    # What may have to be translated is put together first: only the first fragment has ports.
    if reason != MIB_COUNT and not (is_fragment and reason == DropIpNotOurs and n.nat != NULL and i.conf.forwarding):
        return not_ours(n, rx, reason)
    if h.hlen > IP4_HLEN and not options_input(n, rx, h.hlen):
        return NET_DONE
    if is_fragment:
        f.id = h.id
        f.frag_off = h.frag_off
        f.hlen = h.hlen
        f.skip = 0
        f.more = h.flags & IP4_MF != 0
        f.proto = h.proto
        f.tos = h.tos
        f.next = h.proto
        f.next_at = 0
        whole = frag_input(n, rx, &f, &missing)
        if whole == NULL:
            return NET_DONE if missing == MIB_COUNT else drop(n, i, missing)
        owned[0] = whole
        rx.buf = whole
        rx.flags &= ~RX_CSUM_OK                        # nobody has verified the whole
        rx.gso_size = 0
        if ip4_parse(whole.data + whole.off, whole.len, &h) != WIRE_OK:
            return drop(n, i, DropIpHeader)
        fill(rx, whole.data + whole.off, h.hlen, h.total_len)
        if reason != MIB_COUNT:
            return not_ours(n, rx, reason)
    return dispatch(n, rx, err)


cdef inline void fill(RxPkt *rx, uint8_t *p, uint32_t hlen, uint32_t total) noexcept nogil:
    """From a header that was found good."""
    rx.l3 = p
    rx.l3_len = total                                  # what follows in the frame is padding
    rx.l4 = p + hlen
    rx.l4_len = total - hlen
    rx.src = addr_v4(get_be32(p + 12))
    rx.dst = addr_v4(get_be32(p + 16))
    rx.proto = p[9]
    rx.ttl = p[8]
    rx.tos = p[1]


cdef inline int dispatch(Net *n, RxPkt *rx, IcmpError *err) noexcept nogil:
    if n.nat != NULL and rx.iface.masquerade and rx.iface.conf.forwarding and nat_in(n, rx):
        return send_on(n, rx)
    if n.packets != NULL and n.packets(n.hook_user, rx):
        rx.flags |= RX_TAKEN
    if rx.proto == IPPROTO_TCP_ or rx.proto == IPPROTO_UDP_:
        count(n.core, IpInDelivers)
        return NET_TCP if rx.proto == IPPROTO_TCP_ else NET_UDP
    if rx.proto == IPPROTO_ICMP_:
        count(n.core, IpInDelivers)
        return icmp_input(n, rx, err)
    if rx.proto == IPPROTO_IGMP_:
        count(n.core, IpInDelivers)
        igmp_input(n, rx)
        return NET_DONE
    if rx.proto == IPPROTO_UDPLITE_:
        count(n.core, IpInDelivers)
        return NET_UDPLITE
    if rx.flags & RX_TAKEN:
        count(n.core, IpInDelivers)
        return NET_DONE
    count(n.core, IpInUnknownProtos)
    drop(n, rx.iface, DropIpUnknownProtocol)
    return NET_UNKNOWN_PROTO
