"""Names and services as the socket module's functions give them, for one stack.

Responsible for: getaddrinfo() and its neighbours over numeric addresses, `localhost` (RFC 6761 §6.3), and the stack's
table `Stack.hosts`, and in which order others are asked for names that are in no table. Not for: asking them
(ustack/resolver.py, mdns.py, llmnr.py), nor for the order of what they answer (ustack/destination.py).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from socket import (
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    EAI_ADDRFAMILY,
    EAI_FAMILY,
    EAI_NONAME,
    EAI_SERVICE,
    EAI_SOCKTYPE,
    AddressFamily,
    SocketKind,
)
from typing import TYPE_CHECKING, Any

from .destination import in_order
from .llmnr import Llmnr
from .mdns import Mdns
from .resolver import Resolver

if TYPE_CHECKING:
    from .stack import Stack

AddressInfo = tuple[AddressFamily, SocketKind, int, str, tuple[Any, ...]]

_KINDS = (
    (socket.SOCK_STREAM, socket.IPPROTO_TCP, "tcp"),
    (socket.SOCK_DGRAM, socket.IPPROTO_UDP, "udp"),
    (socket.SOCK_RAW, 0, ""),
)
_MESSAGES = {
    EAI_NONAME: "Name or service not known",
    EAI_SERVICE: "Servname not supported for ai_socktype",
    EAI_SOCKTYPE: "ai_socktype not supported",
    EAI_FAMILY: "ai_family not supported",
    EAI_ADDRFAMILY: "Address family for hostname not supported",
}
_TYPE_FLAGS = getattr(socket, "SOCK_NONBLOCK", 0) | getattr(socket, "SOCK_CLOEXEC", 0)


def _error(code: int) -> socket.gaierror:
    return socket.gaierror(code, _MESSAGES[code])


def families(stack: Stack) -> tuple[AddressFamily, ...]:
    """The address families that the stack has sockets for."""
    try:
        stack.socket(AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        return (AF_INET,)
    return (AF_INET, AF_INET6)


def numeric(host: str) -> tuple[AddressFamily, str, int] | None:
    """(family, address, scope) of a numeric address in any form that getaddrinfo takes; None: it is a name."""
    if ":" in host:
        text, _, zone = host.partition("%")
        try:
            address = socket.inet_ntop(AF_INET6, socket.inet_pton(AF_INET6, text))
        except OSError:
            return None
        return AF_INET6, address, int(zone) if zone.isdigit() else 0
    if host[:1].isdigit() and not any(c.isspace() for c in host):
        try:
            return AF_INET, socket.inet_ntoa(socket.inet_aton(host)), 0
        except OSError:
            return None
    return None


def is_name(host: Any) -> bool:
    """Whether a socket address's host has to be looked up."""
    return isinstance(host, str) and host not in ("", "<broadcast>") and numeric(host) is None


def _text(host: Any) -> str:
    if isinstance(host, (bytes, bytearray)):
        host = bytes(host).decode("ascii")
    if not isinstance(host, str):
        raise TypeError("getaddrinfo() argument 1 must be string or None")
    return host if host.isascii() else host.encode("idna").decode("ascii")


def _has_ipv6(stack: Stack) -> bool:
    """Whether an address of an interface is IPv6 and good beyond its link: only then AAAA is asked for unasked."""
    return any(
        ":" in one.address and not one.address.startswith("fe80:")
        for interface in stack.interfaces()
        if interface.medium != "loopback"
        for one in interface.addresses
    )


def _asked(stack: Stack, name: str, wanted: Sequence[AddressFamily]) -> list[str]:
    """The resolver's answer; then the link's, of a name with one label (RFC 4795 §3). Raises socket.gaierror."""
    plain = name.rstrip(".").lower()
    resolver = stack._current_resolver()
    failed = None
    try:
        if isinstance(resolver, Resolver):
            found = resolver.addresses(name.lower(), wanted)
        else:
            found = [] if resolver is None else list(resolver(plain))
    except socket.gaierror as error:
        found, failed = [], error
    if not found and "." not in plain:
        found = [address for one in stack._link_names(Llmnr) for address in one.resolve(plain, wanted)]
    if failed is not None and not found:
        raise failed
    return found


def _named(stack: Stack, name: str, family: int) -> list[tuple[AddressFamily, str, int]]:
    """What a name stands for, in order; empty: nothing is known of it."""
    plain = name.rstrip(".").lower()
    entry: str | Iterable[str] | None = stack.hosts.get(plain)
    if entry is None and (plain == "localhost" or plain.endswith(".localhost")):
        entry = ["127.0.0.1", "::1"]
    both = (AF_INET6, AF_INET) if _has_ipv6(stack) else (AF_INET,)
    wanted = both if family == AF_UNSPEC else (AddressFamily(family),)
    if entry is None and plain.endswith(".local") and (link := stack._link_names(Mdns)):
        entry = [address for one in link for address in one.resolve(plain, wanted)]
    elif entry is None:
        entry = _asked(stack, name, wanted)
    listed = [entry] if isinstance(entry, str) else list(entry or ())
    found = []
    for address in listed:
        parsed = numeric(address)
        if parsed is None:
            raise ValueError(f"{name}: {address!r} is no address")
        found.append(parsed)
    return found


