"""Script packets as IP bytes, and IP bytes as what a script can say about them.

RFC 791, 792, 8200, 4443, 768, 9293 §3.1. In scripts of both families an ICMP error has the
names of IPv4's: over IPv6 it is what a translator makes of it (RFC 7915 §4.2).
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from tap_harness.packetdrill.script import Tcp, TcpOption, Unsupported
from tap_harness.segment import checksum

_FLAG_BITS = {"F": 1, "S": 2, "R": 4, "P": 8, ".": 16, "U": 32, "E": 64, "W": 128, "A": 256}
_ICMP, _TCP, _UDP, _ICMP6 = 1, 6, 17, 58
_ICMP6_OF = {  # (type, code) of IPv4, or the type with any code -> of IPv6
    (3, 2): (4, 1), (3, 3): (1, 4), (3, 4): (2, 0), (3, 9): (1, 1), (3, 10): (1, 1), (3, 13): (1, 1), 3: (1, 0),
    (11, 1): (3, 1), 11: (3, 0), 12: (4, 0),
}  # fmt: skip
_PERIOD = 251
_FASTOPEN_MAGIC = b"\xf9\x89"  # RFC 7413 §6
_BYTES = bytes(range(_PERIOD)) * 600


@dataclass(frozen=True)
class Addresses:
    """The two ends: the stack's (local) and the scripted peer's (remote)."""

    local: str
    remote: str

    @property
    def is_v6(self) -> bool:
        """Whether they are of IPv6."""
        return ":" in self.local


@dataclass(frozen=True)
class Got:
    """A packet of the stack, with raw sequence numbers; time in ns of virtual time."""

    time: int
    protocol: int
    sport: int
    dport: int
    ecn: int
    data: bytes
    right: bool
    flags: str = ""
    seq: int = 0
    ack: int = 0
    win: int = 0
    urg: int = 0
    options: tuple[TcpOption, ...] = ()

    @property
    def is_tcp(self) -> bool:
        """Whether it is a TCP segment."""
        return self.protocol == _TCP


def pattern(offset: int, length: int) -> bytes:
    """The bytes of a stream from an offset on, which are the same in every script."""
    start = offset % _PERIOD
    if start + length <= len(_BYTES):
        return _BYTES[start : start + length]
    return (_BYTES * (1 + (start + length) // len(_BYTES)))[start : start + length]


def flags_number(letters: str) -> int:
    """The bits of the language's flag letters."""
    return sum(_FLAG_BITS.get(letter, 0) for letter in letters)


def option_bytes(options: tuple[TcpOption, ...]) -> bytes:
    """TCP options on the wire, filled up with end-of-list to a multiple of 4."""
    made = b""
    for name, *values in options:
        if name == "nop":
            made += b"\1"
        elif name == "eol":
            made += b"\0"
        elif name == "mss":
            made += struct.pack("!BBH", 2, 4, *values)
        elif name == "wscale":
            made += struct.pack("!BBB", 3, 3, *values)
        elif name == "sackOK":
            made += b"\4\2"
        elif name == "sack":
            made += struct.pack("!BB", 5, 2 + 8 * len(values))
            made += b"".join(struct.pack("!II", *block) for block in values)
        elif name == "FO":
            made += bytes([34, 2 + len(values[0])]) + values[0]
        elif name == "FOEXP":
            made += bytes([254, 4 + len(values[0])]) + _FASTOPEN_MAGIC + values[0]
        else:
            made += struct.pack("!BBII", 8, 10, *values)
    return made + b"\0" * (-len(made) % 4)


def read_options(raw: bytes) -> tuple[TcpOption, ...]:
    """TCP options from the wire; what cannot be read is one ("kind N", bytes)."""
    found: list[TcpOption] = []
    at = 0
    while at < len(raw):
        kind = raw[at]
        if kind <= 1:
            found.append(("nop",) if kind else ("eol",))
            at += 1
            continue
        length = raw[at + 1] if at + 1 < len(raw) else 0
        body = raw[at + 2 : at + length]
        if length < 2 or at + length > len(raw):
            return (*found, (f"broken {raw[at:].hex()}",))
        found.append(_read_option(kind, body))
        at += length
    return tuple(found)


def _read_option(kind: int, body: bytes) -> TcpOption:
    if kind == 2 and len(body) == 2:
        return ("mss", int.from_bytes(body, "big"))
    if kind == 3 and len(body) == 1:
        return ("wscale", body[0])
    if kind == 4 and not body:
        return ("sackOK",)
    if kind == 5 and body and len(body) % 8 == 0:
        return ("sack", *struct.iter_unpack("!II", body))
    if kind == 34:
        return ("FO", body)
    if kind == 254 and body[:2] == _FASTOPEN_MAGIC:
        return ("FOEXP", body[2:])
    if kind == 8 and len(body) == 8:
        return ("TS", *struct.unpack("!II", body))
    return (f"kind {kind} {body.hex()}",)


