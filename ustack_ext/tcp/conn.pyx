"""The table of connections: finding, making and ending them; initial sequence numbers (RFC 6528); local ports (RFC
6056).
"""
from libc.errno cimport EADDRINUSE, EADDRNOTAVAIL, ENOBUFS
from libc.stdint cimport UINT64_MAX, uint16_t, uint32_t, uint64_t, uint8_t

from ustack_ext.base.entry cimport ENTRY_BIND, ENTRY_TCB, ENTRY_TIMEWAIT, Entry
from ustack_ext.base.event cimport (
    EV_CLOSED, EV_ERROR, EV_HANGUP, EV_READABLE, EV_WRITABLE, Source, event_forget,
)
from ustack_ext.base.rng cimport rng_below
from ustack_ext.base.slab cimport slab_alloc, slab_free
from ustack_ext.base.table cimport (
    HashKey, siphash, table_bucket, table_buckets, table_first, table_hash, table_hash_short, table_insert,
)
from ustack_ext.base.table cimport table_next, table_remove
from ustack_ext.base.wheel cimport wheel_cancel
from ustack_ext.net.net cimport net_is_local
from ustack_ext.tcp.conf cimport conf_unref
from ustack_ext.tcp.reassembly cimport ofo_clear, rcvq_clear
from ustack_ext.tcp.sendqueue cimport sendq_clear
from ustack_ext.tcp.tcb cimport (
    REUSE_ADDR, REUSE_PORT, TCP_CLOSED, TF_ACCEPTQ, TF_ACK_DELAYED, TF_CONNECTED, TF_DEAD, TF_DIRTY,
    TF_FASTOPEN, TF_FREE, TF_ORPHAN, Bind, Conn, Listener, Tally, Tcb, Tcp, TimeWait,
)
from ustack_ext.tcp.rtt cimport rtt_init
from ustack_ext.wire.addr cimport (
    Addr, addr_any_holds, addr_eq, addr_is_any, addr_is_broadcast, addr_is_multicast, addr_is_v4, addr_meet,
    addr_to_v4,
)

cdef enum:
    EPHEMERAL_TRIES = 64           # random tries before the range is walked
    DELACK_MAX_MS = 1000           # delack_at holds less than 2**31 ns
    TW_REUSE_S = 1                 # after which a TIME-WAIT may be used again: the peer's clock has ticked
    NS = 1000000000
    ISN_TICK_NS = 4000             # RFC 9293 §3.4.1: the clock ticks every 4 us

cdef struct TupleKey:
    Addr laddr
    Addr raddr
    uint32_t ports


cdef uint32_t conn_hash(Tcp *t, const Addr *laddr, uint16_t lport, const Addr *raddr, uint16_t rport) noexcept nogil:
    cdef uint32_t ports = (<uint32_t>lport << 16) | rport
    if addr_is_v4(laddr) and addr_is_v4(raddr):
        return table_hash_short(&t.key, laddr.lo << 32 | addr_to_v4(raddr), ports)
    return table_hash(&t.key, laddr.hi, laddr.lo, raddr.hi, raddr.lo, ports)


cdef Conn *conn_find(Tcp *t, const Addr *laddr, uint16_t lport, const Addr *raddr, uint16_t rport) noexcept nogil:
    cdef Conn *c = <Conn *>t.last_found
    if (c != NULL and c.rport == rport and c.lport == lport and addr_eq(&c.raddr, raddr)
            and addr_eq(&c.laddr, laddr)):                   # segments come in trains
        return c
    c = conn_find_hashed(t, conn_hash(t, laddr, lport, raddr, rport), laddr, lport, raddr, rport)
    if c != NULL and c.entry.kind == ENTRY_TCB:
        t.last_found = <Tcb *>c
    return c


cdef Conn *conn_find_hashed(Tcp *t, uint32_t hash, const Addr *laddr, uint16_t lport, const Addr *raddr,
                            uint16_t rport) noexcept nogil:
    cdef Entry *e = table_first(&t.conns, hash)
    cdef Conn *c
    while e != NULL:
        c = <Conn *>e
        if c.rport == rport and c.lport == lport and addr_eq(&c.raddr, raddr) and addr_eq(&c.laddr, laddr):
            return c
        e = table_next(e)
    return NULL


