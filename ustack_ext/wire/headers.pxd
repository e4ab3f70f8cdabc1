# Header layouts of Ethernet II, ARP, IPv4, ICMP, UDP and TCP: parse (bounds-checked) and emit. Knows no state.
#
# Every parse takes (pointer, captured length), proves each access, and returns WireStatus; it never writes past the
# struct. Every emit writes exactly the header's bytes (room proved by the caller) and returns their count. Values in
# structs are in host order.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from ustack_ext.wire.bytes cimport get_be16, get_be32, put_be32
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_right

cdef enum WireStatus:
    WIRE_OK
    WIRE_TRUNCATED         # shorter than the header, or than a length field inside says
    WIRE_VERSION           # not the version or the hardware/protocol type we speak
    WIRE_LENGTH            # a length field that contradicts itself (IHL < 5, data offset < 5, total length < header)
    WIRE_CHECKSUM
    WIRE_OPTIONS           # an option's length runs past the header, or is impossible

cdef enum:
    ETH_HLEN = 14
    ETH_MIN_FRAME = 60     # without FCS: shorter ones are padded with zeros
    ETHERTYPE_IPV4 = 0x0800
    ETHERTYPE_ARP = 0x0806
    ETHERTYPE_IPV6 = 0x86DD
    ETHERTYPE_VLAN = 0x8100  # IEEE 802.1Q
    VLAN_HLEN = 4            # ... its tag, behind the two addresses
    VLAN_ID_MASK = 0x0FFF
    ETHERTYPE_MIN = 0x0600   # below: an 802.3 length

    ARP_LEN = 28
    ARP_REQUEST = 1
    ARP_REPLY = 2

    IP4_HLEN = 20
    IP4_DF = 1
    IP4_MF = 2
    IPPROTO_ICMP_ = 1
    IPPROTO_TCP_ = 6
    IPPROTO_UDP_ = 17
    IPPROTO_UDPLITE_ = 136

    ICMP_HLEN = 8
    ICMP_ECHOREPLY = 0
    ICMP_UNREACH = 3
    ICMP_SOURCE_QUENCH = 4
    ICMP_REDIRECT = 5
    ICMP_ECHO = 8
    ICMP_TIME_EXCEEDED = 11
    ICMP_PARAM_PROBLEM = 12
    ICMP_UNREACH_NET = 0
    ICMP_UNREACH_HOST = 1
    ICMP_UNREACH_PROTOCOL = 2
    ICMP_UNREACH_PORT = 3
    ICMP_UNREACH_NEEDFRAG = 4

    UDP_HLEN = 8
    TCP_HLEN = 20
    TCP_MAX_HLEN = 60

    TH_FIN = 0x01
    TH_SYN = 0x02
    TH_RST = 0x04
    TH_PSH = 0x08
    TH_ACK = 0x10
    TH_URG = 0x20
    TH_ECE = 0x40
    TH_CWR = 0x80

cdef struct EthHdr:
    uint8_t dst[6]
    uint8_t src[6]
    uint16_t ethertype

cdef struct ArpPkt:        # RFC 826 for Ethernet and IPv4
    uint16_t op
    uint8_t sha[6]
    uint8_t tha[6]
    uint32_t spa
    uint32_t tpa

cdef struct Ip4Hdr:        # RFC 791 §3.1
    uint8_t hlen           # bytes, 20..60, <= captured
    uint8_t tos
    uint8_t ttl
    uint8_t proto
    uint8_t flags          # IP4_DF | IP4_MF
    uint16_t total_len     # >= hlen, <= captured
    uint16_t id
    uint32_t frag_off      # bytes
    uint32_t src
    uint32_t dst

cdef struct Icmp4Hdr:      # RFC 792
    uint8_t type
    uint8_t code
    # id<<16|seq for echo; next-hop MTU in the low half for needfrag; pointer<<24 for parameter problem
    uint32_t rest

cdef struct UdpHdr:
    uint16_t sport
    uint16_t dport
    uint16_t length        # 8 <= length <= captured
    uint16_t checksum      # native order as on the wire; 0: not computed by the sender

cdef struct TcpHdr:        # RFC 9293 §3.1
    uint16_t sport
    uint16_t dport
    uint32_t seq
    uint32_t ack
    uint16_t wnd
    uint16_t urg
    uint8_t hlen           # bytes, 20..60, <= captured
    uint8_t flags          # TH_*

cdef enum:
    IP4_DF_BIT = 0x4000
    IP4_MF_BIT = 0x2000
    IP4_OFFSET_MASK = 0x1FFF       # in units of 8 bytes

cdef uint32_t eth_emit(uint8_t *p, const EthHdr *h) noexcept nogil
cdef WireStatus arp_parse(const uint8_t *p, uint32_t n, ArpPkt *h) noexcept nogil          # op is 1 or 2
cdef uint32_t arp_emit(uint8_t *p, const ArpPkt *h) noexcept nogil
# Walks the options at p+20..hlen. WIRE_OK or WIRE_OPTIONS with *where = offset of the fault from the header's start.
# *source_route is set if LSRR/SSRR is there.
cdef WireStatus ip4_options_check(const uint8_t *p, uint32_t hlen, uint32_t *where, bint *source_route) noexcept nogil
# checksum over n bytes verified unless csum_ok
cdef WireStatus icmp4_parse(const uint8_t *p, uint32_t n, Icmp4Hdr *h, bint csum_ok) noexcept nogil
# 8 bytes, checksum field 0: the caller sums header and payload
cdef uint32_t icmp4_emit(uint8_t *p, const Icmp4Hdr *h) noexcept nogil
# checksum is the caller's (it knows the addresses)
cdef WireStatus udp_parse(const uint8_t *p, uint32_t n, UdpHdr *h) noexcept nogil
cdef uint32_t udp_emit(uint8_t *p, const UdpHdr *h) noexcept nogil


