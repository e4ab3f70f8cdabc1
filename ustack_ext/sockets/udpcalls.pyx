"""Calls of UDP sockets that the socket module doesn't have: memberships, the error queue, many datagrams at a time.

Responsible for: Python's values in and out, under the lock, and errno as exceptions. Not for: option numbers and
layouts (ustack/ipoptions.py), what the calls do (udp/).
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EADDRNOTAVAIL, EAGAIN, ENODEV, EOPNOTSUPP
from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from ustack_ext.base.buf cimport Buf, buf_ref, buf_unref
from ustack_ext.base.entry cimport ENTRY_PACKET
from ustack_ext.base.event cimport EV_READABLE
from ustack_ext.base.iov cimport IoVec
from ustack_ext.driver.driver cimport Driver
from ustack_ext.net.iface cimport iface_find
from ustack_ext.net.state cimport MAX_IFADDRS, Iface, Net
from ustack_ext.sockets.address cimport addr_from_int, addr_to_bytes, format_address, parse_address
from ustack_ext.sockets.buffers cimport Buffers, one_buffer
from ustack_ext.sockets.handle cimport SocketHandle, check, closed_error, error, op_init
from ustack_ext.sockets.msg cimport MSG_DONTWAIT, MSG_PEEK
from ustack_ext.sockets.stackcore cimport StackCore, running
from ustack_ext.sockets.state cimport OP_RECV, OPEN, SK_UDP, Op, SockState
from ustack_ext.sockets.wait cimport sock_sync
from ustack_ext.udp.errqueue cimport udp_take_error
from ustack_ext.udp.member cimport (
    MEMBER_BLOCK, MEMBER_JOIN, MEMBER_JOIN_SOURCE, MEMBER_LEAVE, MEMBER_LEAVE_SOURCE, MEMBER_UNBLOCK, udp_filter,
    udp_member, udp_membership,
)
from ustack_ext.udp.pathmtu cimport forget_path_mtu
from ustack_ext.udp.state cimport MEMBER_SOURCES, Member, UdpError, UdpMeta, UdpSock
from ustack_ext.udp.udp cimport udp_recv, udp_send
from ustack_ext.wire.addr cimport Addr, addr_eq, addr_has_zone, addr_is_any, addr_zone

JOIN = MEMBER_JOIN
LEAVE = MEMBER_LEAVE
BLOCK = MEMBER_BLOCK
UNBLOCK = MEMBER_UNBLOCK
JOIN_SOURCE = MEMBER_JOIN_SOURCE
LEAVE_SOURCE = MEMBER_LEAVE_SOURCE

cdef enum:
    BATCH = 256                    # datagrams that one hold of the lock takes or sends


cdef int udp_state(const SockState *s) noexcept nogil:
    """0, or why it can't be used."""
    if s.closed != OPEN:
        return closed_error(s)
    return 0 if s.kind == SK_UDP and (<UdpSock *>s.obj).entry.kind != ENTRY_PACKET else -EOPNOTSUPP


cdef uint32_t find_interface(Net *n, const Addr *a, const char *name) noexcept nogil:
    """By name, or by an address of it; 0: there is none."""
    cdef Iface *i
    cdef int k, j
    if name != NULL:
        i = iface_find(n, name)
        return i.index if i != NULL else 0
    for k in range(n.n_ifaces):
        for j in range(MAX_IFADDRS):
            if n.ifaces[k].addrs[j].used and addr_eq(&n.ifaces[k].addrs[j].addr, a):
                return n.ifaces[k].index
    return 0


def interface_index(StackCore stack not None, object address, str name=None):
    """The index of the interface with an address (0.0.0.0: 0) or a name. OSError: ENODEV."""
    cdef Driver d = running(stack)
    cdef Addr a = addr_from_int(address)
    cdef bytes raw = (name or "").encode()
    cdef const char *wanted = NULL
    cdef uint32_t index
    if name is None and addr_is_any(&a):
        return 0
    if name is not None:
        wanted = raw
    with nogil:
        d.lock()
        index = find_interface(&d.engine.net, &a, wanted)
        d.unlock()
    if index == 0:
        raise error(ENODEV)
    return index


