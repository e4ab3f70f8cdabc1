# Every struct of TCP: the connection (TCB), its queues and records, the listener, the SYN-queue entry, the TIME-WAIT
# remnant, and the table they live in.
# Fields are named as RFC 9293 §3.3.1, 6298, 7323, 6675, 8985 and 5681 name them.
from libc.stdint cimport UINT64_MAX, int32_t, int64_t, uint16_t, uint32_t, uint64_t, uint8_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.base.buf cimport Buf
from ustack_ext.base.core cimport Core
from ustack_ext.base.entry cimport Entry
from ustack_ext.base.event cimport Source
from ustack_ext.base.limiter cimport Limiter
from ustack_ext.base.slab cimport Slab
from ustack_ext.base.table cimport HashKey, Table
from ustack_ext.net.state cimport Dst, Net
from ustack_ext.tcp.sample cimport Rate
from ustack_ext.tcp.settings cimport ConfCell, Md5Key, Md5Keys, TcpConf
from ustack_ext.tcp.knobs cimport (
    FASTOPEN_ANY_LISTENER, FASTOPEN_CLIENT, FASTOPEN_CLIENT_NO_COOKIE, FASTOPEN_SERVER, FASTOPEN_SERVER_NO_COOKIE,
    TcpKnobs,
)

cdef enum TcpState:                # Linux's numbers (include/net/tcp_states.h), so that TCP_INFO and ss agree
    TCP_ESTABLISHED = 1
    TCP_SYN_SENT = 2
    TCP_SYN_RECV = 3               # of a simultaneous open; a passive one is a SynReq
    TCP_FIN_WAIT1 = 4
    TCP_FIN_WAIT2 = 5
    TCP_TIME_WAIT = 6
    TCP_CLOSED = 7
    TCP_CLOSE_WAIT = 8
    TCP_LAST_ACK = 9
    TCP_LISTEN = 10
    TCP_CLOSING = 11

cdef enum:
    TCP_MSS_DEFAULT_V4 = 536       # RFC 9293 MUST-15
    TCP_MSS_DEFAULT_V6 = 1220
    TCP_MIN_SND_MSS = 48
    TCP_MAX_WSCALE = 14
    TCP_OFO_RANGES_MAX = 1024
    TCP_REORDERING = 3             # DupThresh
    CC_WORDS = 20                  # of a congestion control algorithm's own state
    RCV_GOAL_SHIFT = 16            # Tally.rcv_goal's unit

cdef struct Bind:                  # a local port somebody claimed by bind()
    Entry entry                    # in tcp.binds, hashed by port
    Addr addr
    uint16_t port
    uint8_t reuse                  # REUSE_*: what its owner allows others
    uint8_t listening

cdef enum:                         # Bind.reuse, and the argument of bind_port
    REUSE_ADDR = 1
    REUSE_PORT = 2

# What every entry of the demux table begins with.
cdef struct Conn:
    Entry entry
    uint16_t lport
    uint16_t rport
    uint32_t private_              # whatever the entry puts there
    Addr laddr
    Addr raddr

cdef enum SegFlags:
    SEG_SACKED = 1
    SEG_LOST = 2
    SEG_RETRANS = 4                # a retransmission of it is in flight
    SEG_EVER_RETRANS = 8           # Karn
    SEG_SYN = 16
    SEG_FIN = 32
    SEG_APP_LIMITED = 64           # it was sent while the application was the limit

cdef struct Seg:                   # a sent segment: a range of sequence space with its history (RFC 8985 §5.2)
    Seg *next                      # by sequence
    Seg *tnext                     # by time of the last transmission, oldest first (RACK's order)
    Seg *tprev
    Buf *block                     # where its bytes start in the send queue
    uint64_t xmit_ns
    uint32_t seq
    uint32_t end
    uint32_t block_off
    # what a delivery-rate sample begins with (tcp/congestion/rate): when it was sent,
    uint32_t delivered             # bytes delivered by then, modulo 2**32
    uint32_t since_delivered       # us since the last of them was
    uint32_t since_first           # us since what was then delivered last had been sent
    uint8_t flags

cdef enum:
    INDEX_FAN = 32
    INDEX_HEIGHT = 8
    INDEX_KINDS = 2                # of records that are looked for (tcp/sendindex)

cdef struct IndexNode:             # of the index over the records
    uint32_t has[2]                # INDEX_KINDS; bit i: there is such a record in child i
    uint8_t first                  # children [first, end) are there
    uint8_t end
    uint8_t level                  # 0: its children are records
    uint32_t seq[32]               # INDEX_FAN; where each of them begins
    void *child[32]

