"""Sends packets that come with their IP header (raw(7), IP_HDRINCL): as they are, but for what the kernel fills in.

Responsible for that: the total length and the checksum always, the identification and the source where they are zero.
An IPv6 header is not touched. Such packets are not fragmented.
"""
from libc.errno cimport EINVAL, EMSGSIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from ustack_ext.wire.addr cimport addr_is_v4, addr_to_v4, addr_v4
from ustack_ext.wire.bytes cimport get_be16, get_be32, put_be16, put_be32
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_store
from ustack_ext.wire.headers cimport ETHERTYPE_IPV4, ETHERTYPE_IPV6, IP4_HLEN
from ustack_ext.wire.ip6 cimport IP6_HLEN
from ustack_ext.base.core cimport count, count_add
from ustack_ext.net.mib cimport (
    DropTxTooBig, Ip6OutDiscards, Ip6OutOctets, Ip6OutRequests, IpOutDiscards, IpOutOctets, IpOutRequests,
)
from ustack_ext.net.output cimport next_ident, output_link, output_resolve, tx_slice
from ustack_ext.net.state cimport tx_init, tx_push


cdef void take(const TxPkt *t, uint32_t n, uint8_t *to) noexcept nogil:
    """Copies the first n bytes of the payload, which has as many."""
    cdef uint32_t piece
    cdef int k = 1
    while n > 0:
        piece = <uint32_t>min(t.iov[k].len, <size_t>n)
        memcpy(to, t.iov[k].base, piece)
        to += piece
        n -= piece
        k += 1


cdef void fill_in(Net *n, uint8_t *p, uint32_t hlen, uint32_t total, const Addr *src, const Addr *dst) noexcept nogil:
    cdef Addr from_, to
    if get_be32(p + 12) == 0:
        put_be32(p + 12, addr_to_v4(src))
    put_be16(p + 2, <uint16_t>total)
    if get_be16(p + 4) == 0:
        from_ = addr_v4(get_be32(p + 12))
        to = addr_v4(get_be32(p + 16))
        put_be16(p + 4, next_ident(n, &from_, &to, p[9]))
    csum_store(p + 10, 0)
    csum_store(p + 10, csum_fold(csum_partial(p, hlen, 0)))


cdef int output_whole(Net *n, Dst *d, const Addr *src, const Addr *dst, TxPkt *t) noexcept nogil:
    cdef bint four = addr_is_v4(dst)
    cdef uint32_t total = t.payload_len
    cdef uint32_t hlen = IP4_HLEN if four else IP6_HLEN, said
    cdef uint8_t first = 0
    cdef uint8_t *p
    cdef TxPkt f
    cdef int status
    if total < hlen:
        return -EINVAL
    count(n.core, IpOutRequests if four else Ip6OutRequests)
    count_add(n.core, IpOutOctets if four else Ip6OutOctets, total)
    status = output_resolve(n, d, src, dst)
    if status == 0 and total > d.mtu:
        count(n.core, DropTxTooBig)
        status = -EMSGSIZE
    if status == 0 and four:
        take(t, 1, &first)
        said = (first & 0xF) * 4
        if said > total:
            status = -EINVAL
        hlen = max(hlen, said)
    if status != 0:
        count(n.core, IpOutDiscards if four else Ip6OutDiscards)
        return status
    tx_init(&f)
    p = tx_push(&f, hlen)
    take(t, hlen, p)
    tx_slice(t, hlen, total - hlen, &f)
    if four and (p[0] & 0xF) * 4 >= IP4_HLEN:          # else a broken one, which is what was asked for
        fill_in(n, p, hlen, total, src, dst)
    return output_link(n, d, dst, ETHERTYPE_IPV4 if four else ETHERTYPE_IPV6, &f)
