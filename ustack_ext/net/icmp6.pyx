"""ICMPv6 (RFC 4443, RFC 8201 §4 for packet too big, RFC 5927's checks).

Responsible for answering echo requests, for the errors we send and their limits (shared with ICMP for IPv4), and for
validating received errors as far as IP can; the transport compares the quoted header with its connections. Neighbor
Discovery and MLD go on to nd and mld. Informational messages that nobody knows are dropped (RFC 4443 §2.4 (b)).
"""
from libc.errno cimport EACCES, ECONNREFUSED, EHOSTUNREACH, EMSGSIZE, ENETUNREACH, EPROTO
from libc.string cimport memset

from ustack_ext.wire.addr cimport (
    addr_has_zone, addr_is_any, addr_is_multicast, addr_is_v4, addr_zone, addr_zoned,
)
from ustack_ext.wire.checksum cimport csum_fold, csum_pseudo, csum_store
from ustack_ext.wire.headers cimport WIRE_CHECKSUM, WIRE_OK
from ustack_ext.wire.ip6 cimport (
    EXT6_MAX, FRAG6_HLEN, ICMP6_ECHO, ICMP6_ECHOREPLY, ICMP6_HLEN, ICMP6_INFO, ICMP6_MLD_QUERY, ICMP6_MLD_REPORT,
    ICMP6_PARAM_OPTION, ICMP6_PARAM_PROBLEM, ICMP6_TIME_EXCEEDED, ICMP6_TOO_BIG, ICMP6_UNREACH, ICMP6_UNREACH_ADDRESS,
    ICMP6_UNREACH_ADMIN, ICMP6_UNREACH_NOROUTE, ICMP6_UNREACH_PORT, IP6_HLEN, IP6_MIN_MTU, IPPROTO_DSTOPTS_,
    IPPROTO_FRAGMENT_, IPPROTO_HOPOPTS_, IPPROTO_ICMPV6_, IPPROTO_ROUTING_, ND_REDIRECT, ND_ROUTER_SOLICIT, Frag6Hdr,
    Icmp6Hdr, addr_get, addr_put, ext6_length, frag6_parse, icmp6_emit, icmp6_parse,
)
from ustack_ext.base.core cimport count
from ustack_ext.net.icmp cimport icmp_global_allows, icmp_target_allows
from ustack_ext.net.iface cimport is_ours, sends_as, source_for
from ustack_ext.net.mib cimport (
    DropIcmp6Malformed, DropIcmp6Unmatched, Icmp6InCsumErrors, Icmp6InDestUnreachs, Icmp6InEchoReplies, Icmp6InEchos,
    Icmp6InErrors, Icmp6InMsgs, Icmp6InParmProblems, Icmp6InPktTooBigs, Icmp6InTimeExcds, Icmp6OutDestUnreachs,
    Icmp6OutEchoReplies, Icmp6OutEchos, Icmp6OutErrors, Icmp6OutMsgs, Icmp6OutParmProblems, Icmp6OutPktTooBigs,
    Icmp6OutTimeExcds,
)
from ustack_ext.net.mld cimport mld_input
from ustack_ext.net.nd cimport nd_input
from ustack_ext.net.output cimport tx_csum, tx_length
from ustack_ext.net.output6 cimport output6_packet
from ustack_ext.net.state cimport (
    FOREIGN_PING, NET_DONE, NET_ECHO_REPLY, NET_ECHO_REQUEST, NET_ICMP_ERROR, ROUTER_6, RX_FOREIGN, RX_IP_MULTICAST,
    RX_LINK_BROADCAST, RX_LOOPBACK, tx_init, tx_payload, tx_push,
)


# --- what goes out ---

cdef int send_icmp(Net *n, Dst *d, const Addr *src, const Addr *dst, uint8_t ttl, uint8_t tos, const Icmp6Hdr *h,
                   TxPkt *t) noexcept nogil:
    cdef uint8_t *p = tx_push(t, ICMP6_HLEN)
    icmp6_emit(p, h)
    csum_store(p + 2, csum_fold(tx_csum(t, csum_pseudo(src, dst, IPPROTO_ICMPV6_, tx_length(t)))))
    count(n.core, Icmp6OutMsgs)
    return output6_packet(n, d, src, dst, IPPROTO_ICMPV6_, ttl, tos, False, t)


