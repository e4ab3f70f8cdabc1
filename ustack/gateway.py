"""A gateway: what arrives on a stack's links, to whatever destination, goes out through the host's own sockets.

Responsible for: which address of the host's world a destination stands for, and the host's sockets. Not for: carrying
bytes, which the data plane does (ustack_ext.service.relay), devices and namespaces (ustack/launch.py, the CLI).
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import secrets
import socket
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ustack_ext.service.join import DATAGRAMS, PING, RAW_PING, STREAM, RelayCore

from .forward import ForwardRequest

if TYPE_CHECKING:
    from .stack import Stack

# The kernel's whatever is patched in.
_KernelSocket = socket.socket
_DNS = 53
_IDLE = 300.0  # s (RFC 4787 REQ-5)
_IDLE_DNS = 20.0
_IDLE_PING = 60.0  # s (RFC 5508 REQ-2)
_SOL_RAW, _ICMP_FILTER, _ICMP6_FILTER = 255, 1, 1  # icmp(7), RFC 3542 §3.2
_ECHO_REPLY, _ECHO_REPLY6 = 0, 129
_NS = 1_000_000_000
_RESOLV_CONF = "/etc/resolv.conf"


def host_resolver(path: str = _RESOLV_CONF) -> str:
    """The first DNS server that the host itself asks (resolv.conf(5)); 127.0.0.1 where none is named."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            words = line.split()
            if len(words) >= 2 and words[0] == "nameserver":
                with contextlib.suppress(ValueError):
                    return str(ipaddress.ip_address(words[1]))
    return "127.0.0.1"


class Gateway:
    """Joins every TCP connection, UDP flow and ping to a socket of the host. A context manager that closes it.

    stack: with the driver "thread". host: addresses of the stack that stand for the host's loopback; dns: those that
    relay port 53 to `resolver` (None: the host's own). A connection is accepted when the host's is, reset when that is
    refused, and answered with ICMP unreachable when the host has no way there. Pings need ping sockets on the host
    (net.ipv4.ping_group_range), or CAP_NET_RAW, and are not answered otherwise; 512 flows of them are open at a time.
    Destinations in `blocked` (networks) are prohibited; what would come back here has no way. Closing the stack closes
    it, too. Raises TypeError (another driver), OSError: EBUSY (the stack has a forwarder).
    """

    def __init__(
        self,
        stack: Stack,
        *,
        host: tuple[str, ...] = (),
        dns: tuple[str, ...] = (),
        resolver: str | None = None,
        blocked: tuple[str, ...] = (),
    ) -> None:
        server = resolver or host_resolver()
        self._is_closed = False
        self._places: Mapping[str, str] = {one: "::1" if ":" in one else "127.0.0.1" for one in host}
        self._dns = dict.fromkeys(dns, server)
        self._blocked = [ipaddress.ip_network(one) for one in blocked]
        self._ident = secrets.randbelow(0xFFFF) + 1  # of pings by a raw socket
        self._relay = RelayCore(stack._driver)
        self._forwarders: list[Any] = []
        try:
            self._forwarders = [stack.forward_tcp(self._tcp), stack.forward_udp(self._udp, pings=True)]
            stack._kept(self)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Take nothing more, and reset every flow, as closing the stack does. Can be called again."""
        self._is_closed = True
        for forwarder in self._forwarders:
            forwarder.close()
        self._relay.close()

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed, or its stack."""
        return self._is_closed

    @property
    def open(self) -> int:
        """Flows there are now."""
        return self._relay.open

    def counters(self) -> dict[str, int]:
        """By name: flows (joined so far), refused (the host could not connect), bytes_in (from the stack to the host),
        bytes_out."""
        return self._relay.counters()

    def _target(self, request: ForwardRequest) -> tuple[str, int] | None:
        """Where it leads in the host's world; None: nowhere."""
        host, port = request.destination[:2]
        if host in self._dns and port == _DNS:
            return self._dns[host], port
        if host in self._dns:
            return None
        address = ipaddress.ip_address(host)
        if any(address.version == network.version and address in network for network in self._blocked):
            return None
        return self._places.get(host, host), port

    def _tcp(self, request: ForwardRequest) -> None:
        self._join(request, socket.SOCK_STREAM, STREAM, 0.0)

    def _udp(self, request: ForwardRequest) -> None:
        if request.protocol == "ping":
            self._join(request, socket.SOCK_DGRAM, PING, _IDLE_PING)
        else:
            idle = _IDLE_DNS if request.destination[1] == _DNS else _IDLE
            self._join(request, socket.SOCK_DGRAM, DATAGRAMS, idle)

    def _join(self, request: ForwardRequest, kind: int, how: int, idle: float) -> None:
        target = self._target(request)
        if target is None:
            request.unreachable("admin")
            return
        try:
            sock, how = _host_socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET, kind, how)
        except OSError:  # no descriptors left, or no leave to ping: it will try again
            request.drop()
            return
        try:
            if how == STREAM:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = sock.connect_ex(target)
            if code in (0, errno.EINPROGRESS) and sock.getsockname()[0] == request.source[0]:
                code = errno.EHOSTUNREACH  # by the device that it came from: it would come again
            if code not in (0, errno.EINPROGRESS):
                _refuse(request, code)
                return
            self._ident = self._ident % 0xFFFF + 1
            self._relay.join(request._identity, sock.fileno(), how, int(idle * _NS), self._ident)
            request._is_decided = True
            sock.detach()
        except OSError:
            request.drop()
        finally:
            sock.close()


def _host_socket(family: int, kind: int, how: int) -> tuple[Any, int]:
    """A socket of the host's, and what the relay is to take it for. Raises OSError."""
    flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    if how != PING:
        return _KernelSocket(family, kind | flags), how
    proto = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    try:
        return _KernelSocket(family, kind | flags, proto), PING
    except PermissionError:
        made = _KernelSocket(family, socket.SOCK_RAW | flags, proto)
    if family == socket.AF_INET6:
        types = bytearray(b"\xff" * 32)  # a bit for each type that is not wanted, in 32-bit words
        word = struct.unpack_from("=I", types, _ECHO_REPLY6 // 32 * 4)[0] & ~(1 << _ECHO_REPLY6 % 32)
        struct.pack_into("=I", types, _ECHO_REPLY6 // 32 * 4, word)
        made.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, types)
    else:
        made.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << _ECHO_REPLY) & 0xFFFFFFFF))
    return made, RAW_PING


def _refuse(request: ForwardRequest, code: int) -> None:
    if code == errno.ECONNREFUSED:
        request.reset()
    elif code in (errno.EACCES, errno.EPERM):
        request.unreachable("admin")
    else:
        request.unreachable("net" if code == errno.ENETUNREACH else "host")


def raise_descriptor_limit() -> None:
    """Let this process have as many descriptors as it may: a flow needs one."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
