"""Hands finished frames to an interface's link and counts them; emits ARP packets (RFC 826).

Responsible for the link-level counters and for group addresses; not for choosing whom to send to (neigh, arp, output).

Frames shorter than 60 bytes are sent at their exact length: the links are virtual and take them, a real device's
driver pads them itself, and what is never written cannot leak old memory (Etherleak, CVE-2003-0001).
"""
from libc.errno cimport EMSGSIZE, ENETDOWN, ENOBUFS
from libc.string cimport memcpy, memset

from ustack_ext.wire.addr cimport addr_is_multicast, addr_is_v4
from ustack_ext.wire.bytes cimport put_be32
from ustack_ext.wire.headers cimport (ARP_LEN, ARP_REQUEST, ETH_HLEN, ETHERTYPE_ARP, ArpPkt, EthHdr, arp_emit, eth_emit)
from ustack_ext.base.core cimport count
from ustack_ext.net.capture cimport capture_lost
from ustack_ext.net.gso cimport gso_transmit, gso_wanted
from ustack_ext.net.mib cimport ArpOutReplies, ArpOutRequests, DropIfaceDown, DropTxQueueFull, DropTxTooBig
from ustack_ext.net.state cimport stands_on_others


cdef int frame_transmit(Net *n, Iface *i, const IoVec *iov, int niov, uint32_t length,
                        const Offload *off) noexcept nogil:
    """One frame of `length` bytes to the link, or a superframe in what pieces it takes. 0, or -ENETDOWN / -ENOBUFS /
    -EMSGSIZE (it is lost, or a part of it, and counted)."""
    cdef int status
    if not i.up:
        count(n.core, DropIfaceDown)
        return -ENETDOWN
    if n.frames != NULL:
        n.frames(n.hook_user, i, iov, niov, True)
    if gso_wanted(i, off):
        status = gso_transmit(n, i, iov, niov, length, off)
        if status != 0:
            capture_lost(n, DropTxTooBig if status == -EMSGSIZE else DropTxQueueFull)
        return status
    if i.transmit(i.link, iov, niov, off) != 0:
        i.tx_dropped += 1
        if not stands_on_others(i):
            count(n.core, DropTxQueueFull)
            capture_lost(n, DropTxQueueFull)
        return -ENOBUFS
    i.tx_packets += 1
    i.tx_bytes += length
    return 0


cdef void frame_arp(Net *n, Iface *i, const uint8_t *to, uint8_t op, uint32_t spa, const uint8_t *tha,
                    uint32_t tpa) noexcept nogil:
    """Sends one ARP packet from the interface to the link address `to` (NULL: broadcast). tha NULL: zero (RFC 5227
    §1.1)."""
    cdef uint8_t packet[ETH_HLEN + ARP_LEN]
    cdef EthHdr eth
    cdef ArpPkt arp
    cdef IoVec iov
    cdef Offload off
    if to != NULL:
        memcpy(eth.dst, to, 6)
    else:
        memset(eth.dst, 0xFF, 6)
    memcpy(eth.src, i.mac, 6)
    eth.ethertype = ETHERTYPE_ARP
    arp.op = op
    memcpy(arp.sha, i.mac, 6)
    if tha != NULL:
        memcpy(arp.tha, tha, 6)
    else:
        memset(arp.tha, 0, 6)
    arp.spa = spa
    arp.tpa = tpa
    eth_emit(packet, &eth)
    arp_emit(packet + ETH_HLEN, &arp)
    iov.base = packet
    iov.len = ETH_HLEN + ARP_LEN
    memset(&off, 0, sizeof(off))
    count(n.core, ArpOutRequests if op == ARP_REQUEST else ArpOutReplies)
    frame_transmit(n, i, &iov, 1, ETH_HLEN + ARP_LEN, &off)


cdef void mac_for_group(const Addr *dst, uint8_t *mac) noexcept nogil:
    """Link address of a broadcast or multicast destination (RFC 894, RFC 1112 §6.4, RFC 2464 §7)."""
    if addr_is_v4(dst) and (<uint32_t>dst.lo >> 28) == 0xE:
        mac[0] = 0x01
        mac[1] = 0x00
        put_be32(mac + 2, 0x5E000000 | (<uint32_t>dst.lo & 0x7FFFFF))
    elif addr_is_multicast(dst):                       # RFC 2464 §7
        mac[0] = 0x33
        mac[1] = 0x33
        put_be32(mac + 2, <uint32_t>dst.lo)
    else:
        memset(mac, 0xFF, 6)
