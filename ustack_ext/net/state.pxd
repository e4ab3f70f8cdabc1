# Every struct of the net layer in one place; the functions over them are in iface, neigh, arp, route, output, icmp,
# frag and input.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int32_t, int64_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.base.buf cimport Buf, BufQueue
from ustack_ext.base.core cimport Core
from ustack_ext.base.entry cimport Entry
from ustack_ext.base.iov cimport IoVec, Offload
from ustack_ext.base.limiter cimport Limiter
from ustack_ext.base.slab cimport Slab
from ustack_ext.base.table cimport HashKey, Table
from ustack_ext.net.captures cimport Capture, CaptureIface

cdef struct Net
cdef struct Iface

cdef enum:
    MAX_IFACES = 16
    MAX_IFADDRS = 16           # an interface
    MAX_LOCALS = 256           # MAX_IFACES * MAX_IFADDRS
    MAX_ROUTES = 1024
    MAX_RULES = 256
    RT_TABLE_DEFAULT = 253     # the tables' numbers of Linux's rtnetlink(7)
    RT_TABLE_MAIN = 254
    RT_TABLE_LOCAL = 255
    IP_IDENTS = 1024           # counters of the IPv4 identification, picked by a keyed hash
    TX_HEADROOM = 160          # room for every header: Ethernet + VLAN + IPv6 + TCP with options
    TX_IOV_MAX = 72            # iov[0] is the headers
    IFNAME_MAX = 16
    IPMTU_MIN = 68
    IP6MTU_MIN = 1280
    PMTUS_MAX = 1024           # destinations whose path MTU is remembered
    IP_MAX = 65535             # bytes of a packet: what its length field can say
    ACCEPTED = 64              # source and destination pairs that net/input remembers: a power of two

cdef enum Medium:
    MEDIUM_ETHERNET
    MEDIUM_IP
    MEDIUM_LOOPBACK

# Frames go out through this. It must not call back into an engine. Returns 0, or -1 when the frame was dropped (queue
# full, device gone).
ctypedef int (*transmit_fn)(void *link, const IoVec *iov, int niov, const Offload *off) noexcept nogil

cdef struct Iface
cdef struct Net
cdef struct RxPkt

# Who sees packets beside those they are for (raw and packet sockets, above net/). True: one took it.
ctypedef bint (*packet_hook)(void *user, RxPkt *rx) noexcept nogil
# ... and whole frames, in both directions. They are in one piece coming in, in `niov` going out. True: a socket for the
# frame's own EtherType took it.
ctypedef bint (*frame_hook)(void *user, Iface *i, const IoVec *iov, int niov, bint out) noexcept nogil

cdef enum AddrState:
    ADDR_TENTATIVE             # RFC 5227 §2.1: being probed, not usable yet
    ADDR_PREFERRED
    ADDR_CONFLICT              # somebody else has it: not used
    ADDR_DEPRECATED            # RFC 4862 §5.5.4: what uses it may go on, nothing new begins with it

cdef enum IfAddrKind:          # how an IPv6 address came
    IFA_STATIC
    IFA_AUTO                   # link-local, or by a router's prefix (RFC 4862), with a stable identifier (RFC 7217)
    IFA_TEMPORARY              # RFC 8981

cdef struct IfAddr:
    Entry entry                # probe, announce, defend and lifetime timer (ENTRY_IFADDR)
    Addr addr
    int plen                   # in the 128-bit space
    uint8_t used
    uint8_t state              # AddrState
    uint8_t probes_left
    uint8_t announces_left
    uint64_t last_defence      # ns
    Iface *iface
    # IPv6
    uint8_t kind               # IfAddrKind
    uint8_t dad_count          # conflicts so far: RFC 7217's DAD_Counter
    uint64_t nonce             # of the solicitations that ask for it (RFC 7527), 48 bits
    uint64_t preferred_until   # ns; UINT64_MAX: for ever
    uint64_t valid_until
    uint64_t created           # ns: of a temporary one

cdef struct Conf6:             # net.ipv6.conf.IF.*, with Linux's defaults
    uint8_t hop_limit                      # 64, or what a router said
    uint8_t dad_transmits                  # 1
    uint8_t use_tempaddr                   # 0; 1: made, 2: and preferred
    uint8_t accept_ra                      # 1: where autoconfiguration was asked for
    uint8_t accept_redirects               # 0; 1: from the router that is used
    uint8_t max_addresses                  # an interface may get by itself: 16
    uint8_t force_mld_version              # 0; 1: MLDv1, 2: MLDv2
    uint8_t disable_ipv6                   # 0
    uint32_t router_solicitations          # 3
    uint32_t router_solicitation_interval  # s: 4
    uint32_t temp_valid_lft                # s: 604800
    uint32_t temp_prefered_lft             # s: 86400

