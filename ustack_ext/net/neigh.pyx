"""The neighbour table and its state machine, as Linux runs it for ARP with RFC 4861's names.

Responsible for the entries, their ageing, their requests (at most one a second an address, RFC 1122 §2.3.2.1) and the
frames that wait for an address. Not for judging ARP packets and advertisements (arp, nd) nor for telling senders of
failure (net).

    INCOMPLETE  asked by broadcast, mcast_solicit times, retrans_time apart; frames wait        -> REACHABLE | FAILED
    REACHABLE   proved within the reachable time                                                -> STALE
    STALE       usable; the first frame sent starts the proof                                   -> DELAY
    DELAY       waiting delay_first_probe_time for the transport to prove it (net_confirm)      -> REACHABLE | PROBE
    PROBE       asked at its old address ucast_solicit times, then by broadcast; still used     -> REACHABLE | FAILED
    FAILED      kept a second so that nothing is asked more often                               -> gone

Memory is bounded (RFC 6583 §6): gc_thresh3 entries, at most half of them unresolved; the least recently used resolved
entry, or the oldest unresolved one, makes room. A new attempt therefore always gets its chance, a flood of addresses
that do not exist only displaces its own kind.

IPv6 asks by neighbour solicitations instead, and follows RFC 4861 §7.2 where it differs. For ARP:

A different link address for an entry that has one is not believed on sight. Somebody's word (a request, a gratuitous
ARP, a reply nobody asked for) only raises doubt: the entry goes to PROBE, the old address is asked first, by unicast;
if it is silent for a second everybody is asked, and then the answer counts. A poisoner has to silence the owner; a
fail-over costs a second.
"""
from libc.errno cimport EHOSTUNREACH, ENOBUFS, ENOMEM
from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy, memset

from ustack_ext.wire.addr cimport addr_eq, addr_in_prefix, addr_is_v4, addr_to_v4, addr_v4
from ustack_ext.wire.bytes cimport get_be32
from ustack_ext.wire.headers cimport ARP_REQUEST, ETH_HLEN
from ustack_ext.base.buf cimport (Buf, buf_alloc, buf_truesize, buf_unref, bufq_pop, bufq_push)
from ustack_ext.base.core cimport count
from ustack_ext.base.entry cimport ENTRY_NEIGH, Entry
from ustack_ext.base.rng cimport rng_below
from ustack_ext.base.slab cimport slab_alloc, slab_free
from ustack_ext.base.table cimport table_first, table_hash, table_insert, table_next, table_remove
from ustack_ext.base.wheel cimport wheel_arm, wheel_cancel
from ustack_ext.net.frame cimport frame_arp, frame_transmit
from ustack_ext.net.iface cimport iface_address, is_ours, source_for
from ustack_ext.net.mib cimport NeighQueueDrops, NeighResolveFailed, NeighTableFull
from ustack_ext.net.ndout cimport nd_solicit
from ustack_ext.net.route cimport net_changed
from ustack_ext.net.state cimport (IfAddr, MAX_IFADDRS, NUD_DELAY, NUD_FAILED, NUD_INCOMPLETE, NUD_PERMANENT,
                                   NUD_PROBE, NUD_REACHABLE, NUD_STALE, NeighState)

cdef enum:
    MS = 1000000
    SECOND = 1000000000
    QUEUE_BYTES = 212992               # truesize waiting for one neighbour (Linux's unres_qlen_bytes)
    QUEUE_BYTES_ALL = 4194304          # ... and for all of them
    SOURCE_AT = 12                     # of an IPv4 header

cdef enum:                             # arp_announce
    ANNOUNCE_ANY = 0
    ANNOUNCE_NEAREST = 2


# --- the two lists: with an address (least recently used first), without (oldest first) ---

cdef inline bint is_unresolved(const Neigh *e) noexcept nogil:
    return e.state == NUD_INCOMPLETE or e.state == NUD_FAILED


cdef void list_append(Net *n, Neigh *e) noexcept nogil:
    cdef bint unres = is_unresolved(e)
    e.lru_next = NULL
    e.lru_prev = n.unres_newest if unres else n.neigh_newest
    if e.lru_prev != NULL:
        e.lru_prev.lru_next = e
    elif unres:
        n.unres_oldest = e
    else:
        n.neigh_oldest = e
    if unres:
        n.unres_newest = e
        n.unres_count += 1
    else:
        n.neigh_newest = e


