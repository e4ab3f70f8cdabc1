"""The send queue: blocks of bytes from SND.UNA to the last byte written, and the records of what was sent over them.

Bytes are copied in once; transmission and retransmission gather straight from the blocks. A block leaves when its last
byte is acknowledged.
"""
from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memcpy

from ustack_ext.base.buf cimport Buf, buf_alloc, buf_give_up, buf_truesize, buf_unref, pool_above
from ustack_ext.base.core cimport count
from ustack_ext.base.iov cimport IoVec
from ustack_ext.base.live cimport USTACK_DEBUG
from ustack_ext.base.slab cimport slab_alloc, slab_free
from ustack_ext.net.mib cimport TCPMemoryPressures
from ustack_ext.net.state cimport TX_IOV_MAX, TxPkt, tx_payload
from ustack_ext.tcp.sendindex cimport INDEX_FROM, index_add, index_drop_head
from ustack_ext.tcp.tcb cimport (
    CHRONO_NONE, CHRONO_RWND, CHRONO_SNDBUF, SEG_FIN, Seg, Tcb, Tcp, Tx, tcp_ms,
)

cdef enum:
    BULK = 8192                # a write at least this long gets medium blocks
    MEDIUM_NEED = 15000
    SMALL_NEED = 1024
    MERGES = 32                # of runs: 2**32 records are more than a window has
    SPARE_TXS = 64             # what request and response give back and take again by turns


cdef bint tx_take_one(Tcp *t, Tcb *c) noexcept nogil:
    cdef Tx *x = t.spare_txs
    if x != NULL:
        t.spare_txs = <Tx *>x.sndq_head
        t.n_spare_txs -= 1
    else:
        x = <Tx *>slab_alloc(&t.txs)
        if x == NULL:
            return False
    x[0] = t.no_tx
    x.high_sacked = c.snd_una
    x.snd_sml = c.snd_una
    x.usage_seq = c.snd_una
    c.tx = x
    return True


cdef void chrono_set(Tcp *t, Tcb *c, uint8_t what) noexcept nogil:
    cdef uint32_t now = tcp_ms(t.core), past = now - c.tx.chrono_ms
    if c.tx.chrono != CHRONO_NONE:
        c.tally.busy_ms += past
        if c.tx.chrono == CHRONO_RWND:
            c.tally.rwnd_ms += past
        elif c.tx.chrono == CHRONO_SNDBUF:
            c.tally.sndbuf_ms += past
    c.tx.chrono = what
    c.tx.chrono_ms = now


cdef void tx_give(Tcp *t, Tcb *c) noexcept nogil:
    cdef Tx *x = c.tx
    if x == &t.no_tx:
        return
    chrono_set(t, c, CHRONO_NONE)
    c.tx = &t.no_tx
    if x.cc != NULL:
        slab_free(&t.ccs, x.cc)
    if t.n_spare_txs >= SPARE_TXS or USTACK_DEBUG:           # so use after free is seen, and a closed stack is empty
        slab_free(&t.txs, x)
        return
    x.sndq_head = <Buf *>t.spare_txs
    t.spare_txs = x
    t.n_spare_txs += 1


cdef uint32_t sendq_append(Tcp *t, Tcb *c, const IoVec *iov, int niov, uint32_t limit) noexcept nogil:
    cdef uint32_t taken = 0, piece, n
    cdef size_t at
    cdef int i
    cdef Buf *b
    cdef bint short_of
    for i in range(niov):
        at = 0
        while at < iov[i].len and taken < limit:
            b = c.tx.sndq_tail
            if b == NULL or b.len == b.cap:
                short_of = pool_above(&t.core.pool, 13)
                if short_of and c.tx.sndq_bytes > 0:            # then each has something to send, and no more
                    count(t.core, TCPMemoryPressures)
                    return taken
                b = buf_alloc(&t.core.pool, MEDIUM_NEED if limit - taken >= BULK and not short_of else SMALL_NEED)
                if b == NULL:
                    return taken
                sendq_link(c, b)
            piece = b.cap - b.len
            n = <uint32_t>min(<size_t>min(piece, limit - taken), iov[i].len - at)
            memcpy(b.data + b.len, <char *>iov[i].base + at, n)
            b.len += n
            at += n
            taken += n
            c.tx.sndq_bytes += n
    return taken


