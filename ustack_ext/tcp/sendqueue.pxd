# The send queue: blocks of bytes from SND.UNA to the last byte written, and the records of what was sent (Seg) over
# them.
from libc.stdint cimport uint32_t, uint8_t
from ustack_ext.base.buf cimport Buf
from ustack_ext.base.iov cimport IoVec
from ustack_ext.net.state cimport TX_IOV_MAX, TxPkt, tx_payload
from ustack_ext.tcp.tcb cimport SEG_SYN, TF_FIN_SENT, Seg, Tcb, Tcp

# Copies up to `limit` bytes of iov to the queue's end. Returns bytes taken (short: out of buffers).
cdef uint32_t sendq_append(Tcp *t, Tcb *c, const IoVec *iov, int niov, uint32_t limit) noexcept nogil
cdef void sendq_link(Tcb *c, Buf *b) noexcept nogil                         # a block, with bytes or without, at the end
cdef void sendq_drop(Tcp *t, Tcb *c, uint32_t n) noexcept nogil             # n acknowledged bytes leave the head
cdef void sendq_clear(Tcp *t, Tcb *c) noexcept nogil                        # bytes and records; gives c.tx back
cdef bint tx_take_one(Tcp *t, Tcb *c) noexcept nogil
cdef void chrono_set(Tcp *t, Tcb *c, uint8_t what) noexcept nogil            # Chrono; the time till now is counted
cdef void tx_give(Tcp *t, Tcb *c) noexcept nogil                            # nothing is queued, nothing in flight
cdef uint32_t sendq_gather_pieces(Buf *block, uint32_t off, uint32_t n, TxPkt *pkt) noexcept nogil
cdef void sendq_walk(Buf **block, uint32_t *off, uint32_t n) noexcept nogil

cdef Seg *seg_append(Tcp *t, Tcb *c, uint32_t seq, uint32_t end, int flags) noexcept nogil     # NULL: out of records
# s keeps [seq, at); returns the new [at, end), or NULL
cdef Seg *seg_split(Tcp *t, Tcb *c, Seg *s, uint32_t at) noexcept nogil
cdef void seg_sent_now(Tcp *t, Tcb *c, Seg *s) noexcept nogil               # to the end of the time order
cdef void seg_untime(Tcb *c, Seg *s) noexcept nogil                         # out of the time order (SACKed, lost)
# Records into it again, where their last transmission belongs; they are linked by tnext, in order of sequence.
cdef void seg_timed_again(Tcb *c, Seg *chain) noexcept nogil
cdef void seg_free_head(Tcp *t, Tcb *c) noexcept nogil


cdef inline bint tx_take(Tcp *t, Tcb *c) noexcept nogil:
    """Makes sure that c has a sending side of its own (c.tx). False: no memory."""
    return c.tx != &t.no_tx or tx_take_one(t, c)


cdef inline uint32_t sendq_unsent(const Tcb *c) noexcept nogil:
    cdef uint32_t sent = c.snd_nxt - c.snd_una
    if c.flags & TF_FIN_SENT:
        sent -= 1
    if c.tx.seg_head != NULL and c.tx.seg_head.flags & SEG_SYN:    # closed in SYN-RECEIVED
        sent -= 1
    return c.tx.sndq_bytes - sent


cdef inline uint32_t sendq_gather(Buf *block, uint32_t off, uint32_t n, TxPkt *pkt) noexcept nogil:
    """Adds n bytes starting at (block, off) to the packet, or fewer where they are in too many pieces -> how many."""
    if n > 0 and n <= block.len - off and pkt.niov < TX_IOV_MAX:
        tx_payload(pkt, block.data + off, n)
        return n
    return sendq_gather_pieces(block, off, n, pkt)


cdef inline void sendq_advance(Buf **block, uint32_t *off, uint32_t n) noexcept nogil:
    cdef Buf *b = block[0]
    if b != NULL and (n < b.len - off[0] or (n == b.len - off[0] and b.next == NULL)):
        off[0] += n
    else:
        sendq_walk(block, off, n)
