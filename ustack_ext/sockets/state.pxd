# What the socket layer keeps for each open socket beside the engine's own struct: who waits on it, what it has in the
# engine, and the descriptor that select and epoll see; and what one attempt of a socket call is made of.
# Everything here is read and written with the engine's lock held.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from ustack_ext.base.buf cimport Owner
from ustack_ext.base.iov cimport IoVec
from ustack_ext.driver.driver cimport Waiter
from ustack_ext.tcp.reassembly cimport Lent
from ustack_ext.tcp.tcb cimport Bind, TcpConf
from ustack_ext.udp.udp cimport UdpMeta
from ustack_ext.wire.addr cimport Addr, addr_any6, addr_none, addr_v4

cdef enum SockKind:                # what SockState.obj is
    SK_NONE                        # a TCP socket before connect and listen: a Draft; a closed one: NULL
    SK_TCB
    SK_LISTENER
    SK_UDP                         # a UDP or ping socket: UdpSock

cdef enum SockClosed:
    OPEN
    CLOSED_BY_USER                 # calls end with EBADF
    CLOSED_BY_STACK                # the stack was closed under it: ECONNABORTED

cdef enum SockConnect:             # what connect() has done so far, as Linux's socket.state
    SS_UNCONNECTED
    SS_STOPPED                     # the same, and it was a listener until shutdown(SHUT_RD)
    SS_CONNECTING
    SS_CONNECTED

cdef struct Draft:                 # a TCP socket before there is a Tcb or a Listener to hold this
    TcpConf conf
    Bind *bind                     # a port claimed by bind(), or NULL
    Addr to                        # TCP_FASTOPEN_CONNECT: where the first write connects to, if deferred
    uint16_t port
    uint8_t deferred

cdef struct Interest
cdef struct Hub

cdef struct Watch:                 # who is shown the socket's state beside blocked threads; there once somebody asked
    int fd_user                    # what fileno() returned: one end of an AF_UNIX socketpair, or -1
    int fd_engine                  # the other end
    uint8_t readable               # the state the pair shows now
    uint8_t writable
    uint8_t hangup
    uint8_t urgent
    uint8_t small                  # the user's end has the smallest send buffer
    uint32_t busy_poll             # SO_BUSY_POLL, us
    Interest *interests            # of selectors

cdef struct Interest:              # a socket registered with a ustack.Selector
    Interest *next                 # the socket's others
    Interest *before               # the hub's list of those that may be ready
    Interest *after
    SockState *sock                # NULL: closed since
    void *registration             # the Python object that this lies in
    Hub *hub
    uint16_t want                  # EV_READABLE, EV_WRITABLE, EV_URGENT
    uint8_t listed                 # on the hub's list

cdef enum:                         # SockState.shape: the protocol asked for, and this for SOCK_STREAM
    SHAPE_STREAM = 0x80
    SHAPE_V6 = 0x40                # ... and for AF_INET6
    SHAPE_CODE = 0x3F              # the protocol, unless it is one of these
    SHAPE_RAW = 0x3F               # SOCK_RAW: the protocol is in `connect`
    SHAPE_PACKET = 0x3E            # AF_PACKET, SOCK_RAW
    SHAPE_COOKED = 0x3D            # AF_PACKET, SOCK_DGRAM
    SHAPE_LITE = 0x3C              # IPPROTO_UDPLITE, whose number is larger

# Source.user points here. Part of the Python object, so part of what every idle connection costs: 48 bytes.
cdef struct SockState:
    SockState *prev                # the stack's list of open sockets
    SockState *next
    Waiter *waiters                # threads blocked on it
    void *obj                      # what `kind` says
    Watch *watch                   # or NULL
    uint8_t kind                   # SockKind
    uint8_t closed                 # SockClosed
    uint8_t connect                # SockConnect; of a raw socket, its protocol
    uint8_t cmsg                   # CMSG_* a datagram's receiver wants
    # the Python object's own, under the GIL
    uint8_t shape
    uint8_t done                   # close() was called
    uint16_t io_refs               # files that makefile() made and nobody closed

