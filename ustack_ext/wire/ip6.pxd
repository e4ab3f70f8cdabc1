# Layouts of IPv6 (RFC 8200), its extension headers, ICMPv6 (RFC 4443) and Neighbor Discovery (RFC 4861): parse
# (bounds-checked) and emit, by the rules of wire/headers. Knows no state.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.wire.bytes cimport get_be16, get_be32, get_be64, put_be16, put_be32, put_be64
from ustack_ext.wire.headers cimport WireStatus, WIRE_LENGTH, WIRE_OK, WIRE_TRUNCATED, WIRE_VERSION

cdef enum:
    IP6_HLEN = 40
    IP6_MIN_MTU = 1280
    IP6_PAYLOAD_MAX = 65535
    FRAG6_HLEN = 8
    EXT6_MAX = 8                   # extension headers of a packet at most; a bound of ours

    IPPROTO_HOPOPTS_ = 0
    IPPROTO_ROUTING_ = 43
    IPPROTO_FRAGMENT_ = 44
    IPPROTO_ICMPV6_ = 58
    IPPROTO_NONE_ = 59
    IPPROTO_DSTOPTS_ = 60

    ICMP6_HLEN = 8
    ICMP6_UNREACH = 1
    ICMP6_TOO_BIG = 2
    ICMP6_TIME_EXCEEDED = 3
    ICMP6_PARAM_PROBLEM = 4
    ICMP6_INFO = 128               # from here on informational
    ICMP6_ECHO = 128
    ICMP6_ECHOREPLY = 129
    ICMP6_MLD_QUERY = 130
    ICMP6_MLD_REPORT = 131         # version 1's
    ICMP6_MLD_DONE = 132
    ND_ROUTER_SOLICIT = 133
    ND_ROUTER_ADVERT = 134
    ND_NEIGHBOR_SOLICIT = 135
    ND_NEIGHBOR_ADVERT = 136
    ND_REDIRECT = 137
    ICMP6_MLD2_REPORT = 143
    ICMP6_UNREACH_NOROUTE = 0
    ICMP6_UNREACH_ADMIN = 1
    ICMP6_UNREACH_SCOPE = 2        # beyond scope of source address
    ICMP6_UNREACH_ADDRESS = 3
    ICMP6_UNREACH_PORT = 4
    ICMP6_PARAM_HEADER = 0         # erroneous header field
    ICMP6_PARAM_NEXT = 1           # unrecognized next header type
    ICMP6_PARAM_OPTION = 2         # unrecognized option
    ICMP6_PARAM_CHAIN = 3          # first fragment without the whole header chain (RFC 7112)

    ND_OPT_SOURCE = 1              # source link-layer address
    ND_OPT_TARGET = 2
    ND_OPT_PREFIX = 3
    ND_OPT_REDIRECTED = 4
    ND_OPT_MTU = 5
    ND_OPT_NONCE = 14              # RFC 3971 §5.3.2, as RFC 7527 uses it
    ND_OPT_RDNSS = 25              # RFC 8106
    ND_OPT_DNSSL = 31
    ND_NA_ROUTER = 0x80
    ND_NA_SOLICITED = 0x40
    ND_NA_OVERRIDE = 0x20

cdef enum OptionVerdict:           # RFC 8200 §4.2
    OPTION_FINE
    OPTION_DROP                    # the packet goes, in silence
    OPTION_TELL                    # ... with parameter problem code 2
    OPTION_TELL_UNICAST            # ... unless the destination is a group
    OPTION_MALFORMED               # ... with parameter problem code 0

cdef struct Ip6Hdr:                # RFC 8200 §3; addresses without zone
    uint8_t tclass
    uint8_t next
    uint8_t hop_limit
    uint16_t payload_len           # <= captured less 40
    uint32_t flow
    Addr src
    Addr dst

cdef struct Frag6Hdr:              # RFC 8200 §4.5
    uint8_t next
    uint8_t more
    uint32_t frag_off              # bytes
    uint32_t id

cdef struct Icmp6Hdr:              # RFC 4443 §2.1
    uint8_t type
    uint8_t code
    uint32_t rest                  # id<<16|seq for echo; MTU; pointer

