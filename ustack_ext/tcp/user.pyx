"""The user's calls: OPEN, SEND, RECEIVE, CLOSE, ABORT, STATUS (RFC 9293 §3.9.1), with the errno Linux gives. Nothing
here blocks.
"""
from libc.errno cimport EADDRINUSE, EADDRNOTAVAIL, EAGAIN, ENETUNREACH, ENOBUFS, ENOTCONN, EPIPE
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from ustack_ext.base.core cimport count
from ustack_ext.base.entry cimport ENTRY_LISTENER
from ustack_ext.base.event cimport EV_CLOSED, EV_ERROR, EV_HANGUP, EV_READABLE, EV_WRITABLE, event_forget
from ustack_ext.base.iov cimport IoVec
from ustack_ext.base.slab cimport slab_alloc, slab_free
from ustack_ext.base.table cimport table_hash, table_insert, table_remove
from ustack_ext.net.mib cimport TCPAbortOnClose, TCPAbortOnLinger, TCPAbortOnMemory, TcpActiveOpens, TWRecycled
from ustack_ext.net.net cimport net_is_broadcast, net_resolve, net_source_for
from ustack_ext.tcp.congestion.cc cimport cc_pace, cc_switch
from ustack_ext.tcp.conf cimport conf_set, conf_share, conf_unref
from ustack_ext.tcp.conn cimport (
    acceptq_pop, bind_blocks_listen, bind_free, bind_port, conn_find, conn_hash, ephemeral_port, isn, tally_take,
    tuple_unused, tcb_dirty, tcb_done, tcb_insert, tcb_new, tcb_raise, tcb_release, ts_offset_of,
)
from ustack_ext.tcp.establish cimport arm_keepalive
from ustack_ext.tcp.fastopen cimport fastopen_may_send
from ustack_ext.tcp.listen cimport synreq_free
from ustack_ext.tcp.md5 cimport md5_key
from ustack_ext.tcp.options cimport OPTIONS_MAX
from ustack_ext.tcp.output cimport (
    send_rst, send_syn, tune_sndbuf, update_mss, window_limit, window_to_offer,
)
from ustack_ext.tcp.reassembly cimport rcvq_drop, rcvq_read
from ustack_ext.tcp.sendqueue cimport sendq_append, tx_take
from ustack_ext.tcp.tcb cimport (
    RCV_GOAL_SHIFT, TCP_CLOSE_WAIT, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LAST_ACK, TCP_MSS_DEFAULT_V4, TCP_SYN_SENT,
    TF_ACK_NOW, TF_CONNECTED, TF_DEAD, TF_FASTOPEN_ASKED, TF_FIN_QUEUED, TF_FIN_RCVD, TF_MORE, TF_ORPHAN, TF_RD_SHUT,
    TF_WANT_ROOM, TIMER_MEMORY, Bind, FastopenPeer, Listener, Tcb, Tcp, TcpConf, TimeWait, fin_timeout_ns,
    tcb_connecting, tcb_has_room, tcb_notsent, tcb_rcv_wnd, tcp_hours,
)
from ustack_ext.tcp.timewait cimport timewait_free
from ustack_ext.tcp.urgent cimport has_mark, urgent_hidden, urgent_passed, urgent_reach, urgent_ready
from ustack_ext.tcp.windows cimport window_goal
from ustack_ext.wire.addr cimport Addr, addr_is_any, addr_is_broadcast, addr_is_multicast, addr_localhost, addr_none

cdef enum:
    SHUT_RD = 0
    SHUT_WR = 1
    MEMORY_RETRY_NS = 50000000
    TW_ISS_GAP = 65537             # beyond any window the old connection could have had open
    LEAST_US = 1000                # a round trip, for right-sizing
    AHEAD = 8                      # times what is taken in one


# ---- OPEN ----

cdef int tcp_bind(Tcp *t, const Addr *a, uint16_t port, int reuse, Bind **out) noexcept nogil:
    return bind_port(t, a, port, reuse, out)


cdef void tcp_unbind(Tcp *t, Bind *b) noexcept nogil:
    bind_free(t, b)


