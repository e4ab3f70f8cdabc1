"""Services that are answered inside the data plane, right where the engine reports an event: no thread is woken, the
GIL is not needed, nothing is allocated for a request.

Responsible for: accepting, and what each kind of service does with a connection: echo (RFC 862), discard (RFC 863),
chargen (RFC 864), and a fixed answer to each request. Not for: what Python sees of it (service/handle), when events are
handed out (driver/), TCP itself (tcp/).

A connection costs nothing beside its Tcb. What has not been answered stays unread in its receive queue, so a peer that
doesn't read closes its own window: nothing is taken in for it before there is room for the answer. What little must be
remembered is in the connection's Source: `native` says whether an answer is on its way, `mark` how far the work is.
"""
from libc.errno cimport EAGAIN
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcmp, memcpy
from ustack_ext.base.buf cimport Buf, Owner, owner_unref
from ustack_ext.base.entry cimport ENTRY_LISTENER, ENTRY_TCB, Entry
from ustack_ext.base.event cimport Source
from ustack_ext.base.iov cimport IoVec
from ustack_ext.base.table cimport table_bucket, table_buckets
from ustack_ext.engine.engine cimport Engine
from ustack_ext.tcp.tcb cimport REUSE_ADDR, TF_DEAD, TF_FIN_RCVD, Bind, Tcb, Tcp, TcpConf
from ustack_ext.tcp.tcp cimport (
    tcp_abort, tcp_accept, tcp_bind, tcp_close, tcp_close_listener, tcp_conf_default, tcp_consume, tcp_listen, tcp_send,
    tcp_send_owned, tcp_unbind,
)
from ustack_ext.wire.addr cimport Addr

cdef enum:                         # Source.native of a connection
    WAITING = 1                    # mark, answer: bytes of the unread request looked at; discard: 4 GiB taken so far
    ANSWERING = 2                  # mark: bytes of the answer handed to TCP

cdef enum:
    VECTOR = 16                    # blocks of the receive queue echoed at a time
    COUNT_BYTES = 8                # of discard's report
    LINE = 72                      # RFC 864: characters in a line, then CR LF
    FIRST = 32                     # ... of the ring of printable characters
    RING = 95


cdef inline Tcb *tcb_of(Source *source) noexcept nogil:
    cdef Tcb *c = <Tcb *>source
    return <Tcb *>(<char *>source - (<char *>&c.source - <char *>c))


# -- a service

cdef void pattern_done(Owner *o) noexcept:
    free(o)


cdef Pattern *pattern_new() noexcept nogil:
    """RFC 864: lines of the ring of printable characters, each beginning one further than the last. NULL: no memory."""
    cdef uint32_t i, line, column
    cdef Pattern *pattern = <Pattern *>calloc(1, sizeof(Pattern))
    cdef uint8_t *to
    if pattern == NULL:
        return NULL
    pattern.owner.refs = 1
    pattern.owner.done = pattern_done
    to = pattern.data
    for i in range(PATTERN):
        line = i // (LINE + 2)
        column = i % (LINE + 2)
        if column < LINE:
            to[i] = <uint8_t>(FIRST + (line + column) % RING)
        else:
            to[i] = b"\r" if column == LINE else b"\n"
    return pattern


cdef Service *service_new(Engine *e, int kind, const uint8_t *answer, uint32_t answer_length, const uint8_t *end,
                          uint32_t end_length) noexcept nogil:
    cdef Service *s = <Service *>calloc(1, sizeof(Service))
    if s == NULL:
        return NULL
    s.head.event = service_event
    s.engine = e
    s.kind = <uint8_t>kind
    s.answer_length = min(answer_length, <uint32_t>ANSWER_MAX)
    s.end_length = min(end_length, <uint32_t>END_MAX)
    if kind == SERVICE_CHARGEN:
        s.pattern = pattern_new()
    else:
        s.answer = <uint8_t *>malloc(s.answer_length + 1)
    if s.pattern == NULL and s.answer == NULL:
        free(s)
        return NULL
    if s.answer != NULL:
        memcpy(s.answer, answer, s.answer_length)
    memcpy(s.end, end, s.end_length)
    return s


cdef int service_listen(Service *s, const Addr *a, uint16_t port, uint32_t backlog) noexcept nogil:
    cdef Tcp *t = &s.engine.tcp
    cdef Bind *b = NULL
    cdef TcpConf conf
    cdef int rc = tcp_bind(t, a, port, REUSE_ADDR, &b)
    if rc != 0:
        return rc
    tcp_conf_default(t, &conf)
    conf.nodelay = s.kind != SERVICE_CHARGEN
    conf.reuseaddr = True
    rc = tcp_listen(t, b, backlog, &conf, s, &s.listener)
    if rc != 0:
        tcp_unbind(t, b)
        return rc
    s.listener.source.native = WAITING
    return 0


