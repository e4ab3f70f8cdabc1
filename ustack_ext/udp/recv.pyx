"""The receive queues of datagram sockets: accounting, and the one copy to the application.

Responsible for what waits in a socket; not for choosing the socket (demux). A datagram stays in the frame's own buffer
when that is of the size a copy would take anyway, so it is copied once, to the application.
"""
from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcpy, memset

from ustack_ext.wire.addr cimport addr_is_v4
from ustack_ext.wire.headers cimport ETHERTYPE_IPV4, ETHERTYPE_IPV6, UDP_HLEN
from ustack_ext.base.bpf cimport BpfPacket, bpf_run
from ustack_ext.base.buf cimport (Buf, buf_alloc, buf_class_cap, buf_ref, buf_truesize, buf_unref, bufq_pop,
                                  bufq_push, pool_above)
from ustack_ext.base.core cimport count
from ustack_ext.base.entry cimport ENTRY_RAW
from ustack_ext.base.event cimport EV_ERROR, EV_READABLE, EV_WRITABLE, event_raise
from ustack_ext.net.mib cimport (
    DropNoBuffer, DropPacketQueueFull, DropRawQueueFull, DropSocketFilter, UdpInDatagrams, UdpInErrors, UdpMemErrors,
    UdpRcvbufErrors,
)
from ustack_ext.net.state cimport RX_IP_MULTICAST, RX_LINK_BROADCAST
from ustack_ext.udp.state cimport PACKET_BROADCAST, PACKET_MULTICAST, UDP_IS_PING, UDP_SHUT_RD, udp_counter

cdef enum:
    PAGE = 4096                # what udp_mem counts in


cdef bint can_share(const RxPkt *rx, const uint8_t *data, uint32_t length) noexcept nogil:
    """The frame's buffer can be the queue's: only the caller holds it, the meta data fits in front, and no smaller
    class would do."""
    cdef const Buf *b = rx.buf
    if b.refs != 1 or data - b.data < <long>sizeof(UdpMeta):
        return False
    return b.cls == 0 or buf_class_cap(b.cls - 1) < sizeof(UdpMeta) + length


cdef void lost(Udp *u, UdpSock *s, int reason) noexcept nogil:
    """UDP's counters are Linux's; what raw and packet sockets lose, Linux counts in the socket only."""
    if s.raw != NULL:
        s.raw.lost += 1
        count(u.core, DropRawQueueFull if s.entry.kind == ENTRY_RAW else DropPacketQueueFull)
        return
    count(u.core, udp_counter(s.entry.kind, reason))
    count(u.core, udp_counter(s.entry.kind, UdpInErrors))


cdef bint has_room(Udp *u, UdpSock *s) noexcept nogil:
    """One datagram is always taken, however small the buffer; when memory is short, only one."""
    if u.mem_used >= <uint64_t>u.mem[2] * PAGE:
        lost(u, s, UdpMemErrors)
        return False
    if s.rcv_used >= s.rcvbuf or pool_above(&u.core.pool, 16) or (s.queue.count > 0 and pool_above(&u.core.pool, 12)):
        lost(u, s, UdpRcvbufErrors)
        return False
    return True


cdef void enqueue(Udp *u, UdpSock *s, Buf *b, const UdpMeta *meta) noexcept nogil:
    memcpy(b.data, meta, sizeof(UdpMeta))
    bufq_push(&s.queue, b)
    s.rcv_used += buf_truesize(b)
    u.mem_used += buf_truesize(b)
    event_raise(&u.core.events, &s.source, EV_READABLE)


cdef Buf *copy_of(Udp *u, UdpSock *s, const uint8_t *data, uint32_t length) noexcept nogil:
    cdef Buf *b = buf_alloc(&u.core.pool, sizeof(UdpMeta) + length)
    if b == NULL:
        lost(u, s, DropNoBuffer)
        return NULL
    memcpy(b.data + sizeof(UdpMeta), data, length)
    b.off = sizeof(UdpMeta)
    b.len = length
    return b


cdef void meta_fill(UdpMeta *meta, const RxPkt *rx, uint16_t sport) noexcept nogil:
    meta.src = rx.src
    meta.dst = rx.dst
    meta.sport = sport
    meta.tos = rx.tos
    meta.ttl = rx.ttl
    meta.ifindex = <uint16_t>rx.iface.index
    meta.gro_size = 0


