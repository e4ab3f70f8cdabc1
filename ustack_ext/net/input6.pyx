"""One received IPv6 packet, checked from the outside in (RFC 8200 §4; RFC 4291 §2.5 for what an address may be).

Responsible for: is it for us and whole, and where its transport header is. Extension headers are walked in the order
they come, at most EXT6_MAX of them (RFC 8200 §4.1; the bound is ours). What is refused is counted under its reason, and
the sender told where RFC 4443 has a message for it. A packet that is not for us goes to forward6, if the stack is a
router, or ends here, as does one that some routing header wants to send on (RFC 5095).

- IPv4-mapped addresses have no business on a wire (RFC 4942 §2.2) and are refused, as are zones in link-local ones.
- A fragment that is all there (RFC 6946) never meets others. A first fragment must hold the whole chain of headers (RFC
  7112). What was put together from fragments is no fragment itself.
"""
from libc.stdint cimport uint16_t

from ustack_ext.wire.addr cimport (
    addr_eq, addr_has_zone, addr_is_any, addr_is_loopback, addr_is_multicast, addr_is_v4, addr_zone, addr_zoned,
)
from ustack_ext.wire.headers cimport (
    IPPROTO_TCP_, IPPROTO_UDPLITE_, IPPROTO_UDP_, TCP_HLEN, UDP_HLEN, WIRE_OK, WIRE_TRUNCATED, WIRE_VERSION,
)
from ustack_ext.wire.ip6 cimport (
    EXT6_MAX, FRAG6_HLEN, ICMP6_HLEN, ICMP6_PARAM_CHAIN, ICMP6_PARAM_HEADER, ICMP6_PARAM_NEXT, ICMP6_PARAM_OPTION,
    ICMP6_PARAM_PROBLEM, IP6_HLEN, IPPROTO_DSTOPTS_, IPPROTO_FRAGMENT_, IPPROTO_HOPOPTS_, IPPROTO_ICMPV6_,
    IPPROTO_NONE_, IPPROTO_ROUTING_, ND_REDIRECT, ND_ROUTER_SOLICIT, OPTION_DROP, OPTION_FINE, OPTION_MALFORMED,
    OPTION_TELL_UNICAST, Frag6Hdr, Ip6Hdr, OptionVerdict, ext6_length, frag6_parse, ip6_options_check, ip6_parse,
)
from ustack_ext.base.core cimport count, count_add
from ustack_ext.net.foreign cimport foreign_takes
from ustack_ext.net.forward6 cimport forward6_input
from ustack_ext.net.frag cimport frag_input
from ustack_ext.net.icmp6 cimport icmp6_error_about, icmp6_input
from ustack_ext.net.iface cimport addr_find, is_ours
from ustack_ext.net.mib cimport (
    DropFragMalformed, DropFragTooBig, DropIp6Disabled, DropIp6Extension, DropIp6Header, DropIp6Martian,
    DropIp6NoNextHeader, DropIp6Option, DropIp6Routing, DropIpMartianDestination, DropIpNotOurs, DropIpTruncated,
    DropIpUnknownProtocol, DropIpVersion, DropNdMalformed, Ip6InAddrErrors, Ip6InDelivers, Ip6InHdrErrors,
    Ip6InMcastPkts, Ip6InOctets, Ip6InReceives, Ip6InUnknownProtos, MIB_COUNT,
)
from ustack_ext.net.mld cimport mld_listens
from ustack_ext.net.state cimport (
    ACCEPTED, Accepted, Fragment, Iface, NET_DONE, NET_TCP, NET_UDP, NET_UDPLITE, NET_UNKNOWN_PROTO, RX_CSUM_OK,
    RX_FOREIGN, RX_IP_MULTICAST, RX_LINK_BROADCAST, RX_LOOPBACK, RX_TAKEN,
)

cdef enum:
    NEXT_AT = 6                # of the fixed header's next header field
    PAYLOAD_LEN_AT = 4
    FRAG_OFFSET_AT = 2         # in the fragment header
    ROUTING_TYPE_AT = 2
    SEGMENTS_LEFT_AT = 3
    DATAGRAM_MAX = 65535


cdef inline int drop(Net *n, Iface *i, int reason) noexcept nogil:
    count(n.core, reason)
    i.rx_dropped += 1
    return NET_DONE


cdef int refuse(Net *n, RxPkt *rx, int reason, uint8_t code, uint32_t pointer) noexcept nogil:
    """Dropped, and the sender is told that it is a parameter problem."""
    count(n.core, Ip6InHdrErrors)
    icmp6_error_about(n, rx, ICMP6_PARAM_PROBLEM, code, pointer)
    return drop(n, rx.iface, reason)


