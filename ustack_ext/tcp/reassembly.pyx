"""The receive queue (in order) and the out-of-order ranges; what SACK blocks say of them (RFC 2018, 2883).

Payload is kept by reference to the received buffer; small pieces are copied together, so that tiny segments can't pin
a buffer each. Ranges are a sorted array, found by bisection: what a hostile peer makes of it costs O(log n) and a
bounded memmove, and a segment that covers many of them one memmove, too.
"""
from libc.stdint cimport uint32_t, uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

from ustack_ext.base.buf cimport Buf, buf_alloc, buf_ref, buf_truesize, buf_unref, pool_above
from ustack_ext.base.core cimport count
from ustack_ext.base.iov cimport IoVec
from ustack_ext.base.slab cimport slab_alloc, slab_free
from ustack_ext.net.mib cimport TCPDSACKOfoSent, TCPOFODrop, TCPOFOMerge, TCPRcvCollapsed
from ustack_ext.tcp.options cimport OPT_SACK, Options
from ustack_ext.tcp.seq cimport seq_geq, seq_gt, seq_leq, seq_lt
from ustack_ext.tcp.tcb cimport TCP_OFO_RANGES_MAX, TF_DSACK_PENDING, TF_SACK_OK, Range, Reasm, Tcb, Tcp

cdef enum:
    COALESCE = 512             # payloads up to this are copied into the buffer before them, if it has room
    LONG_QUEUE = 32768         # bytes held that are too many when memory is short


cdef inline bint has_room(const Buf *b, uint32_t n) noexcept nogil:
    return b != NULL and b.refs == 1 and n <= COALESCE and b.cap - b.off - b.len >= n


cdef inline bint keepable(const Buf *b, uint32_t n) noexcept nogil:
    """Whether a received buffer may stay as it is: it is nobody else's, and not far too large."""
    return b.refs == 1 and (b.cap <= 2048 or n * 4 >= b.cap)


cdef Buf *keep(Tcp *t, Buf *buf, uint8_t *data, uint32_t n) noexcept nogil:
    """A queue node for n bytes at data: the received buffer itself, or a copy where that is kept by somebody else or
    far too large.
    """
    cdef Buf *b
    if keepable(buf, n):
        buf_ref(buf)
        b = buf
        b.off = <uint32_t>(data - b.data)
    else:
        b = buf_alloc(&t.core.pool, n)
        if b == NULL:
            return NULL
        memcpy(b.data, data, n)
        b.off = 0
    b.len = n
    b.next = NULL
    return b


cdef inline bint no_memory_for(Tcp *t, const Tcb *c) noexcept nogil:
    """The last of the memory is for connections whose application keeps up; what lies beyond the budget, for receiving
    ACKs.
    """
    if not pool_above(&t.core.pool, 12):
        return False
    return (c.rcvq_truesize > LONG_QUEUE or (c.rcvq_bytes > 0 and pool_above(&t.core.pool, 14))
            or pool_above(&t.core.pool, 16))


cdef bint rcvq_append(Tcp *t, Tcb *c, Buf *buf, uint8_t *data, uint32_t n) noexcept nogil:
    cdef Buf *b = c.rcvq_tail
    if has_room(b, n):
        memcpy(b.data + b.off + b.len, data, n)
        b.len += n
        c.rcvq_bytes += n
        count(t.core, TCPRcvCollapsed)
        return True
    if no_memory_for(t, c):
        return False
    b = keep(t, buf, data, n)
    if b == NULL:
        return False
    link_in_order(c, b)
    return True


cdef uint32_t rcvq_append_run(Tcp *t, Tcb *c, Buf **run) noexcept nogil:
    cdef Buf *b = run[0]
    cdef uint32_t taken = 0
    while b != NULL and b.len > COALESCE and keepable(b, b.len) and not no_memory_for(t, c):
        run[0] = b.next
        taken += b.len
        link_in_order(c, b)
        b = run[0]
    return taken


cdef inline void link_in_order(Tcb *c, Buf *b) noexcept nogil:
    b.next = NULL
    if c.rcvq_tail == NULL:
        c.rcvq_head = b
    else:
        c.rcvq_tail.next = b
    c.rcvq_tail = b
    c.rcvq_bytes += b.len
    c.rcvq_truesize += buf_truesize(b)


