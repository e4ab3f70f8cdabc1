"""Sends datagrams: UDP (RFC 768) and the echo requests of ping sockets.

Responsible for source address, way, header and checksum, and for UDP_SEGMENT. Datagrams may be fragmented, here or on
the way: DF is not set unless IP_MTU_DISCOVER asks for it (RFC 8085 §3.2 leaves sizes to the application), and so forged
"fragmentation needed" messages say nothing to other sockets.
"""
from libc.errno cimport EACCES, EDESTADDRREQ, EINVAL, EMSGSIZE, ENOBUFS, ENODEV
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ustack_ext.wire.addr cimport (
    addr_bare_hi, addr_has_zone, addr_is_any, addr_is_multicast, addr_is_v4, addr_none, addr_to_v4, addr_zone,
    addr_zoned,
)
from ustack_ext.wire.bytes cimport get_be16
from ustack_ext.wire.checksum cimport csum_fold, csum_fold32, csum_pseudo, csum_store
from ustack_ext.wire.headers cimport (
    ICMP_ECHO, ICMP_ECHOREPLY, ICMP_HLEN, IP4_HLEN, IPPROTO_UDPLITE_, IPPROTO_UDP_, UDP_HLEN, UdpHdr, udp_emit,
)
from ustack_ext.wire.ip6 cimport ICMP6_ECHO, ICMP6_ECHOREPLY
from ustack_ext.base.buf cimport Buf, buf_alloc, buf_unref
from ustack_ext.base.core cimport count
from ustack_ext.base.entry cimport ENTRY_UDP, ENTRY_UDPLITE
from ustack_ext.base.iov cimport OFF_CSUM_WANTED
from ustack_ext.net.groups cimport group_joined
from ustack_ext.net.iface cimport iface_by_index
from ustack_ext.net.mib cimport Ip6OutMcastPkts, IpOutMcastPkts, UdpOutDatagrams, UdpSndbufErrors
from ustack_ext.net.net cimport (
    icmp_send_echo, net_is_broadcast, net_is_local, net_output, net_resolve, net_room, net_source_for,
)
from ustack_ext.net.output cimport tx_csum
from ustack_ext.net.state cimport (Dst, IP_MAX, Iface, RX_IP_MULTICAST, RxPkt, TX_IOV_MAX, TxPkt, tx_init, tx_payload,
                                   tx_push)
from ustack_ext.net.via cimport resolve_via
from ustack_ext.udp.errqueue cimport queue_too_big
from ustack_ext.udp.lite cimport lite_cover, lite_push_header
from ustack_ext.udp.member cimport deliver_group
from ustack_ext.udp.pathmtu cimport tell_path_mtu
from ustack_ext.udp.raw cimport raw_send
from ustack_ext.udp.state cimport (
    UDP_BROADCAST, UDP_CONNECTED, UDP_IS_PING, family_of, hops_for, pmtudisc_for, tx_hops, udp_counter,
    wants_errors,
)

cdef enum:
    DATAGRAM_MAX = 65535 - IP4_HLEN - UDP_HLEN
    PIECES_MAX = TX_IOV_MAX - 8
    SEGMENTS_MAX = 128         # Linux's UDP_MAX_SEGMENTS
    ALL_HOSTS = 0xE0000001
    PMTUDISC_WANT = 1
    PMTUDISC_DO = 2
    PMTUDISC_PROBE = 3
    PMTUDISC_OMIT = 5


cdef int check_destination(Udp *u, const UdpSock *s, const Addr *a) noexcept nogil:
    if net_is_broadcast(u.net, a) and not s.flags & UDP_BROADCAST:
        return -EACCES                                 # SO_BROADCAST was not asked for
    return 0


