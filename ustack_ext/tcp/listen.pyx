"""Passive opens: the SYN queue and the accept queue.

RFC 9293 §3.10.7.2 (LISTEN) and the passive half of SYN-RECEIVED. An entry of the SYN queue is small and bounded; when
the queue is full the oldest goes (RFC 4987 §3.3), so that a flood shortens the time a handshake may take but doesn't
stop it. Of one batch of frames only a few SYNs are let in that way, the others are dropped before anything is done for
them: most of what a flood costs is its answers, and that time is the established connections'.
"""
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t

from ustack_ext.base.core cimport count
from ustack_ext.base.entry cimport ENTRY_SYNREQ
from ustack_ext.base.event cimport EV_READABLE, event_raise
from ustack_ext.base.slab cimport slab_alloc, slab_free
from ustack_ext.base.table cimport table_insert, table_remove
from ustack_ext.base.wheel cimport wheel_arm, wheel_cancel
from ustack_ext.net.mib cimport (
    DropTcpNoAck, DropTcpOutOfWindow, DropTcpPaws, DropTcpRst, ListenDrops, ListenOverflows, PAWSEstab, TcpAttemptFails,
    TcpPassiveOpens, TCPReqQFullDrop, TcpRetransSegs,
)
from ustack_ext.tcp.conf cimport conf_ref
from ustack_ext.tcp.conn cimport acceptq_push, conn_hash, isn, tcb_insert, tcb_new, ts_offset_of
from ustack_ext.tcp.ecn cimport ecn_asked
from ustack_ext.tcp.establish cimport establish
from ustack_ext.tcp.options cimport OPT_MSS, OPT_SACK_OK, OPT_TS, OPT_WSCALE
from ustack_ext.tcp.output cimport send_bare, send_synack, ts_now, wscale_for
from ustack_ext.tcp.rtt cimport rtt_sample
from ustack_ext.tcp.segment cimport SegIn, reply_reset, segment_trim
from ustack_ext.tcp.seq cimport seq_geq, seq_gt, seq_lt
from ustack_ext.tcp.tcb cimport (
    TCP_MSS_DEFAULT_V4, TCP_MSS_DEFAULT_V6, TF_ECN_OK, TF_SACK_OK, TF_SYN_LOST, TF_TS_OK, TF_WS_OK, Conn, Listener,
    SynReq, Tcb, Tcp, tcp_hours,
)
from ustack_ext.wire.addr cimport addr_is_v4
from ustack_ext.wire.headers cimport TH_ACK, TH_FIN, TH_RST, TH_SYN

cdef enum:
    NS = 1000000000
    SYNACK_TIMEOUT_S = 1
    SYNQ_MIN = 128                 # entries a listener may have in SYN-RECEIVED, however short its backlog
    WINDOW_MAX = 65535
    DISPLACED_MAX = 8              # entries that SYNs of one batch may push out of full queues


cdef void listen_input(Tcp *t, Listener *l, SegIn *s, uint32_t iss) noexcept nogil:
    if s.h.flags & TH_RST:                                    # first: RST
        count(t.core, DropTcpRst)
        return
    if s.h.flags & TH_ACK:                                    # second: ACK
        reply_reset(t, s)
        return
    if not s.h.flags & TH_SYN or s.h.flags & TH_FIN:          # SYN with FIN is nobody's handshake
        count(t.core, DropTcpNoAck)
        return
    if l.acceptq > l.backlog:
        count(t.core, ListenOverflows)
        count(t.core, ListenDrops)
        return
    if l.synq >= max(min(l.backlog, t.knobs.max_syn_backlog), <uint32_t>SYNQ_MIN):
        count(t.core, TCPReqQFullDrop)
        if t.displaced >= DISPLACED_MAX:
            count(t.core, ListenDrops)
            return
        t.displaced += 1
        synreq_free(t, l.synq_oldest)
    open_request(t, l, s, iss)


