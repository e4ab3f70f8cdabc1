"""Sends transport packets over IPv4 (RFC 791, RFC 1122 §3.2, §3.3; RFC 6864 for the identification).

Responsible for choosing the interface and the neighbour, for the IP and link headers, and for fragmentation. For IPv6
it finds the way and writes the link header; the rest is output6's. Not for transport checksums (except for fragments of
a packet whose checksum was left to the link). Path MTU discovery (RFC 1191) is net/pmtu's and the transport's, which
says what may be fragmented; here a path's MTU bounds the route's.

The fast path, a resolved neighbour and a packet that fits, writes two headers in front of the transport's and hands the
iovec on; nothing is copied.
"""
from libc.errno cimport EHOSTUNREACH, EINVAL, EMSGSIZE, ENETUNREACH, ENOBUFS
from libc.string cimport memcpy

from ustack_ext.wire.addr cimport addr_is_any, addr_is_loopback, addr_is_multicast, addr_is_v4, addr_to_v4
from ustack_ext.wire.bytes cimport put_be16
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_store, csum_swap
from ustack_ext.wire.headers cimport (ETH_HLEN, ETHERTYPE_IPV4, IP4_DF, IP4_HLEN, IP4_MF, Ip4Hdr, ip4_emit)
from ustack_ext.base.core cimport count, count_add
from ustack_ext.base.iov cimport OFF_CSUM_WANTED
from ustack_ext.base.table cimport siphash
from ustack_ext.net.frame cimport frame_transmit, mac_for_group
from ustack_ext.net.iface cimport iface_for_group, iface_of, is_our_broadcast, is_ours
from ustack_ext.net.mib cimport (DropTxTooBig, IpFragCreates, IpFragFails, IpFragOKs, IpOutDiscards, IpOutNoRoutes,
                                 IpOutOctets, IpOutRequests)
from ustack_ext.net.neigh cimport neigh_create, neigh_find, neigh_queue, neigh_use
from ustack_ext.net.pmtu cimport pmtu_find
from ustack_ext.net.rule cimport route_for
from ustack_ext.net.state cimport (IP_IDENTS, IP_MAX, Iface, MEDIUM_ETHERNET, NUD_FAILED, Pmtu, Route, TX_HEADROOM,
                                   TX_IOV_MAX, tx_init, tx_payload, tx_push)


# --- where to ---

cdef inline uint32_t iface_mtu(const Iface *i, const Addr *dst) noexcept nogil:
    """The interface's; for IPv6 less where a router said so (RFC 4861 §6.3.4)."""
    return i.six.mtu if i.six.mtu != 0 and not addr_is_v4(dst) else i.mtu


cdef inline bint is_strong(const Net *n, const Addr *dst) noexcept nogil:
    """RFC 1122 §3.3.4.2: whether what has an interface's address leaves by that one alone. A router is no host."""
    if addr_is_v4(dst):
        return n.knobs.strong_es and not n.knobs.ip_forward
    return n.knobs.strong_es6 and not n.knobs.forwarding6


cdef int output_resolve_anew(Net *n, Dst *d, const Addr *src, const Addr *dst) noexcept nogil:
    return output_resolve_from(n, d, src, dst, NULL)


cdef int way(Net *n, Dst *d, const Route *r, const Addr *dst, const Iface *iif) noexcept nogil:
    """Fills in d by the route. What a router passes on is not held to what its own connections found out about the path
    (Linux's ip_forward_use_pmtu 0)."""
    cdef Pmtu *path = pmtu_find(n, dst) if iif == NULL else NULL
    cdef const Addr *hop = dst if addr_is_any(&r.gateway) else &r.gateway
    d.mtu = <uint16_t>iface_mtu(r.iface, dst)
    if r.mtu != 0 and r.mtu < d.mtu:
        d.mtu = <uint16_t>r.mtu
    if path != NULL and path.mtu != 0 and path.mtu < d.mtu:
        d.mtu = <uint16_t>path.mtu
    if r.iface.medium == MEDIUM_ETHERNET:
        d.neigh = neigh_find(n, r.iface, hop)
        if d.neigh == NULL:
            d.neigh = neigh_create(n, r.iface, hop)
        if d.neigh == NULL:
            return -ENOBUFS
    d.iface = r.iface
    return 0