cdef void sendq_link(Tcb *c, Buf *b) noexcept nogil:
    b.next = NULL
    if c.tx.sndq_tail == NULL:
        c.tx.sndq_head = b
        c.tx.sndq_off = 0
    else:
        c.tx.sndq_tail.next = b
    c.tx.sndq_tail = b
    c.tx.sndq_bytes += b.len
    c.tx.sndq_truesize += buf_truesize(b)
    if c.tx.nxt_block == NULL:
        c.tx.nxt_block = b
        c.tx.nxt_off = 0


cdef void sendq_drop(Tcp *t, Tcb *c, uint32_t n) noexcept nogil:
    cdef Buf *b
    cdef uint32_t here
    c.tx.sndq_bytes -= n
    while n > 0:
        b = c.tx.sndq_head
        here = min(n, b.len - c.tx.sndq_off)
        c.tx.sndq_off += here
        n -= here
        if c.tx.sndq_off < b.len:
            return
        c.tx.sndq_head = b.next
        c.tx.sndq_off = 0
        if b.next == NULL:
            c.tx.sndq_tail = NULL
        if c.tx.nxt_block == b:
            c.tx.nxt_block = b.next
            c.tx.nxt_off = 0
        c.tx.sndq_truesize -= buf_truesize(b)
        buf_unref(&t.core.pool, b)


cdef void sendq_clear(Tcp *t, Tcb *c) noexcept nogil:
    cdef Buf *b
    while c.tx.seg_head != NULL:
        seg_free_head(t, c)
    while c.tx.sndq_head != NULL:
        b = c.tx.sndq_head
        c.tx.sndq_head = b.next
        buf_give_up(b)
        buf_unref(&t.core.pool, b)
    tx_give(t, c)


cdef uint32_t sendq_gather_pieces(Buf *block, uint32_t off, uint32_t n, TxPkt *pkt) noexcept nogil:
    cdef uint32_t here, left = n
    while left > 0 and pkt.niov < TX_IOV_MAX:
        here = min(left, block.len - off)
        if here > 0:
            tx_payload(pkt, block.data + off, here)
        left -= here
        off = 0
        block = block.next
    return n - left


cdef void sendq_walk(Buf **block, uint32_t *off, uint32_t n) noexcept nogil:
    cdef uint32_t here
    while block[0] != NULL:
        here = block[0].len - off[0]
        if n < here or (n == here and block[0].next == NULL):
            off[0] += n
            return
        n -= here
        block[0] = block[0].next
        off[0] = 0


cdef inline bint indexed(const Tcb *c) noexcept nogil:
    """Whether one more record has to be in the index."""
    return c.tx.n_segs >= INDEX_FROM or c.tx.index != NULL


cdef Seg *seg_append(Tcp *t, Tcb *c, uint32_t seq, uint32_t end, int flags) noexcept nogil:
    cdef Seg *s = <Seg *>slab_alloc(&t.segs) if tx_take(t, c) else NULL
    if s == NULL:
        return NULL
    s.seq = seq
    s.end = end
    s.flags = <unsigned char>flags
    if indexed(c) and not index_add(t, c, s, True):
        slab_free(&t.segs, s)
        return NULL
    sendq_advance(&c.tx.nxt_block, &c.tx.nxt_off, 0)
    s.block = c.tx.nxt_block
    s.block_off = c.tx.nxt_off
    if c.tx.seg_tail == NULL:
        c.tx.seg_head = s
    else:
        c.tx.seg_tail.next = s
    c.tx.seg_tail = s
    c.tx.n_segs += 1
    return s