# --- addresses ---

cdef int source_check(Net *n, const RxPkt *rx) noexcept nogil:
    """RFC 4291 §2.5.2, §2.5.3, §2.7: a source is one host, and on a wire not ourselves. A Drop counter, or MIB_COUNT.
    `::` is a host that has no address yet; net/nd and net/mld say what such a one may send."""
    if rx.flags & RX_LOOPBACK:
        return MIB_COUNT if is_ours(n, &rx.src) else DropIp6Martian
    if addr_is_multicast(&rx.src) or addr_is_loopback(&rx.src) or addr_is_v4(&rx.src):
        return DropIp6Martian
    if addr_is_any(&rx.src):
        return MIB_COUNT if rx.proto == IPPROTO_ICMPV6_ or rx.proto == IPPROTO_HOPOPTS_ else DropIp6Martian
    return DropIp6Martian if is_ours(n, &rx.src) else MIB_COUNT


cdef int destination_check(Net *n, RxPkt *rx) noexcept nogil:
    if addr_is_loopback(&rx.dst) and not rx.flags & RX_LOOPBACK:
        return DropIpMartianDestination
    if is_ours(n, &rx.dst):
        if (n.knobs.strong_es6 and not n.knobs.forwarding6 and not rx.flags & RX_LOOPBACK
                and addr_find(rx.iface, &rx.dst) == NULL):
            return DropIpNotOurs
        return DropIpMartianDestination if rx.flags & RX_LINK_BROADCAST else MIB_COUNT
    if addr_is_any(&rx.dst) or addr_is_v4(&rx.dst):
        return DropIpMartianDestination
    if addr_is_multicast(&rx.dst) and mld_listens(rx.iface, &rx.dst):
        rx.flags |= RX_IP_MULTICAST
        count(n.core, Ip6InMcastPkts)
        return MIB_COUNT
    return MIB_COUNT if n.foreign != 0 and foreign_takes(n, rx) else DropIpNotOurs


cdef inline int addresses_check(Net *n, RxPkt *rx) noexcept nogil:
    """As input's: what was found good for a host and an address of ours is good until addresses change."""
    cdef Accepted *known = &n.accepted[(rx.src.lo ^ rx.dst.lo ^ rx.src.lo >> 8) & (ACCEPTED - 1)]
    cdef int reason
    if (known.generation == n.generation and not rx.flags & (RX_LOOPBACK | RX_LINK_BROADCAST)
            and addr_eq(&known.src, &rx.src) and addr_eq(&known.dst, &rx.dst)):
        return MIB_COUNT
    reason = source_check(n, rx)
    if reason == MIB_COUNT:
        reason = destination_check(n, rx)
    if (reason == MIB_COUNT and not n.by_interface and not addr_is_any(&rx.src)
            and not rx.flags & (RX_LOOPBACK | RX_LINK_BROADCAST | RX_IP_MULTICAST | RX_FOREIGN)):
        known.src = rx.src
        known.dst = rx.dst
        known.generation = n.generation
    return reason


cdef inline bint take_zones(RxPkt *rx, const Ip6Hdr *h) noexcept nogil:
    """False: an address has something where the zone goes. On the loopback it is the zone, which nobody took out."""
    rx.src = h.src
    rx.dst = h.dst
    if rx.flags & RX_LOOPBACK:
        return True
    if addr_has_zone(&h.src):
        if addr_zone(&h.src) != 0:
            return False
        rx.src = addr_zoned(&h.src, rx.iface.index)
    if addr_has_zone(&h.dst):
        if addr_zone(&h.dst) != 0:
            return False
        rx.dst = addr_zoned(&h.dst, rx.iface.index)
    return True


# --- the header ---

cdef int header_error(Net *n, Iface *i, int status) noexcept nogil:
    count(n.core, Ip6InHdrErrors)
    return drop(n, i, DropIpTruncated if status == WIRE_TRUNCATED else
                DropIpVersion if status == WIRE_VERSION else DropIp6Header)


cdef int ip6_input(Net *n, RxPkt *rx, uint8_t *p, uint32_t length, IcmpError *err, Buf **owned) noexcept nogil:
    cdef Ip6Hdr h
    cdef int status, reason
    count(n.core, Ip6InReceives)
    count_add(n.core, Ip6InOctets, length)
    if rx.iface.six.conf.disable_ipv6:
        return drop(n, rx.iface, DropIp6Disabled)
    status = ip6_parse(p, length, &h)
    if status != WIRE_OK:
        return header_error(n, rx.iface, status)
    rx.l3 = p
    rx.l3_len = IP6_HLEN + h.payload_len               # what follows in the frame is padding
    rx.l4 = p + IP6_HLEN
    rx.l4_len = h.payload_len
    rx.proto = h.next
    rx.next_at = NEXT_AT
    rx.ttl = h.hop_limit
    rx.tos = h.tclass
    reason = addresses_check(n, rx) if take_zones(rx, &h) else DropIp6Martian
    if reason != MIB_COUNT:
        return not_ours(n, rx, reason)
    if h.next == IPPROTO_TCP_ and n.packets == NULL:
        count(n.core, Ip6InDelivers)
        return NET_TCP
    return chain(n, rx, err, owned)


