"""The forwarder: connections to any destination, decided before their handshake.

Responsible for SYNs that no listener takes: each is an entry of a SYN queue that is answered only when somebody has
decided. Accepted, it is a connection in SYN-RECEIVED; refused, it is a RST, an ICMP error or silence. Not for which
packets to foreign addresses come this far (net/foreign).

Undecided requests are as many as the backlog at most. Then a new one pushes the oldest out, a few times a batch, and
otherwise is dropped itself (tcp/listen has the same against floods); a client sends its SYN again. A SYN that comes
again finds its entry and changes nothing. Whoever decides names the request by its four-tuple and sequence number, so
one that has gone meanwhile is not found.
"""
from libc.errno cimport EBUSY, ENOBUFS, ENOENT, ENOMEM

from ustack_ext.base.core cimport count
from ustack_ext.base.entry cimport ENTRY_LISTENER, ENTRY_SYNREQ
from ustack_ext.base.event cimport EV_READABLE, event_forget, event_raise
from ustack_ext.base.slab cimport slab_alloc, slab_free
from ustack_ext.net.foreign cimport FLOW_RESET, FLOW_UNREACHABLE, foreign_refuse, foreign_set
from ustack_ext.net.mib cimport DropFlowBacklog, FlowAccepts, FlowRefusals, FlowTcpRequests, TcpPassiveOpens
from ustack_ext.net.state cimport FOREIGN_TCP
from ustack_ext.tcp.conf cimport conf_share, conf_unref, tcp_conf_default
from ustack_ext.tcp.conn cimport conn_find, isn, tcb_dirty, tcb_done, tcb_insert, tcb_release
from ustack_ext.tcp.establish cimport ready_to_send, tcb_of_request
from ustack_ext.tcp.listen cimport read_syn, synreq_free, synreq_insert
from ustack_ext.tcp.output cimport send_bare, send_syn
from ustack_ext.tcp.sendqueue cimport tx_take
from ustack_ext.tcp.tcb cimport REQ_DEFERRED, TCP_SYN_RECV, Conn, Listener, SynReq, TcpConf
from ustack_ext.wire.bytes cimport put_be16, put_be32
from ustack_ext.wire.headers cimport IPPROTO_TCP_, TH_ACK, TH_FIN, TH_RST, TH_SYN

cdef enum:
    DISPLACED_MAX = 8              # requests that SYNs of one batch may push out
    QUOTED = 8                     # bytes of the TCP header that an error quotes: ports and sequence number


cdef int forward_open(Tcp *t, uint32_t backlog, uint64_t patience, void *user) noexcept nogil:
    cdef Listener *l = &t.forward.l
    cdef TcpConf conf
    if t.forward.on:
        return -EBUSY
    tcp_conf_default(t, &conf)
    l.conf = conf_share(t, &conf)
    if l.conf == NULL:
        return -ENOMEM
    l.source.kind = ENTRY_LISTENER
    l.source.user = user
    l.source.native = 1
    l.backlog = backlog
    t.forward.patience = patience
    t.forward.on = 1
    foreign_set(t.net, FOREIGN_TCP, True)
    return 0


cdef Source *forward_event(Tcp *t) noexcept nogil:
    return &t.forward.l.source


cdef void forward_close(Tcp *t) noexcept nogil:
    if not t.forward.on:
        return
    foreign_set(t.net, FOREIGN_TCP, False)
    t.forward.on = 0
    while t.forward.l.synq_oldest != NULL:
        synreq_free(t, t.forward.l.synq_oldest)
    event_forget(&t.core.events, &t.forward.l.source)
    t.forward.l.source.user = NULL
    conf_unref(t, t.forward.l.conf)
    t.forward.l.conf = NULL