def _port(port: Any, kinds: list[tuple[SocketKind, int, str]], flags: int) -> dict[int, int]:
    """The port for each type of socket that has one under this name."""
    if isinstance(port, (bytes, bytearray)):
        port = bytes(port).decode("ascii")
    if port is None or isinstance(port, int):
        return {kind: int(port or 0) for kind, _, _ in kinds}
    if not isinstance(port, str):
        raise OSError("Int or String expected")
    if port.isdigit():
        return {kind: int(port) for kind, _, _ in kinds}
    found = {}
    for kind, _, protocol in kinds:
        if protocol and not flags & socket.AI_NUMERICSERV:
            try:
                found[int(kind)] = socket.getservbyname(port, protocol)
            except OSError:
                continue
    if not found:
        raise _error(EAI_NONAME if flags & socket.AI_NUMERICSERV else EAI_SERVICE)
    return found


def _hosts(stack: Stack, host: Any, family: int, flags: int) -> list[tuple[AddressFamily, str, int]]:
    if host is None:
        passive = flags & socket.AI_PASSIVE
        both = [(AF_INET, "0.0.0.0" if passive else "127.0.0.1", 0), (AF_INET6, "::" if passive else "::1", 0)]
    else:
        name = _text(host)
        one = numeric(name)
        if one is not None:
            if family not in (AF_UNSPEC, one[0]):
                raise _error(EAI_ADDRFAMILY)
            return [one]
        if flags & socket.AI_NUMERICHOST or not name:
            raise _error(EAI_NONAME)
        both = _named(stack, name, family)
        if not both:
            raise _error(EAI_NONAME)
    able = families(stack)
    found = [entry for entry in both if entry[0] in able and family in (AF_UNSPEC, entry[0])]
    return found if host is None else in_order(stack, found)


def getaddrinfo(
    stack: Stack, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
) -> list[AddressInfo]:
    """As socket.getaddrinfo. Raises socket.gaierror, TypeError."""
    if family not in (AF_UNSPEC, AF_INET, AF_INET6):
        raise _error(EAI_FAMILY)
    type &= ~_TYPE_FLAGS
    kinds = [(k, p, name) for k, p, name in _KINDS if type in (0, k) and (proto in (0, p) or not p)]
    if type == 0 and proto:
        kinds = [kind for kind in kinds if kind[1] == proto]
    if not kinds:
        raise _error(EAI_SOCKTYPE)
    if host is None and port is None:
        raise _error(EAI_NONAME)
    ports = _port(port, kinds, flags)
    hosts = _hosts(stack, host, family, flags)
    if not hosts:
        raise _error(EAI_ADDRFAMILY)
    canonical = _text(host) if flags & socket.AI_CANONNAME and host is not None else ""
    found: list[AddressInfo] = []
    for af, address, scope in hosts:
        for kind, number, _ in kinds:
            if kind not in ports:
                continue
            where = (address, ports[kind]) if af == AF_INET else (address, ports[kind], 0, scope)
            found.append((af, kind, number or proto, "" if found else canonical, where))
    return found


def gethostbyname_ex(stack: Stack, host: str) -> tuple[str, list[str], list[str]]:
    """As socket.gethostbyname_ex. Raises socket.gaierror."""
    found = getaddrinfo(stack, host or "0.0.0.0", None if host else 0, AF_INET, socket.SOCK_STREAM)
    return host, [], [info[4][0] for info in found]


def gethostbyname(stack: Stack, host: str) -> str:
    """As socket.gethostbyname. Raises socket.gaierror."""
    return gethostbyname_ex(stack, host)[2][0]


def _name_of(stack: Stack, address: str) -> str | None:
    for name, entry in stack.hosts.items():
        if address == entry or (not isinstance(entry, str) and address in entry):
            return name
    return "localhost" if address in ("127.0.0.1", "::1") else None


def gethostbyaddr(stack: Stack, host: str) -> tuple[str, list[str], list[str]]:
    """As socket.gethostbyaddr, by the stack's table. Raises socket.herror, socket.gaierror."""
    address = getaddrinfo(stack, host, 0, 0, socket.SOCK_STREAM)[0][4][0]
    name = _name_of(stack, address)
    if name is None:
        raise socket.herror(1, "Unknown host")
    return name, [], [address]


def getnameinfo(stack: Stack, sockaddr: tuple[Any, ...], flags: int) -> tuple[str, str]:
    """As socket.getnameinfo. Raises socket.gaierror, TypeError."""
    if not isinstance(sockaddr, tuple):
        raise TypeError("getnameinfo() argument 1 must be a tuple")
    address, port = sockaddr[:2]
    if numeric(address) is None:
        raise _error(EAI_NONAME)
    host = None if flags & socket.NI_NUMERICHOST else _name_of(stack, address)
    if host is None and flags & socket.NI_NAMEREQD:
        raise _error(EAI_NONAME)
    service = str(port)
    if not flags & socket.NI_NUMERICSERV:
        try:
            service = socket.getservbyport(port, "udp" if flags & socket.NI_DGRAM else "tcp")
        except OSError:
            pass
    return host or address, service
