"""Flows of a stack joined to sockets of the host: the gateway's work on bytes, without Python.

Responsible for: accepting a flow when the host's connect() has succeeded, or refusing it as that failed; carrying bytes
both ways, each end of a stream and each reset too; idle flows of datagrams, and of pings. Not for: where a flow leads
and making the host's sockets (ustack/gateway.py), system calls (driver/hostio).

Nothing is copied here on bulk: what the host's socket has is read into blocks of the send queue, what came from the
stack is written from the buffers it was received in. What a side does not take stays where it is, unread, so the window
of the other closes: there is no queue of the relay's own. The host's sockets are watched for changes only, so what one
can do is remembered until it says EAGAIN.
"""
from libc.errno cimport EACCES, EAGAIN, ECONNREFUSED, ENETUNREACH, ENOBUFS, ENOMEM, EPERM
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memmove

from ustack_ext.base.buf cimport BUF_LARGE, buf_alloc, buf_class_cap, buf_unref
from ustack_ext.base.event cimport Source
from ustack_ext.base.iov cimport IoVec
from ustack_ext.driver.hostio cimport (
    HOST_END, HOST_EVENTS, HOST_READ, HOST_WRITE, HostEvent, host_abort, host_close, host_end, host_error, host_open,
    host_poll, host_receive, host_send, host_watch,
)
from ustack_ext.net.foreign cimport FLOW_RESET, FLOW_UNREACHABLE, foreign_refuse
from ustack_ext.service.echo cimport echo_answer, echo_ask
from ustack_ext.tcp.tcb cimport TF_DEAD, TF_FIN_RCVD, TcpConf
from ustack_ext.tcp.tcp cimport (
    forward_accept, forward_refuse, tcp_abort, tcp_close, tcp_consume, tcp_send, tcp_send_block, tcp_send_later,
    tcp_send_room, tcp_set_conf, tcp_shutdown,
)
from ustack_ext.udp.udp cimport UdpMeta, flow_accept, flow_refuse, udp_close, udp_recv, udp_send
from ustack_ext.wire.addr cimport addr_is_v4
from ustack_ext.wire.bytes cimport put_be16
from ustack_ext.wire.headers cimport IPPROTO_UDP_, UDP_HLEN

cdef enum:
    VECTOR = 64                    # received buffers written to the host at a time
    COPIED = 4096                  # bytes up to which what was read is copied, rather than to hold a block
    TURN = 1 << 20                 # bytes of one flow before others have their turn
    DATAGRAMS = 64                 # the same, of datagrams
    DATAGRAM_MAX = 65535
    SHUT_WR = 1


# -- a relay

cdef Relay *relay_new(Engine *e, int *error) noexcept nogil:
    cdef Relay *r = <Relay *>calloc(1, sizeof(Relay))
    error[0] = -ENOMEM
    if r == NULL:
        return NULL
    r.engine = e
    r.datagram = <uint8_t *>malloc(DATAGRAM_MAX)
    r.set = host_open() if r.datagram != NULL else -ENOMEM
    if r.set < 0:
        error[0] = r.set
        free(r.datagram)
        free(r)
        return NULL
    return r


cdef void relay_free(Relay *r) noexcept nogil:
    cdef int i
    while r.first != NULL:
        cut(r.first)
    for i in range(SPARES):
        if r.spares[i] != NULL:
            buf_unref(&r.engine.core.pool, r.spares[i])
    host_close(r.set)
    free(r.datagram)
    free(r)


cdef int relay_join(Relay *r, const FlowId *id, int fd, int kind, uint16_t ident, uint64_t idle) noexcept nogil:
    cdef Join *j
    cdef int rc
    if kind >= JOIN_PING and r.pings >= PINGS_MAX:
        return -ENOBUFS
    j = <Join *>calloc(1, sizeof(Join))
    if j == NULL:
        return -ENOMEM
    j.head.event = join_event
    j.relay = r
    j.id = id[0]
    j.fd = fd
    j.kind = kind
    j.ident = ident
    j.idle = idle
    rc = host_watch(r.set, fd, j)
    if rc != 0:
        free(j)
        return rc
    j.next = r.first
    if j.next != NULL:
        j.next.prev = j
    r.first = j
    r.open += 1
    r.pings += kind >= JOIN_PING
    return 0