cdef bint forward_syn(Tcp *t, SegIn *s, uint32_t iss) noexcept nogil:
    cdef Listener *l = &t.forward.l
    cdef SynReq *r
    if s.h.flags & (TH_SYN | TH_ACK | TH_RST | TH_FIN) != TH_SYN:
        return False
    if l.synq >= l.backlog:
        count(t.core, DropFlowBacklog)
        if t.displaced >= DISPLACED_MAX:
            return True
        t.displaced += 1
        synreq_free(t, l.synq_oldest)
    r = <SynReq *>slab_alloc(&t.synreqs)
    if r == NULL:
        count(t.core, DropFlowBacklog)
        return True
    r.entry.kind = ENTRY_SYNREQ
    read_syn(t, l, s, r)
    r.marks |= REQ_DEFERRED
    r.iss = iss if iss else isn(t, &r.laddr, r.lport, &r.raddr, r.rport)
    synreq_insert(t, r, t.forward.patience)
    if t.forward.untaken == NULL:
        t.forward.untaken = r
    count(t.core, FlowTcpRequests)
    event_raise(&t.core.events, &l.source, EV_READABLE)
    return True


cdef bint forward_take(Tcp *t, FlowId *id) noexcept nogil:
    cdef SynReq *r = t.forward.untaken
    if r == NULL:
        return False
    t.forward.untaken = r.newer
    id.laddr = r.laddr
    id.raddr = r.raddr
    id.lport = r.lport
    id.rport = r.rport
    id.serial = r.irs
    return True


cdef SynReq *find(Tcp *t, const FlowId *id) noexcept nogil:
    cdef Conn *c = conn_find(t, &id.laddr, id.lport, &id.raddr, id.rport)
    cdef SynReq *r = <SynReq *>c
    if c == NULL or c.entry.kind != ENTRY_SYNREQ or not r.marks & REQ_DEFERRED or r.irs != id.serial:
        return NULL
    return r


cdef int forward_accept(Tcp *t, const FlowId *id, void *user, Tcb **out) noexcept nogil:
    cdef SynReq *r = find(t, id)
    cdef uint32_t iss, hash
    cdef Tcb *c
    if r == NULL:
        return -ENOENT
    if t.forward.half >= t.forward.l.backlog:
        count(t.core, DropFlowBacklog)
        return -ENOBUFS
    c = tcb_of_request(t, r)
    if c == NULL:
        return -ENOBUFS
    iss = r.iss
    hash = r.entry.hash
    synreq_free(t, r)
    if not tx_take(t, c):
        conf_unref(t, c.conf)
        slab_free(&t.tcbs, c)
        return -ENOBUFS
    c.tx.iss = iss
    c.tx.high_sacked = iss
    c.tx.forwarded = 1
    t.forward.half += 1
    c.state = TCP_SYN_RECV
    c.snd_wl1 = c.irs
    ready_to_send(t, c)
    tcb_insert(t, c, hash)
    c.source.user = user
    tcb_dirty(t, c)
    if not send_syn(t, c, False):                                   # no record to be had, or no way back
        c.source.user = NULL
        tcb_done(t, c, 0)
        tcb_release(t, c)
        return -ENOBUFS
    count(t.core, TcpPassiveOpens)
    count(t.core, FlowAccepts)
    out[0] = c
    return 0


cdef int forward_refuse(Tcp *t, const FlowId *id, int how, uint8_t code) noexcept nogil:
    cdef SynReq *r = find(t, id)
    cdef uint8_t quoted[QUOTED]
    if r == NULL:
        return -ENOENT
    if how == FLOW_RESET:
        send_bare(t, <Conn *>r, 0, r.irs + 1, 0, TH_RST | TH_ACK, False, 0, 0, 0, NULL)
    elif how == FLOW_UNREACHABLE:
        put_be16(quoted, r.rport)
        put_be16(quoted + 2, r.lport)
        put_be32(quoted + 4, r.irs)
        foreign_refuse(t.net, &r.raddr, &r.laddr, IPPROTO_TCP_, quoted, QUOTED, code)
    synreq_free(t, r)
    count(t.core, FlowRefusals)
    return 0