cdef void list_unlink(Net *n, Neigh *e) noexcept nogil:
    cdef bint unres = is_unresolved(e)
    if e.lru_prev != NULL:
        e.lru_prev.lru_next = e.lru_next
    elif unres:
        n.unres_oldest = e.lru_next
    else:
        n.neigh_oldest = e.lru_next
    if e.lru_next != NULL:
        e.lru_next.lru_prev = e.lru_prev
    elif unres:
        n.unres_newest = e.lru_prev
    else:
        n.neigh_newest = e.lru_prev
    if unres:
        n.unres_count -= 1


cdef void set_state(Net *n, Neigh *e, NeighState state) noexcept nogil:
    list_unlink(n, e)
    e.state = state
    list_append(n, e)


# --- entries ---

cdef inline uint32_t neigh_hash(Net *n, Iface *i, const Addr *a) noexcept nogil:
    return table_hash(&n.key, a.hi, a.lo, i.index, 0, 0)


cdef Neigh *neigh_find(Net *n, Iface *i, const Addr *a) noexcept nogil:
    cdef Entry *e = table_first(&n.neighs, neigh_hash(n, i, a))
    while e != NULL:
        if (<Neigh *>e).iface == i and addr_eq(&(<Neigh *>e).addr, a):
            return <Neigh *>e
        e = table_next(e)
    return NULL


cdef void queue_move(Net *n, Neigh *e, BufQueue *to) noexcept nogil:
    cdef Buf *b
    n.neigh_queued -= e.queue_truesize
    e.queue_truesize = 0
    while e.queue.count != 0:
        b = bufq_pop(&e.queue)
        if to != NULL:
            bufq_push(to, b)
        else:
            count(n.core, NeighQueueDrops)
            buf_unref(&n.core.pool, b)


cdef void neigh_remove(Net *n, Neigh *e) noexcept nogil:
    """Frees the entry; what waits for it is dropped. Every kept Dst is resolved anew, as one may point here."""
    queue_move(n, e, NULL)
    list_unlink(n, e)
    wheel_cancel(&n.core.wheel, &e.entry)
    table_remove(&n.neighs, &e.entry)
    slab_free(&n.neigh_slab, e)
    net_changed(n)


cdef void neigh_forget_iface(Net *n, Iface *i) noexcept nogil:
    cdef Neigh *e
    cdef Neigh *following
    cdef int which
    for which in range(2):
        e = n.neigh_oldest if which == 0 else n.unres_oldest
        while e != NULL:
            following = e.lru_next
            if i == NULL or e.iface == i:
                neigh_remove(n, e)
            e = following


cdef bint make_room(Net *n) noexcept nogil:
    """Room for one more entry, which will be unresolved at first."""
    cdef uint32_t limit = n.knobs.gc_thresh3
    cdef Neigh *e
    if n.unres_count != 0 and n.unres_count >= (limit + 1) // 2:
        count(n.core, NeighTableFull)
        neigh_remove(n, n.unres_oldest)
    if n.neighs.count < limit:
        return True
    count(n.core, NeighTableFull)
    e = n.neigh_oldest
    while e != NULL and e.state == NUD_PERMANENT:
        e = e.lru_next
    if e == NULL:
        e = n.unres_oldest
    if e == NULL:
        return False
    neigh_remove(n, e)
    return True


cdef Neigh *neigh_create(Net *n, Iface *i, const Addr *a) noexcept nogil:
    cdef Neigh *e
    if not make_room(n):
        return NULL
    e = <Neigh *>slab_alloc(&n.neigh_slab)
    if e == NULL:
        return NULL
    e.entry.kind = ENTRY_NEIGH
    e.addr = a[0]
    e.iface = i
    e.state = NUD_INCOMPLETE
    table_insert(&n.neighs, &e.entry, neigh_hash(n, i, a))
    list_append(n, e)
    # If nothing is ever sent to it the timer finds it unasked and removes it.
    wheel_arm(&n.core.wheel, &e.entry, n.core.now + SECOND)
    return e