cdef uint32_t rcvq_read(Tcp *t, Tcb *c, const IoVec *iov, int niov, bint peek, uint32_t skip,
                        uint32_t most) noexcept nogil:
    cdef Buf *b = c.rcvq_head
    cdef uint32_t copied = 0, n
    cdef size_t at
    cdef int i
    while b != NULL and skip >= b.len:
        skip -= b.len
        b = b.next
    for i in range(niov):
        at = 0
        while b != NULL and at < iov[i].len and copied < most:
            n = <uint32_t>min(<size_t>min(b.len - skip, most - copied), iov[i].len - at)
            memcpy(<char *>iov[i].base + at, b.data + b.off + skip, n)
            at += n
            copied += n
            skip += n
            if skip < b.len:
                continue
            skip = 0
            b = b.next if peek else drop_head(t, c)
    if not peek:
        if skip > 0:
            b.off += skip
            b.len -= skip
        c.rcvq_bytes -= copied
    return copied


cdef void rcvq_drop(Tcp *t, Tcb *c, uint32_t n) noexcept nogil:
    cdef Buf *b = c.rcvq_head
    n = min(n, c.rcvq_bytes)
    c.rcvq_bytes -= n
    while b != NULL and n >= b.len:
        n -= b.len
        b = drop_head(t, c)
    if n > 0:
        b.off += n
        b.len -= n


cdef uint32_t rcvq_lend(Tcp *t, Tcb *c, uint32_t most, Lent *out, int room, int *taken) noexcept nogil:
    cdef uint32_t lent = 0, n
    cdef Buf *b
    if reasm_of(t, c) == NULL:
        return 0
    while c.rcvq_head != NULL and lent < most and taken[0] < room:
        b = c.rcvq_head
        n = min(b.len, most - lent)
        out[taken[0]].buf = b
        out[taken[0]].data = b.data + b.off
        out[taken[0]].len = n
        taken[0] += 1
        lent += n
        buf_ref(b)
        if n == b.len:
            drop_head(t, c)
        else:
            b.off += n
            b.len -= n
    c.rcvq_bytes -= lent
    c.reasm.lent += lent
    forget_if_empty(t, c)
    return lent


cdef void rcvq_unlend(Tcp *t, Tcb *c, uint32_t n) noexcept nogil:
    if c.reasm == NULL:                                                 # the connection is over
        return
    c.reasm.lent -= min(n, c.reasm.lent)
    forget_if_empty(t, c)


cdef Buf *drop_head(Tcp *t, Tcb *c) noexcept nogil:
    cdef Buf *b = c.rcvq_head
    c.rcvq_head = b.next
    if b.next == NULL:
        c.rcvq_tail = NULL
    c.rcvq_truesize -= buf_truesize(b)
    buf_unref(&t.core.pool, b)
    return c.rcvq_head


cdef void rcvq_clear(Tcp *t, Tcb *c) noexcept nogil:
    while c.rcvq_head != NULL:
        drop_head(t, c)
    c.rcvq_bytes = 0


# ---- out of order ----

cdef void forget_chain(Tcp *t, Tcb *c, Buf *b) noexcept nogil:
    cdef Buf *nxt
    while b != NULL:
        nxt = b.next
        c.reasm.truesize -= buf_truesize(b)
        t.ofo_memory -= buf_truesize(b)
        buf_unref(&t.core.pool, b)
        b = nxt


cdef uint32_t find(const Reasm *r, uint32_t seq) noexcept nogil:
    """Index of the first range that ends at or after seq; count if there is none."""
    cdef uint32_t lo = 0, hi = r.count, mid
    while lo < hi:
        mid = (lo + hi) // 2
        if seq_lt(r.ranges[mid].end, seq):
            lo = mid + 1
        else:
            hi = mid
    return lo


