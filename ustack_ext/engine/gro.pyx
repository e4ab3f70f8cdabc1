"""Software receive offload (Linux's GRO) for links that hand over single segments.

Responsible for joining, within one batch of frames, consecutive data segments of one TCP flow into one packet with a
chain of buffers, which TCP takes in one pass (tcp/merged). Not for what becomes of it: TCP looks at the pieces one by
one wherever the whole is not just what it expects next.

A segment joins only if nothing but its place in the stream tells it from the one before: the same acknowledgement,
window, TTL, TOS, IP flags (IPv6: flow label) and kind of options, a timestamp that is not older, a right checksum.
Whatever else comes of a flow is behind what is held of it, so the flow's order is that of the wire. PSH ends a packet,
as does the end of the batch: nothing is held beyond engine_poll.
"""
from libc.stdint cimport int32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove

from ustack_ext.base.buf cimport buf_unref
from ustack_ext.base.core cimport count_add
from ustack_ext.base.iov cimport OFF_CSUM_VERIFIED, OFF_GSO_TCP, OFF_GSO_UDP
from ustack_ext.net.mib cimport TCPGroMerged
from ustack_ext.net.net cimport net_count_in
from ustack_ext.net.state cimport MEDIUM_ETHERNET, RX_CSUM_OK
from ustack_ext.tcp.tcp cimport tcp_input, tcp_input_merged
from ustack_ext.wire.addr cimport addr_eq
from ustack_ext.wire.bytes cimport get_be64
from ustack_ext.wire.checksum cimport csum_partial, csum_pseudo, csum_pseudo4, csum_pseudo6, csum_right
from ustack_ext.wire.headers cimport ETH_HLEN, IP4_HLEN, IPPROTO_TCP_, ip4_is_plain
from ustack_ext.wire.ip6 cimport IP6_HLEN

cdef enum:
    PAYLOAD_MAX = 65535                # of one merged packet
    IP4_PLAIN = 0x45                   # version 4, no options
    IP6_LENGTH = 0xFFFF0000            # where the payload length stands in the first eight bytes


cdef inline uint32_t ports_of(const RxPkt *rx) noexcept nogil:
    cdef uint32_t ports
    memcpy(&ports, rx.l4, 4)
    return ports


cdef int find(const Gro *g, const RxPkt *rx) noexcept nogil:
    """The index of what is held of the packet's flow, or -1."""
    cdef uint32_t k, ports = ports_of(rx)
    for k in range(g.count):
        if (g.held[k].ports == ports and addr_eq(&g.held[k].rx.src, &rx.src)
                and addr_eq(&g.held[k].rx.dst, &rx.dst)):
            return <int>k
    return -1


cdef void deliver(Gro *g, Tcp *t, uint32_t k) noexcept nogil:
    cdef Held *h = &g.held[k]
    if h.rx.more == NULL:
        tcp_input(t, &h.rx)
    else:
        count_add(t.core, TCPGroMerged, h.rx.segs - 1)
        h.rx.gso_size = h.longest
        tcp_input_merged(t, &h.rx)
    buf_unref(&t.core.pool, h.rx.buf)
    g.count -= 1
    memmove(h, h + 1, (g.count - k) * sizeof(Held))


cdef bint checked(RxPkt *rx) noexcept nogil:
    """Whether the checksum is right; noted, so that nobody looks again."""
    if rx.flags & RX_CSUM_OK:
        return True
    if not csum_right(csum_partial(rx.l4, rx.l4_len, csum_pseudo(&rx.src, &rx.dst, IPPROTO_TCP_, rx.l4_len))):
        return False
    rx.flags |= RX_CSUM_OK
    return True


cdef inline bint is_six(const uint8_t *ip) noexcept nogil:
    return ip[0] >> 4 == 6


cdef inline bint plain(const RxPkt *rx) noexcept nogil:
    """Whether nothing stands between the IP header and TCP's."""
    return rx.l3[0] == IP4_PLAIN or (is_six(rx.l3) and rx.l4 == rx.l3 + IP6_HLEN)


cdef inline bint same_header(const uint8_t *ip, const uint8_t *first) noexcept nogil:
    """Whether two IP headers of one flow and length are the same in what a receiver looks at."""
    if is_six(first):                                  # version, traffic class, flow label; next header, hop limit
        return (get_be64(ip) ^ get_be64(first)) & ~<uint64_t>IP6_LENGTH == 0
    return ip[8] == first[8] and ip[1] == first[1] and ip[6] == first[6]         # TTL, TOS, flags


cdef inline bint follows(const Held *h, const uint8_t *ip, const uint8_t *tcp, uint32_t n) noexcept nogil:
    """Whether the segment of n bytes only goes on where the held ones end. It has as many options as they."""
    cdef const uint8_t *first = h.rx.l4
    if get_be32(tcp + 4) != h.next_seq or h.payload + n > PAYLOAD_MAX:
        return False
    # acknowledgement, data offset, flags, window
    if ((get_be64(first + 8) ^ get_be64(tcp + 8)) & ~(<uint64_t>TH_PSH << 16) != 0
            or tcp - ip != first - h.rx.l3 or not same_header(ip, h.rx.l3)):
        return False
    return h.hlen == TCP_HLEN or <int32_t>(get_be32(tcp + TCP_HLEN + 4) - h.tsval) >= 0


