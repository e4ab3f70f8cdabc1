"""Addresses, networks and sizes as a program writes them, and the numbers by which the data plane knows them.

Responsible for: 128-bit numbers, IPv4 at ::ffff:a.b.c.d, and prefix lengths counted in 128 bits. Not for: names
(ustack.resolve), or who gets an address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

_V4_MARK = 0xFFFF << 32  # IPv4 lives at ::ffff:a.b.c.d inside


def number(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    """An address as the stack's 128-bit number."""
    return int(address) | (_V4_MARK if address.version == 4 else 0)


def length(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> int:
    """A prefix length in 128 bits."""
    return network.prefixlen + (96 if network.version == 4 else 0)


def network(destination: str, six: bool) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """A route's destination; six: of which family "default" is. Raises ValueError."""
    return ipaddress.ip_network(("::/0" if six else "0.0.0.0/0") if destination == "default" else destination)


def address(text: str) -> int:
    """The number of an address; a zone ("fe80::1%ust0") is the interface's that goes with it. Raises ValueError."""
    return number(ipaddress.ip_address(text.partition("%")[0]))


def interface_address(text: str) -> tuple[int, int]:
    """(number, prefix length in 128 bits) of "10.9.0.2/24" or "fd09::2/64". Raises ValueError."""
    found = ipaddress.ip_interface(text)
    return number(found.ip), length(found.network)


def gateways(given: str | Iterable[str] | None) -> list[tuple[int, int, int]]:
    """(gateway, prefix, prefix length) of default routes. Raises ValueError."""
    texts = [] if given is None else [given] if isinstance(given, str) else given
    return [(address(text), 0, 0) if ":" in text else (address(text), _V4_MARK, 96) for text in texts]


def check_mtu(mtu: int) -> None:
    """Raises ValueError."""
    if not 68 <= mtu <= 65535:
        raise ValueError(f"mtu: {mtu} is not between 68 and 65535")


def mac(given: bytes | str) -> bytes:
    """One station's Ethernet address: 6 bytes, or "02:00:00:00:00:01". Raises ValueError."""
    raw = bytes.fromhex(given.replace(":", "")) if isinstance(given, str) else bytes(given)
    if len(raw) != 6 or raw[0] & 1:
        raise ValueError(f"mac: {given!r} is not one station's Ethernet address")
    return raw
