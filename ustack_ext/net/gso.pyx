"""Software segmentation of TCP and UDP: what a link with segmentation offload does, for links without it.

Responsible for cutting one finished superframe (link header, IP, TCP or UDP, payload) into frames and for what differs
between them: length, IPv4's identification and checksum, TCP's sequence number and flags, UDP's length, the transport's
checksum. Not for choosing the size (tcp), nor for what happens to a piece that is lost. Payload is not copied: every
frame is the patched headers and a part of the same blocks.
"""
from libc.errno cimport EMSGSIZE, ENOBUFS
from libc.stdint cimport uint16_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset

from ustack_ext.wire.bytes cimport USTACK_SWAP16, get_be16, get_be32, put_be16, put_be32
from ustack_ext.wire.checksum cimport csum_fold, csum_fold32, csum_partial, csum_store, csum_swap
from ustack_ext.wire.headers cimport (ETH_HLEN, ETHERTYPE_VLAN, IP4_HLEN, IPPROTO_TCP_, IPPROTO_UDP_, TCP_HLEN, TH_CWR,
                                      TH_FIN, TH_PSH, UDP_HLEN, VLAN_HLEN)
from ustack_ext.wire.ip6 cimport IP6_HLEN
from ustack_ext.base.core cimport count, count_add
from ustack_ext.base.iov cimport OFF_CSUM_WANTED, OFF_GSO_UDP
from ustack_ext.net.mib cimport DropTxQueueFull, DropTxTooBig
from ustack_ext.net.state cimport MEDIUM_ETHERNET, TX_HEADROOM, TX_IOV_MAX, stands_on_others

cdef enum:
    IP4_DF_BYTE = 0x40             # don't fragment, in the first byte of the flags and offset field
    TCP_CSUM_AT = 16
    UDP_LENGTH_AT = 4
    UDP_CSUM_AT = 6

cdef struct Cutter:
    uint8_t header[TX_HEADROOM]    # of the frame being made: the superframe's, patched
    uint32_t hlen
    uint8_t *ip
    uint8_t *l4
    uint8_t proto
    bint six                       # IPv6
    uint32_t seq                   # TCP's
    uint16_t id
    uint8_t flags                  # TH_* of the superframe
    bint by_link                   # the link does the transport's checksum
    uint64_t ip_sum                # of what no piece changes in an IPv4 header
    uint64_t l4_sum                # ... in the pseudo header and, if we do the checksum, in the transport's header
    const IoVec *piece             # where the next payload byte is
    size_t skip


cdef inline bint ip_is(const Cutter *g, uint32_t length) noexcept nogil:
    """Whether the IP header has this length and the transport follows."""
    if g.six:                                                # an extension header is not for us to repeat
        return length == IP6_HLEN and g.ip[6] == g.proto
    return g.ip[0] >> 4 == 4 and <uint32_t>(g.ip[0] & 15) * 4 == length and g.ip[9] == g.proto


cdef inline uint32_t link_header(const Iface *i, const uint8_t *frame) noexcept nogil:
    if i.medium != MEDIUM_ETHERNET:
        return 0
    return ETH_HLEN + (VLAN_HLEN if get_be16(frame + 12) == ETHERTYPE_VLAN else 0)


cdef bint begin(Cutter *g, const Iface *i, const IoVec *iov, int niov, const Offload *off) noexcept nogil:
    """Takes the headers apart. False: what the packet says of itself doesn't hold together."""
    cdef uint32_t ip_at, l4_at = off.csum_start
    cdef bint udp = off.flags & OFF_GSO_UDP != 0
    g.hlen = off.hdr_len
    if (g.hlen > TX_HEADROOM or iov[0].len < g.hlen or l4_at + (UDP_HLEN if udp else TCP_HLEN) > g.hlen
            or l4_at < ETH_HLEN and i.medium == MEDIUM_ETHERNET or niov + (iov[0].len > g.hlen) > TX_IOV_MAX):
        return False
    memcpy(g.header, iov[0].base, g.hlen)
    ip_at = link_header(i, g.header)
    if l4_at < ip_at + IP4_HLEN:
        return False
    g.ip = g.header + ip_at
    g.l4 = g.header + l4_at
    g.six = g.ip[0] >> 4 == 6
    g.proto = IPPROTO_UDP_ if udp else IPPROTO_TCP_
    if (not ip_is(g, l4_at - ip_at)
            or (UDP_HLEN if udp else <uint32_t>(g.l4[12] >> 4) * 4) != g.hlen - l4_at):
        return False
    g.by_link = i.offloads & OFF_CSUM_WANTED != 0
    g.l4_sum = csum_partial(g.ip + 8, 32, 0) if g.six else csum_partial(g.ip + 12, 8, 0)
    g.l4_sum += USTACK_SWAP16(g.proto)
    g.seq = 0
    g.flags = 0
    if udp:
        memset(g.l4 + UDP_LENGTH_AT, 0, 4)
    else:
        g.seq = get_be32(g.l4 + 4)
        g.flags = g.l4[13]
        memset(g.l4 + 4, 0, 4)
        g.l4[13] = 0
        memset(g.l4 + TCP_CSUM_AT, 0, 2)
    if not g.six:
        g.id = get_be16(g.ip + 4)
        memset(g.ip + 2, 0, 4)
        memset(g.ip + 10, 0, 2)
        g.ip_sum = csum_partial(g.ip, l4_at - ip_at, 0)
    if not g.by_link:
        g.l4_sum = csum_partial(g.l4, g.hlen - l4_at, g.l4_sum)
    g.piece = iov
    g.skip = g.hlen
    return True


