"""Passive opens: the SYN queue and the accept queue.

RFC 9293 §3.10.7.2 (LISTEN) and the passive half of SYN-RECEIVED. An entry of the SYN queue is small and bounded; when
the queue is full SYNs are answered with cookies (tcp/cookies), which keep nothing. Without cookies the oldest entry
goes (RFC 4987 §3.3), so that a flood shortens the time a handshake may take but doesn't stop it. Of one batch of frames
only a few SYNs are served in such a way, the others are dropped before anything is done for them: most of what a flood
costs is its answers, and that time is the established connections'.
"""
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memset

from ustack_ext.base.core cimport count
from ustack_ext.base.entry cimport ENTRY_SYNREQ
from ustack_ext.base.event cimport EV_READABLE, event_raise
from ustack_ext.base.slab cimport slab_alloc, slab_free
from ustack_ext.base.table cimport table_insert, table_remove
from ustack_ext.base.wheel cimport wheel_arm, wheel_cancel
from ustack_ext.net.mib cimport (
    DropFlowTimeout, DropTcpNoAck, DropTcpOutOfWindow, DropTcpPaws, DropTcpRst, ListenDrops, ListenOverflows,
    PAWSEstab, TcpAttemptFails, TCPDeferAcceptDrop, TCPFastOpenCookieReqd, TCPFastOpenListenOverflow,
    TCPFastOpenPassive, TCPFastOpenPassiveFail, TcpPassiveOpens, TCPReqQFullDoCookies, TCPReqQFullDrop, TcpRetransSegs,
)
from ustack_ext.tcp.conf cimport conf_unref
from ustack_ext.tcp.conn cimport (
    acceptq_push, conn_hash, isn, tally_take, tcb_dirty, tcb_done, tcb_insert, ts_offset_of,
)
from ustack_ext.tcp.cookies cimport cookie_check, cookie_make, cookie_ts
from ustack_ext.tcp.ecn cimport ecn_asked
from ustack_ext.tcp.establish cimport establish, ready_to_send, tcb_of_request
from ustack_ext.tcp.fastopen cimport FASTOPEN_COOKIE, fastopen_cookie, fastopen_cookie_right
from ustack_ext.tcp.md5 cimport md5_key
from ustack_ext.tcp.options cimport OPT_FASTOPEN, OPT_MSS, OPT_SACK_OK, OPT_TS, OPT_WSCALE
from ustack_ext.tcp.output cimport send_bare, send_syn, send_synack, ts_now, wscale_for
from ustack_ext.tcp.reassembly cimport rcvq_append
from ustack_ext.tcp.rtt cimport rtt_sample
from ustack_ext.tcp.segment cimport SegIn, reply_reset, segment_trim
from ustack_ext.tcp.sendqueue cimport tx_take
from ustack_ext.tcp.seq cimport seq_geq, seq_gt, seq_lt
from ustack_ext.tcp.tcb cimport (
    FASTOPEN_ANY_LISTENER, FASTOPEN_SERVER, FASTOPEN_SERVER_NO_COOKIE, REQ_ACKED, REQ_DEFERRED, REQ_ECN,
    TCP_MSS_DEFAULT_V4, TCP_MSS_DEFAULT_V6,
    TCP_SYN_RECV, TF_FASTOPEN, TF_SACK_OK, TF_SYN_DATA, TF_SYN_LOST, TF_TS_OK, TF_WS_OK, Conn, Listener, SynReq, Tcb,
    Tcp,
)
from ustack_ext.wire.addr cimport addr_is_v4
from ustack_ext.wire.headers cimport TH_ACK, TH_FIN, TH_RST, TH_SYN

cdef enum:
    NS = 1000000000
    SYNACK_TIMEOUT_S = 1
    SYNQ_MIN = 128                 # entries a listener may have in SYN-RECEIVED, however short its backlog
    WINDOW_MAX = 65535
    COOKIES_MAX = 8                # SYNs of one batch that are answered with cookies
    DISPLACED_MAX = 8              # entries that SYNs of one batch may push out of full queues


cdef bint queue_full(Tcp *t, const Listener *l) noexcept nogil:
    return l.synq >= max(min(l.backlog, t.knobs.max_syn_backlog), <uint32_t>SYNQ_MIN)


