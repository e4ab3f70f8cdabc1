"""ICMP for IPv4 (RFC 792, RFC 1122 §3.2.2, RFC 1812 §4.3, RFC 5927, RFC 6633).

Responsible for answering echo requests, for the errors we send and their limits, and for validating received errors as
far as IP can; the transport compares the quoted header with its connections. Redirects and source quenches are counted
and ignored; timestamp, address mask and unknown requests are dropped.
"""
from libc.errno cimport (ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, EMSGSIZE, ENETUNREACH, ENOPROTOOPT, EOPNOTSUPP, EPROTO)
from libc.stdint cimport uint64_t
from libc.string cimport memset

from ustack_ext.wire.addr cimport (addr_eq, addr_is_any, addr_is_broadcast, addr_is_multicast, addr_v4)
from ustack_ext.wire.bytes cimport get_be16, get_be32
from ustack_ext.wire.checksum cimport csum_fold, csum_store
from ustack_ext.wire.headers cimport (ICMP_ECHO, ICMP_ECHOREPLY, ICMP_HLEN, ICMP_PARAM_PROBLEM, ICMP_REDIRECT,
                                      ICMP_SOURCE_QUENCH, ICMP_TIME_EXCEEDED, ICMP_UNREACH, ICMP_UNREACH_HOST,
                                      ICMP_UNREACH_NEEDFRAG, IP4_HLEN, IPPROTO_ICMP_, Icmp4Hdr, WIRE_CHECKSUM, WIRE_OK,
                                      icmp4_emit, icmp4_parse)
from ustack_ext.base.core cimport count
from ustack_ext.base.limiter cimport limiter_init, limiter_take
from ustack_ext.base.rng cimport rng_below
from ustack_ext.base.table cimport table_hash
from ustack_ext.net.iface cimport is_ours, sends_as, source_for
from ustack_ext.net.mib cimport (DropIcmpMalformed, DropIcmpUnmatched, IcmpInCsumErrors, IcmpInDestUnreachs,
                                 IcmpInEchoReps, IcmpInEchos, IcmpInErrors, IcmpInMsgs, IcmpInParmProbs,
                                 IcmpInRedirects, IcmpInSrcQuenchs, IcmpInTimeExcds, IcmpOutDestUnreachs,
                                 IcmpOutEchoReps, IcmpOutEchos, IcmpOutErrors, IcmpOutMsgs, IcmpOutParmProbs,
                                 IcmpOutRateLimitGlobal, IcmpOutRateLimitHost, IcmpOutTimeExcds)
from ustack_ext.net.output cimport output_packet, tx_csum
from ustack_ext.net.state cimport (FOREIGN_PING, IcmpTarget, NET_DONE, NET_ECHO_REPLY, NET_ECHO_REQUEST,
                                   NET_ICMP_ERROR, RX_FOREIGN, RX_IP_BROADCAST, RX_IP_MULTICAST,
                                   RX_LINK_BROADCAST, RX_LOOPBACK, tx_init, tx_payload, tx_push)

cdef enum:
    ERROR_MAX = 576            # RFC 1812 §4.3.2.3: as much of the packet as fits into this
    TARGETS = 64
    TARGET_BURST = 6           # Linux's XRLIM_BURST_FACTOR
    ERROR_TOS = 0xC0           # RFC 1812 §4.3.2.5: precedence 6
    LAST_UNREACH_CODE = 15
    MS = 1000000
    SECOND = 1000000000


# --- what goes out ---

cdef int send_icmp(Net *n, Dst *d, const Addr *src, const Addr *dst, uint8_t ttl, uint8_t tos, const Icmp4Hdr *h,
                   TxPkt *t) noexcept nogil:
    cdef uint8_t *p = tx_push(t, ICMP_HLEN)
    icmp4_emit(p, h)
    csum_store(p + 2, csum_fold(tx_csum(t, 0)))
    count(n.core, IcmpOutMsgs)
    return output_packet(n, d, src, dst, IPPROTO_ICMP_, ttl, tos, False, t)


cdef int icmp_echo_out(Net *n, Dst *d, const Addr *src, const Addr *dst, uint8_t ttl, uint8_t tos, bint reply,
                       uint16_t ident, uint16_t seq, TxPkt *t) noexcept nogil:
    cdef Icmp4Hdr h
    h.type = ICMP_ECHOREPLY if reply else ICMP_ECHO
    h.code = 0
    h.rest = <uint32_t>ident << 16 | seq
    count(n.core, IcmpOutEchoReps if reply else IcmpOutEchos)
    return send_icmp(n, d, src, dst, ttl, tos, &h, t)