cdef struct Range:                 # contiguous out-of-order data
    uint32_t seq
    uint32_t end
    Buf *head
    Buf *tail

cdef enum Urgent:                  # Reasm.urgent
    URGENT_NONE
    URGENT_PENDING
    URGENT_TAKEN                   # its octet was read, by recv(MSG_OOB); the mark is still ahead

# What is not plain about reception: out-of-order data, a duplicate to report, data lent, an urgent mark. There only
# while there is any of it.
cdef struct Reasm:
    Range *ranges                  # sorted by seq
    uint32_t dup_seq               # D-SACK to report (TF_DSACK_PENDING)
    uint32_t dup_end
    uint32_t count
    uint32_t cap
    uint32_t truesize
    uint32_t lent                  # bytes that recv_view() took out of the receive queue and nobody gave back yet
    uint32_t rcv_up                # the last urgent octet (RCV.UP less one), while `urgent`
    uint8_t urgent                 # Urgent
    uint8_t nrecent
    uint32_t recent[4]             # a sequence number in each of the last ranges touched, latest first (RFC 2018 §4)

cdef enum CaState:                 # Linux's congestion states
    CA_OPEN
    CA_DISORDER
    CA_CWR
    CA_RECOVERY
    CA_LOSS

cdef enum TimerWhat:               # what rto_at stands for
    TIMER_NONE
    TIMER_RTO
    TIMER_TLP
    TIMER_REO
    TIMER_PERSIST
    TIMER_STALE                    # what congestion control knows of the path is too old to keep
    TIMER_MEMORY                   # there was no buffer for a send: tell the application when to try again

cdef enum LossKind:                # what CA_LOSS is about
    LOSS_REAL
    LOSS_MAYBE                     # a time-out that may have been spurious: F-RTO listens (RFC 5682)
    LOSS_ASKING                    # ... and sends new data to find out
    LOSS_SIZE                      # segments were too long for the path: no congestion

cdef enum MtuProbe:                # what became of a segment larger than the path is known to carry (tcp/pathmtu)
    PROBE_NONE
    PROBE_OUT
    PROBE_LOST                     # it and nothing else

cdef enum TcbFlags:
    TF_SACK_OK = 1 << 0
    TF_TS_OK = 1 << 1
    TF_WS_OK = 1 << 2
    TF_ACK_NOW = 1 << 3            # an ACK must leave before the engine goes on
    TF_ACK_DELAYED = 1 << 4        # ... or when delack_at comes
    TF_FIN_QUEUED = 1 << 5         # the application closed its sending side
    TF_FIN_SENT = 1 << 6
    TF_FIN_RCVD = 1 << 7
    TF_ORPHAN = 1 << 8             # the application is gone
    TF_RD_SHUT = 1 << 9
    TF_TLP_OUT = 1 << 10           # a loss probe is in flight
    TF_TLP_RETRANS = 1 << 11       # ... and it was a retransmission
    TF_REO_SEEN = 1 << 12
    TF_RTT_SEEN = 1 << 13          # SRTT holds a sample
    TF_CWND_LIMITED = 1 << 14
    TF_DSACK_PENDING = 1 << 15
    TF_DIRTY = 1 << 16             # on tcp.dirty: has output or an ACK due after this batch
    TF_ACCEPTQ = 1 << 17           # waits in its listener's accept queue
    TF_CONNECTED = 1 << 18         # has been ESTABLISHED
    TF_FIN_OOO = 1 << 19           # the peer's FIN is at fin_seq, data before it is missing
    TF_DEAD = 1 << 20              # CLOSED and reported; kept only for the socket that still holds it
    TF_FREE = 1 << 21              # to be freed when it leaves the dirty list
    TF_MORE = 1 << 22              # the last write said MSG_MORE: a small segment waits for the next
    TF_SYN_LOST = 1 << 23          # the handshake took more than one retransmission
    TF_WANT_ROOM = 1 << 24         # a write found no room for all of it: tell when there is some
    TF_FASTOPEN = 1 << 25          # RFC 7413: passive, and data may go before the handshake is done
    TF_FASTOPEN_ASKED = 1 << 26    # our SYN had the option
    TF_SYN_DATA = 1 << 27          # ... and data, which the SYN-ACK acknowledged; or theirs had, which was taken
    TF_ECN_OK = 1 << 28            # both sides have ECN (in SYN-SENT: it was asked for)
    TF_ECN_ECHO = 1 << 29          # a mark was received: ECE in every segment until CWR comes
    TF_ECN_CWR = 1 << 30           # the window was reduced for a mark: CWR on the next new data
    TF_ECN_ECE = 1 << 31           # the segment at work has ECE