cdef Tcb *listen_input(Tcp *t, Listener *l, SegIn *s, uint32_t iss) noexcept nogil:
    if s.h.flags & TH_RST:                                    # first: RST
        count(t.core, DropTcpRst)
        return NULL
    if s.h.flags & TH_ACK:                                    # second: ACK
        return returned_cookie(t, l, s)
    if not s.h.flags & TH_SYN or s.h.flags & TH_FIN:          # SYN with FIN is nobody's handshake
        count(t.core, DropTcpNoAck)
        return NULL
    if l.acceptq > l.backlog:
        count(t.core, ListenOverflows)
        count(t.core, ListenDrops)
    elif t.knobs.syncookies == 2 and iss == 0:
        send_cookie(t, l, s)
    elif not queue_full(t, l):
        open_request(t, l, s, iss)
    elif t.knobs.syncookies and iss == 0:
        count(t.core, TCPReqQFullDoCookies)
        send_cookie(t, l, s)
    else:
        count(t.core, TCPReqQFullDrop)
        if t.displaced >= DISPLACED_MAX:
            count(t.core, ListenDrops)
            return NULL
        t.displaced += 1
        synreq_free(t, l.synq_oldest)
        open_request(t, l, s, iss)
    return NULL


cdef void read_syn(Tcp *t, Listener *l, const SegIn *s, SynReq *r) noexcept nogil:
    """What a SYN says."""
    r.laddr = s.rx.dst
    r.raddr = s.rx.src
    r.lport = s.h.dport
    r.rport = s.h.sport
    r.listener = l
    r.irs = s.h.seq
    r.ts_offset = ts_offset_of(t, &r.laddr, &r.raddr, r.lport, r.rport)
    r.mss = s.o.mss if s.o.have & OPT_MSS else (TCP_MSS_DEFAULT_V4 if addr_is_v4(&r.raddr) else TCP_MSS_DEFAULT_V6)
    if s.o.have & OPT_TS and t.knobs.timestamps:
        r.opts |= TF_TS_OK
        r.ts_recent = s.o.tsval
    if ecn_asked(t, s.h.flags, s.rx.tos):
        r.marks |= REQ_ECN
    if s.o.have & OPT_SACK_OK and t.knobs.sack:
        r.opts |= TF_SACK_OK
    if s.o.have & OPT_WSCALE and t.knobs.window_scaling:
        r.opts |= TF_WS_OK
        r.snd_wscale = s.o.wscale
    r.rcv_wnd = first_window(l)
    r.sent_us = <uint32_t>(t.core.now // 1000)


cdef uint16_t first_window(const Listener *l) noexcept nogil:
    cdef uint32_t most = l.conf.rcvbuf // 2 if l.conf.rcvbuf else WINDOW_MAX
    if l.conf.window_clamp:
        most = min(most, l.conf.window_clamp)
    return <uint16_t>min(most, <uint32_t>WINDOW_MAX)


# ---- SYN cookies ----

cdef void send_cookie(Tcp *t, Listener *l, SegIn *s) noexcept nogil:
    """An answer that leaves nothing behind here."""
    cdef SynReq r
    if t.cookies >= COOKIES_MAX:
        count(t.core, ListenDrops)
        return
    t.cookies += 1
    memset(&r, 0, sizeof(SynReq))
    read_syn(t, l, s, &r)
    cookie_make(t, l, &r)
    send_synack(t, &r, cookie_ts(t, &r), NULL)


cdef Tcb *returned_cookie(Tcp *t, Listener *l, SegIn *s) noexcept nogil:
    cdef SynReq r
    memset(&r, 0, sizeof(SynReq))
    if s.h.flags & TH_SYN or not cookie_check(t, l, s, &r):
        reply_reset(t, s)
        return NULL
    if l.acceptq > l.backlog:
        count(t.core, ListenOverflows)
        return NULL
    r.rcv_wnd = first_window(l)
    r.entry.hash = conn_hash(t, &r.laddr, r.lport, &r.raddr, r.rport)
    return promote(t, &r, s, False)


# ---- the SYN queue ----

cdef void open_request(Tcp *t, Listener *l, SegIn *s, uint32_t iss) noexcept nogil:
    cdef SynReq *r = <SynReq *>slab_alloc(&t.synreqs)
    cdef uint8_t cookie[FASTOPEN_COOKIE]
    cdef const uint8_t *offer = NULL
    if r == NULL:
        count(t.core, ListenDrops)
        return
    r.entry.kind = ENTRY_SYNREQ
    read_syn(t, l, s, r)
    if r.opts & TF_SACK_OK and md5_key(l.conf.md5, &r.raddr) != NULL:
        r.opts &= <unsigned char>~TF_TS_OK                    # as Linux: beside both there is no room for a block
    r.iss = iss if iss else isn(t, &r.laddr, r.lport, &r.raddr, r.rport)
    if t.knobs.fastopen & FASTOPEN_SERVER and (s.o.have & OPT_FASTOPEN or s.n > 0):
        if open_fast(t, l, s, r):
            slab_free(&t.synreqs, r)
            return
        if s.o.have & OPT_FASTOPEN and fastopen_limit(t, l):
            fastopen_cookie(t, &r.raddr, &r.laddr, cookie)
            offer = cookie
    synreq_insert(t, r, <uint64_t>SYNACK_TIMEOUT_S * NS)
    send_synack(t, r, ts_now(t, r.ts_offset), offer)


# ---- fast open (RFC 7413 §4.2) ----

cdef uint32_t fastopen_limit(const Tcp *t, const Listener *l) noexcept nogil:
    """How many connections may be open before their handshake is done; 0: none."""
    if l.conf.fastopen == 0 and t.knobs.fastopen & FASTOPEN_ANY_LISTENER:
        return l.backlog
    return l.conf.fastopen


cdef bint open_fast(Tcp *t, Listener *l, SegIn *s, const SynReq *r) noexcept nogil:
    """A SYN with a right cookie: the connection is there at once, with the SYN's data. False: nothing is done."""
    cdef Tcb *c
    cdef uint32_t limit = fastopen_limit(t, l)
    cdef bint with_cookie = (s.o.have & OPT_FASTOPEN) != 0 and s.o.fastopen_len > 0
    if limit == 0:
        return False
    if not (t.knobs.fastopen & FASTOPEN_SERVER_NO_COOKIE or l.conf.fastopen_no_cookie) or s.n == 0 and not with_cookie:
        if not with_cookie:
            if s.o.have & OPT_FASTOPEN:
                count(t.core, TCPFastOpenCookieReqd)
            return False
        if not fastopen_cookie_right(t, &r.raddr, &r.laddr, s.o.fastopen, s.o.fastopen_len):
            count(t.core, TCPFastOpenPassiveFail)
            return False
    if t.n_fastopen >= limit:
        count(t.core, TCPFastOpenListenOverflow)
        return False
    c = tcb_of_request(t, r)
    if c == NULL:
        return False
    if not tx_take(t, c):
        drop_new(t, c)
        return False
    c.tx.iss = r.iss
    c.tx.high_sacked = r.iss
    c.state = TCP_SYN_RECV
    c.flags |= TF_FASTOPEN
    t.n_fastopen += 1
    c.snd_wnd = s.h.wnd                                      # RFC 7323 §2.2: not scaled in a SYN
    c.snd_wl1 = s.h.seq
    ready_to_send(t, c)
    tcb_insert(t, c, conn_hash(t, &c.laddr, c.lport, &c.raddr, c.rport))
    acceptq_push(l, c)
    tcb_dirty(t, c)
    tally_take(t, c)
    if s.n > 0 and rcvq_append(t, c, s.rx.buf, s.data, s.n):
        c.rcv_nxt += s.n
        c.tally.bytes_received += s.n
        c.flags |= TF_SYN_DATA
    if not send_syn(t, c, False):                                   # no record to be had
        tcb_done(t, c, 0)
        return False
    count(t.core, TCPFastOpenPassive)
    event_raise(&t.core.events, &l.source, EV_READABLE)
    return True


cdef void synreq_insert(Tcp *t, SynReq *r, uint64_t ns) noexcept nogil:
    cdef Listener *l = r.listener
    table_insert(&t.conns, &r.entry, conn_hash(t, &r.laddr, r.lport, &r.raddr, r.rport))
    r.older = l.synq_newest
    if l.synq_newest == NULL:
        l.synq_oldest = r
    else:
        l.synq_newest.newer = r
    l.synq_newest = r
    l.synq += 1
    wheel_arm(&t.core.wheel, &r.entry, t.core.now + ns)


cdef void synreq_free(Tcp *t, SynReq *r) noexcept nogil:
    cdef Listener *l = r.listener
    if t.forward.untaken == r:
        t.forward.untaken = r.newer
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


cdef uint8_t synack_tries(const Tcp *t, const SynReq *r) noexcept nogil:
    return r.listener.conf.syncnt if r.listener.conf.syncnt else t.knobs.synack_retries


cdef void synreq_timer(Tcp *t, SynReq *r) noexcept nogil:
    cdef uint8_t defer = r.listener.conf.defer_accept
    if r.marks & REQ_DEFERRED:
        count(t.core, DropFlowTimeout)
        synreq_free(t, r)
        return
    if r.retries >= synack_tries(t, r) and (not r.marks & REQ_ACKED or r.retries >= defer):
        count(t.core, TcpAttemptFails)
        synreq_free(t, r)
        return
    r.retries += 1
    wheel_arm(&t.core.wheel, &r.entry, t.core.now + (<uint64_t>SYNACK_TIMEOUT_S * NS << min(r.retries, 7)))
    if not r.marks & REQ_ACKED or r.retries >= defer:          # one that only waits for data is left alone until then
        count(t.core, TcpRetransSegs)
        send_synack(t, r, ts_now(t, r.ts_offset), NULL)


cdef void acknowledge(Tcp *t, SynReq *r) noexcept nogil:
    send_bare(t, <Conn *>r, r.iss + 1, r.irs + 1, r.rcv_wnd >> (wscale_for(t,
              r.listener.conf.rcvbuf) if r.opts & TF_WS_OK else 0), TH_ACK,
              (r.opts & TF_TS_OK) != 0, ts_now(t, r.ts_offset), r.ts_recent, r.listener.conf.tos,
              md5_key(r.listener.conf.md5, &r.raddr))


cdef Tcb *synreq_input(Tcp *t, SynReq *r, SegIn *s) noexcept nogil:
    """RFC 9293 §3.10.7.4 for SYN-RECEIVED with a passive origin: sequence, RST, SYN, ACK."""
    cdef uint32_t rcv_nxt = r.irs + 1
    if r.marks & REQ_DEFERRED:                                # a SYN again says nothing new; a RST takes it back
        if s.h.flags & TH_RST and s.h.seq == rcv_nxt:
            synreq_free(t, r)
        return NULL
    if s.h.flags & TH_SYN and s.h.seq == r.irs and not s.h.flags & (TH_ACK | TH_RST | TH_FIN):
        # their SYN again: our SYN-ACK was lost
        send_synack(t, r, ts_now(t, r.ts_offset), NULL)
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
    if r.listener.conf.defer_accept > r.retries and s.len == 0:
        r.marks |= REQ_ACKED                                 # TCP_DEFER_ACCEPT
        count(t.core, TCPDeferAcceptDrop)
        return NULL
    return promote(t, r, s, True)


cdef void drop_new(Tcp *t, Tcb *c) noexcept nogil:
    """Of a connection that is in no table yet."""
    conf_unref(t, c.conf)
    slab_free(&t.tcbs, c)


cdef Tcb *promote(Tcp *t, SynReq *r, SegIn *s, bint listed) noexcept nogil:
    """The handshake is complete: the entry becomes a connection at the end of the accept queue."""
    cdef Listener *l = r.listener
    cdef Tcb *c = tcb_of_request(t, r)
    cdef uint32_t hash = r.entry.hash
    if c == NULL:
        count(t.core, ListenDrops)
        return NULL
    c.snd_una += 1
    c.snd_nxt += 1
    if r.retries > 1:
        c.flags |= TF_SYN_LOST
    c.snd_wnd = <uint32_t>s.h.wnd << c.snd_wscale
    c.snd_wl1 = s.h.seq
    if r.retries == 0:
        rtt_sample(t, c, <uint32_t>(t.core.now // 1000) - r.sent_us)
    if listed:
        synreq_free(t, r)
    establish(t, c)
    tcb_insert(t, c, hash)
    acceptq_push(l, c)
    count(t.core, TcpPassiveOpens)
    event_raise(&t.core.events, &l.source, EV_READABLE)
    return c