cdef int not_ours(Net *n, RxPkt *rx, int reason) noexcept nogil:
    """For somebody else, which a router sends on once it has read what is for each hop (RFC 8200 §4.3); or for
    nobody."""
    if reason != DropIpNotOurs or not n.knobs.forwarding6 or addr_is_multicast(&rx.dst):
        count(n.core, Ip6InAddrErrors)
        return drop(n, rx.iface, reason)
    if rx.proto == IPPROTO_HOPOPTS_ and not extension(n, rx):
        return NET_DONE
    reason = forward6_input(n, rx)
    return NET_DONE if reason == MIB_COUNT else drop(n, rx.iface, reason)


# --- extension headers ---

cdef inline bint is_extension(uint8_t proto) noexcept nogil:
    return (proto == IPPROTO_HOPOPTS_ or proto == IPPROTO_DSTOPTS_ or proto == IPPROTO_ROUTING_
            or proto == IPPROTO_FRAGMENT_)


cdef inline void step(RxPkt *rx, uint32_t length) noexcept nogil:
    """Past the extension header at rx.l4."""
    rx.proto = rx.l4[0]
    rx.next_at = <uint16_t>(rx.l4 - rx.l3)
    rx.l4 += length
    rx.l4_len -= length


cdef bint options(Net *n, RxPkt *rx, uint32_t length) noexcept nogil:
    """RFC 8200 §4.2: what the two highest bits of an unknown option say. True: go on."""
    cdef uint32_t where = 0
    cdef OptionVerdict verdict = ip6_options_check(rx.l4, length, &where)
    if verdict == OPTION_FINE:
        return True
    where += <uint32_t>(rx.l4 - rx.l3)
    if verdict == OPTION_MALFORMED:
        refuse(n, rx, DropIp6Option, ICMP6_PARAM_HEADER, where)
    elif verdict == OPTION_DROP or (verdict == OPTION_TELL_UNICAST and addr_is_multicast(&rx.dst)):
        count(n.core, Ip6InHdrErrors)
        drop(n, rx.iface, DropIp6Option)
    else:
        refuse(n, rx, DropIp6Option, ICMP6_PARAM_OPTION, where)
    return False


cdef bint extension(Net *n, RxPkt *rx) noexcept nogil:
    """One header of options, or for routing. True: go on behind it."""
    cdef uint32_t length = ext6_length(rx.l4, rx.l4_len)
    if length == 0:
        count(n.core, Ip6InHdrErrors)
        drop(n, rx.iface, DropIp6Extension)
        return False
    if rx.proto == IPPROTO_ROUTING_:
        if rx.l4[SEGMENTS_LEFT_AT] != 0:               # RFC 5095 §3, RFC 8200 §4.4: none that we know
            refuse(n, rx, DropIp6Routing, ICMP6_PARAM_HEADER, <uint32_t>(rx.l4 - rx.l3) + ROUTING_TYPE_AT)
            return False
    elif not options(n, rx, length):
        return False
    step(rx, length)
    return True


cdef int chain(Net *n, RxPkt *rx, IcmpError *err, Buf **owned) noexcept nogil:
    cdef int left = EXT6_MAX
    cdef int status
    cdef bint in_fragments = False
    while is_extension(rx.proto):
        if rx.proto == IPPROTO_HOPOPTS_ and rx.next_at != NEXT_AT:
            return refuse(n, rx, DropIp6Extension, ICMP6_PARAM_NEXT, rx.next_at)    # RFC 8200 §4.1: first only
        left -= 1
        if left < 0:
            count(n.core, Ip6InHdrErrors)
            return drop(n, rx.iface, DropIp6Extension)
        if rx.proto != IPPROTO_FRAGMENT_:
            if not extension(n, rx):
                return NET_DONE
            continue
        status = fragment(n, rx, owned)
        if status != MIB_COUNT:
            return status
        in_fragments = True
    if (in_fragments and rx.proto == IPPROTO_ICMPV6_ and rx.l4_len > 0
            and ND_ROUTER_SOLICIT <= rx.l4[0] <= ND_REDIRECT):
        return drop(n, rx.iface, DropNdMalformed)      # RFC 6980 §5: atomic ones, too
    return dispatch(n, rx, err)


