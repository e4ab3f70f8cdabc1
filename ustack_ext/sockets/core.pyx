"""The socket as Python holds it: SocketCore, the base of ustack.Socket.

Responsible for: every call's way into the engine and out again: the lock, waiting, timeouts, CPython's exceptions, buffers.
Not for: what a call means in which state (sockets/stream, sockets/datagram), options by number, files and messages with
ancillary data (ustack/socket.py).

One Python object a socket, without dictionary or garbage collector header: it is part of what an idle connection costs.
All that points into the engine is read and written under the lock and gone once the socket is closed, so that a call in
another thread finds a closed socket rather than freed memory; the SockState it waits on lives as long as this object.
"""
import os as _os
import socket as _socket
import time as _time

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython cimport no_gc
from libc.errno cimport (
    EAGAIN, EAFNOSUPPORT, EALREADY, EBADF, ECONNABORTED, EINPROGRESS, EINVAL, EOPNOTSUPP, EPROTONOSUPPORT,
    ESOCKTNOSUPPORT,
)
from libc.stdint cimport UINT64_MAX, int64_t, uint16_t, uint64_t
from libc.string cimport memset
from ustack_ext.base.event cimport EV_CLOSED, EV_READABLE, EV_WRITABLE
from ustack_ext.base.iov cimport IoVec
from ustack_ext.driver.driver cimport Driver, Waiter, waiter_get, waiter_put
from ustack_ext.engine.engine cimport Engine
from ustack_ext.sockets.address cimport format_address, parse_address
from ustack_ext.sockets.buffers cimport Buffers, many_buffers, one_buffer
from ustack_ext.sockets.datagram cimport (
    datagram_attempt, datagram_bind, datagram_names, datagram_open, datagram_release, datagram_shutdown,
)
from ustack_ext.sockets.msg cimport MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC, MSG_WAITALL
from ustack_ext.sockets.options cimport OPT_LINGER, OPT_RCVBUF, OPT_SNDBUF, option_get, option_set
from ustack_ext.sockets.ready cimport pair_close, pair_open
from ustack_ext.sockets.stackcore cimport StackCore
from ustack_ext.sockets.state cimport (
    CLOSED_BY_STACK, CLOSED_BY_USER, OP_ACCEPT, OP_CONNECT, OP_GROW, OP_LINGER, OP_RAISED, OP_RECV, OP_SEND, OP_TIMED_OUT,
    OPEN, SK_UDP, Op, OpKind, SockState, sock_delist, sock_enlist,
)
from ustack_ext.sockets.stream cimport (
    stream_attempt, stream_begin_linger, stream_bind, stream_listen, stream_names, stream_open, stream_release,
    stream_shutdown,
)
from ustack_ext.sockets.wait cimport sock_sync, waiter_link, waiter_unlink, waiters_fire
from ustack_ext.wire.addr cimport Addr, addr_is_any, addr_v4

cdef enum:
    SMALL = 2048                   # a receive of at most this much is copied through the C stack
    NS = 1000000000
    STREAM = 1                     # SOCK_STREAM, SOCK_DGRAM: Linux's numbers, checked below
    DGRAM = 2
    PROTO_ICMP = 1
    PROTO_TCP = 6
    PROTO_UDP = 17

assert _socket.SOCK_STREAM == STREAM and _socket.SOCK_DGRAM == DGRAM

cdef int SOCK_NONBLOCK = getattr(_socket, "SOCK_NONBLOCK", 0)
cdef int SOCK_FLAGS = SOCK_NONBLOCK | getattr(_socket, "SOCK_CLOEXEC", 0)


cdef object error(int code):
    return OSError(code, _os.strerror(code))


cdef long check(long result) except -1:
    """An attempt's result as a count, or as the exception that the socket module has for it."""
    if result >= 0:
        return result
    if result == OP_TIMED_OUT:
        raise TimeoutError("timed out")
    raise error(<int>-result)


cdef inline int closed_error(const SockState *s) noexcept nogil:
    return -ECONNABORTED if s.closed == CLOSED_BY_STACK else -EBADF


cdef long attempt(Engine *e, SockState *s, Op *op) noexcept nogil:
    if s.closed != OPEN:
        return closed_error(s)
    if s.kind == SK_UDP:
        return datagram_attempt(e, s, op)
    return stream_attempt(e, s, op)


cdef void op_init(Op *op, OpKind kind, int flags, uint16_t want) noexcept nogil:
    memset(op, 0, sizeof(Op))
    op.kind = kind
    op.flags = flags
    op.want = want