cdef void release(Service *s) noexcept nogil:
    if s.pattern != NULL:          # what is still queued points into it
        owner_unref(&s.engine.core.pool, &s.pattern.owner)
    free(s.answer)
    free(s)


cdef void service_close(Service *s) noexcept nogil:
    cdef Tcp *t = &s.engine.tcp
    cdef Entry *e
    cdef Entry *following
    cdef Tcb *c
    cdef uint32_t i
    if s.listener != NULL:
        tcp_close_listener(t, s.listener)
        s.listener = NULL
    for i in range(table_buckets(&t.conns)):
        e = table_bucket(&t.conns, i)[0]
        while e != NULL:
            following = e.hnext
            c = <Tcb *>e
            if e.kind == ENTRY_TCB and c.source.native and c.source.user == <void *>s:
                cut(s, c)
            e = following
    s.closed = 1
    if s.open == 0:                # else the last one is dead already, and reported in this round
        release(s)


cdef void service_forget(Service *s) noexcept nogil:
    cdef Tcp *t = &s.engine.tcp
    cdef Entry *e
    cdef Tcb *c
    cdef uint32_t i
    if s.listener != NULL:
        s.listener.source.user = NULL
    for i in range(table_buckets(&t.conns)):
        e = table_bucket(&t.conns, i)[0]
        while e != NULL:
            c = <Tcb *>e
            if e.kind == ENTRY_TCB and c.source.native and c.source.user == <void *>s:
                c.source.user = NULL
            e = e.hnext
    release(s)


# -- connections

cdef void let_go(Service *s, Tcb *c) noexcept nogil:
    """What was sent still arrives; what was not read is taken, so that it does."""
    if c.rcvq_bytes > 0:
        s.counters.bytes_in += c.rcvq_bytes
        tcp_consume(&s.engine.tcp, c, c.rcvq_bytes)
    tcp_close(&s.engine.tcp, c)
    s.open -= 1
    if s.closed and s.open == 0:
        release(s)


cdef void cut(Service *s, Tcb *c) noexcept nogil:
    """Reset it."""
    tcp_abort(&s.engine.tcp, c)
    s.open -= 1
    if s.closed and s.open == 0:
        release(s)


cdef long hand_over(Service *s, Tcb *c, const IoVec *iov, int niov) noexcept nogil:
    """Bytes TCP took, 0 for none now, -errno: the connection is over and was let go."""
    return handed_over(s, c, tcp_send(&s.engine.tcp, c, iov, niov, False))


cdef long handed_over(Service *s, Tcb *c, long n) noexcept nogil:
    if n > 0:
        s.counters.bytes_out += n
        return n
    if n == 0 or n == -EAGAIN:
        return 0
    cut(s, c)
    return n


cdef void take(Service *s, Tcb *c, uint32_t n) noexcept nogil:
    s.counters.bytes_in += n
    tcp_consume(&s.engine.tcp, c, n)


cdef void serve(Service *s, Tcb *c) noexcept nogil:
    if c.flags & TF_DEAD:
        let_go(s, c)
    elif s.kind == SERVICE_ANSWER:
        answer(s, c)
    elif s.kind == SERVICE_ECHO:
        echo(s, c)
    elif s.kind == SERVICE_DISCARD:
        discard(s, c)
    else:
        chargen(s, c)


cdef void accept_all(Service *s) noexcept nogil:
    cdef Tcb *c = tcp_accept(&s.engine.tcp, s.listener, s)
    while c != NULL:
        c.source.native = WAITING
        s.open += 1
        s.counters.connections += 1
        serve(s, c)                # there may be data already: its event was nobody's
        c = tcp_accept(&s.engine.tcp, s.listener, s)


cdef void service_event(Source *source, uint16_t bits) noexcept nogil:
    cdef Service *s = <Service *>source.user
    if s == NULL:
        return
    if source.kind == ENTRY_LISTENER:
        accept_all(s)
    else:
        serve(s, tcb_of(source))


# -- echo, discard, chargen

cdef void echo(Service *s, Tcb *c) noexcept nogil:
    cdef IoVec iov[VECTOR]
    cdef Buf *b
    cdef long n
    cdef int count
    while c.rcvq_bytes > 0:
        count = 0
        b = c.rcvq_head
        while b != NULL and count < VECTOR:
            iov[count].base = b.data + b.off
            iov[count].len = b.len
            count += 1
            b = b.next
        n = hand_over(s, c, iov, count)
        if n <= 0:
            return
        take(s, c, <uint32_t>n)
    if c.flags & TF_FIN_RCVD:
        let_go(s, c)


