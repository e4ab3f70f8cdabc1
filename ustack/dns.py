"""DNS messages: queries made, answers read.

Responsible for the layout of messages (RFC 1035 §4), EDNS0's OPT record (RFC 6891) and the few kinds of data a resolver
needs. Not for: whom to ask and what to believe (ustack/resolver.py). Every length and offset of a message is checked: a
compression pointer may only point backwards, a name has at most 255 bytes, so that reading ends for any input.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

A, NS, CNAME, SOA, PTR, TXT, AAAA, SRV, OPT, NSEC, ANY = 1, 2, 5, 6, 12, 16, 28, 33, 41, 47, 255
IN = 1
TOP_BIT = 0x8000  # of a class in multicast DNS: cache-flush, or unicast-response (RFC 6762 §18.12, §18.13)
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
QR, AA, TC, RD = 0x8000, 0x0400, 0x0200, 0x0100
MAX_NAME = 255  # bytes on the wire (RFC 1035 §2.3.4)
MAX_LABEL = 63

_HEADER = struct.Struct("!6H")
_FIXED = struct.Struct("!HHIH")  # type, class, TTL, length of the data
_OPCODE = 0x7800


class DnsError(ValueError):
    """A message or a name that is none."""


@dataclass(frozen=True)
class Record:
    """A resource record. data: an address's text (A, AAAA), a name (CNAME, NS, PTR), (priority, weight, port, name)
    (SRV), SOA's minimum, else the bytes.

    ttl in seconds. flush: of multicast DNS, the whole set of this name and type is in the message.
    """

    name: str
    type: int
    ttl: int
    data: Any
    flush: bool = False


@dataclass(frozen=True)
class Message:
    """A message as it was read. questions: (name, type, class); names keep their case."""

    id: int
    flags: int
    questions: tuple[tuple[str, int, int], ...]
    answers: tuple[Record, ...]
    authority: tuple[Record, ...]
    additional: tuple[Record, ...]

    @property
    def rcode(self) -> int:
        """The response code, with EDNS0's upper bits."""
        upper = next((one.ttl >> 24 for one in self.additional if one.type == OPT), 0)
        return upper << 4 | self.flags & 15

    @property
    def is_response(self) -> bool:
        """Whether it answers a standard query."""
        return self.flags & (QR | _OPCODE) == QR

    @property
    def truncated(self) -> bool:
        """Whether more of it may be had over TCP."""
        return bool(self.flags & TC)


# -- names


def encode_name(name: str) -> bytes:
    r"""A name on the wire, uncompressed. A backslash escapes: `\.`, `\DDD` (RFC 1035 §5.1). Raises DnsError."""
    wire = b""
    for label in _labels(name):
        if not 1 <= len(label) <= MAX_LABEL:
            raise DnsError(f"{name!r}: a label of {len(label)} bytes")
        wire += bytes([len(label)]) + label
    if len(wire) >= MAX_NAME:
        raise DnsError(f"{name!r} is longer than {MAX_NAME} bytes")
    return wire + b"\0"


def _labels(name: str) -> list[bytes]:
    if name in ("", "."):
        return []
    labels, label, i = [], bytearray(), 0
    try:
        raw = name.encode("ascii")
    except UnicodeEncodeError:
        raise DnsError(f"{name!r} is not ASCII") from None
    while i < len(raw):
        if raw[i] == ord("."):
            labels.append(bytes(label))
            label.clear()
            i += 1
        elif raw[i] == ord("\\") and raw[i + 1 : i + 4].isdigit() and len(raw) >= i + 4:
            if int(raw[i + 1 : i + 4]) > 255:
                raise DnsError(f"{name!r}: no byte has this number")
            label.append(int(raw[i + 1 : i + 4]))
            i += 4
        elif raw[i] == ord("\\"):
            if i + 1 == len(raw):
                raise DnsError(f"{name!r} ends within an escape")
            label.append(raw[i + 1])
            i += 2
        else:
            label.append(raw[i])
            i += 1
    if label or not name.endswith("."):
        labels.append(bytes(label))
    return labels


def _text(label: bytes) -> str:
    return "".join("\\" + chr(b) if b in b".\\" else chr(b) if 0x21 <= b <= 0x7E else f"\\{b:03}" for b in label)


def decode_name(message: bytes, offset: int) -> tuple[str, int]:
    """(name, offset behind it). The root is ".". Raises DnsError."""
    labels: list[str] = []
    size, end, lowest = 1, -1, offset
    while True:
        if offset >= len(message):
            raise DnsError("a name goes beyond the message")
        length = message[offset]
        if length >= 0xC0:
            if offset + 2 > len(message):
                raise DnsError("a pointer goes beyond the message")
            target = (length & 0x3F) << 8 | message[offset + 1]
            if target >= lowest:  # RFC 1035 §4.1.4: a prior occurrence; and so there is no loop
                raise DnsError("a pointer that does not point back")
            end = offset + 2 if end < 0 else end
            offset = lowest = target
            continue
        if length > MAX_LABEL:
            raise DnsError("a label of an unknown kind")
        offset += 1
        if length == 0:
            return ".".join(labels) or ".", offset if end < 0 else end
        size += length + 1
        if size > MAX_NAME or offset + length > len(message):
            raise DnsError("a name is too long")
        labels.append(_text(message[offset : offset + length]))
        offset += length