cdef struct Listener
cdef struct SynReq
# What congestion control knows of a connection's path (tcp/congestion/cc).
cdef struct Cc:
    # the pacer
    uint64_t pacing_rate           # bytes/s; 0: not paced
    uint64_t next_send             # ns: when the next transmission may leave
    uint8_t modelled               # the algorithm sets cwnd in every state, from delivery-rate samples
    uint64_t state[20]             # the algorithm's: CC_WORDS

cdef enum Chrono:                  # what a sender waits for (Linux's tcp_chrono)
    CHRONO_NONE
    CHRONO_BUSY                    # for ACKs
    CHRONO_RWND                    # the peer's window
    CHRONO_SNDBUF                  # room in the send queue

# What TCP_INFO counts of a connection. Made with its first data, in either direction: until then, and where there was
# no memory, a connection counts into tcp.no_tally, which nobody reads.
# A request and its answer touch line 0 alone.
cdef struct Tally:
    # line 0
    uint64_t bytes_sent            # new data
    uint64_t bytes_received
    uint32_t segs_out
    uint32_t segs_in
    uint32_t data_segs_out
    uint32_t data_segs_in
    uint32_t busy_ms               # time with data to be acknowledged or sent
    uint32_t rwnd_ms               # ... the peer's window was the limit
    uint32_t sndbuf_ms             # ... the send buffer was
    uint32_t rcvq_copied           # bytes the application took since rcvq_epoch
    uint32_t rcvq_epoch            # us
    uint32_t rate_delivered        # bytes, of the last delivery-rate sample that says something of the path
    uint32_t rate_interval         # us that it took; 0: there was none
    uint16_t rcv_goal              # what rcv_ssthresh grows to, in 64 KiB; 0: as it began
    uint8_t rate_app_limited       # it is the application's rate
    # line 1
    uint64_t bytes_retrans
    uint32_t total_retrans         # segments
    uint32_t delivered_ce          # segments delivered by ACKs that echo a mark (ECN)
    uint16_t dsack_dups
    uint16_t reord_seen
    uint16_t total_rto

# The sending side while there is something to send, in flight or being recovered: taken when data or a SYN is queued,
# given back when all of it is acknowledged (and no back-off is in force, and congestion control has no state to keep).
# Without one a connection points at tcp.no_tx, which is empty and never written to.
cdef struct Tx:
    # hot: one segment out, one ACK in
    Buf *sndq_head
    Buf *sndq_tail
    Buf *nxt_block                 # where snd_nxt's byte is
    uint32_t nxt_off
    uint32_t sndq_off              # offset of snd_una's byte in sndq_head
    uint32_t sndq_bytes            # unacknowledged and unsent, FIN and SYN not counted
    uint32_t sndq_truesize
    Seg *seg_head
    Seg *seg_tail
    uint32_t flight                # "pipe": bytes sent and neither acknowledged, SACKed nor lost, and those sent again
    uint32_t sacked                # bytes
    uint32_t lost                  # bytes marked lost and not retransmitted since
    uint32_t high_sacked           # highest SACKed sequence number + 1
    Seg *time_head
    Seg *time_tail
    uint64_t rto_at                # ns; UINT64_MAX: not running
    uint64_t pace_at               # ns, when the pacer lets the next transmission go; UINT64_MAX: nothing waits for it
    uint64_t retrans_since         # ns of the first unanswered (re)transmission; 0: none
    uint64_t rack_xmit
    uint32_t rack_end
    uint32_t rack_rtt              # us
    uint8_t timer_what             # TimerWhat
    uint8_t backoff
    uint8_t retries                # RTOs in a row
    uint8_t chrono                 # Chrono: since chrono_ms
    uint32_t snd_sml               # end of the last small segment sent (Minshall's Nagle)
    uint32_t cc_acked              # congestion avoidance's remainder
    uint32_t dupacks
    # loss recovery
    uint32_t recover               # RecoveryPoint
    uint32_t recover_fs
    uint32_t prr_delivered
    uint32_t prr_out
    uint32_t tlp_end
    uint32_t prior_cwnd            # before the last reduction, for an undo; 0: nothing to undo
    uint32_t prior_ssthresh
    uint32_t max_out               # most bytes outstanding since usage_seq was sent (RFC 7661: was the window used?)
    uint32_t usage_seq
    uint32_t used                  # pipeACK: the most that was outstanding in a round trip since used_ms
    uint32_t used_ms
    uint32_t chrono_ms
    Cc *cc                         # NULL: the window has not moved yet
    uint32_t undo_marker           # SND.UNA at that reduction
    uint32_t undo_retrans          # bytes sent again since, and not reported as duplicates
    uint32_t retrans_ts            # time stamp (ms) of the first of them; 0: none
    uint32_t resent                # bytes lost and sent again, in flight
    uint32_t dsack_round           # RFC 8985's RACK.dsack_round
    uint8_t loss                   # LossKind
    uint8_t reo_more               # RACK.reo_wnd_mult - 1
    uint8_t reo_persist
    IndexNode *index               # over the records, where there are many
    uint32_t n_segs                # records
    uint32_t steps                 # records and nodes of the index that ACKs and time-outs looked at, for tests
    Rate rate
    # handshake
    uint32_t iss
    # a segment larger than the path is known to carry
    uint32_t probe_end
    uint16_t probe_mtu
    uint16_t fastopen              # bytes of data in the SYN
    uint8_t probe                  # MtuProbe
    uint8_t urgent                 # SND.UP is ahead of SND.UNA, or was
    uint8_t forwarded              # a forwarder's, and its handshake is not done: counted in tcp.forward.half
    uint32_t snd_up                # the octet after the urgent data

