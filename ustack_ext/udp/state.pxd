# Every struct of the udp layer; the functions over them are in demux, recv, send and udp.
from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t, uint64_t
from ustack_ext.wire.addr cimport Addr, addr_is_multicast, addr_is_v4
from ustack_ext.base.bpf cimport Bpf
from ustack_ext.base.buf cimport BufQueue
from ustack_ext.base.core cimport Core
from ustack_ext.base.entry cimport ENTRY_UDPLITE, Entry
from ustack_ext.base.event cimport Source
from ustack_ext.base.limiter cimport Limiter
from ustack_ext.base.slab cimport Slab
from ustack_ext.base.table cimport Table
from ustack_ext.net.mib cimport UdpInDatagrams, UdpLiteInDatagrams, UdpMemErrors
from ustack_ext.net.state cimport Dst, Net, TxPkt

cdef enum:
    UDP_BOUND = 1
    UDP_CONNECTED = 2
    UDP_REUSEADDR = 4
    UDP_BROADCAST = 8          # SO_BROADCAST
    UDP_SHUT_RD = 16
    UDP_SHUT_WR = 32
    UDP_IS_PING = 64           # SOCK_DGRAM, IPPROTO_ICMP
    UDP_LADDR_GIVEN = 128      # laddr is the application's choice, not connect's

cdef enum:                     # struct sockaddr_ll's sll_pkttype
    PACKET_HOST = 0
    PACKET_BROADCAST = 1
    PACKET_MULTICAST = 2
    PACKET_OTHERHOST = 3
    PACKET_OUTGOING = 4

cdef enum UdpFamily:           # what a socket that is not bound may speak
    UDP_IPV4
    UDP_IPV6
    UDP_BOTH

# Stored in front of each queued datagram's payload (buf.data[0 : sizeof]); buf.off/len cover the payload only.
cdef struct UdpMeta:
    Addr src
    Addr dst
    uint16_t sport
    uint8_t tos
    uint8_t ttl
    uint16_t ifindex
    uint16_t gro_size          # of a superframe that UDP_GRO let whole: bytes a datagram; else 0

cdef struct UdpSock
cdef struct Member

cdef enum:
    MEMBER_SOURCES = 64        # a membership's, whatever igmp_max_msf says

cdef struct Member:            # a socket's membership of a group on an interface, with its source filter
    Member *next               # the socket's others
    Member *before             # all of the stack's
    Member *after
    Addr group
    uint32_t ifindex
    uint8_t exclude            # filter mode: EXCLUDE the sources, or INCLUDE them only
    uint8_t n_sources
    Addr sources[64]

cdef struct FamilyWay:         # what a socket of both families has for each
    uint32_t group_if          # IP_MULTICAST_IF, IPV6_MULTICAST_IF: an index; 0: by the routes
    uint32_t n_members
    uint8_t group_ttl          # IP_MULTICAST_TTL, IPV6_MULTICAST_HOPS
    uint8_t group_loop         # IP_MULTICAST_LOOP ...
    uint8_t group_all          # IP_MULTICAST_ALL ...
    uint8_t pmtudisc           # IP_MTU_DISCOVER ...

cdef struct UdpMore:           # what few sockets have: there once one of it was asked for
    Member *members
    FamilyWay ways[2]          # IPv4's and IPv6's: see family_of()
    uint32_t bound_if          # SO_BINDTODEVICE; 0: any
    uint32_t frag_size         # IPV6_MTU: bytes of a packet at most; 0: what the path carries
    uint16_t gso_size          # UDP_SEGMENT
    uint16_t send_cover        # UDPLITE_SEND_CSCOV: bytes that the checksum covers; 0: all
    uint16_t recv_cover        # UDPLITE_RECV_CSCOV: the least that a datagram's must
    uint8_t send_covers        # ... and whether that was set
    uint8_t recv_covers
    uint8_t gro                # UDP_GRO
    uint8_t dont_frag          # IPV6_DONTFRAG
    uint8_t wants6             # what the receiver of an IPv6 datagram is told with it (sockets/state's CMSG_*)
    uint8_t no_check           # SO_NO_CHECK: datagrams leave without a checksum
    uint8_t wants_path         # IPV6_RECVPATHMTU
    uint32_t path_mtu          # ... what is to be told, of which destination; 0: nothing
    Addr path_to
    BufQueue errors            # MSG_ERRQUEUE: an UdpError and what was quoted
    uint32_t errors_used       # truesize

cdef struct RawMore:           # what a raw or packet socket has beside
    UdpSock *next              # the stack's others of its kind
    UdpSock *before
    uint32_t received          # PACKET_STATISTICS: since it was last asked for
    uint32_t lost
    uint32_t ifindex           # packet: bound to it; 0: any
    int16_t checksum_at        # IPV6_CHECKSUM; -1: none
    uint16_t ethertype         # packet: 0 hears nothing, ETH_P_ALL everything
    uint8_t header             # IP_HDRINCL, IPV6_HDRINCL: packets are sent as they are
    uint8_t cooked             # packet: SOCK_DGRAM, without link header
    uint8_t ignore_outgoing    # packet: PACKET_IGNORE_OUTGOING
    uint32_t refused[8]        # ICMP_FILTER, ICMP6_FILTER: a bit for each type that is not wanted

# Of a packet socket's frame, this is where UdpMeta is: struct sockaddr_ll.
cdef struct LinkMeta:
    uint8_t mac[8]
    uint16_t ethertype
    uint16_t hatype
    uint16_t ifindex
    uint8_t pkttype
    uint8_t halen

