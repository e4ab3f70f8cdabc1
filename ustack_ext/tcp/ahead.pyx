"""Looking ahead in a batch of frames.

With more connections than the cache holds, a segment waits for memory at each step that finds its connection: the
bucket, the chain, the control block with its lines. Over a batch these waits can run side by side: for every frame
first the hash is made and its bucket asked for, then the first entry of the chain, then all of the one with that hash,
then what it counts into.
The hash stays with the buffer (BUF_HASHED), so it isn't made twice.

Nothing is decided here. A frame that doesn't look like plain TCP is passed over, one that is wrong in any other way is
found out by who looks at it properly; a hash is that of the same bytes either way.
"""
from libc.stdint cimport uint8_t, uint32_t

from ustack_ext.base.buf cimport BUF_HASHED, Buf
from ustack_ext.base.entry cimport ENTRY_TCB, Entry
from ustack_ext.base.table cimport table_bucket, table_place
from ustack_ext.tcp.conn cimport conn_hash
from ustack_ext.tcp.tcb cimport Tcb, Tcp
from ustack_ext.wire.addr cimport Addr, addr_has_zone, addr_v4
from ustack_ext.wire.bytes cimport get_be16, get_be32
from ustack_ext.wire.headers cimport IP4_HLEN, IPPROTO_TCP_, TCP_HLEN
from ustack_ext.wire.ip6 cimport IP6_HLEN, addr_get

cdef extern from * nogil:
    void __builtin_prefetch(const void *) noexcept

cdef enum:
    MOST = 64                  # frames at a time
    CACHE_LINE = 64
    LINES = (sizeof(Tcb) + CACHE_LINE - 1) // CACHE_LINE
    IP4_PLAIN = 0x45           # version 4, no options
    IP4_FRAGMENT = 0x3FFF      # MF and the offset


cdef inline uint32_t plain_tcp(const uint8_t *p, uint32_t length, Addr *src, Addr *dst) noexcept nogil:
    """The length of the IP header if plain TCP follows it, and the addresses; else 0."""
    if (length >= IP4_HLEN + TCP_HLEN and p[0] == IP4_PLAIN and p[9] == IPPROTO_TCP_
            and get_be16(p + 6) & IP4_FRAGMENT == 0):
        src[0] = addr_v4(get_be32(p + 12))
        dst[0] = addr_v4(get_be32(p + 16))
        return IP4_HLEN
    if length >= IP6_HLEN + TCP_HLEN and p[0] >> 4 == 6 and p[6] == IPPROTO_TCP_:
        src[0] = addr_get(p + 8)
        dst[0] = addr_get(p + 24)
        if not addr_has_zone(src) and not addr_has_zone(dst):        # a table knows those with their zone
            return IP6_HLEN
    return 0


cdef void tcp_ahead(Tcp *t, Buf **bufs, int n, int l2) noexcept nogil:
    cdef const uint8_t *p
    cdef Addr ours, theirs
    cdef Entry *e
    cdef Entry *found[MOST]
    cdef Buf *b
    cdef uint32_t hlen
    cdef int i
    cdef int line
    n = min(n, <int>MOST)
    for i in range(n):
        b = bufs[i]
        p = b.data + b.off + l2
        hlen = plain_tcp(p, b.len - l2, &theirs, &ours) if b.len >= <uint32_t>l2 else 0
        if hlen == 0:
            continue
        b.seq = conn_hash(t, &ours, get_be16(p + hlen + 2), &theirs, get_be16(p + hlen))
        b.flags |= BUF_HASHED
        __builtin_prefetch(table_bucket(&t.conns, table_place(&t.conns, b.seq)))
    for i in range(n):
        if bufs[i].flags & BUF_HASHED:
            found[i] = table_bucket(&t.conns, table_place(&t.conns, bufs[i].seq))[0]
            if found[i] != NULL:
                __builtin_prefetch(&found[i].hash)
    for i in range(n):
        if bufs[i].flags & BUF_HASHED:
            e = found[i]
            while e != NULL and e.hash != bufs[i].seq:
                e = e.hnext
            found[i] = e
            if e != NULL:
                for line in range(LINES):
                    __builtin_prefetch(<const char *>e + line * CACHE_LINE)
    for i in range(n):
        if bufs[i].flags & BUF_HASHED and found[i] != NULL and found[i].kind == ENTRY_TCB:
            __builtin_prefetch((<Tcb *>found[i]).tally)
