"""TCP as a whole: its defaults (Linux's, see docs), its making and unmaking, and the flush that ends a batch."""
from libc.errno cimport ENOMEM
from libc.stdint cimport UINT64_MAX, uint32_t
from libc.string cimport memset

from ustack_ext.base.core cimport Core
from ustack_ext.base.entry cimport ENTRY_SYNREQ, ENTRY_TIMEWAIT, Entry
from ustack_ext.base.rng cimport rng_key
from ustack_ext.base.slab cimport slab_destroy, slab_free, slab_init
from ustack_ext.base.table cimport table_bucket, table_buckets, table_destroy, table_init
from ustack_ext.base.wheel cimport wheel_cancel
from ustack_ext.net.state cimport Net
from ustack_ext.tcp.congestion.ops cimport CC_COUNT, CC_CUBIC
from ustack_ext.tcp.conf cimport conf_unref
from ustack_ext.tcp.md5 cimport md5_drop
from ustack_ext.tcp.output cimport tcp_output
from ustack_ext.tcp.pathmtu cimport path_probe
from ustack_ext.tcp.reassembly cimport ofo_clear, rcvq_clear
from ustack_ext.tcp.sendqueue cimport sendq_clear
from ustack_ext.tcp.tcb cimport (
    FASTOPEN_CACHE, FASTOPEN_CLIENT, TF_DIRTY, TF_FREE, Bind, Cc, ConfCell, FastopenPeer, IndexNode, Listener, Reasm,
    Seg, SynReq, Tally, Tcb, Tcp, TcpKnobs, TimeWait, Tx,
)

cdef enum:
    BUCKETS = 16
    CONNECTIONS_MAX = 4000000
    SYNREQS_MAX = 65536
    SEGS_MAX = 4000000


cdef void knobs_default(TcpKnobs *k) noexcept nogil:
    k.rmem_min = 4096
    k.rmem_default = 131072
    k.rmem_max = 6291456
    k.wmem_min = 4096
    k.wmem_default = 16384
    k.wmem_max = 4194304
    k.syn_retries = 7                # one more than Linux: a SYN is tried for three minutes (RFC 9293 MUST-23)
    k.synack_retries = 5
    k.retries1 = 3
    k.retries2 = 15
    k.orphan_retries = 8
    k.timestamps = 1
    k.sack = 1
    k.dsack = 1
    k.window_scaling = 1
    k.slow_start_after_idle = 1
    k.moderate_rcvbuf = 1
    k.early_retrans = 3
    k.syncookies = 1
    k.tw_reuse = 2
    k.fastopen = FASTOPEN_CLIENT
    k.notsent_lowat = <uint32_t>0xFFFFFFFF
    k.ecn = 2
    k.ecn_fallback = 1
    k.congestion = CC_CUBIC
    k.congestion_allowed = (1 << CC_COUNT) - 1
    k.frto = 2
    k.rfc1337 = 1                      # Linux has 0: a reset would end TIME-WAIT there
    k.init_cwnd = 10
    k.fin_timeout = 60
    k.max_tw_buckets = 131072
    k.max_syn_backlog = 1024
    k.max_orphans = 131072
    k.keepalive_time = 7200
    k.keepalive_intvl = 75
    k.keepalive_probes = 9
    k.invalid_ratelimit = 500
    k.challenge_ack_limit = 1000
    k.rto_min_us = 200000
    k.rto_max_ms = 120000
    k.delack_min_us = 40000
    k.delack_max_us = 200000
    k.min_snd_mss = 48
    k.base_mss = 1024
    k.mtu_probe_floor = 48
    k.probe_threshold = 8
    k.somaxconn = 4096
    k.port_lo = 32768
    k.port_hi = 60999