cdef bint add_range(Reasm *r, uint32_t at, uint32_t seq, Buf *b, uint32_t n) noexcept nogil:
    cdef Range *grown
    if r.count == r.cap:
        if r.cap >= TCP_OFO_RANGES_MAX:
            return False
        grown = <Range *>realloc(r.ranges, (r.cap * 2 + 4) * sizeof(Range))
        if grown == NULL:
            return False
        r.ranges = grown
        r.cap = r.cap * 2 + 4
    memmove(&r.ranges[at + 1], &r.ranges[at], (r.count - at) * sizeof(Range))
    r.ranges[at].seq = seq
    r.ranges[at].end = seq + n
    r.ranges[at].head = b
    r.ranges[at].tail = b
    r.count += 1
    return True


cdef void remove_ranges(Reasm *r, uint32_t at, uint32_t n) noexcept nogil:
    """One move, however many a single segment covered."""
    if n == 0:
        return
    r.count -= n
    memmove(&r.ranges[at], &r.ranges[at + n], (r.count - at) * sizeof(Range))


cdef void touch(Reasm *r, uint32_t seq) noexcept nogil:
    """Notes that the range holding seq is the latest; older notes of the same range are weeded out when reported."""
    cdef int i
    if r.nrecent > 0 and r.recent[0] == seq:
        return
    for i in range(3, 0, -1):
        r.recent[i] = r.recent[i - 1]
    r.recent[0] = seq
    if r.nrecent < 4:
        r.nrecent += 1


cdef Reasm *reasm_of(Tcp *t, Tcb *c) noexcept nogil:
    if c.reasm == NULL:
        c.reasm = <Reasm *>slab_alloc(&t.reasms)
    return c.reasm


cdef bint dsack_note(Tcp *t, Tcb *c, uint32_t seq, uint32_t end) noexcept nogil:
    cdef Reasm *r
    if not c.flags & TF_SACK_OK or not t.knobs.dsack:
        return False
    r = reasm_of(t, c)
    if r == NULL:
        return False
    r.dup_seq = seq
    r.dup_end = end
    c.flags |= TF_DSACK_PENDING
    return True


cdef void note_duplicate(Tcp *t, Tcb *c, uint32_t seq, uint32_t end) noexcept nogil:
    if dsack_note(t, c, seq, end):
        count(t.core, TCPDSACKOfoSent)


cdef bint ofo_insert(Tcp *t, Tcb *c, Buf *buf, uint8_t *data, uint32_t seq, uint32_t n, uint32_t limit) noexcept nogil:
    cdef Reasm *r = reasm_of(t, c)
    cdef uint32_t at, end = seq + n
    cdef bint kept
    if r == NULL:
        return False
    at = find(r, seq)
    # Trim against the ranges on both sides: bytes we already have win.
    if at < r.count and seq_leq(r.ranges[at].seq, seq) and seq_gt(r.ranges[at].end, seq):
        if seq_geq(r.ranges[at].end, end):
            note_duplicate(t, c, seq, end)
            touch(r, r.ranges[at].seq)
            return True
        note_duplicate(t, c, seq, r.ranges[at].end)
        data += r.ranges[at].end - seq
        seq = r.ranges[at].end
    kept = place(t, c, r, buf, data, seq, end, limit)
    forget_if_empty(t, c)
    return kept


cdef bint place(Tcp *t, Tcb *c, Reasm *r, Buf *buf, uint8_t *data, uint32_t seq, uint32_t end,
                uint32_t limit) noexcept nogil:
    """Puts [seq, end) in: seq lies in no range; later ranges it covers or overlaps are cut or swallowed."""
    cdef uint32_t at = find(r, seq), nxt, covered
    cdef bint joins = at < r.count and r.ranges[at].end == seq
    cdef Buf *b
    nxt = at + 1 if joins else at
    # whole ranges under the new data: they are superseded
    covered = nxt
    while covered < r.count and seq_leq(r.ranges[covered].end, end):
        note_duplicate(t, c, r.ranges[covered].seq, r.ranges[covered].end)
        forget_chain(t, c, r.ranges[covered].head)
        covered += 1
    remove_ranges(r, nxt, covered - nxt)
    if nxt < r.count and seq_lt(r.ranges[nxt].seq, end):
        note_duplicate(t, c, r.ranges[nxt].seq, end)
        end = r.ranges[nxt].seq
    if r.truesize >= limit or pool_above(&t.core.pool, 10):            # the first to go when memory is short
        count(t.core, TCPOFODrop)
        return False
    if joins and has_room(r.ranges[at].tail, end - seq):
        b = r.ranges[at].tail
        memcpy(b.data + b.off + b.len, data, end - seq)
        b.len += end - seq
        count(t.core, TCPRcvCollapsed)
    else:
        b = keep(t, buf, data, end - seq)
        if b == NULL:
            return False
        if joins:
            r.ranges[at].tail.next = b
            r.ranges[at].tail = b
        elif not add_range(r, at, seq, b, end - seq):
            buf_unref(&t.core.pool, b)
            count(t.core, TCPOFODrop)
            return False
        r.truesize += buf_truesize(b)
        t.ofo_memory += buf_truesize(b)
    r.ranges[at].end = end
    if at + 1 < r.count and r.ranges[at + 1].seq == end:                # the hole before the next range is filled
        r.ranges[at].tail.next = r.ranges[at + 1].head
        r.ranges[at].tail = r.ranges[at + 1].tail
        r.ranges[at].end = r.ranges[at + 1].end
        remove_ranges(r, at + 1, 1)
        count(t.core, TCPOFOMerge)
    touch(r, r.ranges[at].seq)
    return True