cdef void echo_reply(Net *n, RxPkt *rx, const Icmp4Hdr *request) noexcept nogil:
    """RFC 1122 §3.2.2.6: the data comes back whole, from the address that was asked; TOS as it came (§3.2.2.6,
    Linux)."""
    cdef Addr src = rx.dst
    cdef Icmp4Hdr h
    cdef TxPkt t
    cdef Dst d
    if rx.flags & (RX_IP_BROADCAST | RX_IP_MULTICAST) and source_for(n, &rx.src, &src) != 0:
        return
    memset(&d, 0, sizeof(d))
    tx_init(&t)
    if rx.l4_len > ICMP_HLEN:
        tx_payload(&t, rx.l4 + ICMP_HLEN, rx.l4_len - ICMP_HLEN)
    h.type = ICMP_ECHOREPLY
    h.code = 0
    h.rest = request.rest
    count(n.core, IcmpOutEchoReps)
    send_icmp(n, &d, &src, &rx.src, 0, rx.tos, &h, &t)


cdef void send_error(Net *n, const Addr *src, const Addr *dst, uint8_t type, uint8_t code, uint32_t rest,
                     const uint8_t *quote, uint32_t length) noexcept nogil:
    cdef Icmp4Hdr h
    cdef TxPkt t
    cdef Dst d
    memset(&d, 0, sizeof(d))
    tx_init(&t)
    tx_payload(&t, <void *>quote, min(length, <uint32_t>(ERROR_MAX - IP4_HLEN - ICMP_HLEN)))
    h.type = type
    h.code = code
    h.rest = rest
    count(n.core, IcmpOutDestUnreachs if type == ICMP_UNREACH else
          IcmpOutTimeExcds if type == ICMP_TIME_EXCEEDED else IcmpOutParmProbs)
    if send_icmp(n, &d, src, dst, 0, ERROR_TOS, &h, &t) != 0:
        count(n.core, IcmpOutErrors)


# --- limits (RFC 1812 §4.3.2.8) ---

cdef bint icmp_target_allows(Net *n, const Addr *dst) noexcept nogil:
    """One error per icmp_ratelimit ms to one target, six at once. Targets share a small cache: a collision forgets the
    older one, which only the global limit then holds."""
    cdef uint64_t cost = <uint64_t>n.knobs.icmp_ratelimit * MS
    cdef uint64_t full = cost * TARGET_BURST
    cdef IcmpTarget *t = &n.icmp_targets[table_hash(&n.key, dst.hi, dst.lo, n.icmp_key_salt, 0, 0) % TARGETS]
    if cost == 0:
        return True
    if not addr_eq(&t.addr, dst):
        t.addr = dst[0]
        t.limiter.credit = full
    elif n.core.now - t.limiter.last >= full:
        t.limiter.credit = full
    else:
        t.limiter.credit = min(full, t.limiter.credit + (n.core.now - t.limiter.last))
    t.limiter.last = n.core.now
    if t.limiter.credit < cost:
        count(n.core, IcmpOutRateLimitHost)
        return False
    t.limiter.credit -= cost
    return True


cdef bint icmp_global_allows(Net *n) noexcept nogil:
    """icmp_msgs_per_sec with icmp_msgs_burst. Each error spends 0, 1 or 2 tokens by chance: an observer who counts what
    is left of the budget cannot tell how many errors others got (SAD DNS, CVE-2020-25705; as Linux does since)."""
    cdef uint32_t spend
    if n.icmp_global.rate != n.knobs.icmp_msgs_per_sec or n.icmp_global.burst != n.knobs.icmp_msgs_burst:
        limiter_init(&n.icmp_global, n.knobs.icmp_msgs_per_sec, n.knobs.icmp_msgs_burst, n.core.now)
    if not limiter_take(&n.icmp_global, n.core.now):
        count(n.core, IcmpOutRateLimitGlobal)
        return False
    spend = rng_below(&n.core.rng, 3)
    if spend == 0:
        n.icmp_global.credit += SECOND // n.icmp_global.rate
    elif spend == 2:
        limiter_take(&n.icmp_global, n.core.now)
    return True


