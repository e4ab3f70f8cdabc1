"""The wire formats of ustack_ext.wire for Python: what tests hold against other implementations, byte for byte.

Nothing in the data plane uses this module. Parsers return a dict with the header's fields under the names of
wire/headers.pxd and raise ValueError with the reason; emitters return the header's bytes. Ethernet addresses are
6 bytes, IPv4 addresses are ints, lengths and offsets are in bytes.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from ustack_ext.wire cimport headers as wire
from ustack_ext.wire.addr cimport Addr, addr_in_prefix, addr_is_any, addr_is_broadcast, addr_is_loopback
from ustack_ext.wire.addr cimport addr_is_multicast, addr_is_v4, addr_mask, addr_v4
from ustack_ext.wire.bytes cimport get_be16, get_be32, get_be64, put_be16, put_be64
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_pseudo, csum_store, csum_swap

REASONS = {
    wire.WIRE_TRUNCATED: "truncated",
    wire.WIRE_VERSION: "version",
    wire.WIRE_LENGTH: "length",
    wire.WIRE_CHECKSUM: "checksum",
    wire.WIRE_OPTIONS: "options",
}


cdef uint8_t *exact_copy(bytes data) except NULL:
    """A block of exactly len(data) bytes, so AddressSanitizer sees the first byte past it. The caller frees it."""
    cdef size_t n = len(data)
    cdef uint8_t *p = <uint8_t *>malloc(n or 1)
    if p == NULL:
        raise MemoryError
    memcpy(p, <const char *>data, n)
    return p


cdef int check(int status) except -1:
    if status != wire.WIRE_OK:
        raise ValueError(REASONS[status])
    return 0


cdef Addr to_addr(bytes packed) except *:
    """4 or 16 bytes in network order."""
    cdef Addr a
    cdef const uint8_t *p = <const uint8_t *><const char *>packed
    if len(packed) == 4:
        return addr_v4(get_be32(p))
    if len(packed) != 16:
        raise ValueError("an address has 4 or 16 bytes")
    a.hi = get_be64(p)
    a.lo = get_be64(p + 8)
    return a


cdef bytes from_addr(const Addr *a):
    cdef uint8_t out[16]
    put_be64(out, a.hi)
    put_be64(out + 8, a.lo)
    return out[:16]


cdef int set_mac(uint8_t *to, bytes mac) except -1:
    if len(mac) != 6:
        raise ValueError("an Ethernet address has 6 bytes")
    memcpy(to, <const char *>mac, 6)
    return 0


cdef int number(uint16_t folded):
    """A checksum in native order as the number that stands in the packet."""
    cdef uint8_t out[2]
    csum_store(out, folded)
    return get_be16(out)


def checksum(bytes data, split=None):
    """The Internet checksum of `data` (RFC 1071) as the 16-bit number that stands in the packet.

    split: offset in bytes at which the sum is made in two parts and joined (an odd one needs a byte swap).
    """
    cdef uint8_t *p = exact_copy(data)
    cdef size_t n = len(data), at = n if split is None else min(<size_t>split, n)
    cdef unsigned long long sum = csum_partial(p, at, 0)
    if at & 1:
        sum += csum_swap(csum_partial(p + at, n - at, 0))
    else:
        sum = csum_partial(p + at, n - at, sum)
    free(p)
    return number(csum_fold(sum))


def transport_checksum(bytes src, bytes dst, int proto, bytes segment):
    """The checksum of `segment` with its pseudo header (RFC 9293 §3.1; RFC 8200 §8.1 for 16-byte addresses)."""
    cdef Addr a = to_addr(src), b = to_addr(dst)
    cdef unsigned long long sum = csum_pseudo(&a, &b, <uint8_t>proto, <uint32_t>len(segment))
    return number(csum_fold(csum_partial(<const uint8_t *><const char *>segment, len(segment), sum)))


def parse_ethernet(bytes data):
    """Ethernet II header: dst, src, ethertype."""
    cdef wire.EthHdr h
    cdef uint8_t *p = exact_copy(data)
    cdef int status
    memset(&h, 0, sizeof(h))           # for the compiler, which cannot see that check() raises
    status = wire.eth_parse(p, <uint32_t>len(data), &h)
    free(p)
    check(status)
    return {"dst": h.dst[:6], "src": h.src[:6], "ethertype": h.ethertype}


def emit_ethernet(bytes dst, bytes src, uint16_t ethertype):
    """Ethernet II header, 14 bytes."""
    cdef wire.EthHdr h
    cdef uint8_t out[14]
    set_mac(h.dst, dst)
    set_mac(h.src, src)
    h.ethertype = ethertype
    return out[:wire.eth_emit(out, &h)]


def parse_arp(bytes data):
    """ARP for Ethernet and IPv4 (RFC 826): op, sha, spa, tha, tpa."""
    cdef wire.ArpPkt h
    cdef uint8_t *p = exact_copy(data)
    cdef int status = wire.arp_parse(p, <uint32_t>len(data), &h)
    free(p)
    check(status)
    return {"op": h.op, "sha": h.sha[:6], "spa": h.spa, "tha": h.tha[:6], "tpa": h.tpa}


def emit_arp(uint16_t op, bytes sha, uint32_t spa, bytes tha, uint32_t tpa):
    """ARP packet, 28 bytes."""
    cdef wire.ArpPkt h
    cdef uint8_t out[28]
    h.op = op
    set_mac(h.sha, sha)
    set_mac(h.tha, tha)
    h.spa = spa
    h.tpa = tpa
    return out[:wire.arp_emit(out, &h)]


def parse_ipv4(bytes data):
    """IPv4 header (RFC 791), checksum verified: hlen, tos, total_len, id, df, mf, frag_off, ttl, proto, src, dst."""
    cdef wire.Ip4Hdr h
    cdef uint8_t *p = exact_copy(data)
    cdef int status
    memset(&h, 0, sizeof(h))           # for the compiler, which cannot see that check() raises
    status = wire.ip4_parse(p, <uint32_t>len(data), &h)
    free(p)
    check(status)
    return {"hlen": h.hlen, "tos": h.tos, "total_len": h.total_len, "id": h.id, "df": bool(h.flags & wire.IP4_DF),
            "mf": bool(h.flags & wire.IP4_MF), "frag_off": h.frag_off, "ttl": h.ttl, "proto": h.proto, "src": h.src,
            "dst": h.dst}


def emit_ipv4(uint32_t src, uint32_t dst, uint8_t proto, uint16_t total_len, uint8_t tos=0, uint16_t id=0,
              bint df=False, bint mf=False, uint32_t frag_off=0, uint8_t ttl=64):
    """IPv4 header without options, 20 bytes, checksum filled in."""
    cdef wire.Ip4Hdr h
    cdef uint8_t out[20]
    h.tos = tos
    h.total_len = total_len
    h.id = id
    h.flags = (wire.IP4_DF if df else 0) | (wire.IP4_MF if mf else 0)
    h.frag_off = frag_off
    h.ttl = ttl
    h.proto = proto
    h.src = src
    h.dst = dst
    return out[:wire.ip4_emit(out, &h)]


def check_ipv4_options(bytes options):
    """Walk the options of an IPv4 header (0 to 40 bytes, what stands behind the first 20).

    Returns (ok, offset of the fault from the header's start or 0, whether a source route is there).
    """
    cdef uint8_t *p
    cdef uint32_t where = 0
    cdef bint source_route = False
    if len(options) > 40:
        raise ValueError("IPv4 options have at most 40 bytes")
    p = exact_copy(b"\x4f" + bytes(19) + options)
    status = wire.ip4_options_check(p, <uint32_t>(wire.IP4_HLEN + len(options)), &where, &source_route)
    free(p)
    return status == wire.WIRE_OK, where, bool(source_route)


def parse_icmp(bytes data, bint csum_ok=False):
    """ICMP header (RFC 792), checksum over all of `data` verified unless csum_ok: type, code, rest (second word)."""
    cdef wire.Icmp4Hdr h
    cdef uint8_t *p = exact_copy(data)
    cdef int status = wire.icmp4_parse(p, <uint32_t>len(data), &h, csum_ok)
    free(p)
    check(status)
    return {"type": h.type, "code": h.code, "rest": h.rest}


def emit_icmp(uint8_t type, uint8_t code, uint32_t rest, bytes payload=b""):
    """ICMP message: 8 bytes of header with the checksum over it and `payload`, and the payload."""
    cdef wire.Icmp4Hdr h
    cdef uint8_t out[8]
    h.type = type
    h.code = code
    h.rest = rest
    message = bytearray(out[:wire.icmp4_emit(out, &h)] + payload)
    message[2:4] = checksum(bytes(message)).to_bytes(2, "big")
    return bytes(message)


def parse_udp(bytes data):
    """UDP header (RFC 768): sport, dport, length, checksum (not verified)."""
    cdef wire.UdpHdr h
    cdef uint8_t *p = exact_copy(data)
    cdef int status = wire.udp_parse(p, <uint32_t>len(data), &h)
    free(p)
    check(status)
    return {"sport": h.sport, "dport": h.dport, "length": h.length, "checksum": number(h.checksum)}


def emit_udp(uint16_t sport, uint16_t dport, uint16_t length, uint16_t checksum=0):
    """UDP header, 8 bytes."""
    cdef wire.UdpHdr h
    cdef uint8_t out[8]
    h.sport = sport
    h.dport = dport
    h.length = length
    put_be16(<uint8_t *>&h.checksum, checksum)
    return out[:wire.udp_emit(out, &h)]


def parse_tcp(bytes data):
    """TCP header (RFC 9293 §3.1): sport, dport, seq, ack, hlen, flags, wnd, urg; the checksum is not verified."""
    cdef wire.TcpHdr h
    cdef uint8_t *p = exact_copy(data)
    cdef int status
    memset(&h, 0, sizeof(h))           # for the compiler, which cannot see that check() raises
    status = wire.tcp_parse(p, <uint32_t>len(data), &h)
    free(p)
    check(status)
    return {"sport": h.sport, "dport": h.dport, "seq": h.seq, "ack": h.ack, "hlen": h.hlen, "flags": h.flags,
            "wnd": h.wnd, "urg": h.urg}


def emit_tcp(uint16_t sport, uint16_t dport, uint32_t seq, uint32_t ack, uint8_t flags, uint16_t wnd, uint16_t urg=0,
             uint8_t hlen=20):
    """TCP header without options, 20 bytes; checksum 0; `hlen` (bytes) is what the data offset says."""
    cdef wire.TcpHdr h
    cdef uint8_t out[20]
    h.sport = sport
    h.dport = dport
    h.seq = seq
    h.ack = ack
    h.flags = flags
    h.wnd = wnd
    h.urg = urg
    h.hlen = hlen
    return out[:wire.tcp_emit(out, &h)]


def classify_address(bytes packed):
    """What the inline predicates of wire/addr say of an address (4 or 16 bytes): a set of names."""
    cdef Addr a = to_addr(packed)
    said = {"v4": addr_is_v4(&a), "any": addr_is_any(&a), "loopback": addr_is_loopback(&a),
            "multicast": addr_is_multicast(&a), "broadcast": addr_is_broadcast(&a)}
    return {name for name, true in said.items() if true}


def mask_address(bytes packed, int plen):
    """The first `plen` of 128 bits of an address, as 16 bytes."""
    cdef Addr a = to_addr(packed)
    cdef Addr masked = addr_mask(&a, plen)
    return from_addr(&masked)


def in_prefix(bytes packed, bytes prefix, int plen):
    """Whether the first `plen` of 128 bits are equal."""
    cdef Addr a = to_addr(packed), b = to_addr(prefix)
    return bool(addr_in_prefix(&a, &b, plen))
