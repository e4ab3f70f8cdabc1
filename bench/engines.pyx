"""Two engines in one thread and a wire in memory between them: what the stack itself costs, without a device, a socket
or Python.

A load is a loop of phases (the application writes, the engine sends, the other engine takes the frames in, ...), each a
function of its own, so that a profiler can tell them apart: those of the sender or client begin with a_, the other's
with b_. The wire copies a frame once, into a buffer of the engine it goes to, as a device would.

Time is virtual: it advances a fixed step a round, so that every run executes the same instructions.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ustack_ext.base.buf cimport BUF_HEADROOM, Buf, BufQueue, buf_alloc, bufq_clear, bufq_push
from ustack_ext.base.event cimport Source, event_pop
from ustack_ext.base.iov cimport OFF_CSUM_VERIFIED, OFF_CSUM_WANTED, OFF_GSO_TCP4, IoVec, Offload
from ustack_ext.engine.engine cimport Engine, engine_enter, engine_free, engine_input, engine_new, engine_poll
from ustack_ext.net.net cimport iface_add, iface_add_addr, net_neigh_set
from ustack_ext.net.state cimport MEDIUM_ETHERNET, Iface
from ustack_ext.tcp.tcp cimport (
    Bind, Listener, Tcb, TcpConf, tcp_accept, tcp_bind, tcp_close, tcp_conf_default, tcp_connect, tcp_listen, tcp_recv,
    tcp_send,
)
from ustack_ext.wire.addr cimport V4_BITS, Addr, addr_v4

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

cdef enum:
    BUDGET = 64 << 20              # bytes of packet memory, each engine
    BATCH = 64                     # frames an engine takes in before it answers, as the drivers do
    FIRST_NOW = 1000000000
    BULK_STEP = 20000              # ns a round
    PING_STEP = 10000
    CONNECTION_STEP = 5000000      # ns from one connection to the next: TIME-WAITs end at the rate at which they begin
    ROUNDS_MOST = 1000             # of phases in which nothing may happen, before a load gives up
    PORT = 7001
    A_ADDRESS = 0x0A090001         # 10.9.0.1
    B_ADDRESS = 0x0A090002

cdef struct Side:
    Engine *e
    Iface *iface
    Side *peer
    BufQueue arriving              # frames that wait for this engine: its own buffers, each begins with an Offload
    Listener *listener
    Tcb *tcb
    uint8_t *memory                # the application's
    uint32_t size

cdef struct Two:
    Side a
    Side b
    uint64_t now


# ---- the wire ----

cdef inline int transmit(void *link, const IoVec *iov, int niov, const Offload *off) noexcept nogil:
    """Copies the frame to the other engine's queue."""
    cdef Side *to = (<Side *>link).peer
    cdef size_t n = BUF_HEADROOM
    cdef Offload *its
    cdef Buf *b
    cdef int i
    for i in range(niov):
        n += iov[i].len
    b = buf_alloc(&to.e.core.pool, <uint32_t>n)
    if b == NULL:
        return -1
    its = <Offload *>b.data
    its[0] = off[0]
    # What never was on a real wire needs no verification.
    its.flags = (off.flags & OFF_GSO_TCP4) | (OFF_CSUM_VERIFIED if off.flags & OFF_CSUM_WANTED else 0)
    b.off = BUF_HEADROOM
    n = BUF_HEADROOM
    for i in range(niov):
        memcpy(b.data + n, iov[i].base, iov[i].len)
        n += iov[i].len
    b.len = <uint32_t>(n - BUF_HEADROOM)
    bufq_push(&to.arriving, b)
    return 0


cdef int a_transmit(void *link, const IoVec *iov, int niov, const Offload *off) noexcept nogil:
    return transmit(link, iov, niov, off)


cdef int b_transmit(void *link, const IoVec *iov, int niov, const Offload *off) noexcept nogil:
    return transmit(link, iov, niov, off)


# ---- phases ----

cdef inline void take_in(Side *s) noexcept nogil:
    cdef int left = BATCH
    cdef Buf *b
    while left > 0 and s.arriving.count > 0:
        b = s.arriving.head                            # the queue is the wire's: it is not to be counted
        s.arriving.head = b.next
        s.arriving.count -= 1
        if s.arriving.count == 0:
            s.arriving.tail = NULL
        engine_input(s.e, s.iface, b, <const Offload *>b.data)
        left -= 1


cdef inline void poll(Side *s) noexcept nogil:
    cdef Source *told
    engine_poll(s.e)
    told = event_pop(&s.e.core.events)
    while told != NULL:
        told.pending = 0
        told = event_pop(&s.e.core.events)


