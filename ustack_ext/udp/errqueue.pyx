"""The error queues of UDP and ping sockets (ip(7), IP_RECVERR): what went wrong with which datagram, and who said so.

Responsible for the queue and its bound, the socket's receive buffer; not for which errors belong to which socket (udp).
"""
from libc.errno cimport EAGAIN, EMSGSIZE
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

from ustack_ext.wire.addr cimport addr_is_v4
from ustack_ext.wire.bytes cimport get_be16
from ustack_ext.base.buf cimport Buf, buf_alloc, buf_truesize, buf_unref, bufq_pop, bufq_push, pool_above
from ustack_ext.base.entry cimport ENTRY_UDP, ENTRY_UDPLITE
from ustack_ext.base.event cimport EV_ERROR, event_raise
from ustack_ext.udp.member cimport udp_more

cdef enum:
    FROM_HERE = 1              # SO_EE_ORIGIN_LOCAL, SO_EE_ORIGIN_ICMP and _ICMP6
    FROM_ICMP = 2
    FROM_ICMP6 = 3


cdef void queue(Udp *u, UdpSock *s, const UdpError *what, const uint8_t *quote, uint32_t length) noexcept nogil:
    cdef Buf *b
    if udp_more(s) == NULL or s.more.errors_used + s.rcv_used >= s.rcvbuf or pool_above(&u.core.pool, 12):
        return
    b = buf_alloc(&u.core.pool, sizeof(UdpError) + length)
    if b == NULL:
        return
    memcpy(b.data, what, sizeof(UdpError))
    if length > 0:
        memcpy(b.data + sizeof(UdpError), quote, length)
    b.off = sizeof(UdpError)
    b.len = length
    bufq_push(&s.more.errors, b)
    s.more.errors_used += buf_truesize(b)
    u.mem_used += buf_truesize(b)
    event_raise(&u.core.events, &s.source, EV_ERROR)


cdef void queue_icmp_error(Udp *u, UdpSock *s, const IcmpError *e, uint32_t header) noexcept nogil:
    """`header`: bytes of the transport header in front of what the application sent."""
    cdef UdpError what
    cdef uint32_t skip = min(header, e.l4_len)
    memset(&what, 0, sizeof(what))
    what.offender = e.from_addr
    what.dst = e.dst
    what.port = get_be16(e.l4 + 2) if s.entry.kind == ENTRY_UDP or s.entry.kind == ENTRY_UDPLITE else 0
    what.error = <uint16_t>e.error
    what.origin = FROM_ICMP if addr_is_v4(&e.dst) else FROM_ICMP6
    what.type = e.type
    what.code = e.code
    what.info = e.mtu
    queue(u, s, &what, e.l4 + skip, e.l4_len - skip)


cdef void queue_too_big(Udp *u, UdpSock *s, const Addr *dst, uint16_t port, uint32_t mtu) noexcept nogil:
    cdef UdpError what
    memset(&what, 0, sizeof(what))
    what.dst = dst[0]
    what.port = port
    what.error = EMSGSIZE
    what.origin = FROM_HERE
    what.info = mtu
    queue(u, s, &what, NULL, 0)


cdef long udp_take_error(Udp *u, UdpSock *s, const IoVec *iov, int niov, UdpError *what, uint32_t *full) noexcept nogil:
    cdef Buf *b = s.more.errors.head if s.more != NULL else NULL
    cdef uint32_t copied = 0, piece
    cdef int k
    if b == NULL:
        return -EAGAIN
    memcpy(what, b.data, sizeof(UdpError))
    full[0] = b.len
    for k in range(niov):
        piece = <uint32_t>min(iov[k].len, <size_t>(b.len - copied))
        if piece > 0:
            memcpy(iov[k].base, b.data + b.off + copied, piece)
            copied += piece
    bufq_pop(&s.more.errors)
    s.more.errors_used -= buf_truesize(b)
    u.mem_used -= buf_truesize(b)
    buf_unref(&u.core.pool, b)
    if s.more.errors.count == 0:
        s.error = 0                                    # as Linux: the error was that
    return copied