cdef int neigh_set_permanent(Net *n, Iface *i, const Addr *a, const uint8_t *mac) noexcept nogil:
    """An entry by hand: never aged, probed, changed or evicted. -ENOMEM at the table's limit."""
    cdef Neigh *e = neigh_find(n, i, a)
    if e == NULL:
        e = neigh_create(n, i, a)
    if e == NULL:
        return -ENOMEM
    memcpy(e.mac, mac, 6)
    wheel_cancel(&n.core.wheel, &e.entry)
    set_state(n, e, NUD_PERMANENT)
    flush(n, e)
    return 0


# --- asking ---

cdef inline uint64_t retrans(const Net *n, const Neigh *e) noexcept nogil:
    """ns between requests; for IPv6 as a router says (RFC 4861 §6.3.4)."""
    if e.iface.six.retrans_ms != 0 and not addr_is_v4(&e.addr):
        return <uint64_t>e.iface.six.retrans_ms * MS
    return <uint64_t>n.knobs.retrans_time_ms * MS


cdef bint source_of_waiting(Net *n, Neigh *e, Addr *source) noexcept nogil:
    """arp_announce (Linux): 0: the source of the packet that waits, whichever of ours that is; 1: if it is of a prefix
    that the interface shares with who is asked; 2: never."""
    cdef uint8_t announce = max(n.knobs.arp_announce, e.iface.conf.arp_announce)
    cdef const Buf *b = e.queue.head
    cdef IfAddr *own
    cdef int k
    if announce >= ANNOUNCE_NEAREST or b == NULL or not addr_is_v4(&e.addr):
        return False
    source[0] = addr_v4(get_be32(b.data + b.off + ETH_HLEN + SOURCE_AT))
    if not is_ours(n, source):
        return False
    if announce == ANNOUNCE_ANY:
        return True
    for k in range(MAX_IFADDRS):
        own = &e.iface.addrs[k]
        if (own.used and addr_is_v4(&own.addr) and addr_in_prefix(&e.addr, &own.addr, own.plen)
                and addr_in_prefix(source, &own.addr, own.plen)):
            return True
    return False


cdef bint source_to_ask(Net *n, Neigh *e, Addr *source) noexcept nogil:
    """The address that asks: by arp_announce, else the interface's nearest, else the one we would talk to it from."""
    cdef const Addr *near
    if source_of_waiting(n, e, source):
        return True
    near = iface_address(e.iface, &e.addr) if addr_is_v4(&e.addr) else NULL
    if near == NULL:
        return source_for(n, &e.addr, source) == 0
    source[0] = near[0]
    return True


cdef void ask(Net *n, Neigh *e, bint unicast) noexcept nogil:
    """One request; arms the timer for the next."""
    cdef Addr source
    e.probes += 1
    e.asked = n.core.now
    wheel_arm(&n.core.wheel, &e.entry, n.core.now + retrans(n, e))
    if not source_to_ask(n, e, &source):
        return
    if addr_is_v4(&e.addr):
        frame_arp(n, e.iface, e.mac if unicast else NULL, ARP_REQUEST, addr_to_v4(&source), NULL, addr_to_v4(&e.addr))
    else:
        nd_solicit(n, e.iface, &source, &e.addr, e.mac if unicast else NULL, 0)


cdef int neigh_use(Net *n, Neigh *e) noexcept nogil:
    """A frame is about to be sent to the neighbour."""
    cdef uint64_t now = n.core.now
    if e.state == NUD_FAILED:
        return -EHOSTUNREACH
    if e.state == NUD_INCOMPLETE:
        return 0                       # neigh_queue asks
    if now - e.used >= SECOND or now < e.used:
        list_unlink(n, e)              # the order is kept to the second: not a list operation a packet
        list_append(n, e)
    e.used = now
    if e.state == NUD_STALE:
        set_state(n, e, NUD_DELAY)
        wheel_arm(&n.core.wheel, &e.entry, now + <uint64_t>n.knobs.delay_first_probe_time * SECOND)
    return 1


# --- learning ---