cdef int icmp6_echo_out(Net *n, Dst *d, const Addr *src, const Addr *dst, uint8_t ttl, uint8_t tos, bint reply,
                        uint16_t ident, uint16_t seq, TxPkt *t) noexcept nogil:
    cdef Icmp6Hdr h
    h.type = ICMP6_ECHOREPLY if reply else ICMP6_ECHO
    h.code = 0
    h.rest = <uint32_t>ident << 16 | seq
    count(n.core, Icmp6OutEchoReplies if reply else Icmp6OutEchos)
    return send_icmp(n, d, src, dst, ttl, tos, &h, t)


cdef void echo_reply(Net *n, RxPkt *rx, const Icmp6Hdr *request) noexcept nogil:
    """RFC 4443 §4.2: from the address that was asked; a group's answer comes from one of ours."""
    cdef Addr src = rx.dst
    cdef Icmp6Hdr h
    cdef TxPkt t
    cdef Dst d
    if rx.flags & RX_IP_MULTICAST and source_for(n, &rx.src, &src) != 0:
        return
    memset(&d, 0, sizeof(d))
    tx_init(&t)
    if rx.l4_len > ICMP6_HLEN:
        tx_payload(&t, rx.l4 + ICMP6_HLEN, rx.l4_len - ICMP6_HLEN)
    h.type = ICMP6_ECHOREPLY
    h.code = 0
    h.rest = request.rest
    count(n.core, Icmp6OutEchoReplies)
    send_icmp(n, &d, &src, &rx.src, 0, rx.tos, &h, &t)


cdef void send_error(Net *n, const Addr *src, const Addr *dst, uint8_t type, uint8_t code, uint32_t rest,
                     const uint8_t *quote, uint32_t length) noexcept nogil:
    cdef Icmp6Hdr h
    cdef TxPkt t
    cdef Dst d
    memset(&d, 0, sizeof(d))
    tx_init(&t)
    tx_payload(&t, <void *>quote, min(length, <uint32_t>(IP6_MIN_MTU - IP6_HLEN - ICMP6_HLEN)))   # §2.4 (c)
    h.type = type
    h.code = code
    h.rest = rest
    count(n.core, Icmp6OutDestUnreachs if type == ICMP6_UNREACH else
          Icmp6OutPktTooBigs if type == ICMP6_TOO_BIG else
          Icmp6OutTimeExcds if type == ICMP6_TIME_EXCEEDED else Icmp6OutParmProblems)
    if send_icmp(n, &d, src, dst, 0, 0, &h, &t) != 0:
        count(n.core, Icmp6OutErrors)


cdef bint is_error_type(uint8_t type) noexcept nogil:
    return type < ICMP6_INFO or type == ND_REDIRECT


cdef bint icmp6_may_complain(const RxPkt *rx, uint8_t type, uint8_t code) noexcept nogil:
    """RFC 4443 §2.4 (e): never about errors and redirects, or to a source that is not one host; about what went to a
    group only that an option is not known (and that a packet is too big, which only routers say)."""
    cdef IcmpError inner
    if (rx.flags & (RX_LINK_BROADCAST | RX_IP_MULTICAST)
            and not (type == ICMP6_PARAM_PROBLEM and code == ICMP6_PARAM_OPTION)):
        return False
    if rx.proto == IPPROTO_ICMPV6_ and (rx.l4_len == 0 or is_error_type(rx.l4[0])):
        return False
    if find_transport(rx.l3, rx.l3_len, &inner) and inner.proto == IPPROTO_ICMPV6_ and is_error_type(inner.l4[0]):
        return False                                   # also behind the extension header that is complained of
    return not (addr_is_any(&rx.src) or addr_is_multicast(&rx.src))


