"""Network address translation of a stack that forwards: Stack.nat.

    stack.sysctl["net.ipv4.ip_forward"] = 1
    stack.nat.masquerade("wan0")                                  # hosts behind the stack speak with its address
    stack.nat.forward("wan0", "tcp", 8080, ("10.1.0.2", 80))      # and one of them can be reached

What is translated and how: ustack_ext/net/nat.pyx (RFC 3022, 4787, 5382, 5508).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from ustack_ext.sockets import config, inspect

from .addresses import number

_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17}
_NAMES = {number: name for name, number in _PROTOCOLS.items()}


@dataclass(frozen=True)
class NatFlow:
    """What goes between an inner host and a remote one; outside it seems to come from `outer`.

    protocol: "tcp", "udp" or "icmp" (whose port is the identifier of its echoes; the remote's is 0). The ends are
    (address, port). idle_ms: since the last packet.
    """

    protocol: str
    inner: tuple[str, int]
    outer: tuple[str, int]
    remote: tuple[str, int]
    interface: str
    idle_ms: int


class Nat:
    """The address translation of a stack; made by Stack.nat. All of it is for IPv4."""

    def __init__(self, stack: Any) -> None:
        self._stack = stack

    def masquerade(self, interface: str, on: bool = True) -> None:
        """Give what is forwarded out of `interface` that interface's address, and bring back the answers.

        It needs net.ipv4.ip_forward. Flows that there are go on when it ends. Raises OSError: ENODEV, ENOMEM.
        """
        config.masquerade(self._stack, interface, on)

    def forward(self, interface: str, protocol: str, port: int, to: tuple[str, int]) -> None:
        """Hand on what comes from outside to a port of the interface's addresses, to an inner host.

        protocol: "tcp" or "udp". to: (address, port). The interface has to masquerade. At most 64.
        Raises ValueError, OSError: ENODEV, EEXIST (the port is forwarded already), ENOBUFS (64 are).
        """
        host, to_port = to
        address = number(ipaddress.IPv4Address(host))
        config.change_forward(self._stack, interface, _protocol(protocol), _port(port), address, _port(to_port))

    def unforward(self, interface: str, protocol: str, port: int) -> None:
        """Forward a port no longer; its flows go on. Raises ValueError, OSError: ENODEV, ENOENT (it is not)."""
        config.change_forward(self._stack, interface, _protocol(protocol), _port(port), None, 0)

    def flows(self) -> list[NatFlow]:
        """Every flow that is translated, those that may end soon first, each kind by when it was used last."""
        return [NatFlow(_NAMES[row[0]], *row[1:]) for row in inspect.nat_flows(self._stack)]


def _protocol(name: str) -> int:
    if name not in ("tcp", "udp"):
        raise ValueError(f'protocol: {name!r} is neither "tcp" nor "udp"')
    return _PROTOCOLS[name]


def _port(number: int) -> int:
    if not 1 <= number <= 65535:
        raise ValueError(f"port: {number} is not between 1 and 65535")
    return number
