"""SEGMENT ARRIVES: RFC 9293 §3.10.7, in the RFC's own order.

tcp_input finds whose segment it is; segment_arrives takes it through the steps: sequence number, RST, SYN, ACK, URG,
data, FIN (security and precedence are not ours). Nothing is sent from here that can wait for the end of the batch
(MUST-58, MUST-59): the connection is put on the dirty list and tcp_flush sends.
"""
from libc.errno cimport ECONNREFUSED, ECONNRESET, EPIPE
from libc.stdint cimport int32_t, uint16_t, uint32_t

from ustack_ext.base.buf cimport BUF_HASHED, Buf, buf_unref
from ustack_ext.base.core cimport count
from ustack_ext.base.entry cimport ENTRY_SYNREQ, ENTRY_TIMEWAIT
from ustack_ext.base.event cimport EV_HANGUP, EV_READABLE, EV_WRITABLE
from ustack_ext.net.mib cimport (
    DropTcpBadAck, DropTcpClosedData, DropTcpNoAck, DropTcpNoSocket, DropTcpOldAck, DropTcpOutOfWindow, DropTcpPaws,
    DropTcpRst, PAWSActive, PAWSEstab, TCPAbortOnData, TcpAttemptFails, TCPDSACKOldSent, TcpEstabResets,
    TCPFastOpenActive, TCPFastOpenActiveFail, TCPHPHits, TCPOFOQueue, TCPPureAcks, TCPRcvQDrop, TCPSYNChallenge,
    TCPZeroWindowDrop,
)
from ustack_ext.net.net cimport net_confirm
from ustack_ext.net.state cimport RX_FOREIGN, RxPkt
from ustack_ext.tcp.ackpolicy cimport ack_data, challenge_ack, out_of_window_ack
from ustack_ext.tcp.conn cimport (
    conn_find, conn_find_hashed, fastopen_done, listener_find, tally_take, tcb_dirty, tcb_done, tcb_raise,
)
from ustack_ext.tcp.ecn cimport ecn_answered, ecn_data
from ustack_ext.tcp.establish cimport establish, take_syn_options
from ustack_ext.tcp.fastopen cimport fastopen_learn
from ustack_ext.tcp.forward cimport forward_syn
from ustack_ext.tcp.listen cimport listen_input, synreq_input
from ustack_ext.tcp.md5 cimport md5_accepts
from ustack_ext.tcp.options cimport OPT_FASTOPEN, OPT_MD5, OPT_SACK, OPT_TS, OPT_UTO
from ustack_ext.tcp.output cimport send_ack, send_syn, syn_offers, tune_sndbuf, ts_now, window_limit
from ustack_ext.tcp.reassembly cimport dsack_note, ofo_clear, ofo_collect, ofo_insert, rcvq_append, rcvq_append_run
from ustack_ext.tcp.recovery cimport recovery_ack, recovery_late, recovery_refused
from ustack_ext.tcp.segment cimport SegIn, md5_keys_of, reply_reset, segment_parse, segment_trim
from ustack_ext.tcp.seq cimport seq_geq, seq_gt, seq_leq, seq_lt
from ustack_ext.tcp.tcb cimport (
    TCP_CLOSE_WAIT, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LAST_ACK, TCP_SYN_RECV,
    TCP_SYN_SENT, TF_ACK_NOW, TF_DEAD, TF_ECN_ECE, TF_ECN_OK, TF_FASTOPEN, TF_FASTOPEN_ASKED, TF_FIN_OOO, TF_FIN_RCVD,
    TF_FIN_SENT, TF_ORPHAN, TF_SACK_OK, TF_SYN_DATA, TF_TS_OK, TF_WANT_ROOM, Conn, Listener, Md5Keys, SynReq, Tcb, Tcp,
    TimeWait, fin_timeout_ns, has_gap, tcb_has_room, tcb_rcv_wnd, tcp_hours, tcp_ms,
)
from ustack_ext.tcp.timewait cimport timewait_from, timewait_input
from ustack_ext.tcp.urgent cimport urgent_arrives
from ustack_ext.tcp.uto cimport uto_arrives
from ustack_ext.tcp.windows cimport window_grow
from ustack_ext.wire.headers cimport TH_ACK, TH_ECE, TH_FIN, TH_PSH, TH_RST, TH_SYN, TH_URG

cdef enum:
    PAWS_IDLE_H = 24 * 24       # RFC 7323 §5.5: after 24 days TS.Recent says nothing
    OFO_TRUESIZE_FACTOR = 2


