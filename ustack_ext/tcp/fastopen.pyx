"""TCP Fast Open's cookies: RFC 7413.

A server's cookie is a keyed hash of the two addresses (§4.1.2), so that it keeps nothing. A client keeps the cookies it
was given, the latest FASTOPEN_CACHE of them (§4.1.3), and which paths swallow SYNs with data (§4.1.3.1). Knows no
connection.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from ustack_ext.base.core cimport count
from ustack_ext.base.slab cimport slab_alloc, slab_free
from ustack_ext.base.table cimport siphash, table_first, table_hash, table_insert, table_next, table_remove
from ustack_ext.net.mib cimport TCPFastOpenBlackhole
from ustack_ext.tcp.tcb cimport FASTOPEN_CACHE, FASTOPEN_CLIENT_NO_COOKIE, FASTOPEN_COOKIE_MAX
from ustack_ext.wire.addr cimport addr_eq

cdef enum:
    LOSSES_MAX = 10                # doublings of the pause: about 17 hours

cdef uint64_t PAUSE_NS = 60000000000

cdef struct Pair:
    Addr client
    Addr server


cdef void fastopen_cookie(Tcp *t, const Addr *client, const Addr *server, uint8_t *out) noexcept nogil:
    cdef Pair p
    cdef uint64_t value
    p.client = client[0]
    p.server = server[0]
    value = siphash(&t.fastopen_key, &p, sizeof(Pair))
    memcpy(out, &value, FASTOPEN_COOKIE)


cdef bint fastopen_cookie_right(Tcp *t, const Addr *client, const Addr *server, const uint8_t *cookie,
                                uint8_t n) noexcept nogil:
    cdef uint8_t right[FASTOPEN_COOKIE]
    fastopen_cookie(t, client, server, right)
    return n == FASTOPEN_COOKIE and memcmp(cookie, right, FASTOPEN_COOKIE) == 0


cdef FastopenPeer *fastopen_find(Tcp *t, const Addr *server) noexcept nogil:
    cdef uint32_t hash = table_hash(&t.key, server.hi, server.lo, 0, 0, 0)
    cdef FastopenPeer *p = <FastopenPeer *>table_first(&t.fastopen_peers, hash)
    while p != NULL and not addr_eq(&p.addr, server):
        p = <FastopenPeer *>table_next(&p.entry)
    return p


cdef void forget_oldest(Tcp *t) noexcept nogil:
    cdef FastopenPeer *p = t.fastopen_oldest
    t.fastopen_oldest = p.newer
    if p.newer == NULL:
        t.fastopen_newest = NULL
    table_remove(&t.fastopen_peers, &p.entry)
    slab_free(&t.fastopen_slab, p)


cdef FastopenPeer *remember(Tcp *t, const Addr *server) noexcept nogil:
    cdef FastopenPeer *p = fastopen_find(t, server)
    if p != NULL:
        return p
    if t.fastopen_peers.count >= FASTOPEN_CACHE:
        forget_oldest(t)
    p = <FastopenPeer *>slab_alloc(&t.fastopen_slab)
    if p == NULL:
        return NULL
    p.addr = server[0]
    if t.fastopen_newest == NULL:
        t.fastopen_oldest = p
    else:
        t.fastopen_newest.newer = p
    t.fastopen_newest = p
    table_insert(&t.fastopen_peers, &p.entry, table_hash(&t.key, server.hi, server.lo, 0, 0, 0))
    return p


cdef void fastopen_learn(Tcp *t, const Addr *server, uint16_t mss, const uint8_t *cookie, uint8_t n) noexcept nogil:
    cdef FastopenPeer *p = remember(t, server)
    if p == NULL or n > FASTOPEN_COOKIE_MAX:
        return
    p.mss = mss
    p.len = n
    p.losses = 0
    p.closed_until = 0
    memcpy(p.cookie, cookie, n)


cdef void fastopen_lost(Tcp *t, const Addr *server) noexcept nogil:
    cdef FastopenPeer *p = remember(t, server)
    if p == NULL:
        return
    count(t.core, TCPFastOpenBlackhole)
    p.closed_until = t.core.now + (PAUSE_NS << p.losses)
    if p.losses < LOSSES_MAX:
        p.losses += 1


cdef bint fastopen_may_send(Tcp *t, const Addr *server, const TcpConf *conf, FastopenPeer **peer) noexcept nogil:
    cdef FastopenPeer *p = fastopen_find(t, server)
    peer[0] = p
    if p != NULL and t.core.now < p.closed_until:
        return False
    if conf.fastopen_no_cookie or t.knobs.fastopen & FASTOPEN_CLIENT_NO_COOKIE:
        return True
    return p != NULL and p.len > 0
