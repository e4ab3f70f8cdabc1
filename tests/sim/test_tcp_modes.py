"""Ways to open a connection that are not the usual one: SYNs that cross, cookies, fast open; all in virtual time."""

from __future__ import annotations

import random
import socket

import pytest

import ustack
from tap_harness.packetdrill.script import Tcp
from tap_harness.packetdrill.wire import Addresses, tcp_packet
from ustack import sim

HERE, THERE = "10.0.0.1", "10.0.0.2"


def network(drop: set[tuple[str, int]] = frozenset()) -> tuple[sim.Network, ustack.Stack, ustack.Stack]:  # type: ignore[assignment]
    """Two stacks with 20 ms between them. drop: ("a" or "b", n): the sender's nth packet (from 1) is lost."""
    net = sim.Network(seed=5)
    a, b = net.stack("a"), net.stack("b")
    wire = net.wire(a, b, delay=0.02, addresses=(f"{HERE}/24", f"{THERE}/24"), medium="ip")
    for name, direction in (("a", wire.a_to_b), ("b", wire.b_to_a)):
        direction.filter = lambda frame, n, name=name: None if (name, n) in drop else frame
    return net, a, b


@pytest.mark.rfc("9293", "MUST-10")
@pytest.mark.parametrize(
    "drop",
    [set(), {("a", 1)}, {("a", 2)}, {("b", 2)}, {("a", 1), ("b", 1)}, {("a", 2), ("b", 2)}, {("a", 2), ("b", 1)}],
    ids=lambda drop: str(sorted(drop)),
)
def test_syns_that_cross_make_one_connection(drop: set[tuple[str, int]]) -> None:
    """Both sides connect to each other at the same time, whatever of the first packets is lost; data goes both ways."""
    net, a, b = network(drop)
    got: dict[str, bytes] = {}

    def one(stack: ustack.Stack, mine: str, peer: str, name: str) -> None:
        with stack.socket() as sock:
            sock.bind((mine, 1000))
            sock.connect((peer, 1000))
            sock.sendall(name.encode() * 20_000)
            sock.shutdown(socket.SHUT_WR)
            got[name] = b"".join(iter(lambda: sock.recv(65536), b""))

    with net:
        tasks = [net.spawn(one, a, HERE, THERE, "a"), net.spawn(one, b, THERE, HERE, "b")]
        net.run(duration=20)
        for task in tasks:
            task.result()
        assert got == {"a": b"b" * 20_000, "b": b"a" * 20_000}
        if not drop:
            assert a.counters()["TcpRetransSegs"] == b.counters()["TcpRetransSegs"] == 0


def test_no_forged_cookie_is_taken() -> None:
    """RFC 4987 §3.6: ACKs with random numbers, while cookies are in use, open nothing."""
    net = sim.Network(seed=6)
    with net:
        stack = net.stack("target")
        stack.sysctl["net.ipv4.tcp_syncookies"] = 2
        wire = net.wire(stack, None, addresses=(f"{HERE}/24", None), medium="ip")
        listener = stack.create_server(("", 80), backlog=100)
        listener.setblocking(False)
        ends, chance = Addresses(HERE, THERE), random.Random(7)
        wire.b.send(tcp_packet(ends, 999, 80, Tcp(True, "S", 1, 0, win=1000), b"", 0))
        net.run(duration=0.1)
        for k in range(5_000):
            ack = Tcp(True, ".", chance.getrandbits(32), 0, ack=chance.getrandbits(32), win=1000)
            wire.b.send(tcp_packet(ends, 1024 + k % 60_000, 80, ack, b"", 0))
            if k % 500 == 0:
                net.run(duration=0.001)
        net.run(duration=0.1)
        counters = stack.counters()
        assert counters["SyncookiesSent"] == 1
        assert counters["SyncookiesFailed"] == 5_000
        assert counters["SyncookiesRecv"] == 0
        assert stack.live()["tcbs"] == 0


@pytest.mark.rfc("7413", "4.2")
def test_fast_open_saves_a_round_trip() -> None:
    """Two stacks: the first connection brings the cookie, the second its request in the SYN; the answer is there after
    one round trip, counted from the call."""
    net, a, b = network()
    with net:
        b.sysctl["net.ipv4.tcp_fastopen"] = 3
        server = b.create_server((THERE, 80))
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)

        def serve() -> None:
            for _ in range(2):
                conn, _ = server.accept()
                with conn:
                    conn.sendall(conn.recv(1000).upper())

        net.spawn(serve)
        took = []
        for _ in range(2):
            start = net.now
            with a.socket() as sock:
                assert sock.sendto(b"request", socket.MSG_FASTOPEN, (THERE, 80)) == 7
                assert sock.recv(100) == b"REQUEST"
            took.append(round((net.now - start) / 1e9, 3))
        assert took == [0.08, 0.04]
        assert a.counters()["TCPFastOpenActive"] == b.counters()["TCPFastOpenPassive"] == 1
        server.close()


def test_fast_open_is_bounded() -> None:
    """TCP_FASTOPEN's number: that many connections whose handshake is not done; the others open in the usual way."""
    net = sim.Network(seed=8)
    with net:
        stack = net.stack("target")
        stack.sysctl["net.ipv4.tcp_fastopen"] = 0x203  # no cookie is asked for
        wire = net.wire(stack, None, addresses=(f"{HERE}/24", None), medium="ip")
        listener = stack.create_server(("", 80), backlog=100)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 3)
        ends = Addresses(HERE, THERE)
        for k in range(10):
            wire.b.send(tcp_packet(ends, 2000 + k, 80, Tcp(True, "S", 1, 5, win=1000), b"hello", 0))
        net.run(duration=0.01)
        assert stack.counters()["TCPFastOpenPassive"] == 3
        assert stack.counters()["TCPFastOpenListenOverflow"] == 7
        assert (stack.live()["tcbs"], stack.live()["synreqs"]) == (3, 7)
        for k in range(10):  # resets: room again
            wire.b.send(tcp_packet(ends, 2000 + k, 80, Tcp(True, "R", 7, 0), b"", 0))
        net.run(duration=0.01)
        wire.b.send(tcp_packet(ends, 3000, 80, Tcp(True, "S", 1, 5, win=1000), b"hello", 0))
        net.run(duration=0.01)
        assert stack.counters()["TCPFastOpenPassive"] == 4
        listener.close()