cdef void icmp6_error_about(Net *n, const RxPkt *rx, uint8_t type, uint8_t code, uint32_t rest) noexcept nogil:
    """Sends an error about a received packet if the rules and limits allow it; from the address the packet was for, or,
    for a router, from one of the way back (§2.2 (d)). Packet too big is limited over all alone: path MTU discovery
    waits for it (Linux)."""
    cdef Addr src = rx.dst
    if not icmp6_may_complain(rx, type, code):
        return
    if not is_ours(n, &src) and source_for(n, &rx.src, &src) != 0:
        return
    if not rx.flags & RX_LOOPBACK and not (
            (type == ICMP6_TOO_BIG or icmp_target_allows(n, &rx.src)) and icmp_global_allows(n)):
        return
    send_error(n, &src, &rx.src, type, code, rest, rx.l3, rx.l3_len)


cdef void icmp6_refuse(Net *n, const Addr *src, const Addr *dst, uint8_t type, uint8_t code, const uint8_t *quote,
                       uint32_t length) noexcept nogil:
    if icmp_target_allows(n, dst) and icmp_global_allows(n):
        send_error(n, src, dst, type, code, 0, quote, length)


cdef void put_zones(uint8_t *packet, uint32_t zone) noexcept nogil:
    """As on the loopback: the addresses of a packet keep the zone that they had before it left."""
    cdef Addr a = addr_get(packet + 8)
    a = addr_zoned(&a, zone)
    addr_put(packet + 8, &a)
    a = addr_get(packet + 24)
    a = addr_zoned(&a, zone)
    addr_put(packet + 24, &a)


cdef void icmp6_tell_sender(Net *n, Iface *i, uint8_t *packet, uint32_t length) noexcept nogil:
    cdef Addr src, own
    if n.lo == NULL or length < IP6_HLEN or packet[0] >> 4 != 6 or packet[6] == IPPROTO_FRAGMENT_:
        return
    if packet[6] == IPPROTO_ICMPV6_ and (length <= IP6_HLEN or is_error_type(packet[IP6_HLEN])):
        return
    put_zones(packet, i.index)
    src = addr_get(packet + 8)
    if n.routers & ROUTER_6 and not is_ours(n, &src):
        if not addr_is_any(&src) and source_for(n, &src, &own) == 0:
            icmp6_refuse(n, &own, &src, ICMP6_UNREACH, ICMP6_UNREACH_ADDRESS, packet, length)
    elif is_ours(n, &src):
        send_error(n, &src, &src, ICMP6_UNREACH, ICMP6_UNREACH_ADDRESS, 0, packet, length)


# --- what comes in ---

cdef void set_error(IcmpError *err) noexcept nogil:
    """The errno and its hardness as Linux maps them."""
    err.hard = 0
    err.error = EHOSTUNREACH
    if err.type == ICMP6_TOO_BIG:
        err.error = EMSGSIZE
    elif err.type == ICMP6_PARAM_PROBLEM:
        err.error = EPROTO
        err.hard = 1
    elif err.type == ICMP6_UNREACH:
        if err.code == ICMP6_UNREACH_NOROUTE:
            err.error = ENETUNREACH
        elif err.code == ICMP6_UNREACH_PORT:
            err.error = ECONNREFUSED
            err.hard = 1
        elif err.code == ICMP6_UNREACH_ADMIN or err.code == 5 or err.code == 6:
            err.error = EACCES
            err.hard = 1


cdef bint find_transport(const uint8_t *q, uint32_t have, IcmpError *err) noexcept nogil:
    """The transport header in a quoted packet, behind its extension headers: eight bytes of it, of a first fragment."""
    cdef uint8_t proto = q[6]
    cdef int left = EXT6_MAX
    cdef uint32_t length
    cdef Frag6Hdr f
    q += IP6_HLEN
    have -= IP6_HLEN
    while (proto == IPPROTO_HOPOPTS_ or proto == IPPROTO_DSTOPTS_ or proto == IPPROTO_ROUTING_
           or proto == IPPROTO_FRAGMENT_):
        left -= 1
        if left < 0:
            return False
        if proto == IPPROTO_FRAGMENT_:
            if frag6_parse(q, have, &f) != WIRE_OK or f.frag_off != 0:
                return False
            length = FRAG6_HLEN
        else:
            length = ext6_length(q, have)
        if length == 0:
            return False
        proto = q[0]
        q += length
        have -= length
    err.proto = proto
    err.l4 = q
    err.l4_len = have
    return have >= 8


