"""What happens when a handshake is complete, on either side: options in force, first windows, keep-alive."""
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t

from ustack_ext.base.event cimport EV_WRITABLE
from ustack_ext.tcp.conf cimport conf_of_child
from ustack_ext.tcp.conn cimport fastopen_done, forward_done, tcb_new, tcb_raise
from ustack_ext.tcp.options cimport OPT_MSS, OPT_SACK_OK, OPT_TS, OPT_WSCALE, Options
from ustack_ext.tcp.output cimport tune_sndbuf, update_mss, wscale_for
from ustack_ext.tcp.sendqueue cimport tx_give
from ustack_ext.tcp.tcb cimport (
    CA_OPEN, REQ_ECN, TCP_ESTABLISHED, TCP_MSS_DEFAULT_V4, TCP_MSS_DEFAULT_V6, TF_CONNECTED, TF_ECN_OK, TF_FASTOPEN,
    TF_SACK_OK, TF_SYN_LOST, TF_TS_OK, TF_WS_OK, SynReq, Tcb, Tcp, tcp_hours, tcp_ms,
)
from ustack_ext.wire.addr cimport addr_is_v4

cdef enum:
    NS = 1000000000


cdef void take_syn_options(Tcp *t, Tcb *c, const Options *o, uint32_t asked) noexcept nogil:
    # MUST-15
    c.peer_mss = o.mss if o.have & OPT_MSS else (TCP_MSS_DEFAULT_V4 if addr_is_v4(&c.raddr) else TCP_MSS_DEFAULT_V6)
    if o.have & OPT_TS and asked & TF_TS_OK:
        c.flags |= TF_TS_OK
        c.ts_recent = o.tsval
        c.ts_recent_h = tcp_hours(t.core)
    if o.have & OPT_SACK_OK and asked & TF_SACK_OK:
        c.flags |= TF_SACK_OK
    if o.have & OPT_WSCALE and asked & TF_WS_OK:            # RFC 7323 §2.2: only if both offered it
        c.flags |= TF_WS_OK
        c.snd_wscale = o.wscale
        c.rcv_wscale = wscale_for(t, c.conf.rcvbuf)


cdef Tcb *tcb_of_request(Tcp *t, const SynReq *r) noexcept nogil:
    cdef Tcb *c = tcb_new(t)
    if c == NULL:
        return NULL
    c.laddr = r.laddr
    c.raddr = r.raddr
    c.lport = r.lport
    c.rport = r.rport
    c.conf = conf_of_child(t, r.listener.conf, &r.raddr)
    c.flags = r.opts | (TF_ECN_OK if r.marks & REQ_ECN else 0)
    c.snd_una = r.iss
    c.snd_nxt = r.iss
    c.rcv_nxt = r.irs + 1
    c.rcv_adv = c.rcv_nxt + r.rcv_wnd
    c.last_ack_sent = c.rcv_nxt
    c.ts_offset = r.ts_offset
    c.ts_recent = r.ts_recent
    c.ts_recent_h = tcp_hours(t.core)
    c.irs = r.irs
    c.peer_mss = r.mss
    if r.opts & TF_WS_OK:
        c.snd_wscale = r.snd_wscale
        c.rcv_wscale = wscale_for(t, r.listener.conf.rcvbuf)
    return c


cdef void ready_to_send(Tcp *t, Tcb *c) noexcept nogil:
    c.ca_state = CA_OPEN
    update_mss(t, c)
    c.rcv_mss = min(c.mss, c.peer_mss)
    # RFC 6928; RFC 5681 §3.1 after a lost SYN
    c.cwnd = (1 if c.flags & TF_SYN_LOST else t.knobs.init_cwnd) * c.mss
    c.ssthresh = <uint32_t>0x7FFFFFFF
    c.max_snd_wnd = max(c.max_snd_wnd, c.snd_wnd)
    tune_sndbuf(t, c)


cdef void establish(Tcp *t, Tcb *c) noexcept nogil:
    c.state = TCP_ESTABLISHED
    c.flags |= TF_CONNECTED
    t.n_established += 1
    forward_done(t, c)
    if c.flags & TF_FASTOPEN:                               # sends since its SYN came
        fastopen_done(t, c)
    else:
        ready_to_send(t, c)
    c.last_recv = tcp_ms(t.core)
    if c.tx.seg_head == NULL and c.tx.sndq_bytes == 0:
        tx_give(t, c)                                       # the SYN's: what was backed off for it is no more
    else:
        c.tx.backoff = 0
    arm_keepalive(t, c)
    tcb_raise(t, c, EV_WRITABLE)


cdef void arm_keepalive(Tcp *t, Tcb *c) noexcept nogil:
    c.idle_at = t.core.now + <uint64_t>c.conf.keepidle * NS if c.conf.keepalive else UINT64_MAX