cdef Listener *listener_find(Tcp *t, const Addr *laddr, uint16_t lport, const Addr *raddr,
                             uint16_t rport) noexcept nogil:
    """A listener on the address goes before one on any. Of several (SO_REUSEPORT) a keyed hash of the peer chooses."""
    cdef uint32_t hash = table_hash(&t.key, lport, 0, 0, 0, 0), exact = 0, wild = 0, which
    cdef Entry *e = table_first(&t.listeners, hash)
    cdef Listener *l
    cdef Listener *found = NULL
    while e != NULL:
        l = <Listener *>e
        if l.lport == lport:
            if addr_eq(&l.laddr, laddr):
                exact += 1
                found = l
            elif addr_is_any(&l.laddr) and addr_any_holds(&l.laddr, laddr):
                wild += 1
                if exact == 0:
                    found = l
        e = table_next(e)
    if (exact if exact > 0 else wild) <= 1:
        return found
    which = (table_hash(&t.key, raddr.hi, raddr.lo, rport, laddr.hi, laddr.lo) >> 8) % (exact if exact > 0 else wild)
    e = table_first(&t.listeners, hash)
    while e != NULL:
        l = <Listener *>e
        if l.lport == lport and (
                addr_eq(&l.laddr, laddr) if exact > 0
                else addr_is_any(&l.laddr) and addr_any_holds(&l.laddr, laddr)):
            if which == 0:
                return l
            which -= 1
        e = table_next(e)
    return found


cdef uint64_t keyed(const HashKey *key, const Addr *laddr, uint16_t lport, const Addr *raddr,
                    uint16_t rport) noexcept nogil:
    cdef TupleKey k
    k.laddr = laddr[0]
    k.raddr = raddr[0]
    k.ports = (<uint32_t>lport << 16) | rport
    return siphash(key, &k, 2 * sizeof(Addr) + sizeof(uint32_t))