cdef int choose_tuple(Tcp *t, Bind *b, Tcb *c) noexcept nogil:
    """Fills in our address and port for c.raddr. RFC 9293 MUST-44, 45; RFC 6056 for the port."""
    cdef int err
    if b != NULL and not addr_is_any(&b.addr):
        c.laddr = b.addr
    else:
        err = net_source_for(t.net, &c.raddr, &c.laddr)
        if err != 0:
            return err
    err = net_resolve(t.net, &c.dst, &c.laddr, &c.raddr)
    if err != 0:
        return err
    c.lport = b.port if b != NULL else ephemeral_port(t, &c.laddr, &c.raddr, c.rport)
    if c.lport == 0 or not tuple_unused(t, &c.laddr, c.lport, &c.raddr, c.rport):
        return -EADDRNOTAVAIL
    return 0


cdef uint32_t first_number(Tcp *t, Tcb *c) noexcept nogil:
    """The ISS. What is left of a connection with the same four-tuple makes room for this one (RFC 6191): the numbers
    begin above its own, and its last timestamp is the least that is taken.
    """
    cdef TimeWait *w = <TimeWait *>conn_find(t, &c.laddr, c.lport, &c.raddr, c.rport)
    cdef uint32_t iss
    if w == NULL:
        return isn(t, &c.laddr, c.lport, &c.raddr, c.rport)
    iss = w.snd_nxt + TW_ISS_GAP
    c.ts_recent = w.ts_recent
    c.ts_recent_h = tcp_hours(t.core)
    timewait_free(t, w)
    count(t.core, TWRecycled)
    return iss


cdef long fast_data(Tcp *t, Tcb *c, const IoVec *iov, int niov) noexcept nogil:
    """RFC 7413 §4.2.1: as much as the SYN can carry goes into the send queue, if data may go with it. Bytes."""
    cdef FastopenPeer *peer = NULL
    cdef uint32_t room
    if niov == 0 or md5_key(c.conf.md5, &c.raddr) != NULL:   # no room for both options
        return 0
    if not fastopen_may_send(t, &c.raddr, c.conf, &peer):
        return 0
    c.peer_mss = peer.mss if peer != NULL and peer.mss > 0 else TCP_MSS_DEFAULT_V4
    update_mss(t, c)
    room = c.mss - OPTIONS_MAX if c.mss > OPTIONS_MAX else 0
    c.tx.fastopen = <uint16_t>sendq_append(t, c, iov, niov, room)
    return c.tx.fastopen


cdef int tcp_connect(Tcp *t, Bind *b, const Addr *raddr, uint16_t rport, const TcpConf *conf, void *user,
                     const IoVec *iov, int niov, long *taken, Tcb **out) noexcept nogil:
    cdef Tcb *c
    cdef int err
    if addr_is_multicast(raddr) or addr_is_broadcast(raddr) or net_is_broadcast(t.net, raddr):       # MUST-46
        return -ENETUNREACH
    c = tcb_new(t)
    if c == NULL:
        return -ENOBUFS
    c.raddr = raddr[0]
    if addr_is_any(raddr):                                   # as Linux: "this host"
        c.raddr = addr_localhost(raddr)
    c.rport = rport
    err = choose_tuple(t, b, c)
    if err == 0:
        c.conf = conf_share(t, conf)
        if c.conf == NULL or not tx_take(t, c):
            conf_unref(t, c.conf)
            err = -ENOBUFS
    if err != 0:
        slab_free(&t.tcbs, c)
        return err
    tune_sndbuf(t, c)
    c.ts_offset = ts_offset_of(t, &c.laddr, &c.raddr, c.lport, c.rport)
    c.tx.iss = first_number(t, c)
    c.tx.high_sacked = c.tx.iss
    c.snd_una = c.tx.iss
    c.snd_nxt = c.tx.iss
    c.snd_wnd = 1
    c.mss = 536
    c.gso_segs = 1
    c.cwnd = 536
    c.state = TCP_SYN_SENT
    c.owner.bind = b
    c.source.user = user
    if taken != NULL:
        c.flags |= TF_FASTOPEN_ASKED
        taken[0] = fast_data(t, c, iov, niov)
    tcb_insert(t, c, conn_hash(t, &c.laddr, c.lport, &c.raddr, c.rport))
    tcb_dirty(t, c)
    count(t.core, TcpActiveOpens)
    if not send_syn(t, c, False):                                   # no record to be had: nothing would ever try again
        c.owner.bind = NULL
        c.source.user = NULL
        tcb_done(t, c, 0)
        tcb_release(t, c)
        return -ENOBUFS
    out[0] = c
    return 0


