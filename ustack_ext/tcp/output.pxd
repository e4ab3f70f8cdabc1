# What may be sent now, and the segment that says it (RFC 9293 §3.8, 3.10.2; RFC 5681; RFC 1122 §4.2.3.4's silly-window
# rules).
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from ustack_ext.net.state cimport RxPkt
from ustack_ext.tcp.tcb cimport Conn, Md5Key, Seg, SynReq, Tcb, Tcp
from ustack_ext.tcp.mss cimport mss_to_tell, mtu_of_mss, update_mss
from ustack_ext.tcp.windows cimport tune_sndbuf, window_limit, window_to_offer, wscale_for

# retransmissions, new data, FIN, or the ACK that is due; sets the timers
cdef void tcp_output(Tcp *t, Tcb *c) noexcept nogil
cdef void send_ack(Tcp *t, Tcb *c) noexcept nogil
# an old sequence number that provokes an ACK: keep-alive, zero window
cdef void send_probe(Tcp *t, Tcb *c) noexcept nogil
cdef void send_rst(Tcp *t, Tcb *c) noexcept nogil                    # abort: RST with SND.NXT
# SYN, or SYN-ACK in SYN-RECEIVED; makes the record the first time
cdef bint send_syn(Tcp *t, Tcb *c, bint crossed) noexcept nogil     # crossed: a SYN-ACK, after our SYN
# A record's bytes again, at most `limit` of them: what is beyond becomes a record of its own.
cdef bint resend(Tcp *t, Tcb *c, Seg *s, uint32_t limit) noexcept nogil
# n bytes of new data, sent as segments of c.mss
# The options that our SYN has: of TF_TS_OK, TF_SACK_OK, TF_WS_OK.
cdef uint32_t syn_offers(const Tcp *t, const Tcb *c) noexcept nogil
cdef bint transmit_new(Tcp *t, Tcb *c, uint32_t n, bint fin, bint push) noexcept nogil
# one segment of new data of at most `limit` bytes (for the loss probe)
cdef bint send_new(Tcp *t, Tcb *c, uint32_t limit) noexcept nogil
# cookie: of fast open, FASTOPEN_COOKIE bytes, or NULL
cdef void send_synack(Tcp *t, SynReq *r, uint32_t tsval, const uint8_t *cookie) noexcept nogil
# A segment without a connection's state: replies of CLOSED, LISTEN, TIME-WAIT. tsval/tsecr are sent if with_ts; key:
# what it is signed with, or NULL.
cdef void send_bare(Tcp *t, const Conn *from_to, uint32_t seq, uint32_t ack, uint32_t wnd, uint8_t flags, bint with_ts,
                    uint32_t tsval, uint32_t tsecr, uint8_t tos, const Md5Key *key) noexcept nogil
cdef uint32_t ts_now(Tcp *t, uint32_t offset) noexcept nogil         # ms