cdef uint32_t isn(Tcp *t, const Addr *laddr, uint16_t lport, const Addr *raddr, uint16_t rport) noexcept nogil:
    return <uint32_t>(keyed(&t.isn_key, laddr, lport, raddr, rport) + t.core.now // ISN_TICK_NS)


cdef uint32_t ts_offset_of(Tcp *t, const Addr *laddr, const Addr *raddr, uint16_t lport, uint16_t rport) noexcept nogil:
    return <uint32_t>keyed(&t.ts_key, laddr, lport, raddr, rport)


cdef Tcb *tcb_new(Tcp *t) noexcept nogil:
    cdef Tcb *c = <Tcb *>slab_alloc(&t.tcbs)
    if c == NULL:
        return NULL
    c.entry.kind = ENTRY_TCB
    c.source.kind = ENTRY_TCB
    c.state = TCP_CLOSED
    c.tx = &t.no_tx
    c.tally = &t.no_tally
    c.idle_at = UINT64_MAX
    c.rcv_ssthresh = t.knobs.rmem_default // 2
    c.ato = <uint16_t>min(t.knobs.delack_min_us // 1000, <uint32_t>DELACK_MAX_MS)
    c.quick = 16
    rtt_init(t, c)
    return c


cdef void tally_take(Tcp *t, Tcb *c) noexcept nogil:
    cdef Tally *y
    if c.tally != &t.no_tally:
        return
    y = <Tally *>slab_alloc(&t.tallies)
    if y == NULL:
        return
    y.segs_in = 1                                # the handshake's, less what carries the first data
    y.segs_out = 1
    y.rcvq_epoch = <uint32_t>(t.core.now // 1000)
    c.tally = y


cdef void tcb_insert(Tcp *t, Tcb *c, uint32_t hash) noexcept nogil:
    table_insert(&t.conns, &c.entry, hash)


cdef void tcb_queue(Tcp *t, Tcb *c) noexcept nogil:
    c.flags |= TF_DIRTY
    c.dirty_next = NULL
    if t.dirty_tail == NULL:
        t.dirty_head = c
    else:
        t.dirty_tail.dirty_next = c
    t.dirty_tail = c


cdef void tcb_free(Tcp *t, Tcb *c) noexcept nogil:
    rcvq_clear(t, c)
    if c.owner.bind != NULL:
        bind_free(t, c.owner.bind)
        c.owner.bind = NULL
    conf_unref(t, c.conf)
    c.conf = NULL
    if c.tally != &t.no_tally:
        slab_free(&t.tallies, c.tally)
        c.tally = &t.no_tally
    event_forget(&t.core.events, &c.source)
    if c.flags & TF_DIRTY:                      # tcp_flush frees it when it comes to it
        c.flags |= TF_FREE
        return
    slab_free(&t.tcbs, c)


# ---- the accept queue, linked through source.next: nobody holds the connection, so it has no events ----

cdef Tcb *aq_next(const Tcb *c) noexcept nogil:
    return <Tcb *>c.source.next


cdef inline void aq_leave(Listener *l, Tcb *c) noexcept nogil:
    l.acceptq -= 1
    c.source.next = NULL
    c.owner.listener = NULL
    c.flags &= ~<uint32_t>TF_ACCEPTQ


cdef void acceptq_push(Listener *l, Tcb *c) noexcept nogil:
    c.flags |= TF_ACCEPTQ
    c.owner.listener = l
    if l.aq_tail == NULL:
        l.aq_head = c
    else:
        l.aq_tail.source.next = <Source *>c
    l.aq_tail = c
    l.acceptq += 1


cdef Tcb *acceptq_pop(Listener *l) noexcept nogil:
    cdef Tcb *c = l.aq_head
    if c == NULL:
        return NULL
    l.aq_head = aq_next(c)
    if l.aq_head == NULL:
        l.aq_tail = NULL
    aq_leave(l, c)
    return c


cdef void acceptq_remove(Tcb *c) noexcept nogil:
    cdef Listener *l = c.owner.listener
    cdef Tcb *before = NULL
    cdef Tcb *at = l.aq_head
    while at != NULL and at != c:
        before = at
        at = aq_next(at)
    if at == NULL:
        return
    if before == NULL:
        l.aq_head = aq_next(c)
    else:
        before.source.next = c.source.next
    if l.aq_tail == c:
        l.aq_tail = before
    aq_leave(l, c)


cdef void fastopen_done(Tcp *t, Tcb *c) noexcept nogil:
    c.flags &= ~<uint32_t>TF_FASTOPEN
    t.n_fastopen -= 1


cdef void forward_done(Tcp *t, Tcb *c) noexcept nogil:
    if c.tx.forwarded:
        c.tx.forwarded = 0
        t.forward.half -= 1


cdef void tcb_done(Tcp *t, Tcb *c, int error) noexcept nogil:
    if c.flags & TF_DEAD:
        return
    if c.flags & TF_FASTOPEN:
        fastopen_done(t, c)
    forward_done(t, c)
    if c.flags & TF_CONNECTED:
        t.n_established -= 1
    c.state = TCP_CLOSED
    c.flags |= TF_DEAD
    table_remove(&t.conns, &c.entry)
    if t.last_found == c:
        t.last_found = NULL
    c.flags &= ~<uint32_t>TF_ACK_DELAYED
    c.idle_at = UINT64_MAX
    sendq_clear(t, c)
    ofo_clear(t, c)
    wheel_cancel(&t.core.wheel, &c.entry)
    if error:
        c.error = <uint8_t>error
    if c.flags & TF_ACCEPTQ:                    # nobody has it yet: it makes room for one that lives
        acceptq_remove(c)
        tcb_free(t, c)
        return
    if c.flags & TF_ORPHAN:
        t.n_orphans -= 1
        tcb_free(t, c)
        return
    tcb_raise(t, c, EV_READABLE | EV_WRITABLE | EV_HANGUP | EV_CLOSED | (EV_ERROR if error else 0))


cdef void tcb_release(Tcp *t, Tcb *c) noexcept nogil:
    c.source.user = NULL
    tcb_free(t, c)


# ---- local ports ----

cdef bint ports_clash(const Bind *b, const Addr *a) noexcept nogil:
    return addr_meet(&b.addr, a)


cdef bint port_has_connections(Tcp *t, const Addr *a, uint16_t port) noexcept nogil:
    """Walks the table: only for an explicit bind() without SO_REUSEADDR, which is rare."""
    cdef uint32_t i
    cdef Entry *e
    cdef Conn *c
    for i in range(table_buckets(&t.conns)):
        e = table_bucket(&t.conns, i)[0]
        while e != NULL:
            c = <Conn *>e
            if c.lport == port and addr_meet(a, &c.laddr):
                return True
            e = e.hnext
    return False


cdef inline bint both_allow(int reuse, const Bind *b) noexcept nogil:
    """socket(7): SO_REUSEADDR unless the other listens; SO_REUSEPORT even then."""
    return (reuse & b.reuse & REUSE_ADDR and not b.listening) or reuse & b.reuse & REUSE_PORT


cdef bint port_free(Tcp *t, const Addr *a, uint16_t port, int reuse) noexcept nogil:
    cdef Entry *e = table_first(&t.binds, table_hash(&t.key, port, 0, 0, 0, 0))
    cdef Bind *b
    while e != NULL:
        b = <Bind *>e
        if b.port == port and ports_clash(b, a) and not both_allow(reuse, b):
            return False
        e = table_next(e)
    return reuse != 0 or not port_has_connections(t, a, port)


cdef bint port_bound(Tcp *t, const Addr *a, uint16_t port) noexcept nogil:
    cdef Entry *e = table_first(&t.binds, table_hash(&t.key, port, 0, 0, 0, 0))
    while e != NULL:
        if (<Bind *>e).port == port and ports_clash(<Bind *>e, a):
            return True
        e = table_next(e)
    return False


cdef uint16_t some_free_port(Tcp *t, const Addr *a) noexcept nogil:
    cdef uint32_t span = <uint32_t>t.knobs.port_hi - t.knobs.port_lo + 1, start, i
    start = rng_below(&t.core.rng, span)
    for i in range(span):                      # connections on it, if any, have another four-tuple
        if not port_bound(t, a, <uint16_t>(t.knobs.port_lo + (start + i) % span)):
            return <uint16_t>(t.knobs.port_lo + (start + i) % span)
    return 0


cdef int bind_port(Tcp *t, const Addr *a, uint16_t port, int reuse, Bind **out) noexcept nogil:
    cdef Bind *b
    if not addr_is_any(a) and (addr_is_multicast(a) or addr_is_broadcast(a) or not net_is_local(t.net, a)):
        return -EADDRNOTAVAIL
    if port == 0:
        port = some_free_port(t, a)
        if port == 0:
            return -EADDRINUSE
    elif not port_free(t, a, port, reuse):
        return -EADDRINUSE
    b = <Bind *>slab_alloc(&t.binds_slab)
    if b == NULL:
        return -ENOBUFS
    b.entry.kind = ENTRY_BIND
    b.addr = a[0]
    b.port = port
    b.reuse = <uint8_t>reuse
    table_insert(&t.binds, &b.entry, table_hash(&t.key, port, 0, 0, 0, 0))
    out[0] = b
    return 0


cdef void bind_free(Tcp *t, Bind *b) noexcept nogil:
    table_remove(&t.binds, &b.entry)
    slab_free(&t.binds_slab, b)


cdef bint bind_blocks_listen(Tcp *t, Bind *b) noexcept nogil:
    cdef Entry *e = table_first(&t.binds, b.entry.hash)
    cdef Bind *o
    while e != NULL:
        o = <Bind *>e
        if (o != b and o.port == b.port and o.listening and ports_clash(o, &b.addr)
                and not o.reuse & b.reuse & REUSE_PORT):
            return True
        e = table_next(e)
    return False


cdef bint tuple_unused(Tcp *t, const Addr *laddr, uint16_t lport, const Addr *raddr, uint16_t rport) noexcept nogil:
    cdef Conn *who = conn_find(t, laddr, lport, raddr, rport)
    cdef TimeWait *w = <TimeWait *>who
    if who == NULL:
        return True
    if who.entry.kind != ENTRY_TIMEWAIT or not w.ts_ok or not t.knobs.timestamps or t.knobs.tw_reuse == 0:
        return False
    if t.knobs.tw_reuse == 2 and not (is_loopback(laddr) or is_loopback(raddr)):
        return False
    return <uint32_t>(t.core.now // NS) - w.ts_recent_s >= TW_REUSE_S


cdef inline bint is_loopback(const Addr *a) noexcept nogil:
    return addr_is_v4(a) and addr_to_v4(a) >> 24 == 127


cdef bint tuple_free(Tcp *t, const Addr *laddr, uint16_t lport, const Addr *raddr, uint16_t rport) noexcept nogil:
    return not port_bound(t, laddr, lport) and tuple_unused(t, laddr, lport, raddr, rport)


cdef uint16_t ephemeral_port(Tcp *t, const Addr *laddr, const Addr *raddr, uint16_t rport) noexcept nogil:
    """RFC 6056 §3.3.2: simple random port selection, then a walk from a random start."""
    cdef uint32_t span = <uint32_t>t.knobs.port_hi - t.knobs.port_lo + 1, i, start = 0
    cdef uint16_t port
    for i in range(EPHEMERAL_TRIES + span):
        if i <= EPHEMERAL_TRIES:
            start = rng_below(&t.core.rng, span)
        port = <uint16_t>(t.knobs.port_lo + ((start if i <= EPHEMERAL_TRIES else start + i) % span))
        if tuple_free(t, laddr, port, raddr, rport):
            return port
    return 0
