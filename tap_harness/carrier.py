"""How the frames of a scripted peer reach the stack under test, and what time it is there.

MemoryCarrier: a ustack.Stack on the manual driver behind an in-memory link; no root, virtual time, nothing left to
luck. SimCarrier: one in a simulated network, which runs by itself. TapCarrier: any stack that has the other side of a
TAP descriptor; real time.
"""

import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import ustack
from ustack import sim

SEED = bytes(range(32))  # what the stack draws its secrets from: the same ones in every run, unless a test wants others
QUEUE = 1 << 16  # frames the stack may send at one moment: only the test loses any
SETTLE = 15.0  # virtual seconds for address probes and announcements (RFC 5227: less than 10) to be over


class Carrier(Protocol):
    """What a peer needs of its connection with the stack under test."""

    def send(self, frame: bytes) -> None:
        """Hand a frame to the stack."""

    def receive(self, within: float) -> bytes | None:
        """The next frame from the stack, at the latest `within` seconds from now; None if there is none."""

    def now(self) -> float:
        """The time at the stack in seconds."""


class LabCarrier(Carrier, Protocol):
    """What a Lab needs beyond that: the stack itself, and a hand on its time."""

    stack: Any
    apps: list[Callable[[], bool]]

    def send_many(self, frames: list[bytes]) -> None:
        """Hand a burst of frames to the stack."""

    def pump(self) -> None:
        """Let the stack and the apps do what is to be done now."""

    def drain(self) -> list[bytes]:
        """The frames from the stack that wait."""

    def advance(self, seconds: float) -> None:
        """Let time pass, where it is in the test's hand."""

    def close(self) -> None:
        """End the stack."""


class MemoryCarrier:
    """A fresh stack on the manual driver, its clock in the hand of the test.

    Parameters: address, the stack's own as "10.9.0.2/24"; gateway; medium "ethernet" or "ip"; mtu in bytes; start, the
    time in seconds at which its life begins; settle, let the address probing and announcing pass before the test
    begins; memory, the stack's budget in bytes, None for its default; seed, of the stack's secrets (32 bytes).

    Attributes: stack, link; apps, callables run after every step of the stack (a server in the stack, say), each
    returning whether it did anything.
    """

    def __init__(
        self,
        address: str = "10.9.0.2/24",
        *,
        gateway: str | None = None,
        medium: str = "ethernet",
        mtu: int = 1500,
        start: float = 1000.0,
        settle: bool = True,
        memory: int | None = None,
        seed: bytes = SEED,
    ) -> None:
        self._now = round(start * 1e9)
        self._out: deque[bytes] = deque()
        self.apps: list[Callable[[], bool]] = []
        self.stack: Any = ustack.Stack(driver="manual", memory=memory, seed=seed)
        self._medium, self._mtu = medium, mtu
        self.link = ustack.Callback(send=self._transmitted, medium=medium, mtu=mtu, queue=QUEUE)
        self.stack.poll(self._now)
        self.stack.attach(self.link, addresses=[address], gateway=gateway)
        self.pump()
        if settle:
            self.advance(SETTLE)
            self._out.clear()

    def plug_in(self, **options: Any) -> None:
        """A new link in the place of the old one, of the same kind, attached with these options of Stack.attach."""
        old = self.link
        self.stack.detach(old)
        medium, mac, mtu = self._medium, old.mac, self._mtu
        self.link = ustack.Callback(send=self._transmitted, medium=medium, mac=mac, mtu=mtu, queue=QUEUE)
        self.stack.attach(self.link, **options)
        self.pump()

    def _transmitted(self, frame: bytes) -> None:
        self._out.append(bytes(frame))

    def now(self) -> float:
        """The virtual time in seconds."""
        return self._now / 1e9

    def send(self, frame: bytes) -> None:
        """Hand a frame to the stack and let it and the apps react."""
        self.link.receive(frame)
        self.pump()

    def send_many(self, frames: list[bytes]) -> None:
        """Hand over a burst of frames; the stack sees them all before anybody else acts."""
        for frame in frames:
            self.link.receive(frame)
        self.pump()

    def pump(self) -> None:
        """Let the stack do all that is to be done at this moment, and the apps in answer to it."""
        self.stack.poll(self._now)
        while sum(app() for app in self.apps):
            self.stack.poll(self._now)

    def receive(self, within: float) -> bytes | None:
        """The next frame; time passes, from deadline to deadline, until there is one or `within` seconds are over."""
        limit = self._now + round(within * 1e9)
        while not self._out:
            if self._now >= limit:
                return None
            self._step(limit)
        return self._out.popleft()

    def advance(self, seconds: float) -> None:
        """Let time pass; frames that come out meanwhile wait in order for receive()."""
        limit = self._now + round(seconds * 1e9)
        while self._now < limit:
            self._step(limit)

    def drain(self) -> list[bytes]:
        """All frames that are waiting, without letting time pass."""
        waiting = list(self._out)
        self._out.clear()
        return waiting

    def _step(self, limit: int) -> None:
        deadline = self.stack.next_deadline()
        due = limit if deadline is None else min(deadline, limit)
        self._now = max(due, self._now + 1)  # a deadline that has passed must not stop the clock
        self.pump()

    def close(self) -> None:
        """Close the stack and all that is in it."""
        self.stack.close()


class SimCarrier:
    """A fresh stack without an address in a simulated network, on a wire whose other end is the test's: for what needs
    a driver that runs by itself.

    Attributes: stack; name, of its interface.
    """

    def __init__(self, seed: int = 1) -> None:
        self._net = sim.Network(seed)
        self.stack: Any = self._net.stack()
        self._wire = self._net.wire(self.stack, None)
        self.name = str(self.stack.interfaces()[-1].name)

    def now(self) -> float:
        """The virtual time in seconds."""
        return self._net.now / 1e9

    def send(self, frame: bytes) -> None:
        """Put a frame on the wire."""
        self._wire.b.send(frame)

    def receive(self, within: float) -> bytes | None:
        """The next frame; time passes until there is one or `within` seconds are over."""
        try:
            return bytes(self._wire.b.recv(max(within, 0.0)))
        except TimeoutError:
            return None

    def pump(self) -> None:
        """Let happen what is to happen now."""
        self._net.run(0.0)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._net.run(seconds)

    def close(self) -> None:
        """Close the network and the stack."""
        self._net.close()


class TapCarrier:
    """A stack that holds the other side of the TAP: frames go through the descriptor `fd`, in real time.

    For a stack on a netdev: the descriptor of the TAP. For a stack that has a TAP's descriptor: a packet socket on the
    netdev.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def now(self) -> float:
        """The monotonic clock in seconds."""
        return time.monotonic()

    def send(self, frame: bytes) -> None:
        """Write one frame."""
        os.write(self.fd, frame)

    def receive(self, within: float) -> bytes | None:
        """Read the next frame, waiting at most `within` seconds."""
        readable, _, _ = select.select([self.fd], [], [], within)
        return os.read(self.fd, 1 << 17) if readable else None