# Walks the options of a hop-by-hop or destination options header of n bytes (whole, proved by ext6_length). *where: the
# offset of the fault, or of the option, from the header's start.
cdef OptionVerdict ip6_options_check(const uint8_t *p, uint32_t n, uint32_t *where) noexcept nogil
# Whether a hop-by-hop or destination options header at p, of which n bytes are there, has an option of a type.
cdef bint ip6_has_option(const uint8_t *p, uint32_t n, uint8_t type) noexcept nogil
# checksum over n bytes and the pseudo header verified unless csum_ok
cdef WireStatus icmp6_parse(const uint8_t *p, uint32_t n, const Addr *src, const Addr *dst, Icmp6Hdr *h,
                            bint csum_ok) noexcept nogil
# 8 bytes, checksum field 0: the caller sums pseudo header, header and payload
cdef uint32_t icmp6_emit(uint8_t *p, const Icmp6Hdr *h) noexcept nogil
# Whether the options (n bytes) are whole, each with a length that is not 0 (RFC 4861 §4.6).
cdef bint nd_options_whole(const uint8_t *p, uint32_t n) noexcept nogil
# The first option of a type with at least `least` bytes; NULL: none.
cdef const uint8_t *nd_option(const uint8_t *p, uint32_t n, uint8_t type, uint32_t least) noexcept nogil


cdef inline Addr addr_get(const uint8_t *p) noexcept nogil:
    """Sixteen bytes as an address; without a zone."""
    cdef Addr a
    a.hi = get_be64(p)
    a.lo = get_be64(p + 8)
    return a


cdef inline void addr_put(uint8_t *p, const Addr *a) noexcept nogil:
    """As it is: the caller has taken the zone out."""
    put_be64(p, a.hi)
    put_be64(p + 8, a.lo)


cdef inline WireStatus ip6_parse(const uint8_t *p, uint32_t n, Ip6Hdr *h) noexcept nogil:
    cdef uint32_t first
    if n < IP6_HLEN:
        return WIRE_TRUNCATED
    first = get_be32(p)
    if first >> 28 != 6:
        return WIRE_VERSION
    h.payload_len = get_be16(p + 4)
    if h.payload_len > n - IP6_HLEN:
        return WIRE_TRUNCATED
    h.tclass = <uint8_t>(first >> 20)
    h.flow = first & 0xFFFFF
    h.next = p[6]
    h.hop_limit = p[7]
    h.src = addr_get(p + 8)
    h.dst = addr_get(p + 24)
    return WIRE_OK


cdef inline uint32_t ip6_emit(uint8_t *p, const Ip6Hdr *h) noexcept nogil:
    put_be32(p, <uint32_t>6 << 28 | <uint32_t>h.tclass << 20 | (h.flow & 0xFFFFF))
    put_be32(p + 4, <uint32_t>h.payload_len << 16 | <uint32_t>h.next << 8 | h.hop_limit)
    addr_put(p + 8, &h.src)
    addr_put(p + 24, &h.dst)
    return IP6_HLEN


cdef inline uint32_t ext6_length(const uint8_t *p, uint32_t n) noexcept nogil:
    """Bytes of an extension header (options or routing), or 0: it isn't all there."""
    cdef uint32_t length
    if n < 8:
        return 0
    length = (<uint32_t>p[1] + 1) * 8
    return length if length <= n else 0


cdef inline WireStatus frag6_parse(const uint8_t *p, uint32_t n, Frag6Hdr *h) noexcept nogil:
    cdef uint16_t word
    if n < FRAG6_HLEN:
        return WIRE_TRUNCATED
    word = get_be16(p + 2)
    h.next = p[0]
    h.more = word & 1
    h.frag_off = word & 0xFFF8
    h.id = get_be32(p + 4)
    return WIRE_OK


cdef inline uint32_t frag6_emit(uint8_t *p, const Frag6Hdr *h) noexcept nogil:
    put_be16(p, <uint16_t>(<uint32_t>h.next << 8))
    put_be16(p + 2, <uint16_t>(h.frag_off | (1 if h.more else 0)))
    put_be32(p + 4, h.id)
    return FRAG6_HLEN