# ---- what every segment passes: inline, so that the fields stay in registers ----

cdef inline WireStatus eth_parse(const uint8_t *p, uint32_t n, EthHdr *h) noexcept nogil:
    if n < ETH_HLEN:
        return WIRE_TRUNCATED
    memcpy(h.dst, p, 6)
    memcpy(h.src, p + 6, 6)
    h.ethertype = get_be16(p + 12)
    return WIRE_OK


cdef inline uint64_t ip4_sum(const uint8_t *p) noexcept nogil:
    """Partial checksum of a header without options."""
    cdef uint64_t first, second
    cdef uint32_t last
    memcpy(&first, p, 8)
    memcpy(&second, p + 8, 8)
    memcpy(&last, p + 16, 4)
    return (first >> 32) + <uint32_t>first + (second >> 32) + <uint32_t>second + last


cdef inline WireStatus ip4_parse(const uint8_t *p, uint32_t n, Ip4Hdr *h) noexcept nogil:
    """Header checksum verified; options not looked at."""
    cdef uint16_t frag
    if n < IP4_HLEN:
        return WIRE_TRUNCATED
    if p[0] >> 4 != 4:
        return WIRE_VERSION
    h.hlen = (p[0] & 15) * 4
    h.total_len = get_be16(p + 2)
    if h.hlen < IP4_HLEN or h.total_len < h.hlen:
        return WIRE_LENGTH
    if h.total_len > n:
        return WIRE_TRUNCATED
    if not csum_right(ip4_sum(p) if h.hlen == IP4_HLEN else csum_partial(p, h.hlen, 0)):
        return WIRE_CHECKSUM
    frag = get_be16(p + 6)
    h.tos = p[1]
    h.id = get_be16(p + 4)
    h.flags = (IP4_DF if frag & IP4_DF_BIT else 0) | (IP4_MF if frag & IP4_MF_BIT else 0)
    h.frag_off = <uint32_t>(frag & IP4_OFFSET_MASK) * 8
    h.ttl = p[8]
    h.proto = p[9]
    h.src = get_be32(p + 12)
    h.dst = get_be32(p + 16)
    return WIRE_OK


cdef inline bint ip4_is_plain(const uint8_t *p, uint32_t n) noexcept nogil:
    """Whether it is a whole datagram (no fragment) without options that ip4_parse takes, as nearly every packet is."""
    return (n >= IP4_HLEN and p[0] == 0x45 and get_be16(p + 6) & (IP4_MF_BIT | IP4_OFFSET_MASK) == 0
            and IP4_HLEN <= get_be16(p + 2) <= n and csum_right(ip4_sum(p)))


cdef inline uint32_t ip4_emit(uint8_t *p, const Ip4Hdr *h) noexcept nogil:
    """20 bytes, checksum computed; h.hlen ignored."""
    cdef uint32_t first = <uint32_t>0x45 << 24 | <uint32_t>h.tos << 16 | h.total_len
    cdef uint32_t second = (<uint32_t>h.id << 16 | (IP4_DF_BIT if h.flags & IP4_DF else 0)
                            | (IP4_MF_BIT if h.flags & IP4_MF else 0) | (h.frag_off // 8 & IP4_OFFSET_MASK))
    cdef uint32_t third = <uint32_t>h.ttl << 24 | <uint32_t>h.proto << 16
    # In host order: the sum's bytes turn with those of the words (RFC 1071 §2 (B)).
    cdef uint64_t sum = <uint64_t>first + second + third + h.src + h.dst
    put_be32(p, first)
    put_be32(p + 4, second)
    put_be32(p + 8, third | csum_fold(sum))
    put_be32(p + 12, h.src)
    put_be32(p + 16, h.dst)
    return IP4_HLEN


cdef inline WireStatus tcp_parse(const uint8_t *p, uint32_t n, TcpHdr *h) noexcept nogil:
    """The checksum is the caller's: it knows the addresses."""
    if n < TCP_HLEN:
        return WIRE_TRUNCATED
    h.hlen = (p[12] >> 4) * 4
    if h.hlen < TCP_HLEN:
        return WIRE_LENGTH
    if h.hlen > n:
        return WIRE_TRUNCATED
    h.sport = get_be16(p)
    h.dport = get_be16(p + 2)
    h.seq = get_be32(p + 4)
    h.ack = get_be32(p + 8)
    h.flags = p[13]
    h.wnd = get_be16(p + 14)
    h.urg = get_be16(p + 18)
    return WIRE_OK


cdef inline uint32_t tcp_emit(uint8_t *p, const TcpHdr *h) noexcept nogil:
    """20 bytes, data offset from h.hlen, checksum field 0."""
    put_be32(p, <uint32_t>h.sport << 16 | h.dport)
    put_be32(p + 4, h.seq)
    put_be32(p + 8, h.ack)
    # the data offset counts 4-byte words, in the upper half of its byte
    put_be32(p + 12, <uint32_t>h.hlen << 26 | <uint32_t>h.flags << 16 | h.wnd)
    put_be32(p + 16, h.urg)
    return TCP_HLEN