cdef inline bint signed_right(Tcp *t, const Md5Keys *keys, const SegIn *s) noexcept nogil:
    """RFC 2385 §2.0: first of all, and nothing is answered."""
    return (keys == NULL and not s.o.have & OPT_MD5) or md5_accepts(t, keys, s.rx, &s.h, &s.o)


cdef void tcp_input(Tcp *t, RxPkt *rx) noexcept nogil:
    cdef SegIn s
    cdef Conn *who
    cdef Tcb *c
    cdef Listener *l
    cdef uint32_t iss = 0
    if not segment_parse(t, rx, &s):
        return
    if rx.buf.flags & BUF_HASHED:
        who = conn_find_hashed(t, rx.buf.seq, &rx.dst, s.h.dport, &rx.src, s.h.sport)
    else:
        who = conn_find(t, &rx.dst, s.h.dport, &rx.src, s.h.sport)
    if who != NULL:
        if not signed_right(t, md5_keys_of(who), &s):
            return
        if who.entry.kind == ENTRY_TIMEWAIT:
            if not timewait_input(t, <TimeWait *>who, &s, &iss):
                return
        else:
            c = synreq_input(t, <SynReq *>who, &s) if who.entry.kind == ENTRY_SYNREQ else <Tcb *>who
            if c != NULL:
                segment_arrives(t, c, &s)
            return
    l = listener_find(t, &rx.dst, s.h.dport, &rx.src, s.h.sport) if not rx.flags & RX_FOREIGN else NULL
    if l != NULL:
        if not signed_right(t, l.conf.md5, &s):
            return
        c = listen_input(t, l, &s, iss)
        if c != NULL:
            segment_arrives(t, c, &s)
        return
    if t.forward.on and signed_right(t, NULL, &s) and forward_syn(t, &s, iss):
        return
    count(t.core, DropTcpNoSocket)
    reply_reset(t, &s)


cdef bint predicted(Tcp *t, Tcb *c, SegIn *s) noexcept nogil:
    """What nearly every segment of an established connection is: in order, new data or a new ACK or both, and nothing
    else. True: all of it is done here. False: nothing is.
    """
    cdef uint32_t new = s.h.ack - c.snd_una
    if (c.state != TCP_ESTABLISHED or s.h.flags & ~TH_PSH != TH_ACK or s.h.seq != c.rcv_nxt or has_gap(c)
            or s.n > tcb_rcv_wnd(c) or c.flags & (TF_ORPHAN | TF_FIN_OOO)):
        return False
    if new == 0:
        if s.n == 0:                                         # a duplicate, a window update, an answer to a probe
            return False
    elif new > c.snd_nxt - c.snd_una:
        return False
    if c.flags & TF_TS_OK:
        if s.o.have != OPT_TS or <int32_t>(s.o.tsval - c.ts_recent) < 0:
            return False
        note_timestamp(t, c, s)
    elif s.o.have & ~OPT_MD5:
        return False
    count(t.core, TCPHPHits)
    if s.n == 0:
        count(t.core, TCPPureAcks)
    take_window(c, s)
    c.probes = 0
    if new != 0:
        take_new_ack(t, c, s)
    if s.n > 0:
        if c.flags & TF_ECN_OK:
            ecn_data(c, s.h.flags, s.rx.tos)
        in_order(t, c, s)
    c.last_recv = tcp_ms(t.core)
    return True


cdef void segment_arrives(Tcp *t, Tcb *c, SegIn *s) noexcept nogil:
    c.tally.segs_in += s.segs
    tcb_dirty(t, c)                    # from here the Tcb outlives this function, whatever becomes of the connection
    if predicted(t, c, s):
        return
    if c.state == TCP_SYN_SENT:
        in_syn_sent(t, c, s)
        return
    if not timestamp_ok(t, c, s) or not sequence_ok(t, c, s):
        return
    if s.h.flags & TH_RST:
        take_reset(t, c, s)
        return
    if s.h.flags & TH_SYN:                                   # RFC 5961 §4: whatever its sequence number
        count(t.core, TCPSYNChallenge)
        challenge_ack(t, c)
        return
    if not s.h.flags & TH_ACK:
        count(t.core, DropTcpNoAck)
        return
    if not take_ack(t, c, s):
        return
    note_timestamp(t, c, s)
    if s.o.have & OPT_UTO:
        uto_arrives(t, c, s.o.uto)
    if s.h.flags & TH_URG:
        urgent_arrives(t, c, s.h.seq - s.cut, s.h.urg)
    if s.n > 0:
        if c.flags & TF_ECN_OK:
            ecn_data(c, s.h.flags, s.rx.tos)
        take_data(t, c, s)
    if c.flags & TF_DEAD:
        return
    if s.h.flags & TH_FIN:
        note_fin(c, s)
    if c.flags & TF_FIN_OOO and c.fin_seq == c.rcv_nxt:
        take_fin(t, c)
    c.last_recv = tcp_ms(t.core)


