"""IPv4 forwarding: a stack as a router between others, in virtual time. RFC 1812, 1191, 3704."""

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


class Line:
    """Hosts at both ends and `hops` routers between them; network k is 10.0.k.0/24."""

    def __init__(self, hops: int, **wire: Any) -> None:
        self.net = sim.Network(seed=3)
        self.stacks = [self.net.stack(f"n{k}") for k in range(hops + 2)]
        self.wires = [
            self.net.wire(a, b, addresses=(f"10.0.{k}.1/24", f"10.0.{k}.2/24"), delay=0.001, **wire)
            for k, (a, b) in enumerate(itertools.pairwise(self.stacks))
        ]
        for k, stack in enumerate(self.stacks):
            if 0 < k < len(self.stacks) - 1:
                stack.sysctl["net.ipv4.ip_forward"] = 1
            for network in range(hops + 1):
                if network > k:
                    stack.add_route(f"10.0.{network}.0/24", f"10.0.{k}.2")
                elif network < k - 1:
                    stack.add_route(f"10.0.{network}.0/24", f"10.0.{k - 1}.1")
        self.first, self.last = self.stacks[0], self.stacks[-1]
        self.far = f"10.0.{hops}.2"

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.net.close()


def udp(stack: ustack.Stack, port: int = 0) -> Any:
    sock = stack.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.bind(("", port))
    return sock


def transfer(line: Line, size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    server = line.last.create_server(("", 80))

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


@pytest.mark.rfc("1812", "5.2 forwarding")
def test_five_hops() -> None:
    with Line(5) as line:
        transfer(line, 300_000)
        for router in line.stacks[1:-1]:
            assert router.counters()["IpForwDatagrams"] > 200
            assert router.counters().get("TcpInSegs", 0) == 0


def test_a_host_forwards_nothing() -> None:
    with Line(1) as line:
        line.stacks[1].sysctl["net.ipv4.ip_forward"] = 0
        with pytest.raises(TimeoutError):
            line.first.create_connection((line.far, 80), timeout=3)
        assert line.stacks[1].counters()["DropIpNotOurs"] > 0
        assert line.stacks[1].counters().get("IpForwDatagrams", 0) == 0


@pytest.mark.rfc("1812", "5.3.1 TTL")
def test_traceroute_shows_each_hop() -> None:
    with Line(5) as line, udp(line.first) as sock:
        sock.setsockopt(socket.IPPROTO_IP, 11, 1)
        hops = []
        for ttl in range(1, 7):
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            sock.sendto(b"probe", (line.far, 33434))
            line.net.run(1)
            data, ancillary, _, address = sock.recvmsg(100, 512, socket.MSG_ERRQUEUE)
            raw = ancillary[0][2]
            hops.append((socket.inet_ntoa(raw[20:24]), raw[5], raw[6]))
            assert (data, address) == (b"probe", (line.far, 33434))
        assert hops == [(f"10.0.{k}.2", 11, 0) for k in range(5)] + [("10.0.5.2", 3, 3)]


@pytest.mark.rfc("1191", "4 routers")
def test_tcp_through_a_smaller_link() -> None:
    with Line(2) as line:
        small = line.net.stack("tail")
        line.net.wire(line.last, small, addresses=("10.0.9.1/24", "10.0.9.2/24"), mtu=1280, delay=0.001)
        line.last.sysctl["net.ipv4.ip_forward"] = 1
        small.add_route("default", "10.0.9.1")
        for k, stack in enumerate(line.stacks[:-1]):
            stack.add_route("10.0.9.0/24", f"10.0.{k}.2")
        line.last, line.far = small, "10.0.9.2"
        router = line.stacks[-1]
        server = small.create_server(("", 80))
        data = bytes(range(256)) * 1000

        def serve() -> int:
            conn, _ = server.accept()
            got = 0
            while part := conn.recv(65536):
                got += len(part)
            conn.close()
            return got

        task = line.net.spawn(serve)
        client = line.first.create_connection(("10.0.9.2", 80), timeout=60)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        client.close()
        assert task.result() == len(data)
        server.close()
        assert router.counters().get("IcmpOutDestUnreachs", 0) <= 3, "told once or so; the sender remembers"


@pytest.mark.rfc("1812", "4.2.2.7 fragmentation")
def test_datagrams_are_cut_on_the_way_or_refused() -> None:
    with Line(1) as line:
        small = line.net.stack("tail")
        line.net.wire(line.last, small, addresses=("10.0.9.1/24", "10.0.9.2/24"), mtu=600)
        line.last.sysctl["net.ipv4.ip_forward"] = 1
        small.add_route("default", "10.0.9.1")
        line.first.add_route("10.0.9.0/24", "10.0.0.2")
        line.stacks[1].add_route("10.0.9.0/24", "10.0.1.2")
        with udp(line.first) as sock, udp(small, PORT) as far:
            for size in (1, 572, 573, 1472, 1473, 8000):
                data = bytes(range(256)) * 40
                sock.sendto(data[:size], ("10.0.9.2", PORT))
                assert far.recv(65536) == data[:size]
            sock.setsockopt(socket.IPPROTO_IP, 10, 2)
            sock.setsockopt(socket.IPPROTO_IP, 11, 1)
            sock.sendto(bytes(1000), ("10.0.9.2", PORT))
            line.net.run(1)
            _, ancillary, _, _ = sock.recvmsg(100, 512, socket.MSG_ERRQUEUE)
            assert struct.unpack_from("=IBBBxI", ancillary[0][2]) == (errno.EMSGSIZE, 2, 3, 4, 600)
            sock.sendto(bytes(572), ("10.0.9.2", PORT))
            assert len(far.recv(65536)) == 572


@pytest.mark.rfc("1812", "5.2.7.1 destination unreachable")
@pytest.mark.parametrize(
    ("to", "code", "error"), [("10.7.0.1", 0, errno.ENETUNREACH), ("10.0.1.99", 1, errno.EHOSTUNREACH)]
)
def test_where_there_is_no_way(to: str, code: int, error: int) -> None:
    with Line(1) as line, udp(line.first) as sock:
        line.first.add_route("10.7.0.0/24", "10.0.0.2")
        sock.setsockopt(socket.IPPROTO_IP, 11, 1)
        sock.sendto(b"x", (to, PORT))
        line.net.run(10)
        _, ancillary, _, _ = sock.recvmsg(100, 512, socket.MSG_ERRQUEUE)
        assert struct.unpack_from("=IBBB", ancillary[0][2]) == (error, 2, 3, code)
        assert socket.inet_ntoa(ancillary[0][2][20:24]) == "10.0.0.2"


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