cdef void open_request(Tcp *t, Listener *l, SegIn *s, uint32_t iss) noexcept nogil:
    cdef SynReq *r = <SynReq *>slab_alloc(&t.synreqs)
    if r == NULL:
        count(t.core, ListenDrops)
        return
    r.entry.kind = ENTRY_SYNREQ
    r.laddr = s.rx.dst
    r.raddr = s.rx.src
    r.lport = s.h.dport
    r.rport = s.h.sport
    r.listener = l
    r.irs = s.h.seq
    r.iss = iss if iss else isn(t, &r.laddr, r.lport, &r.raddr, r.rport)
    r.ts_offset = ts_offset_of(t, &r.laddr, &r.raddr, r.lport, r.rport)
    r.mss = s.o.mss if s.o.have & OPT_MSS else (TCP_MSS_DEFAULT_V4 if addr_is_v4(&r.raddr) else TCP_MSS_DEFAULT_V6)
    if s.o.have & OPT_TS and t.knobs.timestamps:
        r.opts |= TF_TS_OK
        r.ts_recent = s.o.tsval
    r.ecn = ecn_asked(t, s.h.flags, s.rx.tos)
    if s.o.have & OPT_SACK_OK and t.knobs.sack:
        r.opts |= TF_SACK_OK
    if s.o.have & OPT_WSCALE and t.knobs.window_scaling:
        r.opts |= TF_WS_OK
        r.snd_wscale = s.o.wscale
    r.rcv_wnd = <uint16_t>min(l.conf.rcvbuf // 2 if l.conf.rcvbuf else WINDOW_MAX, <uint32_t>WINDOW_MAX)
    r.sent_us = <uint32_t>(t.core.now // 1000)
    table_insert(&t.conns, &r.entry, conn_hash(t, &r.laddr, r.lport, &r.raddr, r.rport))
    r.older = l.synq_newest
    if l.synq_newest == NULL:
        l.synq_oldest = r
    else:
        l.synq_newest.newer = r
    l.synq_newest = r
    l.synq += 1
    wheel_arm(&t.core.wheel, &r.entry, t.core.now + <uint64_t>SYNACK_TIMEOUT_S * NS)
    send_synack(t, r)


cdef void synreq_free(Tcp *t, SynReq *r) noexcept nogil:
    cdef Listener *l = r.listener
    if r.older == NULL:
        l.synq_oldest = r.newer
    else:
        r.older.newer = r.newer
    if r.newer == NULL:
        l.synq_newest = r.older
    else:
        r.newer.older = r.older
    l.synq -= 1
    table_remove(&t.conns, &r.entry)
    wheel_cancel(&t.core.wheel, &r.entry)
    slab_free(&t.synreqs, r)


cdef void synreq_timer(Tcp *t, SynReq *r) noexcept nogil:
    if r.retries >= t.knobs.synack_retries:
        count(t.core, TcpAttemptFails)
        synreq_free(t, r)
        return
    r.retries += 1
    count(t.core, TcpRetransSegs)
    wheel_arm(&t.core.wheel, &r.entry, t.core.now + (<uint64_t>SYNACK_TIMEOUT_S * NS << r.retries))
    send_synack(t, r)


cdef void acknowledge(Tcp *t, SynReq *r) noexcept nogil:
    send_bare(t, <Conn *>r, r.iss + 1, r.irs + 1, r.rcv_wnd >> (wscale_for(t,
              r.listener.conf.rcvbuf) if r.opts & TF_WS_OK else 0), TH_ACK,
              (r.opts & TF_TS_OK) != 0, ts_now(t, r.ts_offset), r.ts_recent, r.listener.conf.tos)


cdef Tcb *synreq_input(Tcp *t, SynReq *r, SegIn *s) noexcept nogil:
    """RFC 9293 §3.10.7.4 for SYN-RECEIVED with a passive origin: sequence, RST, SYN, ACK."""
    cdef uint32_t rcv_nxt = r.irs + 1
    if s.h.flags & TH_SYN and s.h.seq == r.irs and not s.h.flags & (TH_ACK | TH_RST | TH_FIN):
        send_synack(t, r)                                     # their SYN again: our SYN-ACK was lost
        return NULL
    if r.opts & TF_TS_OK and s.o.have & OPT_TS and <int32_t>(s.o.tsval - r.ts_recent) < 0 and not s.h.flags & TH_RST:
        count(t.core, PAWSEstab)
        count(t.core, DropTcpPaws)
        acknowledge(t, r)
        return NULL
    if not s.h.flags & TH_RST and seq_lt(s.h.seq, rcv_nxt) and seq_gt(s.h.seq + s.len, rcv_nxt):
        segment_trim(s, rcv_nxt)                              # its end is in the window
    if not (seq_geq(s.h.seq, rcv_nxt) and seq_lt(s.h.seq, rcv_nxt + max(<uint32_t>r.rcv_wnd, <uint32_t>1))):
        count(t.core, DropTcpOutOfWindow)
        if not s.h.flags & TH_RST:
            acknowledge(t, r)
        return NULL
    if s.h.flags & TH_RST:
        if s.h.seq == rcv_nxt:                                # back to LISTEN (MUST-11)
            count(t.core, TcpAttemptFails)
            synreq_free(t, r)
        return NULL
    if s.h.flags & TH_SYN:
        acknowledge(t, r)                                     # RFC 5961 §4
        return NULL
    if not s.h.flags & TH_ACK:
        count(t.core, DropTcpNoAck)
        return NULL
    if s.h.ack != r.iss + 1:
        reply_reset(t, s)
        return NULL
    if r.listener.acceptq > r.listener.backlog:
        count(t.core, ListenOverflows)                        # the peer will try again: its data or our SYN-ACK
        if t.knobs.abort_on_overflow:
            reply_reset(t, s)
            synreq_free(t, r)
        return NULL
    return promote(t, r, s)


cdef Tcb *promote(Tcp *t, SynReq *r, SegIn *s) noexcept nogil:
    """The handshake is complete: the entry becomes a connection at the end of the accept queue."""
    cdef Listener *l = r.listener
    cdef Tcb *c = tcb_new(t)
    cdef uint32_t hash
    if c == NULL:
        count(t.core, ListenDrops)
        return NULL
    c.laddr = r.laddr
    c.raddr = r.raddr
    c.lport = r.lport
    c.rport = r.rport
    c.conf = conf_ref(l.conf)
    c.flags = r.opts | (TF_ECN_OK if r.ecn else 0)
    c.snd_una = r.iss + 1
    c.snd_nxt = r.iss + 1
    c.rcv_nxt = r.irs + 1
    c.rcv_adv = c.rcv_nxt + r.rcv_wnd
    c.last_ack_sent = c.rcv_nxt
    c.ts_offset = r.ts_offset
    c.ts_recent = r.ts_recent
    c.ts_recent_h = tcp_hours(t.core)
    c.irs = r.irs
    c.peer_mss = r.mss
    if r.retries > 1:
        c.flags |= TF_SYN_LOST
    if r.opts & TF_WS_OK:
        c.snd_wscale = r.snd_wscale
        c.rcv_wscale = wscale_for(t, l.conf.rcvbuf)
    c.snd_wnd = <uint32_t>s.h.wnd << c.snd_wscale
    c.snd_wl1 = s.h.seq
    if r.retries == 0:
        rtt_sample(t, c, <uint32_t>(t.core.now // 1000) - r.sent_us)
    hash = r.entry.hash
    synreq_free(t, r)
    establish(t, c)
    tcb_insert(t, c, hash)
    acceptq_push(l, c)
    count(t.core, TcpPassiveOpens)
    event_raise(&t.core.events, &l.source, EV_READABLE)
    return c
