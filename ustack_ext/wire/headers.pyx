# Parse and emit of what headers.pxd has not inline: ARP (RFC 826), the options of IPv4 (RFC 791), ICMP (RFC 792), UDP
# (RFC 768). TCP's options are tcp/options' business; what a valid header means is that of net/, udp/ and tcp/.
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy
from ustack_ext.wire.bytes cimport get_be16, get_be32, put_be16, put_be32
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_store

cdef enum:
    IPOPT_EOL = 0
    IPOPT_NOP = 1
    IPOPT_RR = 7
    IPOPT_TS = 68
    IPOPT_LSRR = 131
    IPOPT_SSRR = 137


cdef uint32_t eth_emit(uint8_t *p, const EthHdr *h) noexcept nogil:
    memcpy(p, h.dst, 6)
    memcpy(p + 6, h.src, 6)
    put_be16(p + 12, h.ethertype)
    return ETH_HLEN


cdef WireStatus arp_parse(const uint8_t *p, uint32_t n, ArpPkt *h) noexcept nogil:
    if n < ARP_LEN:
        return WIRE_TRUNCATED
    # ar$hrd 1 (Ethernet), ar$pro IPv4; ar$hln 6, ar$pln 4
    if get_be32(p) != (0x00010000 | ETHERTYPE_IPV4) or get_be16(p + 4) != 0x0604:
        return WIRE_VERSION
    h.op = get_be16(p + 6)
    if h.op != ARP_REQUEST and h.op != ARP_REPLY:
        return WIRE_VERSION
    memcpy(h.sha, p + 8, 6)
    h.spa = get_be32(p + 14)
    memcpy(h.tha, p + 18, 6)
    h.tpa = get_be32(p + 24)
    return WIRE_OK


cdef uint32_t arp_emit(uint8_t *p, const ArpPkt *h) noexcept nogil:
    put_be32(p, 0x00010000 | ETHERTYPE_IPV4)
    put_be16(p + 4, 0x0604)
    put_be16(p + 6, h.op)
    memcpy(p + 8, h.sha, 6)
    put_be32(p + 14, h.spa)
    memcpy(p + 18, h.tha, 6)
    put_be32(p + 24, h.tpa)
    return ARP_LEN


cdef uint32_t address_list_fault(const uint8_t *opt, uint32_t length) noexcept nogil:
    """Offset of the fault in a record route or source route option (RFC 791 §3.1), 0 when there is none.

    The pointer counts from 1 and the first address is at 4; past the end means the list is full or the route done.
    """
    if length < 3:
        return 1
    if opt[2] < 4 or (opt[2] <= length and opt[2] + 3 > length):
        return 2
    return 0


cdef uint32_t timestamp_fault(const uint8_t *opt, uint32_t length) noexcept nogil:
    """The same for the timestamp option: the first entry is at 5 and has 4 bytes, or 8 with an address (flag not 0)."""
    cdef uint32_t entry
    if length < 4:
        return 1
    entry = 8 if opt[3] & 15 else 4
    if opt[2] < 5 or (opt[2] <= length and opt[2] + entry - 1 > length):
        return 2
    return 0


cdef WireStatus ip4_options_check(const uint8_t *p, uint32_t hlen, uint32_t *where, bint *source_route) noexcept nogil:
    cdef uint32_t i = IP4_HLEN, length, fault
    cdef uint8_t kind
    where[0] = 0
    source_route[0] = False
    while i < hlen:
        kind = p[i]
        if kind == IPOPT_EOL:
            break
        if kind == IPOPT_NOP:
            i += 1
            continue
        if i + 1 >= hlen or p[i + 1] < 2 or p[i + 1] > hlen - i:
            where[0] = i
            return WIRE_OPTIONS
        length = p[i + 1]
        fault = 0
        if kind == IPOPT_LSRR or kind == IPOPT_SSRR:
            if source_route[0]:              # RFC 1122 §3.2.1.8 (c): one source route at most
                where[0] = i
                return WIRE_OPTIONS
            source_route[0] = True
            fault = address_list_fault(p + i, length)
        elif kind == IPOPT_RR:
            fault = address_list_fault(p + i, length)
        elif kind == IPOPT_TS:
            fault = timestamp_fault(p + i, length)
        if fault:
            where[0] = i + fault
            return WIRE_OPTIONS
        i += length
    return WIRE_OK


cdef WireStatus icmp4_parse(const uint8_t *p, uint32_t n, Icmp4Hdr *h, bint csum_ok) noexcept nogil:
    if n < ICMP_HLEN:
        return WIRE_TRUNCATED
    if not csum_ok and csum_fold(csum_partial(p, n, 0)) != 0:
        return WIRE_CHECKSUM
    h.type = p[0]
    h.code = p[1]
    h.rest = get_be32(p + 4)
    return WIRE_OK


cdef uint32_t icmp4_emit(uint8_t *p, const Icmp4Hdr *h) noexcept nogil:
    p[0] = h.type
    p[1] = h.code
    put_be16(p + 2, 0)
    put_be32(p + 4, h.rest)
    return ICMP_HLEN


cdef WireStatus udp_parse(const uint8_t *p, uint32_t n, UdpHdr *h) noexcept nogil:
    if n < UDP_HLEN:
        return WIRE_TRUNCATED
    h.sport = get_be16(p)
    h.dport = get_be16(p + 2)
    h.length = get_be16(p + 4)
    memcpy(&h.checksum, p + 6, 2)
    if h.length < UDP_HLEN:
        return WIRE_LENGTH
    if h.length > n:
        return WIRE_TRUNCATED
    return WIRE_OK


cdef uint32_t udp_emit(uint8_t *p, const UdpHdr *h) noexcept nogil:
    put_be16(p, h.sport)
    put_be16(p + 2, h.dport)
    put_be16(p + 4, h.length)
    csum_store(p + 6, h.checksum)
    return UDP_HLEN