cdef void push_header(UdpSock *s, const Dst *d, const Addr *src, const Addr *dst, uint16_t port,
                      TxPkt *t) noexcept nogil:
    """The UDP header, its checksum computed or, where the link does that and the datagram fits one packet, prepared."""
    cdef UdpHdr h
    cdef uint8_t *p
    cdef uint64_t pseudo
    cdef uint16_t sum
    if s.entry.kind == ENTRY_UDPLITE:
        lite_push_header(s, src, dst, port, t)
        return
    p = tx_push(t, UDP_HLEN)
    h.sport = s.lport
    h.dport = port
    h.length = <uint16_t>(UDP_HLEN + t.payload_len)
    h.checksum = 0
    udp_emit(p, &h)
    if s.more != NULL and s.more.no_check:
        return                                         # RFC 768: zero says that there is none
    pseudo = csum_pseudo(src, dst, IPPROTO_UDP_, h.length)
    if d.iface.offloads & OFF_CSUM_WANTED and h.length <= net_room(d, dst):
        t.off.flags |= OFF_CSUM_WANTED
        t.off.csum_start = 0
        t.off.csum_offset = 6
        csum_store(p + 6, <uint16_t>csum_fold32(pseudo))
        return
    sum = csum_fold(tx_csum(t, pseudo))
    csum_store(p + 6, sum if sum != 0 else 0xFFFF)     # RFC 768: zero would say "no checksum"


cdef void loop_back(Udp *u, UdpSock *s, Iface *i, const Addr *src, const Addr *dst, uint16_t port,
                    const TxPkt *t, uint8_t ttl) noexcept nogil:
    """A group's members on this host hear it, too (RFC 1112 §7.2), as if it had come by the interface."""
    cdef Buf *b = buf_alloc(&u.core.pool, UDP_HLEN + t.payload_len)
    cdef RxPkt rx
    cdef UdpHdr h
    cdef uint32_t at = UDP_HLEN
    cdef int k
    if b == NULL:
        return
    for k in range(1, t.niov):
        memcpy(b.data + at, t.iov[k].base, t.iov[k].len)
        at += <uint32_t>t.iov[k].len
    h.sport = s.lport
    h.dport = port
    h.length = <uint16_t>at
    h.checksum = 0
    udp_emit(b.data, &h)                               # for a filter to look at
    memset(&rx, 0, sizeof(rx))
    rx.buf = b
    rx.l4 = b.data
    rx.l4_len = at
    rx.iface = i
    rx.src = src[0]
    rx.dst = addr_zoned(dst, i.index)
    rx.ttl = ttl
    rx.tos = s.tos
    rx.flags = RX_IP_MULTICAST
    u.cover = lite_cover(s, at)
    deliver_group(u, &rx, s.entry.kind, b.data + UDP_HLEN, at - UDP_HLEN, s.lport, port)
    u.cover = 0
    buf_unref(&u.core.pool, b)


cdef int send_group(Udp *u, UdpSock *s, Dst *d, const Addr *src, const Addr *dst, uint16_t port,
                    TxPkt *t) noexcept nogil:
    """IP_MULTICAST_TTL and IP_MULTICAST_LOOP, IPV6_MULTICAST_HOPS and _LOOP; with a TTL of 0 it stays on this host (RFC
    1112 §6.1: 1 unless said)."""
    cdef int family = family_of(dst)
    cdef Addr here = addr_zoned(dst, d.iface.index)
    cdef uint8_t ttl = tx_hops(t, hops_for(u, s, dst))
    cdef int status = 0
    if (s.more == NULL or s.more.ways[family].group_loop) and (group_joined(d.iface, &here) or is_all_hosts(dst)):
        loop_back(u, s, d.iface, src, dst, port, t, ttl)
    if ttl > 0:
        push_header(s, d, src, dst, port, t)
        count(u.core, Ip6OutMcastPkts if family else IpOutMcastPkts)
        status = net_output(u.net, d, src, dst, protocol_of(s), ttl, s.tos, False, t)
    return status