cdef void leave(Join *j) noexcept nogil:
    """Out of the relay's lists; the memory goes. The stack's side and the descriptor were seen to."""
    cdef Relay *r = j.relay
    if j.ready:
        unlist(j)
    if j.prev != NULL:
        j.prev.next = j.next
    else:
        r.first = j.next
    if j.next != NULL:
        j.next.prev = j.prev
    r.open -= 1
    r.pings -= j.kind >= JOIN_PING
    free(j)


cdef void unlist(Join *j) noexcept nogil:
    """Off the list of those that go on in the relay's next turn."""
    cdef Relay *r = j.relay
    j.ready = 0
    if j.ready_prev != NULL:
        j.ready_prev.ready_next = j.ready_next
    else:
        r.ready_head = j.ready_next
    if j.ready_next != NULL:
        j.ready_next.ready_prev = j.ready_prev
    else:
        r.ready_tail = j.ready_prev


cdef void again(Join *j) noexcept nogil:
    """It goes on in the relay's next turn."""
    cdef Relay *r = j.relay
    if j.ready:
        return
    j.ready = 1
    j.ready_next = NULL
    j.ready_prev = r.ready_tail
    if r.ready_tail == NULL:
        r.ready_head = j
    else:
        r.ready_tail.ready_next = j
    r.ready_tail = j


# -- how a flow ends; the join is gone afterwards

cdef void release_stack(Join *j, bint reset) noexcept nogil:
    if j.c != NULL and reset:
        tcp_abort(&j.relay.engine.tcp, j.c)
    elif j.c != NULL:
        tcp_close(&j.relay.engine.tcp, j.c)
    if j.u != NULL:
        udp_close(&j.relay.engine.udp, j.u)


cdef void cut(Join *j) noexcept nogil:
    """Reset, both ways."""
    release_stack(j, True)
    host_abort(j.fd)
    leave(j)


cdef void finish(Join *j) noexcept nogil:
    """Both ends were passed on: what is under way still arrives."""
    release_stack(j, False)
    host_close(j.fd)
    leave(j)


cdef uint8_t refusal_code(const Join *j, int error) noexcept nogil:
    """RFC 792 and RFC 1812 §5.2.7.1, RFC 4443 §3.1."""
    cdef bint four = addr_is_v4(&j.id.laddr)
    if error == ENETUNREACH:
        return 0
    if error == EACCES or error == EPERM:
        return 13 if four else 1
    if error == ECONNREFUSED:
        return 3 if four else 4
    return 1 if four else 3


cdef void refuse(Join *j, int error) noexcept nogil:
    """The host could not connect: neither can the stack's peer."""
    j.relay.counters.refused += 1
    if j.kind == JOIN_STREAM:
        forward_refuse(&j.relay.engine.tcp, &j.id, FLOW_RESET if error == ECONNREFUSED else FLOW_UNREACHABLE,
                       refusal_code(j, error))
    else:
        flow_refuse(&j.relay.engine.udp, &j.id, FLOW_UNREACHABLE, refusal_code(j, error))
    host_close(j.fd)
    leave(j)


cdef void tell_refused(Join *j, int error) noexcept nogil:
    """An ICMP error came for a datagram: the sender gets one, too. Pings just get no answer."""
    cdef uint8_t quoted[UDP_HLEN]
    if j.kind != JOIN_DATAGRAMS:
        return
    put_be16(quoted, j.id.rport)
    put_be16(quoted + 2, j.id.lport)
    put_be16(quoted + 4, UDP_HLEN)
    put_be16(quoted + 6, 0)
    foreign_refuse(&j.relay.engine.net, &j.id.raddr, &j.id.laddr, IPPROTO_UDP_, quoted, UDP_HLEN,
                   refusal_code(j, error))


# -- beginning