cdef int dispatch(Net *n, RxPkt *rx, IcmpError *err) noexcept nogil:
    if addr_is_any(&rx.src) and rx.proto != IPPROTO_ICMPV6_:
        return drop(n, rx.iface, DropIp6Martian)
    if n.packets != NULL and n.packets(n.hook_user, rx):
        rx.flags |= RX_TAKEN
    if rx.proto == IPPROTO_TCP_ or rx.proto == IPPROTO_UDP_:
        count(n.core, Ip6InDelivers)
        return NET_TCP if rx.proto == IPPROTO_TCP_ else NET_UDP
    if rx.proto == IPPROTO_ICMPV6_:
        count(n.core, Ip6InDelivers)
        return icmp6_input(n, rx, err)
    if rx.proto == IPPROTO_UDPLITE_:
        count(n.core, Ip6InDelivers)
        return NET_UDPLITE
    if rx.flags & RX_TAKEN:
        count(n.core, Ip6InDelivers)
        return NET_DONE
    if rx.proto == IPPROTO_NONE_:
        return drop(n, rx.iface, DropIp6NoNextHeader)  # RFC 8200 §4.7
    count(n.core, Ip6InUnknownProtos)
    drop(n, rx.iface, DropIpUnknownProtocol)
    return NET_UNKNOWN_PROTO


# --- fragments ---

cdef bint chain_is_whole(uint8_t proto, const uint8_t *p, uint32_t n) noexcept nogil:
    """Whether a first fragment of n bytes that begins with a header of `proto` has all headers (RFC 7112 §5)."""
    cdef int left = EXT6_MAX
    cdef uint32_t length
    while is_extension(proto) and proto != IPPROTO_FRAGMENT_ and left > 0:
        length = ext6_length(p, n)
        if length == 0:
            return False
        proto = p[0]
        p += length
        n -= length
        left -= 1
    if proto == IPPROTO_TCP_:
        return n >= TCP_HLEN
    if proto == IPPROTO_UDP_:
        return n >= UDP_HLEN
    return n >= ICMP6_HLEN if proto == IPPROTO_ICMPV6_ else not is_extension(proto)


cdef int fragment(Net *n, RxPkt *rx, Buf **owned) noexcept nogil:
    """rx.l4 is at a fragment header. MIB_COUNT: go on with what is behind it, now whole; else the verdict."""
    cdef uint32_t at = <uint32_t>(rx.l4 - rx.l3), hlen
    cdef uint16_t next_at = rx.next_at
    cdef Frag6Hdr h
    cdef Fragment f
    cdef Buf *whole
    cdef int reason = MIB_COUNT
    if owned[0] != NULL or frag6_parse(rx.l4, rx.l4_len, &h) != WIRE_OK:
        count(n.core, Ip6InHdrErrors)
        return drop(n, rx.iface, DropFragMalformed)
    step(rx, FRAG6_HLEN)
    if h.frag_off == 0 and not h.more:
        return MIB_COUNT                               # RFC 6946: atomic
    if h.more and rx.l4_len % 8 != 0:                  # RFC 8200 §4.5
        return refuse(n, rx, DropFragMalformed, ICMP6_PARAM_HEADER, PAYLOAD_LEN_AT)
    hlen = at - IP6_HLEN
    if hlen + h.frag_off + rx.l4_len > DATAGRAM_MAX:
        return refuse(n, rx, DropFragTooBig, ICMP6_PARAM_HEADER, at + FRAG_OFFSET_AT)
    if h.frag_off == 0 and not chain_is_whole(h.next, rx.l4, rx.l4_len):
        return refuse(n, rx, DropFragMalformed, ICMP6_PARAM_CHAIN, 0)
    f.id = h.id
    f.frag_off = h.frag_off
    f.hlen = at
    f.skip = FRAG6_HLEN
    f.more = h.more
    f.proto = 0
    f.tos = rx.tos
    f.next = h.next
    f.next_at = next_at
    whole = frag_input(n, rx, &f, &reason)
    if whole == NULL:
        return NET_DONE if reason == MIB_COUNT else drop(n, rx.iface, reason)
    owned[0] = whole
    rx.buf = whole
    rx.flags &= ~RX_CSUM_OK                            # nobody has verified the whole
    rx.gso_size = 0
    rx.l3 = whole.data + whole.off
    rx.l3_len = whole.len
    rx.l4 = rx.l3 + f.hlen                             # the first fragment's: this one's may be of another length
    rx.l4_len = whole.len - f.hlen
    rx.proto = f.next
    rx.next_at = f.next_at
    return MIB_COUNT