cdef inline bint is_all_hosts(const Addr *a) noexcept nogil:
    return addr_is_v4(a) and addr_to_v4(a) == ALL_HOSTS or (addr_bare_hi(a.hi) == <uint64_t>0xFF02 << 48 and a.lo == 1)


cdef inline uint8_t protocol_of(const UdpSock *s) noexcept nogil:
    return IPPROTO_UDPLITE_ if s.entry.kind == ENTRY_UDPLITE else IPPROTO_UDP_


cdef bint dont_fragment(const Udp *u, const UdpSock *s, const Dst *d, uint32_t length, const Addr *dst) noexcept nogil:
    """IP_MTU_DISCOVER: WANT sets DF on what fits; DO and PROBE always, and what doesn't fit is refused. Over IPv6 there
    is no such bit: refusing is all of it, and IPV6_DONTFRAG asks for it, too."""
    cdef uint8_t mode = pmtudisc_for(s, dst)
    if not addr_is_v4(dst):
        if u.via.dont_frag != 0:
            return u.via.dont_frag == 2
        return PMTUDISC_DO <= mode < PMTUDISC_OMIT or (s.more != NULL and s.more.dont_frag)
    if mode == PMTUDISC_WANT:
        return length <= net_room(d, dst)
    return mode == PMTUDISC_DO or mode == PMTUDISC_PROBE


cdef void limit_size(const UdpSock *s, Dst *d, const Addr *dst) noexcept nogil:
    """PROBE and what is beyond it: whatever is known of the path (ip(7)); IPV6_MTU: no more than that."""
    if s.more == NULL:
        return
    if pmtudisc_for(s, dst) >= PMTUDISC_PROBE:
        d.mtu = max(d.mtu, d.iface.mtu)
    if s.more.frag_size != 0 and not addr_is_v4(dst):
        d.mtu = <uint16_t>min(<uint32_t>d.mtu, s.more.frag_size)


cdef void too_big_here(Udp *u, UdpSock *s, const Dst *d, const Addr *dst, uint16_t port) noexcept nogil:
    """This host itself knows that it is too big, and was told not to cut it."""
    if wants_errors(s, dst):
        queue_too_big(u, s, dst, port, d.mtu)
    tell_path_mtu(u, s, dst, d.mtu)


cdef int send_udp(Udp *u, UdpSock *s, Dst *d, const Addr *src, const Addr *dst, uint16_t port, TxPkt *t) noexcept nogil:
    cdef int status
    cdef bint df
    if port == 0:
        return -EINVAL
    status = net_resolve(u.net, d, src, dst)
    if status != 0:
        return status
    if addr_is_multicast(dst):
        status = send_group(u, s, d, src, dst, port, t)
    else:
        limit_size(s, d, dst)
        df = dont_fragment(u, s, d, UDP_HLEN + t.payload_len, dst)
        push_header(s, d, src, dst, port, t)
        status = net_output(u.net, d, src, dst, protocol_of(s), tx_hops(t, hops_for(u, s, dst)), s.tos, df, t)
        if status == -EMSGSIZE:
            too_big_here(u, s, d, dst, port)
    if status == 0:
        count(u.core, udp_counter(s.entry.kind, UdpOutDatagrams))
    return status


cdef uint8_t echo_type(bint four, bint reply) noexcept nogil:
    if four:
        return ICMP_ECHOREPLY if reply else ICMP_ECHO
    return ICMP6_ECHOREPLY if reply else ICMP6_ECHO


cdef int send_echo(Udp *u, UdpSock *s, Dst *d, const Addr *src, const Addr *dst, const uint8_t *head,
                   TxPkt *t) noexcept nogil:
    """Of the header the application wrote only the sequence number is used: type and code are fixed, identifier and
    checksum ours. A forwarder's flow is of those who asked, and sends the answers."""
    cdef bint reply = s.flow != NULL
    if head[0] != echo_type(addr_is_v4(dst), reply) or head[1] != 0:
        return -EINVAL
    return icmp_send_echo(u.net, d, src, dst, tx_hops(t, hops_for(u, s, dst)), s.tos, reply,
                          s.rport if reply else s.lport, get_be16(head + 6), t)