cdef int gather(Cutter *g, uint32_t n, IoVec *out, uint64_t *sum) noexcept nogil:
    """The next n bytes of payload behind the headers in out[0]; adds them to the checksum if it is ours. Entries of
    out."""
    cdef int k = 1
    cdef bint odd = False
    cdef uint64_t part
    cdef size_t here
    out[0].base = g.header
    out[0].len = g.hlen
    while n > 0:
        here = min(g.piece.len - g.skip, <size_t>n)
        if here > 0:
            out[k].base = <uint8_t *>g.piece.base + g.skip
            out[k].len = here
            if not g.by_link:
                part = csum_partial(<const uint8_t *>out[k].base, here, 0)
                sum[0] += csum_swap(part) if odd else part
                odd ^= here & 1
            k += 1
            n -= <uint32_t>here
            g.skip += here
        if g.skip == g.piece.len:
            g.piece += 1
            g.skip = 0
    return k


cdef void patch_tcp(Cutter *g, uint8_t flags, uint64_t sum) noexcept nogil:
    put_be32(g.l4 + 4, g.seq)
    g.l4[13] = flags
    if g.by_link:
        csum_store(g.l4 + TCP_CSUM_AT, <uint16_t>csum_fold32(sum))
        return
    sum += USTACK_SWAP16(flags)
    sum += USTACK_SWAP16(<uint16_t>(g.seq >> 16)) + USTACK_SWAP16(<uint16_t>g.seq)
    csum_store(g.l4 + TCP_CSUM_AT, csum_fold(sum))


cdef void patch_udp(Cutter *g, uint16_t length, uint64_t sum) noexcept nogil:
    cdef uint16_t value
    put_be16(g.l4 + UDP_LENGTH_AT, length)
    if g.by_link:
        csum_store(g.l4 + UDP_CSUM_AT, <uint16_t>csum_fold32(sum))
        return
    value = csum_fold(sum + USTACK_SWAP16(length))
    csum_store(g.l4 + UDP_CSUM_AT, value if value != 0 else 0xFFFF)


cdef void patch(Cutter *g, uint32_t n, uint8_t flags, uint64_t sum) noexcept nogil:
    """The headers of the next frame, which carries n bytes whose checksum is `sum`."""
    cdef uint16_t total = <uint16_t>(g.hlen - (g.ip - g.header) + n)
    cdef uint16_t segment = <uint16_t>(g.hlen - (g.l4 - g.header) + n)
    if g.six:
        put_be16(g.ip + 4, segment)
    else:
        put_be16(g.ip + 2, total)
        put_be16(g.ip + 4, g.id)
        csum_store(g.ip + 10, csum_fold(g.ip_sum + USTACK_SWAP16(total) + USTACK_SWAP16(g.id)))
    sum += g.l4_sum + USTACK_SWAP16(segment)
    if g.proto == IPPROTO_TCP_:
        patch_tcp(g, flags, sum)
    else:
        patch_udp(g, segment, sum)


cdef int gso_transmit(Net *n, Iface *i, const IoVec *iov, int niov, uint32_t length,
                      const Offload *off) noexcept nogil:
    cdef Cutter g
    cdef IoVec out[TX_IOV_MAX]
    cdef Offload plain
    cdef uint32_t left, take, lost, size = off.gso_size
    cdef uint64_t sum
    cdef uint8_t mask = <uint8_t>~(TH_FIN | TH_PSH)          # these belong to the last byte
    cdef int pieces
    if off.hdr_len >= length or not begin(&g, i, iov, niov, off):
        i.tx_dropped += 1
        count(n.core, DropTxTooBig)
        return -EMSGSIZE
    plain = off[0]
    plain.gso_size = 0
    plain.flags = OFF_CSUM_WANTED if g.by_link else 0
    left = length - g.hlen
    while left > 0:
        take = min(left, size)
        left -= take
        sum = 0
        if left == 0:
            mask |= TH_FIN | TH_PSH
        pieces = gather(&g, take, out, &sum)
        patch(&g, take, g.flags & mask, sum)
        if i.transmit(i.link, out, pieces, &plain) != 0:
            lost = 1 + (left + size - 1) // size
            i.tx_dropped += lost
            count_add(n.core, DropTxQueueFull, lost - stands_on_others(i))
            return -ENOBUFS
        i.tx_packets += 1
        i.tx_bytes += g.hlen + take
        mask &= <uint8_t>~TH_CWR                             # RFC 3168 §6.1.2: once, on the first
        g.seq += take
        if not g.six and not g.ip[6] & IP4_DF_BYTE:          # RFC 6864 §4.1: an atomic datagram's says nothing
            g.id += 1
    return 0
