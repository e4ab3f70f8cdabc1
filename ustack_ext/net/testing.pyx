"""Pieces of ustack_ext.net for Python, so that tests can hold them against scapy. Nothing in the data plane uses this
module.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from ustack_ext.base.core cimport Core
from ustack_ext.base.iov cimport OFF_CSUM_WANTED, OFF_GSO_TCP4, OFF_GSO_TCP6, OFF_GSO_UDP, IoVec, Offload
from ustack_ext.net.frame cimport frame_transmit
from ustack_ext.net.mib cimport MIB_COUNT, mib_name
from ustack_ext.net.state cimport MEDIUM_ETHERNET, MEDIUM_IP, TX_IOV_MAX, Iface, Net


cdef int collect(void *link, const IoVec *iov, int niov, const Offload *off) noexcept with gil:
    """A link that takes as many frames as room says."""
    cdef int i
    frames, room = <object>link
    if len(frames) >= room:
        return -1
    joined = b"".join((<uint8_t *>iov[i].base)[:iov[i].len] for i in range(niov))
    frames.append((joined, off.flags, off.gso_size, off.hdr_len, off.csum_start, off.csum_offset))
    return 0


def transmit(pieces, *, medium="ethernet", can_checksum=False, can_segment=False, wants_checksum=True, gso_size=0,
             hdr_len=0, csum_start=0, room=1 << 20, six=False, udp=False):
    """Hand one packet to a link, as the network layer does at the end.

    Parameters: pieces, its bytes as they lie in memory, headers first; medium, "ethernet" or "ip"; can_checksum,
    can_segment, what the link can do; the rest, the offload descriptor that goes with the packet; room, frames the link
    takes before it refuses; six, whether it is IPv6; udp, no TCP. Returns (status, frames, counters): 0 or -errno; of
    each frame (bytes, flags, gso_size, hdr_len, csum_start, csum_offset); the counters that are not 0, with those of
    the interface.
    """
    cdef Core *core = <Core *>calloc(1, sizeof(Core))
    cdef Net *net = <Net *>calloc(1, sizeof(Net))
    cdef Iface iface
    cdef IoVec iov[TX_IOV_MAX]
    cdef Offload off
    cdef uint32_t length = 0
    cdef int status, i, niov = len(pieces), gso
    gso = OFF_GSO_UDP if udp else OFF_GSO_TCP6 if six else OFF_GSO_TCP4
    if core == NULL or net == NULL:
        raise MemoryError
    if not 0 < niov <= TX_IOV_MAX:
        raise ValueError(f"{niov} pieces")
    kept = [bytearray(piece) for piece in pieces]        # of exactly that size: a sanitizer sees what goes beyond
    for i in range(niov):
        iov[i].base = <void *><uint8_t *>kept[i]
        iov[i].len = len(kept[i])
        length += <uint32_t>iov[i].len
    memset(&iface, 0, sizeof(iface))
    iface.medium = MEDIUM_ETHERNET if medium == "ethernet" else MEDIUM_IP
    iface.up = 1
    iface.offloads = (OFF_CSUM_WANTED if can_checksum else 0) | (gso if can_segment else 0)
    iface.transmit = collect
    frames = []
    link = frames, room
    iface.link = <void *>link
    net.core = core
    memset(&off, 0, sizeof(off))
    off.flags = (OFF_CSUM_WANTED if wants_checksum else 0) | (gso if gso_size else 0)
    off.gso_size = gso_size
    off.hdr_len = hdr_len
    off.csum_start = csum_start
    off.csum_offset = 6 if udp else 16
    try:
        status = frame_transmit(net, &iface, iov, niov, length, &off)
        counters = {(<bytes>mib_name(i)).decode(): core.counters[i] for i in range(<int>MIB_COUNT) if core.counters[i]}
    finally:
        free(core)
        free(net)
    counters |= {"tx_packets": iface.tx_packets, "tx_bytes": iface.tx_bytes, "tx_dropped": iface.tx_dropped}
    return status, frames, counters