def membership(SocketHandle sock not None, int action, object group, uint32_t index, object source=None):
    """Join or leave a group, or change its source filter. index: the interface's, 0 for the one the routes say."""
    cdef Driver d = sock._usable()
    cdef Addr to = addr_from_int(group)
    cdef Addr src = addr_from_int(source or 0)
    cdef bint named = source is not None
    cdef int rc
    with nogil:
        d.lock()
        rc = udp_state(&sock.state)
        if rc == 0:
            rc = udp_member(&d.engine.udp, <UdpSock *>sock.state.obj, action, &to, index, &src if named else NULL)
        d.unlock()
    d.after()
    check(rc)


def set_filter(SocketHandle sock not None, object group, uint32_t index, bint exclude, sources):
    """A membership's whole source filter at once."""
    cdef Driver d = sock._usable()
    cdef Addr to = addr_from_int(group)
    cdef Addr many[MEMBER_SOURCES]
    cdef int n = 0
    cdef int rc
    for one in list(sources)[:MEMBER_SOURCES]:
        many[n] = addr_from_int(one)
        n += 1
    if len(sources) > MEMBER_SOURCES:
        n = MEMBER_SOURCES + 1
    with nogil:
        d.lock()
        rc = udp_state(&sock.state)
        if rc == 0:
            rc = udp_filter(&d.engine.udp, <UdpSock *>sock.state.obj, &to, index, exclude, many, n)
        d.unlock()
    d.after()
    check(rc)


def get_filter(SocketHandle sock not None, object group, uint32_t index):
    """-> (exclude, sources). OSError: EADDRNOTAVAIL where the group is not joined."""
    cdef Driver d = sock._usable()
    cdef Addr to = addr_from_int(group)
    cdef Member copy
    cdef Member *m = NULL
    cdef int rc
    memset(&copy, 0, sizeof(copy))
    with nogil:
        d.lock()
        rc = udp_state(&sock.state)
        if rc == 0:
            m = udp_membership(<UdpSock *>sock.state.obj, &to, index)
            if m != NULL:
                copy = m[0]
        d.unlock()
    check(rc if rc != 0 or m != NULL else -EADDRNOTAVAIL)
    return copy.exclude != 0, [int.from_bytes(addr_to_bytes(&copy.sources[k]), "big") for k in range(copy.n_sources)]


# -- the error queue

def recv_error(SocketHandle sock not None, Py_ssize_t size):
    """-> (payload, its whole length, (errno, origin, type, code, info), who said so, where it was sent). Who: 16 bytes
    and the scope id."""
    cdef Driver d = sock._usable()
    cdef UdpError what
    cdef IoVec iov
    cdef uint32_t full = 0
    cdef long n
    cdef bytes data
    if size < 0:
        raise ValueError("negative buffer size in recvmsg()")
    data = PyBytes_FromStringAndSize(NULL, min(size, 65536))
    iov.base = PyBytes_AS_STRING(data)
    iov.len = len(data)
    with nogil:
        d.lock()
        n = udp_state(&sock.state)
        if n == 0:
            n = udp_take_error(&d.engine.udp, <UdpSock *>sock.state.obj, &iov, 1, &what, &full)
        sock_sync(&sock.state)
        d.unlock()
    check(n)
    return (data[:n], full, (what.error, what.origin, what.type, what.code, what.info),
            (addr_to_bytes(&what.offender), addr_zone(&what.offender) if addr_has_zone(&what.offender) else 0),
            format_address(&what.dst, what.port, sock.is_six()))


# -- many at a time