cdef enum:
    MAX_LEARNED = 32           # routes an interface may learn: default routers, prefixes, redirects
    MAX_DNS = 3                # RFC 8106 §5.3.1 wants three at least
    DNS_NAME_MAX = 255         # bytes of a domain name on the wire (RFC 1035 §3.1)

cdef struct DnsServer:         # RFC 8106; one whose time is over is none
    Addr addr
    uint64_t until             # ns

cdef struct DnsSuffix:
    uint64_t until             # ns
    uint8_t length
    uint8_t name[255]          # labels, uncompressed, with the root's

# IPv6 of one interface: what its routers said, and its timer (ENTRY_IFACE6) for asking them and for what they said.
cdef struct Iface6:
    Entry entry
    Iface *iface
    Conf6 conf
    uint8_t on                 # there is, or was, an IPv6 address
    uint8_t autoconf           # listen to router advertisements
    uint8_t solicits           # router solicitations sent
    uint8_t ra_flags           # of the last advertisement: 0x80 managed, 0x40 other configuration
    uint32_t mtu               # bytes, as a router said; 0: the interface's
    uint32_t reachable_ms      # 0: the stack's
    uint32_t retrans_ms
    uint64_t solicit_at        # ns; 0: not running
    DnsServer dns[3]
    DnsSuffix suffixes[3]

cdef enum:
    GROUP_SOURCES = 64         # a group on an interface; with more, all sources are taken

cdef struct GroupSource:
    Addr addr
    uint8_t listed             # in the source list
    uint8_t left               # state-change reports that have to name it still
    uint8_t asked              # by a query that is not answered yet

cdef struct Group:             # a group that is wanted on an interface (RFC 3376 §3.2), or that was just left
    Group *next
    Addr addr                  # with its zone
    uint8_t own                # the solicited-node group of an address: all of it is wanted, whatever sockets say
    uint8_t asked_for          # sockets want something of it
    uint8_t exclude            # filter mode: EXCLUDE the listed sources, or INCLUDE them only
    uint8_t mode_left          # reports of a change of the mode still due
    uint8_t ask_sources        # answer_at's query asks for the sources marked `asked` only
    uint8_t n_sources
    uint64_t answer_at         # ns: when a query about it is answered; 0: none asked
    GroupSource sources[64]

cdef struct Groups:            # of one family on an interface: what IGMP, or MLD, tells routers of
    Entry entry                # ENTRY_GROUPS: the earliest of what is due
    Iface *iface
    Group *first
    uint8_t six                # MLD's
    uint8_t robustness         # a querier's; 0: none said
    uint64_t v1_until          # ns: an IGMPv1 querier was heard, and counts so long (RFC 3376 §7.2.1)
    uint64_t v2_until          # ... an IGMPv2 one or, RFC 3810 §8.2.1, one of MLDv1
    uint64_t answer_at         # ns: when a general query is answered; 0: none
    uint64_t change_at         # ns: the next state-change report; 0: none

cdef enum:
    NAT_FLOWS = 65536          # flows at most: net.netfilter.nf_conntrack_max
    NAT_FORWARDS = 64

cdef struct NatFlow            # one that is translated, between `inner` and `remote`; outside it is `outer`'s

cdef struct NatBack:           # its place in the second table
    Entry entry
    NatFlow *flow

cdef struct NatFlow:
    Entry entry                # in nat.inside; deadline: when it may have been idle for too long
    NatBack back               # in nat.outside
    Iface *iface               # the one that is masqueraded
    Addr inner
    Addr outer
    Addr remote
    uint16_t inner_port        # ICMP: the identifier of an echo; remote_port is 0 then
    uint16_t outer_port
    uint16_t remote_port
    uint8_t proto
    uint8_t acked              # TCP: a bit for each direction that has acknowledged
    uint8_t fins               # ... and one for each that has sent a FIN
    uint8_t rst                # ... and the last segment was a reset
    uint8_t lasting            # which of nat.lists it is in
    uint64_t used              # ns: the last packet
    NatFlow *older
    NatFlow *newer

