"""The invariants of an engine: every sum equals what it sums, every list its neighbours' opinion of it, every timer is
armed where something waits for it, and no limit is passed."""
from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from ustack_ext.base.buf cimport Buf, BufQueue, buf_truesize
from ustack_ext.base.entry cimport ENTRY_SYNREQ, ENTRY_TCB, ENTRY_TIMEWAIT, Entry
from ustack_ext.base.table cimport table_bucket, table_buckets
from ustack_ext.engine.engine cimport Engine, engine_next
from ustack_ext.net.state cimport FragQueue, Neigh, Net, NUD_PERMANENT, PMTUS_MAX, Pmtu
from ustack_ext.tcp.conn cimport aq_next
from ustack_ext.tcp.output cimport window_limit
from ustack_ext.tcp.scoreboard cimport board_next_lost
from ustack_ext.tcp.sendindex cimport INDEX_OPEN, index_find, index_next
from ustack_ext.tcp.tcb cimport (SEG_FIN, SEG_LOST, SEG_RETRANS, SEG_SACKED, SEG_SYN, TCP_CLOSED, TCP_OFO_RANGES_MAX,
                                 TCP_SYN_RECV, TCP_SYN_SENT, TF_ACCEPTQ, TF_CONNECTED, TF_DEAD, TF_DIRTY, TF_FIN_SENT,
                                 TF_DSACK_PENDING, TF_ORPHAN, TF_SACK_OK, TIMER_NONE, ConfCell, Listener, Range, Seg, SynReq,
                                 Tcb, Tcp, TimeWait, Tx, tcb_deadline)
from ustack_ext.udp.state cimport UdpSock
from fz_world cimport LISTENERS, TCBS, UDPS, World, world_fail

cdef struct Sums:                  # over everything alive in one engine
    uint64_t bufs
    uint64_t segs
    uint64_t txs
    uint64_t confs                 # references to them
    uint64_t reasms
    uint64_t tcbs
    uint64_t synreqs
    uint64_t timewaits
    uint64_t binds
    uint64_t orphans
    uint64_t connected
    uint64_t ofo
    uint64_t armed
    uint64_t earliest


cdef inline bint before(uint32_t a, uint32_t b) noexcept nogil:
    return <int>(a - b) < 0


cdef void note_timer(World *w, Sums *z, const Entry *e) noexcept nogil:
    if e.armed:
        z.armed += 1
        if e.deadline < z.earliest:
            z.earliest = e.deadline


# ---- the send side ----

cdef bint in_sendq(const Tcb *c, const Seg *s) noexcept nogil:
    """The record's bytes are where it says, and nowhere before what is acknowledged."""
    cdef Buf *b = c.tx.sndq_head
    cdef uint32_t at = c.snd_una - c.tx.sndq_off
    if c.tx.seg_head.flags & SEG_SYN:
        return True
    while b != NULL and b != s.block:
        at += b.len
        b = b.next
    if b == s.block and s.block != NULL and s.block_off == b.len:
        return at + s.block_off == s.seq
    return b != NULL and s.block_off < b.len and at + s.block_off == s.seq


cdef void check_records(World *w, Tcb *c, Sums *z) noexcept nogil:
    cdef Seg *s = c.tx.seg_head
    cdef Seg *before_it = NULL
    cdef Seg *first_lost = NULL
    cdef Seg *first_open = NULL
    cdef uint32_t flight = 0, lost = 0, sacked = 0, timed = 0, records = 0, at = c.snd_una, n
    while s != NULL:
        z.segs += 1
        n = s.end - s.seq
        records += 1
        if s.seq != at or n == 0:
            world_fail(w, b"records: gap, overlap or broken list")
            return
        if c.tx.index != NULL and index_find(c, s.seq) != s:
            world_fail(w, b"records: one is not in the index")
        if first_open == NULL and not s.flags & SEG_SACKED:
            first_open = s
        if s.flags & SEG_SACKED:
            sacked += n
        elif s.flags & SEG_LOST and not s.flags & SEG_RETRANS:
            lost += n
            if first_lost == NULL:
                first_lost = s
        else:
            flight += n
            timed += 1
        if n > (1 if s.flags & (SEG_FIN | SEG_SYN) else 0) and not in_sendq(c, s):
            world_fail(w, b"records: bytes not in the send queue")
        at = s.end
        before_it = s
        s = s.next
    if before_it != c.tx.seg_tail or at != c.snd_nxt or records != c.tx.n_segs:
        world_fail(w, b"records: do not end at SND.NXT, or are not counted")
    if board_next_lost(c, c.tx.seg_head) != first_lost:
        world_fail(w, b"records: another one is the first that is lost")
    if c.tx.index != NULL and index_next(c, c.tx.seg_head, INDEX_OPEN) != first_open:
        world_fail(w, b"records: another one is the first that is not SACKed")
    if flight != c.tx.flight or lost != c.tx.lost:
        world_fail(w, b"records: flight or lost is not their sum")
    if c.flags & TF_SACK_OK and sacked != c.tx.sacked:
        world_fail(w, b"records: sacked is not their sum")
    check_time_order(w, c, timed)


