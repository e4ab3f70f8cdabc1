"""The socket calls that open connections and move data: SocketCore, the base of ustack.Socket.

Responsible for: arguments and results as CPython's socketmodule has them, buffers, how often a call is repeated
(sendall, MSG_WAITALL). Not for: waiting and closing (sockets/handle), what a call means in which state (sockets/stream,
sockets/datagram), options by number, files and messages with ancillary data (ustack/socket.py).
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython cimport no_gc_clear
from libc.errno cimport EAGAIN, EALREADY, EINPROGRESS, EINVAL, EOPNOTSUPP
from libc.stdint cimport UINT64_MAX, uint16_t, uint32_t, uint64_t
from ustack_ext.base.buf cimport Owner
from ustack_ext.base.event cimport EV_READABLE, EV_WRITABLE
from ustack_ext.base.iov cimport IoVec
from ustack_ext.driver.driver cimport Driver
from ustack_ext.sockets.address cimport addr_from_int, addr_to_bytes, format_address, parse_address
from ustack_ext.sockets.buffers cimport Buffers, many_buffers, one_buffer
from ustack_ext.sockets.datagram cimport datagram_bind, datagram_shutdown
from ustack_ext.sockets.handle cimport PROTO_ICMP, PROTO_ICMPV6, SocketHandle, check, closed_error, error, op_init
from ustack_ext.sockets.lend cimport LEND_MOST, Completion, begin_completion, keep, kept, lend
from ustack_ext.sockets.linkaddr cimport format_link, parse_link
from ustack_ext.sockets.msg cimport MSG_DONTWAIT, MSG_FASTOPEN, MSG_OOB, MSG_PEEK, MSG_TRUNC, MSG_WAITALL
from ustack_ext.sockets.state cimport (
    OP_ACCEPT, OP_CONNECT, OP_GROW, OP_RECV, OP_SEND, OP_TIMED_OUT, OPEN, SK_UDP, SOCK_V6ONLY, Op,
)
from ustack_ext.sockets.stream cimport stream_bind, stream_listen, stream_shutdown
from ustack_ext.sockets.wait cimport sock_sync
from ustack_ext.tcp.reassembly cimport Lent
from ustack_ext.udp.packet cimport packet_bind
from ustack_ext.udp.state cimport LinkMeta, UdpSock
from ustack_ext.wire.addr cimport Addr, addr_is_any, addr_localhost

cdef enum:
    ALL = 0x7FFFFFFF
    SMALL = 2048                   # a receive of at most this much is copied through the C stack
    KEPT_LEAST = 16 << 10          # bytes of which a send is not copied: fewer are copied faster
    KEPT_MOST = 4 << 20            # ... more would be kept for the few that are still to be acknowledged


cdef void loopback_if_any(Addr *a) noexcept nogil:
    """Linux takes 0.0.0.0 and :: as a destination for this host."""
    if addr_is_any(a):
        a[0] = addr_localhost(a)


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


@no_gc_clear
cdef class SocketCore(SocketHandle):
    """The calls of a socket; see SocketHandle for how one is made."""

    # -- receiving

    cdef bytes receive(self, Py_ssize_t size, int flags, Op *op):
        """At most `size` bytes: one piece of a stream, or one datagram. Never allocates more than there is to take."""
        cdef char small[SMALL]
        cdef IoVec iov
        cdef uint64_t deadline = 0 if flags & MSG_OOB and self.is_stream() else self.deadline(flags)
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
            if flags & MSG_PEEK and flags & MSG_WAITALL and deadline == UINT64_MAX and self.is_stream():
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
            if op.at_mark:
                break
        return b"".join(parts)

    cdef long receive_into(self, Buffers into, int flags, Op *op) except -1:
        """recv into the caller's memory; with MSG_WAITALL on a blocking stream until one buffer is full."""
        cdef uint64_t deadline = 0 if flags & MSG_OOB and self.is_stream() else self.deadline(flags)
        cdef bint whole = flags & MSG_WAITALL and deadline == UINT64_MAX and self.is_stream() and into.count == 1
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
            if n == 0 or not whole or op.at_mark or <size_t>done == into.total:
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
            return b""                 # as CPython, which makes no system call then
        if flags & MSG_WAITALL and not flags & (MSG_PEEK | MSG_DONTWAIT | MSG_OOB) and self.is_stream() \
                and self.timeout_ns < 0:
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
            return 0
        return self._length(self.receive_into(into, flags, &op), flags, op.full)

    def recvfrom_into(self, buffer, Py_ssize_t nbytes=0, int flags=0):
        """recvfrom_into(buffer[, nbytes[, flags]]) -> (bytes received, address): as socket.socket.recvfrom_into."""
        cdef Op op
        cdef Buffers into = room_in(buffer, nbytes, "recvfrom_into")
        n = self._length(self.receive_into(into, flags, &op), flags, op.full)
        return n, self.sender(&op)

    def _recvmsg(self, Py_ssize_t bufsize, int flags):
        """-> (bytes, length of the datagram, None or (wants, ttl, tos, ifindex, destination's 16 bytes, gro size),
        address). wants: CMSG_* of IPv4, and 8 bits higher those of IPv6."""
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
        if self.is_stream():
            return taken, None, None
        if op.wants & ~SOCK_V6ONLY:
            here = addr_to_bytes(&op.meta.dst)
            details = (op.wants, op.meta.ttl, op.meta.tos, op.meta.ifindex, here, op.meta.gro_size)
        return op.full, details, self.sender(op)

    cdef object sender(self, Op *op):
        """Where a datagram came from; a stream's peer is not told with each piece."""
        if self.is_stream():
            return None
        if self.is_packet():
            return format_link(self.stack, <LinkMeta *>&op.meta)
        ping = self.protocol() == PROTO_ICMP or self.protocol() == PROTO_ICMPV6
        return format_address(&op.meta.src, 0 if ping else op.meta.sport, self.is_six())

    cdef object _length(self, long taken, int flags, long full):
        """recv(2): with MSG_TRUNC a datagram's real length."""
        return full if flags & MSG_TRUNC and not self.is_stream() else taken

    def recv_view(self, max_bytes=None, int flags=0, /):
        """recv_view([max_bytes[, flags]]) -> View: what was received, in the stack's own buffers, without a copy.

        At least one byte is waited for as recv() does it. max_bytes: None for what there is, in at most 64 pieces.
        flags: MSG_DONTWAIT. At the end of the stream the view is empty. Raises as recv(); OSError: EOPNOTSUPP for
        other flags, and for datagrams.
        """
        cdef Lent pieces[LEND_MOST]
        cdef Op op
        cdef Py_ssize_t most = ALL if max_bytes is None else max_bytes
        if most < 0:
            raise ValueError("negative buffersize in recv_view")
        if flags & ~MSG_DONTWAIT or not self.is_stream():
            raise error(EOPNOTSUPP)
        op_init(&op, OP_RECV, flags, EV_READABLE)
        op.lent = pieces
        op.niov = LEND_MOST
        op.room = most
        if most:
            check(self.perform(&op, self.deadline(flags)))
        return lend(self, op.tcb, pieces, op.nlent)

    # -- sending

    cdef long transmit(self, Buffers data, int flags, Op *op, bint all_of_it) except -1:
        """Send; `op` holds the address and the ancillary data, if any.

        all_of_it: sendall, for which a part is an error. Where it may block, send(2) goes on until all is queued, too,
        but tells the part if it has to end before.
        """
        cdef uint64_t deadline = self.deadline(flags)
        cdef bint whole = self.is_stream() and (all_of_it or deadline == UINT64_MAX)
        cdef size_t done = 0
        cdef int i = 0
        cdef long n
        op.iov = data.iov
        op.niov = data.count
        op.room = data.total
        while True:
            n = self.perform(op, deadline)
            if n == -EAGAIN and op.started:                # MSG_FASTOPEN: the SYN went, without data
                n = -EINPROGRESS
            if n < 0 and done and not all_of_it:
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

    cdef long put(self, object data, int flags, Op *op, bint all_of_it) except -1:
        """transmit() for one buffer. Bytes, which nobody can change, are sent from where they are."""
        cdef Owner *owner = NULL
        cdef Driver d
        if (type(data) is bytes and KEPT_LEAST <= len(<bytes>data) <= KEPT_MOST and self.is_stream()
                and not flags & (MSG_OOB | MSG_FASTOPEN)):
            d = self._usable()
            d.hand_back()                                  # of those that were sent before
            owner = keep(data)
        if owner == NULL:
            return self.transmit(one_buffer(data, False), flags, op, all_of_it)
        op.owner = owner
        op.bounded = 1
        try:
            return self.transmit(one_buffer(data, False), flags, op, all_of_it)
        finally:
            kept(d, owner)

    def send(self, data, int flags=0, /):
        """send(data[, flags]) -> bytes taken: as socket.socket.send."""
        cdef Op op
        op_init(&op, OP_SEND, flags, EV_WRITABLE)
        return self.put(data, flags, &op, False)

    def sendall(self, data, int flags=0, /):
        """sendall(data[, flags]): as socket.socket.sendall; the timeout is for all of it."""
        cdef Op op
        op_init(&op, OP_SEND, flags, EV_WRITABLE)
        self.put(data, flags, &op, True)

    def send_zerocopy(self, data, int flags=0, *, callback=None):
        """send_zerocopy(buffer[, flags], *, callback=None) -> Completion: send without copying the buffer.

        As send(), but the stack sends, and sends again, from the buffer itself, which must not change before the
        Completion is done; then callback(completion) is called, in a thread that uses the stack or in the stack's own.
        As much is taken at once as there is, whatever SO_SNDBUF says, as soon as the send buffer has room; a blocking
        socket takes all of it, others tell how much in Completion.nbytes. Raises as send(); OSError: EOPNOTSUPP for
        datagrams.
        """
        cdef Op op
        cdef Buffers what = one_buffer(data, False)
        cdef Completion completion
        cdef long n = 0
        cdef Driver d = self._usable()
        if callback is not None and not callable(callback):
            raise TypeError("callback: a function is needed")
        if not self.is_stream():
            raise error(EOPNOTSUPP)
        op_init(&op, OP_SEND, flags, EV_WRITABLE)
        completion = begin_completion(d, what, callback)
        op.owner = &completion.owner
        try:
            n = self.transmit(what, flags, &op, False)
        finally:
            completion.sent(n)
            d.after()
        return completion

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

    def _sendmsg(self, buffers, int flags, address, int ttl, int tos, source=0, unsigned int ifindex=0,
                 uint16_t gso_size=0, int dont_frag=0):
        """ttl, tos: -1 for the socket's; source, ifindex, gso_size: 0 for the socket's; dont_frag:
        1 not, 2 set, 0 as the socket says."""
        cdef Op op
        op_init(&op, OP_SEND, flags, EV_WRITABLE)
        op.has_ttl = ttl >= 0
        op.ttl = max(ttl, 0)
        op.has_tos = tos >= 0
        op.tos = max(tos, 0)
        op.source = addr_from_int(source)
        op.ifindex = ifindex
        op.gso_size = gso_size
        op.dont_frag = dont_frag
        if address is not None:
            self._set_destination(&op, address, "sendmsg")
        return self.transmit(many_buffers(buffers, False), flags, &op, False)

    cdef _set_destination(self, Op *op, object address, str caller):
        if self.is_packet():
            parse_link(self.stack, address, caller, &op.ifindex, &op.port, &op.to)
            op.has_to = 1
            return
        parse_address(self.stack, self.is_six(), address, caller, &op.to, &op.port)
        loopback_if_any(&op.to)
        op.has_to = 1

    # -- making connections

    def bind(self, address, /):
        """bind((host, port)), or bind((interface, EtherType)): as socket.socket.bind."""
        cdef Addr a
        cdef uint16_t port = 0
        cdef int rc
        cdef uint32_t ifindex = 0
        cdef Driver d = self._usable()
        if self.is_packet():
            parse_link(self.stack, address, "bind", &ifindex, &port, &a)
        else:
            parse_address(self.stack, self.is_six(), address, "bind", &a, &port)
        with nogil:
            d.lock()
            if self.state.closed != OPEN:
                rc = closed_error(&self.state)
            elif self.is_packet():
                rc = packet_bind(&d.engine.udp, <UdpSock *>self.state.obj, ifindex, port)
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
        new._adopt(self.stack, self.state.shape)
        check(self.perform(&op, self.deadline(0)))
        new.state.done = 0
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
        if n == -EAGAIN:               # this thread must not wait
            return EINPROGRESS
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