cdef inline long write(Side *s, uint32_t n) noexcept nogil:
    cdef IoVec iov
    iov.base = s.memory
    iov.len = n
    return tcp_send(&s.e.tcp, s.tcb, &iov, 1, False)


cdef inline uint64_t read(Side *s) noexcept nogil:
    """All that is there."""
    cdef IoVec iov
    cdef uint64_t total = 0
    cdef long got
    iov.base = s.memory
    iov.len = s.size
    while True:
        got = tcp_recv(&s.e.tcp, s.tcb, &iov, 1, False)
        if got <= 0:
            return total
        total += <uint64_t>got


cdef long a_write(Two *two, uint32_t n) noexcept nogil:
    return write(&two.a, n)


cdef uint64_t a_read(Two *two) noexcept nogil:
    return read(&two.a)


cdef void a_poll(Two *two) noexcept nogil:
    poll(&two.a)


cdef void a_input(Two *two) noexcept nogil:
    take_in(&two.a)


cdef long b_write(Two *two, uint32_t n) noexcept nogil:
    return write(&two.b, n)


cdef uint64_t b_read(Two *two) noexcept nogil:
    return read(&two.b)


cdef void b_poll(Two *two) noexcept nogil:
    poll(&two.b)


cdef void b_input(Two *two) noexcept nogil:
    take_in(&two.b)


cdef inline void step(Two *two, uint64_t ns) noexcept nogil:
    two.now += ns
    engine_enter(two.a.e, two.now)
    engine_enter(two.b.e, two.now)


# ---- loads: return what was done ----

cdef uint64_t measured_bulk(Two *two, uint64_t amount) noexcept nogil:
    """A sends, B reads all of it: bytes."""
    cdef uint64_t total = 0, sent = 0, got
    cdef long taken
    cdef int idle = 0
    while (sent < amount or total < sent) and idle < ROUNDS_MOST:
        step(two, BULK_STEP)
        if sent < amount:
            taken = a_write(two, <uint32_t>min(amount - sent, <uint64_t>two.a.size))
            sent += <uint64_t>taken if taken > 0 else 0
        a_poll(two)
        b_input(two)
        b_poll(two)
        got = b_read(two)
        b_poll(two)
        a_input(two)
        a_poll(two)
        total += got
        idle = 0 if got else idle + 1
    return total


cdef uint64_t measured_ping(Two *two, uint64_t amount, uint32_t size) noexcept nogil:
    """Round trips."""
    cdef uint64_t done = 0, got
    while done < amount:
        step(two, PING_STEP)
        a_write(two, size)
        a_poll(two)
        b_input(two)
        got = b_read(two)
        b_write(two, <uint32_t>got)
        b_poll(two)
        step(two, PING_STEP)
        a_input(two)
        if a_read(two) != size or got != size:
            break
        a_poll(two)
        done += 1
    return done


cdef void turns(Two *two) noexcept nogil:
    """Until both are silent."""
    while True:
        a_poll(two)
        b_input(two)
        b_poll(two)
        a_input(two)
        if two.a.arriving.count == 0 and two.b.arriving.count == 0 and not two.a.e.tcp.dirty_head:
            return


cdef bint open_connection(Two *two) noexcept nogil:
    cdef Addr to = addr_v4(B_ADDRESS)
    cdef TcpConf conf
    tcp_conf_default(&two.a.e.tcp, &conf)
    conf.nodelay = True
    if tcp_connect(&two.a.e.tcp, NULL, &to, PORT, &conf, two, NULL, 0, NULL, &two.a.tcb) != 0:
        return False
    a_poll(two)
    b_input(two)
    b_poll(two)
    a_input(two)
    a_poll(two)
    b_input(two)
    two.b.tcb = tcp_accept(&two.b.e.tcp, two.b.listener, two)
    return two.b.tcb != NULL


cdef uint64_t measured_connect(Two *two, uint64_t amount) noexcept nogil:
    """Connections of one byte each way; B closes first and keeps the TIME-WAIT."""
    cdef uint64_t done = 0
    while done < amount:
        step(two, CONNECTION_STEP)
        if not open_connection(two):
            break
        a_write(two, 1)
        a_poll(two)
        b_input(two)
        if b_read(two) != 1:
            break
        b_write(two, 1)
        tcp_close(&two.b.e.tcp, two.b.tcb)
        b_poll(two)
        a_input(two)
        if a_read(two) != 1:
            break
        tcp_close(&two.a.e.tcp, two.a.tcb)
        a_poll(two)
        b_input(two)
        b_poll(two)
        a_input(two)
        a_poll(two)
        done += 1
    two.a.tcb = NULL
    two.b.tcb = NULL
    return done


# ---- set-up ----

