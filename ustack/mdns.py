"""Stack.mdns(): names and services of the link, without a server (RFC 6762, RFC 6763), over IPv4.

Responsible for: the socket, the thread (or the task in virtual time), what a person publishes, browses and resolves.
Not for: whose a name is and what is answered when (ustack/mdns_machine.py). Questions and answers go to 224.0.0.251;
addresses of both families are told and taken.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import re
import socket
import struct
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ustack_ext.driver.world import Flag

from . import clock, dns
from .dhcp_client import find_interface
from .mdns_machine import (
    PORT,
    Machine,
    Name,
    Packet,
    escaped,
    host_records,
    plain,
    service_records,
)

if TYPE_CHECKING:
    from .stack import Stack

_GROUP = "224.0.0.251"
_ROOM = socket.CMSG_SPACE(12)
_IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)
_LEAST = 1e-6
_LOOK = 2.0  # s between two looks at the interface's addresses
_FIRST_ASK = 1.0  # s between a question and the next, which doubles; RFC 6762 §5.2
_TYPE = re.compile(r"_[A-Za-z0-9-]{1,15}\._(tcp|udp)")


@dataclass(frozen=True)
class Found:
    """A service of the link. name: the instance's, as a person reads it; addresses of its host; txt: its strings."""

    name: str
    type: str
    host: str
    port: int
    addresses: tuple[str, ...]
    txt: tuple[bytes, ...]