cdef inline void join(Held *h, Buf *b, const uint8_t *tcp, uint32_t n) noexcept nogil:
    if h.hlen != TCP_HLEN:
        h.tsval = get_be32(tcp + TCP_HLEN + 4)
    b.off = <uint32_t>(tcp + h.hlen - b.data)
    b.len = n
    b.next = NULL
    if h.tail == NULL:
        h.rx.more = b
    else:
        h.tail.next = b
    h.tail = b
    h.rx.more_len += n
    h.rx.segs += 1
    h.next_seq += n
    h.payload += n
    h.longest = max(h.longest, <uint16_t>n)


cdef void hold(Held *h, const RxPkt *rx, uint32_t hlen, uint32_t n) noexcept nogil:
    h.rx = rx[0]
    h.rx.segs = 1
    h.tail = NULL
    h.ports = ports_of(rx)
    h.next_seq = get_be32(rx.l4 + 4) + n
    h.tsval = get_be32(rx.l4 + TCP_HLEN + 4) if hlen != TCP_HLEN else 0
    h.hlen = hlen
    h.payload = n
    h.longest = <uint16_t>n


cdef bint gro_take(Gro *g, Tcp *t, RxPkt *rx, uint32_t hlen) noexcept nogil:
    cdef uint32_t n = rx.l4_len - hlen
    cdef bint push = rx.l4[13] & TH_PSH != 0
    cdef int k = find(g, rx) if g.count > 0 else -1
    if k < 0 and push:                                 # a run of one: what a request or an answer is
        return False
    if not checked(rx):                                # dropped and counted by TCP
        return False
    if k >= 0:
        if rx.iface == g.held[k].rx.iface and follows(&g.held[k], rx.l3, rx.l4, n):
            join(&g.held[k], rx.buf, rx.l4, n)
            if push:
                deliver(g, t, <uint32_t>k)
            return True
        deliver(g, t, <uint32_t>k)
    if push or not plain(rx) or n > PAYLOAD_MAX // 2:
        return False
    if g.count == GRO_FLOWS:
        deliver(g, t, 0)
    hold(&g.held[g.count], rx, hlen, n)
    g.count += 1
    return True


cdef inline bint same_way(const uint8_t *ip, const uint8_t *first, uint32_t link) noexcept nogil:
    """Whether both packets have the same addresses and protocol, and the frames the same link header."""
    if is_six(first):
        if not is_six(ip) or ip[6] != first[6] or memcmp(ip + 8, first + 8, 32) != 0:
            return False
    elif memcmp(ip + 12, first + 12, 8) != 0 or ip[9] != first[9]:
        return False
    # The fourteen bytes of an Ethernet header, two of them twice.
    return link == 0 or (memcmp(ip - ETH_HLEN, first - ETH_HLEN, 8) == 0 and memcmp(ip - 8, first - 8, 8) == 0)


cdef inline uint32_t plain_length(const uint8_t *ip, uint32_t n) noexcept nogil:
    """Bytes behind the IP header of a whole packet that `plain` would say yes to if its protocol is TCP; 0: no."""
    if is_six(ip):
        return get_be16(ip + 4) if n - IP6_HLEN >= get_be16(ip + 4) else 0
    return get_be16(ip + 2) - IP4_HLEN if ip4_is_plain(ip, n) else 0


cdef bint gro_next(Gro *g, Tcp *t, Net *net, Iface *i, Buf *buf, const Offload *off) noexcept nogil:
    cdef uint32_t link = ETH_HLEN if i.medium == MEDIUM_ETHERNET else 0, ports, n
    cdef uint8_t *ip = buf.data + buf.off + link
    cdef uint8_t *tcp
    cdef Held *h = g.held
    cdef uint16_t offload = off.flags if off != NULL else 0
    cdef bint six
    if buf.len < link + IP4_HLEN + TCP_HLEN or offload & (OFF_GSO_TCP | OFF_GSO_UDP):
        return False
    six = is_six(ip)
    if six and buf.len < link + IP6_HLEN + TCP_HLEN:
        return False
    tcp = ip + (IP6_HLEN if six else IP4_HLEN)
    memcpy(&ports, tcp, 4)
    while h.ports != ports:
        h += 1
        if h == g.held + g.count:
            return False
    if i != h.rx.iface or not i.up or not same_way(ip, h.rx.l3, link):
        return False
    n = plain_length(ip, buf.len - link)
    if (n <= h.hlen or (h.hlen == GRO_TS_HLEN and get_be32(tcp + TCP_HLEN) != GRO_TS)
            or not follows(h, ip, tcp, n - h.hlen)):
        return False
    if (not offload & OFF_CSUM_VERIFIED
            and not csum_right(csum_partial(tcp, n, csum_pseudo6(ip, IPPROTO_TCP_, n) if six
                                            else csum_pseudo4(ip, IPPROTO_TCP_, n)))):
        return False
    net_count_in(net, i, six, buf.len, buf.len - link)
    join(h, buf, tcp, n - h.hlen)
    if tcp[13] & TH_PSH:
        deliver(g, t, <uint32_t>(h - g.held))
    return True


cdef void gro_settle(Gro *g, Tcp *t, const RxPkt *rx) noexcept nogil:
    cdef int k
    if rx.l4_len >= TCP_HLEN:
        k = find(g, rx)
        if k >= 0:
            deliver(g, t, <uint32_t>k)


cdef void gro_flush(Gro *g, Tcp *t) noexcept nogil:
    while g.count > 0:
        deliver(g, t, 0)


cdef void gro_clear(Gro *g, Tcp *t) noexcept nogil:
    cdef Buf *b
    while g.count > 0:
        g.count -= 1
        buf_unref(&t.core.pool, g.held[g.count].rx.buf)
        while g.held[g.count].rx.more != NULL:
            b = g.held[g.count].rx.more
            g.held[g.count].rx.more = b.next
            buf_unref(&t.core.pool, b)