cdef int take_many(SocketHandle sock, Driver d, Buf **bufs, int most) noexcept nogil:
    """Takes whole datagrams out of the queue, by reference; gives the lock back. How many, or -errno."""
    cdef UdpSock *u
    cdef UdpMeta meta
    cdef uint32_t full
    cdef long n = udp_state(&sock.state)
    cdef int count = 0
    if n >= 0:
        forget_path_mtu(<UdpSock *>sock.state.obj)     # there is no place for it here
    while n >= 0 and count < most:
        u = <UdpSock *>sock.state.obj
        bufs[count] = u.queue.head
        if bufs[count] != NULL and u.error == 0:
            buf_ref(bufs[count])
        n = udp_recv(&d.engine.udp, u, NULL, 0, False, &meta, &full)
        if n >= 0 and bufs[count] == NULL:
            break                                  # shut down
        count += n >= 0
    sock_sync(&sock.state)
    d.unlock()
    return count if count > 0 or n >= 0 else <int>n


cdef object datagram_of(Buf *b, Py_ssize_t size, bint ping, bint six):
    cdef UdpMeta meta
    memcpy(&meta, b.data, sizeof(meta))
    data = PyBytes_FromStringAndSize(<char *>b.data + b.off, min(size, <Py_ssize_t>b.len))
    return data, format_address(&meta.src, 0 if ping else meta.sport, six)


def recv_many(SocketHandle sock not None, int count, Py_ssize_t size, int flags):
    """See Socket.recv_many."""
    cdef Driver d = sock._usable()
    cdef Buf *bufs[BATCH]
    cdef Op op
    cdef int n, k
    if count < 1 or size < 0:
        raise ValueError("recv_many: a count of at least 1 and a size of at least 0 are needed")
    if flags & ~MSG_DONTWAIT or sock.is_stream() or sock.is_packet():
        raise error(EOPNOTSUPP)
    while True:
        op_init(&op, OP_RECV, flags | MSG_PEEK, EV_READABLE)
        check(sock.perform(&op, sock.deadline(flags)))       # waits; takes nothing
        with nogil:
            d.lock()
            n = take_many(sock, d, bufs, min(count, <int>BATCH))
        if n != -EAGAIN:                                     # another thread took it in between
            break
    check(n)
    try:
        return [datagram_of(bufs[k], size, sock.protocol() == 1, sock.is_six()) for k in range(n)]
    finally:
        with nogil:
            d.lock()
            for k in range(n):
                buf_unref(&d.engine.core.pool, bufs[k])
            d.unlock()


cdef struct Message:
    const IoVec *iov
    int niov
    bint named
    Addr to
    uint16_t port


cdef long send_batch(SocketHandle sock, Driver d, const Message *messages, int count, int flags) noexcept nogil:
    """How many were sent; the first one's error if that was none. Gives the lock back."""
    cdef long n = udp_state(&sock.state)
    cdef int done = 0
    cdef const Message *m
    while n >= 0 and done < count:
        m = &messages[done]
        n = udp_send(&d.engine.udp, <UdpSock *>sock.state.obj, m.iov, m.niov, &m.to if m.named else NULL, m.port, flags)
        done += n >= 0
    sock_sync(&sock.state)
    d.unlock()
    return done if done > 0 or n >= 0 else n


def send_many(SocketHandle sock not None, messages, int flags):
    """See Socket.send_many."""
    cdef Driver d = sock._usable()
    cdef list kept = []
    cdef Message *made
    cdef Buffers data
    cdef int count = len(messages), done = 0
    cdef long n
    if flags & ~MSG_DONTWAIT or sock.is_stream() or sock.is_packet():
        raise error(EOPNOTSUPP)
    made = <Message *>malloc(max(count, 1) * sizeof(Message))
    if made == NULL:
        raise MemoryError()
    try:
        memset(made, 0, count * sizeof(Message))
        for k, one in enumerate(messages):
            if isinstance(one, tuple):
                payload, address = one
                parse_address(sock.stack, sock.is_six(), address, "send_many", &made[k].to, &made[k].port)
                made[k].named = True
            else:
                payload = one
            data = one_buffer(payload, False)
            kept.append(data)
            made[k].iov = data.iov
            made[k].niov = data.count
        while done < count:
            with nogil:
                d.lock()
                n = send_batch(sock, d, made + done, min(count - done, <int>BATCH), flags)
            d.after()
            if n < 0 and done:
                break
            check(n)
            if n < min(count - done, <int>BATCH):
                done += n
                break
            done += n
        return done
    finally:
        free(made)
