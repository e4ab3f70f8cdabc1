"""What a scenario runs against: a way for frames, sockets where they can be had, a hand on time where there is one.

StackTarget: a fresh ustack.Stack in memory, in virtual time. The others are kernel_target and remote_target.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tap_harness.carrier import Carrier, MemoryCarrier
from tap_harness.conformance.registry import NotApplicable

Frame = tuple[float, bool, bytes]  # (seconds, whether it came from the target, the frame)


class Recorder:
    """A carrier that passes everything on to another and remembers every frame."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self.frames: list[Frame] = []

    def send(self, frame: bytes) -> None:
        """Hand a frame to the target."""
        self.frames.append((self.now(), False, frame))
        self._carrier.send(frame)

    def receive(self, within: float) -> bytes | None:
        """The next frame from the target."""
        frame = self._carrier.receive(within)
        if frame is not None:
            self.frames.append((self.now(), True, frame))
        return frame

    def now(self) -> float:
        """The target's time in seconds."""
        return self._carrier.now()


class Target(Protocol):
    """One target, fresh for one scenario.

    name: "stack", "kernel" or "remote". virtual: time passes only while the scenario waits. address: the target's own;
    peer_address, peer_mac: who the scenario is; other_address: another neighbour on the same network. slack: seconds by
    which an event may be late. sink, echo: ports of a remote's services (0: the scenario has sockets instead).
    """

    name: str
    virtual: bool
    address: str
    peer_address: str
    peer_mac: str
    other_address: str
    slack: float
    sink: int
    echo: int
    wire: Recorder

    def socket(self, datagram: bool = False) -> Any:
        """A non-blocking socket of the target. Raises NotApplicable."""

    def sysctl(self, name: str, value: object = None) -> Any:
        """Set one of the target's knobs by Linux's name, or read it. Raises NotApplicable."""

    def connections(self) -> list[Any]:
        """Records or dicts with state, local and peer. Raises NotApplicable."""

    def pump(self) -> None:
        """Let the target do what a call of a socket has left to do."""

    def wait(self, seconds: float) -> None:
        """Let time pass; frames that come wait in order."""

    def add_address(self, address: str) -> None:
        """Give the target another address, "10.9.0.7/24". Raises NotApplicable."""

    def close(self) -> None:
        """End the target."""


class StackTarget:
    """ustack in this process, behind an in-memory link. `mangle` sees each frame on its way, (from the stack?, frame),
    and gives back what goes on or None: how a test breaks a target."""

    name = "stack"
    virtual = True
    address = "10.9.0.2"
    peer_address = "10.9.0.1"
    peer_mac = "02:00:00:00:00:01"
    other_address = "10.9.0.3"
    slack = 0.0
    sink = echo = 0

    def __init__(self, mangle: Callable[[bool, bytes], bytes | None] | None = None, **options: Any) -> None:
        self.carrier = MemoryCarrier(f"{self.address}/24", gateway=self.peer_address, **options)
        self.stack = self.carrier.stack
        self.wire = Recorder(self.carrier if mangle is None else _Mangled(self.carrier, mangle))

    def socket(self, datagram: bool = False) -> Any:
        """A non-blocking socket of the stack."""
        made = self.stack.socket(type=_DATAGRAM) if datagram else self.stack.socket()
        made.setblocking(False)
        return made

    def sysctl(self, name: str, value: object = None) -> Any:
        """Write (value given) or read a knob of the stack."""
        if name not in self.stack.sysctl:
            raise NotApplicable(f"the stack has no knob {name}")
        if value is not None:
            self.stack.sysctl[name] = value
        return self.stack.sysctl[name]

    def connections(self) -> list[Any]:
        """The stack's own table."""
        return list(self.stack.connections())

    def pump(self) -> None:
        """Let the stack send what a call has left to send."""
        self.carrier.pump()

    def wait(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.carrier.advance(seconds)

    def add_address(self, address: str) -> None:
        """Not while a scenario runs: probing takes longer than most."""
        raise NotApplicable("the stack under test has one address")

    def close(self) -> None:
        """Close the stack."""
        self.carrier.close()


class _Mangled:
    """A carrier with a hand in the wire."""

    def __init__(self, carrier: Carrier, mangle: Callable[[bool, bytes], bytes | None]) -> None:
        self._carrier = carrier
        self._mangle = mangle

    def send(self, frame: bytes) -> None:
        """Hand over what the hand in the wire leaves of a frame."""
        if (left := self._mangle(False, frame)) is not None:
            self._carrier.send(left)

    def receive(self, within: float) -> bytes | None:
        """The next frame that the hand in the wire lets pass."""
        deadline = self._carrier.now() + within
        while (frame := self._carrier.receive(max(0.0, deadline - self._carrier.now()))) is not None:
            if (left := self._mangle(True, frame)) is not None:
                return left
        return None

    def now(self) -> float:
        """The target's time."""
        return self._carrier.now()


_DATAGRAM = 2  # SOCK_DGRAM
