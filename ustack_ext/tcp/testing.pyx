"""For tests: how large TCP's structs are, where the fields of a connection lie, arithmetic of its own, and the sending
side of a connection without the rest of it.
"""
from libc.stdint cimport int32_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from ustack_ext.base.buf cimport Buf
from ustack_ext.base.core cimport Core
from ustack_ext.tcp.congestion.cubic cimport Curve, cube_root, curve_at, curve_k
from ustack_ext.tcp.options cimport OPT_SACK, Options
from ustack_ext.tcp.recovery cimport recovery_ack, recovery_next_lost, recovery_resent, recovery_rto, recovery_sent
from ustack_ext.tcp.scoreboard cimport Delivery, board_ack, board_forget_sacks, board_lose, board_sack, board_unlose
from ustack_ext.tcp.sendindex cimport INDEX_LOST, INDEX_OPEN, index_find, index_next
from ustack_ext.tcp.sendqueue cimport seg_append, seg_free_head, seg_split, sendq_link, tx_give, tx_take
from ustack_ext.tcp.tcb cimport (
    SEG_LOST, SEG_RETRANS, SEG_SACKED, TF_CONNECTED, TF_SACK_OK, Cc, ConfCell, Seg, SynReq, Tally, Tcb, Tcp, TcpConf,
    TimeWait, Tx,
)
from ustack_ext.tcp.tcp cimport tcp_destroy, tcp_init

cdef enum:
    LINE = 64                      # bytes a cache line


def sizes():
    """{struct: bytes an object}."""
    return {"Tcb": sizeof(Tcb), "Tally": sizeof(Tally), "Tx": sizeof(Tx), "Cc": sizeof(Cc), "Seg": sizeof(Seg),
            "SynReq": sizeof(SynReq), "TimeWait": sizeof(TimeWait), "ConfCell": sizeof(ConfCell)}


def tally_lines():
    """The same as tcb_lines for a Tally."""
    cdef Tally y
    cdef char *at = <char *>&y
    return {0: <char *>&y.bytes_sent - at, 1: (<char *>&y.bytes_retrans - at) - LINE}


def tcb_lines():
    """{cache line of a Tcb: its first field's offset in it}, 0 where tcb.pxd says that a line begins."""
    cdef Tcb c
    cdef char *at = <char *>&c
    return {0: <char *>&c.entry - at, 1: (<char *>&c.raddr - at) - LINE, 2: (<char *>&c.rcvq_head - at) - 2 * LINE,
            3: (<char *>&c.source - at) - 3 * LINE, 4: (<char *>&c.idle_at - at) - 4 * LINE}


def cubic_root(x):
    """The integer cube root that CUBIC uses; x below 2**63."""
    return cube_root(x)


def cubic_curve(w_max, cwnd, mss, ticks):
    """(K, W_cubic at each of `ticks` ticks after an epoch that began at cwnd): bytes, ticks of 1/1024 s."""
    cdef Curve v
    v.epoch = 1
    v.w_max = w_max
    v.origin = max(w_max, cwnd)
    v.k = curve_k(w_max, cwnd, mss)
    v.w_est = cwnd
    return v.k, [curve_at(&v, tick, mss) for tick in ticks]


