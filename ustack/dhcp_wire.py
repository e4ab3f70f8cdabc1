"""DHCPv4 messages: made and read.

Responsible for the layout of messages and options: RFC 2131 §2, RFC 2132, long options (RFC 3396), classless routes
(RFC 3442), the search list (RFC 3397). Not for: when a message is sent and believed (ustack/dhcp_machine.py). Every
length of an option is checked against what was received.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from . import dns

BOOTREQUEST, BOOTREPLY = 1, 2
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
SUBNET_MASK, ROUTER, DNS_SERVERS, HOSTNAME, DOMAIN, MTU, BROADCAST = 1, 3, 6, 12, 15, 26, 28
REQUESTED_ADDRESS, LEASE_TIME, OVERLOAD, MESSAGE_TYPE, SERVER_ID, PARAMETERS = 50, 51, 52, 53, 54, 55
MESSAGE, MAX_SIZE, T1, T2, CLIENT_ID, SEARCH, ROUTES = 56, 57, 58, 59, 61, 119, 121
BROADCAST_FLAG = 0x8000
FOREVER = 0xFFFFFFFF

_FIXED = struct.Struct("!4BIHH4s4s4s4s16s64s128s")
_COOKIE = b"\x63\x82\x53\x63"
_PAD, _END = 0, 255
_LEAST = 300  # bytes that BOOTP's relays and servers expect (RFC 951, RFC 1542 §2.1)
_ANY = IPv4Address(0)


class DhcpError(ValueError):
    """A message or an option that is none."""


@dataclass(frozen=True)
class Message:
    """A message. options: number -> bytes, an option that came in pieces put together."""

    op: int
    xid: int
    chaddr: bytes
    options: Mapping[int, bytes]
    secs: int = 0
    flags: int = 0
    ciaddr: IPv4Address = _ANY
    yiaddr: IPv4Address = _ANY
    siaddr: IPv4Address = _ANY
    giaddr: IPv4Address = _ANY

    @property
    def type(self) -> int:
        """DISCOVER, …; 0 for none."""
        value = self.options.get(MESSAGE_TYPE, b"")
        return value[0] if len(value) == 1 else 0

    def address(self, option: int) -> IPv4Address | None:
        """An option that is one address, or begins with one; None where it is missing or no address."""
        value = self.options.get(option, b"")
        return IPv4Address(value[:4]) if len(value) >= 4 and len(value) % 4 == 0 else None

    def addresses(self, option: int) -> tuple[IPv4Address, ...]:
        """An option that is a list of addresses."""
        value = self.options.get(option, b"")
        return tuple(IPv4Address(value[i : i + 4]) for i in range(0, len(value) - len(value) % 4, 4))

    def number(self, option: int, size: int = 4) -> int | None:
        """An option that is a number of that many bytes."""
        value = self.options.get(option, b"")
        return int.from_bytes(value, "big") if len(value) == size else None

    def text(self, option: int) -> str | None:
        """An option that is text; None where it is missing or not printable ASCII."""
        text = self.options.get(option, b"").rstrip(b"\0").decode("ascii", "replace")
        return text if text and text.isascii() and text.isprintable() else None

    def prefix_length(self) -> int | None:
        """The subnet mask's; None where there is none, or one with holes."""
        mask = self.number(SUBNET_MASK)
        if not mask:
            return None
        ones = bin(mask).count("1")
        return ones if mask == (0xFFFFFFFF << (32 - ones)) & 0xFFFFFFFF else None

    def routes(self) -> tuple[tuple[IPv4Network, IPv4Address], ...] | None:
        """Option 121: (destination, router or 0.0.0.0 for on-link); None where it is missing or wrong."""
        value = self.options.get(ROUTES)
        if not value:
            return None
        found, i = [], 0
        while i < len(value):
            width = value[i]
            size = (width + 7) // 8
            if width > 32 or i + 1 + size + 4 > len(value):
                return None
            number = int.from_bytes(value[i + 1 : i + 1 + size] + bytes(4 - size), "big")
            network = ipaddress.ip_network((number, width), strict=False)
            assert isinstance(network, IPv4Network)
            found.append((network, IPv4Address(value[i + 1 + size : i + 5 + size])))
            i += 5 + size
        return tuple(found)

    def search(self) -> tuple[str, ...]:
        """Option 119's domains, up to the first that is none; pointers count from the option's beginning."""
        value, names, i = self.options.get(SEARCH, b""), [], 0
        while i < len(value):
            try:
                name, i = dns.decode_name(value, i)
            except dns.DnsError:
                break
            if name != ".":
                names.append(name)
        return tuple(names)


def build(message: Message) -> bytes:
    """A message's bytes. Raises DhcpError where it cannot be one."""
    options = b""
    for number, value in message.options.items():
        if not 0 < number < 255 or len(value) > 255:
            raise DhcpError(f"option {number} of {len(value)} bytes")
        options += bytes([number, len(value)]) + value
    fixed = _FIXED.pack(
        message.op, 1, len(message.chaddr), 0, message.xid, message.secs, message.flags, message.ciaddr.packed,
        message.yiaddr.packed, message.siaddr.packed, message.giaddr.packed, message.chaddr, b"", b"",
    )  # fmt: skip
    return (fixed + _COOKIE + options + bytes([_END])).ljust(_LEAST, b"\0")


def parse(data: bytes) -> Message:
    """Read a message. Raises DhcpError."""
    if len(data) < _FIXED.size + len(_COOKIE):
        raise DhcpError("shorter than a message's fixed part")
    op, htype, hlen, _, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, sname, file = _FIXED.unpack_from(data)
    if data[_FIXED.size : _FIXED.size + 4] != _COOKIE:
        raise DhcpError("no DHCP message")
    if htype != 1 or hlen != 6:
        raise DhcpError("another kind of hardware address")
    options: dict[int, bytes] = {}
    _read_options(data[_FIXED.size + 4 :], options)
    overload = options.pop(OVERLOAD, b"\0")[:1]  # RFC 2131 §4.1: file first, then sname; neither can say it again
    if overload in (b"\1", b"\3"):
        _read_options(file, options)
    if overload in (b"\2", b"\3"):
        _read_options(sname, options)
    options.pop(OVERLOAD, None)
    return Message(
        op, xid, chaddr[:6], options, secs, flags,
        IPv4Address(ciaddr), IPv4Address(yiaddr), IPv4Address(siaddr), IPv4Address(giaddr),
    )  # fmt: skip


def _read_options(data: bytes, into: dict[int, bytes]) -> None:
    """Options up to END, or to the data's end: servers that forget END are many."""
    i = 0
    while i < len(data) and data[i] != _END:
        if data[i] == _PAD:
            i += 1
            continue
        if i + 2 > len(data) or i + 2 + data[i + 1] > len(data):
            raise DhcpError("an option goes beyond the message")
        number, value = data[i], data[i + 2 : i + 2 + data[i + 1]]
        into[number] = into.get(number, b"") + value  # RFC 3396
        i += 2 + len(value)