cdef long total_length(const IoVec *iov, int niov, size_t most) noexcept nogil:
    """Bytes in all pieces, or -EMSGSIZE as soon as they are more than a datagram holds."""
    cdef size_t total = 0
    cdef int k
    for k in range(niov):
        if iov[k].len > most or total + iov[k].len > most:
            return -EMSGSIZE
        total += iov[k].len
    return <long>total


cdef void gather(const IoVec *iov, int niov, uint8_t *to, size_t skip, size_t most) noexcept nogil:
    """Copies at most `most` bytes, after the first `skip`."""
    cdef size_t piece
    cdef int k
    for k in range(niov):
        if iov[k].len <= skip:
            skip -= iov[k].len
            continue
        piece = min(iov[k].len - skip, most)
        memcpy(to, <uint8_t *>iov[k].base + skip, piece)
        to += piece
        most -= piece
        skip = 0
        if most == 0:
            return


cdef Buf *add_payload(Udp *u, const IoVec *iov, int niov, size_t skip, size_t total, TxPkt *t) noexcept nogil:
    """References the application's pieces, or gathers them when they are too many: then the buffer is returned, to be
    released after sending. NULL also when that could not be had: t.payload_len tells."""
    cdef Buf *b = NULL
    cdef int k
    if niov <= PIECES_MAX:
        for k in range(niov):
            if iov[k].len > skip:
                tx_payload(t, <uint8_t *>iov[k].base + skip, <uint32_t>(iov[k].len - skip))
                skip = 0
            else:
                skip -= iov[k].len
        return NULL
    b = buf_alloc(&u.core.pool, <uint32_t>total)
    if b != NULL:
        gather(iov, niov, b.data, skip, total)
        tx_payload(t, b.data, <uint32_t>total)
    return b


cdef int choose_way(Udp *u, UdpSock *s, Dst **d, Dst *other, Addr *src, const Addr *to) noexcept nogil:
    """The interface that the datagram, the socket or its group option names, else by the routes; the source that goes
    with it. -ENODEV, -EINVAL (a source that is not ours, or another link than the destination's), and what net says."""
    cdef uint32_t index = u.via.ifindex
    cdef uint32_t zone = addr_zone(to) if addr_has_zone(to) else 0
    cdef Iface *i
    if index != 0 and zone != 0 and index != zone:
        return -EINVAL
    if not addr_is_any(&u.via.src):
        src[0] = addr_zoned(&u.via.src, index if index != 0 else zone)
        if not net_is_local(u.net, src):
            return -EINVAL
    elif addr_is_multicast(src) or net_is_broadcast(u.net, src):
        src[0] = addr_none()
    if index == 0 and s.more != NULL:
        index = s.more.bound_if
        if index == 0 and zone == 0 and addr_is_multicast(to):
            index = s.more.ways[family_of(to)].group_if
    if index != 0:
        i = iface_by_index(u.net, index)
        if i == NULL:
            return -ENODEV
        d[0] = other
        return resolve_via(u.net, other, i, src, to)
    if addr_is_any(src):
        return net_source_for(u.net, to, src)
    return 0


cdef int slice_pieces(const IoVec *iov, int niov, size_t at, size_t length, IoVec *out, int most) noexcept nogil:
    """References [at, at + length). Entries used, or -EMSGSIZE."""
    cdef int k, used = 0
    cdef size_t piece
    for k in range(niov):
        if iov[k].len <= at:
            at -= iov[k].len
            continue
        if length == 0:
            break
        if used == most:
            return -EMSGSIZE
        piece = min(iov[k].len - at, length)
        out[used].base = <uint8_t *>iov[k].base + at
        out[used].len = piece
        used += 1
        length -= piece
        at = 0
    return used