cdef struct NatForward:        # what comes to a port of the outside is for an inner host
    Iface *iface
    uint8_t proto
    uint16_t port
    uint16_t to_port
    Addr to

cdef struct NatList:
    NatFlow *oldest            # used least recently
    NatFlow *newest

cdef struct Nat:
    Table inside               # by protocol, inner and remote
    Table outside              # by protocol, outer and remote
    Slab slab
    NatList lists[2]           # flows that may end soon, and established TCP connections
    NatForward forwards[64]
    int n_forwards

cdef struct IfaceKnobs:        # net.ipv4.conf.IF.*, and net.ipv6.conf.IF.* with a 6
    uint8_t forwarding
    uint8_t rp_filter          # the greater of this and all.rp_filter counts
    uint8_t send_redirects     # 1; this or all.send_redirects, as accept_redirects
    uint8_t accept_redirects
    uint8_t arp_ignore         # the greater of this and all.arp_ignore
    uint8_t arp_announce       # ... and all.arp_announce
    uint8_t forwarding6        # a router to its neighbours; all.forwarding is what forwards

cdef enum:
    BRIDGE_PORTS = 15          # every interface but the bridge's own
    BRIDGE_STATIONS = 2048     # of a port at most: a flood of addresses drives out those of its own port alone

cdef struct Station:           # where a link address was seen (IEEE 802.1D §7.9)
    Entry entry                # in bridge.table
    uint64_t mac               # 48 bits
    uint64_t seen              # ns
    uint32_t port              # in bridge.ports
    Station *older             # of the same port
    Station *newer

cdef struct BridgePort:
    Iface *iface               # NULL: free
    uint32_t stations
    Station *oldest            # seen longest ago
    Station *newest

cdef struct Bridge:
    Iface *iface               # its own: what is for the stack itself comes in there
    Table table                # of Stations, by address
    Slab slab
    HashKey key
    uint64_t ageing            # ns after which a station is forgotten
    BridgePort ports[15]

cdef enum:                     # Iface.carries
    CARRIES_VLANS = 1
    CARRIES_BRIDGE = 2         # it is a port of one

cdef struct Iface:
    Net *net
    int index                  # 1-based, as if_nametoindex
    char name[16]
    uint8_t medium             # Medium
    uint8_t up
    uint8_t masquerade         # what is forwarded out of it gets its address (net/nat)
    uint8_t carries            # CARRIES_*: what of its frames may be other interfaces'
    uint8_t mac[6]
    uint32_t mtu               # bytes of IP
    uint32_t offloads          # OFF_* the link can do on transmit
    uint32_t gso_max           # bytes of IP in a superframe; beyond 65535 its length field says 0 (Linux' BIG TCP)
    transmit_fn transmit
    void *link
    IfAddr addrs[16]
    Iface6 six
    IfaceKnobs conf
    uint64_t rx_packets
    uint64_t rx_bytes
    uint64_t rx_dropped
    uint64_t tx_packets
    uint64_t tx_bytes
    uint64_t tx_dropped
    Groups igmp
    Groups mld
    Iface *lower               # a VLAN's: the interface whose tagged frames are its own
    Iface *vlans               # those that sit on it, linked by next_vlan
    Iface *next_vlan
    uint16_t vlan_id
    uint8_t vlan_priority      # PCP of what is sent
    Bridge *bridge             # that it is a port of, or whose own interface it is


cdef inline bint stands_on_others(const Iface *i) noexcept nogil:
    """A VLAN, or a bridge: what its link refuses was counted by the interface below."""
    return i.lower != NULL or (i.bridge != NULL and i.bridge.iface == i)


cdef enum NeighState:          # RFC 4861's names, used for ARP as Linux does
    NUD_INCOMPLETE
    NUD_REACHABLE
    NUD_STALE
    NUD_DELAY
    NUD_PROBE
    NUD_FAILED                 # kept for a second so that requests stay rate-limited
    NUD_PERMANENT

cdef struct Neigh:
    Entry entry                # in net.neighs; deadline: next probe, ageing, or removal
    Addr addr
    Iface *iface
    uint8_t mac[6]
    uint8_t state              # NeighState
    uint8_t probes
    uint8_t router             # IPv6: it says so (IsRouter)
    uint64_t confirmed         # ns of the last proof of reachability
    uint64_t used              # ns of the last packet sent to it
    uint64_t asked             # ns of the last request, 0: none yet
    uint64_t reachable_time    # ns that a proof of reachability holds
    BufQueue queue             # whole frames (Ethernet header to be completed) waiting for the address
    uint32_t queue_truesize
    Neigh *lru_prev
    Neigh *lru_next

