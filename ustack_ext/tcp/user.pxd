# The user's calls: OPEN, SEND, RECEIVE, CLOSE, ABORT, STATUS (RFC 9293 §3.9.1), as tcp.pxd documents them.
from libc.stdint cimport uint16_t, uint32_t
from ustack_ext.base.iov cimport IoVec
from ustack_ext.tcp.tcb cimport Bind, Listener, Tcb, Tcp, TcpConf
from ustack_ext.wire.addr cimport Addr

# A Bind belongs to the socket until connect or listen takes it (when those fail it stays the socket's). port 0:
# ephemeral. -EADDRINUSE, -EADDRNOTAVAIL.
cdef int tcp_bind(Tcp *t, const Addr *a, uint16_t port, int reuse, Bind **out) noexcept nogil
cdef void tcp_unbind(Tcp *t, Bind *b) noexcept nogil
# taken NULL: a plain open; else a fast one (RFC 7413), and how much of iov went with the SYN
cdef int tcp_connect(Tcp *t, Bind *b, const Addr *raddr, uint16_t rport, const TcpConf *conf, void *user,
                     const IoVec *iov, int niov, long *taken, Tcb **out) noexcept nogil
cdef int tcp_listen(Tcp *t, Bind *b, uint32_t backlog, const TcpConf *conf, void *user, Listener **out) noexcept nogil
cdef void tcp_set_backlog(Tcp *t, Listener *l, uint32_t backlog) noexcept nogil
cdef Tcb *tcp_accept(Tcp *t, Listener *l, void *user) noexcept nogil      # NULL: queue empty
cdef void tcp_close_listener(Tcp *t, Listener *l) noexcept nogil          # RST to what waits in its queues; frees it

# send: bytes taken (may be short) or -EAGAIN, -EPIPE, -ENOTCONN, -ENOBUFS, or the pending error (taken).
# recv: bytes, 0 at the end of the stream, -EAGAIN, -ENOTCONN, or the pending error. peek leaves the bytes.
cdef long tcp_send(Tcp *t, Tcb *c, const IoVec *iov, int niov, bint more) noexcept nogil
cdef long tcp_recv(Tcp *t, Tcb *c, const IoVec *iov, int niov, bint peek) noexcept nogil
# What they are made of, for tcp/zerocopy: whether data may be queued now (0 or -errno), an end to an attempt that found
# no memory and to one that queued data, what an empty receive queue means (0, -errno), and that the window may open
# because the application took n bytes.
cdef int may_send(Tcb *c) noexcept nogil
cdef bint send_is_full(const Tcb *c) noexcept nogil          # nothing more may be queued now
cdef void wait_for_memory(Tcp *t, Tcb *c) noexcept nogil
cdef void queued(Tcp *t, Tcb *c, bint more) noexcept nogil
cdef long nothing_queued(Tcb *c) noexcept nogil
cdef void consumed(Tcp *t, Tcb *c, uint32_t n) noexcept nogil
# n bytes have left the receive queue: a mark may be behind, the window may open
cdef void taken(Tcp *t, Tcb *c, uint32_t n) noexcept nogil
# the next n bytes of the receive queue, which the caller read in place, are done with
cdef void tcp_consume(Tcp *t, Tcb *c, uint32_t n) noexcept nogil
cdef int tcp_shutdown(Tcp *t, Tcb *c, int how) noexcept nogil             # 0 RD, 1 WR, 2 both. -ENOTCONN
# The application lets go: FIN, or RST with unread data or zero linger. The Tcb is the stack's from here on;
# `source.user` is cleared.
cdef void tcp_close(Tcp *t, Tcb *c) noexcept nogil
cdef void tcp_abort(Tcp *t, Tcb *c) noexcept nogil                        # the same, with RST whatever its state
cdef uint16_t tcp_ready(Tcb *c) noexcept nogil                    # EV_* true now
cdef uint16_t tcp_listener_ready(Listener *l) noexcept nogil
cdef int tcp_take_error(Tcb *c) noexcept nogil                            # SO_ERROR: positive errno, cleared
cdef int tcp_set_conf(Tcp *t, Tcb *c, const TcpConf *conf) noexcept nogil  # a copy of it; 0 or -ENOMEM
cdef int tcp_set_listener_conf(Tcp *t, Listener *l, const TcpConf *conf) noexcept nogil      # for what it accepts
cdef uint32_t tcp_sndbuf(Tcp *t, Tcb *c) noexcept nogil
cdef uint32_t tcp_rcvbuf(Tcp *t, Tcb *c) noexcept nogil
