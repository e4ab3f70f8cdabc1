"""DHCPv6 messages: made and read.

Responsible for the layout of messages and options between client and server: RFC 8415 §8, §21; name servers and the
search list (RFC 3646), the client's name (RFC 4704). Not for: when a message is sent and believed
(ustack/dhcp6_machine.py). Options nest to a fixed depth (message, identity association, address, status); every length
is checked against what it lies in; more than a few dozen of anything is cut.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network

from . import dns

SOLICIT, ADVERTISE, REQUEST, CONFIRM, RENEW, REBIND, REPLY, RELEASE, DECLINE, RECONFIGURE, INFORMATION_REQUEST = range(
    1, 12
)
CLIENT_ID, SERVER_ID, IA_NA, IA_ADDRESS, REQUESTED, PREFERENCE, ELAPSED = 1, 2, 3, 5, 6, 7, 8
STATUS, RAPID_COMMIT, DNS_SERVERS, SEARCH, IA_PD, IA_PREFIX = 13, 14, 23, 24, 25, 26
REFRESH_TIME, CLIENT_NAME, SOL_MAX_RT, INF_MAX_RT = 32, 39, 82, 83
SUCCESS, UNSPECIFIED, NO_ADDRESSES, NO_BINDING, NOT_ON_LINK, USE_MULTICAST, NO_PREFIX = range(7)
FOREVER = 0xFFFFFFFF
DUID_LL, ETHERNET = 3, 1

_HEADER = struct.Struct("!HH")  # option, length
_MOST_OPTIONS = 128
_MOST_BINDINGS = 16  # in one identity association
_DUID_LENGTHS = range(3, 131)  # RFC 8415 §11.1


class Dhcp6Error(ValueError):
    """A message or an option that is none."""


@dataclass(frozen=True)
class Binding:
    """An address ("2001:db8::5") or a delegated prefix ("2001:db8:8000::/56"); lifetimes in s, FOREVER for no end."""

    what: str
    preferred: int
    valid: int


@dataclass(frozen=True)
class Association:
    """An IA_NA or IA_PD (kind): what a server gives, or a client has or wants. T1, T2 in s; 0: as the client likes."""

    kind: int
    iaid: int
    bindings: tuple[Binding, ...] = ()
    t1: int = 0
    t2: int = 0
    status: int = SUCCESS


@dataclass(frozen=True)
class Message:
    """A message. options: number -> bytes (the first, where an option that may be there once is there twice)."""

    type: int
    xid: int
    options: Mapping[int, bytes] = field(default_factory=dict)
    associations: tuple[Association, ...] = ()

    @property
    def status(self) -> int:
        """The status of the message as a whole."""
        return _status(self.options.get(STATUS))

    @property
    def preference(self) -> int:
        """Of an ADVERTISE: 0 to 255, the most wanted."""
        value = self.options.get(PREFERENCE, b"")
        return value[0] if len(value) == 1 else 0

    def duid(self, option: int) -> bytes | None:
        """CLIENT_ID's or SERVER_ID's; None where it is missing, or no DUID."""
        value = self.options.get(option, b"")
        return value if len(value) in _DUID_LENGTHS else None

    def number(self, option: int) -> int | None:
        """An option that is a number of four bytes."""
        value = self.options.get(option, b"")
        return int.from_bytes(value, "big") if len(value) == 4 else None

    def addresses(self, option: int) -> tuple[IPv6Address, ...]:
        """An option that is a list of addresses; empty where its length fits none."""
        value = self.options.get(option, b"")
        if len(value) % 16:
            return ()
        return tuple(IPv6Address(value[i : i + 16]) for i in range(0, len(value), 16))

    def search(self) -> tuple[str, ...]:
        """The domains of option 24, up to the first that is none; there are no pointers in it (RFC 8415 §10)."""
        value, names, i = self.options.get(SEARCH, b""), [], 0
        while i < len(value):
            try:
                name, end = dns.decode_name(value, i)
            except dns.DnsError:
                break
            if dns.encode_name(name) != value[i:end]:
                break
            i = end
            if name != ".":
                names.append(name)
        return tuple(names)


def duid_ll(mac: bytes) -> bytes:
    """The DUID of an Ethernet address (§11.4)."""
    return _HEADER.pack(DUID_LL, ETHERNET) + mac


# -- making


def option(number: int, value: bytes) -> bytes:
    """An option's bytes. Raises Dhcp6Error."""
    if len(value) > 0xFFFF:
        raise Dhcp6Error(f"option {number} of {len(value)} bytes")
    return _HEADER.pack(number, len(value)) + value