cdef struct Route:
    Addr prefix
    Addr gateway               # addr_none(): on link
    int plen
    uint32_t metric
    uint32_t mtu               # 0: the interface's
    Addr source                # preferred source, or addr_none()
    Iface *iface
    uint64_t until             # ns: of one that was learned from a router; 0: it was given
    uint32_t table             # RT_TABLE_*, or another number that rules lead to

cdef struct Rule:              # which table routes are looked for in (ip-rule(8)); IPv4's prefixes are longer than 95
    uint32_t priority          # the least first
    uint32_t table
    Addr source
    Addr dest
    uint8_t source_len         # 0, or 96 for IPv4: any
    uint8_t dest_len
    uint8_t six                # it is for IPv6
    char iif[16]               # what a packet came in by, "lo": our own; "": any
    char oif[16]               # what a socket is bound to

# Where packets to one destination go: filled by route_resolve, kept by whoever sends often. Valid while gen ==
# net.generation.
cdef struct Dst:
    Iface *iface
    Neigh *neigh               # NULL on media without neighbours
    uint32_t generation
    uint16_t mtu
    uint16_t flow              # IPv6: what the flow label is made of, 0: nothing was sent yet


cdef inline bint dst_holds(const Net *n, const Dst *d) noexcept nogil:
    """Whether what *d was resolved to is true still."""
    return d.generation == n.generation and d.iface != NULL


cdef struct Fragment:          # what reassembly needs to know of one
    uint32_t id
    uint32_t frag_off          # bytes
    uint32_t hlen              # header bytes that the whole will have
    uint32_t skip              # ... and those between them and the payload, which it will not
    uint8_t more
    uint8_t proto              # 0 for IPv6, where it is not part of a datagram's name
    uint8_t tos
    uint8_t next               # IPv6: header that the payload begins with
    uint16_t next_at           # ... and where that stands in the headers

cdef struct Pmtu:              # what is known of the path to one destination (RFC 1191, RFC 4821)
    Entry entry                # in net.pmtus; deadline: when it is old
    Addr addr
    uint32_t mtu               # what a router said, 0: nobody did
    uint32_t low               # packets of this size arrive, as the packetization layer knows (bytes of IP)
    uint32_t high              # ... larger ones than this do not; 0: unknown
    uint8_t probing            # low and high mean something
    uint8_t top_failed         # the search need not begin with the largest size
    Pmtu *older
    Pmtu *newer

cdef struct FragQueue:         # one datagram being put together (RFC 791 §3.2, RFC 5722)
    Entry entry                # in net.frags
    Addr src
    Addr dst
    uint32_t id
    uint8_t proto
    uint8_t last_seen
    uint8_t tos
    uint8_t poisoned           # overlap seen: everything that still comes for it is dropped until the timer ends
    uint8_t ecn                # bit (1 << ECN field) for every fragment so far
    uint8_t rx_flags           # RX_* of the first fragment
    uint8_t first_next         # Fragment.next and next_at of the first
    uint16_t first_next_at
    uint16_t first_hlen        # IP header bytes in front of first.data[first.off - first_skip]
    uint16_t first_skip
    uint16_t pieces_count
    uint32_t total             # payload bytes, known once the last fragment came
    uint32_t have
    uint32_t truesize
    Buf *pieces                # sorted by seq = offset
    Buf *first                 # the fragment at offset 0 (for time exceeded), also in pieces
    Iface *iface
    FragQueue *older
    FragQueue *newer

