"""Path MTU by destination (RFC 1191, RFC 8201 §5.2), and the search of RFC 4821 §5.2 and §7 that TCP makes over it.

Responsible for the cache and for how long it holds; not for judging an ICMP error (the transport compares it with what
it sent) nor for probing (tcp/pathmtu). One cache a stack: what one connection finds out, all to that destination know.

Bounded: the entry that was touched least recently makes room, so a flood of destinations costs a lost packet each time
one is met again. An estimate lasts net.ipv4.route.mtu_expires seconds (RFC 1191 §6.3); the range of a search begins
anew then, and its proved end stays.
"""
from libc.stdint cimport uint64_t

from ustack_ext.wire.addr cimport addr_eq, addr_is_v4
from ustack_ext.base.entry cimport ENTRY_PMTU, Entry
from ustack_ext.base.slab cimport slab_alloc, slab_free
from ustack_ext.base.table cimport table_first, table_hash, table_insert, table_next, table_remove
from ustack_ext.base.wheel cimport wheel_arm, wheel_cancel
from ustack_ext.net.route cimport net_changed
from ustack_ext.net.state cimport IP6MTU_MIN, PMTUS_MAX

cdef enum:
    SECOND = 1000000000
    NO_DISCOVERY = 1               # ip_no_pmtu_disc: min_pmtu whatever a router says
    NO_REPORTS = 2                 # ... routers are not heard at all


cdef inline uint32_t hash_of(Net *n, const Addr *dst) noexcept nogil:
    return table_hash(&n.key, dst.hi, dst.lo, 0, 0, 0)


cdef void link_newest(Net *n, Pmtu *p) noexcept nogil:
    p.newer = NULL
    p.older = n.pmtu_newest
    if p.older != NULL:
        p.older.newer = p
    else:
        n.pmtu_oldest = p
    n.pmtu_newest = p


cdef void unlink(Net *n, Pmtu *p) noexcept nogil:
    if p.older != NULL:
        p.older.newer = p.newer
    else:
        n.pmtu_oldest = p.newer
    if p.newer != NULL:
        p.newer.older = p.older
    else:
        n.pmtu_newest = p.older


cdef void forget(Net *n, Pmtu *p) noexcept nogil:
    wheel_cancel(&n.core.wheel, &p.entry)
    table_remove(&n.pmtus, &p.entry)
    unlink(n, p)
    slab_free(&n.pmtu_slab, p)
    net_changed(n)


cdef void touch(Net *n, Pmtu *p) noexcept nogil:
    unlink(n, p)
    link_newest(n, p)
    wheel_arm(&n.core.wheel, &p.entry, n.core.now + <uint64_t>n.knobs.mtu_expires * SECOND)
    net_changed(n)


cdef Pmtu *pmtu_find(Net *n, const Addr *dst) noexcept nogil:
    cdef Entry *e
    if n.pmtus.count == 0:
        return NULL
    e = table_first(&n.pmtus, hash_of(n, dst))
    while e != NULL and not addr_eq(&(<Pmtu *>e).addr, dst):
        e = table_next(e)
    return <Pmtu *>e


cdef Pmtu *pmtu_get(Net *n, const Addr *dst) noexcept nogil:
    cdef Pmtu *p = pmtu_find(n, dst)
    if p != NULL:
        return p
    if n.pmtus.count >= PMTUS_MAX:
        forget(n, n.pmtu_oldest)
    p = <Pmtu *>slab_alloc(&n.pmtu_slab)
    if p == NULL:
        return NULL
    p.entry.kind = ENTRY_PMTU
    p.addr = dst[0]
    table_insert(&n.pmtus, &p.entry, hash_of(n, dst))
    link_newest(n, p)
    wheel_arm(&n.core.wheel, &p.entry, n.core.now + <uint64_t>n.knobs.mtu_expires * SECOND)
    return p


cdef bint pmtu_too_big(Net *n, const Addr *dst, uint32_t mtu, uint32_t current) noexcept nogil:
    cdef Pmtu *p
    if addr_is_v4(dst):
        if n.knobs.ip_no_pmtu_disc == NO_REPORTS:
            return False
        if n.knobs.ip_no_pmtu_disc == NO_DISCOVERY:
            mtu = 0
        mtu = max(mtu, n.knobs.min_pmtu)
    else:
        mtu = max(mtu, <uint32_t>IP6MTU_MIN)                 # RFC 8201 §4
    p = pmtu_find(n, dst)
    if mtu >= current or (p != NULL and p.mtu != 0 and mtu >= p.mtu):        # RFC 1191 §3, RFC 8201 §4: never raised
        return False
    p = pmtu_get(n, dst)
    if p == NULL:
        return False
    p.mtu = mtu
    touch(n, p)
    return True


cdef void pmtu_search(Net *n, Pmtu *p, uint32_t low, uint32_t high) noexcept nogil:
    p.probing = 1
    p.low = low
    p.high = high
    touch(n, p)


cdef void pmtu_clear(Net *n) noexcept nogil:
    while n.pmtu_oldest != NULL:
        forget(n, n.pmtu_oldest)


cdef void pmtu_timer(Net *n, Pmtu *p) noexcept nogil:
    p.mtu = 0
    if p.probing:
        p.high = 0
        p.top_failed = 0
        touch(n, p)
    else:
        forget(n, p)