cdef int tcp_listen(Tcp *t, Bind *b, uint32_t backlog, const TcpConf *conf, void *user, Listener **out) noexcept nogil:
    cdef Listener *l
    cdef Addr any_addr = addr_none()
    cdef int err
    cdef Bind *own = NULL
    if b == NULL:                                            # listen() without bind(): an ephemeral port
        err = bind_port(t, &any_addr, 0, False, &own)
        if err != 0:
            return err
        b = own
    elif bind_blocks_listen(t, b):
        return -EADDRINUSE
    l = <Listener *>slab_alloc(&t.listeners_slab)
    if l != NULL:
        l.conf = conf_share(t, conf)
        if l.conf == NULL:
            slab_free(&t.listeners_slab, l)
            l = NULL
    if l == NULL:
        if own != NULL:
            bind_free(t, own)
        return -ENOBUFS
    b.listening = True
    l.entry.kind = ENTRY_LISTENER
    l.source.kind = ENTRY_LISTENER
    l.source.user = user
    l.bind = b
    l.laddr = b.addr
    l.lport = b.port
    tcp_set_backlog(t, l, backlog)
    table_insert(&t.listeners, &l.entry, table_hash(&t.key, l.lport, 0, 0, 0, 0))
    out[0] = l
    return 0


cdef void tcp_set_backlog(Tcp *t, Listener *l, uint32_t backlog) noexcept nogil:
    l.backlog = min(backlog, t.knobs.somaxconn)


cdef Tcb *tcp_accept(Tcp *t, Listener *l, void *user) noexcept nogil:
    cdef Tcb *c = acceptq_pop(l)
    if c != NULL:
        c.source.user = user
    return c


cdef void tcp_close_listener(Tcp *t, Listener *l) noexcept nogil:
    while l.synq_oldest != NULL:
        synreq_free(t, l.synq_oldest)
    while l.aq_head != NULL:
        send_rst(t, l.aq_head)
        tcb_done(t, l.aq_head, 0)                            # takes it out of the queue
    event_forget(&t.core.events, &l.source)
    table_remove(&t.listeners, &l.entry)
    bind_free(t, l.bind)
    conf_unref(t, l.conf)
    slab_free(&t.listeners_slab, l)


# ---- SEND ----

cdef int tcp_take_error(Tcb *c) noexcept nogil:
    cdef int err = c.error
    c.error = 0
    return err


cdef int may_send(Tcb *c) noexcept nogil:
    if c.error:
        return -tcp_take_error(c)
    if c.flags & (TF_DEAD | TF_FIN_QUEUED):
        return -EPIPE
    return -EAGAIN if tcb_connecting(c) else 0


cdef void wait_for_memory(Tcp *t, Tcb *c) noexcept nogil:
    if c.tx.sndq_bytes == 0:                                 # no ACK will come that makes room: look again in a while
        c.tx.timer_what = TIMER_MEMORY
        c.tx.rto_at = t.core.now + MEMORY_RETRY_NS
        tcb_dirty(t, c)


cdef void queued(Tcp *t, Tcb *c, bint more) noexcept nogil:
    c.flags = c.flags | TF_MORE if more else c.flags & ~<uint32_t>TF_MORE
    tcb_dirty(t, c)


cdef bint send_is_full(const Tcb *c) noexcept nogil:
    return c.tx.sndq_bytes >= c.sndbuf or (c.conf.notsent_lowat != 0 and tcb_notsent(c) >= c.conf.notsent_lowat)


cdef long tcp_send(Tcp *t, Tcb *c, const IoVec *iov, int niov, bint more) noexcept nogil:
    cdef uint32_t taken
    cdef size_t want = 0
    cdef int i, err = may_send(c)
    if err != 0:
        return err
    for i in range(niov):
        want += iov[i].len
    if want == 0:
        return 0
    if send_is_full(c):
        c.flags |= TF_WANT_ROOM
        return -EAGAIN
    if not tx_take(t, c):
        return -ENOBUFS
    if c.tally == &t.no_tally:
        tally_take(t, c)
    taken = sendq_append(t, c, iov, niov, <uint32_t>min(<size_t>(c.sndbuf - c.tx.sndq_bytes), want))
    if taken < want:
        c.flags |= TF_WANT_ROOM
    if taken == 0:
        wait_for_memory(t, c)
        return -EAGAIN
    queued(t, c, more)
    return taken


