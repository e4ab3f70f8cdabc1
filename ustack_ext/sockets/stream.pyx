"""TCP sockets: what one attempt of each socket call does, with Linux's results.

Responsible for: which call is allowed in which state of a socket (inet_stream_connect and its neighbours, as
connect(2), listen(2), accept(2) and shutdown(2) describe them), and for handing a Bind and a TcpConf to whoever owns
them next. Not for: waiting (sockets/core), TCP itself (tcp/).
"""
from libc.errno cimport (
    EAGAIN, ECONNABORTED, EINPROGRESS, EINVAL, EISCONN, ENETUNREACH, ENOMEM, ENOTCONN, EOPNOTSUPP, EPIPE,
)
from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from ustack_ext.base.event cimport EV_CLOSED, EV_HANGUP
from ustack_ext.base.iov cimport IoVec
from ustack_ext.engine.engine cimport Engine
from ustack_ext.sockets.msg cimport MSG_FASTOPEN, MSG_MORE, MSG_OOB, MSG_PEEK
from ustack_ext.sockets.ready cimport watch_of
from ustack_ext.sockets.state cimport (
    OP_ACCEPT, OP_CONNECT, OP_GROW, OP_RECV, OP_SEND, SK_LISTENER, SK_NONE, SK_TCB, SS_CONNECTED, SS_CONNECTING,
    SS_STOPPED, SS_UNCONNECTED, Draft, Op, SockState, sock_enlist, sock_wildcard,
)
from ustack_ext.sockets.wait cimport waiters_fire
from ustack_ext.tcp.fastopen cimport fastopen_may_send
from ustack_ext.tcp.md5 cimport md5_drop, md5_hold
from ustack_ext.tcp.tcb cimport (
    FASTOPEN_CLIENT, REUSE_ADDR, REUSE_PORT, TCP_CLOSED, TCP_FIN_WAIT2, TCP_SYN_SENT, TCP_TIME_WAIT, TF_FIN_RCVD,
    TF_RD_SHUT, FastopenPeer, Listener, Tcb, TcpConf, tcb_connecting,
)
from ustack_ext.tcp.tcp cimport (
    has_mark, tcp_abort, tcp_accept, tcp_at_mark, tcp_bind, tcp_close, tcp_close_listener, tcp_conf_default,
    tcp_connect, tcp_lend, tcp_listen, tcp_mark_urgent, tcp_recv, tcp_recv_urgent, tcp_send, tcp_send_owned,
    tcp_set_backlog, tcp_set_conf, tcp_set_listener_conf, tcp_shutdown, tcp_take_error, tcp_unbind, urgent_hidden,
)
from ustack_ext.wire.addr cimport Addr, addr_any_holds, addr_is_any, addr_is_link_local, addr_none, addr_zone


cdef int stream_open(Engine *e, SockState *s) noexcept nogil:
    cdef Draft *d = <Draft *>malloc(sizeof(Draft))
    if d == NULL:
        return -ENOMEM
    tcp_conf_default(&e.tcp, &d.conf)
    d.bind = NULL
    d.deferred = 0
    s.obj = d
    return 0


cdef const TcpConf *stream_conf(SockState *s) noexcept nogil:
    if s.kind == SK_TCB:
        return (<Tcb *>s.obj).conf
    if s.kind == SK_LISTENER:
        return (<Listener *>s.obj).conf
    return &(<Draft *>s.obj).conf if s.obj != NULL else NULL


cdef int stream_set_conf(Engine *e, SockState *s, const TcpConf *conf) noexcept nogil:
    if s.kind == SK_TCB:
        return tcp_set_conf(&e.tcp, <Tcb *>s.obj, conf)
    if s.kind == SK_LISTENER:
        return tcp_set_listener_conf(&e.tcp, <Listener *>s.obj, conf)
    md5_hold(conf.md5)
    md5_drop((<Draft *>s.obj).conf.md5)
    (<Draft *>s.obj).conf = conf[0]
    return 0


cdef Draft *draft_again(SockState *s) noexcept nogil:
    """For a socket that outlives its Tcb or Listener: a draft with the options as they are. NULL: no memory."""
    cdef Draft *d = <Draft *>malloc(sizeof(Draft))
    if d != NULL:
        d.conf = stream_conf(s)[0]
        md5_hold(d.conf.md5)
        d.bind = NULL
        d.deferred = 0
    return d