cdef bint begin(Join *j) noexcept nogil:
    """The host's socket is connected, or is not to be. False: the join is gone."""
    cdef Relay *r = j.relay
    cdef int error = host_error(j.fd)
    cdef TcpConf conf
    cdef int rc
    if error != 0:
        refuse(j, error)
        return False
    if j.kind == JOIN_STREAM:
        rc = forward_accept(&r.engine.tcp, &j.id, j, &j.c)
    else:
        rc = flow_accept(&r.engine.udp, &j.id, j.idle, j, &j.u)
    if rc == -ENOBUFS:
        refuse(j, ENOBUFS)
        return False
    if rc != 0:                    # whoever wanted it has gone
        host_abort(j.fd)
        leave(j)
        return False
    if j.kind == JOIN_STREAM:
        j.c.source.native = 1
        conf = j.c.conf[0]
        conf.nodelay = 1           # what the host's side has sent is on its way at once
        tcp_set_conf(&r.engine.tcp, j.c, &conf)
    else:
        j.u.source.native = 1
    r.counters.flows += 1
    return True


# -- carrying

cdef bint take_spares(Relay *r) noexcept nogil:
    """False: there is no block at all."""
    cdef int i
    for i in range(SPARES):
        if r.spares[i] == NULL:
            r.spares[i] = buf_alloc(&r.engine.core.pool, buf_class_cap(BUF_LARGE))
            if r.spares[i] == NULL:
                return i > 0
    return True


cdef void keep(Relay *r, Join *j, long n) noexcept nogil:
    """The first n bytes of the spare blocks go into the send queue."""
    cdef Buf *b
    cdef IoVec iov
    cdef long taken = 0
    cdef int i = 0
    if n <= COPIED:
        iov.base = r.spares[0].data
        iov.len = n
        taken = max(tcp_send(&r.engine.tcp, j.c, &iov, 1, False), 0)
        if taken == n:
            return
        memmove(r.spares[0].data, r.spares[0].data + taken, n - taken)
        n -= taken
    while n > 0:
        b = r.spares[i]
        r.spares[i] = NULL
        b.len = <uint32_t>min(<long>b.cap, n)
        n -= b.len
        tcp_send_block(&r.engine.tcp, j.c, b)
        i += 1


cdef bint host_to_stack(Join *j) noexcept nogil:
    """False: the join is gone."""
    cdef Relay *r = j.relay
    cdef IoVec iov[SPARES]
    cdef long room, asked, n, carried = 0
    cdef int k
    while j.can_read and not j.host_done:
        room = tcp_send_room(&r.engine.tcp, j.c)
        if room <= 0:              # none now, or its handshake is not done; or it is over, which is an event of its own
            break
        if carried >= TURN:
            again(j)
            break
        if not take_spares(r):
            tcp_send_later(&r.engine.tcp, j.c)
            break
        asked = 0
        k = 0
        while k < SPARES and asked < room and r.spares[k] != NULL:
            iov[k].base = r.spares[k].data
            iov[k].len = min(<size_t>r.spares[k].cap, <size_t>(room - asked))
            asked += iov[k].len
            k += 1
        n = host_receive(j.fd, iov, k)
        if n == -EAGAIN:
            j.can_read = 0
        elif n < 0:
            cut(j)
            return False
        elif n == 0:
            j.host_done = 1
            tcp_shutdown(&r.engine.tcp, j.c, SHUT_WR)
        else:
            keep(r, j, n)
            carried += n
            r.counters.bytes_out += n
            if n < asked and not j.ending:
                j.can_read = 0
    return True