# ---- SYN-SENT (§3.10.7.3) ----

cdef void in_syn_sent(Tcp *t, Tcb *c, SegIn *s) noexcept nogil:
    cdef bint acked = (s.h.flags & TH_ACK) != 0
    cdef uint16_t with_syn = c.tx.fastopen
    if acked and (seq_leq(s.h.ack, c.tx.iss) or seq_gt(s.h.ack, c.snd_nxt)):
        count(t.core, DropTcpBadAck)
        reply_reset(t, s)
        return
    if acked and s.o.have & OPT_TS and s.o.tsecr and <int32_t>(s.o.tsecr - ts_now(t, c.ts_offset)) > 0:
        count(t.core, PAWSActive)                            # echoes a time that has not been yet
        reply_reset(t, s)
        return
    if s.h.flags & TH_RST:
        count(t.core, DropTcpRst)
        if acked:
            count(t.core, TcpAttemptFails)
            tcb_done(t, c, ECONNREFUSED)
        return
    if not s.h.flags & TH_SYN:
        count(t.core, DropTcpNoAck)
        return
    c.irs = s.h.seq
    c.rcv_nxt = s.h.seq + 1
    c.last_ack_sent = c.rcv_nxt
    c.rcv_adv = c.rcv_nxt + min(window_limit(t, c), <uint32_t>65535)
    take_syn_options(t, c, &s.o, syn_offers(t, c))
    if s.o.have & OPT_UTO:
        uto_arrives(t, c, s.o.uto)
    c.snd_wnd = s.h.wnd                                      # RFC 7323 §2.2: not scaled in a SYN
    c.max_snd_wnd = c.snd_wnd
    c.snd_wl1 = s.h.seq
    ecn_answered(c, s.h.flags)
    if not acked:                                            # simultaneous open (MUST-10)
        c.state = TCP_SYN_RECV
        send_syn(t, c, True)
        return
    recovery_ack(t, c, s.h.ack, &s.o, False)
    establish(t, c)
    c.flags |= TF_ACK_NOW
    if c.flags & TF_FASTOPEN_ASKED:
        fastopen_answered(t, c, s, with_syn)
    segment_trim(s, c.rcv_nxt)
    if s.h.flags & TH_URG:
        urgent_arrives(t, c, s.h.seq - s.cut, s.h.urg)
    if s.n > 0:
        take_data(t, c, s)
    if s.h.flags & TH_FIN and not c.flags & TF_DEAD:
        note_fin(c, s)
        if c.flags & TF_FIN_OOO and c.fin_seq == c.rcv_nxt:
            take_fin(t, c)


cdef void fastopen_answered(Tcp *t, Tcb *c, const SegIn *s, uint16_t with_syn) noexcept nogil:
    """RFC 7413 §4.1.3, §4.2.2: a cookie is kept; data that the server did not take goes again, at once."""
    if s.o.have & OPT_FASTOPEN and s.o.fastopen_len > 0:
        fastopen_learn(t, &c.raddr, c.peer_mss, s.o.fastopen, s.o.fastopen_len)
    if with_syn == 0:
        return
    if c.tx.seg_head != NULL:
        count(t.core, TCPFastOpenActiveFail)
        recovery_refused(t, c)
    else:
        c.flags |= TF_SYN_DATA
        count(t.core, TCPFastOpenActive)


# ---- first: the sequence number, and PAWS before it (RFC 7323 §5.3) ----

cdef bint timestamp_ok(Tcp *t, Tcb *c, SegIn *s) noexcept nogil:
    if not c.flags & TF_TS_OK or s.h.flags & TH_RST:
        return True
    if not s.o.have & OPT_TS:                                # RFC 7323 §3.2: SHOULD be dropped
        count(t.core, DropTcpPaws)
        return False
    if <int32_t>(s.o.tsval - c.ts_recent) >= 0 or <unsigned short>(tcp_hours(t.core) - c.ts_recent_h) > PAWS_IDLE_H:
        return True
    count(t.core, PAWSEstab)
    count(t.core, DropTcpPaws)
    out_of_window_ack(t, c, s.n > 0)
    return False