cdef struct UdpError:          # struct sock_extended_err, and the addresses around it
    Addr offender              # who said so; addr_none(): this host
    Addr dst                   # where the datagram was sent
    uint16_t port
    uint16_t error             # errno
    uint8_t origin             # 1: local, 2: ICMP
    uint8_t type
    uint8_t code
    uint32_t info              # the MTU of "too big"

cdef struct UdpVia:            # how one datagram is sent, where that differs from the socket's way; zeros: as ever
    Addr src
    uint32_t ifindex
    uint16_t gso_size
    uint8_t ttl
    uint8_t has_ttl
    uint8_t dont_frag          # IPV6_DONTFRAG: 1 not, 2 set; 0 as the socket says

cdef struct UdpFlow:           # what a forwarder's socket has beside (udp/flow)
    UdpSock *older             # among the undecided
    UdpSock *newer
    uint64_t idle              # ns without a datagram after which it is over; 0: never
    uint64_t active            # ns, the last datagram, either way
    uint32_t serial
    uint8_t decided

cdef struct UdpSock:
    # ENTRY_UDP, ENTRY_UDPLITE and ENTRY_PING are in udp.socks, hashed by local port or ident; ENTRY_RAW and
    # ENTRY_PACKET in no table
    Entry entry
    Source source
    Addr laddr                 # addr_none(): any
    Addr raddr
    uint16_t lport
    uint16_t rport
    uint8_t flags
    uint8_t tos
    uint8_t ttl                # IP_TTL; 0: default
    int16_t hops               # IPV6_UNICAST_HOPS; -1: the interface's
    uint8_t reuseport          # SO_REUSEPORT: shares its port by a hash of the peer
    uint8_t want_err           # 1: IP_RECVERR, 2: IPV6_RECVERR: soft ICMP errors count too
    uint8_t family             # UdpFamily
    uint32_t bind_order        # of equal matches the latest bound gets the datagram
    int error                  # pending SO_ERROR (positive errno)
    uint32_t rcvbuf            # bytes of truesize at most
    uint32_t sndbuf
    uint32_t rcv_used
    BufQueue queue
    Dst dst                    # of the connected peer
    UdpMore *more              # or NULL
    UdpFlow *flow              # of a forwarder's: it is in udp.flows.table, by four-tuple; else NULL
    RawMore *raw               # of raw and packet sockets, else NULL
    Bpf *filter                # SO_ATTACH_FILTER, or NULL
    uint8_t filter_locked      # SO_LOCK_FILTER
    uint8_t proto              # of raw sockets: the IP protocol

cdef struct UdpFlows:          # the forwarder: what takes datagrams that no socket does
    Table table                # its sockets, decided or not
    Slab slab
    Source source              # raised as readable when there is a request
    UdpSock *oldest            # the undecided
    UdpSock *newest
    UdpSock *untaken           # the first of them that nobody asked for yet
    uint64_t patience          # ns that one may stay undecided
    uint32_t undecided
    uint32_t backlog
    uint32_t serial
    uint32_t live              # sockets in the table
    uint8_t on
    uint8_t pings              # echo requests, too

cdef struct Udp:
    Core *core
    Net *net
    Table socks
    Slab slab
    uint32_t rmem_default      # 212992, as Linux
    uint32_t wmem_default
    uint16_t port_lo           # ip_local_port_range: 32768
    uint16_t port_hi           # 60999
    uint32_t bind_count
    uint32_t mem[3]            # net.ipv4.udp_mem, pages: the last is the most that all queues may hold
    uint64_t mem_used          # bytes
    Limiter hearsay            # path MTUs that sockets without a peer learn (udp/pathmtu)
    Member *members
    UdpFlows flows
    UdpVia via                 # of the datagram being sent
    uint16_t cover             # of the UDP-Lite datagram being delivered: bytes that its checksum covers; 0: all
    UdpSock *raws
    UdpSock *packets
    UdpSock *sending           # the packet socket whose frame is on its way out: it does not see that one


cdef inline int family_of(const Addr *a) noexcept nogil:
    """An index of UdpMore.ways."""
    return 0 if addr_is_v4(a) else 1


cdef inline bint wants_errors(const UdpSock *s, const Addr *peer) noexcept nogil:
    return s.want_err >> family_of(peer) & 1


cdef inline uint8_t pmtudisc_for(const UdpSock *s, const Addr *dst) noexcept nogil:
    """IP_PMTUDISC_*. Unless it is said: DONT over IPv4, WANT over IPv6, where nobody cuts on the way."""
    cdef int k = family_of(dst)
    return s.more.ways[k].pmtudisc if s.more != NULL else <uint8_t>k


cdef inline int hops_for(const Udp *u, const UdpSock *s, const Addr *dst) noexcept nogil:
    """The time to live or the hop limit that a datagram gets; -1: the default."""
    if u.via.has_ttl:
        return u.via.ttl
    if addr_is_multicast(dst):
        return s.more.ways[family_of(dst)].group_ttl if s.more != NULL else 1
    if addr_is_v4(dst):
        return s.ttl if s.ttl != 0 else -1
    return s.hops


cdef inline uint8_t tx_hops(TxPkt *t, int hops) noexcept nogil:
    """... as net takes it."""
    t.no_hops = hops == 0
    return <uint8_t>max(hops, 0)


cdef inline int udp_counter(int kind, int which) noexcept nogil:
    """UDP-Lite's counter of the same name as UDP's, where the socket is one of UDP-Lite's."""
    if kind == ENTRY_UDPLITE and UdpInDatagrams <= which <= UdpMemErrors:
        return which - UdpInDatagrams + UdpLiteInDatagrams
    return which