cdef void become_reachable(Net *n, Neigh *e) noexcept nogil:
    """RFC 4861 §6.3.2: the time a proof holds is drawn anew, between half and one and a half of the base."""
    cdef uint32_t base = n.knobs.base_reachable_time_ms
    if e.iface.six.reachable_ms != 0 and not addr_is_v4(&e.addr):
        base = e.iface.six.reachable_ms
    e.confirmed = n.core.now
    e.probes = 0
    e.reachable_time = <uint64_t>(base // 2 + rng_below(&n.core.rng, base + 1)) * MS
    set_state(n, e, NUD_REACHABLE)
    wheel_arm(&n.core.wheel, &e.entry, e.confirmed + e.reachable_time)


cdef void become_stale(Net *n, Neigh *e) noexcept nogil:
    """Usable, unproved; forgotten when unused for gc_stale_time (RFC 1122 §2.3.2.1 (1))."""
    cdef uint64_t last = max(e.used, e.confirmed)
    e.probes = 0
    set_state(n, e, NUD_STALE)
    wheel_arm(&n.core.wheel, &e.entry, max(last + <uint64_t>n.knobs.gc_stale_time * SECOND, n.core.now + SECOND))


cdef void neigh_confirm(Net *n, Neigh *e) noexcept nogil:
    if e.state == NUD_REACHABLE:
        e.confirmed = n.core.now       # the timer looks at it when it fires
    elif e.state == NUD_STALE or e.state == NUD_DELAY or e.state == NUD_PROBE:
        become_reachable(n, e)


cdef void doubt(Net *n, Neigh *e) noexcept nogil:
    """Somebody else claims the address: ask the one we know, once, then everybody."""
    if e.state == NUD_PROBE or n.core.now - e.asked < retrans(n, e) and e.asked != 0:
        return
    set_state(n, e, NUD_PROBE)
    e.probes = n.knobs.ucast_solicit - 1 if n.knobs.ucast_solicit > 0 else 0
    ask(n, e, n.knobs.ucast_solicit > 0)


cdef void neigh_learn(Net *n, Neigh *e, const uint8_t *mac, NeighNews news) noexcept nogil:
    """What an ARP packet says about an entry that exists (the merge of RFC 826; the rules of this file's head)."""
    cdef bint same = memcmp(e.mac, mac, 6) == 0
    cdef bint asked_all = e.state == NUD_PROBE and e.probes > n.knobs.ucast_solicit
    if e.state == NUD_PERMANENT:
        return
    if is_unresolved(e):
        if news == NEWS_RUMOUR and e.probes == 0:
            return
        memcpy(e.mac, mac, 6)
        e.confirmed = n.core.now
        if news == NEWS_ANSWER:
            become_reachable(n, e)
        else:
            become_stale(n, e)
        flush(n, e)
    elif same:
        if news == NEWS_ANSWER:
            become_reachable(n, e)
    elif news == NEWS_ANSWER and asked_all:
        memcpy(e.mac, mac, 6)
        become_reachable(n, e)
    else:
        doubt(n, e)


# --- learning from Neighbor Discovery, which has rules of its own ---

cdef void take_address(Net *n, Neigh *e, const uint8_t *mac, bint proved) noexcept nogil:
    memcpy(e.mac, mac, 6)
    if proved:
        become_reachable(n, e)
    else:
        become_stale(n, e)
    flush(n, e)


cdef void neigh_told(Net *n, Iface *i, const Addr *a, const uint8_t *mac) noexcept nogil:
    cdef Neigh *e = neigh_find(n, i, a)
    if e == NULL:
        e = neigh_create(n, i, a)
        if e == NULL:
            return
    elif e.state == NUD_PERMANENT or (not is_unresolved(e) and memcmp(e.mac, mac, 6) == 0):
        return
    take_address(n, e, mac, False)


cdef bint neigh_advert(Net *n, Neigh *e, const uint8_t *mac, bint solicited, bint override,
                       bint router) noexcept nogil:
    cdef bint was_router = e.router
    cdef bint differs
    if e.state == NUD_PERMANENT:
        return False
    if is_unresolved(e):
        if mac == NULL or e.probes == 0:               # nobody asked
            return False
        e.router = router
        take_address(n, e, mac, solicited)
        return False
    differs = mac != NULL and memcmp(e.mac, mac, 6) != 0
    if differs and not override:
        if e.state == NUD_REACHABLE:
            become_stale(n, e)
        return False
    e.router = router
    if differs:
        take_address(n, e, mac, solicited)
    elif solicited:
        become_reachable(n, e)
    return was_router and not router


# --- frames that wait ---

cdef int neigh_queue(Net *n, Neigh *e, const IoVec *iov, int niov, uint32_t length, const Offload *off) noexcept nogil:
    """The frame waits, and the neighbour is asked for, be there room for the frame or not."""
    cdef int status = wait_in_line(n, e, iov, niov, length, off)
    if e.state == NUD_INCOMPLETE and e.probes == 0:
        ask(n, e, False)
    return status


cdef int wait_in_line(Net *n, Neigh *e, const IoVec *iov, int niov, uint32_t length, const Offload *off) noexcept nogil:
    cdef Buf *b = buf_alloc(&n.core.pool, QUEUED_FRAME_OFFSET + length)
    cdef Buf *old
    cdef int k
    cdef uint32_t need
    if b == NULL:
        count(n.core, NeighQueueDrops)
        return -ENOBUFS
    need = buf_truesize(b)
    while e.queue.count != 0 and (e.queue.count >= n.knobs.unres_qlen or e.queue_truesize + need > QUEUE_BYTES
                                  or n.neigh_queued + need > QUEUE_BYTES_ALL):
        old = bufq_pop(&e.queue)       # the oldest goes: RFC 1122 §2.3.2.2 wants the latest kept
        e.queue_truesize -= buf_truesize(old)
        n.neigh_queued -= buf_truesize(old)
        buf_unref(&n.core.pool, old)
        count(n.core, NeighQueueDrops)
    if n.neigh_queued + need > QUEUE_BYTES_ALL or n.knobs.unres_qlen == 0:
        buf_unref(&n.core.pool, b)
        count(n.core, NeighQueueDrops)
        return -ENOBUFS
    memcpy(b.data, off, sizeof(Offload))
    b.off = QUEUED_FRAME_OFFSET
    b.len = 0
    for k in range(niov):
        memcpy(b.data + b.off + b.len, iov[k].base, iov[k].len)
        b.len += <uint32_t>iov[k].len
    bufq_push(&e.queue, b)
    e.queue_truesize += need
    n.neigh_queued += need
    return 0


cdef void flush(Net *n, Neigh *e) noexcept nogil:
    """The address is known: what waited goes out, in order. A full device loses the rest, as it would any frame."""
    cdef BufQueue ready
    cdef Buf *b
    cdef IoVec iov
    cdef Offload off
    if e.queue.count == 0:
        return
    memset(&ready, 0, sizeof(ready))
    queue_move(n, e, &ready)
    if e.state == NUD_STALE:
        neigh_use(n, e)
    e.used = n.core.now
    while ready.count != 0:
        b = bufq_pop(&ready)
        memcpy(&off, b.data, sizeof(Offload))
        memcpy(b.data + b.off, e.mac, 6)
        iov.base = b.data + b.off
        iov.len = b.len
        frame_transmit(n, e.iface, &iov, 1, b.len, &off)
        buf_unref(&n.core.pool, b)


# --- time ---

cdef void fail(Net *n, Neigh *e, BufQueue *lost) noexcept nogil:
    count(n.core, NeighResolveFailed)
    queue_move(n, e, lost)
    set_state(n, e, NUD_FAILED)
    wheel_arm(&n.core.wheel, &e.entry, n.core.now + SECOND)


cdef void neigh_timer(Net *n, Neigh *e, BufQueue *lost) noexcept nogil:
    cdef uint64_t now = n.core.now
    cdef uint64_t until
    if e.state == NUD_INCOMPLETE:
        if e.probes == 0:
            neigh_remove(n, e)
        elif e.probes >= n.knobs.mcast_solicit:
            fail(n, e, lost)
        else:
            ask(n, e, False)
    elif e.state == NUD_REACHABLE:
        until = e.confirmed + e.reachable_time
        if until > now:
            wheel_arm(&n.core.wheel, &e.entry, until)
        else:
            become_stale(n, e)
    elif e.state == NUD_STALE:
        until = max(e.used, e.confirmed) + <uint64_t>n.knobs.gc_stale_time * SECOND
        if until > now:
            wheel_arm(&n.core.wheel, &e.entry, until)
        else:
            neigh_remove(n, e)
    elif e.state == NUD_DELAY or e.state == NUD_PROBE:
        if e.state == NUD_DELAY:
            set_state(n, e, NUD_PROBE)
            e.probes = 0
        if e.probes < n.knobs.ucast_solicit + n.knobs.mcast_solicit:
            ask(n, e, e.probes < n.knobs.ucast_solicit)
        else:
            fail(n, e, lost)
    elif e.state == NUD_FAILED:
        neigh_remove(n, e)