cdef void check_time_order(World *w, const Tcb *c, uint32_t timed) noexcept nogil:
    cdef Seg *s = c.tx.time_head
    cdef Seg *before_it = NULL
    cdef uint32_t n = 0
    while s != NULL:
        if s.tprev != before_it or (before_it != NULL and before_it.xmit_ns > s.xmit_ns):
            world_fail(w, b"time order: broken")
            return
        n += 1
        before_it = s
        s = s.tnext
    if before_it != c.tx.time_tail or n != timed:
        world_fail(w, b"time order: not what is in flight")


cdef void check_send_queue(World *w, Tcp *t, Tcb *c, Sums *z) noexcept nogil:
    cdef Buf *b = c.tx.sndq_head
    cdef Buf *last = NULL
    cdef uint64_t bytes = 0, truesize = 0
    cdef bint next_seen = c.tx.nxt_block == NULL
    cdef uint32_t sent = c.snd_nxt - c.snd_una
    while b != NULL:
        z.bufs += 1
        bytes += b.len
        truesize += buf_truesize(b)
        next_seen = next_seen or (b == c.tx.nxt_block and c.tx.nxt_off <= b.len)
        last = b
        b = b.next
    if last != c.tx.sndq_tail or bytes - (c.tx.sndq_off if last != NULL else 0) != c.tx.sndq_bytes or truesize != c.tx.sndq_truesize:
        world_fail(w, b"send queue: not its sum")
    if not next_seen:
        world_fail(w, b"send queue: SND.NXT is not in it")
    if c.tx.seg_head != NULL and c.tx.seg_head.flags & SEG_SYN:
        sent -= 1
    if c.flags & TF_FIN_SENT:
        sent -= 1 if c.tx.seg_tail != NULL and c.tx.seg_tail.flags & SEG_FIN else 0
    if sent > c.tx.sndq_bytes:
        world_fail(w, b"send queue: more in flight than there is")
    if c.tx.sndq_bytes > max(t.knobs.wmem_max, c.conf.sndbuf):
        world_fail(w, b"send queue: over its limit")


# ---- the receive side ----

cdef uint32_t chain(const Buf *b, const Buf *tail, Sums *z, uint64_t *truesize) noexcept nogil:
    """Bytes of a chain; UINT32_MAX if it does not end at `tail`."""
    cdef uint32_t n = 0
    cdef const Buf *last = NULL
    while b != NULL:
        z.bufs += 1
        n += b.len
        truesize[0] += buf_truesize(b)
        last = b
        b = b.next
    return n if last == tail else <uint32_t>0xFFFFFFFF


cdef void check_receive_side(World *w, Tcp *t, Tcb *c, Sums *z) noexcept nogil:
    cdef uint64_t truesize = 0, ofo = 0
    cdef uint32_t i
    cdef Range *r
    if chain(c.rcvq_head, c.rcvq_tail, z, &truesize) != c.rcvq_bytes or truesize != c.rcvq_truesize:
        world_fail(w, b"receive queue: not its sum")
    if c.rcvq_bytes > 2 * max(window_limit(t, c), t.knobs.rmem_max) + 131072:
        world_fail(w, b"receive queue: over its limit")
    if c.reasm == NULL:
        return
    z.reasms += 1
    if c.reasm.count == 0 and c.reasm.lent == 0 and c.reasm.urgent == 0 and not c.flags & TF_DSACK_PENDING:
        world_fail(w, b"out of order: kept, and nothing in it")
    if c.reasm.count > c.reasm.cap or c.reasm.count > 2 * TCP_OFO_RANGES_MAX:
        world_fail(w, b"out of order: count")
    for i in range(c.reasm.count):
        r = &c.reasm.ranges[i]
        if chain(r.head, r.tail, z, &ofo) != r.end - r.seq or r.end == r.seq:
            world_fail(w, b"out of order: a range is not its buffers")
        if not before(c.rcv_nxt, r.seq) or (i > 0 and not before(c.reasm.ranges[i - 1].end, r.seq)):
            world_fail(w, b"out of order: ranges not in order")
    if ofo != c.reasm.truesize:
        world_fail(w, b"out of order: true size is not the sum")
    z.ofo += ofo


