"""What a scenario runs against: a way for frames, sockets where they can be had, a hand on time where there is one.

StackTarget: a fresh ustack.Stack in memory, in virtual time. The others are kernel_target and remote_target.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any, Protocol

from tap_harness.carrier import Carrier, MemoryCarrier, SimCarrier
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

    def six(self, routers: bool = False) -> None:
        """IPv6 on: a link-local address and fd09::2/64; or, with routers, what they say. Raises NotApplicable."""

    def socket6(self, kind: int) -> Any:
        """A non-blocking AF_INET6 socket of the target, SOCK_STREAM or SOCK_DGRAM. Raises NotApplicable."""

    def addresses6(self) -> list[str]:
        """Its IPv6 addresses that may be used. Raises NotApplicable."""

    def interface(self) -> int:
        """The number of its interface. Raises NotApplicable."""

    def join(self, group: str, sources: tuple[str, ...] = ()) -> Any:
        """A socket that is in a group, of these sources only if any are named. Raises NotApplicable."""

    def dhcp(self, six: bool) -> tuple[str, Any]:
        """A DHCP client on an interface without addresses, DHCPv6's with `six`; its Ethernet address, and what ends
        the client politely (release()). Raises NotApplicable."""

    def add_address(self, address: str) -> None:
        """Give the target another address, "10.9.0.7/24". Raises NotApplicable."""

    def close(self) -> None:
        """End the target."""


def join_with(sock: Any, group: str, sources: tuple[str, ...], own: str, index: int) -> None:
    """Join a group on the interface that has the IPv4 address `own` or the number `index`."""
    if ":" in group:
        where = struct.pack("I", index)
        try:
            mreq = socket.inet_pton(socket.AF_INET6, group) + where
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, mreq)
        except OSError as error:
            raise NotApplicable(f"the target's sockets join no IPv6 group: {error.strerror}") from None
        return
    for source in sources:  # struct ip_mreq_source
        sock.setsockopt(socket.IPPROTO_IP, 39, b"".join(map(socket.inet_aton, (group, own, source))))
    if not sources:
        mreq = socket.inet_aton(group) + socket.inet_aton(own)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreq)


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
        self._mangle = mangle
        self.carrier: Any = MemoryCarrier(f"{self.address}/24", gateway=self.peer_address, **options)
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

    def six(self, routers: bool = False) -> None:
        """IPv6 on the interface, its addresses used without asking first."""
        name = next(i.name for i in self.stack.interfaces() if i.name != "lo")
        if routers:
            self.carrier.plug_in(addresses=[f"{self.address}/24"], autoconf=True)
        else:
            self.stack.add_address(name, "fe80::2/64")
            self.stack.add_address(name, "fd09::2/64")
        self.carrier.pump()

    def socket6(self, kind: int) -> Any:
        """A non-blocking socket of the stack."""
        made = self.stack.socket(socket.AF_INET6, kind)
        made.setblocking(False)
        return made

    def addresses6(self) -> list[str]:
        """What the stack's table says."""
        own = next(i.addresses for i in self.stack.interfaces() if i.name != "lo")
        return [a.address for a in own if ":" in a.address and a.state in ("PREFERRED", "DEPRECATED")]

    def interface(self) -> int:
        """The stack's index of the only one beside its loopback."""
        return next(i.index for i in self.stack.interfaces() if i.name != "lo")

    def join(self, group: str, sources: tuple[str, ...] = ()) -> Any:
        """A UDP socket of the stack."""
        made = self.socket6(_DATAGRAM) if ":" in group else self.socket(datagram=True)
        join_with(made, group, sources, self.address, self.interface())
        self.carrier.pump()
        return made

    def dhcp(self, six: bool) -> tuple[str, Any]:
        """A stack of its own, in a simulated network: a client runs by itself."""
        self.carrier.close()
        made = SimCarrier()
        self.carrier, self.stack = made, made.stack
        self.wire = Recorder(made if self._mangle is None else _Mangled(made, self._mangle))
        mac = next(str(one.mac) for one in made.stack.interfaces() if one.name == made.name)
        return mac, made.stack.dhcp6(made.name, mode="stateful") if six else made.stack.dhcp(made.name)

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