cdef union TcbOwner:
    Bind *bind                     # a port bound before connect
    Listener *listener             # TF_ACCEPTQ

# An idle connection is this and nothing else: 320 bytes, five cache lines (slab objects of such a size begin on one).
# A segment finds it by line 0 and is then served, in either direction, from lines 1 and 2 (and what it sends, from
# line 3, with Tx); line 4 is for ACKs of new data, calls and timers. tests/unit/test_tcp_sizes.py holds it to that.
cdef struct Tcb:
    # line 0: demux (Conn)
    Entry entry
    uint16_t lport
    uint16_t rport
    uint8_t state                  # TcpState
    uint8_t ca_state               # CaState
    uint16_t mss                   # payload bytes of a full segment, options subtracted
    Addr laddr
    # line 1
    Addr raddr
    uint32_t flags                 # TF_*
    uint32_t rcv_nxt
    uint32_t snd_una
    uint32_t snd_nxt
    uint32_t snd_wnd               # scaled
    # SND.WL2 is not kept: it can't be beyond SND.UNA, and no ACK below that gets as far as the window
    uint32_t snd_wl1
    uint32_t rcv_adv               # right edge advertised: RCV.NXT + RCV.WND of the last segment sent
    uint32_t last_ack_sent
    uint32_t ts_recent
    uint16_t ts_recent_h           # hours (tcp_hours) when ts_recent was set (24-day rule)
    uint16_t gso_segs              # segments of mss that one transmission may be: 1 where the link cuts nothing
    Tx *tx
    # line 2
    Buf *rcvq_head
    Buf *rcvq_tail
    uint32_t rcvq_bytes
    uint32_t rcvq_truesize
    Reasm *reasm
    Tcb *dirty_next
    uint32_t last_recv             # ms (tcp_ms), anything
    uint32_t delack_at             # ns modulo 2**32; runs while TF_ACK_DELAYED
    uint32_t rcv_ssthresh          # receive autotuning: bytes the window may reach now
    uint32_t ts_offset
    uint16_t rcv_mss               # full-segment estimate of the peer
    uint16_t ato                   # ms, delayed-ACK time-out in force
    uint8_t quick                  # what acknowledgements go by: tcp/quick
    uint8_t snd_wscale
    uint8_t rcv_wscale
    uint8_t probes                 # keep-alive or window probes unanswered
    # line 3
    Source source                  # source.next is the accept queue's link as long as nobody holds the connection
    Dst dst
    const TcpConf *conf
    uint32_t cwnd                  # bytes
    uint32_t irs
    # line 4
    uint64_t idle_at               # ns: keep-alive, FIN-WAIT-2, linger; UINT64_MAX: not running
    TcbOwner owner
    Tally *tally
    uint32_t ssthresh
    uint32_t srtt                  # round trip, us
    uint32_t rttvar
    uint32_t min_rtt
    uint32_t max_snd_wnd
    uint32_t last_send             # ms (tcp_ms), data; 0: never
    uint32_t sndbuf                # bytes the send queue may hold
    uint32_t fin_seq
    uint32_t last_oow_ack          # ms (tcp_ms) of the last challenge or out-of-window ACK; 0: never
    uint16_t peer_mss              # MSS option received (or the default)
    uint8_t error                  # pending SO_ERROR, positive errno
    uint8_t soft_error