# ---- one connection ----

cdef void check_timers(World *w, const Tcb *c) noexcept nogil:
    cdef uint64_t at = tcb_deadline(c, w.e.core.now)
    cdef bint waits = c.tx.sndq_bytes > 0 and c.state != TCP_SYN_SENT
    if at != UINT64_MAX and (not c.entry.armed or c.entry.deadline > at):
        world_fail(w, b"timer: not armed for the earliest")
    if (c.tx.seg_head != NULL or waits or c.state == TCP_SYN_SENT or c.state == TCP_SYN_RECV) and c.tx.rto_at == UINT64_MAX:
        world_fail(w, b"timer: nothing will ever move this connection")
    if at <= w.e.core.now and w.e.loopback.count == 0:
        world_fail(w, b"timer: due and not done")


cdef void check_sending_side(World *w, Tcp *t, const Tcb *c, Sums *z) noexcept nogil:
    if c.tx == &t.no_tx:
        return
    z.txs += 1
    if (not c.flags & TF_DIRTY and c.tx.seg_head == NULL and c.tx.sndq_bytes == 0 and c.tx.backoff == 0
            and c.tx.timer_what == TIMER_NONE):
        world_fail(w, b"sending side: kept, and nothing in it")


cdef void check_tcb(World *w, Tcb *c, Sums *z) noexcept nogil:
    cdef Tcp *t = &w.e.tcp
    w.looked_at = c
    z.tcbs += 1
    z.orphans += (c.flags & TF_ORPHAN) != 0
    z.connected += (c.flags & TF_CONNECTED) != 0
    z.confs += 1
    if c.owner.bind != NULL and not c.flags & TF_ACCEPTQ:
        z.binds += 1
    check_sending_side(w, t, c, z)
    if not c.entry.hashed or c.state == TCP_CLOSED or c.flags & TF_DEAD or c.entry.kind != ENTRY_TCB:
        world_fail(w, b"connection: closed, in the table")
    if before(c.snd_nxt, c.snd_una):
        world_fail(w, b"connection: SND.NXT before SND.UNA")
    if c.mss == 0 or (c.flags & TF_CONNECTED and c.mss < t.knobs.min_snd_mss - 12):
        world_fail(w, b"connection: tiny MSS")
    check_records(w, c, z)
    check_send_queue(w, t, c, z)
    check_receive_side(w, t, c, z)
    if c.entry.armed:
        z.armed += 1
    z.earliest = min(z.earliest, tcb_deadline(c, w.e.core.now))
    if not c.flags & TF_DIRTY:
        check_timers(w, c)
    w.looked_at = NULL


cdef void check_dead(World *w, Tcb *c, Sums *z) noexcept nogil:
    """Over, and still held by a socket: what was received is left, nothing else."""
    cdef uint64_t truesize = 0
    z.tcbs += 1
    z.confs += 1
    if c.owner.bind != NULL:
        z.binds += 1
    if c.entry.hashed or c.entry.armed or c.tx != &w.e.tcp.no_tx or c.reasm != NULL:
        world_fail(w, b"dead connection: not empty")
    if chain(c.rcvq_head, c.rcvq_tail, z, &truesize) != c.rcvq_bytes:
        world_fail(w, b"dead connection: receive queue is not its sum")


cdef void check_listener(World *w, Listener *l, Sums *z) noexcept nogil:
    cdef uint32_t n = 0
    cdef SynReq *r = l.synq_oldest
    cdef Tcb *c = l.aq_head
    z.binds += 1
    z.confs += 1
    while r != NULL and n <= l.synq:
        if r.listener != l or not r.entry.hashed or not r.entry.armed:
            world_fail(w, b"SYN queue: a stray entry")
        n += 1
        r = r.newer
    if n != l.synq or n > max(l.backlog, <uint32_t>1024):
        world_fail(w, b"SYN queue: count")
    n = 0
    while c != NULL and n <= l.acceptq:
        if c.owner.listener != l or c.source.user != NULL or not c.flags & TF_ACCEPTQ or c.flags & TF_DEAD:
            world_fail(w, b"accept queue: a stray entry")
        n += 1
        if aq_next(c) == NULL and l.aq_tail != c:
            world_fail(w, b"accept queue: its tail")
        c = aq_next(c)
    if n != l.acceptq or n > l.backlog + 1:
        world_fail(w, b"accept queue: count")


