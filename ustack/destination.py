"""Which of several addresses of a name is tried first: destination address selection (RFC 6724 §6), with the default
policy table (§2.1).

Responsible for the order of what getaddrinfo() gives. Not for the source that goes with each, which is the engine's
choice (§5), nor for trying several at a time (connect). Not done: rule 4 (no mobile addresses here) and 7 (the stack
has no tunnels of its own).
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from socket import AF_INET, AF_INET6, AddressFamily
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .stack import Stack

Entry = tuple[AddressFamily, str, int]

_POLICY = sorted(
    (
        (ipaddress.IPv6Network(prefix), precedence, label)
        for prefix, precedence, label in (
            ("::1/128", 50, 0), ("::/0", 40, 1), ("::ffff:0:0/96", 35, 4), ("2002::/16", 30, 2), ("2001::/32", 5, 5),
            ("fc00::/7", 3, 13), ("::/96", 1, 3), ("fec0::/10", 1, 11), ("3ffe::/16", 1, 12),
        )
    ),
    key=lambda row: -row[0].prefixlen,
)  # fmt: skip
_LINK, _SITE, _GLOBAL = 2, 5, 14  # RFC 4291 §2.7
_MAPPED = 0xFFFF << 32
_ANY_PORT = 9


def _wide(address: str) -> ipaddress.IPv6Address:
    """An IPv4 address as a mapped one (§3.2)."""
    found = ipaddress.ip_address(address.partition("%")[0])
    return ipaddress.IPv6Address(_MAPPED | int(found)) if found.version == 4 else ipaddress.IPv6Address(int(found))


def _policy(address: ipaddress.IPv6Address) -> tuple[int, int]:
    """(precedence, label): the longest prefix decides."""
    return next((precedence, label) for prefix, precedence, label in _POLICY if address in prefix)


def _scope(address: ipaddress.IPv6Address) -> int:
    four = address.ipv4_mapped
    if four is not None:  # §3.2: private ones are global
        return _LINK if four.is_link_local or four.is_loopback else _GLOBAL
    if address.is_multicast:
        return int(address) >> 112 & 15
    if address.is_link_local or address.is_loopback:
        return _LINK
    return _SITE if address.is_site_local else _GLOBAL


def _common(a: ipaddress.IPv6Address, b: ipaddress.IPv6Address, most: int) -> int:
    """§2.2: leading bits in common, no more than the source's prefix has."""
    return min(128 - (int(a) ^ int(b)).bit_length(), most)


def _source(stack: Stack, entry: Entry) -> str | None:
    """The address that a datagram to it would come from; None: it cannot be reached."""
    family, address, scope = entry
    with contextlib.suppress(OSError), stack.socket(family, socket.SOCK_DGRAM) as sock:
        where: Any = (address, _ANY_PORT) if family == AF_INET else (address, _ANY_PORT, 0, scope)
        sock.connect(where)
        return str(sock.getsockname()[0])
    return None


def _rank(entry: Entry, source: str | None, own: dict[str, tuple[str, int]]) -> tuple[object, ...]:
    """What is compared of a destination, the least first: rules 1, 2, 3, 5, 6, 8 and 9."""
    there = _wide(entry[1])
    precedence, label = _policy(there)
    scope = _scope(there)
    if source is None:
        return (True, False, False, False, -precedence, scope, 0)
    here = _wide(source)
    state, length = own.get(source.partition("%")[0], ("", 128))
    six = entry[0] == AF_INET6
    return (
        False,
        _scope(here) != scope,
        state == "DEPRECATED",
        _policy(here)[1] != label,
        -precedence,
        scope,
        -_common(here, there, length) if six else 0,
    )


def in_order(stack: Stack, entries: list[Entry]) -> list[Entry]:
    """Addresses of one name, the best first; equals as they come (rule 10). entries: (family, address, scope id)."""
    if len(entries) < 2:
        return entries
    own = {
        a.address.partition("%")[0]: (a.state, a.prefix_length)
        for one in stack.interfaces()
        for a in one.addresses
    }  # fmt: skip
    ranked = [(_rank(entry, _source(stack, entry), own), k) for k, entry in enumerate(entries)]
    return [entries[k] for _, k in sorted(ranked, key=lambda one: one[0])]