# ---- RECEIVE ----

cdef long tcp_recv(Tcp *t, Tcb *c, const IoVec *iov, int niov, bint peek) noexcept nogil:
    cdef uint32_t n, most = c.rcvq_bytes, skip = 0
    if has_mark(c):
        most = urgent_reach(t, c, peek, &skip)
        if skip > 0 and not peek and not c.flags & TF_DEAD:
            consumed(t, c, skip)
    if most == 0:
        return nothing_queued(c)
    n = rcvq_read(t, c, iov, niov, peek, skip if peek else 0, most)
    if n > 0 and not peek:
        taken(t, c, n)
    return n


cdef void taken(Tcp *t, Tcb *c, uint32_t n) noexcept nogil:
    if has_mark(c):
        urgent_passed(t, c)
    if not c.flags & TF_DEAD:
        consumed(t, c, n)


cdef long nothing_queued(Tcb *c) noexcept nogil:
    if c.flags & (TF_FIN_RCVD | TF_RD_SHUT):
        return 0
    if c.error:
        return -tcp_take_error(c)
    if c.flags & TF_DEAD:
        return 0 if c.flags & TF_CONNECTED else -ENOTCONN
    return -EAGAIN


cdef void tcp_consume(Tcp *t, Tcb *c, uint32_t n) noexcept nogil:
    rcvq_drop(t, c, n)
    if n > 0:
        taken(t, c, n)


cdef uint64_t window_wanted(const Tcp *t, const Tcb *c, uint64_t taken) noexcept nogil:
    """By an application that takes so many bytes in a round trip.

    Twice as much, for a sender in slow start doubles that in the next. But the application takes nothing while a loss
    is repaired, and the window must not end before that is. So where a quarter of it is taken it becomes eight times
    that, as much as Linux gives to a sender that doubles. A round trip below the least fits into it more than once.
    """
    if c.srtt < LEAST_US:
        return 2 * taken
    return AHEAD * taken if AHEAD // 2 * taken > window_goal(t, c, 0) else 0