def same_name(one: str, other: str) -> bool:
    """Whether two names are one, whatever their case and whether or not they end in a dot."""
    return one.rstrip(".").lower() == other.rstrip(".").lower()


# -- messages


def make_query(id: int, name: str, type: int, udp_size: int = 0) -> bytes:
    """A query, recursion desired. udp_size: what EDNS0 offers to take in a datagram; 0: without EDNS0."""
    message = _HEADER.pack(id, RD, 1, 0, 0, 1 if udp_size else 0)
    message += encode_name(name) + struct.pack("!HH", type, IN)
    return message + (b"\0" + _FIXED.pack(OPT, udp_size, 0, 0) if udp_size else b"")


def build(
    id: int,
    flags: int,
    questions: Iterable[tuple[str, int, int]] = (),
    answers: Iterable[Record] = (),
    authority: Iterable[Record] = (),
    additional: Iterable[Record] = (),
) -> bytes:
    """A message's bytes, names uncompressed. questions: (name, type, class). Raises DnsError."""
    asked = list(questions)
    sections = [list(answers), list(authority), list(additional)]
    message = _HEADER.pack(id, flags, len(asked), *(len(one) for one in sections))
    for name, type, cls in asked:
        message += encode_name(name) + struct.pack("!HH", type, cls)
    return message + b"".join(_encode_record(record) for section in sections for record in section)


def _encode_record(record: Record) -> bytes:
    data = encode_data(record)
    cls = IN | (TOP_BIT if record.flush else 0)
    return encode_name(record.name) + _FIXED.pack(record.type, cls, record.ttl, len(data)) + data


def encode_data(record: Record) -> bytes:
    """A record's data on the wire: of A, AAAA, CNAME, NS, PTR, SRV, and of types whose data are bytes."""
    if record.type in (A, AAAA):
        return ipaddress.ip_address(record.data).packed
    if record.type in (CNAME, NS, PTR):
        return encode_name(record.data)
    if record.type == SRV:
        return struct.pack("!HHH", *record.data[:3]) + encode_name(record.data[3])
    return bytes(record.data)


def encode_texts(texts: Iterable[bytes]) -> bytes:
    """TXT's data (RFC 1035 §3.3.14); of none, one empty string (RFC 6763 §6.1). Raises DnsError."""
    listed = list(texts) or [b""]
    if any(len(one) > 255 for one in listed):
        raise DnsError("a text of more than 255 bytes")
    return b"".join(bytes([len(one)]) + one for one in listed)


def decode_texts(data: bytes) -> tuple[bytes, ...]:
    """The strings of TXT's data, up to the first that goes beyond it."""
    found, i = [], 0
    while i < len(data) and i + 1 + data[i] <= len(data):
        found.append(data[i + 1 : i + 1 + data[i]])
        i += 1 + data[i]
    return tuple(found)


def parse(message: bytes, multicast: bool = False) -> Message:
    """Read a message; records of other classes than IN are left out. multicast: with its top bit. Raises DnsError."""
    if len(message) < _HEADER.size:
        raise DnsError("shorter than a header")
    id, flags, *counts = _HEADER.unpack_from(message)
    offset = _HEADER.size
    questions = []
    for _ in range(counts[0]):
        name, offset = decode_name(message, offset)
        if offset + 4 > len(message):
            raise DnsError("a question goes beyond the message")
        questions.append((name, *struct.unpack_from("!HH", message, offset)))
        offset += 4
    sections = []
    for count in counts[1:]:
        section, offset = _parse_records(message, offset, count, multicast)
        sections.append(tuple(section))
    return Message(id, flags, tuple(questions), *sections)


def _parse_records(message: bytes, offset: int, count: int, multicast: bool) -> tuple[list[Record], int]:
    found = []
    for _ in range(count):
        name, offset = decode_name(message, offset)
        if offset + _FIXED.size > len(message):
            raise DnsError("a record goes beyond the message")
        type, cls, ttl, length = _FIXED.unpack_from(message, offset)
        offset += _FIXED.size
        if offset + length > len(message):
            raise DnsError("a record's data goes beyond the message")
        if type == OPT:
            found.append(Record(name, type, ttl, cls))
        elif cls == IN or (multicast and cls == IN | TOP_BIT):
            data = _parse_data(message, offset, length, type)
            # RFC 2181 §8: a TTL with the uppermost bit is 0.
            found.append(Record(name, type, ttl if ttl < 1 << 31 else 0, data, cls != IN))
        offset += length
    return found, offset


def _parse_data(message: bytes, offset: int, length: int, type: int) -> Any:
    data = message[offset : offset + length]
    if type in (A, AAAA):
        if length != (4 if type == A else 16):
            raise DnsError("an address of the wrong length")
        return str(ipaddress.ip_address(data))
    if type not in (CNAME, NS, PTR, SOA, SRV):
        return data
    if type == SRV and length < 7:
        raise DnsError("a service record of the wrong length")
    name, end = decode_name(message, offset + 6 if type == SRV else offset)
    if type == SOA:
        _, end = decode_name(message, end)
        end += 20
        if end == offset + length:
            return int.from_bytes(message[end - 4 : end], "big")
    if end != offset + length:
        raise DnsError("a record's data is not as long as it says")
    return (*struct.unpack_from("!HHH", data), name) if type == SRV else name
