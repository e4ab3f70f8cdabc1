"""Any host on a network as a target: raw frames through an AF_PACKET socket on an interface of this machine.

The scenario is a neighbour of its own, with an address that no host has (this machine's own would be answered by its
kernel too). What it needs of the host is TCP's discard (RFC 863) and echo (RFC 862) services.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import time
from collections import deque
from typing import Any

from tap_harness.conformance.registry import NotApplicable
from tap_harness.conformance.target import Recorder

_ETH_P_ALL = 3
_NO_SOCKETS = "what its applications call cannot be seen or caused on a wire"


class _PacketCarrier:
    """Frames of an interface."""

    def __init__(self, interface: str, own: str) -> None:
        self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._sock.bind((interface, _ETH_P_ALL))
        self._own = ipaddress.ip_address(own).packed
        self.mac = self._sock.getsockname()[4].hex(":")
        self._kept: deque[bytes] = deque()

    def now(self) -> float:
        """The monotonic clock in seconds."""
        return time.monotonic()

    def send(self, frame: bytes) -> None:
        """Send one frame, padded to Ethernet's least."""
        self._sock.send(frame.ljust(60, b"\0"))

    def receive(self, within: float) -> bytes | None:
        """The next frame for the scenario's address."""
        if self._kept:
            return self._kept.popleft()
        deadline = time.monotonic() + within
        while True:
            readable, _, _ = select.select([self._sock], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                return None
            frame, address = self._sock.recvfrom(1 << 17)
            if address[2] == socket.PACKET_OUTGOING:
                continue
            if self._concerns(frame):
                return frame

    def _concerns(self, frame: bytes) -> bool:
        """Whether a frame is for the scenario's address, or asks for it."""
        own, kind = self._own, frame[12:14]
        if len(own) == 16:
            return kind == b"\x86\xdd" and own in (frame[38:54], frame[62:78] if frame[20] == 58 else b"")
        return own == (frame[30:34] if kind == b"\x08\x00" else frame[38:42])

    def advance(self, seconds: float) -> None:
        """Wait; what comes meanwhile is kept in order."""
        deadline = time.monotonic() + seconds
        found: list[bytes] = []
        while (left := deadline - time.monotonic()) > 0:
            frame = self.receive(left)
            if frame is not None:
                found.append(frame)
        self._kept.extend(found)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


class RemoteTarget:
    """The host `address` on `interface`; source: the scenario's own address, which nobody else may have."""

    name = "remote"
    virtual = False
    slack = 0.3

    def __init__(self, interface: str, address: str, source: str, *, sink: int = 9, echo: int = 7) -> None:
        self.address = address
        self.peer_address = source
        self.other_address = str(ipaddress.ip_address(source) + 1)
        self.sink = sink
        self.echo = echo
        self.carrier = _PacketCarrier(interface, source)
        self.peer_mac = self.carrier.mac
        self.wire = Recorder(self.carrier)

    def socket(self, datagram: bool = False) -> Any:
        """There are none."""
        raise NotApplicable(_NO_SOCKETS)

    def sysctl(self, name: str, value: object = None) -> Any:
        """There are none."""
        raise NotApplicable("the settings of a remote host are its own")

    def connections(self) -> list[Any]:
        """Not to be seen."""
        raise NotApplicable("the states of a remote host's connections cannot be seen")

    def pump(self) -> None:
        """The host runs by itself."""

    def wait(self, seconds: float) -> None:
        """Wait in real time."""
        self.carrier.advance(seconds)

    def six(self, routers: bool = False) -> None:
        """Not known which it has."""
        raise NotApplicable("the addresses of a remote host are its own")

    def socket6(self, kind: int) -> Any:
        """There are none."""
        raise NotApplicable(_NO_SOCKETS)

    def addresses6(self) -> list[str]:
        """Not to be seen."""
        raise NotApplicable("the addresses of a remote host are its own")

    def interface(self) -> int:
        """Not to be seen."""
        raise NotApplicable(_NO_SOCKETS)

    def dhcp(self, six: bool) -> tuple[str, Any]:
        """There is none to be had."""
        raise NotApplicable("a remote host's DHCP client cannot be started from here")

    def join(self, group: str, sources: tuple[str, ...] = ()) -> Any:
        """There are no sockets."""
        raise NotApplicable(_NO_SOCKETS)

    def add_address(self, address: str) -> None:
        """Not possible."""
        raise NotApplicable("the addresses of a remote host are its own")

    def close(self) -> None:
        """Close the packet socket."""
        self.carrier.close()


def interface_exists(name: str) -> bool:
    """Whether this machine has an interface of that name."""
    return name in [known for _, known in socket.if_nameindex()]
