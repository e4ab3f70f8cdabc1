"""Puts fragments together again (IPv4: RFC 791 §3.2, RFC 815, RFC 1122 §3.3.2; IPv6: RFC 8200 §4.5, RFC 5722, RFC 6946;
RFC 8900's lessons).

Responsible for the queues and their limits; the reassembled datagram goes through input as if it had come whole.

- Fragments arrive in any order. An exact duplicate (same range, same bytes) is ignored, as networks make those
  (RFC 8200 §4.5 allows it). Any other overlap, or two claims about where the datagram ends, drops all of it and
  poisons its queue: whatever else comes for it until the timer ends is dropped too (RFC 5722's rule, used for IPv4).
- Never longer than 65,535 bytes with its header; only the last may have a length that is no multiple of 8; none is
  empty.
- A first fragment of TCP without a whole TCP header, or one at offset 8, hides the ports or flags: dropped (RFC 1858,
  RFC 3128).
- At most ipfrag_max_dist pieces a datagram and ipfrag_high_thresh bytes (true size) in all; the oldest datagrams make
  room.
- 30 s (IPv6: 60 s) after the first arrival the rest is given up, with ICMP time exceeded if the first fragment came
  (RFC 1122 §3.3.2, RFC 8200 §4.5).
- ECN: CE in any fragment marks the whole; CE together with Not-ECT drops it (RFC 3168 §5.3).
"""
from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from ustack_ext.wire.addr cimport Addr, addr_eq, addr_is_v4
from ustack_ext.wire.bytes cimport put_be16
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_store
from ustack_ext.wire.headers cimport ICMP_TIME_EXCEEDED, IPPROTO_TCP_, TCP_HLEN
from ustack_ext.wire.ip6 cimport ICMP6_TIME_EXCEEDED, IP6_HLEN
from ustack_ext.base.buf cimport BUF_SMALL, buf_alloc, buf_ref, buf_truesize, buf_unref, pool_above
from ustack_ext.base.core cimport count
from ustack_ext.base.entry cimport ENTRY_FRAG, Entry
from ustack_ext.base.slab cimport slab_alloc, slab_free
from ustack_ext.base.table cimport table_first, table_hash, table_insert, table_next, table_remove
from ustack_ext.base.wheel cimport wheel_arm, wheel_cancel
from ustack_ext.net.icmp cimport icmp_error_about
from ustack_ext.net.icmp6 cimport icmp6_error_about
from ustack_ext.net.mib cimport (DropFragMalformed, DropFragMemory, DropFragOverlap, DropFragTooBig, DropFragTooMany,
                                 Ip6ReasmTimeout, IpReasmFails, IpReasmOKs, IpReasmReqds, IpReasmTimeout, MIB_COUNT)

cdef enum:
    DATAGRAM_MAX = 65535
    EXCEEDED_REASSEMBLY = 1    # code of time exceeded
    ECN_MASK = 3
    ECN_CE = 3
    SECOND = 1000000000


cdef inline void tally(Net *n, const Addr *src, int which) noexcept nogil:
    """Counts an IpReasm* under its family's name."""
    count(n.core, which if addr_is_v4(src) else which + <int>Ip6ReasmTimeout - <int>IpReasmTimeout)


# --- queues ---

cdef inline uint32_t frag_hash(Net *n, const RxPkt *rx, const Fragment *f) noexcept nogil:
    return table_hash(&n.key, rx.src.lo, rx.dst.lo, f.id | <uint64_t>f.proto << 32, rx.src.hi, rx.dst.hi)


cdef FragQueue *find_queue(Net *n, const RxPkt *rx, const Fragment *f) noexcept nogil:
    cdef Entry *e = table_first(&n.frags, frag_hash(n, rx, f))
    cdef FragQueue *q
    while e != NULL:
        q = <FragQueue *>e
        if q.id == f.id and q.proto == f.proto and addr_eq(&q.src, &rx.src) and addr_eq(&q.dst, &rx.dst):
            return q
        e = table_next(e)
    return NULL


