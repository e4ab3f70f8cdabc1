"""A run of data segments in one pass of SEGMENT ARRIVES, where that comes to the same; else each for itself.

It does when the run is what the connection waits for: it begins at RCV.NXT, ends in the window, nothing is missing
before or after it, its acknowledgement and its timestamps are acceptable. The header is then that of the first segment,
which is the one whose timestamp counts (RFC 7323 §4.3: the segment that the last ACK asked for).
"""
from libc.stdint cimport int32_t, uint16_t, uint32_t

from ustack_ext.base.buf cimport BUF_HASHED, Buf, buf_unref
from ustack_ext.base.entry cimport ENTRY_SYNREQ, ENTRY_TIMEWAIT
from ustack_ext.tcp.conn cimport conn_find, conn_find_hashed
from ustack_ext.tcp.input cimport segment_arrives, tcp_input
from ustack_ext.tcp.segment cimport SegIn, segment_parse
from ustack_ext.tcp.seq cimport seq_leq
from ustack_ext.tcp.tcb cimport (
    TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TF_FIN_OOO, TF_ORPHAN, TF_TS_OK, Conn, Tcb, has_gap,
    tcb_rcv_wnd,
)
from ustack_ext.wire.bytes cimport get_be16, get_be32
from ustack_ext.wire.headers cimport TCP_HLEN


cdef bint expects(const Tcb *c, const RxPkt *rx, uint32_t hlen, uint32_t n) noexcept nogil:
    cdef uint32_t ack = get_be32(rx.l4 + 8)
    if (c.flags & TF_TS_OK != 0) != (hlen != TCP_HLEN) or c.conf.md5 != NULL:
        return False
    if hlen != TCP_HLEN and <int32_t>(get_be32(rx.l4 + TCP_HLEN + 4) - c.ts_recent) < 0:
        return False
    return ((c.state == TCP_ESTABLISHED or c.state == TCP_FIN_WAIT1 or c.state == TCP_FIN_WAIT2)
            and get_be32(rx.l4 + 4) == c.rcv_nxt and n <= tcb_rcv_wnd(c) and not has_gap(c)
            and not c.flags & (TF_ORPHAN | TF_FIN_OOO) and seq_leq(c.snd_una, ack) and seq_leq(ack, c.snd_nxt))


cdef void one_by_one(Tcp *t, RxPkt *rx, uint32_t hlen) noexcept nogil:
    cdef RxPkt one = rx[0]
    cdef uint32_t ip_hlen = <uint32_t>(rx.l4 - rx.l3)
    cdef Buf *b = NULL
    one.more = NULL
    one.more_len = 0
    one.segs = 0
    one.gso_size = 0
    while True:
        tcp_input(t, &one)
        if b != NULL:
            buf_unref(&t.core.pool, b)
        b = rx.more
        if b == NULL:
            return
        rx.more = b.next
        one.buf = b
        one.l4 = b.data + b.off - hlen
        one.l4_len = hlen + b.len
        one.l3 = one.l4 - ip_hlen
        one.l3_len = ip_hlen + one.l4_len


cdef void tcp_input_merged(Tcp *t, RxPkt *rx) noexcept nogil:
    cdef uint16_t lport = get_be16(rx.l4 + 2), rport = get_be16(rx.l4)
    cdef uint32_t hlen = <uint32_t>(rx.l4[12] >> 4) * 4
    cdef Conn *who
    cdef SegIn s
    cdef Buf *b
    if rx.buf.flags & BUF_HASHED:
        who = conn_find_hashed(t, rx.buf.seq, &rx.dst, lport, &rx.src, rport)
    else:
        who = conn_find(t, &rx.dst, lport, &rx.src, rport)
    if (who == NULL or who.entry.kind == ENTRY_TIMEWAIT or who.entry.kind == ENTRY_SYNREQ
            or not expects(<Tcb *>who, rx, hlen, rx.l4_len - hlen + rx.more_len)):
        one_by_one(t, rx, hlen)
        return
    if segment_parse(t, rx, &s):
        s.n += rx.more_len
        s.len = s.n
        segment_arrives(t, <Tcb *>who, &s)
    while rx.more != NULL:                                   # refused, with the segment it came with
        b = rx.more
        rx.more = b.next
        buf_unref(&t.core.pool, b)
