"""Linux as the stack under test: the same scripted tests, its kernel behind a TAP in the place of ustack.

Responsible for giving the kernel of a namespace the face that `lab.Lab` wants of a stack. Time is real: advance() does
not wait for timers, and an answer is taken to be missing after a few milliseconds.
"""

from __future__ import annotations

import os
import select
import socket as sockets
import time
from collections.abc import Callable
from typing import Any

from tap_harness.netns import Namespace
from tap_harness.tap import KernelTap

ANSWER = 0.006  # seconds the kernel gets for an answer; it takes some ten microseconds
RFC_NAMES = {"ESTAB": "ESTABLISHED", "SYN-RECV": "SYN-RECEIVED"}


class LinuxStack:
    """The kernel's TCP in `namespace`, with as much of ustack.Stack's methods as scripted tests use."""

    def __init__(self, namespace: Namespace, address: str) -> None:
        self._ns = namespace
        self._address = address

    def socket(self, family: int = sockets.AF_INET) -> sockets.socket:
        """A TCP socket."""
        return self._ns.socket(family)

    def create_server(
        self, address: tuple[str, int], family: int = sockets.AF_INET, backlog: int = 128
    ) -> sockets.socket:
        """A listening TCP socket."""
        made = self._ns.socket(family)
        made.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        made.bind((self._address, address[1]))
        made.listen(backlog)
        return made

    def connections(self) -> list[dict[str, Any]]:
        """State and end points of every TCP connection, as `ss` tells them."""
        found = []
        for line in self._ns.sh("ss -Htan").splitlines():
            state, _, _, local, peer = line.split()[:5]
            names = {"state": RFC_NAMES.get(state, state), "local": _end(local), "peer": _end(peer)}
            found.append(names)
        return found


class LinuxCarrier:
    """A carrier.LabCarrier with Linux at the far end. Its limit on challenge ACKs is off: time does not pass."""

    def __init__(self, address: str = "10.9.0.2/24") -> None:
        self.apps: list[Callable[[], bool]] = []
        self._ns = Namespace()
        self._ns.sysctl("net.ipv6.conf.default.addr_gen_mode", 1)  # no link-local address, so that no router is sought
        self._tap = KernelTap(self._ns, addresses=[address])
        self._ns.sysctl("net.ipv4.tcp_invalid_ratelimit", 0)
        self.stack = LinuxStack(self._ns, address.split("/")[0])

    def now(self) -> float:
        """The monotonic clock in seconds."""
        return time.monotonic()

    def send(self, frame: bytes) -> None:
        """Hand a frame to the kernel, which handles it before the call returns."""
        self.send_many([frame])

    def send_many(self, frames: list[bytes]) -> None:
        """Hand over several frames."""
        for frame in frames:
            os.write(self._tap.fd, frame)
        self.pump()

    def pump(self) -> None:
        """Let the apps act until they have nothing to do."""
        while sum(app() for app in self.apps):
            pass

    def receive(self, within: float) -> bytes | None:
        """The next frame from the kernel, waiting `within` seconds, but never less than it takes to answer."""
        deadline = time.monotonic() + max(within, ANSWER)
        while True:
            self.pump()
            left = deadline - time.monotonic()
            readable, _, _ = select.select([self._tap.fd], [], [], max(0.0, min(left, ANSWER / 3)))
            if readable:
                return os.read(self._tap.fd, 1 << 17)
            if left <= 0:
                return None

    def drain(self) -> list[bytes]:
        """All frames that come without anything else being done."""
        frames = []
        while (frame := self.receive(0)) is not None:
            frames.append(frame)
        return frames

    def advance(self, seconds: float) -> None:
        """Nothing: real time is not waited for. Let the apps act."""
        self.pump()

    def close(self) -> None:
        """Give the namespace back."""
        self._tap.close()
        self._ns.close()


def _end(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port) if port.isdigit() else 0