cdef struct Listener:
    Entry entry                    # in tcp.listeners, hashed by port
    Source source
    Addr laddr
    uint16_t lport
    uint32_t backlog
    uint32_t synq                  # entries in SYN-RECEIVED
    uint32_t cookie_s              # when the last SYN cookie was sent, s; 0: never
    SynReq *synq_oldest
    SynReq *synq_newest
    uint32_t acceptq
    Tcb *aq_head
    Tcb *aq_tail
    Bind *bind
    const TcpConf *conf

cdef enum:                         # SynReq.marks
    REQ_ECN = 1                    # it asked for ECN, and is answered so
    REQ_ACKED = 2                  # the handshake is done, data is waited for (TCP_DEFER_ACCEPT)
    REQ_DEFERRED = 4               # nothing was answered yet: a forwarder decides (tcp/forward)

cdef struct SynReq:                # a passive open in SYN-RECEIVED
    Entry entry
    uint16_t lport
    uint16_t rport
    uint16_t mss                   # peer's
    uint16_t rcv_wnd               # advertised in the SYN-ACK
    Addr laddr
    Addr raddr
    Listener *listener
    SynReq *older
    SynReq *newer
    uint32_t irs
    uint32_t iss
    uint32_t ts_recent
    uint32_t ts_offset
    uint32_t sent_us               # of the SYN-ACK, for the first RTT sample (modulo 2**32)
    uint8_t snd_wscale
    uint8_t opts                   # TF_SACK_OK | TF_TS_OK | TF_WS_OK
    uint8_t marks                  # REQ_*
    uint8_t retries

cdef struct TimeWait:
    Entry entry
    uint16_t lport
    uint16_t rport
    uint16_t rcv_wnd               # as in the header
    uint8_t ts_ok
    uint8_t tos
    Addr laddr
    Addr raddr
    TimeWait *older
    TimeWait *newer
    uint32_t snd_nxt
    uint32_t rcv_nxt
    uint32_t ts_recent
    uint32_t ts_offset
    uint32_t ts_recent_s           # when ts_recent came
    Md5Keys *md5                   # the connection's; NULL: none

cdef enum:
    FASTOPEN_COOKIE_MAX = 16       # RFC 7413 §4.1.1
    FASTOPEN_CACHE = 1024          # cookies remembered

cdef struct FastopenPeer:          # what is remembered of a server (RFC 7413 §4.1.3)
    Entry entry                    # in tcp.fastopen_peers, hashed by address
    FastopenPeer *newer
    Addr addr
    uint64_t closed_until          # ns: SYNs with data were lost
    uint16_t mss
    uint8_t len                    # of the cookie; 0: none yet
    uint8_t losses
    uint8_t cookie[16]

cdef struct TcpForward:            # the forwarder: what takes SYNs that no listener does
    Listener l                     # in no table; its SYN queue holds the undecided, oldest first
    SynReq *untaken                # the first of them that nobody asked for yet
    uint64_t patience              # ns that one may stay undecided
    uint32_t half                  # accepted connections whose handshake is not done
    uint8_t on