cdef struct NetKnobs:          # Linux's sysctl names in net.ipv4.*
    uint8_t ip_default_ttl                 # 64
    uint8_t ip_no_pmtu_disc                # 0; 1, 2: no DF; 3: DF, as 0
    uint32_t min_pmtu                      # 552; what a path below it carries, routers fragment
    uint32_t mtu_expires                   # s: 600
    uint8_t icmp_echo_ignore_all           # 0
    uint8_t icmp_echo_ignore_broadcasts    # 1
    uint32_t icmp_ratelimit                # ms between errors to one target: 1000
    uint32_t icmp_msgs_per_sec             # 1000
    uint32_t icmp_msgs_burst               # 50
    uint32_t ipfrag_time                   # s: 30
    uint32_t ipfrag_high_thresh            # bytes: 4 MiB
    uint32_t ipfrag_max_dist               # pieces a datagram at most: 64
    uint32_t gc_thresh3                    # neighbours at most: 1024
    uint32_t base_reachable_time_ms        # 30000
    uint32_t gc_stale_time                 # s: 60
    uint32_t unres_qlen                    # packets queued a neighbour: 101
    uint32_t retrans_time_ms               # 1000
    uint8_t mcast_solicit                  # 3
    uint8_t ucast_solicit                  # 3
    uint32_t delay_first_probe_time        # s: 5
    # net.ipv6.*
    Conf6 conf6                            # of interfaces to come
    uint8_t echo_ignore_all6               # 0
    uint8_t auto_flowlabels                # 1
    uint32_t ip6frag_time                  # s: 60
    uint32_t igmp_max_memberships          # a socket's groups: 20
    uint32_t igmp_max_msf                  # ... and a group's sources: 10
    uint8_t igmp_qrv                       # the robustness variable (RFC 3376 §8.1) until a querier says another: 2
    uint8_t force_igmp_version             # 0: by what queries are heard
    uint32_t mld_max_msf                   # a group's sources, over IPv6: 64
    uint8_t mld_qrv                        # 2
    uint8_t ip_forward                     # 0: conf.all.forwarding
    uint8_t rp_filter                      # 0; 1: strict, 2: loose (RFC 3704)
    uint8_t send_redirects                 # 1
    uint8_t accept_redirects4              # 0
    uint8_t arp_ignore                     # 1: for addresses of the interface; 0: for any of ours; 2, 8 as Linux
    uint8_t arp_announce                   # 2: who asks is the address nearest to who is asked; 0, 1 as Linux
    uint8_t strong_es                      # 0: the weak model (RFC 1122 §3.3.4.2)
    uint8_t strong_es6                     # 0
    uint8_t forwarding6                    # 0
    uint8_t send_redirects6                # 1
    uint32_t nf_conntrack_max              # flows that are translated: 65536

cdef struct IcmpTarget:        # per-destination limit of ICMP errors (RFC 1812 §4.3.2.8): a small direct-mapped cache
    Addr addr
    Limiter limiter

cdef struct Accepted:          # packets of a host to an address of ours are good while generation == net.generation
    Addr src
    Addr dst
    uint32_t generation

cdef enum:                     # Net.routers
    ROUTER_4 = 1
    ROUTER_6 = 2

cdef enum:                     # Net.foreign
    FOREIGN_TCP = 1
    FOREIGN_UDP = 2
    FOREIGN_PING = 4

cdef struct Net:
    Core *core
    NetKnobs knobs
    Iface *ifaces[16]
    int n_ifaces
    uint32_t generation        # changes whenever a Dst may have become wrong
    Route *routes              # sorted: longest prefix first, then metric
    uint32_t n_routes
    uint32_t cap_routes
    Rule *rules                # sorted by priority; without those that are there by themselves
    uint32_t n_rules
    uint32_t cap_rules
    uint8_t routers            # ROUTER_*: some interface forwards
    uint8_t by_interface       # whether a packet is good depends on the interface it came in by: accepted is not used
    HashKey key                # of the tables
    Table neighs
    Slab neigh_slab
    Neigh *neigh_oldest        # entries with an address; least recently used first
    Neigh *neigh_newest
    Neigh *unres_oldest        # INCOMPLETE and FAILED ones, oldest first
    Neigh *unres_newest
    uint32_t unres_count
    uint64_t neigh_queued      # truesize of all frames waiting for an address
    Table pmtus
    Slab pmtu_slab
    Pmtu *pmtu_oldest          # touched least recently
    Pmtu *pmtu_newest
    Table frags
    Slab frag_slab
    FragQueue *frag_oldest
    FragQueue *frag_newest
    uint64_t frag_memory
    Limiter icmp_global
    IcmpTarget icmp_targets[64]
    uint64_t icmp_key_salt
    Nat *nat                   # NULL: nothing was ever translated
    uint8_t foreign            # FOREIGN_*: flows to any destination are taken in
    Iface *lo                  # the loopback interface, NULL before there is one
    Addr locals[256]           # our usable addresses, packed: what every received packet is compared with
    int n_locals
    Addr broadcasts[256]       # of the connected prefixes
    int n_broadcasts
    Accepted accepted[64]
    HashKey ident_key
    uint16_t idents[1024]
    packet_hook packets        # NULL: nobody asks, which costs what this test does
    frame_hook frames          # ... net/capture's, while there are captures
    frame_hook sockets_frames  # the one above net/
    Capture *captures          # NULL: none, which costs what this test does
    void *hook_user
    HashKey secret6            # of stable identifiers (RFC 7217), flow labels and fragment identifications

