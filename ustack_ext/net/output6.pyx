"""Sends transport packets over IPv6 (RFC 8200; RFC 6437 for the flow label; RFC 7739 for the fragment identification).

Responsible for the header and for fragmentation at the source; output finds the interface and the neighbour, and writes
the link header. Not for transport checksums, not for path MTU discovery: the transport says what may be fragmented.
"""
from libc.errno cimport EMSGSIZE
from libc.stdint cimport uint16_t, uint32_t

from ustack_ext.wire.addr cimport addr_bare_hi
from ustack_ext.wire.bytes cimport get_be32
from ustack_ext.wire.headers cimport ETHERTYPE_IPV6, IPPROTO_TCP_, IPPROTO_UDP_
from ustack_ext.wire.ip6 cimport (
    FRAG6_HLEN, IP6_HLEN, IP6_PAYLOAD_MAX, IPPROTO_FRAGMENT_, Frag6Hdr, Ip6Hdr, frag6_emit, ip6_emit,
)
from ustack_ext.base.core cimport count, count_add
from ustack_ext.base.iov cimport OFF_CSUM_WANTED
from ustack_ext.base.rng cimport rng_u64
from ustack_ext.base.table cimport table_hash
from ustack_ext.net.mib cimport (
    DropTxTooBig, Ip6FragCreates, Ip6FragFails, Ip6FragOKs, Ip6OutDiscards, Ip6OutOctets, Ip6OutRequests,
)
from ustack_ext.net.output cimport output_link, output_resolve, tx_finish_checksum, tx_length, tx_slice
from ustack_ext.net.state cimport MEDIUM_LOOPBACK, TX_IOV_MAX, tx_init, tx_push


cdef uint16_t flow_of(Net *n, const Addr *src, const Addr *dst, uint8_t proto, const TxPkt *t) noexcept nogil:
    """What tells one flow from others, never 0: a keyed hash of the 5-tuple (RFC 6437 §3, appendix A)."""
    cdef uint32_t ports = get_be32(t.hdr) if proto == IPPROTO_TCP_ or proto == IPPROTO_UDP_ else 0, hash
    hash = table_hash(&n.secret6, src.hi ^ dst.hi, src.lo, dst.lo, ports, proto)
    hash = (hash ^ hash >> 16) & 0xFFFF
    return <uint16_t>hash if hash != 0 else 1


cdef int send_fragments(Net *n, Dst *d, const Addr *dst, Ip6Hdr *ip, TxPkt *t) noexcept nogil:
    """RFC 8200 §4.5: as large as the MTU allows, in order. The first failure ends it: the packet is lost."""
    cdef uint32_t total = tx_length(t)
    cdef uint32_t most = (d.mtu - IP6_HLEN - FRAG6_HLEN) & ~<uint32_t>7
    cdef uint32_t at = 0, take
    cdef Frag6Hdr frag
    cdef int status
    cdef TxPkt f
    if t.niov >= TX_IOV_MAX or d.mtu < IP6_HLEN + FRAG6_HLEN + 8:
        return -EMSGSIZE
    if t.off.flags & OFF_CSUM_WANTED:
        tx_finish_checksum(t)
    frag.next = ip.next
    frag.id = <uint32_t>rng_u64(&n.core.rng)
    ip.next = IPPROTO_FRAGMENT_
    while at < total:
        take = min(total - at, most)
        tx_init(&f)
        tx_slice(t, at, take, &f)
        frag.frag_off = at
        frag.more = at + take < total
        frag6_emit(tx_push(&f, FRAG6_HLEN), &frag)
        ip.payload_len = <uint16_t>(FRAG6_HLEN + take)
        ip6_emit(tx_push(&f, IP6_HLEN), ip)
        status = output_link(n, d, dst, ETHERTYPE_IPV6, &f)
        if status != 0:
            count(n.core, Ip6FragFails)
            return status
        count(n.core, Ip6FragCreates)
        at += take
    count(n.core, Ip6FragOKs)
    return 0


cdef int output6_packet(Net *n, Dst *d, const Addr *src, const Addr *dst, uint8_t proto, uint8_t ttl, uint8_t tos,
                        bint df, TxPkt *t) noexcept nogil:
    cdef Ip6Hdr ip
    cdef uint32_t payload = tx_length(t)
    cdef uint32_t largest = IP6_HLEN + payload
    cdef int status
    count(n.core, Ip6OutRequests)
    count_add(n.core, Ip6OutOctets, largest)
    status = output_resolve(n, d, src, dst)
    if status != 0:
        count(n.core, Ip6OutDiscards)
        return status
    if t.off.gso_size != 0:                            # the link cuts it: what must fit is one piece
        largest = min(largest, largest - t.payload_len + t.off.gso_size)
    if payload > IP6_PAYLOAD_MAX or (largest > d.mtu and (df or t.off.gso_size != 0)):
        count(n.core, DropTxTooBig)
        count(n.core, Ip6FragFails)
        return -EMSGSIZE
    if d.flow == 0:
        d.flow = flow_of(n, src, dst, proto, t)
    ip.flow = (<uint32_t>d.flow << 4 | d.flow >> 12) & 0xFFFFF if n.knobs.auto_flowlabels else 0
    ip.tclass = tos
    ip.next = proto
    ip.hop_limit = ttl if ttl != 0 or t.no_hops else d.iface.six.conf.hop_limit
    ip.src = src[0]
    ip.dst = dst[0]
    if d.iface.medium != MEDIUM_LOOPBACK:              # where the zone is left in, it is not guessed when it comes back
        ip.src.hi = addr_bare_hi(src.hi)
        ip.dst.hi = addr_bare_hi(dst.hi)
    if largest > d.mtu:
        return send_fragments(n, d, dst, &ip, t)
    ip.payload_len = <uint16_t>payload
    ip6_emit(tx_push(t, IP6_HLEN), &ip)
    if t.off.flags & OFF_CSUM_WANTED:
        t.off.csum_start += IP6_HLEN
    return output_link(n, d, dst, ETHERTYPE_IPV6, t)
