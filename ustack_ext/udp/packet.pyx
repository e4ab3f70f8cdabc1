"""Packet sockets (packet(7)): whole frames of the stack's own interfaces, of any EtherType, in both directions.

Responsible for which sockets see a frame, as what, and for frames that programs write themselves. Not for queues
(recv). A frame is seen before anything of it was checked, also one for another host; what goes out is seen as it is
given to the interface, so superframes are whole and checksums may be left to the link, as in Linux. Devices without a
link header show IP packets; the loopback interface shows Ethernet headers of zeros.
"""
from libc.errno cimport EINVAL, EMSGSIZE, ENETDOWN, ENODEV, ENXIO
from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memcpy, memset

from ustack_ext.wire.bytes cimport get_be16, put_be16
from ustack_ext.wire.headers cimport (ETH_HLEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_MIN, ETHERTYPE_VLAN,
                                      VLAN_HLEN)
from ustack_ext.base.bpf cimport BpfPacket, bpf_run
from ustack_ext.base.buf cimport Buf, buf_alloc, buf_unref
from ustack_ext.base.core cimport count
from ustack_ext.base.entry cimport ENTRY_PACKET
from ustack_ext.base.iov cimport Offload
from ustack_ext.net.capture cimport capture_watch
from ustack_ext.net.frame cimport frame_transmit, mac_is_group
from ustack_ext.net.iface cimport iface_by_index
from ustack_ext.net.mib cimport DropNoBuffer, DropSocketFilter
from ustack_ext.net.state cimport MEDIUM_ETHERNET, MEDIUM_IP, MEDIUM_LOOPBACK, TX_IOV_MAX
from ustack_ext.udp.rawmore cimport rawmore_free, rawmore_new
from ustack_ext.udp.recv cimport deliver_copy
from ustack_ext.udp.send cimport gather, slice_pieces, total_length
from ustack_ext.udp.state cimport (
    PACKET_BROADCAST, PACKET_HOST, PACKET_MULTICAST, PACKET_OTHERHOST, PACKET_OUTGOING, UdpMeta,
)

cdef enum:
    ARPHRD_ETHER = 1
    ARPHRD_LOOPBACK = 772
    ARPHRD_NONE = 0xFFFE
    ETH_P_802_2 = 4
    MAC_LEN = 6
    FRAME_MAX = 65536

cdef struct Seen:              # one frame, for all the sockets that look at it
    Iface *iface
    const uint8_t *frame       # with its link header
    uint32_t length
    uint32_t link              # bytes of link header
    uint16_t ethertype
    uint8_t pkttype
    Buf *gathered              # or NULL


cdef uint16_t packet_hatype(const Iface *i) noexcept nogil:
    if i.medium == MEDIUM_ETHERNET:
        return ARPHRD_ETHER
    return ARPHRD_LOOPBACK if i.medium == MEDIUM_LOOPBACK else ARPHRD_NONE


cdef void watch(Udp *u) noexcept nogil:
    u.net.sockets_frames = NULL
    if u.packets != NULL:
        u.net.sockets_frames = packet_frame
    u.net.hook_user = u
    capture_watch(u.net)


cdef int packet_attach(Udp *u, UdpSock *s, uint16_t ethertype, bint cooked) noexcept nogil:
    cdef int status = rawmore_new(s, &u.packets, ENTRY_PACKET)
    if status != 0:
        return status
    s.raw.ethertype = ethertype
    s.raw.cooked = cooked
    watch(u)
    return 0


cdef void packet_detach(Udp *u, UdpSock *s) noexcept nogil:
    rawmore_free(s, &u.packets)
    watch(u)


cdef int packet_bind(Udp *u, UdpSock *s, uint32_t ifindex, uint16_t ethertype) noexcept nogil:
    if ifindex != 0 and iface_by_index(u.net, ifindex) == NULL:
        return -ENODEV
    s.raw.ifindex = ifindex
    if ethertype != 0:
        s.raw.ethertype = ethertype
    return 0


