"""An open socket as Python holds it: SocketHandle, the base of SocketCore.

Responsible for: every call's way into the engine and out again (the lock, waiting, timeouts, errno as exceptions),
opening and closing, the descriptor, names and options. Not for: the calls that move data and make connections
(sockets/core), what a call means in which state (sockets/stream, sockets/datagram).

One small Python object a socket, without a dictionary: it is part of what an idle connection costs. The collector
knows it (a socket holds its stack, and a program may keep its sockets at the stack), but doesn't clear it: the stack
is needed to close it.
All that points into the engine is read and written under the lock and gone once the socket is closed, so that a call in
another thread finds a closed socket rather than freed memory; the SockState it waits on lives as long as this object.
"""
import os as _os
import socket as _socket

from cython cimport no_gc_clear
from libc.errno cimport EAFNOSUPPORT, EAGAIN, EBADF, ECONNABORTED, EINVAL, EPROTONOSUPPORT, ESOCKTNOSUPPORT
from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memset
from ustack_ext.base.event cimport EV_CLOSED, EV_WRITABLE
from ustack_ext.driver.driver cimport Driver, Waiter, waiter_get, waiter_put
from ustack_ext.engine.engine cimport Engine
from ustack_ext.sockets.address cimport addr_from_int, format_address
from ustack_ext.sockets.datagram cimport datagram_attempt, datagram_names, datagram_open, datagram_release
from ustack_ext.sockets.interest cimport interests_drop
from ustack_ext.sockets.linkaddr cimport link_name
from ustack_ext.sockets.msg cimport MSG_DONTWAIT
from ustack_ext.sockets.options cimport OPT_LINGER, OPT_RCVBUF, OPT_SNDBUF, option_get, option_md5, option_set
from ustack_ext.sockets.ready cimport pair_open, watch_close
from ustack_ext.sockets.stackcore cimport StackCore, running
from ustack_ext.sockets.state cimport (
    CLOSED_BY_STACK, CLOSED_BY_USER, OP_LINGER, OP_SEND, OP_TIMED_OUT, OPEN, SHAPE_CODE, SHAPE_COOKED, SHAPE_LITE,
    SHAPE_PACKET, SHAPE_RAW, SHAPE_STREAM, SHAPE_V6, SK_LISTENER, SK_NONE, SK_TCB, SK_UDP, Op, OpKind, SockState,
    sock_delist, sock_enlist,
)
from ustack_ext.sockets.stream cimport (
    stream_attempt, stream_begin_linger, stream_forget, stream_names, stream_open, stream_release,
)
from ustack_ext.sockets.wait cimport sock_sync, waiter_link, waiter_unlink, waiters_fire
from ustack_ext.tcp.tcb cimport Listener, Md5Key, Tcb
from ustack_ext.udp.udp cimport UdpSock
from ustack_ext.wire.addr cimport Addr

cdef enum:
    GLANCE = 65536                 # bytes sent in one attempt after which it looks what has come
    KEEP_GIL = 8192                # bytes that an attempt may copy without giving the GIL up
    NS = 1000000000
    PROTO_TCP = 6
    PROTO_UDP = 17
    PROTO_RAW = 255

assert _socket.SOCK_STREAM == STREAM and _socket.SOCK_DGRAM == DGRAM and _socket.SOCK_RAW == RAW

cdef int AF_PACKET = getattr(_socket, "AF_PACKET", 17)
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


cdef int closed_error(const SockState *s) noexcept nogil:
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


cdef void move(SockState *s, SockState *new) noexcept nogil:
    """All that `s` has in the engine becomes `new`'s. Whoever waits on `s` wakes and finds it closed."""
    new[0] = s[0]
    new.waiters = NULL
    if s.kind == SK_TCB:
        (<Tcb *>s.obj).source.user = new
    elif s.kind == SK_LISTENER:
        (<Listener *>s.obj).source.user = new
    elif s.kind == SK_UDP:
        (<UdpSock *>s.obj).source.user = new
    s.kind = SK_NONE
    s.obj = NULL
    s.watch = NULL
    if new.watch != NULL:
        interests_drop(new.watch)
    s.closed = CLOSED_BY_USER
    waiters_fire(s, EV_CLOSED)


cdef int shape_of(int family, int kind, int proto) except -1:
    """SockState.shape for the arguments of socket(2). OSError: EAFNOSUPPORT, ESOCKTNOSUPPORT, EPROTONOSUPPORT."""
    cdef bint six = family == _socket.AF_INET6
    cdef bint stream = kind == STREAM
    if family == AF_PACKET and (kind == RAW or kind == DGRAM):
        return SHAPE_PACKET if kind == RAW else SHAPE_COOKED
    if family != _socket.AF_INET and not six and family != AF_PACKET:
        raise error(EAFNOSUPPORT)
    if (not stream and kind != DGRAM and kind != RAW) or family == AF_PACKET:
        raise error(ESOCKTNOSUPPORT)
    if kind == RAW:
        if not 0 < proto <= PROTO_RAW:
            raise error(EINVAL if proto > PROTO_RAW else EPROTONOSUPPORT)
        return SHAPE_RAW | (SHAPE_V6 if six else 0)
    if kind == DGRAM and proto == PROTO_UDPLITE:
        return SHAPE_LITE | (SHAPE_V6 if six else 0)
    if not (proto <= 0 or (proto == PROTO_TCP if stream else
                           proto == PROTO_UDP or proto == (PROTO_ICMPV6 if six else PROTO_ICMP))):
        raise error(EPROTONOSUPPORT)
    return max(proto, 0) | (SHAPE_STREAM if stream else 0) | (SHAPE_V6 if six else 0)