cdef struct Tcp:
    Core *core
    Net *net
    TcpKnobs knobs
    Table conns                    # Tcb, SynReq, TimeWait by four-tuple
    Tcb *last_found                # the one that the last lookup in it found, or NULL
    Table listeners                # by port
    Table binds                    # by port
    HashKey key                    # tables
    HashKey isn_key                # RFC 6528
    HashKey ts_key                 # RFC 7323 §7.1
    HashKey cookie_key[2]          # RFC 4987 §3.6
    HashKey fastopen_key           # RFC 7413 §4.1.2
    Table fastopen_peers
    FastopenPeer *fastopen_oldest
    FastopenPeer *fastopen_newest
    TcpForward forward
    uint32_t n_fastopen            # passive connections whose handshake is not done
    Slab tcbs
    Slab synreqs
    Slab timewaits
    Slab segs
    Slab index_nodes
    Slab listeners_slab
    Slab binds_slab
    Slab reasms
    Slab confs
    Slab txs
    Slab ccs
    Slab tallies
    Slab fastopen_slab
    Tally no_tally
    Tx no_tx                       # what a connection without a sending side points at
    Tx *spare_txs                  # given back, kept for the next, linked through sndq_head
    uint32_t n_spare_txs
    TcpConf *recent_confs[8]       # what a new setting is compared with, latest first; not counted as users
    TimeWait *tw_oldest
    TimeWait *tw_newest
    uint32_t n_timewait
    uint32_t n_orphans
    uint32_t n_established
    Tcb *dirty_head                # have an ACK or data to send once the batch is through
    Tcb *dirty_tail
    uint32_t cookies               # SYN cookies that this batch was answered with
    uint32_t displaced             # SYN-queue entries that this batch pushed out
    uint64_t challenge_epoch       # s
    uint32_t challenge_left
    uint64_t ofo_memory            # truesize of all out-of-order data


cdef inline uint32_t tcb_rcv_wnd(const Tcb *c) noexcept nogil:
    """RCV.WND as last advertised."""
    cdef int32_t w = <int32_t>(c.rcv_adv - c.rcv_nxt)
    return <uint32_t>w if w > 0 else 0


cdef inline uint32_t tcp_ms(const Core *core) noexcept nogil:
    """The time in ms modulo 2**32, never 0: for differences of less than 49 days."""
    cdef uint32_t ms = <uint32_t>(core.now // 1000000)
    return ms if ms else 1


cdef inline uint64_t fin_timeout_ns(const Tcp *t, const Tcb *c) noexcept nogil:
    """How long an orphan stays in FIN-WAIT-2: TCP_LINGER2, or tcp_fin_timeout."""
    return <uint64_t>(c.conf.linger2 if c.conf.linger2 > 0 else t.knobs.fin_timeout) * 1000000000


cdef inline uint16_t tcp_hours(const Core *core) noexcept nogil:
    return <uint16_t>(core.now // 1000000000 // 3600)


cdef inline uint32_t tcb_burst(const Tcb *c) noexcept nogil:
    """Payload bytes of one transmission."""
    return <uint32_t>c.gso_segs * c.mss


cdef inline uint64_t tcb_delack_at(const Tcb *c, uint64_t now) noexcept nogil:
    """When the delayed ACK is due, ns; UINT64_MAX: there is none."""
    if not c.flags & TF_ACK_DELAYED:
        return UINT64_MAX
    return now + <uint64_t><int64_t><int32_t>(c.delack_at - <uint32_t>now)


cdef inline uint64_t tcb_deadline(const Tcb *c, uint64_t now) noexcept nogil:
    """The earliest of its timers, ns; UINT64_MAX: none runs."""
    return min(min(c.tx.rto_at, c.tx.pace_at), min(tcb_delack_at(c, now), c.idle_at))


cdef inline uint32_t tcb_unread(const Tcb *c) noexcept nogil:
    """Received bytes that the application has not done with: queued, or lent to it."""
    return c.rcvq_bytes + (c.reasm.lent if c.reasm != NULL else 0)


cdef inline bint tcb_connecting(const Tcb *c) noexcept nogil:
    """Whether the application still has to wait before it can send."""
    return c.state == TCP_SYN_SENT or (c.state == TCP_SYN_RECV and not c.flags & TF_FASTOPEN)


cdef inline uint32_t tcb_notsent(const Tcb *c) noexcept nogil:
    """Bytes in the send queue that were never sent (FIN and SYN, which are in no queue, make no difference here)."""
    cdef uint32_t sent = c.snd_nxt - c.snd_una
    return c.tx.sndq_bytes - sent if c.tx.sndq_bytes > sent else 0


cdef inline bint tcb_has_room(const Tcb *c) noexcept nogil:
    """Whether the application should write: a third of the send queue is free, as Linux; and what was not sent yet is
    less than half of TCP_NOTSENT_LOWAT.
    """
    return 3 * <uint64_t>c.tx.sndq_bytes <= 2 * <uint64_t>c.sndbuf and (
        c.conf.notsent_lowat == 0 or 2 * <uint64_t>tcb_notsent(c) < c.conf.notsent_lowat)


cdef inline bint has_gap(const Tcb *c) noexcept nogil:
    """Whether data is missing before some that is here."""
    return c.reasm != NULL and c.reasm.count > 0