# A packet on its way in, on the stack of engine.input.
cdef enum:
    RX_LINK_BROADCAST = 1      # link-level destination was broadcast or multicast
    RX_IP_BROADCAST = 2        # IP destination is a broadcast address
    RX_IP_MULTICAST = 4
    RX_CSUM_OK = 8             # transport checksum needs no check
    RX_LOOPBACK = 16
    RX_TAKEN = 32              # a raw socket has a copy
    RX_SEEN = 64               # a packet socket for its EtherType has one
    RX_FOREIGN = 128           # to no address of ours, taken because somebody forwards such flows (net.foreign)

cdef struct RxPkt:
    Buf *buf                   # holds the bytes; keep payload by buf_ref
    Iface *iface
    uint8_t *l3                # IP header
    uint32_t l3_len            # header + payload, proved against the captured length, padding trimmed
    uint8_t *l4
    uint32_t l4_len
    Addr src
    Addr dst
    uint8_t proto
    uint8_t ttl
    uint8_t tos
    uint8_t flags              # RX_*
    uint16_t next_at           # IPv6: where in the packet `proto` stands
    uint16_t gso_size          # a superframe's segment size, 0 for an ordinary packet
    uint16_t segs              # of a packet the engine put together: segments in it
    uint32_t more_len          # ... bytes in `more`
    NatFlow *nat               # the flow by which its destination was rewritten, NULL: it is as it came
    Buf *more                  # ... the payload of all but the first, buffers linked by next (tcp/merged)

# An ICMP error about something we sent, validated as far as IP can; the transport matches the rest (RFC 5927).
cdef struct IcmpError:
    uint8_t type
    uint8_t code
    uint8_t proto
    Addr from_addr             # who says so
    Addr src                   # of the quoted packet: ours
    Addr dst                   # of the quoted packet: the peer's
    uint32_t mtu               # needfrag: next-hop MTU as quoted, may be 0
    const uint8_t *l4          # quoted transport header
    uint32_t l4_len            # >= 8
    int error                  # errno Linux gives a socket for it
    uint8_t hard               # not a soft error in the sense of RFC 1122 §4.2.3.9

# A packet on its way out. hdr grows downwards from hdr_space's end; iov[0] is set from it at the end.
cdef struct TxPkt:
    uint8_t hdr_space[160]
    uint8_t *hdr               # first header byte so far
    IoVec iov[72]              # payload pieces from iov[1] on
    int niov                   # entries used, iov[0] included
    uint32_t payload_len       # bytes in iov[1..]
    uint8_t no_hops            # IPv6: a hop limit of 0 means just that, not the interface's
    Offload off                # csum_start etc. counted from the transport header by the transport; net shifts them

cdef enum NetVerdict:          # what net_input says of a frame
    NET_DONE                   # consumed or dropped (and counted)
    NET_TCP
    NET_UDP
    NET_ICMP_ERROR             # *err filled
    NET_ECHO_REPLY             # an ICMP echo reply to us (ping sockets); l4 is the ICMP header
    NET_ECHO_REQUEST           # ... a request to a foreign address, for a forwarder of pings
    NET_UDPLITE
    NET_UNKNOWN_PROTO          # nobody speaks it: the engine answers with icmp_send_unreach(PROTOCOL)


cdef inline void tx_init(TxPkt *t) noexcept nogil:
    t.hdr = t.hdr_space + TX_HEADROOM
    t.niov = 1
    t.payload_len = 0
    t.no_hops = 0
    t.off.flags = 0
    t.off.gso_size = 0
    t.off.hdr_len = 0
    t.off.csum_start = 0
    t.off.csum_offset = 0


cdef inline uint8_t *tx_push(TxPkt *t, uint32_t n) noexcept nogil:
    """Room for n header bytes in front of what is there; the sum of all headers is below TX_HEADROOM by
    construction."""
    t.hdr -= n
    return t.hdr


cdef inline void tx_payload(TxPkt *t, void *p, uint32_t n) noexcept nogil:
    """Adds a payload piece; the caller keeps to TX_IOV_MAX - 1 pieces."""
    t.iov[t.niov].base = p
    t.iov[t.niov].len = n
    t.niov += 1
    t.payload_len += n
