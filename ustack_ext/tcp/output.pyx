"""What may be sent now, and the segment that says it.

RFC 9293 §3.8 (data, windows, MSS, PSH), RFC 5681 (cwnd),
               silly-window avoidance on both sides and Nagle (RFC 9293 §3.8.6.2, §3.7.4),
RFC 7323 (timestamps, window scale). Loss detection is recovery's; this only asks it what to send next.
"""
from libc.stdint cimport UINT64_MAX, int32_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

from ustack_ext.base.core cimport count, count_add
from ustack_ext.base.event cimport EV_WRITABLE
from ustack_ext.base.iov cimport OFF_CSUM_WANTED, OFF_GSO_TCP4, OFF_GSO_TCP6
from ustack_ext.net.mib cimport TCPFastRetrans, TcpOutRsts, TcpOutSegs, TcpRetransSegs, TCPSlowStartRetrans
from ustack_ext.net.net cimport net_output, net_resolve
from ustack_ext.net.state cimport Dst, TxPkt, tx_init, tx_push
from ustack_ext.tcp.congestion.cc cimport cc_stale_at, cc_start
from ustack_ext.tcp.congestion.rate cimport burst_now, pace_holds, pace_sent, rate_app_limited
from ustack_ext.tcp.congestion.usage cimport note_usage
from ustack_ext.tcp.conn cimport tally_take, tcb_raise, tcb_set_timer
from ustack_ext.tcp.ecn cimport ecn_answer, ecn_mark, ecn_syn_flags
from ustack_ext.tcp.fastopen cimport FASTOPEN_COOKIE, fastopen_may_send
from ustack_ext.tcp.md5 cimport md5_key, md5_sign
from ustack_ext.tcp.mss cimport GSO_HEADERS, gso_room, mss_to_tell, update_mss
from ustack_ext.tcp.options cimport (
    MD5_AT, MD5_LEN, NOP_NOP_TS, OPT_FASTOPEN, OPT_MD5, OPT_MSS, OPT_SACK_OK, OPT_TS, OPT_UTO, OPT_WSCALE,
    OPTIONS_MAX, SACK_BLOCK, SACK_LEN, TS_LEN, UTO_LEN, Options, options_emit, options_emit_syn,
)
from ustack_ext.tcp.quick cimport ack_rides
from ustack_ext.tcp.reassembly cimport ofo_report
from ustack_ext.tcp.recovery cimport recovery_next_lost, recovery_pipe, recovery_resent, recovery_sent
from ustack_ext.tcp.rtt cimport rtt_rto_ns
from ustack_ext.tcp.sendqueue cimport (
    chrono_set, seg_append, seg_split, sendq_advance, sendq_gather, sendq_unsent, tx_give, tx_take,
)
from ustack_ext.tcp.seq cimport seq_gt
from ustack_ext.tcp.tcb cimport (
    CA_LOSS, CHRONO_BUSY, CHRONO_NONE, CHRONO_RWND, CHRONO_SNDBUF, LOSS_ASKING, LOSS_MAYBE, REQ_ECN, SEG_FIN, SEG_SYN,
    TCP_CLOSE_WAIT, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_LAST_ACK, TCP_SYN_RECV, TCP_SYN_SENT,
    TF_ACK_DELAYED, TF_ACK_NOW, TF_CWND_LIMITED, TF_DEAD, TF_ECN_ECHO, TF_ECN_OK, TF_FASTOPEN, TF_FASTOPEN_ASKED,
    TF_FIN_QUEUED, TF_FIN_SENT, TF_MORE, TF_SACK_OK, TF_TS_OK, TF_WANT_ROOM, TF_WS_OK, TIMER_NONE, TIMER_PERSIST,
    TIMER_STALE, Conn, FastopenPeer, Md5Key, Seg, SynReq, Tcb, Tcp, TcpConf, tcb_has_room, tcp_ms,
)
from ustack_ext.tcp.urgent cimport urgent_pointer
from ustack_ext.tcp.uto cimport uto_told, uto_wire
from ustack_ext.tcp.windows cimport note_window, window_limit, window_to_offer, wscale_for
from ustack_ext.wire.addr cimport Addr, addr_is_v4
from ustack_ext.wire.bytes cimport put_be32
from ustack_ext.wire.checksum cimport csum_fold, csum_fold32, csum_partial, csum_pseudo, csum_store, csum_swap
from ustack_ext.wire.headers cimport (
    IPPROTO_TCP_, TCP_HLEN, TH_ACK, TH_ECE, TH_FIN, TH_PSH, TH_RST, TH_SYN, TcpHdr, tcp_emit,
)