cdef void discard(Service *s, Tcb *c) noexcept nogil:
    cdef uint32_t total = c.rcv_nxt - c.irs - 1              # bytes that came, modulo 4 GiB
    cdef uint8_t report[COUNT_BYTES]
    cdef uint64_t all_of_it
    cdef IoVec iov
    cdef int i
    if c.flags & TF_FIN_RCVD:
        total -= 1
    if c.rcvq_bytes > 0:
        if total < c.rcvq_bytes:
            c.source.mark += 1
        take(s, c, c.rcvq_bytes)
    if not c.flags & TF_FIN_RCVD:
        return
    if s.report:
        all_of_it = (<uint64_t>c.source.mark << 32) + total
        for i in range(COUNT_BYTES):
            report[i] = <uint8_t>(all_of_it >> (8 * (COUNT_BYTES - 1 - i)))
        iov.base = report
        iov.len = COUNT_BYTES
        if hand_over(s, c, &iov, 1) <= 0:
            return                 # no memory: TCP tells when to try again
        s.counters.requests += 1
    let_go(s, c)


cdef void chargen(Service *s, Tcb *c) noexcept nogil:
    """Nothing is copied: the send queue points to the pattern, which always ends where it begins anew."""
    cdef IoVec iov
    if c.rcvq_bytes > 0:
        take(s, c, c.rcvq_bytes)
    if c.flags & TF_FIN_RCVD:
        let_go(s, c)
        return
    iov.base = s.pattern.data
    iov.len = PATTERN
    while handed_over(s, c, tcp_send_owned(&s.engine.tcp, c, &iov, &s.pattern.owner, False, False)) > 0:
        pass


# -- answer

cdef void answer(Service *s, Tcb *c) noexcept nogil:
    cdef int found
    while True:
        if c.source.native == ANSWERING:
            if not send_answer(s, c):
                return
            if s.closes:
                let_go(s, c)
                return
        found = take_request(s, c)
        if found < 0:
            return
        if found == 0:
            break
        c.source.native = ANSWERING
        c.source.mark = 0
    if c.flags & TF_FIN_RCVD:
        let_go(s, c)


cdef bint send_answer(Service *s, Tcb *c) noexcept nogil:
    """Whether all of it is on its way. Otherwise there will be room later, or the connection is over."""
    cdef IoVec iov
    cdef long n
    iov.base = s.answer + c.source.mark
    iov.len = s.answer_length - c.source.mark
    n = hand_over(s, c, &iov, 1)
    if n < 0:
        return False
    if <size_t>n < iov.len:
        c.source.mark += <uint16_t>n
        return False
    c.source.native = WAITING
    c.source.mark = 0
    s.counters.requests += 1
    return True


cdef int take_request(Service *s, Tcb *c) noexcept nogil:
    """1: one was there and is taken, 0: not all of it has come, -1: it is too long, and the connection was reset."""
    cdef uint32_t n = c.rcvq_bytes
    if n == 0:
        return 0
    if s.end_length > 0:
        n = request_length(s, c)
        if n == 0:
            if c.rcvq_bytes < REQUEST_MAX:
                c.source.mark = <uint16_t>c.rcvq_bytes
                return 0
            s.counters.oversized += 1
            cut(s, c)
            return -1
    take(s, c, n)
    return 1


cdef uint32_t request_length(Service *s, Tcb *c) noexcept nogil:
    """Bytes up to and with the first end of a request in the receive queue, of REQUEST_MAX at most; 0: there is none.

    What was looked at before is not looked at again, so that a request in many small pieces costs no more than one.
    """
    cdef uint8_t room[REQUEST_MAX]
    cdef uint32_t limit = min(c.rcvq_bytes, <uint32_t>REQUEST_MAX)
    cdef uint32_t from_here = c.source.mark - min(c.source.mark, <uint16_t>(s.end_length - 1))
    cdef const uint8_t *at = room
    cdef const uint8_t *found
    if c.rcvq_head.next == NULL:
        at = c.rcvq_head.data + c.rcvq_head.off + from_here
    else:
        gather(c.rcvq_head, from_here, limit, room)
    found = find(at, limit - from_here, s.end, s.end_length)
    return 0 if found == NULL else from_here + <uint32_t>(found - at) + s.end_length


cdef void gather(const Buf *b, uint32_t start, uint32_t stop, uint8_t *to) noexcept nogil:
    """Bytes start to stop of a queue, into one piece."""
    cdef uint32_t n
    while b != NULL and start < stop:
        if start >= b.len:
            start -= b.len
            stop -= b.len
        else:
            n = min(b.len, stop) - start
            memcpy(to, b.data + b.off + start, n)
            to += n
            start = 0
            stop -= min(b.len, stop)
        b = b.next


cdef const uint8_t *find(const uint8_t *at, uint32_t n, const uint8_t *what, uint32_t length) noexcept nogil:
    cdef const uint8_t *last
    if n < length:
        return NULL
    last = at + (n - length)
    while at <= last:
        at = <const uint8_t *>memchr(at, what[0], last - at + 1)
        if at == NULL or memcmp(at, what, length) == 0:
            return at
        at += 1
    return NULL
