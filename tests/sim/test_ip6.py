"""IPv6 between two stacks in virtual time: TCP, UDP, ping, Neighbor Discovery, fragments, zones, dual-stack sockets."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

import ustack
from ustack import sim

LEFT, RIGHT = "fd09::1", "fd09::2"
SIX = socket.AF_INET6


class Pair:
    """Two stacks on one wire, with addresses of both families."""

    def __init__(self, network: sim.Network) -> None:
        self.network = network
        self.left, self.right = network.stack("left"), network.stack("right")
        self.wire = network.wire(
            self.left,
            self.right,
            addresses=((f"{LEFT}/64", "10.9.0.1/24"), (f"{RIGHT}/64", "10.9.0.2/24")),
            delay=0.001,
        )

    def link_local(self, stack: ustack.Stack) -> str:
        return next(a.address for i in stack.interfaces() for a in i.addresses if a.address.startswith("fe80"))

    def udp(self, stack: ustack.Stack, port: int = 0, host: str = "::", family: int = SIX, proto: int = 0) -> Any:
        sock = stack.socket(family, socket.SOCK_DGRAM, proto)
        sock.settimeout(5)
        sock.bind((host, port))
        return sock


@pytest.fixture
def pair() -> Iterator[Pair]:
    with sim.Network(seed=6) as network:
        yield Pair(network)


def carry(pair: Pair, client: Any, server: Any, size: int) -> None:
    """`size` bytes from one to the other, and the end."""
    data = bytes(range(256)) * (size // 256)

    def send() -> None:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)

    sender = pair.network.spawn(send)
    got = bytearray()
    while piece := server.recv(65536):
        got += piece
    sender.result()
    assert bytes(got) == data


@pytest.mark.rfc("8200", "§3")
@pytest.mark.parametrize("host", [RIGHT, "10.9.0.2"])
def test_a_dual_stack_server_serves_both_families(pair: Pair, host: str) -> None:
    server = pair.right.create_server(("::", 80), family=SIX, dualstack_ipv6=True)
    client = pair.left.create_connection((host, 80), timeout=5)
    served, peer = server.accept()
    mapped = host if ":" in host else f"::ffff:{host}"
    assert served.getsockname() == (mapped, 80, 0, 0)
    assert peer[0] == (LEFT if ":" in host else "::ffff:10.9.0.1")
    assert len(peer) == 4
    assert client.family == (SIX if ":" in host else socket.AF_INET)
    carry(pair, client, served, 1 << 20)
    for sock in (client, served, server):
        sock.close()


def test_a_server_of_ipv6_only_leaves_ipv4_to_others(pair: Pair) -> None:
    six = pair.right.create_server(("::", 80), family=SIX)
    assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    with pytest.raises(ConnectionRefusedError):
        pair.left.create_connection(("10.9.0.2", 80), timeout=5)
    four = pair.right.create_server(("", 80))
    pair.left.create_connection(("10.9.0.2", 80), timeout=5).close()
    with pytest.raises(OSError) as caught:
        pair.right.create_server(("::", 80), family=SIX, dualstack_ipv6=True)
    assert caught.value.errno == errno.EADDRINUSE
    six.close()
    four.close()


def test_link_local_addresses_have_a_zone(pair: Pair) -> None:
    server = pair.right.create_server(("::", 80), family=SIX)
    host = pair.link_local(pair.right)
    name = next(i.name for i in pair.left.interfaces() if i.name != "lo")
    for address in ((f"{host}%{name}", 80), (host, 80, 0, 2), (f"{host}%2", 80)):
        client = pair.left.socket(SIX)
        client.connect(address)
        served, peer = server.accept()
        assert client.getpeername() == (host, 80, 0, 2)
        assert peer == (pair.link_local(pair.left), client.getsockname()[1], 0, 2)
        carry(pair, client, served, 100 * 256)
        client.close()
        served.close()
    client = pair.left.socket(SIX)
    assert client.connect_ex((host, 80)) == errno.EINVAL, "on which link?"
    with pytest.raises(socket.gaierror):
        client.connect((f"{host}%nowhere", 80))
    client.close()
    server.close()


@pytest.mark.rfc("8200", "§4.5")
@pytest.mark.parametrize("size", [0, 1, 1452, 1453, 1448, 8000, 65507])
def test_datagrams_whole_and_in_fragments(pair: Pair, size: int) -> None:
    left, right = pair.udp(pair.left), pair.udp(pair.right, 53)
    data = bytes(n & 255 for n in range(size))
    left.sendto(data, (RIGHT, 53))
    got, sender = right.recvfrom(70000)
    assert got == data
    assert sender[0] == LEFT
    right.sendto(got, sender)
    assert left.recv(70000) == data
    grown = pair.left.counters()
    assert (grown["Ip6FragCreates"] > 0) == (size > 1452)
    left.close()
    right.close()


@pytest.mark.rfc("4443", "§3.1")
def test_a_closed_port_is_told(pair: Pair) -> None:
    left = pair.udp(pair.left)
    left.connect((RIGHT, 54))
    left.send(b"x")
    with pytest.raises(ConnectionRefusedError):
        left.recv(10)
    with pytest.raises(ConnectionRefusedError):
        pair.left.create_connection((RIGHT, 81), timeout=5)
    left.close()


@pytest.mark.rfc("4443", "§4")
def test_ping(pair: Pair) -> None:
    sock = pair.left.socket(SIX, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6)
    sock.settimeout(5)
    for size in (0, 56, 4000):
        sock.sendto(bytes([128, 0, 0, 0, 0, 0, 0, 9]) + bytes(size), (RIGHT, 0))
        data, sender = sock.recvfrom(70000)
        assert (data[0], data[6:8], len(data)) == (129, b"\0\x09", 8 + size)
        assert sender == (RIGHT, 0, 0, 0)
    sock.close()


@pytest.mark.rfc("4861", "§7.2")
def test_nobody_is_there(pair: Pair) -> None:
    with pytest.raises(OSError) as caught:
        pair.left.create_connection(("fd09::99", 80), timeout=30)
    assert caught.value.errno == errno.EHOSTUNREACH
    assert pair.network.now < 5e9
    entry = next(one for one in pair.left.neighbors() if one.address == "fd09::99")
    assert entry.state == "FAILED"


def test_an_ipv4_socket_hears_no_ipv6(pair: Pair) -> None:
    four = pair.udp(pair.right, 53, host="", family=socket.AF_INET)
    left = pair.udp(pair.left)
    left.connect((RIGHT, 53))
    left.send(b"x")
    with pytest.raises(ConnectionRefusedError):
        left.recv(10)
    with pytest.raises(OSError) as caught:
        left.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    assert caught.value.errno == errno.EINVAL, "it is bound"
    four.close()
    left.close()


@pytest.mark.rfc("4862", "§5.4")
def test_an_address_that_somebody_has_is_not_taken() -> None:
    with sim.Network(seed=7) as network:
        left, right = network.stack("left"), network.stack("right")
        wire = network.wire(None, right, addresses=(None, f"{RIGHT}/64"), delay=0.001)
        left.attach(wire.a, addresses=[f"{RIGHT}/64", f"{LEFT}/64"], probe=True)
        assert {a.state for i in left.interfaces() if i.name != "lo" for a in i.addresses} == {"TENTATIVE"}
        network.run(5)
        states = {a.address: a.state for i in left.interfaces() for a in i.addresses}
        assert states[RIGHT] == "CONFLICT"
        assert states[LEFT] == "PREFERRED"
        assert left.counters()["Ip6DadFailures"] >= 1
        server = right.create_server(("::", 80), family=SIX)
        left.create_connection((RIGHT, 80), timeout=5).close()
        server.close()


def test_the_loopback(pair: Pair) -> None:
    server = pair.left.create_server(("::1", 80), family=SIX)
    client = pair.left.create_connection(("::1", 80), timeout=5)
    served, peer = server.accept()
    assert peer[0] == "::1"
    carry(pair, client, served, 1 << 16)
    for sock in (client, served, server):
        sock.close()