cdef int tcp_init(Tcp *t, Core *core, Net *net) noexcept nogil:
    memset(t, 0, sizeof(Tcp))
    t.core = core
    t.net = net
    knobs_default(&t.knobs)
    t.key = rng_key(&core.rng)
    t.isn_key = rng_key(&core.rng)
    t.ts_key = rng_key(&core.rng)
    t.cookie_key[0] = rng_key(&core.rng)
    t.cookie_key[1] = rng_key(&core.rng)
    t.fastopen_key = rng_key(&core.rng)
    slab_init(&t.tcbs, sizeof(Tcb), CONNECTIONS_MAX)
    slab_init(&t.synreqs, sizeof(SynReq), SYNREQS_MAX)
    slab_init(&t.timewaits, sizeof(TimeWait), CONNECTIONS_MAX)
    slab_init(&t.segs, sizeof(Seg), SEGS_MAX)
    slab_init(&t.index_nodes, sizeof(IndexNode), SEGS_MAX)
    slab_init(&t.listeners_slab, sizeof(Listener), 65536)
    slab_init(&t.binds_slab, sizeof(Bind), 262144)
    slab_init(&t.reasms, sizeof(Reasm), CONNECTIONS_MAX)
    slab_init(&t.confs, sizeof(ConfCell), CONNECTIONS_MAX)
    slab_init(&t.txs, sizeof(Tx), CONNECTIONS_MAX)
    slab_init(&t.ccs, sizeof(Cc), CONNECTIONS_MAX)
    slab_init(&t.tallies, (sizeof(Tally) + 63) & ~63, CONNECTIONS_MAX)       # each on cache lines of its own
    slab_init(&t.fastopen_slab, sizeof(FastopenPeer), FASTOPEN_CACHE)
    t.no_tx.rto_at = UINT64_MAX
    t.no_tx.pace_at = UINT64_MAX
    t.no_tx.rate.app_limited = 1       # what is sent first is no more than was there to be sent
    if table_init(&t.conns, BUCKETS) or table_init(&t.listeners, BUCKETS) or table_init(&t.binds, BUCKETS) or (
            table_init(&t.fastopen_peers, BUCKETS)):
        return -ENOMEM
    return 0


cdef void tcp_flush(Tcp *t) noexcept nogil:
    cdef Tcb *c
    t.displaced = 0
    t.cookies = 0
    while t.dirty_head != NULL:
        c = t.dirty_head
        t.dirty_head = c.dirty_next
        if t.dirty_head == NULL:
            t.dirty_tail = NULL
        c.flags &= ~<uint32_t>TF_DIRTY
        if c.flags & TF_FREE:
            slab_free(&t.tcbs, c)
        else:
            if t.knobs.mtu_probing:
                path_probe(t, c)
            tcp_output(t, c)


cdef void drop_connections(Tcp *t) noexcept nogil:
    cdef uint32_t i
    cdef Entry *e
    cdef Entry *nxt
    cdef Tcb *c
    for i in range(table_buckets(&t.conns)):
        e = table_bucket(&t.conns, i)[0]
        while e != NULL:
            nxt = e.hnext
            wheel_cancel(&t.core.wheel, e)
            if e.kind != ENTRY_SYNREQ and e.kind != ENTRY_TIMEWAIT:
                c = <Tcb *>e
                sendq_clear(t, c)
                rcvq_clear(t, c)
                ofo_clear(t, c)
                conf_unref(t, c.conf)
            elif e.kind == ENTRY_TIMEWAIT:
                md5_drop((<TimeWait *>e).md5)
            e = nxt


cdef void tcp_destroy(Tcp *t) noexcept nogil:
    drop_connections(t)
    table_destroy(&t.conns)
    table_destroy(&t.listeners)
    table_destroy(&t.binds)
    slab_destroy(&t.tcbs)
    slab_destroy(&t.synreqs)
    slab_destroy(&t.timewaits)
    slab_destroy(&t.segs)
    slab_destroy(&t.index_nodes)
    slab_destroy(&t.listeners_slab)
    slab_destroy(&t.binds_slab)
    slab_destroy(&t.reasms)
    slab_destroy(&t.confs)
    slab_destroy(&t.txs)
    slab_destroy(&t.ccs)
    slab_destroy(&t.tallies)
    table_destroy(&t.fastopen_peers)
    slab_destroy(&t.fastopen_slab)