def ip_packet(source: str, destination: str, protocol: int, payload: bytes, ecn: int = 0) -> bytes:
    """An IPv4 packet with DF, or an IPv6 packet."""
    if ":" in source:
        return (
            struct.pack("!IHBB", 6 << 28 | ecn << 20, len(payload), protocol, 255)
            + _ends(source, destination)
            + payload
        )
    header = struct.pack("!BBHHHBBH", 0x45, ecn, 20 + len(payload), 0, 0x4000, 255, protocol, 0)
    header += _ends(source, destination)
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def _ends(source: str, destination: str) -> bytes:
    return ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed


def _pseudo(ends: bytes, protocol: int, length: int) -> bytes:
    """What the transport's checksum is also over (RFC 9293 §3.1, RFC 8200 §8.1)."""
    return ends + (struct.pack("!BBH", 0, protocol, length) if len(ends) == 8 else struct.pack("!II", length, protocol))


def _sealed(source: str, destination: str, protocol: int, payload: bytes, at: int, ecn: int) -> bytes:
    """The IP packet with the transport's checksum put at offset `at`."""
    total = checksum(_pseudo(_ends(source, destination), protocol, len(payload)) + payload)
    payload = payload[:at] + struct.pack("!H", total) + payload[at + 2 :]
    return ip_packet(source, destination, protocol, payload, ecn)


def tcp_packet(ends: Addresses, sport: int, dport: int, segment: Tcp, data: bytes, ecn: int) -> bytes:
    """An inbound segment whose seq, ack and options are those of the wire already."""
    options = option_bytes(segment.options or ())
    header = struct.pack(
        "!HHIIBBHHH",
        sport,
        dport,
        segment.seq,
        segment.ack or 0,
        (20 + len(options)) // 4 << 4 | flags_number(segment.flags) >> 8,
        flags_number(segment.flags) & 0xFF,
        segment.win or 0,
        0,
        segment.urg,
    )
    return _sealed(ends.remote, ends.local, _TCP, header + options + data, 16, ecn)


def udp_packet(ends: Addresses, sport: int, dport: int, data: bytes, ecn: int) -> bytes:
    """An inbound datagram."""
    return _sealed(ends.remote, ends.local, _UDP, struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data, 6, ecn)


def icmp_packet(ends: Addresses, kind: int, code: int, mtu: int, protocol: int, quoted: bytes) -> bytes:
    """An ICMP error of the peer that quotes 8 bytes of what the stack sent it. Raises Unsupported."""
    inner = ip_packet(ends.local, ends.remote, protocol, quoted)
    if ends.is_v6:
        found = _ICMP6_OF.get((kind, code)) or _ICMP6_OF.get(kind)
        if found is None:
            raise Unsupported("IPv6 has no such ICMP message")
        return _sealed(ends.remote, ends.local, _ICMP6, struct.pack("!BBHI", *found, 0, mtu) + inner, 2, 0)
    body = struct.pack("!BBHHH", kind, code, 0, 0, mtu) + inner
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    return ip_packet(ends.remote, ends.local, _ICMP, body)


def quoted_tcp(sport: int, dport: int, seq: int) -> bytes:
    """The first 8 bytes of a segment of the stack."""
    return struct.pack("!HHI", sport, dport, seq)


def quoted_udp(sport: int, dport: int) -> bytes:
    """The first 8 bytes of a datagram of the stack."""
    return struct.pack("!HHHH", sport, dport, 8, 0)


def read_packet(time: int, packet: bytes) -> Got:
    """An IP packet of the stack."""
    if packet[0] >> 4 == 6:
        total, protocol, ecn = int.from_bytes(packet[4:6], "big"), packet[6], packet[1] >> 4 & 3
        payload, ends, right = packet[40 : 40 + total], packet[8:40], True
    else:
        start = (packet[0] & 15) * 4
        total = int.from_bytes(packet[2:4], "big")
        protocol, ecn, payload, ends = packet[9], packet[1] & 3, packet[start:total], packet[12:20]
        right = checksum(packet[:start]) == 0
    right = right and (protocol == _ICMP or checksum(_pseudo(ends, protocol, len(payload)) + payload) == 0)
    if protocol == _TCP and len(payload) >= 20:
        sport, dport, seq, ack, offset, bits, win, _, urg = struct.unpack_from("!HHIIBBHHH", payload)
        bits |= (offset & 1) << 8
        letters = "".join(letter for letter in "SFRP.EWUA" if bits & _FLAG_BITS[letter])
        end = (offset >> 4) * 4
        options = read_options(payload[20:end])
        return Got(time, protocol, sport, dport, ecn, payload[end:], right, letters, seq, ack, win, urg, options)
    if protocol == _UDP and len(payload) >= 8:
        sport, dport = struct.unpack_from("!HH", payload)
        return Got(time, protocol, sport, dport, ecn, payload[8:], right)
    return Got(time, protocol, 0, 0, ecn, payload, right)
