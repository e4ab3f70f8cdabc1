"""What a stack tells about itself: one small dataclass for each kind of thing.

Responsible for: the names and units of the fields. Not for: finding the values (ustack_ext.sockets.inspect).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_PROMOTED = ("mss", "cwnd", "ssthresh", "rtt", "rttvar", "rto", "retrans")


@dataclass(frozen=True)
class Connection:
    """A TCP connection or listener, or a datagram socket.

    protocol: "tcp", "udp" or "icmp" (a ping socket).
    state: RFC 9293's name ("ESTABLISHED", "FIN-WAIT-1", …), "LISTEN", or "UNCONN" for a datagram socket without a peer.
    local, peer: (host, port); peer is None where there is none.
    recv_q: bytes received and not read; for a listener, connections not accepted.
    send_q: bytes not acknowledged; for a listener, the backlog.
    mss, cwnd, ssthresh: bytes; rtt, rttvar, rto: µs; retrans: segments retransmitted and not acknowledged. None where
        there is no connection.
    details: more of TCP's figures, named as in Linux's struct tcp_info.
    """

    protocol: str
    state: str
    local: tuple[str, int]
    peer: tuple[str, int] | None
    recv_q: int
    send_q: int
    mss: int | None = None
    cwnd: int | None = None
    ssthresh: int | None = None
    rtt: int | None = None
    rttvar: int | None = None
    rto: int | None = None
    retrans: int | None = None
    details: dict[str, int] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Address:
    """An interface's address: "TENTATIVE" while RFC 5227's probes run, then "PREFERRED", or "CONFLICT" (another host
    has it)."""

    address: str
    prefix_length: int
    state: str

    def __str__(self) -> str:
        return f"{self.address}/{self.prefix_length}"


@dataclass(frozen=True)
class Interface:
    """An interface. medium: "ethernet", "ip" or "loopback"; mtu in bytes of IP; the counters count frames and bytes.

    managed, other_config: the last router advertisement's M and O (RFC 4861 §4.2); None: there was none.
    parent, vlan: of a VLAN: the interface it is on, and its id. bridge: that it is a port of. ports: of a bridge.
    """

    index: int
    name: str
    medium: str
    up: bool
    mac: str | None
    mtu: int
    addresses: tuple[Address, ...]
    rx_packets: int
    rx_bytes: int
    rx_dropped: int
    tx_packets: int
    tx_bytes: int
    tx_dropped: int
    managed: bool | None = None
    other_config: bool | None = None
    parent: str | None = None
    vlan: int | None = None
    bridge: str | None = None
    ports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Route:
    """A route. destination: "10.9.0.0/24"; gateway, source: None where there is none; mtu: 0 for the interface's;
    table: 254 is "main", which is looked into where no rule says otherwise."""

    destination: str
    gateway: str | None
    interface: str
    metric: int
    mtu: int
    source: str | None
    table: int = 254


@dataclass(frozen=True)
class Rule:
    """A rule of policy routing: of what it is for, routes are looked for in `table`; the least priority is asked first.

    family: 4 or 6. source, destination: prefixes; iif, oif: interfaces' names; None: any.
    """

    priority: int
    family: int
    source: str | None
    destination: str | None
    iif: str | None
    oif: str | None
    table: int


@dataclass(frozen=True)
class Neighbor:
    """An entry of the neighbour (ARP) table. state: RFC 4861's name; age_ms: since reachability was last confirmed."""

    address: str
    interface: str
    mac: str | None
    state: str
    age_ms: int | None


@dataclass(frozen=True)
class Station:
    """A link address that a bridge has seen: at which port, and how many ms ago."""

    mac: str
    interface: str
    age_ms: int


def connection(row: tuple[Any, ...]) -> Connection:
    """A Connection from ustack_ext.sockets.inspect.connections()."""
    *plain, details = row
    return Connection(*plain, **{name: details.get(name) for name in _PROMOTED}, details=details)  # type: ignore[misc]


def interface(row: dict[str, Any]) -> Interface:
    """An Interface from ustack_ext.sockets.inspect.interfaces()."""
    return Interface(**{**row, "addresses": tuple(Address(*one) for one in row["addresses"])})


def route(row: tuple[Any, ...]) -> Route:
    """A Route from ustack_ext.sockets.inspect.routes()."""
    prefix, length, *rest = row
    return Route(f"{prefix}/{length}", *rest)