# --- in ---

cdef uint16_t ethertype_of(const Iface *i, const uint8_t *p, size_t n) noexcept nogil:
    """0: it has none. 802.3 lengths are one protocol, as in Linux."""
    cdef uint16_t type
    if i.medium != MEDIUM_ETHERNET:
        if n == 0:
            return 0
        return ETHERTYPE_IPV4 if p[0] >> 4 == 4 else ETHERTYPE_IPV6 if p[0] >> 4 == 6 else 0
    if n < ETH_HLEN:
        return 0
    type = get_be16(p + 12)
    return type if type >= ETHERTYPE_MIN else ETH_P_802_2


cdef uint8_t pkttype_of(const Iface *i, const uint8_t *p, bint out) noexcept nogil:
    if out:
        return PACKET_OUTGOING
    if i.medium != MEDIUM_ETHERNET:
        return PACKET_HOST
    if mac_is_group(p):
        return PACKET_BROADCAST if memcmp(p, b"\xff\xff\xff\xff\xff\xff", MAC_LEN) == 0 else PACKET_MULTICAST
    return PACKET_HOST if memcmp(p, i.mac, MAC_LEN) == 0 else PACKET_OTHERHOST


cdef bint listens(const Udp *u, const UdpSock *s, const Iface *i, uint16_t ethertype, bint out) noexcept nogil:
    """As Linux: only who hears everything hears what goes out, and nobody what he sent himself."""
    if s.raw.ifindex != 0 and s.raw.ifindex != <uint32_t>i.index:
        return False
    if out:
        return s.raw.ethertype == ETH_P_ALL and not s.raw.ignore_outgoing and s != u.sending
    return s.raw.ethertype == ETH_P_ALL or (s.raw.ethertype == ethertype and ethertype != 0)


cdef bint in_one_piece(Udp *u, Seen *f, const IoVec *iov, int niov) noexcept nogil:
    """False: no memory. The loopback's link header is made here."""
    cdef uint32_t room = ETH_HLEN if f.iface.medium == MEDIUM_LOOPBACK else 0
    cdef size_t total = room
    cdef int k
    if niov == 1 and room == 0:
        f.frame = <const uint8_t *>iov[0].base
        f.length = <uint32_t>iov[0].len
        return True
    for k in range(niov):
        total += iov[k].len
    f.gathered = buf_alloc(&u.core.pool, <uint32_t>total)
    if f.gathered == NULL:
        count(u.core, DropNoBuffer)
        return False
    if room != 0:
        memset(f.gathered.data, 0, ETH_HLEN)
        put_be16(f.gathered.data + 12, f.ethertype)
    gather(iov, niov, f.gathered.data + room, 0, total - room)
    f.frame = f.gathered.data
    f.length = <uint32_t>total
    return True


cdef bint filter_keeps(Udp *u, const UdpSock *s, const Seen *f, uint32_t skip, uint32_t *length) noexcept nogil:
    cdef BpfPacket p
    cdef uint32_t keep
    p.data = f.frame + skip
    p.length = f.length - skip
    p.link = f.frame
    p.link_length = f.length
    p.net = f.frame + f.link
    p.net_length = f.length - f.link
    p.protocol = f.ethertype
    p.pkttype = f.pkttype
    p.ifindex = f.iface.index
    p.hatype = packet_hatype(f.iface)
    keep = bpf_run(s.filter, &p)
    if keep == 0:
        count(u.core, DropSocketFilter)
    length[0] = min(length[0], keep)
    return keep != 0


cdef void give(Udp *u, UdpSock *s, const Seen *f) noexcept nogil:
    cdef uint32_t skip = f.link if s.raw.cooked else 0
    cdef uint32_t length = f.length - skip
    cdef UdpMeta meta
    cdef LinkMeta *m = <LinkMeta *>&meta
    if s.filter != NULL and not filter_keeps(u, s, f, skip, &length):
        return
    memset(&meta, 0, sizeof(meta))
    if f.link != 0:
        memcpy(m.mac, f.frame + MAC_LEN, MAC_LEN)
        m.halen = MAC_LEN
    m.ethertype = f.ethertype
    m.hatype = packet_hatype(f.iface)
    m.ifindex = <uint16_t>f.iface.index
    m.pkttype = f.pkttype
    deliver_copy(u, s, &meta, f.frame + skip, length)