cdef void draft_free(Draft *d) noexcept nogil:
    md5_drop(d.conf.md5)
    free(d)


cdef void stream_forget(SockState *s) noexcept nogil:
    if s.kind == SK_NONE and s.obj != NULL:
        draft_free(<Draft *>s.obj)
        s.obj = NULL


cdef inline size_t wanted(const Tcb *c, const Op *op) noexcept nogil:
    """As much as must be there: MSG_PEEK | MSG_WAITALL's, or what SO_RCVLOWAT asks of a call that may wait."""
    if op.waits and c.conf.rcvlowat:
        return max(op.lowat, min(<size_t>c.conf.rcvlowat, op.room))
    return op.lowat


cdef inline uint32_t readable(const Tcb *c) noexcept nogil:
    return c.rcvq_bytes - urgent_hidden(c) if has_mark(c) else c.rcvq_bytes


cdef long recv(Engine *e, SockState *s, Op *op) noexcept nogil:
    cdef Tcb *c = <Tcb *>s.obj
    cdef long n
    if s.kind != SK_TCB:
        return -EINVAL if op.flags & MSG_OOB else -ENOTCONN
    if op.flags & MSG_OOB:
        op.full = 1
        return tcp_recv_urgent(&e.tcp, c, op.iov, op.niov, (op.flags & MSG_PEEK) != 0)
    if tcb_connecting(c):
        return -EAGAIN
    op.full = c.rcvq_bytes
    if op.grow and c.rcvq_bytes > op.room:
        return OP_GROW
    if readable(c) < wanted(c, op) and not c.flags & (TF_FIN_RCVD | TF_RD_SHUT) and c.state != TCP_CLOSED:
        return -EAGAIN
    if op.lent != NULL:
        op.tcb = c
        return tcp_lend(&e.tcp, c, op.room, op.lent, op.niov, &op.nlent)
    n = tcp_recv(&e.tcp, c, op.iov, op.niov, (op.flags & MSG_PEEK) != 0)
    op.at_mark = tcp_at_mark(c)
    return n


cdef long send(Engine *e, SockState *s, Op *op) noexcept nogil:
    cdef long n
    if s.kind == SK_NONE and s.obj != NULL and (op.flags & MSG_FASTOPEN or (<Draft *>s.obj).deferred):
        return fast_open(e, s, op)
    if s.kind != SK_TCB:
        return -EPIPE
    if tcb_connecting(<Tcb *>s.obj):
        return -EAGAIN
    if op.owner != NULL:
        n = tcp_send_owned(&e.tcp, <Tcb *>s.obj, op.iov, op.owner, op.bounded, (op.flags & MSG_MORE) != 0)
    else:
        n = tcp_send(&e.tcp, <Tcb *>s.obj, op.iov, op.niov, (op.flags & MSG_MORE) != 0)
    if n > 0 and op.flags & MSG_OOB:
        tcp_mark_urgent(<Tcb *>s.obj)
    return n


cdef long accept(Engine *e, SockState *s, Op *op) noexcept nogil:
    cdef SockState *new = op.accepted
    cdef Tcb *c
    if s.kind != SK_LISTENER:
        return -EINVAL
    c = tcp_accept(&e.tcp, <Listener *>s.obj, new)
    if c == NULL:
        return -EAGAIN
    new.obj = c
    new.kind = SK_TCB
    new.connect = SS_CONNECTED
    if s.watch != NULL and s.watch.busy_poll and watch_of(new) != NULL:
        new.watch.busy_poll = s.watch.busy_poll
    sock_enlist(op.sockets, new)
    return 0


cdef int open_draft(Engine *e, SockState *s, const Addr *to, uint16_t port, const IoVec *iov, int niov,
                    long *taken) noexcept nogil:
    """Sends the SYN; a fast one where `taken` is given. 0, or -errno."""
    cdef Tcb *c = NULL
    cdef Draft *d = <Draft *>s.obj
    cdef Addr wild = sock_wildcard(s)
    cdef int rc
    if not addr_any_holds(&wild, to):
        return -ENETUNREACH
    rc = tcp_connect(&e.tcp, d.bind, to, port, &d.conf, s, iov, niov, taken, &c)
    if rc != 0 and rc != -EINPROGRESS:
        return rc
    draft_free(d)
    s.obj = c
    s.kind = SK_TCB
    s.connect = SS_CONNECTING
    return 0


