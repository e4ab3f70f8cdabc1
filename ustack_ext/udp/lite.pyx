"""UDP-Lite (RFC 3828), with Linux's options UDPLITE_SEND_CSCOV and UDPLITE_RECV_CSCOV (udplite(7)).

Responsible for the header, in and out, and for the checksum over the part that it says. The length of a datagram is
what IP carried (§3.1); where UDP has it, is the coverage, 0 for all. There is always a checksum, and no link computes
it. Sockets, queues and errors are UDP's.
"""
from libc.stdint cimport uint8_t, uint64_t

from ustack_ext.wire.bytes cimport get_be16
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_pseudo, csum_store
from ustack_ext.wire.headers cimport ICMP_UNREACH_PORT, IPPROTO_UDPLITE_, UDP_HLEN, UdpHdr, udp_emit
from ustack_ext.base.core cimport count
from ustack_ext.base.entry cimport ENTRY_UDPLITE
from ustack_ext.net.mib cimport (
    DropUdpLiteCoverage, DropUdpMalformed, UdpLiteInCsumErrors, UdpLiteInErrors, UdpLiteNoPorts,
)
from ustack_ext.net.net cimport icmp_send_unreach
from ustack_ext.net.output cimport tx_csum, tx_slice
from ustack_ext.net.state cimport RX_IP_BROADCAST, RX_IP_MULTICAST, tx_init, tx_push
from ustack_ext.udp.demux cimport best_match
from ustack_ext.udp.member cimport deliver_group
from ustack_ext.udp.recv cimport deliver


cdef int checksum_error(const RxPkt *rx, uint32_t cover) noexcept nogil:
    """0, or the counter of what is wrong (RFC 3828 §3.1)."""
    cdef const uint8_t *p = rx.l4
    if cover < UDP_HLEN or cover > rx.l4_len or get_be16(p + 6) == 0:
        return DropUdpLiteCoverage
    if csum_fold(csum_partial(p, cover, csum_pseudo(&rx.src, &rx.dst, IPPROTO_UDPLITE_, rx.l4_len))) != 0:
        return UdpLiteInCsumErrors
    return 0


cdef void lite_input(Udp *u, RxPkt *rx) noexcept nogil:
    cdef uint32_t cover
    cdef uint16_t sport, dport
    cdef UdpSock *s
    cdef int wrong
    if rx.l4_len < UDP_HLEN:
        count(u.core, DropUdpMalformed)
        count(u.core, UdpLiteInErrors)
        return
    cover = get_be16(rx.l4 + 4)
    if cover == 0:
        cover = rx.l4_len
    wrong = checksum_error(rx, cover)
    if wrong != 0:
        count(u.core, wrong)
        count(u.core, UdpLiteInErrors)
        return
    sport = get_be16(rx.l4)
    dport = get_be16(rx.l4 + 2)
    u.cover = <uint16_t>cover if cover < rx.l4_len else 0
    if rx.flags & (RX_IP_BROADCAST | RX_IP_MULTICAST):
        deliver_group(u, rx, ENTRY_UDPLITE, rx.l4 + UDP_HLEN, rx.l4_len - UDP_HLEN, sport, dport)
    else:
        s = best_match(u, dport, ENTRY_UDPLITE, &rx.dst, &rx.src, sport, rx.iface.index)
        if s != NULL:
            deliver(u, s, rx, rx.l4 + UDP_HLEN, rx.l4_len - UDP_HLEN, sport, True)
        else:
            count(u.core, UdpLiteNoPorts)
            icmp_send_unreach(u.net, rx, ICMP_UNREACH_PORT, 0)
    u.cover = 0


cdef uint16_t lite_cover(const UdpSock *s, uint32_t whole) noexcept nogil:
    if s.more == NULL or not s.more.send_covers or s.more.send_cover >= whole:
        return 0
    return s.more.send_cover


cdef void lite_push_header(const UdpSock *s, const Addr *src, const Addr *dst, uint16_t port, TxPkt *t) noexcept nogil:
    cdef uint32_t whole = UDP_HLEN + t.payload_len
    cdef uint16_t cover = lite_cover(s, whole), sum
    cdef uint8_t *p = tx_push(t, UDP_HLEN)
    cdef uint64_t pseudo = csum_pseudo(src, dst, IPPROTO_UDPLITE_, whole)
    cdef TxPkt part
    cdef UdpHdr h
    h.sport = s.lport
    h.dport = port
    h.length = cover
    h.checksum = 0
    udp_emit(p, &h)
    if cover == 0:
        sum = csum_fold(tx_csum(t, pseudo))
    else:
        tx_init(&part)
        tx_slice(t, 0, cover, &part)
        sum = csum_fold(tx_csum(&part, pseudo))
    csum_store(p + 6, sum if sum != 0 else 0xFFFF)     # §3.1: zero would be illegal
