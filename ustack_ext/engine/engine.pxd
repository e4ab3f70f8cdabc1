# One stack: the tables, input, poll, flush. Sans-I/O: time, seed and frames come in; frames go out through an
# interface's transmit.
#
# Protocol for whoever drives an Engine (and holds its lock):
#   engine_enter(e, now)          before anything else: sets the time
#   engine_input(e, iface, buf)   for each frame of a batch, which engine_poll ends
#   any tcp_* / udp_* / net call
# engine_poll(e)                expires timers, runs the loopback queue, sends what became due; call after a batch,
# after socket calls, and when a deadline comes
#   event_pop(&e.core.events)     until NULL: deliver
#   engine_next(e)                exact earliest deadline in ns, UINT64_MAX for none; engine_wake(e): that or, cheaper,
#                                 a moment before it, for a driver that sleeps and may wake early
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from ustack_ext.base.buf cimport Buf, BufQueue, Owner
from ustack_ext.base.core cimport Core
from ustack_ext.base.iov cimport Offload
from ustack_ext.engine.gro cimport Gro
from ustack_ext.net.state cimport Iface, Net
from ustack_ext.tcp.ahead cimport tcp_many
from ustack_ext.tcp.tcb cimport Tcp
from ustack_ext.udp.udp cimport Udp

cdef struct Engine:
    Core core
    Net net
    Udp udp
    Tcp tcp
    Iface *lo
    BufQueue loopback          # frames to ourselves, taken up by engine_poll
    uint32_t loopback_limit
    Gro gro                    # what of this batch is being joined

# seed: 32 bytes of secret; budget: bytes of packet memory at most. NULL without memory.
cdef Engine *engine_new(const uint8_t *seed, uint64_t budget, uint64_t now) noexcept nogil
# Returns those whose memory it sent from, in a list: they are to be told.
cdef Owner *engine_free(Engine *e) noexcept nogil
# optional, before engine_input, for what is about to be given to it from one interface: hides the time memory takes
# (unless n is 1 or engine_many says that it's no use)
cdef void engine_ahead(Engine *e, const Iface *iface, Buf **bufs, int n) noexcept nogil
# takes the reference to buf; off may be NULL
cdef void engine_input(Engine *e, Iface *iface, Buf *buf, const Offload *off) noexcept nogil
# The batch is over: what engine_input held back of it is taken in. engine_poll begins with it.
cdef void engine_input_end(Engine *e) noexcept nogil
cdef void engine_poll(Engine *e) noexcept nogil
cdef uint64_t engine_next(Engine *e) noexcept nogil
cdef uint64_t engine_wake(Engine *e) noexcept nogil


cdef inline bint engine_many(const Engine *e) noexcept nogil:
    return tcp_many(&e.tcp)


cdef inline void engine_enter(Engine *e, uint64_t now) noexcept nogil:
    if now > e.core.now:
        e.core.now = now
