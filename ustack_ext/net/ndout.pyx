"""Emits Neighbor Discovery (RFC 4861 §4, RFC 7527 §4.1 for the nonce).

Responsible for the bytes; not for when, nor for link addresses that have to be found out first: such messages go
through output6 like any packet.
"""
from libc.stdint cimport uint16_t
from libc.string cimport memcpy, memset

from ustack_ext.wire.addr cimport addr_bare_hi, addr_is_any
from ustack_ext.wire.bytes cimport put_be64
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_pseudo, csum_store
from ustack_ext.wire.headers cimport ETH_HLEN, ETHERTYPE_IPV6, EthHdr, eth_emit
from ustack_ext.wire.ip6 cimport (
    ICMP6_HLEN, IP6_HLEN, IPPROTO_ICMPV6_, ND_NEIGHBOR_ADVERT,
    ND_NEIGHBOR_SOLICIT, ND_OPT_NONCE, ND_OPT_SOURCE, ND_OPT_TARGET, ND_ROUTER_SOLICIT, Icmp6Hdr, Ip6Hdr, addr_put,
    icmp6_emit, ip6_emit,
)
from ustack_ext.base.core cimport count
from ustack_ext.base.iov cimport IoVec, Offload
from ustack_ext.net.frame cimport frame_transmit, mac_for_group
from ustack_ext.net.mib cimport (
    Icmp6OutMsgs, Icmp6OutNeighborAdvertisements, Icmp6OutNeighborSolicits,
    Icmp6OutRouterSolicits, Ip6OutRequests,
)

cdef enum:
    MESSAGE_MAX = ICMP6_HLEN + 16 + 8 + 8

cdef struct Message:
    uint8_t frame[ETH_HLEN + IP6_HLEN + MESSAGE_MAX]
    uint8_t *icmp              # where the ICMPv6 header is
    uint32_t n                 # its bytes and those behind it


cdef void begin(Message *m, uint8_t type, uint32_t rest) noexcept nogil:
    cdef Icmp6Hdr h
    m.icmp = m.frame + ETH_HLEN + IP6_HLEN
    h.type = type
    h.code = 0
    h.rest = rest
    m.n = icmp6_emit(m.icmp, &h)


cdef void add_address(Message *m, const Addr *a) noexcept nogil:
    cdef Addr bare = a[0]
    bare.hi = addr_bare_hi(bare.hi)
    addr_put(m.icmp + m.n, &bare)
    m.n += 16


cdef void add_link(Message *m, const Iface *i, uint8_t option) noexcept nogil:
    m.icmp[m.n] = option
    m.icmp[m.n + 1] = 1
    memcpy(m.icmp + m.n + 2, i.mac, 6)
    m.n += 8


cdef void send(Net *n, Iface *i, Message *m, const Addr *src, const Addr *dst, const uint8_t *mac) noexcept nogil:
    cdef uint32_t length = ETH_HLEN + IP6_HLEN + m.n
    cdef uint8_t *ip = m.frame + ETH_HLEN
    cdef EthHdr eth
    cdef Ip6Hdr h
    cdef IoVec iov
    cdef Offload off
    csum_store(m.icmp + 2, csum_fold(csum_partial(m.icmp, m.n, csum_pseudo(src, dst, IPPROTO_ICMPV6_, m.n))))
    memset(&h, 0, sizeof(h))
    h.next = IPPROTO_ICMPV6_
    h.hop_limit = ND_HOP_LIMIT
    h.payload_len = <uint16_t>m.n
    h.src = src[0]
    h.src.hi = addr_bare_hi(src.hi)
    h.dst = dst[0]
    h.dst.hi = addr_bare_hi(dst.hi)
    ip6_emit(ip, &h)
    if mac != NULL:
        memcpy(eth.dst, mac, 6)
    else:
        mac_for_group(dst, eth.dst)
    memcpy(eth.src, i.mac, 6)
    eth.ethertype = ETHERTYPE_IPV6
    eth_emit(m.frame, &eth)
    iov.base = m.frame
    iov.len = length
    memset(&off, 0, sizeof(off))
    count(n.core, Ip6OutRequests)
    count(n.core, Icmp6OutMsgs)
    frame_transmit(n, i, &iov, 1, length, &off)


cdef void nd_solicit(Net *n, Iface *i, const Addr *src, const Addr *target, const uint8_t *mac,
                     uint64_t nonce) noexcept nogil:
    cdef Message m
    cdef Addr dst = target[0] if mac != NULL else addr_solicited_node(target, i.index)
    begin(&m, ND_NEIGHBOR_SOLICIT, 0)
    add_address(&m, target)
    if not addr_is_any(src):
        add_link(&m, i, ND_OPT_SOURCE)
    elif nonce != 0:
        put_be64(m.icmp + m.n, nonce << 16 >> 16)
        m.icmp[m.n] = ND_OPT_NONCE
        m.icmp[m.n + 1] = 1
        m.n += 8
    count(n.core, Icmp6OutNeighborSolicits)
    send(n, i, &m, src, &dst, mac)


cdef void nd_advertise(Net *n, Iface *i, const Addr *target, const Addr *dst, const uint8_t *mac,
                       uint8_t flags) noexcept nogil:
    cdef Message m
    begin(&m, ND_NEIGHBOR_ADVERT, <uint32_t>flags << 24)
    add_address(&m, target)
    add_link(&m, i, ND_OPT_TARGET)
    count(n.core, Icmp6OutNeighborAdvertisements)
    send(n, i, &m, target, dst, mac)


cdef void nd_ask_routers(Net *n, Iface *i, const Addr *src) noexcept nogil:
    cdef Message m
    cdef Addr dst = addr_all_nodes(i.index)
    dst.lo = 2
    begin(&m, ND_ROUTER_SOLICIT, 0)
    if not addr_is_any(src):
        add_link(&m, i, ND_OPT_SOURCE)
    count(n.core, Icmp6OutRouterSolicits)
    send(n, i, &m, src, &dst, NULL)
