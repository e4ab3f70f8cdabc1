"""What multicast DNS and LLMNR of an interface have in common: sockets in a group of the link, and who reads them.

Responsible for: a socket for each family, in its group on that interface alone; what comes by another interface, or
from beyond the link, is passed over; threads (or tasks in virtual time); the interface's addresses. Not for: messages
(dns.py), and what is said to them (mdns.py, llmnr.py).
"""

from __future__ import annotations

import abc
import contextlib
import errno
import ipaddress
import socket
import struct
import sys
import threading
from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING, Any

from ustack_ext.driver.world import Flag

from . import clock
from .dhcp_client import find_interface

if TYPE_CHECKING:
    from .stack import Stack

LEAST = 1e-6  # s; less would be no time at all
_LOOK = 2.0  # s between two looks at the interface's addresses
_ROOM = socket.CMSG_SPACE(20)
_IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)
_IPV6_RECVPKTINFO = getattr(socket, "IPV6_RECVPKTINFO", 49)
_HOPS = 255  # RFC 6762 §11, RFC 4795 §2.5


class LinkTalker(abc.ABC):
    """Runs on one interface until close(), or its stack is closed. hold `_lock` to use what it has."""

    _what = ""  # for people
    _port = 0
    _groups: dict[int, str]

    def __init__(self, stack: Stack, interface: str) -> None:
        found = find_interface(stack, interface)
        if stack._driver.kind not in ("thread", "virtual"):
            raise OSError(errno.EOPNOTSUPP, f"{self._what} needs a driver that runs by itself")
        self._stack, self._interface, self._index = stack, interface, found.index
        self._mac = str(found.mac)
        self._closed = False
        virtual = clock.is_virtual(stack)
        self._lock: Any = contextlib.nullcontext() if virtual else threading.RLock()
        self._changed: Any = Flag(stack._driver.world) if virtual else threading.Event()
        self._socks: dict[int, Any] = {}

    def _begin(self) -> None:
        """Open the sockets, and run."""
        self._socks[AF_INET] = self._open(AF_INET)
        with contextlib.suppress(OSError):  # an interface whose MTU is none for IPv6
            self._socks[AF_INET6] = self._open(AF_INET6)
        for family in self._socks:
            self._start(self._run, family)

    def _start(self, function: Any, *arguments: Any) -> None:
        """In a thread, or as a task of virtual time."""
        name = f"ustack-{self._what}-{self._interface}"
        if clock.is_virtual(self._stack):
            self._stack._driver.world.spawn(function, arguments, name)
        else:
            threading.Thread(target=function, args=arguments, name=name, daemon=True).start()

    # -- what can be asked

    @property
    def interface(self) -> str:
        """The interface's name."""
        return self._interface

    @property
    def state(self) -> str:
        """ "RUNNING" or "STOPPED"."""
        return "STOPPED" if self._closed else "RUNNING"

    def close(self) -> None:
        """End. Can be called again."""
        with self._lock:
            if not self._closed:
                self._farewell()
                self._closed = True
                for sock in self._socks.values():
                    sock.close()
                self._changed.set()

    def release(self) -> None:
        """As close()."""
        self.close()

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- what a protocol has to say; with the lock held

    @abc.abstractmethod
    def _deadline(self) -> float | None:
        """When _due() is to be called at the latest."""

    @abc.abstractmethod
    def _due(self, now: float) -> None:
        """The deadline may have come; or the interface's addresses may have changed."""

    @abc.abstractmethod
    def _heard(self, data: bytes, peer: tuple[Any, ...], now: float, to_all: bool) -> None:
        """A datagram came from the link; to_all: to the group, not to this host alone."""

    @abc.abstractmethod
    def _farewell(self) -> None:
        """It ends: the sockets are closed next."""

    # -- running

    def _open(self, family: int) -> Any:
        sock = self._stack.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._join(sock, family)
            sock.bind(("" if family == AF_INET else "::", self._port))
        except BaseException:
            sock.close()
            raise
        return sock

    def _join(self, sock: Any, family: int) -> None:
        group = socket.inet_pton(family, self._groups[family])
        if family == AF_INET:
            request = struct.pack("=4s4si", group, bytes(4), self._index)
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _HOPS)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, _HOPS)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            return
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("=i", self._index))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self._index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOPS)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, _HOPS)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)

    def _rouse(self) -> None:
        """Whoever waits on a socket is to look at the deadline again: it finds another socket."""
        family, before = next(iter(self._socks.items()))
        self._socks[family] = self._open(family)
        before.close()

    def _run(self, family: int) -> None:
        with contextlib.suppress(OSError):  # the stack was closed
            while not self._closed and not self._stack.closed:
                with self._lock:
                    sock, due = self._socks[family], self._deadline()
                now = clock.now(self._stack)
                sock.settimeout(min(max((now + _LOOK if due is None else due) - now, LEAST), _LOOK))
                with contextlib.suppress(OSError):
                    self._take(*sock.recvmsg(65535, _ROOM))
                with self._lock:
                    if not self._closed:
                        self._due(clock.now(self._stack))
                self._changed.set()

    def _take(self, data: bytes, ancillary: list[tuple[int, int, bytes]], flags: int, peer: Any) -> None:
        index, to = next((_came(raw) for _, _, raw in ancillary), (self._index, b""))
        if index != self._index or peer is None or not self._is_on_link(peer[0]):  # RFC 6762 §11
            return
        with self._lock:
            if not self._closed:
                to_all = to in (socket.inet_pton(family, group) for family, group in self._groups.items())
                self._heard(data, peer, clock.now(self._stack), to_all)

    def _is_on_link(self, address: str) -> bool:
        wanted = ipaddress.ip_address(address.partition("%")[0])
        return wanted.is_link_local or any(
            wanted in ipaddress.ip_network(f"{one.partition('%')[0]}/{length}", strict=False)
            for one, length in ((a.address, a.prefix_length) for a in self._own())
        )

    def _own(self) -> list[Any]:
        mine = (one for one in self._stack.interfaces() if one.name == self._interface)
        return [a for one in mine for a in one.addresses if a.state in ("PREFERRED", "DEPRECATED")]

    def _addresses(self) -> list[str]:
        return [one.address.partition("%")[0] for one in self._own()]

    def _check(self) -> None:
        if self._closed or self._stack.closed:
            raise OSError(errno.EBADF, f"{self._what} is closed")

    def _send(self, data: bytes, to: tuple[Any, ...] | None = None) -> None:
        """To one, or to the groups of both families. What is lost is, as on the wire: it is said or asked for again."""
        for family, sock in self._socks.items():
            if to is not None and (":" in to[0]) != (family == AF_INET6):
                continue
            group = (self._groups[family], self._port, *((0, self._index) if family == AF_INET6 else ()))
            with contextlib.suppress(OSError):
                sock.sendto(data, to or group)


def _came(raw: bytes) -> tuple[int, bytes]:
    """(the interface, the destination): struct in_pktinfo begins with the one, struct in6_pktinfo ends with it."""
    index, to = (raw[:4], raw[8:]) if len(raw) == 12 else (raw[16:], raw[:16])
    return int.from_bytes(index, sys.byteorder), to