cdef long fast_open(Engine *e, SockState *s, Op *op) noexcept nogil:
    """A write that opens the connection (RFC 7413 §4.2.1): MSG_FASTOPEN, or the first after a deferred connect()."""
    cdef Draft *d = <Draft *>s.obj
    cdef long taken = 0
    cdef int rc
    if not d.deferred and not op.has_to:
        return -EINVAL
    if not e.tcp.knobs.fastopen & FASTOPEN_CLIENT:
        return -EOPNOTSUPP
    rc = open_draft(e, s, &d.to if d.deferred else &op.to, d.port if d.deferred else op.port, op.iov, op.niov, &taken)
    if rc != 0:
        return rc
    op.started = 1
    return taken if taken > 0 else -EAGAIN


cdef long start_connect(Engine *e, SockState *s, Op *op) noexcept nogil:
    cdef Draft *d = <Draft *>s.obj
    cdef FastopenPeer *peer = NULL
    cdef long taken = 0
    cdef bint fast
    cdef int rc
    if s.kind == SK_LISTENER:
        return -EISCONN
    if s.kind == SK_TCB:                    # what an earlier, refused attempt left
        d = draft_again(s)
        if d == NULL:
            return -ENOMEM
        tcp_close(&e.tcp, <Tcb *>s.obj)
        s.kind = SK_NONE
        s.obj = d
    fast = d.conf.fastopen_connect and e.tcp.knobs.fastopen & FASTOPEN_CLIENT
    if fast and fastopen_may_send(&e.tcp, &op.to, &d.conf, &peer):
        d.to = op.to
        d.port = op.port
        d.deferred = 1
        s.connect = SS_CONNECTED
        return 0
    rc = open_draft(e, s, &op.to, op.port, NULL, 0, &taken if fast else NULL)
    if rc != 0:
        return rc
    op.started = 1
    return -EAGAIN


cdef long connect(Engine *e, SockState *s, Op *op) noexcept nogil:
    cdef Tcb *c = <Tcb *>s.obj
    cdef int error
    if s.connect == SS_CONNECTED:
        return -EISCONN
    if s.connect != SS_CONNECTING:
        # Started by this call and no longer there: shutdown() in another thread.
        return -ECONNABORTED if op.started else start_connect(e, s, op)
    if tcb_connecting(c):
        return -EAGAIN
    if c.state == TCP_CLOSED:
        s.connect = SS_UNCONNECTED
        error = tcp_take_error(c)
        return -error if error else -ECONNABORTED
    s.connect = SS_CONNECTED
    return 0


cdef long linger(SockState *s) noexcept nogil:
    cdef Tcb *c = <Tcb *>s.obj
    if s.kind != SK_TCB or c.state == TCP_CLOSED or c.state == TCP_FIN_WAIT2 or c.state == TCP_TIME_WAIT:
        return 0
    return -EAGAIN


cdef long stream_attempt(Engine *e, SockState *s, Op *op) noexcept nogil:
    if op.kind == OP_RECV:
        return recv(e, s, op)
    if op.kind == OP_SEND:
        return send(e, s, op)
    if op.kind == OP_ACCEPT:
        return accept(e, s, op)
    if op.kind == OP_CONNECT:
        return connect(e, s, op)
    return linger(s)


cdef int reuse_of(const TcpConf *conf) noexcept nogil:
    return (REUSE_ADDR if conf.reuseaddr else 0) | (REUSE_PORT if conf.reuseport else 0)


cdef int stream_bind(Engine *e, SockState *s, const Addr *a, uint16_t port) noexcept nogil:
    cdef Draft *d = <Draft *>s.obj
    cdef Addr wild = sock_wildcard(s)
    if s.kind != SK_NONE or d.bind != NULL or (addr_is_link_local(a) and addr_zone(a) == 0):
        return -EINVAL
    if addr_is_any(a):
        a = &wild
    elif not addr_any_holds(&wild, a):                  # an IPv4 address, and IPV6_V6ONLY
        return -EINVAL
    return tcp_bind(&e.tcp, a, port, reuse_of(&d.conf), &d.bind)