cdef long send_segments(Udp *u, UdpSock *s, const IoVec *iov, int niov, uint16_t size, const Addr *to,
                        uint16_t port) noexcept nogil:
    """UDP_SEGMENT (udp(7)): one call, as many datagrams of `size` bytes as it takes, the last one shorter."""
    cdef IoVec part[TX_IOV_MAX]
    cdef long total = total_length(iov, niov, DATAGRAM_MAX)
    cdef long n
    cdef size_t at = 0
    cdef int used
    if total < 0:
        return total
    if total > <long>size * SEGMENTS_MAX:
        return -EINVAL
    while at < <size_t>total:
        used = slice_pieces(iov, niov, at, min(<size_t>size, <size_t>total - at), part, TX_IOV_MAX)
        if used < 0:
            return used
        n = send_one(u, s, part, used, to, port)
        if n < 0:
            return n if at == 0 else <long>at
        at += <size_t>n
    return total


cdef long send_datagram(Udp *u, UdpSock *s, const IoVec *iov, int niov, const Addr *to, uint16_t port) noexcept nogil:
    """The socket is bound. Returns the bytes sent or -errno."""
    cdef uint16_t size = u.via.gso_size
    if size == 0 and s.more != NULL:
        size = s.more.gso_size
    if size != 0 and s.entry.kind == ENTRY_UDP:
        return send_segments(u, s, iov, niov, size, to, port)
    return send_one(u, s, iov, niov, to, port)


cdef size_t most_bytes(const UdpSock *s) noexcept nogil:
    """An echo request comes with its ICMP header, a UDP datagram without one, a raw socket's packet as it likes."""
    if s.raw != NULL and s.raw.header:
        return IP_MAX
    cdef bint plain = (s.entry.kind == ENTRY_UDP and not s.flags & UDP_IS_PING) or s.entry.kind == ENTRY_UDPLITE
    return DATAGRAM_MAX + (0 if plain else ICMP_HLEN)


cdef long send_one(Udp *u, UdpSock *s, const IoVec *iov, int niov, const Addr *to, uint16_t port) noexcept nogil:
    cdef uint8_t head[ICMP_HLEN]
    cdef long total = total_length(iov, niov, most_bytes(s))
    cdef size_t skip = 0
    cdef Addr src = s.laddr
    cdef Dst other
    cdef Dst *d = &s.dst
    cdef TxPkt t
    cdef Buf *gathered
    cdef int status
    if total < 0:
        return total
    if to == NULL:
        if not s.flags & UDP_CONNECTED:
            return -EDESTADDRREQ
        to = &s.raddr
        port = s.rport
    else:
        memset(&other, 0, sizeof(other))
        d = &other
    status = check_destination(u, s, to)
    if status == 0:
        status = choose_way(u, s, &d, &other, &src, to)
    if status != 0:
        return status
    if s.flags & UDP_IS_PING:
        if total < ICMP_HLEN:
            return -EINVAL
        skip = ICMP_HLEN
        gather(iov, niov, head, 0, ICMP_HLEN)
    tx_init(&t)
    gathered = add_payload(u, iov, niov, skip, total - skip, &t)
    if t.payload_len != total - skip:
        return -ENOBUFS
    if s.flags & UDP_IS_PING:
        status = send_echo(u, s, d, &src, to, head, &t)
    elif s.raw != NULL:
        status = raw_send(u, s, d, &src, to, dont_fragment(u, s, d, t.payload_len, to), &t)
    else:
        status = send_udp(u, s, d, &src, to, port, &t)
    if gathered != NULL:
        buf_unref(&u.core.pool, gathered)
    if status == -ENOBUFS:
        # lost on our side of the wire, as Linux: not the application's error
        count(u.core, udp_counter(s.entry.kind, UdpSndbufErrors))
        status = 0
    return total if status == 0 else status
