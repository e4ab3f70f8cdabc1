"""Who is at which end of a test's wire, in IPv4 and in IPv6: what a test that runs over both is told instead of digits.

Not for: making the wire (net, and the tests that do it themselves).
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

from tap_harness.netns import Namespace


@dataclass(frozen=True)
class Ends:
    """The two addresses of one family. kernel, stack: the addresses; length: of their prefix; any, loopback: the
    family's wildcard and its loopback address; header: bytes of its IP header."""

    kernel: str
    stack: str
    length: int
    any: str
    loopback: str
    header: int

    @property
    def six(self) -> bool:
        """Whether it is IPv6."""
        return ":" in self.any

    @property
    def family(self) -> socket.AddressFamily:
        """socket.AF_INET or AF_INET6."""
        return socket.AF_INET6 if self.six else socket.AF_INET

    @property
    def mss(self) -> int:
        """Bytes of TCP payload, options included, in a packet of 1500 bytes."""
        return 1500 - self.header - 20

    @property
    def kernel_net(self) -> str:
        """The kernel's address with its prefix length."""
        return f"{self.kernel}/{self.length}"

    @property
    def stack_net(self) -> str:
        """The stack's."""
        return f"{self.stack}/{self.length}"

    @property
    def options(self) -> tuple[str, ...]:
        """For a verb of ustack that makes a device: what isn't there by default."""
        return ("--address", self.stack_net, "--host-address", self.kernel_net) if self.six else ()

    def neighbour(self, number: int) -> str:
        """Another address of the same network."""
        return self.kernel[: -len("1")] + (f"{number:x}" if self.six else f"{number}")

    def name(self, host: str, port: int) -> tuple[Any, ...]:
        """An address of the family as sockets say it."""
        return (host, port, 0, 0) if self.six else (host, port)

    def amount(self, usual: int) -> int:
        """How much of a load over IPv4 is one over IPv6: what differs is the headers, so a quarter shows it."""
        return usual // 4 if self.six else usual

    def quoted(self, host: str) -> str:
        """An address as it is written before a port."""
        return f"[{host}]" if self.six else host

    def url(self, host: str, port: int = 80) -> str:
        """http:// of an address."""
        return f"http://{self.quoted(host)}:{port}"

    def device(self, ns: Namespace, name: str = "ust0", mode: str = "tap", owner: int | None = None) -> None:
        """A device whose kernel side has its address, for a verb of ustack to take over; owner: a user's number."""
        user = f" user {owner}" if owner is not None else ""
        nodad = " nodad" if self.six else ""
        ns.sh(f"ip tuntap add dev {name} mode {mode}{user} && ip addr add {self.kernel_net} dev {name}{nodad}")
        ns.sh(f"ip link set {name} up")


FOUR = Ends("10.9.0.1", "10.9.0.2", 24, "0.0.0.0", "127.0.0.1", 20)
SIX = Ends("fd09::1", "fd09::2", 64, "::", "::1", 40)