cdef void check_spares(World *w, Tcp *t, Sums *z) noexcept nogil:
    cdef Tx *x = t.spare_txs
    cdef uint32_t n = 0
    cdef int i
    while x != NULL and n <= t.n_spare_txs:
        n += 1
        x = <Tx *>x.sndq_head
    if n != t.n_spare_txs or z.txs + n != t.txs.live:
        world_fail(w, b"sending sides: more alive than can be found")
    x = &t.no_tx
    if (x.seg_head != NULL or x.sndq_head != NULL or x.nxt_block != NULL or x.sndq_bytes or x.flight or x.lost
            or x.sacked or x.rto_at != UINT64_MAX or x.timer_what != TIMER_NONE or x.backoff or x.retries
            or x.retrans_since or x.dupacks or x.cc_acked or x.high_sacked or x.snd_sml or x.recover or x.tlp_end):
        world_fail(w, b"sending sides: somebody wrote to the empty one")
    for i in range(8):
        if t.recent_confs[i] != NULL:
            n += (<ConfCell *>t.recent_confs[i]).refs == 0
    if n != t.n_spare_txs or t.confs.live > z.confs:
        world_fail(w, b"settings: more alive than are used")


cdef void check_tcp(World *w, Sums *z) noexcept nogil:
    cdef Tcp *t = &w.e.tcp
    cdef Entry *e
    cdef TimeWait *old
    cdef uint32_t i, n = 0
    for i in range(table_buckets(&t.conns)):
        e = table_bucket(&t.conns, i)[0]
        while e != NULL:
            n += 1
            if e.kind == ENTRY_TCB:
                check_tcb(w, <Tcb *>e, z)
            else:
                z.synreqs += e.kind == ENTRY_SYNREQ
                z.timewaits += e.kind == ENTRY_TIMEWAIT
                note_timer(w, z, e)
            e = e.hnext
    if n != t.conns.count:
        world_fail(w, b"table of connections: count")
    for i in range(TCBS):
        if w.tcbs[i] != NULL and w.tcbs[i].flags & TF_DEAD:
            check_dead(w, w.tcbs[i], z)
    for i in range(LISTENERS):
        if w.listeners[i] != NULL:
            check_listener(w, w.listeners[i], z)
    n = 0
    old = t.tw_oldest
    while old != NULL and n <= t.n_timewait:
        n += 1
        old = old.newer
    if n != t.n_timewait or n != z.timewaits or n > t.knobs.max_tw_buckets:
        world_fail(w, b"TIME-WAIT: count")
    if z.tcbs != t.tcbs.live or z.synreqs != t.synreqs.live or z.timewaits != t.timewaits.live:
        world_fail(w, b"connections: more alive than can be found")
    if z.segs != t.segs.live or z.reasms != t.reasms.live or z.binds != t.binds_slab.live or z.ofo != t.ofo_memory:
        world_fail(w, b"records, ranges or binds: more alive than can be found")
    check_spares(w, t, z)
    if z.orphans != t.n_orphans or z.connected != t.n_established:
        world_fail(w, b"orphans or established: count")


# ---- datagrams, fragments, neighbours ----

cdef uint64_t queue_truesize(World *w, const BufQueue *q, Sums *z) noexcept nogil:
    cdef const Buf *b = q.head
    cdef uint64_t truesize = 0
    cdef uint32_t n = 0, bytes = 0
    while b != NULL:
        n += 1
        bytes += b.len
        truesize += buf_truesize(b)
        b = b.next
    z.bufs += n
    if n != q.count or bytes != q.bytes:
        world_fail(w, b"queue: not its sum")
    return truesize


cdef void check_udp(World *w, Sums *z) noexcept nogil:
    cdef int i
    cdef UdpSock *s
    for i in range(UDPS):
        s = w.udps[i]
        if s == NULL:
            continue
        if queue_truesize(w, &s.queue, z) != s.rcv_used:
            world_fail(w, b"datagram socket: true size is not the sum")
        if s.more != NULL and queue_truesize(w, &s.more.errors, z) != s.more.errors_used:
            world_fail(w, b"datagram socket: its errors' true size is not the sum")
        if s.rcv_used > s.rcvbuf + 80000:
            world_fail(w, b"datagram socket: over its limit")


