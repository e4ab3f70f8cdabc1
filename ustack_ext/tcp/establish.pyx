"""What happens when a handshake is complete, on either side: options in force, first windows, keep-alive."""
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t

from ustack_ext.base.event cimport EV_WRITABLE
from ustack_ext.tcp.conn cimport tcb_raise
from ustack_ext.tcp.options cimport OPT_MSS, OPT_SACK_OK, OPT_TS, OPT_WSCALE, Options
from ustack_ext.tcp.output cimport tune_sndbuf, update_mss, wscale_for
from ustack_ext.tcp.tcb cimport (
    CA_OPEN, TCP_ESTABLISHED, TCP_MSS_DEFAULT_V4, TCP_MSS_DEFAULT_V6, TF_CONNECTED, TF_SACK_OK, TF_TS_OK, TF_WS_OK, Tcb,
    Tcp,
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
        c.ts_recent_s = <uint32_t>(t.core.now // NS)
    if o.have & OPT_SACK_OK and asked & TF_SACK_OK:
        c.flags |= TF_SACK_OK
    if o.have & OPT_WSCALE and asked & TF_WS_OK:            # RFC 7323 §2.2: only if both offered it
        c.flags |= TF_WS_OK
        c.snd_wscale = o.wscale
        c.rcv_wscale = wscale_for(t, c.conf.rcvbuf)


cdef void establish(Tcp *t, Tcb *c) noexcept nogil:
    c.state = TCP_ESTABLISHED
    c.flags |= TF_CONNECTED
    t.n_established += 1
    c.ca_state = CA_OPEN
    update_mss(t, c)
    c.rcv_mss = min(c.mss, c.peer_mss)
    c.cwnd = (1 if c.syn_retries > 1 else t.knobs.init_cwnd) * c.mss        # RFC 6928; RFC 5681 §3.1 after a lost SYN
    c.ssthresh = <uint32_t>0x7FFFFFFF
    c.max_snd_wnd = max(c.max_snd_wnd, c.snd_wnd)
    c.high_sacked = c.snd_una
    c.snd_sml = c.snd_una
    c.last_recv = t.core.now
    c.rcvq_epoch = t.core.now
    c.retries = 0
    c.backoff = 0
    tune_sndbuf(t, c)
    arm_keepalive(t, c)
    tcb_raise(t, c, EV_WRITABLE)


cdef void arm_keepalive(Tcp *t, Tcb *c) noexcept nogil:
    c.idle_at = t.core.now + <uint64_t>c.conf.keepidle * NS if c.conf.keepalive else UINT64_MAX