cdef void autotune(Tcp *t, Tcb *c, uint32_t n) noexcept nogil:
    """Dynamic right-sizing: the window follows what the application takes in a round trip, to tcp_rmem[2]."""
    cdef uint32_t rtt = max(c.srtt, <uint32_t>LEAST_US), now = <uint32_t>(t.core.now // 1000)
    cdef uint32_t since = now - c.tally.rcvq_epoch
    cdef uint64_t want
    if c.tally == &t.no_tally:
        return
    c.tally.rcvq_copied += n
    if since < rtt:
        return
    want = min(window_wanted(t, c, c.tally.rcvq_copied), <uint64_t>t.knobs.rmem_max)
    if want > window_goal(t, c, 0) and since < 2 * rtt:
        c.tally.rcv_goal = <uint16_t>(((want - 1) >> RCV_GOAL_SHIFT) + 1)
    c.tally.rcvq_copied = 0
    c.tally.rcvq_epoch = now


cdef void consumed(Tcp *t, Tcb *c, uint32_t n) noexcept nogil:
    """The window can open: the peer hears of it if that is worth a segment (twice what it has, as Linux)."""
    cdef uint32_t offered = tcb_rcv_wnd(c), could
    autotune(t, c, n)
    if c.flags & TF_FIN_RCVD or c.state == TCP_SYN_SENT:
        return
    if 2 * offered <= window_limit(t, c):
        could = window_to_offer(t, c)
        if could > 0 and could >= 2 * offered:
            c.flags |= TF_ACK_NOW
            tcb_dirty(t, c)


# ---- CLOSE, ABORT ----

cdef void queue_fin(Tcp *t, Tcb *c) noexcept nogil:
    if c.flags & TF_FIN_QUEUED:
        return
    c.flags |= TF_FIN_QUEUED
    c.flags &= ~<uint32_t>TF_MORE
    c.state = TCP_LAST_ACK if c.state == TCP_CLOSE_WAIT else TCP_FIN_WAIT1
    tcb_dirty(t, c)


cdef int tcp_shutdown(Tcp *t, Tcb *c, int how) noexcept nogil:
    if c.flags & TF_DEAD:
        return -ENOTCONN
    if c.state == TCP_SYN_SENT:
        tcb_done(t, c, 0)
        return 0
    if how != SHUT_WR:
        c.flags |= TF_RD_SHUT
        tcb_raise(t, c, EV_READABLE)
    if how != SHUT_RD:
        queue_fin(t, c)
        tcb_raise(t, c, EV_WRITABLE | (EV_HANGUP if c.flags & (TF_FIN_RCVD | TF_RD_SHUT) else 0))
    return 0


cdef void let_go(Tcp *t, Tcb *c, bint abort) noexcept nogil:
    event_forget(&t.core.events, &c.source)
    c.source.user = NULL
    if c.flags & TF_DEAD:
        tcb_release(t, c)
        return
    tcb_dirty(t, c)
    c.flags |= TF_ORPHAN
    t.n_orphans += 1
    if c.state == TCP_SYN_SENT:
        tcb_done(t, c, 0)
        return
    if abort or c.rcvq_bytes > 0 or t.n_orphans > t.knobs.max_orphans:
        # RFC 2525 §2.17: the peer must know it was not read
        count(t.core, TCPAbortOnClose if c.rcvq_bytes else (TCPAbortOnLinger if abort else TCPAbortOnMemory))
        send_rst(t, c)
        tcb_done(t, c, 0)
        return
    if c.state == TCP_FIN_WAIT2 and c.conf.linger2 < 0:
        count(t.core, TCPAbortOnLinger)
        send_rst(t, c)
        tcb_done(t, c, 0)
        return
    queue_fin(t, c)
    if c.state == TCP_FIN_WAIT2:
        c.idle_at = t.core.now + fin_timeout_ns(t, c)


cdef void tcp_close(Tcp *t, Tcb *c) noexcept nogil:
    let_go(t, c, c.conf.linger and c.conf.linger_time == 0)


cdef void tcp_abort(Tcp *t, Tcb *c) noexcept nogil:
    let_go(t, c, True)


# ---- STATUS ----

cdef uint16_t tcp_ready(Tcb *c) noexcept nogil:
    cdef uint16_t bits = 0
    cdef uint32_t unread = c.rcvq_bytes
    if has_mark(c):
        bits |= urgent_ready(c)
        unread -= urgent_hidden(c)
    if unread > 0 and unread >= c.conf.rcvlowat:
        bits |= EV_READABLE
    elif c.flags & (TF_FIN_RCVD | TF_RD_SHUT | TF_DEAD) or c.error:
        bits |= EV_READABLE
    if c.flags & (TF_DEAD | TF_FIN_QUEUED) or c.error:
        bits |= EV_WRITABLE
    elif not tcb_connecting(c) and tcb_has_room(c):
        bits |= EV_WRITABLE
    if c.flags & TF_DEAD or (c.flags & TF_FIN_QUEUED and c.flags & (TF_FIN_RCVD | TF_RD_SHUT)):
        bits |= EV_HANGUP
    if c.flags & TF_DEAD:
        bits |= EV_CLOSED
    if c.error:
        bits |= EV_ERROR
    return bits


cdef uint16_t tcp_listener_ready(Listener *l) noexcept nogil:
    return EV_READABLE if l.aq_head != NULL else 0


cdef int tcp_set_conf(Tcp *t, Tcb *c, const TcpConf *conf) noexcept nogil:
    cdef bint switched = c.conf.cc != conf.cc, paced = c.conf.max_pacing_rate != conf.max_pacing_rate
    cdef int err = conf_set(t, &c.conf, conf)
    if err == 0 and switched:
        cc_switch(t, c)
    elif err == 0 and paced:
        cc_pace(t, c)
    if err != 0 or c.flags & TF_DEAD:
        return err
    tcb_dirty(t, c)
    tune_sndbuf(t, c)
    if c.flags & TF_CONNECTED:
        update_mss(t, c)
        if c.state != TCP_FIN_WAIT2 or not c.flags & TF_ORPHAN:
            arm_keepalive(t, c)
    return 0


cdef int tcp_set_listener_conf(Tcp *t, Listener *l, const TcpConf *conf) noexcept nogil:
    return conf_set(t, &l.conf, conf)


cdef uint32_t tcp_sndbuf(Tcp *t, Tcb *c) noexcept nogil:
    return c.sndbuf


cdef uint32_t tcp_rcvbuf(Tcp *t, Tcb *c) noexcept nogil:
    return c.conf.rcvbuf if c.conf.rcvbuf else 2 * window_limit(t, c)