cdef int output_resolve_from(Net *n, Dst *d, const Addr *src, const Addr *dst, const Iface *iif) noexcept nogil:
    cdef Route *r
    d.generation = 0
    d.iface = NULL
    d.neigh = NULL
    d.flow = 0
    if addr_is_any(dst) or (addr_is_v4(src) != addr_is_v4(dst) and not addr_is_any(src)):
        return -ENETUNREACH
    if is_ours(n, dst):
        d.iface = n.lo
        d.mtu = <uint16_t>n.lo.mtu if n.lo != NULL else 0
    elif is_our_broadcast(n, dst) or addr_is_multicast(dst):
        d.iface = iface_for_group(n, src, dst)
        d.mtu = <uint16_t>iface_mtu(d.iface, dst) if d.iface != NULL else 0
    else:
        r = route_for(n, src, dst, iif, iface_of(n, src) if is_strong(n, dst) and iif == NULL else NULL)
        if r != NULL:
            if addr_is_loopback(src):
                return -EINVAL                         # RFC 1122 §3.2.1.3 (g): never outside a host
            if way(n, d, r, dst, iif) != 0:
                return -ENOBUFS
    if d.iface == NULL:
        count(n.core, IpOutNoRoutes)
        return -ENETUNREACH
    d.generation = n.generation
    if d.neigh != NULL and d.neigh.state == NUD_FAILED:
        return -EHOSTUNREACH
    return 0


cdef inline bint discovers(const Net *n, const Dst *d) noexcept nogil:
    """Whether DF is set where the transport wants it: not where path MTU discovery is off, nor where the path carries
    less than we go down to, so that routers must fragment (Linux's locked MTU).
    """
    return (n.knobs.ip_no_pmtu_disc == 0 or n.knobs.ip_no_pmtu_disc == 3) and d.mtu != n.knobs.min_pmtu


# --- the identification ---

cdef uint16_t next_ident(Net *n, const Addr *src, const Addr *dst, uint8_t proto) noexcept nogil:
    """An identification that returns after 65,536 datagrams of one (source, destination, protocol), RFC 6864 §4.3, and
    that tells an observer nothing about traffic to others: a shared counter behind a permutation keyed by the three."""
    cdef uint64_t words[5]
    cdef uint64_t key
    cdef uint32_t left, right, swap, k
    cdef uint16_t *counter
    words[0] = src.hi
    words[1] = src.lo
    words[2] = dst.hi
    words[3] = dst.lo
    words[4] = proto
    key = siphash(&n.ident_key, words, sizeof(words))
    counter = &n.idents[key % IP_IDENTS]
    counter[0] += 1
    left = counter[0] >> 8
    right = counter[0] & 0xFF
    for k in range(4):                                 # a Feistel network over two bytes, a quarter of the key a round
        swap = left ^ (((((right + <uint32_t>(key >> (16 * k))) & 0xFFFF) * 0x9E3779B1u) >> 23) & 0xFF)
        left = right
        right = swap
    return <uint16_t>(left << 8 | right)


# --- checksums over pieces ---

cdef uint64_t tx_csum(const TxPkt *t, uint64_t sum) noexcept nogil:
    cdef uint32_t headers = <uint32_t>(&t.hdr_space[0] + TX_HEADROOM - t.hdr)
    cdef bint odd = headers & 1
    cdef uint64_t part
    cdef int k
    sum = csum_partial(t.hdr, headers, sum)
    for k in range(1, t.niov):
        if odd:
            part = csum_swap(csum_partial(<const uint8_t *>t.iov[k].base, t.iov[k].len, 0))
            sum += part
        else:
            sum = csum_partial(<const uint8_t *>t.iov[k].base, t.iov[k].len, sum)
        odd ^= t.iov[k].len & 1
    return sum


cdef void tx_finish_checksum(TxPkt *t) noexcept nogil:
    """Does what was left to the link: called before the packet is cut up. csum_start is still the transport header's
    start."""
    cdef uint16_t value = csum_fold(tx_csum(t, 0))
    csum_store(t.hdr + t.off.csum_offset, value if value != 0 else 0xFFFF)
    t.off.flags &= ~OFF_CSUM_WANTED


# --- headers and out ---

cdef int output_link(Net *n, Dst *d, const Addr *dst, uint16_t ethertype, TxPkt *t) noexcept nogil:
    """t begins with the IP header: link header, neighbour, transmit."""
    cdef Iface *i = d.iface
    cdef uint8_t *mac
    cdef uint32_t length
    cdef int ready = 1
    if i.medium == MEDIUM_ETHERNET:
        if d.neigh != NULL:
            ready = neigh_use(n, d.neigh)
            if ready < 0:
                return ready
        mac = tx_push(t, ETH_HLEN)
        if d.neigh != NULL:
            memcpy(mac, d.neigh.mac, 6)                # zeros while unresolved: filled in when the queue is sent
        else:
            mac_for_group(dst, mac)
        memcpy(mac + 6, i.mac, 6)
        put_be16(mac + 12, ethertype)
    t.iov[0].base = t.hdr
    t.iov[0].len = &t.hdr_space[0] + TX_HEADROOM - t.hdr
    t.off.hdr_len = <uint16_t>t.iov[0].len
    length = <uint32_t>t.iov[0].len + t.payload_len
    if t.off.flags & OFF_CSUM_WANTED and i.medium == MEDIUM_ETHERNET:
        t.off.csum_start += ETH_HLEN
    if not ready:
        return neigh_queue(n, d.neigh, t.iov, t.niov, length, &t.off)
    return frame_transmit(n, i, t.iov, t.niov, length, &t.off)


