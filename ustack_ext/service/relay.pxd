# Flows of a stack joined to sockets of the host, inside the data plane. Everything here is used with the engine's lock
# held.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from ustack_ext.base.buf cimport Buf
from ustack_ext.driver.driver cimport Native
from ustack_ext.engine.engine cimport Engine
from ustack_ext.net.foreign cimport FlowId
from ustack_ext.tcp.tcb cimport Tcb
from ustack_ext.udp.udp cimport UdpSock

cdef enum:
    SPARES = 4                     # blocks that host data is read into at once

cdef enum JoinKind:
    JOIN_STREAM
    JOIN_DATAGRAMS
    JOIN_PING                      # of the host's own: it has identifiers and checksums done
    JOIN_RAW_PING                  # a raw socket

cdef enum:
    PINGS_MAX = 512

cdef struct RelayCounters:
    uint64_t flows                 # joined so far
    uint64_t refused               # the host's connect() failed
    uint64_t bytes_in              # from the stack to the host
    uint64_t bytes_out             # from the host to the stack

cdef struct Join:                  # one flow and one socket; Source.user of the flow points here
    Native head
    Relay *relay
    Join *prev
    Join *next
    Join *ready_next
    Join *ready_prev
    Tcb *c                         # a stream; NULL until it is accepted
    UdpSock *u                     # datagrams
    FlowId id
    uint64_t idle                  # ns, of datagrams
    int fd
    uint8_t kind               # JoinKind
    uint16_t ident             # of echo requests through a raw socket
    uint8_t ready                  # on the relay's list: there is more to carry
    uint8_t can_read               # the host's socket has not said EAGAIN since
    uint8_t can_write
    uint8_t ending                 # HOST_END: a short read is not the last
    uint8_t host_done              # the host's side sent its end, and it was passed on
    uint8_t stack_done             # so did the stack's

cdef struct Relay:
    Engine *engine
    int set                        # of the host's sockets
    Join *first
    Join *ready_head
    Join *ready_tail
    uint32_t open
    uint32_t pings                 # ... of them
    Buf *spares[4]
    uint8_t *datagram              # 64 KiB
    RelayCounters counters

cdef Relay *relay_new(Engine *e, int *error) noexcept nogil                # NULL: *error is -errno
cdef void relay_free(Relay *r) noexcept nogil                              # resets every flow
# Joins a request to a socket that is connecting, or connected; the socket is the relay's then. ident: of a raw socket's
# requests. 0, or -errno: -ENOBUFS, there are too many pings.
cdef int relay_join(Relay *r, const FlowId *id, int fd, int kind, uint16_t ident, uint64_t idle) noexcept nogil
cdef bint relay_turn(void *relay) noexcept nogil                           # a host_fn