cdef bint stack_to_host(Join *j) noexcept nogil:
    """False: the join is gone."""
    cdef Relay *r = j.relay
    cdef IoVec iov[VECTOR]
    cdef Buf *b
    cdef long n
    cdef size_t asked
    cdef int count
    while j.c.rcvq_bytes > 0 and j.can_write:
        count = 0
        asked = 0
        b = j.c.rcvq_head
        while b != NULL and count < VECTOR:
            iov[count].base = b.data + b.off
            iov[count].len = b.len
            asked += b.len
            count += 1
            b = b.next
        n = host_send(j.fd, iov, count)
        if n == -EAGAIN:
            j.can_write = 0
            break
        if n < 0:
            cut(j)
            return False
        r.counters.bytes_in += n
        tcp_consume(&r.engine.tcp, j.c, <uint32_t>n)
        if <size_t>n < asked:
            j.can_write = 0
    if j.c.rcvq_bytes == 0 and j.c.flags & TF_FIN_RCVD and not j.stack_done:
        j.stack_done = 1
        host_end(j.fd)
    return True


cdef void carry_stream(Join *j) noexcept nogil:
    if j.c.flags & TF_DEAD and j.c.error:
        cut(j)
        return
    if not host_to_stack(j) or not stack_to_host(j):
        return
    if j.host_done and j.stack_done:
        finish(j)
    elif j.c.flags & TF_DEAD and j.c.rcvq_bytes == 0:
        cut(j)                     # the stack gave it up, and the host was not through


cdef bint datagrams_to_host(Join *j) noexcept nogil:
    cdef Relay *r = j.relay
    cdef UdpMeta meta
    cdef IoVec iov
    cdef uint32_t full
    cdef long n
    while True:
        iov.base = r.datagram
        iov.len = DATAGRAM_MAX
        n = udp_recv(&r.engine.udp, j.u, &iov, 1, False, &meta, &full)
        if n == -EAGAIN:
            return True
        if n < 0:                  # nobody sent anything for long, or an error about what was sent
            finish(j)
            return False
        iov.len = n
        if j.kind == JOIN_RAW_PING:
            echo_ask(r.datagram, <uint32_t>n, addr_is_v4(&j.id.laddr), j.ident)
        if host_send(j.fd, &iov, 1) >= 0:
            r.counters.bytes_in += n


cdef void datagrams_to_stack(Join *j) noexcept nogil:
    cdef Relay *r = j.relay
    cdef IoVec iov
    cdef long n
    cdef int left = DATAGRAMS
    while j.can_read:
        iov.base = r.datagram
        iov.len = DATAGRAM_MAX
        n = host_receive(j.fd, &iov, 1)
        if n == -EAGAIN:
            j.can_read = 0
        elif n < 0:
            tell_refused(j, <int>-n)
        else:
            iov.len = n
            if j.kind != JOIN_RAW_PING or echo_answer(&iov, addr_is_v4(&j.id.laddr), j.ident):
                r.counters.bytes_out += iov.len
                udp_send(&r.engine.udp, j.u, &iov, 1, NULL, 0, 0)
        left -= 1
        if left == 0 and j.can_read:
            again(j)
            return


cdef void carry(Join *j) noexcept nogil:
    if j.c != NULL:
        carry_stream(j)
    elif j.u != NULL and datagrams_to_host(j):
        datagrams_to_stack(j)


cdef void join_event(Source *source, uint16_t bits) noexcept nogil:
    """The stack's side has something, or room."""
    carry(<Join *>source.user)


cdef void host_event(const HostEvent *event) noexcept nogil:
    cdef Join *j = <Join *>event.who
    if event.bits & HOST_READ:
        j.can_read = 1
    if event.bits & HOST_WRITE:
        j.can_write = 1
    if event.bits & HOST_END:
        j.ending = 1
    if j.c == NULL and j.u == NULL and (not event.bits & (HOST_WRITE | HOST_END) or not begin(j)):
        return
    again(j)


cdef bint relay_turn(void *relay) noexcept nogil:
    cdef Relay *r = <Relay *>relay
    cdef HostEvent events[HOST_EVENTS]
    cdef int i, n = host_poll(r.set, events)
    cdef Join *last
    cdef Join *j
    for i in range(n):
        host_event(&events[i])
    last = r.ready_tail
    while r.ready_head != NULL:
        j = r.ready_head
        unlist(j)
        i = j == last
        carry(j)
        if i:
            break
    return r.ready_head != NULL or n == HOST_EVENTS
