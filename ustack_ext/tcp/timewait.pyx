"""The small struct a connection leaves behind (RFC 9293 §3.6; RFC 1337: resets don't end it; RFC 6191: a newer SYN
may).
"""
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t

from ustack_ext.base.core cimport count
from ustack_ext.base.entry cimport ENTRY_TIMEWAIT
from ustack_ext.base.slab cimport slab_alloc, slab_free
from ustack_ext.base.table cimport table_insert, table_remove
from ustack_ext.base.wheel cimport wheel_arm, wheel_cancel
from ustack_ext.net.mib cimport TW, TWRecycled, DropTcpNoAck, DropTcpPaws, DropTcpRst, PAWSTimewait, TCPTimeWaitOverflow
from ustack_ext.tcp.conn cimport tcb_done
from ustack_ext.tcp.md5 cimport md5_drop, md5_hold, md5_key
from ustack_ext.tcp.options cimport OPT_TS
from ustack_ext.tcp.output cimport send_bare, ts_now
from ustack_ext.tcp.segment cimport SegIn
from ustack_ext.tcp.seq cimport seq_gt
from ustack_ext.tcp.tcb cimport TF_TS_OK, Conn, Tcb, Tcp, TimeWait, tcb_rcv_wnd
from ustack_ext.wire.headers cimport TH_ACK, TH_FIN, TH_RST, TH_SYN

cdef enum:
    TIMEWAIT_S = 60                # 2 MSL in Linux's practice
    NS = 1000000000
    NEW_ISS_GAP = 65537            # beyond any window the old incarnation could have had open


cdef void timewait_from(Tcp *t, Tcb *c) noexcept nogil:
    cdef TimeWait *w
    cdef uint32_t hash = c.entry.hash
    if t.n_timewait >= t.knobs.max_tw_buckets and t.tw_oldest != NULL:
        count(t.core, TCPTimeWaitOverflow)
        timewait_free(t, t.tw_oldest)
    w = <TimeWait *>slab_alloc(&t.timewaits)
    if w != NULL:
        w.entry.kind = ENTRY_TIMEWAIT
        w.laddr = c.laddr
        w.raddr = c.raddr
        w.lport = c.lport
        w.rport = c.rport
        w.snd_nxt = c.snd_nxt
        w.rcv_nxt = c.rcv_nxt
        w.rcv_wnd = <uint16_t>min(tcb_rcv_wnd(c) >> c.rcv_wscale, <uint32_t>0xFFFF)
        w.ts_recent = c.ts_recent
        w.ts_recent_s = <uint32_t>(t.core.now // NS)
        w.ts_offset = c.ts_offset
        w.ts_ok = (c.flags & TF_TS_OK) != 0
        w.tos = c.conf.tos
        w.md5 = md5_hold(c.conf.md5)
        t.n_timewait += 1
        count(t.core, TW)
    tcb_done(t, c, 0)
    if w == NULL:
        return
    table_insert(&t.conns, &w.entry, hash)
    enlist(t, w)
    wheel_arm(&t.core.wheel, &w.entry, t.core.now + <uint64_t>TIMEWAIT_S * NS)


cdef void enlist(Tcp *t, TimeWait *w) noexcept nogil:
    w.older = t.tw_newest
    w.newer = NULL
    if t.tw_newest == NULL:
        t.tw_oldest = w
    else:
        t.tw_newest.newer = w
    t.tw_newest = w


cdef void delist(Tcp *t, TimeWait *w) noexcept nogil:
    if w.older == NULL:
        t.tw_oldest = w.newer
    else:
        w.older.newer = w.newer
    if w.newer == NULL:
        t.tw_newest = w.older
    else:
        w.newer.older = w.older


cdef void timewait_free(Tcp *t, TimeWait *w) noexcept nogil:
    delist(t, w)
    table_remove(&t.conns, &w.entry)
    wheel_cancel(&t.core.wheel, &w.entry)
    t.n_timewait -= 1
    md5_drop(w.md5)
    slab_free(&t.timewaits, w)


cdef void acknowledge(Tcp *t, TimeWait *w) noexcept nogil:
    send_bare(t, <Conn *>w, w.snd_nxt, w.rcv_nxt, w.rcv_wnd, TH_ACK, w.ts_ok, ts_now(t, w.ts_offset), w.ts_recent,
              w.tos, md5_key(w.md5, &w.raddr))


cdef bint timewait_input(Tcp *t, TimeWait *w, SegIn *s, uint32_t *iss) noexcept nogil:
    cdef bint with_ts = w.ts_ok and s.o.have & OPT_TS
    cdef bint older = with_ts and <int32_t>(s.o.tsval - w.ts_recent) < 0
    if s.h.flags & TH_RST:
        count(t.core, DropTcpRst)
        if not t.knobs.rfc1337 and s.h.seq == w.rcv_nxt:
            timewait_free(t, w)
        return False
    if s.h.flags & TH_SYN and not s.h.flags & TH_ACK:
        if not older and (seq_gt(s.h.seq, w.rcv_nxt) or (with_ts and s.o.tsval != w.ts_recent)):
            iss[0] = w.snd_nxt + NEW_ISS_GAP
            if iss[0] == 0:
                iss[0] = 1
            timewait_free(t, w)
            count(t.core, TWRecycled)
            return True
        acknowledge(t, w)
        return False
    if not s.h.flags & TH_ACK:
        count(t.core, DropTcpNoAck)
        return False
    if older:
        count(t.core, PAWSTimewait)
        count(t.core, DropTcpPaws)
        acknowledge(t, w)
        return False
    # the peer's FIN again: our ACK was lost; 2 MSL from now
    if s.h.flags & TH_FIN and s.h.seq + s.len == w.rcv_nxt:
        wheel_arm(&t.core.wheel, &w.entry, t.core.now + <uint64_t>TIMEWAIT_S * NS)
        delist(t, w)
        enlist(t, w)
        acknowledge(t, w)
    elif s.len > 0 or s.h.seq != w.rcv_nxt:
        acknowledge(t, w)
    return False