cdef bint packet_frame(void *user, Iface *i, const IoVec *iov, int niov, bint out) noexcept nogil:
    """net's hook. True: a socket is there for just this EtherType."""
    cdef Udp *u = <Udp *>user
    cdef UdpSock *s = u.packets
    cdef bint taken = False
    cdef Seen f
    memset(&f, 0, sizeof(f))
    f.iface = i
    f.ethertype = ethertype_of(i, <const uint8_t *>iov[0].base, iov[0].len)
    if i.medium == MEDIUM_ETHERNET and iov[0].len < ETH_HLEN:
        return False
    f.link = 0 if i.medium == MEDIUM_IP else ETH_HLEN
    f.pkttype = pkttype_of(i, <const uint8_t *>iov[0].base, out)
    while s != NULL:
        if listens(u, s, i, f.ethertype, out):
            if f.frame == NULL and not in_one_piece(u, &f, iov, niov):
                break
            give(u, s, &f)
            taken = taken or s.raw.ethertype != ETH_P_ALL
        s = s.raw.next
    if f.gathered != NULL:
        buf_unref(&u.core.pool, f.gathered)
    return taken


# --- out ---

cdef long transmit(Udp *u, UdpSock *s, Iface *i, IoVec *iov, int niov, size_t length) noexcept nogil:
    cdef Offload off
    cdef int status
    memset(&off, 0, sizeof(off))
    u.sending = s
    status = frame_transmit(u.net, i, iov, niov, <uint32_t>length, &off)
    u.sending = NULL
    return status


cdef long packet_send(Udp *u, UdpSock *s, const IoVec *iov, int niov, uint32_t ifindex, uint16_t ethertype,
                      uint64_t mac, uint32_t halen) noexcept nogil:
    cdef Iface *i = iface_by_index(u.net, ifindex if ifindex != 0 else s.raw.ifindex)
    cdef long total = total_length(iov, niov, FRAME_MAX)
    cdef uint8_t head[ETH_HLEN]
    cdef IoVec out[TX_IOV_MAX]
    cdef uint32_t link, skip
    cdef int used, k
    cdef long status
    if total < 0:
        return total
    if i == NULL:
        return -ENXIO
    if not i.up:
        return -ENETDOWN
    link = 0 if i.medium == MEDIUM_IP else ETH_HLEN
    skip = 0 if s.raw.cooked else link
    if total < skip or (s.raw.cooked and i.medium == MEDIUM_ETHERNET and halen < MAC_LEN):
        return -EINVAL
    if s.raw.cooked:
        for k in range(MAC_LEN):
            head[k] = <uint8_t>(mac >> (40 - 8 * k))
        memcpy(head + MAC_LEN, i.mac, MAC_LEN)
        put_be16(head + 12, ethertype if ethertype != 0 else s.raw.ethertype)
    elif link != 0:
        gather(iov, niov, head, 0, ETH_HLEN)
    if total - skip > <long>i.mtu + (VLAN_HLEN if link != 0 and get_be16(head + 12) == ETHERTYPE_VLAN else 0):
        return -EMSGSIZE
    out[0].base = head
    out[0].len = link if i.medium == MEDIUM_ETHERNET else 0
    k = 1 if out[0].len != 0 else 0                    # the loopback takes no link header, though it shows one
    used = slice_pieces(iov, niov, skip, total - skip, out + k, TX_IOV_MAX - k)
    if used < 0:
        return used
    if used + k == 0:
        return -EINVAL                                 # an IP packet of no bytes
    status = transmit(u, s, i, out, used + k, total - skip + out[0].len)
    return total if status == 0 else status