cdef bint is_icmp_error_type(uint8_t type) noexcept nogil:
    return (type == ICMP_UNREACH or type == ICMP_TIME_EXCEEDED or type == ICMP_PARAM_PROBLEM or type == ICMP_REDIRECT
            or type == ICMP_SOURCE_QUENCH)


cdef bint may_complain(Net *n, const RxPkt *rx) noexcept nogil:
    """RFC 1122 §3.2.2: never about errors, groups, later fragments, or to a source that is not one host."""
    if rx.flags & (RX_LINK_BROADCAST | RX_IP_BROADCAST | RX_IP_MULTICAST):
        return False
    if rx.l3_len < IP4_HLEN or get_be16(rx.l3 + 6) & 0x1FFF:
        return False
    if rx.proto == IPPROTO_ICMP_ and (rx.l4_len == 0 or is_icmp_error_type(rx.l4[0])):
        return False
    return not (addr_is_any(&rx.src) or addr_is_multicast(&rx.src) or addr_is_broadcast(&rx.src))


cdef void icmp_error_about(Net *n, const RxPkt *rx, uint8_t type, uint8_t code, uint32_t rest) noexcept nogil:
    """Sends an error about a received packet if the rules and limits allow it; from the address the packet was for, or,
    for a router, from that of the interface it goes out by (RFC 1812 §4.3.2.4)."""
    cdef Addr src = rx.dst
    if not may_complain(n, rx):
        return
    if not is_ours(n, &src) and (not (n.knobs.ip_forward or n.foreign) or source_for(n, &rx.src, &src) != 0):
        return
    if not rx.flags & RX_LOOPBACK and not (icmp_target_allows(n, &rx.src) and icmp_global_allows(n)):
        return
    send_error(n, &src, &rx.src, type, code, rest, rx.l3, rx.l3_len)


cdef void icmp_refuse(Net *n, const Addr *src, const Addr *dst, uint8_t type, uint8_t code, const uint8_t *quote,
                      uint32_t length) noexcept nogil:
    if icmp_target_allows(n, dst) and icmp_global_allows(n):
        send_error(n, src, dst, type, code, 0, quote, length)


cdef void from_router(Net *n, const Addr *to, const uint8_t *packet, uint32_t length) noexcept nogil:
    """Host unreachable about a packet that was forwarded (RFC 1812 §5.2.7.1)."""
    cdef Addr own
    if addr_is_any(to) or source_for(n, to, &own) != 0:
        return
    if not (icmp_target_allows(n, to) and icmp_global_allows(n)):
        return
    send_error(n, &own, to, ICMP_UNREACH, ICMP_UNREACH_HOST, 0, packet, length)


cdef void icmp_tell_sender(Net *n, const uint8_t *packet, uint32_t length) noexcept nogil:
    """Host unreachable, to ourselves, about a packet of ours that could not be delivered: the way Linux tells a socket
    that ARP got no answer. It goes through loopback and is matched like an error from the network."""
    cdef Addr src
    if n.lo == NULL or length < IP4_HLEN or packet[0] >> 4 != 4 or get_be16(packet + 6) & 0x1FFF:
        return
    if packet[9] == IPPROTO_ICMP_ and (length <= IP4_HLEN or is_icmp_error_type(packet[IP4_HLEN])):
        return
    src = addr_v4(get_be32(packet + 12))
    if n.knobs.ip_forward and not is_ours(n, &src):
        from_router(n, &src, packet, length)
    elif is_ours(n, &src):
        send_error(n, &src, &src, ICMP_UNREACH, ICMP_UNREACH_HOST, 0, packet, length)


# --- what comes in ---

cdef void set_error(IcmpError *err) noexcept nogil:
    """The errno and its hardness as Linux maps them (RFC 1122 §4.2.3.9 for which are hard). ENONET is EHOSTUNREACH
    here: it exists on Linux only."""
    err.hard = 0
    err.error = EHOSTUNREACH
    if err.type == ICMP_PARAM_PROBLEM:
        err.error = EPROTO
        err.hard = 1
    elif err.type == ICMP_UNREACH:
        if err.code == 0 or err.code == 6 or err.code == 9 or err.code == 11:
            err.error = ENETUNREACH
        elif err.code == 2:
            err.error = ENOPROTOOPT
        elif err.code == 3:
            err.error = ECONNREFUSED
        elif err.code == ICMP_UNREACH_NEEDFRAG:
            err.error = EMSGSIZE
        elif err.code == 5:
            err.error = EOPNOTSUPP
        elif err.code == 7:
            err.error = EHOSTDOWN
        err.hard = (err.code == 2 or err.code == 3 or 6 <= err.code <= 10 or err.code >= 13)


