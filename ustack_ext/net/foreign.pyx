"""Flows to any destination: the promiscuous side of a stack that stands for all hosts behind it (forwarders).

Responsible for which packets to no address of ours are taken in, and for the ICMP error by which such a flow is
refused. Not for flows (tcp/forward, udp/flow), nor for routing (forward): what is taken in here is not sent on.

It costs nothing while nobody forwards: the question is asked where a packet would be dropped as not ours.
"""
from libc.string cimport memcpy

from ustack_ext.wire.addr cimport (
    addr_is_any, addr_is_broadcast, addr_is_link_local, addr_is_loopback, addr_is_multicast, addr_is_v4, addr_to_v4,
)
from ustack_ext.wire.bytes cimport put_be16, put_be32
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_store
from ustack_ext.wire.headers cimport (
    ICMP_UNREACH, ICMP_UNREACH_PORT, IP4_HLEN, IPPROTO_ICMP_, IPPROTO_TCP_, IPPROTO_UDP_,
)
from ustack_ext.wire.ip6 cimport (
    ICMP6_UNREACH, ICMP6_UNREACH_PORT, IP6_HLEN, IPPROTO_DSTOPTS_, IPPROTO_FRAGMENT_, IPPROTO_HOPOPTS_,
    IPPROTO_ICMPV6_, addr_put,
)
from ustack_ext.net.icmp cimport icmp_refuse
from ustack_ext.net.icmp6 cimport icmp6_refuse
from ustack_ext.net.iface cimport source_for
from ustack_ext.net.state cimport FOREIGN_TCP, FOREIGN_UDP, RX_FOREIGN, RX_LINK_BROADCAST, RX_LOOPBACK

cdef enum:
    QUOTE = 20                 # bytes of the transport header that are quoted at most
    HOPS = 64


cdef bint wanted(const Net *n, uint8_t proto) noexcept nogil:
    if proto == IPPROTO_TCP_:
        return n.foreign & FOREIGN_TCP != 0
    if proto == IPPROTO_UDP_:
        return n.foreign & FOREIGN_UDP != 0
    # Errors about what was sent in a foreign name; and in IPv6 what may have a transport header behind it.
    return (proto == IPPROTO_ICMP_ or proto == IPPROTO_ICMPV6_ or proto == IPPROTO_FRAGMENT_
            or proto == IPPROTO_HOPOPTS_ or proto == IPPROTO_DSTOPTS_)


cdef bint foreign_takes(Net *n, RxPkt *rx) noexcept nogil:
    if rx.flags & (RX_LOOPBACK | RX_LINK_BROADCAST) or not wanted(n, rx.proto):
        return False
    if addr_is_any(&rx.dst) or addr_is_any(&rx.src) or addr_is_multicast(&rx.dst) or addr_is_broadcast(&rx.dst):
        return False
    if addr_is_loopback(&rx.dst) or addr_is_link_local(&rx.dst):
        return False
    if addr_is_v4(&rx.dst) and (addr_to_v4(&rx.dst) >> 24 == 0 or addr_to_v4(&rx.dst) >> 28 >= 0xE):
        return False
    rx.flags |= RX_FOREIGN
    return True


cdef void foreign_set(Net *n, uint8_t bits, bint on) noexcept nogil:
    n.foreign = n.foreign | bits if on else n.foreign & ~bits
    n.generation += 1


cdef void refuse4(Net *n, const Addr *src, const Addr *dst, uint8_t proto, const uint8_t *l4, uint32_t length,
                  uint8_t code) noexcept nogil:
    cdef uint8_t packet[IP4_HLEN + QUOTE]
    cdef Addr own = dst[0]
    packet[0] = 0x45
    packet[1] = 0
    put_be16(packet + 2, <uint16_t>(IP4_HLEN + length))
    put_be32(packet + 4, 0x4000)
    packet[8] = HOPS
    packet[9] = proto
    put_be16(packet + 10, 0)
    put_be32(packet + 12, addr_to_v4(src))
    put_be32(packet + 16, addr_to_v4(dst))
    csum_store(packet + 10, csum_fold(csum_partial(packet, IP4_HLEN, 0)))
    memcpy(packet + IP4_HLEN, l4, length)
    if code != ICMP_UNREACH_PORT:                      # a router says it, the host itself what is about its ports
        source_for(n, src, &own)
    icmp_refuse(n, &own, src, ICMP_UNREACH, code, packet, IP4_HLEN + length)


cdef void refuse6(Net *n, const Addr *src, const Addr *dst, uint8_t proto, const uint8_t *l4, uint32_t length,
                  uint8_t code) noexcept nogil:
    cdef uint8_t packet[IP6_HLEN + QUOTE]
    cdef Addr own = dst[0]
    put_be32(packet, 0x60000000)
    put_be16(packet + 4, <uint16_t>length)
    packet[6] = proto
    packet[7] = HOPS
    addr_put(packet + 8, src)
    addr_put(packet + 24, dst)
    memcpy(packet + IP6_HLEN, l4, length)
    if code != ICMP6_UNREACH_PORT:
        source_for(n, src, &own)
    icmp6_refuse(n, &own, src, ICMP6_UNREACH, code, packet, IP6_HLEN + length)


cdef void foreign_refuse(Net *n, const Addr *src, const Addr *dst, uint8_t proto, const uint8_t *l4, uint32_t length,
                         uint8_t code) noexcept nogil:
    length = min(length, <uint32_t>QUOTE)
    if addr_is_v4(src):
        refuse4(n, src, dst, proto, l4, length, code)
    else:
        refuse6(n, src, dst, proto, l4, length, code)