cdef Addr quoted_address(const RxPkt *rx, const uint8_t *p) noexcept nogil:
    cdef Addr a = addr_get(p)
    if rx.flags & RX_LOOPBACK or not addr_has_zone(&a) or addr_zone(&a) != 0:
        return a
    return addr_zoned(&a, rx.iface.index)


cdef int error_input(Net *n, RxPkt *rx, const Icmp6Hdr *h, IcmpError *err) noexcept nogil:
    """An error must quote a packet that one of our addresses sent (RFC 5927 §4.1)."""
    cdef const uint8_t *q = rx.l4 + ICMP6_HLEN
    cdef uint32_t have = rx.l4_len - ICMP6_HLEN
    if rx.flags & (RX_LINK_BROADCAST | RX_IP_MULTICAST):
        count(n.core, DropIcmp6Unmatched)
        return NET_DONE
    if have < IP6_HLEN or q[0] >> 4 != 6 or not find_transport(q, have, err):
        count(n.core, Icmp6InErrors)
        count(n.core, DropIcmp6Malformed)
        return NET_DONE
    err.type = h.type
    err.code = h.code
    err.from_addr = rx.src
    err.src = quoted_address(rx, q + 8)
    err.dst = quoted_address(rx, q + 24)
    err.mtu = h.rest if h.type == ICMP6_TOO_BIG else 0
    set_error(err)
    # RFC 8201 §4: less than every link carries is no answer of a router's.
    if (h.type == ICMP6_TOO_BIG and h.rest < IP6_MIN_MTU) or not sends_as(n, &err.src) or addr_is_v4(&err.dst):
        count(n.core, DropIcmp6Unmatched)
        return NET_DONE
    return NET_ICMP_ERROR


cdef int icmp6_input(Net *n, RxPkt *rx, IcmpError *err) noexcept nogil:
    """One ICMPv6 message for us. *err is filled on NET_ICMP_ERROR."""
    cdef Icmp6Hdr h
    cdef int status = icmp6_parse(rx.l4, rx.l4_len, &rx.src, &rx.dst, &h, rx.flags & RX_LOOPBACK != 0)
    count(n.core, Icmp6InMsgs)
    if status != WIRE_OK:
        count(n.core, Icmp6InErrors)
        count(n.core, Icmp6InCsumErrors if status == WIRE_CHECKSUM else DropIcmp6Malformed)
        return NET_DONE
    if ND_ROUTER_SOLICIT <= h.type <= ND_REDIRECT:
        nd_input(n, rx, &h)
    elif h.type == ICMP6_MLD_QUERY or h.type == ICMP6_MLD_REPORT:
        mld_input(n, rx)
    elif addr_is_any(&rx.src):
        count(n.core, DropIcmp6Unmatched)
    elif h.type == ICMP6_ECHO:
        count(n.core, Icmp6InEchos)
        if rx.flags & RX_FOREIGN:
            return NET_ECHO_REQUEST if n.foreign & FOREIGN_PING else NET_DONE
        if not n.knobs.echo_ignore_all6:
            echo_reply(n, rx, &h)
    elif h.type == ICMP6_ECHOREPLY:
        count(n.core, Icmp6InEchoReplies)
        return NET_ECHO_REPLY
    elif ICMP6_UNREACH <= h.type <= ICMP6_PARAM_PROBLEM:
        count(n.core, Icmp6InDestUnreachs if h.type == ICMP6_UNREACH else
              Icmp6InPktTooBigs if h.type == ICMP6_TOO_BIG else
              Icmp6InTimeExcds if h.type == ICMP6_TIME_EXCEEDED else Icmp6InParmProblems)
        return error_input(n, rx, &h, err)
    else:
        count(n.core, DropIcmp6Unmatched)
    return NET_DONE
