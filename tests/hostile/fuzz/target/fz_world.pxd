# What one fuzzing run works on: an engine, its one interface, the sockets a program holds, the last frames it sent.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from ustack_ext.engine.engine cimport Engine
from ustack_ext.net.state cimport Capture, Iface
from ustack_ext.tcp.tcb cimport Listener, Tcb, TcpConf
from ustack_ext.udp.udp cimport UdpSock
from ustack_ext.wire.addr cimport Addr

cdef enum:
    TCBS = 24
    LISTENERS = 4
    UDPS = 8
    CAPTURES = 8
    CAPTURE_MAX = 2048
    SCRATCH = 70000

    US = 0x0A090002            # 10.9.0.2
    PEER = 0x0A090001          # 10.9.0.1
    LISTEN_PORT = 80
    UDP_PORT = 7

cdef struct World:
    Engine *e
    Iface *iface
    int medium
    bint offloads              # the link cuts superframes and fills in checksums, and hands some in
    Tcb *tcbs[24]              # held as a socket holds them: until tcp_close
    Listener *listeners[4]
    UdpSock *udps[8]
    uint8_t captured[8][2048]  # frames sent, cut to CAPTURE_MAX, the latest at (captures - 1) % CAPTURES
    uint32_t captured_len[8]
    uint32_t captures
    uint32_t tx_fail           # every so many-th frame is refused; 0: none
    Capture *capture           # frames are written down; NULL: they are not
    uint8_t *spare             # ... the half of its room that is not in use
    bint batching              # no poll until this is off again
    bint settled               # the engine was polled since the last input
    const char *failed         # the first invariant that did not hold, NULL: none
    const Tcb *looked_at       # the connection being checked when it failed, for the message
    int record                 # the record being carried out
    int failed_state
    uint32_t failed_flags
    uint8_t frame[70000]       # a frame being built
    uint8_t out[70000]         # a frame sent, in one piece
    uint8_t data[70000]        # what applications write, and read into

cdef bint world_open(World *w, int medium, uint8_t config, bint offloads) noexcept nogil      # False: no memory for an engine
cdef bint world_capture(World *w) noexcept nogil                                # False: no memory for it
cdef void world_plug(World *w) noexcept nogil                                  # the interface, its address, its route
cdef void world_unplug(World *w) noexcept nogil
cdef void world_close(World *w) noexcept nogil                                 # closes every socket, lets time pass, frees
cdef void world_drop(World *w) noexcept nogil                                  # frees the engine with everything open
cdef void world_feed(World *w, const uint8_t *frame, uint32_t n, bint at_end) noexcept nogil
cdef void world_poll(World *w) noexcept nogil
cdef void world_fail(World *w, const char *what) noexcept nogil
cdef Tcb *world_tcb(World *w, uint8_t which) noexcept nogil                    # a held one, NULL: none
cdef bint world_hold(World *w, Tcb *c) noexcept nogil                          # False (and closed): no slot
cdef const uint8_t *world_captured(World *w, uint8_t back, uint32_t *n) noexcept nogil   # NULL: none