cdef void ofo_collect(Tcp *t, Tcb *c) noexcept nogil:
    cdef Reasm *r = c.reasm
    cdef Range *first
    cdef uint32_t skip, gone = 0
    cdef Buf *b
    cdef Buf *nxt
    while gone < r.count and seq_leq(r.ranges[gone].seq, c.rcv_nxt):
        first = &r.ranges[gone]
        gone += 1
        if seq_leq(first.end, c.rcv_nxt):                               # wholly delivered by a segment that covered it
            note_duplicate(t, c, first.seq, first.end)
            forget_chain(t, c, first.head)
            continue
        skip = c.rcv_nxt - first.seq
        b = first.head
        c.rcv_nxt = first.end
        while b != NULL:
            nxt = b.next
            r.truesize -= buf_truesize(b)
            t.ofo_memory -= buf_truesize(b)
            if skip >= b.len:
                skip -= b.len
                buf_unref(&t.core.pool, b)
            else:
                b.off += skip
                b.len -= skip
                skip = 0
                link_in_order(c, b)
            b = nxt
    remove_ranges(r, 0, gone)
    forget_if_empty(t, c)


cdef void forget_if_empty(Tcp *t, Tcb *c) noexcept nogil:
    if c.reasm.count == 0 and c.reasm.lent == 0 and c.reasm.urgent == 0 and not c.flags & TF_DSACK_PENDING:
        ofo_clear(t, c)


cdef void ofo_clear(Tcp *t, Tcb *c) noexcept nogil:
    cdef uint32_t i
    if c.reasm == NULL:
        return
    for i in range(c.reasm.count):
        forget_chain(t, c, c.reasm.ranges[i].head)
    free(c.reasm.ranges)
    slab_free(&t.reasms, c.reasm)
    c.reasm = NULL
    c.flags &= ~<uint32_t>TF_DSACK_PENDING


cdef void ofo_report(Tcp *t, Tcb *c, Options *o, uint32_t room) noexcept nogil:
    cdef Reasm *r = c.reasm
    cdef uint32_t i, j, k, at
    cdef bint seen
    o.nsack = 0
    if c.flags & TF_DSACK_PENDING and room > 0:
        o.sack[0] = r.dup_seq
        o.sack[1] = r.dup_end
        o.nsack = 1
        c.flags &= ~<uint32_t>TF_DSACK_PENDING
    k = o.nsack
    for i in range(r.nrecent):
        if o.nsack == room:
            break
        at = find(r, r.recent[i] + 1)
        if at == r.count or seq_gt(r.ranges[at].seq, r.recent[i]):
            continue                                                    # delivered since
        seen = False
        for j in range(k, o.nsack):
            seen = seen or o.sack[2 * j] == r.ranges[at].seq
        if seen:
            continue
        o.sack[2 * o.nsack] = r.ranges[at].seq
        o.sack[2 * o.nsack + 1] = r.ranges[at].end
        o.nsack += 1
    if o.nsack > 0:
        o.have |= OPT_SACK
    forget_if_empty(t, c)