cdef bint sequence_ok(Tcp *t, Tcb *c, SegIn *s) noexcept nogil:
    """§3.4's table of four cases; then what is left of the window is cut off."""
    cdef uint32_t wnd = tcb_rcv_wnd(c), over
    if c.state == TCP_SYN_RECV and s.h.flags & TH_SYN and s.h.flags & TH_ACK and s.h.seq == c.irs:
        segment_trim(s, c.rcv_nxt)                           # the other half of a simultaneous open
        return True
    if seq_lt(s.h.seq, c.rcv_nxt) and seq_gt(s.h.seq + s.len, c.rcv_nxt) and not s.h.flags & TH_SYN:
        if s.n > 0:
            note_old(t, c, s.h.seq, c.rcv_nxt)
        segment_trim(s, c.rcv_nxt)
    if s.len == 0 or wnd == 0:
        if s.h.seq == c.rcv_nxt or (wnd > 0 and seq_gt(s.h.seq, c.rcv_nxt) and seq_lt(s.h.seq, c.rcv_nxt + wnd)):
            if s.len == 0 or s.h.flags & TH_RST:
                return True
            # zero window: ACK, RST and URG are still taken (MUST-66), the data is not
            count(t.core, TCPZeroWindowDrop)
            s.n = 0
            s.h.flags &= <unsigned char>~TH_FIN
            s.len = 0
            c.flags |= TF_ACK_NOW
            return True
    elif seq_geq(s.h.seq, c.rcv_nxt) and seq_lt(s.h.seq, c.rcv_nxt + wnd):
        over = s.h.seq + s.n - (c.rcv_nxt + wnd)
        if <int32_t>over > 0:
            s.n -= over
            s.h.flags &= <unsigned char>~TH_FIN
        return True
    return unacceptable(t, c, s)


cdef bint unacceptable(Tcp *t, Tcb *c, SegIn *s) noexcept nogil:
    count(t.core, DropTcpOutOfWindow)
    if s.h.flags & TH_RST:
        return False
    if s.h.flags & TH_SYN:                                   # RFC 5961 §4.2
        if (c.flags & TF_FASTOPEN or c.tx.forwarded) and s.h.seq == c.irs and c.state == TCP_SYN_RECV:
            send_syn(t, c, False)                            # their SYN again: our SYN-ACK was lost
        else:
            challenge_ack(t, c)
        return False
    if s.n > 0 and seq_leq(s.h.seq + s.n, c.rcv_nxt):
        note_old(t, c, s.h.seq, s.h.seq + s.n)
    if (s.h.flags & TH_ACK and s.n == 0 and s.h.seq == c.rcv_nxt - 1
            and seq_leq(c.snd_una, s.h.ack) and seq_leq(s.h.ack, c.snd_nxt)):
        send_ack(t, c)                                       # a keep-alive or window probe: always answered
        return False
    out_of_window_ack(t, c, s.len > 0)
    return False


cdef void note_old(Tcp *t, Tcb *c, uint32_t seq, uint32_t end) noexcept nogil:
    """RFC 2883 §4.1: a duplicate is reported once."""
    c.flags |= TF_ACK_NOW
    if dsack_note(t, c, seq, end):
        count(t.core, TCPDSACKOldSent)


# ---- second: RST (RFC 5961 §3) ----

cdef void take_reset(Tcp *t, Tcb *c, SegIn *s) noexcept nogil:
    if s.h.seq != c.rcv_nxt:
        count(t.core, DropTcpRst)
        challenge_ack(t, c)
        return
    if c.state == TCP_SYN_RECV:
        count(t.core, TcpAttemptFails)
        tcb_done(t, c, ECONNREFUSED)
    elif c.state == TCP_CLOSING or c.state == TCP_LAST_ACK:
        tcb_done(t, c, 0)
    else:
        count(t.core, TcpEstabResets)
        tcb_done(t, c, EPIPE if c.state == TCP_CLOSE_WAIT else ECONNRESET)


# ---- fifth: the ACK field ----