cdef void tx_slice(const TxPkt *t, uint32_t start, uint32_t length, TxPkt *f) noexcept nogil:
    """References bytes [start, start + length) of t's headers and payload as payload of f."""
    cdef uint32_t at = 0, piece, skip, take
    cdef uint8_t *base
    cdef int k
    for k in range(t.niov):
        if k == 0:
            base = t.hdr
            piece = <uint32_t>(&t.hdr_space[0] + TX_HEADROOM - t.hdr)
        else:
            base = <uint8_t *>t.iov[k].base
            piece = <uint32_t>t.iov[k].len
        if at + piece > start and length > 0 and piece > 0:
            skip = start - at if start > at else 0
            take = min(piece - skip, length)
            tx_payload(f, base + skip, take)
            start += take
            length -= take
        at += piece


cdef int send_fragments(Net *n, Dst *d, const Addr *dst, Ip4Hdr *ip, TxPkt *t) noexcept nogil:
    """RFC 791 §3.2: as large as the MTU allows, in order, offsets multiples of 8. The first failure ends it: the
    datagram is lost."""
    cdef uint32_t total = tx_length(t)
    cdef uint32_t most = (d.mtu - IP4_HLEN) & ~<uint32_t>7
    cdef uint32_t at = 0, take
    cdef int status
    cdef TxPkt f
    if t.niov >= TX_IOV_MAX:                           # a fragment needs an entry more than the datagram
        return -EMSGSIZE
    if t.off.flags & OFF_CSUM_WANTED:
        tx_finish_checksum(t)
    while at < total:
        take = min(total - at, most)
        tx_init(&f)
        tx_slice(t, at, take, &f)
        ip.frag_off = at
        ip.flags = IP4_MF if at + take < total else 0
        ip.total_len = <uint16_t>(IP4_HLEN + take)
        ip4_emit(tx_push(&f, IP4_HLEN), ip)
        status = output_link(n, d, dst, ETHERTYPE_IPV4, &f)
        if status != 0:
            count(n.core, IpFragFails)
            return status
        count(n.core, IpFragCreates)
        at += take
    count(n.core, IpFragOKs)
    return 0


cdef int output_packet(Net *n, Dst *d, const Addr *src, const Addr *dst, uint8_t proto, uint8_t ttl, uint8_t tos,
                       bint df,
                       TxPkt *t) noexcept nogil:
    """net_output's work; see net.pxd."""
    cdef Ip4Hdr ip
    cdef uint32_t total = IP4_HLEN + tx_length(t)
    cdef uint32_t largest = total
    cdef int status
    count(n.core, IpOutRequests)
    count_add(n.core, IpOutOctets, total)
    status = output_resolve(n, d, src, dst)
    if status != 0:
        count(n.core, IpOutDiscards)
        return status
    if t.off.gso_size != 0:                            # the link cuts it: what must fit is one piece
        largest = min(total, total - t.payload_len + t.off.gso_size)
    if ((total > IP_MAX and (t.off.gso_size == 0 or total > d.iface.gso_max))
            or (largest > d.mtu and (df or t.off.gso_size != 0))):
        count(n.core, DropTxTooBig)
        count(n.core, IpFragFails)
        return -EMSGSIZE
    ip.tos = tos
    ip.ttl = ttl if ttl != 0 else n.knobs.ip_default_ttl
    ip.proto = proto
    ip.src = addr_to_v4(src)
    ip.dst = addr_to_v4(dst)
    ip.hlen = IP4_HLEN
    if df and discovers(n, d):                         # RFC 6864 §4.1: atomic, the field means nothing
        ip.id = 0
        ip.flags = IP4_DF
    else:
        ip.id = next_ident(n, src, dst, proto)
        ip.flags = 0
    if largest > d.mtu:
        return send_fragments(n, d, dst, &ip, t)
    ip.frag_off = 0
    ip.total_len = <uint16_t>total if total <= IP_MAX else 0
    ip4_emit(tx_push(t, IP4_HLEN), &ip)
    if t.off.flags & OFF_CSUM_WANTED:
        t.off.csum_start += IP4_HLEN
    return output_link(n, d, dst, ETHERTYPE_IPV4, t)