cdef int error_input(Net *n, RxPkt *rx, const Icmp4Hdr *h, IcmpError *err) noexcept nogil:
    """An error must quote an IPv4 header and eight bytes of a first fragment that one of our addresses sent (RFC 5927
    §4.1).

    The quoted header's own checksum and length are not looked at: routers change the one and truncate to the other.
    """
    cdef const uint8_t *q = rx.l4 + ICMP_HLEN
    cdef uint32_t have = rx.l4_len - ICMP_HLEN
    cdef uint32_t hlen
    if rx.flags & (RX_LINK_BROADCAST | RX_IP_BROADCAST | RX_IP_MULTICAST):
        count(n.core, DropIcmpUnmatched)
        return NET_DONE
    if have < IP4_HLEN or q[0] >> 4 != 4 or (h.type == ICMP_UNREACH and h.code > LAST_UNREACH_CODE):
        count(n.core, IcmpInErrors)
        count(n.core, DropIcmpMalformed)
        return NET_DONE
    hlen = <uint32_t>(q[0] & 15) * 4
    if hlen < IP4_HLEN or have < hlen + 8:
        count(n.core, IcmpInErrors)
        count(n.core, DropIcmpMalformed)
        return NET_DONE
    err.type = h.type
    err.code = h.code
    err.proto = q[9]
    err.from_addr = rx.src
    err.src = addr_v4(get_be32(q + 12))
    err.dst = addr_v4(get_be32(q + 16))
    err.l4 = q + hlen
    err.l4_len = have - hlen
    err.mtu = h.rest & 0xFFFF if h.type == ICMP_UNREACH and h.code == ICMP_UNREACH_NEEDFRAG else 0
    set_error(err)
    if get_be16(q + 6) & 0x1FFF or not sends_as(n, &err.src):
        count(n.core, DropIcmpUnmatched)
        return NET_DONE
    return NET_ICMP_ERROR


cdef int icmp_input(Net *n, RxPkt *rx, IcmpError *err) noexcept nogil:
    """One ICMP message for us. *err is filled on NET_ICMP_ERROR."""
    cdef Icmp4Hdr h
    # An echo is answered and an error believed only on a checksum of our own: a link vouches for TCP and UDP, not for
    # this.
    cdef int status = icmp4_parse(rx.l4, rx.l4_len, &h, rx.flags & RX_LOOPBACK != 0)
    count(n.core, IcmpInMsgs)
    if status != WIRE_OK:
        count(n.core, IcmpInErrors)
        count(n.core, IcmpInCsumErrors if status == WIRE_CHECKSUM else DropIcmpMalformed)
        return NET_DONE
    if h.type == ICMP_ECHO:
        count(n.core, IcmpInEchos)
        if rx.flags & RX_FOREIGN:
            return NET_ECHO_REQUEST if n.foreign & FOREIGN_PING else NET_DONE
        if n.knobs.icmp_echo_ignore_all:
            return NET_DONE
        if (rx.flags & (RX_LINK_BROADCAST | RX_IP_BROADCAST | RX_IP_MULTICAST)
                and n.knobs.icmp_echo_ignore_broadcasts):
            return NET_DONE
        echo_reply(n, rx, &h)
    elif h.type == ICMP_ECHOREPLY:
        count(n.core, IcmpInEchoReps)
        return NET_ECHO_REPLY
    elif h.type == ICMP_UNREACH or h.type == ICMP_TIME_EXCEEDED or h.type == ICMP_PARAM_PROBLEM:
        count(n.core, IcmpInDestUnreachs if h.type == ICMP_UNREACH else
              IcmpInTimeExcds if h.type == ICMP_TIME_EXCEEDED else IcmpInParmProbs)
        return error_input(n, rx, &h, err)
    elif h.type == ICMP_SOURCE_QUENCH:
        count(n.core, IcmpInSrcQuenchs)
    elif h.type == ICMP_REDIRECT:
        count(n.core, IcmpInRedirects)
    else:
        count(n.core, DropIcmpUnmatched)
    return NET_DONE