cdef bint begin(Side *s, Side *peer, uint32_t block) noexcept nogil:
    cdef uint8_t seed[32]
    memset(seed, 1 if s < peer else 2, sizeof(seed))
    s.peer = peer
    s.size = block
    s.memory = <uint8_t *>calloc(1, block)
    s.e = engine_new(seed, BUDGET, FIRST_NOW)
    return s.memory != NULL and s.e != NULL


cdef bint plug(Side *s, uint32_t address, uint32_t peer, uint8_t number, uint32_t mtu, bint offload) noexcept nogil:
    cdef uint8_t mac[6]
    cdef Addr ours = addr_v4(address), theirs = addr_v4(peer)
    memset(mac, 0, sizeof(mac))
    mac[0] = 2
    mac[5] = number
    s.iface = iface_add(&s.e.net, b"wire0", MEDIUM_ETHERNET, mac, mtu, OFF_CSUM_WANTED | OFF_GSO_TCP4 if offload else 0,
                        a_transmit if number == 1 else b_transmit, s)
    if s.iface == NULL or iface_add_addr(&s.e.net, s.iface, &ours, V4_BITS + 24, False) != 0:
        return False
    mac[5] = 3 - number
    return net_neigh_set(&s.e.net, s.iface, &theirs, mac) == 0


cdef bint listen(Side *s) noexcept nogil:
    cdef Addr any_address = addr_v4(0)
    cdef TcpConf conf
    cdef Bind *bound
    tcp_conf_default(&s.e.tcp, &conf)
    conf.nodelay = True
    if tcp_bind(&s.e.tcp, &any_address, PORT, False, &bound) != 0:
        return False
    return tcp_listen(&s.e.tcp, bound, 16, &conf, s, &s.listener) == 0


cdef void end(Side *s) noexcept nogil:
    if s.e != NULL:
        bufq_clear(&s.arriving, &s.e.core.pool)
        engine_free(s.e)
    free(s.memory)


cdef class Pair:
    """Two engines, A and B, on one wire; B listens.

    Parameters: mtu, bytes of IP; offload, whether the wire takes superframes of up to 64 KB and unfinished checksums;
    block, bytes the application writes and reads at a time.
    Raises MemoryError.
    """
    cdef Two two

    def __cinit__(self, *, uint32_t mtu=1500, bint offload=False, uint32_t block=65536):
        cdef Two *two = &self.two
        two.now = FIRST_NOW
        if (not begin(&two.a, &two.b, block) or not begin(&two.b, &two.a, block)
                or not plug(&two.a, A_ADDRESS, B_ADDRESS, 1, mtu, offload)
                or not plug(&two.b, B_ADDRESS, A_ADDRESS, 2, mtu, offload) or not listen(&two.b)):
            raise MemoryError("no memory for two engines")
        turns(two)                                     # what they announce of themselves

    def __dealloc__(self):
        end(&self.two.a)
        end(&self.two.b)

    def _open(self):
        if self.two.a.tcb == NULL:
            step(&self.two, CONNECTION_STEP)
            if not open_connection(&self.two):
                raise RuntimeError("B did not accept")

    def _frames(self):
        return self.two.a.iface.tx_packets, self.two.b.iface.tx_packets

    def bulk(self, uint64_t amount):
        """Send `amount` bytes from A to B. Returns bytes, and the frames that A and B sent."""
        cdef uint64_t done
        self._open()
        before = self._frames()
        with nogil:
            done = measured_bulk(&self.two, amount)
        if done < amount:
            raise RuntimeError("nothing arrives any more")
        sent, answered = (now - was for now, was in zip(self._frames(), before))
        return {"bytes": done, "sent": sent, "answered": answered}

    def ping(self, uint64_t amount, uint32_t size=64):
        """`amount` round trips of `size` bytes. Returns their number, and the frames that A and B sent."""
        cdef uint64_t done
        self._open()
        before = self._frames()
        with nogil:
            done = measured_ping(&self.two, amount, size)
        if done < amount:
            raise RuntimeError("an answer is missing")
        sent, answered = (now - was for now, was in zip(self._frames(), before))
        return {"trips": done, "sent": sent, "answered": answered}

    def connect(self, uint64_t amount):
        """`amount` connections of a byte each way, one after the other. Returns their number, and frames."""
        cdef uint64_t done
        before = self._frames()
        with nogil:
            done = measured_connect(&self.two, amount)
        if done < amount:
            raise RuntimeError("a connection failed")
        sent, answered = (now - was for now, was in zip(self._frames(), before))
        return {"connections": done, "sent": sent, "answered": answered}


def instrument(bint on):
    """Under callgrind: begin or end counting instructions. Elsewhere nothing."""
    BENCH_CALLGRIND(on)
