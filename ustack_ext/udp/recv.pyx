"""The receive queues of datagram sockets: accounting, and the one copy to the application.

Responsible for what waits in a socket; not for choosing the socket (demux). A datagram stays in the frame's own buffer
when that is of the size a copy would take anyway, so it is copied once, to the application.
"""
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from ustack_ext.base.buf cimport (Buf, buf_alloc, buf_class_cap, buf_ref, buf_truesize, buf_unref, bufq_pop,
                                  bufq_push, pool_above)
from ustack_ext.base.core cimport count
from ustack_ext.base.event cimport EV_ERROR, EV_READABLE, EV_WRITABLE, event_raise
from ustack_ext.net.mib cimport DropNoBuffer, UdpInDatagrams, UdpInErrors, UdpMemErrors, UdpRcvbufErrors
from ustack_ext.udp.state cimport UDP_IS_PING, UDP_SHUT_RD

cdef enum:
    PAGE = 4096                # what udp_mem counts in


cdef bint can_share(const RxPkt *rx, const uint8_t *data, uint32_t length) noexcept nogil:
    """The frame's buffer can be the queue's: only the caller holds it, the meta data fits in front, and no smaller
    class would do."""
    cdef const Buf *b = rx.buf
    if b.refs != 1 or data - b.data < <long>sizeof(UdpMeta):
        return False
    return b.cls == 0 or buf_class_cap(b.cls - 1) < sizeof(UdpMeta) + length


cdef void deliver(Udp *u, UdpSock *s, RxPkt *rx, uint8_t *data, uint32_t length, uint16_t sport,
                  bint last) noexcept nogil:
    cdef Buf *b
    cdef UdpMeta meta
    if s.flags & UDP_SHUT_RD:
        return
    # One datagram is always taken, however small the buffer; when memory is short, only one.
    if u.mem_used >= <uint64_t>u.mem[2] * PAGE:
        count(u.core, UdpMemErrors)
        count(u.core, UdpInErrors)
        return
    if s.rcv_used >= s.rcvbuf or pool_above(&u.core.pool, 16) or (s.queue.count > 0 and pool_above(&u.core.pool, 12)):
        count(u.core, UdpRcvbufErrors)
        count(u.core, UdpInErrors)
        return
    meta.src = rx.src
    meta.dst = rx.dst
    meta.sport = sport
    meta.tos = rx.tos
    meta.ttl = rx.ttl
    meta.ifindex = <uint16_t>rx.iface.index
    meta.gro_size = rx.gso_size if length > rx.gso_size else 0
    if last and can_share(rx, data, length):
        b = rx.buf
        buf_ref(b)
        b.off = <uint32_t>(data - b.data)
    else:
        b = buf_alloc(&u.core.pool, sizeof(UdpMeta) + length)
        if b == NULL:
            count(u.core, DropNoBuffer)
            count(u.core, UdpInErrors)
            return
        memcpy(b.data + sizeof(UdpMeta), data, length)
        b.off = sizeof(UdpMeta)
    b.len = length
    memcpy(b.data, &meta, sizeof(meta))
    bufq_push(&s.queue, b)
    s.rcv_used += buf_truesize(b)
    u.mem_used += buf_truesize(b)
    if not s.flags & UDP_IS_PING:
        count(u.core, UdpInDatagrams)
    event_raise(&u.core.events, &s.source, EV_READABLE)


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