def numbers(values: Iterable[int]) -> bytes:
    """The value of an option request."""
    return b"".join(one.to_bytes(2, "big") for one in values)


def build(message: Message) -> bytes:
    """A message's bytes. Raises Dhcp6Error."""
    options = b"".join(option(number, value) for number, value in message.options.items())
    bound = b"".join(_build_association(one) for one in message.associations)
    return bytes([message.type]) + message.xid.to_bytes(3, "big") + options + bound


def _build_association(one: Association) -> bytes:
    value = struct.pack("!III", one.iaid, one.t1, one.t2)
    for binding in one.bindings:
        lifetimes = struct.pack("!II", binding.preferred, binding.valid)
        if one.kind == IA_NA:
            value += option(IA_ADDRESS, IPv6Address(binding.what).packed + lifetimes)
        else:
            network = IPv6Network(binding.what)
            length = bytes([network.prefixlen])
            value += option(IA_PREFIX, lifetimes + length + network.network_address.packed)
    if one.status != SUCCESS:
        value += option(STATUS, one.status.to_bytes(2, "big"))
    return option(one.kind, value)


# -- reading


def parse(data: bytes) -> Message:
    """Read a message. Raises Dhcp6Error."""
    if len(data) < 4:
        raise Dhcp6Error("shorter than a message's header")
    options: dict[int, bytes] = {}
    associations = []
    for number, value in _split(data[4:]):
        if number in (IA_NA, IA_PD):
            associations.append(_parse_association(number, value))
        else:
            options.setdefault(number, value)
    return Message(data[0], int.from_bytes(data[1:4], "big"), options, tuple(associations))


def _split(data: bytes) -> list[tuple[int, bytes]]:
    found, i = [], 0
    while i < len(data):
        if i + 4 > len(data):
            raise Dhcp6Error("an option's header goes beyond what it is in")
        number, length = _HEADER.unpack_from(data, i)
        i += 4
        if i + length > len(data):
            raise Dhcp6Error("an option goes beyond what it is in")
        found.append((number, data[i : i + length]))
        i += length
        if len(found) > _MOST_OPTIONS:
            raise Dhcp6Error("more options than any server sends")
    return found


def _parse_association(kind: int, value: bytes) -> Association:
    if len(value) < 12:
        raise Dhcp6Error("an identity association of the wrong length")
    iaid, t1, t2 = struct.unpack_from("!III", value)
    bindings, status = [], SUCCESS
    for number, inner in _split(value[12:]):
        if number == STATUS:
            status = _status(inner)
        elif number == (IA_ADDRESS if kind == IA_NA else IA_PREFIX):
            binding = _parse_address(inner) if kind == IA_NA else _parse_prefix(inner)
            bindings += [binding] if binding is not None else []
    return Association(kind, iaid, tuple(bindings[:_MOST_BINDINGS]), t1, t2, status)


def _parse_address(value: bytes) -> Binding | None:
    """None where the server says that this one is not to be had (§21.6), or where its lifetimes make no sense."""
    if len(value) < 24:
        raise Dhcp6Error("an address of the wrong length")
    preferred, valid = struct.unpack_from("!II", value, 16)
    if preferred > valid or _inner_status(value[24:]) != SUCCESS:
        return None
    return Binding(str(IPv6Address(value[:16])), preferred, valid)


def _parse_prefix(value: bytes) -> Binding | None:
    if len(value) < 25 or value[8] > 128:
        raise Dhcp6Error("a prefix of the wrong length")
    preferred, valid = struct.unpack_from("!II", value)
    if preferred > valid or value[8] == 0 or _inner_status(value[25:]) != SUCCESS:
        return None
    return Binding(str(IPv6Network((value[9:25], value[8]), strict=False)), preferred, valid)


def _inner_status(data: bytes) -> int:
    return next((_status(value) for number, value in _split(data) if number == STATUS), SUCCESS)


def _status(value: bytes | None) -> int:
    """A status option's code; the text behind it is not looked at."""
    if value is None:
        return SUCCESS
    return int.from_bytes(value[:2], "big") if len(value) >= 2 else UNSPECIFIED