class Published:
    """A service that is published; made by Mdns.publish(). A context manager that takes it back."""

    def __init__(self, mdns: Mdns, name: Name, type: str) -> None:
        self._mdns, self._name, self.type = mdns, name, type

    @property
    def name(self) -> str:
        """The instance's name: another than the wanted one, where somebody else has that."""
        return plain(self._name.label)

    def wait(self, timeout: float | None = None) -> str:
        """Wait until the name is ours -> that. timeout in seconds. Raises TimeoutError."""
        self._mdns._until(lambda: self._mdns._machine.is_ours(self._name), timeout)
        return self.name

    def close(self) -> None:
        """Take it back: the link is told. Can be called again."""
        self._mdns._remove(self._name)

    def __enter__(self) -> Published:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Mdns:
    """Multicast DNS on one interface; made by Stack.mdns(). Runs until close(), or its stack is closed."""

    def __init__(self, stack: Stack, interface: str, *, hostname: str | None = None) -> None:
        found = find_interface(stack, interface)
        if stack._driver.kind not in ("thread", "virtual"):
            raise OSError(errno.EOPNOTSUPP, "multicast DNS needs a driver that runs by itself")
        self._stack, self._interface, self._index = stack, interface, found.index
        self._machine = Machine(clock.random_source(stack, f"mdns {interface}"))
        self._closed = False
        virtual = clock.is_virtual(stack)
        self._lock: Any = contextlib.nullcontext() if virtual else threading.RLock()
        self._changed: Any = Flag(stack._driver.world) if virtual else threading.Event()
        label = escaped(hostname or "ustack-" + str(found.mac).replace(":", "")[-6:])
        self._host = Name(label, "local", host_records(self._addresses), lambda name: [], self._told)
        dns.encode_name(self._host.full)
        self._sock = self._open()
        self._machine.add(self._host, clock.now(stack))
        if virtual:
            stack._driver.world.spawn(self._run, (), f"mdns {interface}")
        else:
            threading.Thread(target=self._run, name=f"ustack-mdns-{interface}", daemon=True).start()

    # -- what can be asked and told

    @property
    def hostname(self) -> str:
        """This host's name, "thing.local": another than the wanted one, where somebody else has that."""
        return f"{plain(self._host.label)}.local"

    @property
    def interface(self) -> str:
        """The interface's name."""
        return self._interface

    @property
    def state(self) -> str:
        """ "RUNNING" or "STOPPED"."""
        return "STOPPED" if self._closed else "RUNNING"

    def publish(
        self, name: str, type: str, port: int, txt: Mapping[str, str | bytes | None] | Iterable[bytes] = ()
    ) -> Published:
        """Publish a service of this host (RFC 6763) -> Published. Where somebody has the name, it gets a number.

        name: what people read, up to 63 bytes of UTF-8; type: "_http._tcp"; port: 1 to 65535; txt: a mapping of keys
        and values (None: the key alone), or the strings. Raises ValueError; OSError (EBADF) once closed.
        """
        if not _TYPE.fullmatch(type):
            raise ValueError(f'type: {type!r} is none, such as "_http._tcp"')
        if not 1 <= port <= 65535:
            raise ValueError(f"port: {port} is not between 1 and 65535")
        texts = dns.encode_texts(_strings(txt) if isinstance(txt, Mapping) else txt)
        unique, shared = service_records(f"{type}.local", lambda: self._host.full, port, texts)
        made = Name(escaped(name), f"{type}.local", unique, shared, self._told)
        dns.encode_name(made.full)
        self._do(lambda now: self._machine.add(made, now))
        return Published(self, made, type)

    def browse(self, type: str, timeout: float = 3.0) -> list[Found]:
        """The services of a type ("_http._tcp") that are found within `timeout` seconds, in order of their names."""
        if not _TYPE.fullmatch(type):
            raise ValueError(f'type: {type!r} is none, such as "_http._tcp"')
        full = f"{type}.local"
        self._ask(lambda: self._missing(full), timeout)
        now = clock.now(self._stack)
        with self._lock:
            found = [self._found(type, str(one.data), now) for one in self._machine.known(full, dns.PTR, now)]
        return sorted({one.name.lower(): one for one in found if one is not None}.values(), key=lambda one: one.name)

    def resolve(self, name: str, families: Iterable[int] = (socket.AF_INET,), timeout: float = 3.0) -> list[str]:
        """The addresses of a name of the link ("printer.local"), in this order of families; none: nobody has it."""
        types = [dns.AAAA if one == socket.AF_INET6 else dns.A for one in families]

        def known() -> list[str]:
            now = clock.now(self._stack)
            return [str(one.data) for type in types for one in self._machine.known(name, type, now)]

        self._ask(lambda: [] if known() else [(name, type) for type in types], timeout)
        with self._lock:
            return list(dict.fromkeys(known()))

    def close(self) -> None:
        """Tell the link goodbye, and end. Can be called again."""
        with self._lock:
            if self._closed:
                return
            for name in list(self._machine._names):
                self._send(self._machine.remove(name))
            self._closed = True
            self._sock.close()
            self._changed.set()

    def release(self) -> None:
        """As close()."""
        self.close()

    def __enter__(self) -> Mdns:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ustack.Mdns {self._interface} {self.state} {self.hostname}>"

    # -- asking

    def _missing(self, full: str) -> list[tuple[str, int]]:
        """What is to be asked to know all of a type's services: the type itself, as long as there is time."""
        now = clock.now(self._stack)
        wanted: list[tuple[str, int]] = [(full, dns.PTR)]
        for pointer in self._machine.known(full, dns.PTR, now):
            instance = str(pointer.data)
            services = self._machine.known(instance, dns.SRV, now)
            wanted += [] if services else [(instance, dns.SRV), (instance, dns.TXT)]
            for one in services[:1]:
                host = one.data[3]
                if not any(self._machine.known(host, type, now) for type in (dns.A, dns.AAAA)):
                    wanted += [(host, dns.A), (host, dns.AAAA)]
        return wanted[:32]

    def _found(self, type: str, instance: str, now: float) -> Found | None:
        services = self._machine.known(instance, dns.SRV, now)
        if not services:
            return None
        _, _, port, host = services[0].data
        texts = self._machine.known(instance, dns.TXT, now)
        addresses = [str(r.data) for kind in (dns.A, dns.AAAA) for r in self._machine.known(host, kind, now)]
        label = instance[: -len(f".{type}.local")]
        txt = dns.decode_texts(texts[0].data) if texts else ()
        return Found(plain(label), type, host, port, tuple(dict.fromkeys(addresses)), tuple(t for t in txt if t))

    def _ask(self, missing: Any, timeout: float) -> None:
        """Ask for what is missing, ever more rarely (§5.2), until nothing is or the time is over."""
        stack = self._stack
        deadline = clock.now(stack) + timeout
        wait, unicast, asked_at, asked = _FIRST_ASK, True, float("-inf"), set[tuple[str, int]]()
        while True:
            now = clock.now(stack)
            with self._lock:
                self._check()
                wanted = missing()
                if not wanted or now >= deadline - _LEAST:
                    return
                fresh = [one for one in wanted if one not in asked]
                if fresh or now >= asked_at + wait:
                    wait = _FIRST_ASK if asked_at == float("-inf") else wait if fresh else wait * 2
                    self._send([self._machine.question(fresh or wanted, now, unicast)])
                    asked.update(wanted)
                    asked_at, unicast = now, False
                self._changed.clear()
            self._changed.wait(max(min(deadline, asked_at + wait) - now, _LEAST))

    def _until(self, condition: Any, timeout: float | None) -> None:
        deadline = None if timeout is None else clock.now(self._stack) + timeout
        while True:
            with self._lock:
                self._check()
                if condition():
                    return
                self._changed.clear()
            left = None if deadline is None else deadline - clock.now(self._stack)
            if left is not None and left <= _LEAST:
                raise TimeoutError("multicast DNS: the name is not ours yet")
            self._changed.wait(left)

    # -- running

    def _open(self) -> Any:
        sock = self._stack.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            request = struct.pack("=4s4si", socket.inet_aton(_GROUP), bytes(4), self._index)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)  # §11
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            sock.bind(("", PORT))
        except BaseException:
            sock.close()
            raise
        return sock

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # the stack was closed
            while not self._closed and not self._stack.closed:
                with self._lock:
                    sock, due = self._sock, self._machine.deadline
                now = clock.now(self._stack)
                sock.settimeout(min(max((now + _LOOK if due is None else due) - now, _LEAST), _LOOK))
                with contextlib.suppress(OSError):
                    self._take(*sock.recvmsg(65535, _ROOM))
                with self._lock:
                    now = clock.now(self._stack)
                    self._send(self._machine.refresh(self._host, now) + self._machine.timer(now))
                self._changed.set()

    def _take(self, data: bytes, ancillary: list[tuple[int, int, bytes]], flags: int, peer: Any) -> None:
        index = next((int.from_bytes(raw[:4], sys.byteorder) for _, _, raw in ancillary), self._index)
        if index != self._index or peer is None or not self._is_on_link(peer[0]):  # §11
            return
        with self._lock:
            self._send(self._machine.receive(data, (peer[0], peer[1]), clock.now(self._stack)))

    def _is_on_link(self, address: str) -> bool:
        wanted = ipaddress.ip_address(address)
        return any(
            wanted in ipaddress.ip_network(f"{one.address}/{one.prefix_length}", strict=False)
            for one in self._own()
            if ":" not in one.address
        )

    def _own(self) -> list[Any]:
        mine = (one for one in self._stack.interfaces() if one.name == self._interface)
        return [a for one in mine for a in one.addresses if a.state in ("PREFERRED", "DEPRECATED")]

    def _addresses(self) -> list[str]:
        return [one.address.partition("%")[0] for one in self._own()]

    def _do(self, action: Any) -> None:
        """Change the machine; whoever waits on the socket is to look at its deadline again, and finds another one."""
        with self._lock:
            self._check()
            self._send(action(clock.now(self._stack)))
            before, self._sock = self._sock, self._open()
            before.close()

    def _remove(self, name: Name) -> None:
        with self._lock:
            if not self._closed:
                self._send(self._machine.remove(name))

    def _check(self) -> None:
        if self._closed or self._stack.closed:
            raise OSError(errno.EBADF, "multicast DNS is closed")

    def _send(self, packets: list[Packet]) -> None:
        for packet in packets:
            with contextlib.suppress(OSError):  # lost, as on the wire: it is sent again, or asked for again
                self._sock.sendto(packet.data, packet.to or (_GROUP, PORT))

    def _told(self, label: str) -> None:
        self._changed.set()


def _strings(txt: Mapping[str, str | bytes | None]) -> list[bytes]:
    found = []
    for name, value in txt.items():
        raw = value.encode() if isinstance(value, str) else value
        found.append(name.encode("ascii") + (b"" if raw is None else b"=" + raw))
    return found