cdef struct Hub:                   # one selector
    SockState state                # only its waiters are used: threads in select()
    Interest *first
    Interest *last
    int wakefd                     # what select() waits on where there are kernel descriptors too; -1: there are none
    int *due                       # set when something becomes ready, for deliver() to look; NULL: nobody asks

cdef enum:                         # SockState.cmsg
    CMSG_TTL = 1
    CMSG_TOS = 2
    CMSG_PKTINFO = 4
    SOCK_V6ONLY = 0x80             # IPV6_V6ONLY, in the same byte
    CMSG_ORIGDST = 8
    CMSG_GRO = 16
    CMSG_PATHMTU = 32              # IPv6's: what was received is no datagram, but a path's MTU

cdef enum OpKind:
    OP_RECV
    OP_SEND
    OP_ACCEPT
    OP_CONNECT                     # starts the connection, or looks how it fares
    OP_LINGER                      # close() with SO_LINGER: has all been acknowledged?

cdef enum:                         # results of an attempt beside counts and -errno
    OP_GROW = -0x10000             # more is queued than the vector holds: op.full says how much; nothing was taken
    OP_TIMED_OUT = -0x10001
    OP_RAISED = -0x10002           # a Python exception is set

cdef struct Op:                    # one socket call, tried until it doesn't end with -EAGAIN
    uint8_t kind                   # OpKind
    uint8_t grow                   # answer OP_GROW rather than give less than is there
    uint8_t has_to                 # `to` and `port` are given
    uint8_t has_ttl                # a datagram's own TTL and TOS (sendmsg's ancillary data)
    uint8_t ttl
    uint8_t has_tos
    uint8_t tos
    uint8_t started                # OP_CONNECT, OP_SEND: this call sent the SYN
    uint8_t waits                  # the call may wait: SO_RCVLOWAT counts
    uint8_t at_mark                # OP_RECV: it ended at the mark of urgent data
    uint8_t dont_frag              # OP_SEND: IPV6_DONTFRAG, as UdpVia has it
    uint16_t wants                 # OP_RECV: CMSG_* of IPv4, and eight bits higher those of IPv6
    uint16_t port
    uint16_t want                  # EV_* worth another attempt
    uint16_t gso_size              # a datagram's own UDP_SEGMENT, source and interface; zeros: the socket's
    uint32_t ifindex
    Addr source
    int flags                      # MSG_*
    int niov
    const IoVec *iov
    size_t room                    # bytes of the vector
    size_t lowat                   # MSG_PEEK | MSG_WAITALL: as much as must be there
    uint32_t full                  # bytes of the whole datagram, or in the queue
    Addr to                        # of a packet socket: lo is the link address, hi its length in bytes
    UdpMeta meta
    Owner *owner                   # OP_SEND: whose memory `iov` is; it isn't copied
    uint8_t bounded                # ... no more of it than the send buffer has room for
    Lent *lent                     # OP_RECV: nothing is copied; the pieces, at most `niov`, `room` bytes of them
    int nlent
    void *tcb                      # ... and the connection that lent them
    SockState *accepted            # OP_ACCEPT: the new socket
    SockState **sockets            # OP_ACCEPT: the stack's list that it joins


cdef inline Addr sock_wildcard(const SockState *s) noexcept nogil:
    """What the socket is bound to when no address is given."""
    if not s.shape & SHAPE_V6:
        return addr_v4(0)
    return addr_any6() if s.cmsg & SOCK_V6ONLY else addr_none()


cdef inline void sock_enlist(SockState **head, SockState *s) noexcept nogil:
    s.prev = NULL
    s.next = head[0]
    if s.next != NULL:
        s.next.prev = s
    head[0] = s
    s.closed = OPEN


cdef inline void sock_delist(SockState **head, SockState *s) noexcept nogil:
    if s.prev != NULL:
        s.prev.next = s.next
    else:
        head[0] = s.next
    if s.next != NULL:
        s.next.prev = s.prev
    s.prev = NULL
    s.next = NULL
