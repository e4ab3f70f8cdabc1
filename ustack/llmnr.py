"""Stack.llmnr(): names of one label on the link, as Windows hosts have them (RFC 4795).

Responsible for: asking and being asked over UDP and TCP. Not for: sockets in groups and threads (ustack/linktalk.py),
what is answered and believed (ustack/llmnr_machine.py).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from . import clock, dns
from .linktalk import LEAST, LinkTalker
from .llmnr_machine import PORT, TIMEOUT, Machine, Packet, Question
from .mdns_machine import escaped, plain

if TYPE_CHECKING:
    from .stack import Stack

_PATIENCE = 2.0  # s that one connection may take


class Llmnr(LinkTalker):
    """LLMNR on one interface; made by Stack.llmnr(). Runs until close(), or its stack is closed."""

    _what = "LLMNR"
    _port = PORT
    _groups = {socket.AF_INET: "224.0.0.252", socket.AF_INET6: "ff02::1:3"}  # noqa: RUF012

    def __init__(self, stack: Stack, interface: str, *, hostname: str | None = None) -> None:
        super().__init__(stack, interface)
        label = escaped(hostname or "ustack-" + self._mac.replace(":", "")[-6:])
        dns.encode_name(label)
        self._machine = Machine(clock.random_source(stack, f"llmnr {interface}"), label, self._addresses, self._is_ours)
        self._known = set(self._addresses())
        self._machine.verify(clock.now(stack))
        self._listeners: list[Any] = []
        self._begin()
        for family in self._socks:
            listener = stack.create_server(("" if family == socket.AF_INET else "::", PORT), family=family, backlog=4)
            _stay_near(listener)
            self._listeners.append(listener)
            self._start(self._serve, listener)

    @property
    def hostname(self) -> str:
        """This host's name."""
        return plain(self._machine.label)

    @property
    def conflict(self) -> bool:
        """Whether somebody else has the name, so that it is not answered for."""
        return self._machine.state == "conflict"

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is known whose the name is -> whether it is ours. timeout in seconds. Raises TimeoutError."""
        deadline = None if timeout is None else clock.now(self._stack) + timeout
        while True:
            with self._lock:
                self._check()
                if self._machine.state != "verifying":
                    return not self.conflict
                self._changed.clear()
            left = None if deadline is None else deadline - clock.now(self._stack)
            if left is not None and left <= LEAST:
                raise TimeoutError("LLMNR: it is not known yet whose the name is")
            self._changed.wait(left)

    def resolve(self, name: str, families: Iterable[int] = (socket.AF_INET,)) -> list[str]:
        """The addresses of a name of the link, in this order of families; none: nobody has it (after three seconds)."""
        types = [dns.AAAA if one == socket.AF_INET6 else dns.A for one in families]
        with self._lock:
            self._check()
            asked = [self._machine.ask(name, type, clock.now(self._stack)) for type in types]
            self._rouse()
        try:
            self._until_over(asked)
            return list(dict.fromkeys(address for one in asked for address in one.addresses))
        finally:
            with self._lock:
                for one in asked:
                    self._machine.drop(one)

    def _until_over(self, asked: list[Question]) -> None:
        while True:
            with self._lock:
                self._check()
                longer = [one for one in asked if one.truncated is not None and not one.answered]
                if not longer and all(one.over for one in asked):
                    return
                self._changed.clear()
            for one in longer:
                self._ask_by_stream(one)
            if not longer:
                self._changed.wait(TIMEOUT)

    # -- TCP (§2.4, §2.5)

    def _ask_by_stream(self, question: Question) -> None:
        host, *rest = question.truncated or ("",)
        question.truncated = None
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with contextlib.suppress(OSError, dns.DnsError), self._stack.socket(family) as sock:
            sock.settimeout(_PATIENCE)
            _stay_near(sock)
            sock.connect((host, PORT, *rest[1:]))
            sock.sendall(len(question.data).to_bytes(2, "big") + question.data)
            data = _framed(sock)
            with self._lock:
                message = dns.parse(data)
                if message.flags & dns.QR and len(message.questions) == 1:
                    self._machine.believe(message, (host, PORT), clock.now(self._stack))
        question.answered = question.settled = True  # whatever came of it (§2.4)

    def _serve(self, listener: Any) -> None:
        with contextlib.suppress(OSError):  # the stack was closed, or the listener
            while not self._closed:
                sock, peer = listener.accept()
                with sock, contextlib.suppress(OSError):
                    sock.settimeout(_PATIENCE)
                    if self._is_on_link(peer[0]):
                        self._answer_stream(sock, peer)

    def _answer_stream(self, sock: Any, peer: tuple[Any, ...]) -> None:
        query = _framed(sock)
        with self._lock:
            answers = self._machine.receive(query, peer, clock.now(self._stack), stream=True)
        for one in answers:
            sock.sendall(len(one.data).to_bytes(2, "big") + one.data)

    # -- running

    def _deadline(self) -> float | None:
        return self._machine.deadline

    def _due(self, now: float) -> None:
        addresses = set(self._addresses())
        if addresses - self._known:  # §4.1: a new address is a reason to look again
            self._machine.verify(now)
        self._known = addresses
        self._say(self._machine.timer(now))

    def _heard(self, data: bytes, peer: tuple[Any, ...], now: float, to_all: bool) -> None:
        self._say(self._machine.receive(data, peer, now, to_all=to_all))

    def _is_ours(self, address: str) -> bool:
        every = (a for one in self._stack.interfaces() for a in one.addresses)
        return address.partition("%")[0] in {one.address.partition("%")[0] for one in every}

    def _farewell(self) -> None:
        for one in self._listeners:
            one.close()

    def _say(self, packets: list[Packet]) -> None:
        for packet in packets:
            self._send(packet.data, packet.to)

    def __enter__(self) -> Llmnr:
        return self

    def __repr__(self) -> str:
        return f"<ustack.Llmnr {self._interface} {self.state} {self.hostname}{' (conflict)' if self.conflict else ''}>"


def _stay_near(sock: Any) -> None:
    """§2.5: a connection does not leave the link."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)


def _framed(sock: Any) -> bytes:
    """A message with its length in front (RFC 1035 §4.2.2). Raises OSError."""
    data = b""
    while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
        piece = sock.recv(65537 - len(data))
        if not piece:
            raise ConnectionResetError("the connection ended early")
        data += piece
    return data[2:]