cdef Seg *seg_split(Tcp *t, Tcb *c, Seg *s, uint32_t at) noexcept nogil:
    cdef Seg *r = <Seg *>slab_alloc(&t.segs)
    if r == NULL:
        return NULL
    r[0] = s[0]
    r.seq = at
    if indexed(c) and not index_add(t, c, r, False):
        slab_free(&t.segs, r)
        return NULL
    sendq_advance(&r.block, &r.block_off, at - s.seq)
    s.end = at
    s.flags &= <unsigned char>~SEG_FIN
    if s.next == NULL:
        c.tx.seg_tail = r
    s.next = r
    c.tx.n_segs += 1
    if s.tprev != NULL or s.tnext != NULL or c.tx.time_head == s:      # in the time order: r right behind s
        time_link(c, r, s.tnext)
    return r


# ---- the order of transmission ----

cdef void time_link(Tcb *c, Seg *s, Seg *before) noexcept nogil:
    """Puts s in front of that one; NULL: at the end."""
    cdef Seg *after = before.tprev if before != NULL else c.tx.time_tail
    s.tnext = before
    s.tprev = after
    if after != NULL:
        after.tnext = s
    else:
        c.tx.time_head = s
    if before != NULL:
        before.tprev = s
    else:
        c.tx.time_tail = s


cdef void seg_untime(Tcb *c, Seg *s) noexcept nogil:
    if s.tprev == NULL and c.tx.time_head != s:
        return
    if s.tprev != NULL:
        s.tprev.tnext = s.tnext
    else:
        c.tx.time_head = s.tnext
    if s.tnext != NULL:
        s.tnext.tprev = s.tprev
    else:
        c.tx.time_tail = s.tprev
    s.tnext = NULL
    s.tprev = NULL


cdef void seg_sent_now(Tcp *t, Tcb *c, Seg *s) noexcept nogil:
    seg_untime(c, s)
    s.xmit_ns = t.core.now
    time_link(c, s, NULL)


cdef Seg *merged(Seg *a, Seg *b) noexcept nogil:
    """Two chains in order of time as one; of equals, those of a come first."""
    cdef Seg *first = NULL
    cdef Seg **end = &first
    while a != NULL and b != NULL:
        if b.xmit_ns < a.xmit_ns:
            end[0] = b
            b = b.tnext
        else:
            end[0] = a
            a = a.tnext
        end = &end[0].tnext
    end[0] = a if a != NULL else b
    return first


cdef Seg *by_time(Seg *chain) noexcept nogil:
    """A chain put into order of time: runs that are in order already, merged by twos."""
    cdef Seg *waiting[MERGES]                                   # [i]: NULL, or 2**i runs as one
    cdef Seg *run
    cdef Seg *last
    cdef int i
    for i in range(<int>MERGES):
        waiting[i] = NULL
    while chain != NULL:
        run = chain
        last = run
        while last.tnext != NULL and last.tnext.xmit_ns >= last.xmit_ns:
            last = last.tnext
        chain = last.tnext
        last.tnext = NULL
        i = 0
        while waiting[i] != NULL:
            run = merged(waiting[i], run)
            waiting[i] = NULL
            i += 1
        waiting[i] = run
    for i in range(<int>MERGES):
        chain = merged(waiting[i], chain)
    return chain


cdef void seg_timed_again(Tcb *c, Seg *chain) noexcept nogil:
    cdef Seg *before = c.tx.time_head
    cdef Seg *s
    chain = by_time(chain)
    if chain != NULL and c.tx.time_tail != NULL and c.tx.time_tail.xmit_ns <= chain.xmit_ns:
        before = NULL
    while chain != NULL:
        s = chain
        chain = s.tnext
        while before != NULL and before.xmit_ns < s.xmit_ns:    # what was lost had been among the oldest
            before = before.tnext
            c.tx.steps += 1
        time_link(c, s, before)


cdef void seg_free_head(Tcp *t, Tcb *c) noexcept nogil:
    cdef Seg *s = c.tx.seg_head
    if c.tx.index != NULL:
        index_drop_head(t, c)
    seg_untime(c, s)
    c.tx.seg_head = s.next
    if s.next == NULL:
        c.tx.seg_tail = NULL
    c.tx.n_segs -= 1
    slab_free(&t.segs, s)