cdef void drop_pieces(Net *n, FragQueue *q) noexcept nogil:
    cdef Buf *b
    while q.pieces != NULL:
        b = q.pieces
        q.pieces = b.next
        n.frag_memory -= buf_truesize(b)
        q.truesize -= buf_truesize(b)
        buf_unref(&n.core.pool, b)
    q.first = NULL
    q.pieces_count = 0


cdef void free_queue(Net *n, FragQueue *q) noexcept nogil:
    drop_pieces(n, q)
    n.frag_memory -= sizeof(FragQueue)
    if q.older != NULL:
        q.older.newer = q.newer
    else:
        n.frag_oldest = q.newer
    if q.newer != NULL:
        q.newer.older = q.older
    else:
        n.frag_newest = q.older
    wheel_cancel(&n.core.wheel, &q.entry)
    table_remove(&n.frags, &q.entry)
    slab_free(&n.frag_slab, q)


cdef bint make_room(Net *n, uint32_t need, FragQueue *keep) noexcept nogil:
    """Evicts the oldest datagrams until `need` more bytes stay below the threshold, or a quarter of a small budget, and
    while memory is short."""
    cdef uint64_t most = min(<uint64_t>n.knobs.ipfrag_high_thresh, n.core.pool.budget // 4)
    cdef FragQueue *q = n.frag_oldest
    cdef FragQueue *newer
    while q != NULL and (n.frag_memory + need > most or pool_above(&n.core.pool, 12)):
        newer = q.newer
        if q != keep:
            tally(n, &q.src, IpReasmFails)
            count(n.core, DropFragMemory)
            free_queue(n, q)
        q = newer
    return n.frag_memory + need <= most and not pool_above(&n.core.pool, 12)


cdef FragQueue *new_queue(Net *n, const RxPkt *rx, const Fragment *f) noexcept nogil:
    cdef uint32_t seconds = n.knobs.ipfrag_time if addr_is_v4(&rx.src) else n.knobs.ip6frag_time
    cdef FragQueue *q
    if not make_room(n, sizeof(FragQueue), NULL):
        return NULL
    q = <FragQueue *>slab_alloc(&n.frag_slab)
    if q == NULL and n.frag_oldest != NULL:
        tally(n, &n.frag_oldest.src, IpReasmFails)
        free_queue(n, n.frag_oldest)
        count(n.core, DropFragMemory)
        q = <FragQueue *>slab_alloc(&n.frag_slab)
    if q == NULL:
        return NULL
    q.entry.kind = ENTRY_FRAG
    q.src = rx.src
    q.dst = rx.dst
    q.id = f.id
    q.proto = f.proto
    q.iface = rx.iface
    q.older = n.frag_newest
    if q.older != NULL:
        q.older.newer = q
    else:
        n.frag_oldest = q
    n.frag_newest = q
    n.frag_memory += sizeof(FragQueue)
    table_insert(&n.frags, &q.entry, frag_hash(n, rx, f))
    wheel_arm(&n.core.wheel, &q.entry, n.core.now + <uint64_t>seconds * SECOND)
    return q


cdef int poison(Net *n, FragQueue *q, int reason) noexcept nogil:
    drop_pieces(n, q)
    q.poisoned = 1
    tally(n, &q.src, IpReasmFails)
    return reason


# --- pieces ---

cdef int check(const RxPkt *rx, const Fragment *f) noexcept nogil:
    """What can be said of a fragment by itself: a Drop counter, or MIB_COUNT."""
    cdef uint32_t length = rx.l4_len
    if length == 0 or (f.more and length % 8 != 0):
        return DropFragMalformed
    if whole_length(rx, f.hlen, f.frag_off + length) > DATAGRAM_MAX:
        return DropFragTooBig
    if f.next == IPPROTO_TCP_ and ((f.frag_off == 0 and length < TCP_HLEN) or f.frag_off == 8):
        return DropFragMalformed
    return MIB_COUNT


cdef inline uint32_t whole_length(const RxPkt *rx, uint32_t hlen, uint32_t payload) noexcept nogil:
    """What the length field of the whole would say."""
    return hlen + payload if addr_is_v4(&rx.src) else hlen + payload - IP6_HLEN


cdef Buf *keep(Net *n, const RxPkt *rx, const Fragment *f) noexcept nogil:
    """The fragment as a piece: the frame's own buffer if it is a small one nobody else holds, else a copy of header and
    payload.
    NULL without memory."""
    cdef Buf *b = rx.buf
    if b.cls == BUF_SMALL and b.refs == 1:
        buf_ref(b)
        b.off = <uint32_t>(rx.l4 - b.data)
    else:
        b = buf_alloc(&n.core.pool, rx.l3_len)
        if b == NULL:
            return NULL
        memcpy(b.data, rx.l3, rx.l3_len)
        b.off = f.hlen + f.skip
    b.len = rx.l4_len
    b.seq = f.frag_off
    b.next = NULL
    return b


cdef int find_place(Net *n, FragQueue *q, const RxPkt *rx, const Fragment *f, Buf ***place) noexcept nogil:
    """Where the fragment belongs in the sorted list: MIB_COUNT and *place; or *place NULL for an exact duplicate; or
    the reason to poison the queue."""
    cdef uint32_t start = f.frag_off
    cdef uint32_t end = start + rx.l4_len
    cdef Buf **at = &q.pieces
    cdef Buf *b
    place[0] = NULL
    while at[0] != NULL and at[0].seq + at[0].len <= start:
        at = &at[0].next
    b = at[0]
    if b != NULL and b.seq < end:
        if b.seq == start and b.len == rx.l4_len and memcmp(b.data + b.off, rx.l4, b.len) == 0:
            return MIB_COUNT
        return DropFragOverlap
    if f.more:
        if q.last_seen and end > q.total:
            return DropFragOverlap
    elif (q.last_seen and end != q.total) or b != NULL:
        return DropFragOverlap         # two ends, or data behind the end
    place[0] = at
    return MIB_COUNT


cdef Buf *assemble(Net *n, FragQueue *q) noexcept nogil:
    """All is there: one buffer with the first fragment's header, corrected, and the payload. NULL without memory."""
    cdef uint32_t hlen = q.first_hlen
    cdef Buf *whole = buf_alloc(&n.core.pool, hlen + q.total)
    cdef Buf *b = q.pieces
    cdef uint8_t *p
    if whole == NULL:
        return NULL
    p = whole.data
    memcpy(p, q.first.data + q.first.off - q.first_skip - hlen, hlen)
    while b != NULL:
        memcpy(p + hlen + b.seq, b.data + b.off, b.len)
        b = b.next
    whole.off = 0
    whole.len = hlen + q.total
    if not addr_is_v4(&q.src):
        if q.ecn & (1 << ECN_CE):
            p[1] |= ECN_CE << 4
        p[q.first_next_at] = q.first_next
        put_be16(p + 4, <uint16_t>(whole.len - IP6_HLEN))
        return whole
    if q.ecn & (1 << ECN_CE):
        p[1] |= ECN_CE
    put_be16(p + 2, <uint16_t>whole.len)
    put_be16(p + 6, 0)
    put_be16(p + 10, 0)
    csum_store(p + 10, csum_fold(csum_partial(p, hlen, 0)))
    return whole


cdef Buf *complete(Net *n, const RxPkt *rx, FragQueue *q, int *reason) noexcept nogil:
    cdef Buf *whole = NULL
    if whole_length(rx, q.first_hlen, q.total) > DATAGRAM_MAX:
        reason[0] = DropFragTooBig
    elif q.ecn & (1 << ECN_CE) and q.ecn & 1:
        reason[0] = DropFragMalformed
    else:
        whole = assemble(n, q)
        if whole == NULL:
            reason[0] = DropFragMemory
    tally(n, &q.src, IpReasmOKs if whole != NULL else IpReasmFails)
    free_queue(n, q)
    return whole


cdef Buf *frag_input(Net *n, const RxPkt *rx, Fragment *f, int *reason) noexcept nogil:
    cdef FragQueue *q
    cdef Buf *b
    cdef Buf **place = NULL
    tally(n, &rx.src, IpReasmReqds)
    reason[0] = check(rx, f)
    if reason[0] != MIB_COUNT:
        tally(n, &rx.src, IpReasmFails)
        return NULL
    q = find_queue(n, rx, f)
    if q == NULL:
        q = new_queue(n, rx, f)
    if q == NULL:
        reason[0] = DropFragMemory
        return NULL
    if q.poisoned:
        reason[0] = DropFragOverlap
        return NULL
    reason[0] = find_place(n, q, rx, f, &place)
    if reason[0] != MIB_COUNT:
        reason[0] = poison(n, q, reason[0])
        return NULL
    if place == NULL:
        return NULL
    if q.pieces_count >= n.knobs.ipfrag_max_dist:
        reason[0] = poison(n, q, DropFragTooMany)
        return NULL
    b = keep(n, rx, f)
    if b == NULL or not make_room(n, buf_truesize(b), q):
        if b != NULL:
            buf_unref(&n.core.pool, b)
        reason[0] = DropFragMemory
        return NULL
    b.next = place[0]
    place[0] = b
    n.frag_memory += buf_truesize(b)
    q.truesize += buf_truesize(b)
    q.pieces_count += 1
    q.have += b.len
    q.ecn |= 1 << (f.tos & ECN_MASK)
    if f.frag_off == 0:
        q.first = b
        q.first_hlen = <uint16_t>f.hlen
        q.first_skip = <uint16_t>f.skip
        q.first_next = f.next
        q.first_next_at = f.next_at
        q.rx_flags = rx.flags
        q.tos = f.tos
    if not f.more:
        q.last_seen = 1
        q.total = b.seq + b.len
    if q.last_seen and q.have == q.total:
        f.hlen = q.first_hlen
        f.next = q.first_next
        f.next_at = q.first_next_at
        return complete(n, rx, q, reason)
    return NULL


# --- time ---

cdef void frag_timer(Net *n, FragQueue *q) noexcept nogil:
    cdef RxPkt rx
    if not q.poisoned:
        tally(n, &q.src, IpReasmTimeout)
        tally(n, &q.src, IpReasmFails)
        if q.first != NULL:
            memset(&rx, 0, sizeof(rx))
            rx.buf = q.first
            rx.iface = q.iface
            rx.l4 = q.first.data + q.first.off
            rx.l4_len = q.first.len
            rx.l3 = rx.l4 - q.first_hlen - q.first_skip
            rx.l3_len = <uint32_t>q.first_hlen + q.first_skip + rx.l4_len
            rx.src = q.src
            rx.dst = q.dst
            rx.proto = q.first_next
            rx.flags = q.rx_flags
            if addr_is_v4(&q.src):
                icmp_error_about(n, &rx, ICMP_TIME_EXCEEDED, EXCEEDED_REASSEMBLY, 0)
            else:
                icmp6_error_about(n, &rx, ICMP6_TIME_EXCEEDED, EXCEEDED_REASSEMBLY, 0)
    free_queue(n, q)


cdef void frag_forget_iface(Net *n, Iface *i) noexcept nogil:
    cdef FragQueue *q = n.frag_oldest
    cdef FragQueue *newer
    while q != NULL:
        newer = q.newer
        if i == NULL or q.iface == i:
            free_queue(n, q)
        q = newer