cdef void loopback_if_any(Addr *a) noexcept nogil:
    """Linux takes 0.0.0.0 as a destination for this host."""
    if addr_is_any(a):
        a[0] = addr_v4(<unsigned int>0x7F000001)


cdef Buffers room_in(object buffer, Py_ssize_t nbytes, str caller):
    """The first `nbytes` bytes of a writable buffer; 0: all of it."""
    cdef Buffers into
    if nbytes < 0:
        raise ValueError(f"negative buffersize in {caller}")
    into = one_buffer(buffer, True)
    if nbytes:
        if <size_t>nbytes > into.total:
            raise ValueError("buffer too small for requested bytes" if caller == "recv_into"
                             else "nbytes is greater than the length of the buffer")
        into.iov[0].len = nbytes
        into.total = nbytes
    return into


@no_gc
cdef class SocketCore:
    """A TCP, UDP or ping socket of one stack.

    stack: the ustack.Stack. family: AF_INET. type: SOCK_STREAM or SOCK_DGRAM, with SOCK_NONBLOCK. proto: 0, IPPROTO_TCP,
    IPPROTO_UDP or IPPROTO_ICMP. Raises OSError: EAFNOSUPPORT, ESOCKTNOSUPPORT, EPROTONOSUPPORT; ECONNABORTED on a closed stack.
    """

    def __cinit__(self):
        self.state.fd_user = -1
        self.state.fd_engine = -1
        self.state.closed = CLOSED_BY_USER
        self._closed = True
        self.timeout_ns = -1

    def __init__(self, StackCore stack not None, int family=_socket.AF_INET, int type=_socket.SOCK_STREAM, int proto=0):
        cdef Driver d = stack.driver
        cdef int rc
        cdef int kind = type & ~SOCK_FLAGS
        cdef bint stream = kind == STREAM
        if self.stack is not None:
            raise TypeError("a socket is opened once")
        if family == -1:
            family = _socket.AF_INET
        if family == _socket.AF_INET6:
            raise OSError(EAFNOSUPPORT, "this version of ustack has no IPv6: use AF_INET")
        if family != _socket.AF_INET:
            raise error(EAFNOSUPPORT)
        if kind != STREAM and kind != DGRAM:
            raise error(ESOCKTNOSUPPORT)
        if not (proto <= 0 or (proto == PROTO_TCP if stream else proto == PROTO_UDP or proto == PROTO_ICMP)):
            raise error(EPROTONOSUPPORT)
        self._adopt(stack, kind, max(proto, 0))
        with nogil:
            d.lock()
            if stack.shut:
                rc = -ECONNABORTED
            elif stream:
                rc = stream_open(d.engine, &self.state)
            else:
                rc = datagram_open(d.engine, &self.state, proto == PROTO_ICMP)
            if rc == 0:
                sock_enlist(&stack.sockets, &self.state)
            d.unlock()
        check(rc)
        self._closed = False
        if type & SOCK_NONBLOCK:
            self.timeout_ns = 0

    cdef _adopt(self, StackCore stack, int type, int proto):
        self.stack = stack
        self._type = type
        self.proto = proto
        default = _socket.getdefaulttimeout()
        if default is not None:
            self.settimeout(default)

    def __dealloc__(self):
        if self.state.closed != CLOSED_BY_USER and self.stack is not None:
            self.release()

    # -- the way into the engine

    cdef uint64_t deadline(self, int flags):
        """When a call that begins now gives up: ns of the driver's clock, 0 for at once, UINT64_MAX for never."""
        if self.timeout_ns == 0 or flags & MSG_DONTWAIT:
            return 0
        if self.timeout_ns < 0:
            return UINT64_MAX
        return self.stack.driver.now() + <uint64_t>self.timeout_ns

    cdef long perform(self, Op *op, uint64_t deadline) except -0x10002:
        """Try `op` until it ends with something else than -EAGAIN. Returns that, or -EAGAIN or OP_TIMED_OUT; raises only what
        a signal handler raises."""
        cdef long n
        cdef Driver d
        if self.stack is None:
            return -EBADF
        d = self.stack.driver
        with nogil:
            d.lock()
            n = attempt(d.engine, &self.state, op)
            sock_sync(&self.state)
            d.unlock()
        d.after()
        if n != -EAGAIN or deadline == 0:
            return n
        return self.perform_waiting(op, deadline)

    cdef long perform_waiting(self, Op *op, uint64_t deadline) except -0x10002:
        cdef Driver d = self.stack.driver
        cdef Waiter *w = waiter_get()
        cdef long n = OP_RAISED
        cdef int fired
        w.want = op.want
        try:
            while True:
                with nogil:
                    d.lock()
                    waiter_unlink(&self.state, w)
                    n = attempt(d.engine, &self.state, op)
                    if n == -EAGAIN:
                        waiter_link(&self.state, w)
                    sock_sync(&self.state)
                    d.unlock()
                d.after()
                if n != -EAGAIN:
                    return n
                fired = d.wait(w, deadline)
                if fired != 1:
                    return OP_TIMED_OUT if fired == 0 else -EAGAIN
        finally:
            if n == -EAGAIN:
                with nogil:
                    d.lock()
                    waiter_unlink(&self.state, w)
                    d.unlock()
            waiter_put(w)

    # -- receiving

    cdef bytes receive(self, Py_ssize_t size, int flags, Op *op):
        """At most `size` bytes: one piece of a stream, or one datagram. Never allocates more than there is to take."""
        cdef char small[SMALL]
        cdef IoVec iov
        cdef uint64_t deadline = self.deadline(flags)
        cdef bytes result
        cdef long n
        while True:
            iov.base = small
            iov.len = min(size, SMALL)
            op_init(op, OP_RECV, flags, EV_READABLE)
            op.iov = &iov
            op.niov = 1
            op.room = iov.len
            op.grow = size > SMALL
            if flags & MSG_PEEK and flags & MSG_WAITALL and deadline == UINT64_MAX and self._type == STREAM:
                op.lowat = size
            n = self.perform(op, deadline)
            if n != OP_GROW:
                check(n)
                return PyBytes_FromStringAndSize(small, n)
            result = PyBytes_FromStringAndSize(NULL, min(size, <Py_ssize_t>op.full))
            iov.base = PyBytes_AS_STRING(result)
            iov.len = len(result)
            op.room = iov.len
            op.grow = 0
            n = self.perform(op, 0)
            if n == -EAGAIN:           # another thread took it in between
                continue
            check(n)
            return result if n == len(result) else result[:n]

    cdef bytes receive_all(self, Py_ssize_t size, int flags):
        """MSG_WAITALL on a blocking stream."""
        cdef Op op
        cdef list parts = []
        while size > 0:
            try:
                part = self.receive(size, flags, &op)
            except OSError:
                if parts:
                    break
                raise
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    cdef long receive_into(self, Buffers into, int flags, Op *op) except -1:
        """recv into the caller's memory; with MSG_WAITALL on a blocking stream until one buffer is full."""
        cdef uint64_t deadline = self.deadline(flags)
        cdef bint whole = flags & MSG_WAITALL and deadline == UINT64_MAX and self._type == STREAM and into.count == 1
        cdef IoVec rest
        cdef long done = 0
        cdef long n
        op_init(op, OP_RECV, flags, EV_READABLE)
        op.iov = into.iov
        op.niov = into.count
        op.room = into.total
        if whole and flags & MSG_PEEK:
            op.lowat = into.total
            whole = False
        while True:
            n = self.perform(op, deadline)
            if n <= 0 and done:
                return done
            done += check(n)
            if n == 0 or not whole or <size_t>done == into.total:
                return done
            rest.base = <char *>into.iov[0].base + done
            rest.len = into.total - done
            op.iov = &rest

    def recv(self, Py_ssize_t bufsize, int flags=0, /):
        """recv(bufsize[, flags]) -> bytes: as socket.socket.recv."""
        cdef Op op
        if bufsize < 0:
            raise ValueError("negative buffersize in recv")
        if bufsize == 0:
            return self._nothing(b"")
        if flags & MSG_WAITALL and not flags & (MSG_PEEK | MSG_DONTWAIT) and self._type == STREAM and self.timeout_ns < 0:
            return self.receive_all(bufsize, flags)
        return self.receive(bufsize, flags, &op)

    def recvfrom(self, Py_ssize_t bufsize, int flags=0, /):
        """recvfrom(bufsize[, flags]) -> (bytes, address): as socket.socket.recvfrom."""
        cdef Op op
        if bufsize < 0:
            raise ValueError("negative buffersize in recvfrom")
        data = self.receive(bufsize, flags, &op)
        return data, self.sender(&op)

    def recv_into(self, buffer, Py_ssize_t nbytes=0, int flags=0):
        """recv_into(buffer[, nbytes[, flags]]) -> bytes received: as socket.socket.recv_into."""
        cdef Op op
        cdef Buffers into = room_in(buffer, nbytes, "recv_into")
        if into.total == 0:
            return self._nothing(0)
        return self._length(self.receive_into(into, flags, &op), flags, op.full)

    def recvfrom_into(self, buffer, Py_ssize_t nbytes=0, int flags=0):
        """recvfrom_into(buffer[, nbytes[, flags]]) -> (bytes received, address): as socket.socket.recvfrom_into."""
        cdef Op op
        cdef Buffers into = room_in(buffer, nbytes, "recvfrom_into")
        n = self._length(self.receive_into(into, flags, &op), flags, op.full)
        return n, self.sender(&op)

    def _recvmsg(self, Py_ssize_t bufsize, int flags):
        """-> (bytes, bytes of the whole datagram, None or (cmsg, ttl, tos, ifindex, destination), address)."""
        cdef Op op
        if bufsize < 0:
            raise ValueError("negative buffer size in recvmsg()")
        data = self.receive(bufsize, flags, &op)
        return (data, *self.message_details(&op, len(data)))

    def _recvmsg_into(self, buffers, int flags):
        cdef Op op
        cdef Buffers into = many_buffers(buffers, True)
        n = self.receive_into(into, flags, &op)
        return (n, *self.message_details(&op, n))

    cdef tuple message_details(self, Op *op, long taken):
        details = None
        if self._type == STREAM:
            return taken, None, None
        if self.state.cmsg:
            details = (self.state.cmsg, op.meta.ttl, op.meta.tos, op.meta.ifindex, format_address(&op.meta.dst, 0)[0])
        return op.full, details, self.sender(op)

    cdef object sender(self, Op *op):
        """Where a datagram came from; a stream's peer is not told with each piece."""
        if self._type == STREAM:
            return None
        return format_address(&op.meta.src, 0 if self.proto == PROTO_ICMP else op.meta.sport)

    cdef _nothing(self, result):
        """CPython asks for no bytes without a system call, so only a closed socket is an error."""
        if self.state.closed != OPEN:
            raise error(-closed_error(&self.state))
        return result

    cdef object _length(self, long taken, int flags, long full):
        """recv(2): with MSG_TRUNC a datagram's real length."""
        return full if flags & MSG_TRUNC and self._type == DGRAM else taken

    # -- sending

    cdef long transmit(self, Buffers data, int flags, Op *op, bint whole) except -1:
        """Send; `op` holds the address and the ancillary data, if any. whole: until all is queued (sendall)."""
        cdef uint64_t deadline = self.deadline(flags)
        cdef bint stream = self._type == STREAM
        cdef size_t done = 0
        cdef int i = 0
        cdef long n
        op.iov = data.iov
        op.niov = data.count
        op.room = data.total
        # send(2) on a blocking stream returns when all of it is queued.
        whole = stream and (whole or deadline == UINT64_MAX)
        while True:
            n = self.perform(op, deadline)
            if n < 0 and done and deadline == UINT64_MAX and not whole:
                return done
            done += check(n)
            if not whole or done >= data.total:
                return done
            while <size_t>n >= data.iov[i].len:
                n -= data.iov[i].len
                i += 1
            data.iov[i].base = <char *>data.iov[i].base + n
            data.iov[i].len -= n
            op.iov = &data.iov[i]
            op.niov = data.count - i

    def send(self, data, int flags=0, /):
        """send(data[, flags]) -> bytes taken: as socket.socket.send."""
        cdef Op op
        op_init(&op, OP_SEND, flags, EV_WRITABLE)
        return self.transmit(one_buffer(data, False), flags, &op, False)

    def sendall(self, data, int flags=0, /):
        """sendall(data[, flags]): as socket.socket.sendall; the timeout is for all of it."""
        cdef Op op
        op_init(&op, OP_SEND, flags, EV_WRITABLE)
        self.transmit(one_buffer(data, False), flags, &op, True)

    def sendto(self, data, *args):
        """sendto(data[, flags], address) -> bytes sent: as socket.socket.sendto."""
        cdef Op op
        cdef Buffers what
        cdef Py_ssize_t last = len(args) - 1
        if not 0 <= last <= 1:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({last + 2} given)")
        op_init(&op, OP_SEND, args[0] if last else 0, EV_WRITABLE)
        what = one_buffer(data, False)
        self._set_destination(&op, args[last], "sendto")
        return self.transmit(what, op.flags, &op, False)

    def _sendmsg(self, buffers, int flags, address, int ttl, int tos):
        """ttl: 0 for the socket's; tos: -1 for the socket's."""
        cdef Op op
        op_init(&op, OP_SEND, flags, EV_WRITABLE)
        op.ttl = ttl
        op.has_tos = tos >= 0
        op.tos = max(tos, 0)
        if address is not None:
            self._set_destination(&op, address, "sendmsg")
        return self.transmit(many_buffers(buffers, False), flags, &op, False)

    cdef _set_destination(self, Op *op, object address, str caller):
        parse_address(address, caller, &op.to, &op.port)
        loopback_if_any(&op.to)
        op.has_to = 1

    # -- opening and closing

    def bind(self, address, /):
        """bind((host, port)): as socket.socket.bind."""
        cdef Addr a
        cdef uint16_t port = 0
        cdef int rc
        cdef Driver d = self._usable()
        parse_address(address, "bind", &a, &port)
        with nogil:
            d.lock()
            if self.state.closed != OPEN:
                rc = closed_error(&self.state)
            elif self.state.kind == SK_UDP:
                rc = datagram_bind(d.engine, &self.state, &a, port)
            else:
                rc = stream_bind(d.engine, &self.state, &a, port)
            d.unlock()
        d.after()
        check(rc)

    def listen(self, int backlog=128, /):
        """listen([backlog]): as socket.socket.listen."""
        cdef Driver d = self._usable()
        cdef int rc
        with nogil:
            d.lock()
            if self.state.closed != OPEN:
                rc = closed_error(&self.state)
            elif self.state.kind == SK_UDP:
                rc = -EOPNOTSUPP
            else:
                rc = stream_listen(d.engine, &self.state, max(backlog, 0))
            sock_sync(&self.state)
            d.unlock()
        check(rc)

    def _accept(self):
        """-> (socket, address), the socket of this one's class."""
        cdef SocketCore new = self.__class__.__new__(self.__class__)
        cdef Op op
        self._usable()
        op_init(&op, OP_ACCEPT, 0, EV_READABLE)
        op.accepted = &new.state
        op.sockets = &self.stack.sockets
        new._adopt(self.stack, self._type, self.proto)
        check(self.perform(&op, self.deadline(0)))
        new._closed = False
        return new, new._names()[1]

    def connect(self, address, /):
        """connect((host, port)): as socket.socket.connect."""
        cdef int code = self.connect_to(address, "connect")
        if code == EAGAIN:
            raise TimeoutError("timed out")
        if code:
            raise error(code)

    def connect_ex(self, address, /):
        """connect_ex((host, port)) -> 0 or errno: as socket.socket.connect_ex."""
        return self.connect_to(address, "connect_ex")

    cdef int connect_to(self, object address, str caller) except -1:
        """0 or errno; EAGAIN when the timeout passed."""
        cdef Op op
        cdef uint64_t deadline = self.deadline(0)
        cdef long n
        op_init(&op, OP_CONNECT, 0, EV_WRITABLE)
        self._usable()
        self._set_destination(&op, address, caller)
        n = self.perform(&op, deadline if deadline == UINT64_MAX else 0)
        if n == -EAGAIN and (deadline == 0 or not op.started or self.stack.driver.kind == "manual"):
            return EINPROGRESS if op.started else EALREADY
        if n == -EAGAIN:
            n = self.perform(&op, deadline)
        if n == OP_TIMED_OUT:
            return EAGAIN
        return <int>-n

    def shutdown(self, int how, /):
        """shutdown(how): as socket.socket.shutdown."""
        cdef Driver d = self._usable()
        cdef int rc
        if not 0 <= how <= 2:
            raise error(EINVAL)
        with nogil:
            d.lock()
            if self.state.closed != OPEN:
                rc = closed_error(&self.state)
            elif self.state.kind == SK_UDP:
                rc = datagram_shutdown(d.engine, &self.state, how)
            else:
                rc = stream_shutdown(d.engine, &self.state, how)
            sock_sync(&self.state)
            d.unlock()
        d.after()
        check(rc)

    def _close_now(self):
        """Give the socket back, whether or not files of it are open. With SO_LINGER set, waits for the peer's acknowledgement."""
        cdef Op op
        cdef Driver d
        cdef bint wait = False
        cdef uint64_t deadline = 0
        if self.stack is None or self.state.closed == CLOSED_BY_USER:
            return
        d = self.stack.driver
        with nogil:
            d.lock()
            if self.state.closed == OPEN and self.state.kind != SK_UDP:
                wait = stream_begin_linger(d.engine, &self.state)
            d.unlock()
        if wait:
            deadline = d.now() + <uint64_t>(self._get_option(OPT_LINGER) & 0xFFFFFFFF) * NS
            op_init(&op, OP_LINGER, 0, EV_WRITABLE | EV_CLOSED)
            self.perform(&op, deadline)
        self.release()

    cdef int release(self) except -1:
        cdef Driver d = self.stack.driver
        cdef SockState *s = &self.state
        with nogil:
            d.lock()
            if s.closed == OPEN:
                s.closed = CLOSED_BY_USER
                sock_delist(&self.stack.sockets, s)
                if s.kind == SK_UDP:
                    datagram_release(d.engine, s)
                else:
                    stream_release(d.engine, s, False)
            s.closed = CLOSED_BY_USER
            pair_close(s)
            d.unlock()
        d.after()
        return 0

    cdef Driver _usable(self):
        if self.stack is None:
            raise error(EBADF)
        return self.stack.driver

    # -- what it is

    def fileno(self):
        """A descriptor that select, poll, epoll and asyncio can wait on, for reading, writing and hang-up; -1 once closed.

        It is made when it is first asked for, and is good for waiting only: reading or writing it breaks what it shows.
        Raises OSError (EMFILE) when the process has no descriptor left.
        """
        cdef Driver d
        cdef int rc = 0
        if self.stack is None:
            return -1
        d = self.stack.driver
        with nogil:
            d.lock()
            if self.state.closed != CLOSED_BY_USER and self.state.fd_user < 0:
                rc = pair_open(&self.state)
                sock_sync(&self.state)
            d.unlock()
        check(rc)
        return self.state.fd_user

    def _names(self):
        """-> (own address, peer's address or None)."""
        cdef Addr laddr, raddr
        cdef uint16_t lport = 0
        cdef uint16_t rport = 0
        cdef int rc
        cdef Driver d = self._usable()
        with nogil:
            d.lock()
            if self.state.closed != OPEN:
                rc = closed_error(&self.state)
            elif self.state.kind == SK_UDP:
                rc = datagram_names(&self.state, &laddr, &lport, &raddr, &rport)
            else:
                rc = stream_names(&self.state, &laddr, &lport, &raddr, &rport)
            d.unlock()
        if rc == -EBADF or rc == -ECONNABORTED:
            check(rc)
        return format_address(&laddr, lport), (format_address(&raddr, rport) if rc == 0 else None)

    def _get_option(self, int which):
        """An Opt's value. Raises OSError."""
        cdef Driver d = self._usable()
        cdef long long value
        with nogil:
            d.lock()
            value = closed_error(&self.state) if self.state.closed != OPEN else option_get(d.engine, &self.state, which)
            sock_sync(&self.state)
            d.unlock()
        if value < 0:
            raise error(<int>-value)
        return value

    def _set_option(self, int which, long long value):
        cdef Driver d = self._usable()
        cdef int rc
        if which == OPT_RCVBUF:
            value = min(max(value, 0), self.stack.rmem_max)
        elif which == OPT_SNDBUF:
            value = min(max(value, 0), self.stack.wmem_max)
        with nogil:
            d.lock()
            rc = closed_error(&self.state) if self.state.closed != OPEN else option_set(d.engine, &self.state, which, value)
            d.unlock()
        d.after()
        check(rc)

    def settimeout(self, value, /):
        """settimeout(seconds | None): as socket.socket.settimeout."""
        if value is None:
            self.timeout_ns = -1
            return
        if not isinstance(value, (int, float)):
            value = value.__float__() if hasattr(value, "__float__") else value.__index__()
        if value != value:
            raise ValueError("Invalid value NaN (not a number)")
        if value < 0:
            raise ValueError("Timeout value out of range")
        if value >= 9223372036:
            raise OverflowError("timeout doesn't fit into C timeval")
        # Rounded up: a short timeout must not become "non-blocking".
        self.timeout_ns = <int64_t>(value * NS) if value * NS == <int64_t>(value * NS) else <int64_t>(value * NS) + 1

    def gettimeout(self):
        """The timeout in seconds, or None."""
        return None if self.timeout_ns < 0 else self.timeout_ns / 1e9

    def setblocking(self, flag, /):
        """setblocking(flag): as socket.socket.setblocking."""
        self.timeout_ns = -1 if flag else 0

    def getblocking(self):
        """True unless the timeout is 0."""
        return self.timeout_ns != 0