cdef void deliver_copy(Udp *u, UdpSock *s, const UdpMeta *meta, const uint8_t *data, uint32_t length) noexcept nogil:
    cdef Buf *b
    if s.flags & UDP_SHUT_RD or not has_room(u, s):
        return
    b = copy_of(u, s, data, length)
    if b == NULL:
        return
    s.raw.received += 1
    enqueue(u, s, b, meta)


cdef bint filter_keeps(Udp *u, UdpSock *s, const RxPkt *rx, const uint8_t *data, uint32_t whole, uint32_t header,
                       uint32_t *length) noexcept nogil:
    """SO_ATTACH_FILTER: the program sees `whole` bytes at `data`, and may cut what is behind the header short."""
    cdef BpfPacket p
    cdef uint32_t keep
    memset(&p, 0, sizeof(p))
    p.data = data
    p.length = whole
    p.net = rx.l3
    p.net_length = rx.l3_len
    p.protocol = ETHERTYPE_IPV4 if addr_is_v4(&rx.dst) else ETHERTYPE_IPV6
    p.ifindex = rx.iface.index
    if rx.flags & RX_LINK_BROADCAST:
        p.pkttype = PACKET_MULTICAST if rx.flags & RX_IP_MULTICAST else PACKET_BROADCAST
    keep = bpf_run(s.filter, &p)
    if keep == 0:
        count(u.core, DropSocketFilter)
        return False
    length[0] = min(length[0], max(keep, header) - header)
    return True


cdef bint covers(const UdpSock *s, uint16_t cover) noexcept nogil:
    """UDPLITE_RECV_CSCOV (RFC 3828 §3.3), as Linux: 0 asks for all of the datagram."""
    return s.more == NULL or not s.more.recv_covers or 0 < s.more.recv_cover <= cover


cdef void deliver(Udp *u, UdpSock *s, RxPkt *rx, uint8_t *data, uint32_t length, uint16_t sport,
                  bint last) noexcept nogil:
    cdef Buf *b
    cdef UdpMeta meta
    if s.flags & UDP_SHUT_RD:
        return
    if u.cover != 0 and not covers(s, u.cover):
        count(u.core, udp_counter(s.entry.kind, UdpInErrors))
        return
    if s.filter != NULL and not filter_keeps(u, s, rx, rx.l4, rx.l4_len, 0 if s.flags & UDP_IS_PING else UDP_HLEN,
                                             &length):
        return
    if not has_room(u, s):
        return
    meta_fill(&meta, rx, sport)
    meta.gro_size = rx.gso_size if length > rx.gso_size else 0
    if last and can_share(rx, data, length):
        b = rx.buf
        buf_ref(b)
        b.off = <uint32_t>(data - b.data)
    else:
        b = copy_of(u, s, data, length)
        if b == NULL:
            return
    b.len = length
    enqueue(u, s, b, &meta)
    if not s.flags & UDP_IS_PING:
        count(u.core, udp_counter(s.entry.kind, UdpInDatagrams))


cdef long take(Udp *u, UdpSock *s, const IoVec *iov, int niov, bint peek, UdpMeta *meta, uint32_t *full) noexcept nogil:
    """Copies the first datagram (there is one); what does not fit is lost with it, *full tells."""
    cdef Buf *b = s.queue.head
    cdef uint32_t copied = 0, piece
    cdef int k
    memcpy(meta, b.data, sizeof(UdpMeta))
    full[0] = b.len
    for k in range(niov):
        piece = <uint32_t>min(iov[k].len, <size_t>(b.len - copied))
        if piece > 0:
            memcpy(iov[k].base, b.data + b.off + copied, piece)
            copied += piece
    if not peek:
        bufq_pop(&s.queue)
        s.rcv_used -= buf_truesize(b)
        u.mem_used -= buf_truesize(b)
        buf_unref(&u.core.pool, b)
    return copied


cdef void set_error(Udp *u, UdpSock *s, int error) noexcept nogil:
    s.error = error
    event_raise(&u.core.events, &s.source, EV_ERROR | EV_READABLE | EV_WRITABLE)