cdef bint take_ack(Tcp *t, Tcb *c, SegIn *s) noexcept nogil:
    """False: the segment goes no further."""
    cdef bint duplicate, advanced
    if c.state == TCP_SYN_RECV:
        if seq_leq(s.h.ack, c.snd_una) or seq_gt(s.h.ack, c.snd_nxt):
            count(t.core, DropTcpBadAck)
            reply_reset(t, s)
            return False
        c.snd_wnd = <uint32_t>s.h.wnd << (0 if s.syn else c.snd_wscale)
        c.snd_wl1 = s.h.seq
        recovery_ack(t, c, s.h.ack, &s.o, False)
        establish(t, c)
        return True
    if seq_gt(s.h.ack, c.snd_nxt) or seq_lt(s.h.ack, c.snd_una - c.max_snd_wnd):          # RFC 5961 §5.2
        count(t.core, DropTcpBadAck)
        challenge_ack(t, c)
        return False
    if seq_lt(s.h.ack, c.snd_una):
        count(t.core, DropTcpOldAck)
        return True
    advanced = seq_gt(s.h.ack, c.snd_una)
    if s.h.flags & TH_ECE and c.flags & TF_ECN_OK and c.tx.seg_head != NULL:
        c.flags |= TF_ECN_ECE
    # RFC 5681 §2
    duplicate = (not advanced and s.len == 0 and c.tx.seg_head != NULL
                 and <uint32_t>s.h.wnd << c.snd_wscale == c.snd_wnd)
    if s.len == 0:
        count(t.core, TCPPureAcks)
    if seq_leq(c.snd_wl1, s.h.seq):
        take_window(c, s)
    c.probes = 0
    if advanced:
        take_new_ack(t, c, s)
        if c.flags & TF_FASTOPEN:                            # closed before its handshake was done
            fastopen_done(t, c)
        if c.flags & TF_FIN_SENT and c.snd_una == c.snd_nxt:
            return fin_acked(t, c)
    elif c.tx.seg_head != NULL:
        recovery_ack(t, c, s.h.ack, &s.o, duplicate)
    elif s.o.have & OPT_SACK and c.flags & TF_SACK_OK:
        recovery_late(t, c, s.h.ack, &s.o)
    return True


cdef void take_new_ack(Tcp *t, Tcb *c, SegIn *s) noexcept nogil:
    """SEG.ACK is beyond SND.UNA. Whoever waits for room in the send queue hears of it when there is some again."""
    cdef bint waited = c.flags & TF_WANT_ROOM or not tcb_has_room(c)
    recovery_ack(t, c, s.h.ack, &s.o, False)
    net_confirm(t.net, &c.dst)
    c.soft_error = 0
    tune_sndbuf(t, c)
    if waited and tcb_has_room(c):
        c.flags &= ~<uint32_t>TF_WANT_ROOM
        tcb_raise(t, c, EV_WRITABLE)


cdef inline void take_window(Tcb *c, const SegIn *s) noexcept nogil:
    c.snd_wnd = <uint32_t>s.h.wnd << c.snd_wscale
    c.snd_wl1 = s.h.seq
    if c.snd_wnd > c.max_snd_wnd:
        c.max_snd_wnd = c.snd_wnd


cdef bint fin_acked(Tcp *t, Tcb *c) noexcept nogil:
    tcb_raise(t, c, EV_WRITABLE)                             # SO_LINGER waits for this
    if c.state == TCP_FIN_WAIT1:
        c.state = TCP_FIN_WAIT2
        if c.flags & TF_ORPHAN:                              # nobody will read what comes: don't wait for ever
            if c.conf.linger2 < 0:
                count(t.core, TCPAbortOnData)
                tcb_done(t, c, 0)
                return False
            c.idle_at = t.core.now + fin_timeout_ns(t, c)
        tcb_raise(t, c, EV_WRITABLE)                         # close() may linger for this
        return True
    if c.state == TCP_CLOSING:
        if c.flags & TF_ACK_NOW:                             # their FIN came in this batch: TIME-WAIT can't say so
            send_ack(t, c)
        timewait_from(t, c)
        return False
    if c.state == TCP_LAST_ACK:
        tcb_done(t, c, 0)
        return False
    return True


cdef inline void note_timestamp(const Tcp *t, Tcb *c, const SegIn *s) noexcept nogil:
    """RFC 7323 §4.3: TS.Recent follows segments that touch the left edge of what was last acknowledged."""
    if (c.flags & TF_TS_OK and s.o.have & OPT_TS and seq_leq(s.h.seq, c.last_ack_sent)
            and <int32_t>(s.o.tsval - c.ts_recent) > 0):
        c.ts_recent = s.o.tsval
        c.ts_recent_h = tcp_hours(t.core)


