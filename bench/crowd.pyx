"""One engine and a crowd of clients that are hardly there: what many connections cost it, in memory and per packet.

A client is eight bytes here, the sequence numbers of its two directions; its packets are written when they are needed,
and what the engine sends is read where the engine lies it down. So nearly all that is held and done is the engine's.
Connections wait in the accept queue of one listener, or are taken over one by one by the application, which then echoes
what they send. Time is virtual: it advances a fixed step a batch.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ustack_ext.base.buf cimport BUF_HEADROOM, Buf, buf_alloc
from ustack_ext.base.chunk cimport huge_pages
from ustack_ext.base.event cimport Source, event_pop
from ustack_ext.base.iov cimport OFF_CSUM_VERIFIED, OFF_CSUM_WANTED, IoVec, Offload
from ustack_ext.base.table cimport table_buckets
from ustack_ext.engine.engine cimport (
    Engine, engine_ahead, engine_enter, engine_free, engine_input, engine_new, engine_poll,
)
from ustack_ext.net.net cimport iface_add, iface_add_addr
from ustack_ext.net.state cimport MEDIUM_IP, Iface
from ustack_ext.tcp.tcb cimport SynReq, Tcb, TimeWait
from ustack_ext.tcp.tcp cimport (
    Bind, Listener, TcpConf, tcp_accept, tcp_bind, tcp_conf_default, tcp_listen, tcp_recv, tcp_send,
)
from ustack_ext.wire.addr cimport V4_BITS, Addr, addr_v4
from ustack_ext.wire.bytes cimport get_be16, get_be32, put_be16, put_be32

cdef extern from * nogil:
    """
    #if defined(__has_include)
    #if __has_include(<valgrind/callgrind.h>)
    #include <valgrind/callgrind.h>
    #endif
    #endif
    #ifndef CALLGRIND_START_INSTRUMENTATION
    #define CALLGRIND_START_INSTRUMENTATION
    #define CALLGRIND_STOP_INSTRUMENTATION
    #endif
    #define BENCH_CALLGRIND(on) \
        do { if (on) { CALLGRIND_START_INSTRUMENTATION; } else { CALLGRIND_STOP_INSTRUMENTATION; } } while (0)
    """
    void BENCH_CALLGRIND(bint on)
    void __builtin_prefetch(const void *) noexcept

cdef enum:
    BUDGET = 64 << 20              # bytes of packet memory
    BATCH = 64                     # packets the engine takes in before it answers, as the drivers do
    FIRST_NOW = 1000000000
    STEP = 100000                  # ns a batch
    PORT = 7001
    ADDRESS = 0x0A000001           # 10.0.0.1, ours, in 10.0.0.0/8
    CLIENTS = 0x0A400000           # 10.64.0.0: theirs, each with PORTS clients
    FLOOD = 0x0A800000             # 10.128.0.0/9: where a flood comes from
    FIRST_PORT = 1024
    PORTS = 60000
    IP_HEADER = 20
    HEADERS = 40                   # of IP and TCP
    MSS = 1460
    FIN = 1
    SYN = 2
    RST = 4
    PSH = 8
    ACK = 16

cdef struct Client:
    uint32_t sent                  # its SND.NXT
    uint32_t got                   # its RCV.NXT

cdef struct Crowd_:
    Engine *e
    Iface *iface
    Listener *listener
    Client *clients
    uint32_t count                 # of connections there may be
    uint32_t open                  # that have been opened
    uint64_t now
    uint64_t packets               # in and out
    uint64_t payload               # bytes that clients received
    uint64_t resets
    uint64_t flooded
    uint64_t random
    Buf *batch[64]
    int waiting
    uint8_t memory[65536]          # the application's


# ---- the clients ----

cdef inline uint32_t initial(uint32_t i) noexcept nogil:
    return i * <uint32_t>2654435761


cdef void packet(Crowd_ *w, uint32_t address, uint16_t port, uint32_t seq, uint32_t ack, uint8_t flags,
                 uint32_t length) noexcept nogil:
    """A segment of a client for the batch. One with SYN carries the usual options."""
    cdef uint32_t header = HEADERS + (12 if flags & SYN else 0)
    cdef Buf *b = buf_alloc(&w.e.core.pool, BUF_HEADROOM + header + length)
    cdef uint8_t *p
    if b == NULL:
        return
    b.off = BUF_HEADROOM
    b.len = header + length
    p = b.data + b.off
    memset(p, 0, header)
    p[0] = 0x45
    put_be16(p + 2, <uint16_t>b.len)
    put_be16(p + 6, 0x4000)
    p[8] = 64
    p[9] = 6
    put_be32(p + 12, address)
    put_be32(p + 16, ADDRESS)
    checksum(p)
    p += IP_HEADER
    put_be16(p, port)
    put_be16(p + 2, PORT)
    put_be32(p + 4, seq)
    put_be32(p + 8, ack)
    p[12] = <uint8_t>((header - IP_HEADER) << 2)
    p[13] = flags
    put_be16(p + 14, 65535)
    if flags & SYN:
        put_be32(p + 20, 0x02040000 | MSS)
        put_be32(p + 24, 0x01030308)               # window scale 8
        put_be32(p + 28, 0x01010402)               # SACK permitted
    w.batch[w.waiting] = b
    w.waiting += 1


cdef void take_in(Crowd_ *w) noexcept nogil:
    """Give the engine the batch, as the drivers do."""
    cdef Offload off
    cdef int i
    memset(&off, 0, sizeof(off))
    off.flags = OFF_CSUM_VERIFIED
    engine_ahead(w.e, w.iface, w.batch, w.waiting)
    for i in range(w.waiting):
        engine_input(w.e, w.iface, w.batch[i], &off)
    w.packets += w.waiting
    w.waiting = 0


cdef void checksum(uint8_t *p) noexcept nogil:
    cdef uint32_t total = 0
    cdef int i
    for i in range(0, IP_HEADER, 2):
        total += get_be16(p + i)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    put_be16(p + 10, <uint16_t>~total)


cdef inline void client_send(Crowd_ *w, uint32_t i, uint8_t flags, uint32_t length) noexcept nogil:
    cdef Client *c = &w.clients[i]
    packet(w, CLIENTS + i // PORTS, <uint16_t>(FIRST_PORT + i % PORTS), c.sent, c.got, flags, length)
    c.sent += length + ((flags & SYN) != 0) + ((flags & FIN) != 0)


cdef int transmit(void *link, const IoVec *iov, int niov, const Offload *off) noexcept nogil:
    """What the engine sends: the client it is for notes it."""
    cdef Crowd_ *w = <Crowd_ *>link
    cdef uint8_t head[HEADERS]
    cdef size_t total = 0, have = 0, part
    cdef uint32_t address, i, length
    cdef int k
    for k in range(niov):
        part = min(iov[k].len, HEADERS - have)
        memcpy(head + have, iov[k].base, part)
        have += part
        total += iov[k].len
    w.packets += 1
    if have < HEADERS or head[9] != 6:
        return 0
    address = get_be32(head + 16)
    if address < CLIENTS or address >= FLOOD:
        return 0
    i = (address - CLIENTS) * PORTS + get_be16(head + 22) - FIRST_PORT
    if i >= w.count:
        return 0
    if head[33] & RST:
        w.resets += 1
        return 0
    length = <uint32_t>(total - IP_HEADER - (head[32] >> 4) * 4)
    w.payload += length
    w.clients[i].got = get_be32(head + 24) + length + ((head[33] & (SYN | FIN)) != 0)
    return 0


# ---- the application ----

cdef inline Tcb *tcb_of(Source *source) noexcept nogil:
    cdef Tcb *c = <Tcb *>source
    return <Tcb *>(<char *>source - (<char *>&c.source - <char *>c))


cdef void echo(Crowd_ *w, Tcb *c) noexcept nogil:
    cdef IoVec iov
    cdef long n
    iov.base = w.memory
    iov.len = sizeof(w.memory)
    n = tcp_recv(&w.e.tcp, c, &iov, 1, False)
    if n > 0:
        iov.len = <size_t>n
        tcp_send(&w.e.tcp, c, &iov, 1, False)


cdef void deliver(Crowd_ *w) noexcept nogil:
    """Let the engine take the batch in and work, and the application answer."""
    cdef Source *told
    take_in(w)
    engine_poll(w.e)
    told = event_pop(&w.e.core.events)
    while told != NULL:
        told.pending = 0
        if told != &w.listener.source:
            echo(w, tcb_of(told))
        told = event_pop(&w.e.core.events)
    engine_poll(w.e)


cdef inline void step(Crowd_ *w, uint64_t ns) noexcept nogil:
    w.now += ns
    engine_enter(w.e, w.now)


# ---- loads ----

cdef void open_some(Crowd_ *w, uint32_t more) noexcept nogil:
    cdef uint32_t first, i, batch
    while more > 0 and w.open < w.count:
        batch = min(min(more, w.count - w.open), <uint32_t>BATCH)
        first = w.open
        step(w, STEP)
        for i in range(first, first + batch):
            w.clients[i].sent = initial(i)
            client_send(w, i, SYN, 0)
        deliver(w)
        for i in range(first, first + batch):
            client_send(w, i, ACK, 0)
        deliver(w)
        w.open += batch
        more -= batch


cdef uint32_t accept_all(Crowd_ *w) noexcept nogil:
    cdef uint32_t n = 0
    while tcp_accept(&w.e.tcp, w.listener, w) != NULL:
        n += 1
    return n


cdef inline uint32_t scattered(uint64_t k, uint32_t count) noexcept nogil:
    """A permutation of range(count): a step of about the golden section, which is prime to every count here."""
    return <uint32_t>(k * 618033989 % count)


cdef void measured_exchange(Crowd_ *w, uint64_t first, uint64_t amount, uint32_t size) noexcept nogil:
    """A request, its echo and its acknowledgement on one connection after the other, scattered over all."""
    cdef uint64_t k, left = amount
    cdef uint32_t batch
    while left > 0:
        batch = <uint32_t>min(min(left, <uint64_t>w.open), <uint64_t>BATCH)
        step(w, STEP)
        for k in range(first, first + batch):          # a real client's memory is not the engine's concern
            __builtin_prefetch(&w.clients[scattered(k, w.open)])
        for k in range(first, first + batch):
            client_send(w, scattered(k, w.open), ACK | PSH, size)
        deliver(w)
        for k in range(first, first + batch):
            client_send(w, scattered(k, w.open), ACK, 0)
        deliver(w)
        first += batch
        left -= batch


cdef inline uint32_t random(Crowd_ *w) noexcept nogil:
    w.random ^= w.random << 13                     # xorshift64
    w.random ^= w.random >> 7
    w.random ^= w.random << 17
    return <uint32_t>(w.random >> 32)


cdef void stranger(Crowd_ *w) noexcept nogil:
    cdef uint32_t r = random(w)
    packet(w, FLOOD + (r & 0x7FFFFE) + 1, <uint16_t>(FIRST_PORT + random(w) % PORTS), r, 0, SYN, 0)
    w.flooded += 1


cdef void measured_flood(Crowd_ *w, uint64_t first, uint64_t amount, uint32_t size, uint32_t each) noexcept nogil:
    """The exchange again, in batches that also hold `each` SYNs of nobody for each request."""
    cdef uint64_t k, left = amount
    cdef uint32_t batch
    while left > 0:
        batch = <uint32_t>min(left, max(BATCH // (1 + each), <uint64_t>1))
        step(w, STEP)
        for k in range(first, first + batch):
            for _ in range(each):
                stranger(w)
            client_send(w, scattered(k, w.open), ACK | PSH, size)
        deliver(w)
        for k in range(first, first + batch):
            client_send(w, scattered(k, w.open), ACK, 0)
        deliver(w)
        first += batch
        left -= batch


cdef class Crowd:
    """An engine that listens, and `count` clients at most.

    Raises MemoryError.
    """
    cdef Crowd_ *w

    def __cinit__(self, uint32_t count):
        cdef Addr ours = addr_v4(ADDRESS), any_address = addr_v4(0)
        cdef uint8_t seed[32]
        cdef TcpConf conf
        cdef Bind *bound
        cdef Crowd_ *w = <Crowd_ *>calloc(1, sizeof(Crowd_))
        self.w = w
        if w == NULL:
            raise MemoryError
        memset(seed, 1, sizeof(seed))
        w.now = FIRST_NOW
        w.count = count
        w.random = 88172645463325252
        w.clients = <Client *>calloc(count, sizeof(Client))
        if w.clients != NULL:
            huge_pages(w.clients, count * sizeof(Client))
        w.e = engine_new(seed, BUDGET, FIRST_NOW)
        if w.clients == NULL or w.e == NULL:
            raise MemoryError
        w.e.tcp.knobs.somaxconn = count
        w.e.tcp.knobs.max_syn_backlog = 1024
        w.iface = iface_add(&w.e.net, b"crowd0", MEDIUM_IP, NULL, 1500, OFF_CSUM_WANTED, transmit, w)
        tcp_conf_default(&w.e.tcp, &conf)
        if (w.iface == NULL or iface_add_addr(&w.e.net, w.iface, &ours, V4_BITS + 8, False) != 0
                or tcp_bind(&w.e.tcp, &any_address, PORT, False, &bound) != 0
                or tcp_listen(&w.e.tcp, bound, count, &conf, w, &w.listener) != 0):
            raise MemoryError

    def __dealloc__(self):
        if self.w == NULL:
            return
        if self.w.e != NULL:
            engine_free(self.w.e)
        free(self.w.clients)
        free(self.w)

    def touch(self):
        """Have the clients' own memory given by the system: what grows from now on is the engine's."""
        memset(self.w.clients, 1, self.w.count * sizeof(Client))

    def open(self, uint32_t more):
        """Handshakes of so many more clients, a batch at a time. Returns how many connections the engine has then."""
        with nogil:
            open_some(self.w, more)
        return self.w.e.tcp.n_established

    def accept(self):
        """The application takes over all that wait. Returns how many."""
        with nogil:
            n = accept_all(self.w)
        return n

    def exchange(self, uint64_t first, uint64_t amount, uint32_t size=64):
        """`amount` requests of `size` bytes, echoed, one a connection, from the `first` in a scattered order of all.

        Returns packets, in and out. Raises RuntimeError where an echo is missing.
        """
        cdef uint64_t packets = self.w.packets, payload = self.w.payload
        with nogil:
            measured_exchange(self.w, first, amount, size)
        if self.w.payload - payload != amount * size:
            raise RuntimeError(f"{self.w.payload - payload} bytes came back of {amount * size}")
        return self.w.packets - packets

    def flood(self, uint64_t first, uint64_t amount, uint32_t each, uint32_t size=64):
        """exchange() in a flood of SYNs from random addresses, `each` (at most 63) for each request.

        Returns (SYNs, answers to them, entries in the SYN queue). Raises RuntimeError where an echo is missing.
        """
        cdef Crowd_ *w = self.w
        cdef uint64_t flooded = w.flooded, payload = w.payload, packets = w.packets
        with nogil:
            measured_flood(w, first, amount, size, min(each, <uint32_t>BATCH - 1))
        if w.payload - payload != amount * size:
            raise RuntimeError(f"{w.payload - payload} bytes came back of {amount * size}")
        flooded = w.flooded - flooded
        return flooded, w.packets - packets - flooded - 3 * amount, w.listener.synq

    def strangers(self, uint32_t more):
        """So many SYNs from random addresses, in batches of their own. Returns entries in the SYN queue."""
        with nogil:
            for _ in range(more):
                stranger(self.w)
                if self.w.waiting == BATCH:
                    step(self.w, STEP)
                    deliver(self.w)
            deliver(self.w)
        return self.w.listener.synq

    @property
    def held(self):
        """Bytes the engine holds for connections: objects and the table's buckets; packets' are in `pool`."""
        return (self.w.e.tcp.tcbs.held + self.w.e.tcp.synreqs.held + self.w.e.tcp.timewaits.held
                + self.w.e.tcp.segs.held + self.w.e.tcp.reasms.held + 8 * <uint64_t>table_buckets(&self.w.e.tcp.conns))

    @property
    def pool(self):
        """Bytes of packet memory in use, and held."""
        return self.w.e.core.pool.used, self.w.e.core.pool.held

    def rest(self):
        """Lets ten seconds pass in which nothing comes: timers that were put off look again, and go."""
        with nogil:
            step(self.w, <uint64_t>10000000000)
            engine_poll(self.w.e)

    @property
    def timers(self):
        """Timers armed, and nodes that the wheel made for crowded slots."""
        return self.w.e.core.wheel.armed, self.w.e.core.wheel.nodes


def sizes():
    """Bytes of a connection, of an entry of the SYN queue, of a TIME-WAIT."""
    return {"tcb": sizeof(Tcb), "synreq": sizeof(SynReq), "timewait": sizeof(TimeWait)}


def instrument(bint on):
    """Under callgrind: begin or end counting instructions. Elsewhere nothing."""
    BENCH_CALLGRIND(on)
