"""Forwarding: a stack as a router between others, in virtual time, over IPv4 and IPv6.

RFC 1812, 8200, 1191, 8201, 3704.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

import ustack
from ustack import sim

PORT = 7000
FORWARDED = {False: "IpForwDatagrams", True: "Ip6OutForwDatagrams"}
both = pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])


def at(network: int, host: int, six: bool) -> str:
    return f"fd{network:02x}::{host:x}" if six else f"10.0.{network}.{host}"


def prefix(network: int, six: bool) -> str:
    return f"fd{network:02x}::/64" if six else f"10.0.{network}.0/24"


def forward(stack: ustack.Stack, on: bool = True) -> None:
    stack.sysctl["net.ipv4.ip_forward"] = int(on)
    stack.sysctl["net.ipv6.conf.all.forwarding"] = int(on)


class Line:
    """Hosts at both ends and `hops` routers between them; on network k the nearer has address 1, the farther 2. mtus:
    of each network."""

    def __init__(self, hops: int, six: bool = False, mtus: dict[int, int] | None = None, **wire: Any) -> None:
        self.net = sim.Network(seed=3)
        self.six = six
        self.stacks = [self.net.stack(f"n{k}") for k in range(hops + 2)]
        length = 64 if six else 24
        self.wires = [
            self.net.wire(
                a, b, addresses=(f"{at(k, 1, six)}/{length}", f"{at(k, 2, six)}/{length}"),
                mtu=(mtus or {}).get(k, 1500), delay=0.001, **wire,
            )
            for k, (a, b) in enumerate(itertools.pairwise(self.stacks))
        ]  # fmt: skip
        for k, stack in enumerate(self.stacks):
            if 0 < k < len(self.stacks) - 1:
                forward(stack)
            for network in range(hops + 1):
                if network > k:
                    stack.add_route(prefix(network, six), at(k, 2, six))
                elif network < k - 1:
                    stack.add_route(prefix(network, six), at(k - 1, 1, six))
        self.first, self.last = self.stacks[0], self.stacks[-1]
        self.far = at(hops, 2, six)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.net.close()


def udp(stack: ustack.Stack, port: int = 0, six: bool = False) -> Any:
    sock = stack.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.bind(("", port))
    return sock


def hears_errors(stack: ustack.Stack, six: bool) -> Any:
    """A socket with a copy of every ICMP message."""
    family, proto = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
    sock = stack.socket(family, socket.SOCK_RAW, proto)
    sock.settimeout(0)
    return sock


def error_of(sock: Any) -> tuple[str, int, int, int]:
    """(who says so, type, code, what goes with it) of the next error."""
    while True:
        data, (where, *_) = sock.recvfrom(2000)
        kind, code, _, rest = struct.unpack_from("!BBHI", data, 0 if sock.family == socket.AF_INET6 else 20)
        if kind in ((1, 2, 3, 4) if sock.family == socket.AF_INET6 else (3, 11, 12)):
            return where, kind, code, rest


def transfer(line: Line, size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    server = line.last.create_server(("", 80), family=socket.AF_INET6 if line.six else socket.AF_INET)

    def serve() -> bytes:
        conn, _ = server.accept()
        got = bytearray()
        while part := conn.recv(65536):
            got += part
        conn.close()
        return bytes(got)

    task = line.net.spawn(serve)
    with line.first.create_connection((line.far, 80), timeout=60) as client:
        client.sendall(data[:size])
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert task.result() == data[:size]
    server.close()


@both
@pytest.mark.rfc("1812", "5.2 forwarding")
@pytest.mark.rfc("8200", "3 routers forward")
def test_five_hops(six: bool) -> None:
    with Line(5, six) as line:
        transfer(line, 300_000)
        for router in line.stacks[1:-1]:
            assert router.counters()[FORWARDED[six]] > 200
            assert router.counters().get("TcpInSegs", 0) == 0


@both
@pytest.mark.rfc("1191", "4 routers")
@pytest.mark.rfc("8201", "4 packet too big")
def test_five_hops_of_which_one_in_the_middle_is_narrow(six: bool) -> None:
    """Narrower still farther on: the sender is told twice, remembers, and all of it arrives."""
    with Line(5, six, {3: 1400, 4: 1280}) as line:
        transfer(line, 500_000)
        told = "Icmp6OutPktTooBigs" if six else "IcmpOutDestUnreachs"
        counts = [router.counters()[told] for router in line.stacks]
        assert counts[3] >= 1
        assert counts[4] >= 1
        assert sum(counts) <= 24, "the sender remembers"
        assert sum(counts[k] for k in (0, 1, 2, 5, 6)) == 0


@both
def test_a_host_forwards_nothing(six: bool) -> None:
    with Line(1, six) as line:
        forward(line.stacks[1], False)
        with pytest.raises(TimeoutError):
            line.first.create_connection((line.far, 80), timeout=3)
        assert line.stacks[1].counters()["DropIpNotOurs"] > 0
        assert line.stacks[1].counters()[FORWARDED[six]] == 0


@both
@pytest.mark.rfc("1812", "5.3.1 TTL")
@pytest.mark.rfc("4443", "3.3 time exceeded")
def test_traceroute_shows_each_hop(six: bool) -> None:
    with Line(5, six) as line, udp(line.first, 0, six) as sock, hears_errors(line.first, six) as errors:
        hops = []
        for ttl in range(1, 7):
            level, option = (
                (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS) if six else (socket.IPPROTO_IP, socket.IP_TTL)
            )
            sock.setsockopt(level, option, ttl)
            sock.sendto(b"probe", (line.far, 33434))
            line.net.run(1)
            hops.append(error_of(errors)[:3])
        exceeded, unreachable = ((3, 0), (1, 4)) if six else ((11, 0), (3, 3))
        assert hops == [(at(k, 2, six), *exceeded) for k in range(5)] + [(at(5, 2, six), *unreachable)]


@pytest.mark.rfc("1812", "4.2.2.7 fragmentation")
def test_datagrams_are_cut_on_the_way_or_refused() -> None:
    with Line(2, mtus={2: 600}) as line, udp(line.first) as sock, udp(line.last, PORT) as far:
        for size in (1, 572, 573, 1472, 1473, 8000):
            data = bytes(range(256)) * 40
            sock.sendto(data[:size], (line.far, PORT))
            assert far.recv(65536) == data[:size]
        sock.setsockopt(socket.IPPROTO_IP, 10, 2)
        with hears_errors(line.first, False) as errors:
            sock.sendto(bytes(1000), (line.far, PORT))
            line.net.run(1)
            assert error_of(errors) == (at(1, 2, False), 3, 4, 600)
        sock.sendto(bytes(572), (line.far, PORT))
        assert len(far.recv(65536)) == 572


@pytest.mark.rfc("8200", "5 no fragments by routers")
@pytest.mark.rfc("4443", "3.2 packet too big")
def test_datagrams_of_ipv6_are_never_cut_on_the_way() -> None:
    with Line(2, True, {2: 1300}) as line, udp(line.first, 0, True) as sock, udp(line.last, PORT, True) as far:
        sock.connect((line.far, PORT))
        with hears_errors(line.first, True) as errors:
            sock.send(bytes(1400))
            line.net.run(1)
            assert error_of(errors) == (at(1, 2, True), 2, 0, 1300)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EMSGSIZE
        for size in (1252, 1253, 1400, 8000):  # the source cuts what it knows to be too big now
            sock.send(bytes(size))
            assert len(far.recv(65536)) == size
        assert line.stacks[2].counters()["Ip6FragCreates"] == 0


@both
@pytest.mark.rfc("1812", "5.2.7.1 destination unreachable")
@pytest.mark.rfc("4443", "3.1 destination unreachable")
@pytest.mark.parametrize("known", [False, True], ids=["no-route", "nobody-there"])
def test_where_there_is_no_way(six: bool, known: bool) -> None:
    with Line(1, six) as line, udp(line.first, 0, six) as sock, hears_errors(line.first, six) as errors:
        line.first.add_route(prefix(99, six), at(0, 2, six))
        sock.connect((at(1 if known else 99, 77, six), PORT))
        sock.send(b"x")
        line.net.run(10)
        kind, code = (1, 3 if known else 0) if six else (3, 1 if known else 0)
        assert error_of(errors)[:3] == (at(0, 2, six), kind, code)


@both
def test_a_loop_of_routers_ends_by_the_hop_limit(six: bool) -> None:
    """Two routers that each think the other knows: a packet goes round until it is out of hops, and one error comes."""
    with Line(2, six) as line, udp(line.first, 0, six) as sock, hears_errors(line.first, six) as errors:
        line.first.add_route(prefix(99, six), at(0, 2, six))
        line.stacks[1].add_route(prefix(99, six), at(1, 2, six))
        line.stacks[2].add_route(prefix(99, six), at(1, 1, six))
        sock.sendto(b"x", (at(99, 1, six), PORT))
        line.net.run(10)
        passed = sum(router.counters()[FORWARDED[six]] for router in line.stacks[1:3])
        assert passed <= 64 + 2, "63 times, and the error's own way"
        assert error_of(errors)[1] == (3 if six else 11)


class Router:
    """A router with a raw end on each side, whose neighbours are known."""

    def __init__(self) -> None:
        self.net = sim.Network(seed=1)
        self.stack = self.net.stack("router")
        self.left = self.net.wire(None, self.stack, addresses=(None, "10.1.0.1/24"), name="left")
        self.right = self.net.wire(self.stack, None, addresses=("10.2.0.1/24", None), name="right")
        self.stack.sysctl["net.ipv4.ip_forward"] = 1
        self.names = [one.name for one in self.stack.interfaces() if one.medium != "loopback"]
        self.stack.add_neighbor(self.names[0], "10.1.0.2", "02:00:00:00:aa:01")
        self.stack.add_neighbor(self.names[1], "10.2.0.2", "02:00:00:00:aa:02")
        self.macs = {one.name: one.mac for one in self.stack.interfaces()}

    def send(self, packet: Any, link: str | None = None) -> None:
        self.left.a.send(bytes(Ether(src="02:00:00:00:aa:01", dst=link or self.macs[self.names[0]]) / packet))
        self.net.run(0.01)

    def out(self) -> list[Any]:
        found = []
        with contextlib.suppress(TimeoutError):
            while True:
                found.append(Ether(self.right.b.recv(timeout=0)))
        return [one for one in found if IP in one]


@pytest.fixture
def router() -> Iterator[Router]:
    made = Router()
    yield made
    made.net.close()


def probe(**fields: Any) -> Any:
    return IP(**{"src": "10.1.0.2", "dst": "10.2.0.2", "ttl": 9, **fields}) / UDP(sport=1, dport=2) / Raw(b"data")


def test_what_a_forwarded_packet_looks_like(router: Router) -> None:
    router.send(probe(tos=0x28, id=77))
    (frame,) = router.out()
    assert (frame.src, frame.dst) == (router.macs[router.names[1]], "02:00:00:00:aa:02")
    expected = IP(bytes(probe(tos=0x28, id=77, ttl=8)))
    assert bytes(frame[IP]) == bytes(expected)


@pytest.mark.rfc("1812", "5.3.7 martians")
@pytest.mark.parametrize(
    "fields",
    [
        {"src": "127.0.0.1"},
        {"src": "0.0.0.0"},
        {"src": "224.0.0.5"},
        {"src": "10.1.0.255"},
        {"src": "169.254.1.1"},
        {"dst": "224.0.0.5"},
        {"dst": "127.0.0.1"},
        {"dst": "240.0.0.1"},
        {"dst": "255.255.255.255"},
        {"dst": "10.2.0.255"},
        {"dst": "169.254.1.1"},
        {"ttl": 1},
        {"ttl": 0},
        {"chksum": 1},
    ],
)
def test_what_is_not_forwarded(router: Router, fields: dict[str, Any]) -> None:
    router.send(probe(**fields))
    assert router.out() == []
    router.send(probe())
    assert len(router.out()) == 1


def test_no_broadcast_frames_and_no_source_routes(router: Router) -> None:
    router.send(probe(), link="ff:ff:ff:ff:ff:ff")
    router.send(probe(options=[Raw(b"\x83\x07\x04\x0a\x02\x00\x02\x00")]))
    assert router.out() == []


def test_errors_are_limited_and_never_about_errors(router: Router) -> None:
    for _ in range(100):
        router.send(probe(ttl=1))
    assert 1 <= router.stack.counters()["IcmpOutTimeExcds"] <= 7
    before = router.stack.counters()["IcmpOutMsgs"]
    inner = bytes(IP(src="10.2.0.2", dst="10.1.0.2") / UDP())
    router.send(IP(src="10.1.0.2", dst="10.2.0.2", ttl=1) / ICMP(type=3, code=3) / Raw(inner))
    assert router.stack.counters()["IcmpOutMsgs"] == before


@pytest.mark.rfc("3704", "2")
@pytest.mark.parametrize(("mode", "source", "passes"), [
    (0, "10.2.0.77", True), (1, "10.2.0.77", False), (2, "10.2.0.77", True),
    (0, "10.99.0.1", True), (1, "10.99.0.1", False), (2, "10.99.0.1", False), (1, "10.1.0.2", True),
])  # fmt: skip
def test_reverse_path_filter(router: Router, mode: int, source: str, passes: bool) -> None:
    router.stack.sysctl["net.ipv4.conf.all.rp_filter"] = mode
    router.send(probe(src=source))
    assert len(router.out()) == passes
    assert router.stack.counters().get("DropIpReversePath", 0) == (not passes)
