"""Stack.mdns(): names and services of the link, without a server (RFC 6762, RFC 6763).

Responsible for: what a person publishes, browses and resolves. Not for: sockets and threads (ustack/linktalk.py), whose
a name is and what is answered when (ustack/mdns_machine.py). What is said goes to both families' groups, and tells of
addresses of both (§20).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import clock, dns
from .linktalk import LEAST, LinkTalker
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


class Mdns(LinkTalker):
    """Multicast DNS on one interface; made by Stack.mdns(). Runs until close(), or its stack is closed."""

    _what = "multicast DNS"
    _port = PORT
    _groups = {socket.AF_INET: "224.0.0.251", socket.AF_INET6: "ff02::fb"}  # noqa: RUF012

    def __init__(self, stack: Stack, interface: str, *, hostname: str | None = None) -> None:
        super().__init__(stack, interface)
        self._machine = Machine(clock.random_source(stack, f"mdns {interface}"))
        label = escaped(hostname or "ustack-" + self._mac.replace(":", "")[-6:])
        self._host = Name(label, "local", host_records(self._addresses), lambda name: [], self._told)
        dns.encode_name(self._host.full)
        self._machine.add(self._host, clock.now(stack))
        self._begin()

    # -- what can be asked and told

    @property
    def hostname(self) -> str:
        """This host's name, "thing.local": another than the wanted one, where somebody else has that."""
        return f"{plain(self._host.label)}.local"

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
        super().close()

    def __enter__(self) -> Mdns:
        return self

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
                if not wanted or now >= deadline - LEAST:
                    return
                fresh = [one for one in wanted if one not in asked]
                if fresh or now >= asked_at + wait:
                    wait = _FIRST_ASK if asked_at == float("-inf") else wait if fresh else wait * 2
                    self._say([self._machine.question(fresh or wanted, now, unicast)])
                    asked.update(wanted)
                    asked_at, unicast = now, False
                self._changed.clear()
            self._changed.wait(max(min(deadline, asked_at + wait) - now, LEAST))

    def _until(self, condition: Any, timeout: float | None) -> None:
        deadline = None if timeout is None else clock.now(self._stack) + timeout
        while True:
            with self._lock:
                self._check()
                if condition():
                    return
                self._changed.clear()
            left = None if deadline is None else deadline - clock.now(self._stack)
            if left is not None and left <= LEAST:
                raise TimeoutError("multicast DNS: the name is not ours yet")
            self._changed.wait(left)

    # -- running

    def _deadline(self) -> float | None:
        return self._machine.deadline

    def _due(self, now: float) -> None:
        self._say(self._machine.refresh(self._host, now) + self._machine.timer(now))

    def _heard(self, data: bytes, peer: tuple[Any, ...], now: float, to_all: bool) -> None:
        self._say(self._machine.receive(data, peer, now))

    def _farewell(self) -> None:
        for name in list(self._machine._names):
            self._say(self._machine.remove(name))

    def _do(self, action: Any) -> None:
        """Change the machine, which has another deadline then."""
        with self._lock:
            self._check()
            self._say(action(clock.now(self._stack)))
            self._rouse()

    def _remove(self, name: Name) -> None:
        with self._lock:
            if not self._closed:
                self._say(self._machine.remove(name))

    def _say(self, packets: list[Packet]) -> None:
        for packet in packets:
            self._send(packet.data, packet.to)

    def _told(self, label: str) -> None:
        self._changed.set()


def _strings(txt: Mapping[str, str | bytes | None]) -> list[bytes]:
    found = []
    for name, value in txt.items():
        raw = value.encode() if isinstance(value, str) else value
        found.append(name.encode("ascii") + (b"" if raw is None else b"=" + raw))
    return found