cdef enum:
    NS_A_MS = 1000000
    WINDOW_MAX = 0xFFFF


cdef uint32_t ts_now(Tcp *t, uint32_t offset) noexcept nogil:
    return <uint32_t>(t.core.now // 1000000) + offset


# ---- one segment ----

cdef inline uint32_t pieces_of(const TxPkt *pkt) noexcept nogil:
    return 1 if pkt.off.gso_size == 0 else (pkt.payload_len - 1) // pkt.off.gso_size + 1


cdef void finish(Tcp *t, Dst *d, const Addr *src, const Addr *dst, TxPkt *pkt, const TcpHdr *h, uint8_t tos,
                 uint8_t ttl, const Md5Key *key) noexcept nogil:
    """Header in front of the options, checksum, and out. What the device refuses is a loss like any other."""
    cdef uint8_t *p = tx_push(pkt, TCP_HLEN)
    cdef uint32_t i, at
    cdef uint64_t sum = csum_pseudo(src, dst, IPPROTO_TCP_, h.hlen + pkt.payload_len), part
    tcp_emit(p, h)
    if key != NULL:
        md5_sign(key, src, dst, p, h.hlen, pkt, p + TCP_HLEN + MD5_AT)
    if pkt.off.gso_size != 0 or (d.iface != NULL and d.iface.offloads & OFF_CSUM_WANTED):
        # whoever cuts it up does the pieces' checksums
        pkt.off.flags |= OFF_CSUM_WANTED
        pkt.off.csum_start = 0
        pkt.off.csum_offset = 16
        csum_store(p + 16, <uint16_t>csum_fold32(sum))
    else:
        sum = csum_partial(p, h.hlen, sum)
        at = 0
        for i in range(1, pkt.niov):
            part = csum_partial(<const uint8_t *>pkt.iov[i].base, pkt.iov[i].len, 0)
            sum += csum_swap(part) if at & 1 else csum_fold32(part)
            at += <uint32_t>pkt.iov[i].len
        csum_store(p + 16, csum_fold(sum))
    count_add(t.core, TcpOutSegs, pieces_of(pkt))
    net_output(t.net, d, src, dst, IPPROTO_TCP_, ttl, tos, True, pkt)


cdef uint8_t put_options(TxPkt *pkt, const Options *o) noexcept nogil:
    """Returns the header's length with them."""
    cdef uint8_t options[OPTIONS_MAX]
    cdef uint8_t *p
    cdef uint32_t n
    if o.have == OPT_TS:
        p = tx_push(pkt, TS_LEN)
        put_be32(p, NOP_NOP_TS)
        put_be32(p + 4, o.tsval)
        put_be32(p + 8, o.tsecr)
        return TCP_HLEN + TS_LEN
    n = options_emit(options, o)
    memcpy(tx_push(pkt, n), options, n)
    return <uint8_t>(TCP_HLEN + n)


cdef inline uint32_t blocks_that_fit(const Tcb *c, uint32_t n, uint32_t others) noexcept nogil:
    """SACK blocks that have room in a header with `others` bytes of options, and beside n bytes of payload."""
    cdef uint32_t room = OPTIONS_MAX - others
    if n > 0:
        room = min(room, c.mss - n if n < c.mss else <uint32_t>0)
    return (room - SACK_LEN) // SACK_BLOCK if room >= SACK_LEN else 0


cdef void segment(Tcp *t, Tcb *c, TxPkt *pkt, uint32_t seq, uint8_t flags, uint8_t ecn) noexcept nogil:
    """Sends the payload gathered in *pkt as a segment of a synchronized connection; every one carries the ACK and the
    window.
    """
    cdef TcpHdr h
    cdef Options o
    cdef uint32_t wnd = window_to_offer(t, c)
    cdef const Md5Key *key = NULL
    if c.dst.generation != t.net.generation:                 # another route, or another estimate of the path's MTU
        update_mss(t, c)
    if net_resolve(t.net, &c.dst, &c.laddr, &c.raddr) != 0:
        return
    if c.conf.md5 != NULL:
        key = md5_key(c.conf.md5, &c.raddr)
    if pkt.payload_len > c.mss:                              # cut by the link, or by net on its behalf
        if key != NULL or pkt.payload_len + GSO_HEADERS > gso_room(c.dst.iface, &c.raddr):
            update_mss(t, c)                                 # the route has changed to one of smaller bursts: a loss
            return
        pkt.off.flags |= OFF_GSO_TCP4 if addr_is_v4(&c.raddr) else OFF_GSO_TCP6
        pkt.off.gso_size = c.mss
    o.have = OPT_MD5 if key != NULL else 0
    if c.conf.uto_due:
        if pkt.payload_len > 0:                              # which leaves no room for it
            send_ack(t, c)
        else:
            o.have |= OPT_UTO
            o.uto = uto_wire(c.conf.uto)
            uto_told(t, c)
    if c.flags & TF_TS_OK:
        o.have |= OPT_TS
        o.tsval = ts_now(t, c.ts_offset)
        o.tsecr = c.ts_recent
    if c.reasm != NULL and c.flags & TF_SACK_OK:
        ofo_report(t, c, &o, blocks_that_fit(c, pkt.payload_len, (TS_LEN if c.flags & TF_TS_OK else 0)
                                             + (MD5_LEN if key != NULL else 0)
                                             + (UTO_LEN if o.have & OPT_UTO else 0)))
    h.sport = c.lport
    h.dport = c.rport
    h.seq = seq
    h.ack = c.rcv_nxt
    h.wnd = <uint16_t>(wnd >> c.rcv_wscale)
    h.urg = 0
    h.flags = flags | TH_ECE if c.flags & TF_ECN_ECHO else flags
    if c.tx.urgent:
        h.flags |= urgent_pointer(c, seq, &h.urg)
    h.hlen = put_options(pkt, &o)
    note_window(t, c, wnd)
    c.tally.segs_out += pieces_of(pkt)
    finish(t, &c.dst, &c.laddr, &c.raddr, pkt, &h, c.conf.tos | ecn, c.conf.ttl, key)
    c.last_ack_sent = c.rcv_nxt
    c.flags &= ~<uint32_t>(TF_ACK_NOW | TF_ACK_DELAYED)


cdef void send_ack(Tcp *t, Tcb *c) noexcept nogil:
    cdef TxPkt pkt
    tx_init(&pkt)
    segment(t, c, &pkt, c.snd_nxt, TH_ACK, 0)


cdef void send_probe(Tcp *t, Tcb *c) noexcept nogil:
    cdef TxPkt pkt
    if c.tx.urgent:                                          # a probe, which is old data, can't tell of it
        send_ack(t, c)
    tx_init(&pkt)
    segment(t, c, &pkt, c.snd_una - 1, TH_ACK, 0)


cdef void send_rst(Tcp *t, Tcb *c) noexcept nogil:
    cdef TxPkt pkt
    tx_init(&pkt)
    count(t.core, TcpOutRsts)
    segment(t, c, &pkt, c.snd_nxt, TH_RST | TH_ACK, 0)


cdef void send_bare(Tcp *t, const Conn *from_to, uint32_t seq, uint32_t ack, uint32_t wnd, uint8_t flags, bint with_ts,
                    uint32_t tsval, uint32_t tsecr, uint8_t tos, const Md5Key *key) noexcept nogil:
    cdef TxPkt pkt
    cdef TcpHdr h
    cdef Options o
    cdef Dst d
    d.iface = NULL
    d.neigh = NULL
    d.generation = 0
    if net_resolve(t.net, &d, &from_to.laddr, &from_to.raddr) != 0:
        return
    tx_init(&pkt)
    o.have = (OPT_TS if with_ts else 0) | (OPT_MD5 if key != NULL else 0)
    o.tsval = tsval
    o.tsecr = tsecr
    h.sport = from_to.lport
    h.dport = from_to.rport
    h.seq = seq
    h.ack = ack
    h.wnd = <uint16_t>wnd
    h.urg = 0
    h.flags = flags
    h.hlen = put_options(&pkt, &o)
    if flags & TH_RST:
        count(t.core, TcpOutRsts)
    finish(t, &d, &from_to.laddr, &from_to.raddr, &pkt, &h, tos, 0, key)


# ---- SYN and SYN-ACK ----

cdef void syn_segment(Tcp *t, Dst *d, const Conn *who, uint32_t seq, uint32_t ack, uint32_t wnd, uint8_t flags,
                      Options *o, const TcpConf *conf, TxPkt *pkt) noexcept nogil:
    """*pkt: with the SYN's data, if any."""
    cdef TcpHdr h
    cdef uint8_t options[OPTIONS_MAX]
    cdef uint32_t n
    cdef const Md5Key *key = md5_key(conf.md5, &who.raddr)
    h.sport = who.lport
    h.dport = who.rport
    h.seq = seq
    h.ack = ack
    h.wnd = <uint16_t>min(wnd, <uint32_t>WINDOW_MAX)         # RFC 7323 §2.2: never scaled in a SYN
    h.urg = 0
    h.flags = flags
    if key != NULL:
        o.have |= OPT_MD5
    if conf.uto:
        o.have |= OPT_UTO
        o.uto = uto_wire(conf.uto)
    n = options_emit_syn(options, o)
    memcpy(tx_push(pkt, n), options, n)
    h.hlen = <uint8_t>(TCP_HLEN + n)
    finish(t, d, &who.laddr, &who.raddr, pkt, &h, conf.tos, conf.ttl, key)


cdef void ask_fastopen(Tcp *t, Tcb *c, Options *o) noexcept nogil:
    """RFC 7413 §4.1: the cookie that the server gave us, or the wish for one."""
    cdef FastopenPeer *peer = NULL
    if not fastopen_may_send(t, &c.raddr, c.conf, &peer) and peer != NULL and t.core.now < peer.closed_until:
        return
    if c.tx.fastopen > 0 and (peer == NULL or peer.len == 0):    # without a cookie: both sides agreed on that elsewhere
        return
    o.have |= OPT_FASTOPEN
    o.fastopen_len = peer.len if peer != NULL else 0
    if o.fastopen_len > 0:
        memcpy(o.fastopen, peer.cookie, o.fastopen_len)


cdef bint syn_data(Tcp *t, Tcb *c, TxPkt *pkt) noexcept nogil:
    """The first bytes of the send queue go with the SYN, as a record of their own: it may be that only the SYN is
    acknowledged.
    """
    cdef uint32_t n = c.tx.fastopen
    cdef Seg *s = seg_append(t, c, c.snd_nxt, c.snd_nxt + n, 0)
    if s == NULL or sendq_gather(s.block, s.block_off, n, pkt) < n:
        return False
    sendq_advance(&c.tx.nxt_block, &c.tx.nxt_off, n)
    c.snd_nxt = s.end
    recovery_sent(t, c, s)
    tally_take(t, c)
    c.tally.bytes_sent += n
    c.tally.data_segs_out += 1
    return True


cdef uint32_t syn_offers(const Tcp *t, const Tcb *c) noexcept nogil:
    cdef uint32_t offers = (TF_SACK_OK if t.knobs.sack else 0) | (TF_WS_OK if t.knobs.window_scaling else 0)
    # none if it is signed, as Linux: there is no room for them beside it and SACK's blocks
    if t.knobs.timestamps and md5_key(c.conf.md5, &c.raddr) == NULL:
        offers |= TF_TS_OK
    return offers


cdef bint send_syn(Tcp *t, Tcb *c, bint crossed) noexcept nogil:
    cdef Options o
    cdef TxPkt pkt
    cdef Seg *s = c.tx.seg_head
    cdef uint32_t wnd = min(window_limit(t, c), <uint32_t>WINDOW_MAX)
    cdef bint reply = c.state != TCP_SYN_SENT                # SYN-RECEIVED, or closed from there already
    cdef bint first = s == NULL
    cdef uint32_t offers = c.flags if reply else syn_offers(t, c)
    cdef uint8_t flags = TH_SYN | (TH_ACK | ecn_answer(c) if reply else ecn_syn_flags(t, c, s != NULL))
    if net_resolve(t.net, &c.dst, &c.laddr, &c.raddr) != 0:
        return False
    if s == NULL:
        s = seg_append(t, c, c.tx.iss, c.tx.iss + 1, SEG_SYN)
        if s == NULL:
            return False
        c.snd_nxt = c.tx.iss + 1
        recovery_sent(t, c, s)
    else:
        recovery_resent(t, c, s)
        if not crossed:                                      # a SYN-ACK after our SYN is not the same again
            count(t.core, TcpRetransSegs)
            c.tally.total_retrans += 1
    tx_init(&pkt)
    o.have = OPT_MSS
    o.mss = mss_to_tell(t, &c.dst, &c.raddr, c.conf.maxseg)
    if offers & TF_TS_OK:
        o.have |= OPT_TS
        o.tsval = ts_now(t, c.ts_offset)
        o.tsecr = c.ts_recent
    if offers & TF_SACK_OK:
        o.have |= OPT_SACK_OK
    if offers & TF_WS_OK:
        o.have |= OPT_WSCALE
        o.wscale = wscale_for(t, c.conf.rcvbuf)
    if first and not reply and c.flags & TF_FASTOPEN_ASKED and md5_key(c.conf.md5, &c.raddr) == NULL:
        ask_fastopen(t, c, &o)
        if c.tx.fastopen > 0 and not syn_data(t, c, &pkt):
            return False
    c.rcv_adv = c.rcv_nxt + wnd
    syn_segment(t, &c.dst, <Conn *>c, c.tx.iss, c.rcv_nxt if reply else 0, wnd, flags,
                &o, c.conf, &pkt)
    c.flags &= ~<uint32_t>(TF_ACK_NOW | TF_ACK_DELAYED)
    return True


cdef void send_synack(Tcp *t, SynReq *r, uint32_t tsval, const uint8_t *cookie) noexcept nogil:
    cdef Options o
    cdef TxPkt pkt
    cdef Dst d
    d.iface = NULL
    d.neigh = NULL
    d.generation = 0
    if net_resolve(t.net, &d, &r.laddr, &r.raddr) != 0:
        return
    o.have = OPT_MSS
    o.mss = mss_to_tell(t, &d, &r.raddr, r.listener.conf.maxseg)
    if r.opts & TF_TS_OK:
        o.have |= OPT_TS
        o.tsval = tsval
        o.tsecr = r.ts_recent
    if r.opts & TF_SACK_OK:
        o.have |= OPT_SACK_OK
    if r.opts & TF_WS_OK:
        o.have |= OPT_WSCALE
        o.wscale = wscale_for(t, r.listener.conf.rcvbuf)
    if cookie != NULL and md5_key(r.listener.conf.md5, &r.raddr) == NULL:
        o.have |= OPT_FASTOPEN
        o.fastopen_len = FASTOPEN_COOKIE
        memcpy(o.fastopen, cookie, FASTOPEN_COOKIE)
    tx_init(&pkt)
    syn_segment(t, &d, <Conn *>r, r.iss, r.irs + 1, r.rcv_wnd, TH_SYN | TH_ACK | (TH_ECE if r.marks & REQ_ECN else 0),
                &o, r.listener.conf, &pkt)


# ---- data ----

cdef inline uint32_t burst_allowed(const Tcb *c) noexcept nogil:
    """Payload bytes of one transmission now. The pieces of a superframe would all have the same urgent pointer."""
    return c.mss if c.tx.urgent else burst_now(c)


cdef bint resend(Tcp *t, Tcb *c, Seg *s, uint32_t limit) noexcept nogil:
    cdef TxPkt pkt
    cdef uint32_t n, pieces, got
    if s.flags & SEG_SYN:
        return send_syn(t, c, False)
    limit = min(limit, burst_allowed(c))
    n = s.end - s.seq - (1 if s.flags & SEG_FIN else 0)
    if n > limit:
        if seg_split(t, c, s, s.seq + limit) == NULL:
            return False
        n = limit
    tx_init(&pkt)
    got = sendq_gather(s.block, s.block_off, n, &pkt)
    if got < n:
        if seg_split(t, c, s, s.seq + got) == NULL:
            return False
        n = got
    recovery_resent(t, c, s)
    pace_sent(t, c, n)
    pieces = (n + c.mss - 1) // c.mss if n else 1
    count_add(t.core, TcpRetransSegs, pieces)
    count_add(t.core, TCPSlowStartRetrans if c.ca_state == CA_LOSS else TCPFastRetrans, pieces)
    c.tally.total_retrans += pieces
    c.tally.bytes_retrans += n
    c.tally.data_segs_out += pieces if n else 0
    segment(t, c, &pkt, s.seq, TH_ACK | (TH_FIN if s.flags & SEG_FIN else 0) | (TH_PSH if s.next == NULL and n else 0),
            0)
    return True


cdef bint transmit_new(Tcp *t, Tcb *c, uint32_t n, bint fin, bint push) noexcept nogil:
    cdef TxPkt pkt
    cdef uint8_t flags = TH_ACK, ecn = 0
    cdef uint32_t seq = c.snd_nxt, got
    cdef Seg *s
    tx_init(&pkt)
    got = sendq_gather(c.tx.nxt_block, c.tx.nxt_off, n, &pkt)
    if got < n:                                              # many small buffers that were not copied
        n = got
        fin = False
        push = False
    s = seg_append(t, c, seq, seq + n + (1 if fin else 0), SEG_FIN if fin else 0)
    if s == NULL:
        return False
    flags |= (TH_FIN if fin else 0) | (TH_PSH if push else 0)
    sendq_advance(&c.tx.nxt_block, &c.tx.nxt_off, n)
    c.snd_nxt = s.end
    if fin:
        c.flags |= TF_FIN_SENT
    c.tally.bytes_sent += n
    if n % c.mss:
        c.tx.snd_sml = c.snd_nxt
    recovery_sent(t, c, s)
    pace_sent(t, c, n)
    c.last_send = tcp_ms(t.core)
    ack_rides(c, c.last_send - c.last_recv < c.ato)
    if c.flags & TF_ECN_OK and n > 0:
        ecn = ecn_mark(c, &flags)
    segment(t, c, &pkt, seq, flags, ecn)
    if n > 0:
        c.tally.data_segs_out += pieces_of(&pkt)
    return True


cdef bint send_new(Tcp *t, Tcb *c, uint32_t limit) noexcept nogil:
    cdef uint32_t unsent = sendq_unsent(c), n = min(min(unsent, <uint32_t>c.mss), limit)
    if n == 0:
        return False
    return transmit_new(t, c, n, False, n == unsent)


cdef inline bint may_carry_data(const Tcb *c) noexcept nogil:
    return (c.state == TCP_ESTABLISHED or c.state == TCP_CLOSE_WAIT or c.state == TCP_FIN_WAIT1
            or c.state == TCP_LAST_ACK or c.state == TCP_CLOSING
            or (c.state == TCP_SYN_RECV and c.flags & TF_FASTOPEN))


cdef bint nagle_holds(const Tcb *c, uint32_t n, bint last) noexcept nogil:
    """RFC 9293 §3.7.4 in Minshall's form, as Linux: a small segment waits while another small one is unacknowledged. A
    FIN is never held, nor is urgent data.
    """
    if n == 0 or (last and c.flags & TF_FIN_QUEUED):
        return False
    if c.tx.urgent and seq_gt(c.tx.snd_up, c.snd_nxt):
        return False
    if c.flags & TF_MORE or c.conf.cork:                     # for one persist time-out at most
        return True
    if c.conf.nodelay:
        return False
    return seq_gt(c.tx.snd_sml, c.snd_una) and not seq_gt(c.tx.snd_sml, c.snd_nxt)


cdef inline uint32_t whole_segments(const Tcb *c, uint32_t n) noexcept nogil:
    """n, less what would make a small segment behind full ones."""
    return n - n % c.mss if n > c.mss else n


cdef uint32_t cwnd_allows(const Tcb *c, uint32_t n) noexcept nogil:
    """How much of n the congestion window lets out now: whole segments, or all of it; one segment if nothing is out."""
    cdef uint32_t pipe = recovery_pipe(c), least = min(n, <uint32_t>c.mss), room
    room = c.cwnd - pipe if c.cwnd > pipe else 0
    if n <= room:
        return n
    if room < least:
        return 0 if pipe > 0 else least
    return whole_segments(c, room)


cdef uint8_t send_data(Tcp *t, Tcb *c) noexcept nogil:
    """Returns what the sender waits for now (Chrono)."""
    cdef uint32_t unsent = sendq_unsent(c), burst, n
    cdef int32_t usable
    cdef bint last
    cdef uint8_t waits = CHRONO_BUSY
    if unsent == 0:
        if c.tx.sndq_bytes == 0:
            return CHRONO_NONE
        return CHRONO_SNDBUF if c.flags & TF_WANT_ROOM else CHRONO_BUSY
    if c.snd_una == c.snd_nxt:
        cc_start(t, c)
    burst = burst_allowed(c)
    while unsent > 0:
        n = cwnd_allows(c, min(unsent, burst))
        if n == 0:
            note_usage(c, TF_CWND_LIMITED, tcp_ms(t.core))
            return CHRONO_BUSY
        if pace_holds(t, c):
            break
        usable = <int32_t>(c.snd_una + c.snd_wnd - c.snd_nxt)
        if usable <= 0:
            waits = CHRONO_RWND
            break
        if n > <uint32_t>usable:
            # SWS avoidance on the sending side: a piece is sent only if it is worth it; else the persist timer sees to
            # it.
            n = whole_segments(c, <uint32_t>usable)
            if n < c.mss and n < c.max_snd_wnd // 2:
                waits = CHRONO_RWND
                break
        last = n == unsent
        if nagle_holds(c, n % c.mss, last):
            n -= n % c.mss
            last = False
            if n == 0:
                break
        if not transmit_new(t, c, n, last and c.flags & TF_FIN_QUEUED and c.snd_una + c.snd_wnd - c.snd_nxt > n, last):
            break
        unsent -= n
    note_usage(c, 0, tcp_ms(t.core))
    return CHRONO_SNDBUF if unsent == 0 and c.flags & TF_WANT_ROOM else waits


cdef void send_fin(Tcp *t, Tcb *c) noexcept nogil:
    if c.flags & TF_FIN_SENT or not c.flags & TF_FIN_QUEUED or sendq_unsent(c) > 0:
        return
    if <int32_t>(c.snd_una + c.snd_wnd - c.snd_nxt) > 0:
        transmit_new(t, c, 0, True, False)


cdef void persist(Tcp *t, Tcb *c) noexcept nogil:
    """Something waits, nothing is in flight that would bring an ACK: the window must be probed (RFC 9293 §3.8.6.1)."""
    if c.tx.seg_head == NULL and (sendq_unsent(c) > 0 or (c.flags & TF_FIN_QUEUED and not c.flags & TF_FIN_SENT)):
        if c.tx.timer_what != TIMER_PERSIST:
            if not tx_take(t, c):
                c.idle_at = min(c.idle_at, t.core.now + rtt_rto_ns(t, c))           # looks again
                return
            c.tx.timer_what = TIMER_PERSIST
            c.tx.backoff = 0
            c.probes = 0
            c.tx.rto_at = t.core.now + rtt_rto_ns(t, c)
    elif c.tx.timer_what == TIMER_PERSIST:
        c.tx.timer_what = TIMER_NONE
        c.tx.rto_at = UINT64_MAX
        c.tx.backoff = 0
        c.probes = 0


cdef void send_what_may_go(Tcp *t, Tcb *c) noexcept nogil:
    cdef Seg *s
    cdef uint32_t n
    cdef uint8_t waits = CHRONO_BUSY
    cdef bint full = c.conf.notsent_lowat != 0 and not tcb_has_room(c)
    if c.tx.loss == LOSS_ASKING:                             # RFC 5682 §2.1 step 2.b: new data, if any may go
        send_data(t, c)
        if c.snd_nxt == c.tx.recover:                        # none: what is lost, then, and any original tells
            c.tx.loss = LOSS_MAYBE
    while c.tx.lost > 0 and c.tx.loss != LOSS_ASKING:
        s = recovery_next_lost(c)
        n = cwnd_allows(c, s.end - s.seq) if s != NULL else 0
        if n == 0:
            c.flags |= TF_CWND_LIMITED
            break
        if pace_holds(t, c) or not resend(t, c, s, n):
            break
    if c.tx.lost == 0:
        waits = send_data(t, c)
        if c.tx != &t.no_tx and sendq_unsent(c) < c.mss and recovery_pipe(c) < c.cwnd:
            rate_app_limited(c)
        if c.flags & TF_FIN_QUEUED:
            send_fin(t, c)
    if c.tx.chrono != waits:
        chrono_set(t, c, waits)
    if full and tcb_has_room(c):                             # what was sent left less than TCP_NOTSENT_LOWAT
        c.flags &= ~<uint32_t>TF_WANT_ROOM
        tcb_raise(t, c, EV_WRITABLE)
    persist(t, c)


cdef void tcp_output(Tcp *t, Tcb *c) noexcept nogil:
    if c.flags & TF_DEAD:
        return
    if c.tx == &t.no_tx and c.flags & (TF_FIN_QUEUED | TF_FIN_SENT) != TF_FIN_QUEUED:
        pass                                                 # nothing to send but an ACK
    elif may_carry_data(c):
        send_what_may_go(t, c)
    if c.flags & TF_ACK_NOW and c.state != TCP_SYN_SENT and c.state != TCP_SYN_RECV:
        send_ack(t, c)
    if c.tx.seg_head == NULL and c.tx.sndq_bytes == 0 and c.tx.timer_what == TIMER_NONE and c.tx.backoff == 0:
        if c.tx.cc == NULL:
            tx_give(t, c)                                    # (Karn: a back-off lasts until there is a valid sample)
        else:
            c.tx.timer_what = TIMER_STALE
            c.tx.rto_at = cc_stale_at(t, c)
    tcb_set_timer(t, c)