@no_gc_clear
cdef class SocketHandle:
    """A socket of one stack.

    stack: the ustack.Stack. family: AF_INET, AF_INET6 or AF_PACKET. type: SOCK_STREAM, SOCK_DGRAM or SOCK_RAW, with
    SOCK_NONBLOCK. proto: 0, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, IPPROTO_ICMP or IPPROTO_ICMPV6; a raw socket's
    from 1 to 255; a packet socket's EtherType as htons() gives it. Raises OSError: EAFNOSUPPORT, ESOCKTNOSUPPORT,
    EPROTONOSUPPORT, EINVAL; ECONNABORTED on a closed stack.
    """

    def __cinit__(self):
        self.state.closed = CLOSED_BY_USER
        self.state.done = 1
        self.timeout_ns = -1

    def __init__(self, StackCore stack not None, int family=_socket.AF_INET, int type=_socket.SOCK_STREAM, int proto=0):
        cdef Driver d = running(stack)
        cdef int rc
        cdef int shape
        if self.stack is not None:
            raise TypeError("a socket is opened once")
        if family == -1:
            family = _socket.AF_INET
        shape = shape_of(family, type & ~SOCK_FLAGS, proto)
        self._adopt(stack, shape)
        if self.is_packet():
            proto = _socket.ntohs(proto & 0xFFFF)      # packet(7): as it is on the wire
        with nogil:
            d.lock()
            if stack.shut or d.closed:
                rc = -ECONNABORTED
            elif shape & SHAPE_STREAM:
                rc = stream_open(d.engine, &self.state)
            else:
                rc = datagram_open(d.engine, &self.state, max(proto, 0))
            if rc == 0:
                sock_enlist(&stack.sockets, &self.state)
            d.unlock()
        check(rc)
        self.state.done = 0
        if type & SOCK_NONBLOCK:
            self.timeout_ns = 0

    cdef _adopt(self, StackCore stack, int shape):
        self.stack = stack
        self.state.shape = <uint8_t>shape
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
        """Try `op` until it ends with something else than -EAGAIN. Returns that, or -EAGAIN or OP_TIMED_OUT; raises
        only what a signal handler raises."""
        cdef long n
        cdef Driver d
        cdef Waiter *w = NULL
        if self.stack is None:
            return -EBADF
        d = self.stack.driver
        if d.closed and self.state.closed == OPEN:
            return -EBADF              # a child of fork(): the connection is the parent's
        if deadline:
            w = waiter_get(d)
            w.want = op.want
        n = self.perform_once(op, w)
        if w == NULL:
            return n
        try:
            while n == -EAGAIN:
                fired = d.wait(w, deadline)
                if fired != 1:
                    return OP_TIMED_OUT if fired == 0 else -EAGAIN
                n = self.perform_once(op, w)
            return n
        finally:
            if n == -EAGAIN:
                with nogil:
                    d.lock()
                    waiter_unlink(&self.state, w)
                    d.unlock()
            waiter_put(w)

    cdef long perform_once(self, Op *op, Waiter *w):
        """One attempt; on -EAGAIN `w`, if any, is left waiting. What is short and finds the lock free keeps the GIL:
        giving it up costs as much as the attempt."""
        cdef Driver d = self.stack.driver
        cdef long n
        if op.room <= KEEP_GIL and d.try_lock():
            n = self.locked_attempt(d, op, w)
        else:
            with nogil:
                d.lock()
                n = self.locked_attempt(d, op, w)
                if op.kind == OP_SEND and n >= GLANCE:
                    d.glance()
        d.after()
        return n

    cdef long locked_attempt(self, Driver d, Op *op, Waiter *w) noexcept nogil:
        cdef long n
        if w != NULL:
            waiter_unlink(&self.state, w)
            w.spin_us = self.state.watch.busy_poll if self.state.watch != NULL else 0
        op.waits = w != NULL
        n = attempt(d.engine, &self.state, op)
        if n == -EAGAIN and w != NULL:
            waiter_link(&self.state, w)
        sock_sync(&self.state)
        d.unlock()
        return n

    # -- closing

    def _close_now(self):
        """Give the socket back, whether or not files of it are open. With SO_LINGER set, waits for the peer's
        acknowledgement.
        """
        cdef Op op
        cdef Driver d
        cdef bint wait = False
        cdef uint64_t deadline = 0
        if self.stack is None or self.state.closed == CLOSED_BY_USER:
            return
        d = self.stack.driver
        with nogil:
            d.lock()
            if self.state.closed == OPEN and not d.closed and self.state.kind != SK_UDP:
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
        cdef bint gone = d.closed          # a child of fork(): what is in the engine is a copy, and goes with it
        with nogil:
            d.lock()
            if s.closed == OPEN:
                s.closed = CLOSED_BY_USER
                sock_delist(&self.stack.sockets, s)
                if gone:
                    stream_forget(s)
                elif s.kind == SK_UDP:
                    datagram_release(d.engine, s)
                else:
                    stream_release(d.engine, s, False)
            s.closed = CLOSED_BY_USER
            watch_close(s)
            d.unlock()
        d.after()
        return 0

    def _split(self):
        """-> a new socket of the same class that has the connection and the descriptor; this one is closed (detach)."""
        cdef SocketHandle new = self.__class__.__new__(self.__class__)
        cdef Driver d = self._usable()
        cdef int rc = 0
        new._adopt(self.stack, self.state.shape)
        new.timeout_ns = self.timeout_ns
        with nogil:
            d.lock()
            if self.state.closed == OPEN:
                sock_delist(&self.stack.sockets, &self.state)
                move(&self.state, &new.state)
                sock_enlist(&self.stack.sockets, &new.state)
            else:
                rc = closed_error(&self.state)
            d.unlock()
        check(rc)
        new.state.done = 0
        return new

    cdef Driver _usable(self):
        if self.stack is None or (self.stack.driver.closed and self.state.closed == OPEN):
            raise error(EBADF)
        return self.stack.driver

    # -- what it is

    @property
    def _six(self):
        return self.is_six()

    @property
    def _type(self):
        if self.is_stream():
            return STREAM
        return RAW if self.state.shape & SHAPE_CODE >= SHAPE_PACKET else DGRAM

    @property
    def _packet(self):
        return self.is_packet()

    @property
    def proto(self):
        """The protocol asked for; of a packet socket 0: getsockname() has its EtherType."""
        return self.protocol()

    # What the standard library's socket object has, for socket.SocketIO and for close().

    @property
    def _closed(self):
        return self.state.done != 0

    @_closed.setter
    def _closed(self, bint done):
        self.state.done = done

    @property
    def _io_refs(self):
        return self.state.io_refs

    @_io_refs.setter
    def _io_refs(self, uint16_t count):
        self.state.io_refs = count

    def fileno(self):
        """A descriptor that select, poll, epoll and asyncio can wait on, for reading, writing and hang-up; -1 once
        closed.

        It is made when it is first asked for, and is good for waiting only: reading or writing it breaks what it shows.
        Raises OSError (EMFILE) when the process has no descriptor left.
        """
        cdef Driver d
        cdef int rc = 0
        cdef int fd = -1
        if self.stack is None:
            return -1
        d = self.stack.driver
        with nogil:
            d.lock()
            if self.state.closed != CLOSED_BY_USER and not d.closed:
                rc = pair_open(&self.state)
                sock_sync(&self.state)
            if rc == 0 and self.state.watch != NULL:
                fd = self.state.watch.fd_user
            d.unlock()
        check(rc)
        return fd

    def _names(self):
        """-> (own address, peer's address or None)."""
        cdef Addr laddr, raddr
        cdef uint16_t lport = 0
        cdef uint16_t rport = 0
        cdef int rc
        cdef Driver d = self._usable()
        if self.is_packet():
            return link_name(self.stack, &self.state), None
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
        six = self.is_six()
        return format_address(&laddr, lport, six), (format_address(&raddr, rport, six) if rc == 0 else None)

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
            if self.state.closed != OPEN:
                rc = closed_error(&self.state)
            else:
                rc = option_set(d.engine, &self.state, which, value)
            d.unlock()
        d.after()
        check(rc)

    def _set_md5(self, address, int prefix, bytes key):
        """TCP_MD5SIG. address: an int of 128 bits, zeros beyond the prefix's; key: at most 80 bytes. Raises OSError."""
        cdef Driver d = self._usable()
        cdef Md5Key k
        cdef int rc
        if len(key) > <int>sizeof(k.key):
            raise error(EINVAL)
        k.addr = addr_from_int(address)
        k.prefix = <uint8_t>prefix
        k.len = <uint8_t>len(key)
        memcpy(k.key, <const char *>key, len(key))
        with nogil:
            d.lock()
            rc = closed_error(&self.state) if self.state.closed != OPEN else option_md5(d.engine, &self.state, &k)
            d.unlock()
        d.after()
        check(rc)

    def settimeout(self, value, /):
        """settimeout(seconds | None): as socket.socket.settimeout."""
        if value is None:
            self.timeout_ns = -1
            return
        if not isinstance(value, (int, float)):
            if not hasattr(value, "__float__"):
                raise TypeError(f"'{type(value).__name__}' object cannot be interpreted as an integer")
            value = value.__float__()
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