# ---- seventh: the data ----

cdef void take_data(Tcp *t, Tcb *c, SegIn *s) noexcept nogil:
    if c.state != TCP_ESTABLISHED and c.state != TCP_FIN_WAIT1 and c.state != TCP_FIN_WAIT2:
        count(t.core, DropTcpClosedData)                     # data after their FIN
        return
    if c.flags & TF_ORPHAN:                                  # SHLD-3: nobody will read it, and the peer must know
        count(t.core, TCPAbortOnData)
        reply_reset(t, s)
        tcb_done(t, c, 0)
        return
    if s.h.seq == c.rcv_nxt:
        in_order(t, c, s)
    else:
        count(t.core, TCPOFOQueue)
        c.tally.data_segs_in += s.segs
        if not ofo_insert(t, c, s.rx.buf, s.data, s.h.seq, s.n, OFO_TRUESIZE_FACTOR * window_limit(t, c) + 65536):
            s.h.flags &= <unsigned char>~TH_FIN
        if s.n >= c.rcv_mss // 2:                            # small ones cost more memory than they are worth
            window_grow(t, c, s.n, s.h.seq + s.n - c.rcv_nxt)
        send_ack(t, c)                                       # at once, each: the sender counts them (RFC 5681 §4.2)


cdef void append_more(Tcp *t, Tcb *c, RxPkt *rx) noexcept nogil:
    """The rest of a run of segments: what finds no room stays, and is lost."""
    cdef Buf *b
    cdef Buf *after
    cdef uint32_t n
    c.rcv_nxt += rcvq_append_run(t, c, &rx.more)
    while rx.more != NULL:
        b = rx.more
        after = b.next
        n = b.len
        if not rcvq_append(t, c, b, b.data + b.off, n):
            count(t.core, TCPRcvQDrop)
            c.flags |= TF_ACK_NOW
            return
        rx.more = after
        c.rcv_nxt += n
        buf_unref(&t.core.pool, b)
        c.rcv_nxt += rcvq_append_run(t, c, &rx.more)


cdef void in_order(Tcp *t, Tcb *c, SegIn *s) noexcept nogil:
    cdef bint gap = has_gap(c)
    cdef uint32_t n = s.n - s.rx.more_len, start = c.rcv_nxt
    if c.tally == &t.no_tally:
        tally_take(t, c)
    c.tally.data_segs_in += s.segs
    if not rcvq_append(t, c, s.rx.buf, s.data, n):
        count(t.core, TCPRcvQDrop)
        s.h.flags &= <unsigned char>~TH_FIN
        c.flags |= TF_ACK_NOW
        return
    c.rcv_nxt += n
    if s.rx.more != NULL:
        append_more(t, c, s.rx)
    if gap:
        ofo_collect(t, c)
        c.flags |= TF_ACK_NOW
    c.tally.bytes_received += c.rcv_nxt - start
    window_grow(t, c, s.n, 0)
    ack_data(t, c, s.rx.gso_size if s.rx.gso_size else s.n, s.h.flags & TH_PSH)
    tcb_raise(t, c, EV_READABLE)


# ---- eighth: FIN ----

cdef void note_fin(Tcb *c, SegIn *s) noexcept nogil:
    if c.flags & TF_FIN_RCVD:
        c.flags |= TF_ACK_NOW
        return
    c.fin_seq = s.h.seq + s.n
    c.flags |= TF_FIN_OOO


cdef void take_fin(Tcp *t, Tcb *c) noexcept nogil:
    c.flags = (c.flags & ~<uint32_t>TF_FIN_OOO) | TF_FIN_RCVD | TF_ACK_NOW
    c.rcv_nxt += 1
    if has_gap(c):
        ofo_clear(t, c)                                      # what a liar sent for behind its FIN
    if seq_lt(c.rcv_adv, c.rcv_nxt):
        c.rcv_adv = c.rcv_nxt
    if c.state == TCP_ESTABLISHED:
        c.state = TCP_CLOSE_WAIT
    elif c.state == TCP_FIN_WAIT1:
        c.state = TCP_CLOSING
    elif c.state == TCP_FIN_WAIT2:
        send_ack(t, c)
        timewait_from(t, c)
        return
    tcb_raise(t, c, EV_READABLE | (EV_HANGUP if c.flags & TF_FIN_SENT else 0))
