"""TCP segments as bytes, built and parsed fast and independently of the stack under test (and of scapy).

For floods and bulk transfers, where scapy's few hundred microseconds a packet are too many. IPv4 and IPv6 (without
extension headers) over Ethernet; for anything odd use scapy. RFC 791, 8200, 9293 §3.1, 1071.
"""

import ipaddress
import struct
from dataclasses import dataclass

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 1, 2, 4, 8, 16, 32, 64, 128
MODULUS = 1 << 32
ETHERTYPE_IPV4, ETHERTYPE_ARP, ETHERTYPE_IPV6 = b"\x08\x00", b"\x08\x06", b"\x86\xdd"


def checksum(data: bytes) -> int:
    """The Internet checksum of data (RFC 1071): what goes into the field, 0..0xffff."""
    if len(data) % 2:
        data += b"\0"
    total = int.from_bytes(data, "big") % 0xFFFF  # 2**16 is 1 modulo 2**16 - 1: the remainder is the folded sum
    return 0xFFFF - total if total or not any(data) else 0


def seq_diff(a: int, b: int) -> int:
    """a - b in sequence space, as a signed number (RFC 9293 §3.4)."""
    return (a - b + (1 << 31)) % MODULUS - (1 << 31)


@dataclass(frozen=True)
class Segment:
    """A parsed segment. seq, ack, win as on the wire (win unscaled); options and data as bytes."""

    src: str
    dst: str
    sport: int
    dport: int
    seq: int
    ack: int
    flags: int
    win: int
    options: bytes
    data: bytes

    @property
    def length(self) -> int:
        """Sequence numbers it occupies: data, SYN and FIN."""
        return len(self.data) + bool(self.flags & SYN) + bool(self.flags & FIN)


@dataclass
class Path:
    """The constant part of one direction of a connection: Ethernet and IP addresses and ports."""

    src_mac: str
    dst_mac: str
    src: str
    dst: str
    sport: int
    dport: int

    def __post_init__(self) -> None:
        self._src = ipaddress.ip_address(self.src).packed
        self._dst = ipaddress.ip_address(self.dst).packed
        self._ether = bytes.fromhex(self.dst_mac.replace(":", "")) + bytes.fromhex(self.src_mac.replace(":", ""))

    def frame(
        self, seq: int, ack: int, flags: int, win: int = 65535, data: bytes = b"", options: bytes = b"", ttl: int = 64
    ) -> bytes:
        """A whole Ethernet frame with right lengths and checksums. `options` is padded to a multiple of 4 with EOL."""
        options += b"\0" * (-len(options) % 4)
        offset = (20 + len(options)) // 4 << 4
        tcp = (
            struct.pack("!HHIIBBHHH", self.sport, self.dport, seq % MODULUS, ack % MODULUS, offset, flags, win, 0, 0)
            + options
            + data
        )
        tcp = tcp[:16] + struct.pack("!H", checksum(self._src + self._dst + _rest_of_pseudo(tcp) + tcp)) + tcp[18:]
        if len(self._src) == 16:
            ip = struct.pack("!IHBB", 6 << 28, len(tcp), 6, ttl) + self._src + self._dst
            return self._ether + ETHERTYPE_IPV6 + ip + tcp
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, ttl, 6, 0) + self._src + self._dst
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
        return self._ether + ETHERTYPE_IPV4 + ip + tcp


def _rest_of_pseudo(tcp: bytes) -> bytes:
    """The pseudo header less the addresses: its sum is the same in both families (RFC 9293 §3.1, 8200 §8.1)."""
    return struct.pack("!HH", 6, len(tcp))


def is_resolution(frame: bytes) -> bool:
    """Whether a frame is ARP's, or Neighbor Discovery's."""
    kind, discovery = frame[12:14], frame[54:55]
    return kind == ETHERTYPE_ARP or (kind == ETHERTYPE_IPV6 and frame[20] == 58 and b"\x85" <= discovery <= b"\x89")


def _open4(frame: bytes) -> tuple[bytes, bytes, bytes] | None:
    """(source, destination, TCP segment) of an IPv4 packet in a frame."""
    if len(frame) < 54 or frame[14] >> 4 != 4 or frame[23] != 6:
        return None
    header = (frame[14] & 15) * 4
    total = int.from_bytes(frame[16:18], "big")
    ip = frame[14 : 14 + header]
    if int.from_bytes(ip[6:8], "big") & 0x3FFF or checksum(ip) != 0:
        return None
    return ip[12:16], ip[16:20], frame[14 + header : 14 + total]


def _open6(frame: bytes) -> tuple[bytes, bytes, bytes] | None:
    """The same of an IPv6 packet without extension headers."""
    if len(frame) < 74 or frame[14] >> 4 != 6 or frame[20] != 6:
        return None
    return frame[22:38], frame[38:54], frame[54 : 54 + int.from_bytes(frame[18:20], "big")]


def parse(frame: bytes) -> Segment | None:
    """The TCP segment in an Ethernet frame; None for anything else, a fragment, or a wrong checksum."""
    opened = {ETHERTYPE_IPV4: _open4, ETHERTYPE_IPV6: _open6}.get(frame[12:14])
    if opened is None or (found := opened(frame)) is None:
        return None
    src, dst, tcp = found
    if len(tcp) < 20 or checksum(src + dst + _rest_of_pseudo(tcp) + tcp) != 0:
        return None
    sport, dport, seq, ack, offset, flags, win = struct.unpack_from("!HHIIBBH", tcp)
    start = (offset >> 4) * 4
    return Segment(
        str(ipaddress.ip_address(src)),
        str(ipaddress.ip_address(dst)),
        sport,
        dport,
        seq,
        ack,
        flags,
        win,
        tcp[20:start],
        tcp[start:],
    )