cdef class SendSide:
    """A sending side alone: its records, the scoreboard over them, recovery. Nothing is sent.

    iss: the first byte's sequence number. Sequence numbers are of 32 bits, times ns.
    """
    cdef Core *core
    cdef Tcp *t
    cdef Tcb c
    cdef TcpConf conf
    cdef Buf bytes

    def __cinit__(self, uint32_t iss, mss):
        self.core = <Core *>calloc(1, sizeof(Core))
        self.t = <Tcp *>calloc(1, sizeof(Tcp))
        if self.core == NULL or self.t == NULL:
            raise MemoryError
        tcp_init(self.t, self.core, NULL)
        memset(&self.c, 0, sizeof(Tcb))
        self.c.tx = &self.t.no_tx
        self.c.tally = &self.t.no_tally
        self.c.conf = &self.conf
        self.conf.cc = self.t.knobs.congestion
        self.c.mss = mss
        self.c.flags = TF_SACK_OK | TF_CONNECTED
        self.c.snd_una = iss
        self.c.snd_nxt = iss
        self.c.cwnd = 10 * mss
        self.c.ssthresh = 1 << 30
        self.bytes.len = <uint32_t>0xFFFFFFFF                # as many as a test may want
        self.bytes.refs = 1
        tx_take(self.t, &self.c)
        sendq_link(&self.c, &self.bytes)

    def __dealloc__(self):
        while self.c.tx.seg_head != NULL:
            seg_free_head(self.t, &self.c)
        tx_give(self.t, &self.c)
        tcp_destroy(self.t)
        free(self.t)
        free(self.core)

    def advance(self, ns):
        """Time goes on."""
        self.core.now += ns

    def send(self, uint32_t n):
        """New data of n bytes, as one record."""
        cdef Seg *s = seg_append(self.t, &self.c, self.c.snd_nxt, self.c.snd_nxt + n, 0)
        if s == NULL:
            raise MemoryError
        self.c.snd_nxt = s.end
        recovery_sent(self.t, &self.c, s)

    cdef void fill(self, Options *o, blocks) except *:
        memset(o, 0, sizeof(Options))
        for left, right in blocks[:4]:
            o.have = OPT_SACK
            o.sack[2 * o.nsack] = left
            o.sack[2 * o.nsack + 1] = right
            o.nsack += 1

    def ack(self, uint32_t ack, blocks=()):
        """An ACK, with SACK blocks [(left, right)]: scoreboard, RACK, recovery. Returns how many records, and nodes of
        the index over them, that looked at; records that the ACK itself covers are not counted.
        """
        cdef Options o
        self.fill(&o, blocks)
        self.c.tx.steps = 0
        recovery_ack(self.t, &self.c, ack, &o, ack == self.c.snd_una)
        return self.c.tx.steps

    def board(self, uint32_t ack, blocks=()):
        """The same for the scoreboard alone: bytes newly acknowledged or SACKed."""
        cdef Options o
        cdef Delivery d
        self.fill(&o, blocks)
        memset(&d, 0, sizeof(d))
        board_sack(self.t, &self.c, ack, &o, &d)
        if <int32_t>(ack - self.c.snd_una) > 0:
            board_ack(self.t, &self.c, ack, &d)
        return d.bytes

    def timeout(self):
        recovery_rto(self.t, &self.c)

    def resend(self, most):
        """Sends what is lost again, up to so many records of one segment each: [(seq, end), ...], how many steps."""
        cdef Seg *s
        cdef list sent = []
        self.c.tx.steps = 0
        while len(sent) < most:
            s = recovery_next_lost(&self.c)
            if s == NULL:
                break
            if s.end - s.seq > self.c.mss:
                seg_split(self.t, &self.c, s, s.seq + self.c.mss)
            recovery_resent(self.t, &self.c, s)
            sent.append((s.seq, s.end))
        return sent, self.c.tx.steps

    cdef Seg *nth(self, n):
        cdef Seg *s = self.c.tx.seg_head
        for _ in range(n):
            s = s.next if s != NULL else NULL
        return s

    def lose(self, n):
        """The nth record is marked, if there is one."""
        cdef Seg *s = self.nth(n)
        if s != NULL:
            board_lose(&self.c, s)

    def unlose(self):
        """How many steps that took."""
        self.c.tx.steps = 0
        board_unlose(&self.c)
        return self.c.tx.steps

    def forget_sacks(self):
        board_forget_sacks(&self.c)

    def records(self):
        """[(seq, end, SACKed, lost, sent again and in flight), ...]"""
        cdef Seg *s = self.c.tx.seg_head
        cdef list found = []
        while s != NULL:
            found.append((s.seq, s.end, bool(s.flags & SEG_SACKED), bool(s.flags & SEG_LOST),
                          bool(s.flags & SEG_RETRANS)))
            s = s.next
        return found

    def by_time(self):
        """The order of transmission: [(ns, seq), ...]."""
        cdef Seg *s = self.c.tx.time_head
        cdef list found = []
        while s != NULL:
            found.append((s.xmit_ns, s.seq))
            s = s.tnext
        return found

    def counted(self):
        """Bytes (in flight, SACKed, lost and not sent again, of those in flight sent again)."""
        return self.c.tx.flight, self.c.tx.sacked, self.c.tx.lost, self.c.tx.resent

    def indexed(self):
        """Nodes of the index; 0: there is none."""
        return self.t.index_nodes.live

    def find(self, uint32_t seq):
        """What the index, which there is, finds: (seq of the record that holds it or the first behind, of the first
        from there on that is not SACKed, of the first that is lost and not sent again); None where there is none.
        """
        cdef Seg *s = index_find(&self.c, seq)
        cdef Seg *open_ = index_next(&self.c, s, INDEX_OPEN) if s != NULL else NULL
        cdef Seg *lost = index_next(&self.c, s, INDEX_LOST) if s != NULL else NULL
        return (s.seq if s != NULL else None, open_.seq if open_ != NULL else None, lost.seq if lost != NULL else None)