cdef int stream_listen(Engine *e, SockState *s, int backlog) noexcept nogil:
    cdef Listener *l = NULL
    cdef Draft *d = <Draft *>s.obj
    cdef Addr any_address = sock_wildcard(s)
    cdef uint32_t most = e.tcp.knobs.somaxconn
    cdef uint32_t queue = most if backlog < 0 or <uint32_t>backlog > most else <uint32_t>backlog
    cdef int rc = 0
    if s.kind == SK_LISTENER:
        tcp_set_backlog(&e.tcp, <Listener *>s.obj, queue)
        return 0
    if s.kind != SK_NONE:
        return -EINVAL
    if d.bind == NULL:
        rc = tcp_bind(&e.tcp, &any_address, 0, reuse_of(&d.conf), &d.bind)
    if rc == 0:
        rc = tcp_listen(&e.tcp, d.bind, queue, &d.conf, s, &l)
    if rc != 0:
        return rc
    draft_free(d)
    s.obj = l
    s.kind = SK_LISTENER
    s.connect = SS_UNCONNECTED
    return 0


cdef int stream_shutdown(Engine *e, SockState *s, int how) noexcept nogil:
    cdef Draft *d
    if s.kind == SK_NONE:
        return -ENOTCONN
    if s.kind == SK_TCB and not tcb_connecting(<Tcb *>s.obj):
        return tcp_shutdown(&e.tcp, <Tcb *>s.obj, how)
    if s.kind == SK_LISTENER and how == 1:
        return 0
    # A listener, or an attempt to connect, ends altogether (Linux's inet_shutdown).
    d = draft_again(s)
    if d == NULL:
        return -ENOMEM
    if s.kind == SK_LISTENER:
        tcp_close_listener(&e.tcp, <Listener *>s.obj)
        s.connect = SS_STOPPED
    else:
        tcp_close(&e.tcp, <Tcb *>s.obj)
        s.connect = SS_UNCONNECTED
    s.kind = SK_NONE
    s.obj = d
    waiters_fire(s, EV_HANGUP)
    return 0


cdef bint stream_begin_linger(Engine *e, SockState *s) noexcept nogil:
    cdef Tcb *c = <Tcb *>s.obj
    # With unread data close() resets the connection; there is nothing to wait for then.
    if s.kind != SK_TCB or not c.conf.linger or c.conf.linger_time == 0 or c.rcvq_bytes or tcb_connecting(c):
        return False
    tcp_shutdown(&e.tcp, c, 1)
    return linger(s) != 0


cdef void stream_release(Engine *e, SockState *s, bint abort) noexcept nogil:
    cdef Tcb *c = <Tcb *>s.obj
    if s.kind == SK_TCB:
        if abort:
            tcp_abort(&e.tcp, c)
        else:
            tcp_close(&e.tcp, c)
    elif s.kind == SK_LISTENER:
        tcp_close_listener(&e.tcp, <Listener *>s.obj)
    elif s.obj != NULL:
        if (<Draft *>s.obj).bind != NULL:
            tcp_unbind(&e.tcp, (<Draft *>s.obj).bind)
        draft_free(<Draft *>s.obj)
    s.obj = NULL
    s.kind = SK_NONE
    waiters_fire(s, EV_CLOSED)


cdef int stream_names(SockState *s, Addr *laddr, uint16_t *lport, Addr *raddr, uint16_t *rport) noexcept nogil:
    """The socket's own and the peer's address, `::` and 0 for what there is none of. -ENOTCONN: there is no peer."""
    cdef Tcb *c
    laddr[0] = addr_none()
    raddr[0] = addr_none()
    lport[0] = 0
    rport[0] = 0
    if s.kind == SK_TCB:
        c = <Tcb *>s.obj
        laddr[0] = c.laddr
        lport[0] = c.lport
        raddr[0] = c.raddr
        rport[0] = c.rport
        return -ENOTCONN if c.state == TCP_CLOSED or c.state == TCP_SYN_SENT else 0
    if s.kind == SK_LISTENER:
        laddr[0] = (<Listener *>s.obj).laddr
        lport[0] = (<Listener *>s.obj).lport
    elif s.obj != NULL and (<Draft *>s.obj).bind != NULL:
        laddr[0] = (<Draft *>s.obj).bind.addr
        lport[0] = (<Draft *>s.obj).bind.port
    return -ENOTCONN