cdef void check_frags(World *w, Net *n, Sums *z) noexcept nogil:
    cdef FragQueue *q = n.frag_oldest
    cdef FragQueue *older = NULL
    cdef const Buf *b
    cdef uint64_t memory = 0, truesize
    cdef uint32_t queues = 0, have
    while q != NULL:
        queues += 1
        truesize = 0
        have = 0
        b = q.pieces
        while b != NULL:
            z.bufs += 1
            truesize += buf_truesize(b)
            have += b.len
            if b.next != NULL and b.seq + b.len > b.next.seq:
                world_fail(w, b"fragments: overlap kept")
            b = b.next
        if truesize != q.truesize or (have != q.have and not q.poisoned) or q.older != older or not q.entry.armed:
            world_fail(w, b"fragments: a queue is not its pieces")
        memory += truesize + sizeof(FragQueue)
        note_timer(w, z, &q.entry)
        older = q
        q = q.newer
    if memory != n.frag_memory or memory > n.knobs.ipfrag_high_thresh or queues != n.frag_slab.live:
        world_fail(w, b"fragments: memory")


cdef void check_neighbours(World *w, Net *n, Sums *z) noexcept nogil:
    cdef uint32_t i, k, unresolved = 0, found = 0
    cdef uint64_t queued = 0, truesize
    cdef Entry *e
    cdef Neigh *g
    for i in range(table_buckets(&n.neighs)):
        e = table_bucket(&n.neighs, i)[0]
        while e != NULL:
            g = <Neigh *>e
            found += 1
            truesize = queue_truesize(w, &g.queue, z)
            if truesize != g.queue_truesize or g.queue.count > n.knobs.unres_qlen:
                world_fail(w, b"neighbour: queue")
            if not e.armed and g.state != NUD_PERMANENT:
                world_fail(w, b"neighbour: will never age")
            queued += truesize
            note_timer(w, z, e)
            e = e.hnext
    if queued != n.neigh_queued or found > n.knobs.gc_thresh3 or found != n.neigh_slab.live:
        world_fail(w, b"neighbours: sums")
    for i in range(<uint32_t>n.n_ifaces):
        note_timer(w, z, &n.ifaces[i].six.entry)
        note_timer(w, z, &n.ifaces[i].igmp.entry)
        note_timer(w, z, &n.ifaces[i].mld.entry)
        for k in range(16):
            if n.ifaces[i].addrs[k].used:
                note_timer(w, z, &n.ifaces[i].addrs[k].entry)


cdef void check_paths(World *w, Net *n, Sums *z) noexcept nogil:
    """The path MTU cache: as many as its table has, each with a time to be forgotten, in one order."""
    cdef Pmtu *older = NULL
    cdef Pmtu *p = n.pmtu_oldest
    cdef uint32_t found = 0
    while p != NULL:
        found += 1
        if p.older != older or not p.entry.armed:
            world_fail(w, b"path MTUs: an entry is out of order, or will never age")
        note_timer(w, z, &p.entry)
        older = p
        p = p.newer
    if found != n.pmtus.count or found > PMTUS_MAX or found != n.pmtu_slab.live or n.pmtu_newest != older:
        world_fail(w, b"path MTUs: sums")


cdef void check_world(World *w) noexcept nogil:
    cdef Sums z
    cdef Engine *e = w.e
    cdef Buf *b = e.loopback.head
    cdef uint8_t *p = <uint8_t *>&z
    cdef size_t i
    for i in range(sizeof(z)):
        p[i] = 0
    z.earliest = UINT64_MAX
    if not w.settled:
        return
    check_tcp(w, &z)
    check_udp(w, &z)
    check_frags(w, &e.net, &z)
    check_neighbours(w, &e.net, &z)
    check_paths(w, &e.net, &z)
    queue_truesize(w, &e.loopback, &z)
    if z.bufs != <uint64_t>e.core.pool.live:
        world_fail(w, b"pool: more buffers alive than can be found")
    if e.core.pool.used > e.core.pool.budget:
        world_fail(w, b"pool: over its budget")
    if z.armed != e.core.wheel.armed:
        world_fail(w, b"wheel: not what is armed")
    if e.loopback.count == 0 and e.tcp.dirty_head == NULL and engine_next(e) != z.earliest:
        world_fail(w, b"wheel: the next deadline is not the earliest")
