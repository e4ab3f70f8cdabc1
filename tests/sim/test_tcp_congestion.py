"""Congestion control in virtual time: how windows grow and shrink, and who gets how much of a path."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from ustack import sim

PORT = 80
SO_MAX_PACING_RATE = getattr(socket, "SO_MAX_PACING_RATE", 47)
UNKNOWN = 0x7FFFFFFF  # ssthresh before the first congestion


class Path:
    """Two stacks and a wire that is the bottleneck; flows over it from a to b.

    rate: bit/s. rtt: s. queue: bandwidth-delay products that the bottleneck holds.
    """

    def __init__(self, net: sim.Network, algorithm: str, *, rate: float, rtt: float, queue: float = 1, **more: Any):
        self.net = net
        self.a, self.b = net.stack("a"), net.stack("b")
        for stack in (self.a, self.b):
            stack.sysctl["net.ipv4.tcp_congestion_control"] = algorithm
            stack.sysctl["net.core.rmem_max"] = 1 << 29
            stack.sysctl["net.ipv4.tcp_wmem"] = (4096, 16384, 1 << 27)
        self.wire = net.wire(
            self.a,
            self.b,
            addresses=("10.0.0.1/24", "10.0.0.2/24"),
            rate=rate,
            delay=rtt / 2,
            queue_bytes=int(queue * rate * rtt / 8),
            **more,
        )
        self.received: dict[int, int] = {}

    def flow(self, port: int = PORT) -> None:
        """A connection whose sender always has something to send."""
        server = self.b.create_server(("", port))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 28)
        self.received[port] = 0

        def read() -> None:
            connection, _ = server.accept()
            while piece := connection.recv(1 << 20):
                self.received[port] += len(piece)

        def write() -> None:
            connection = self.a.create_connection(("10.0.0.2", port))
            while True:
                connection.sendall(bytes(1 << 18))

        self.net.spawn(read)
        self.net.spawn(write)

    def sender(self) -> Any:
        """The first connection that is established."""
        return next(c for c in self.a.connections() if c.state == "ESTABLISHED")

    def dropped(self) -> int:
        return int(self.wire.a_to_b.stats["queue_dropped"])

    def lose_one(self) -> None:
        """The next frame of data is lost."""

        def lose(frame: bytes, number: int) -> bytes | None:
            if len(frame) < 1000:
                return frame
            self.wire.a_to_b.filter = None
            return None

        self.wire.a_to_b.filter = lose


def share(amounts: list[int]) -> float:
    """Jain's index of fairness."""
    return sum(amounts) ** 2 / (len(amounts) * sum(one * one for one in amounts))


def with_ce(frame: bytes) -> bytes:
    """An Ethernet frame of IPv4 with the mark of congestion in it, and a header checksum that is right (RFC 1624)."""
    changed = bytearray(frame)
    changed[15] |= 3
    total = sum(int.from_bytes(changed[at : at + 2], "big") for at in range(14, 34, 2) if at != 24)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    changed[24:26] = (total ^ 0xFFFF).to_bytes(2, "big")
    return bytes(changed)


@pytest.fixture
def net() -> Iterator[sim.Network]:
    with sim.Network(seed=1) as network:
        yield network


@pytest.mark.rfc("9438", "4.2")
@pytest.mark.rfc("9438", "4.6")
def test_cubic_grows_along_its_curve(net: sim.Network) -> None:
    """One loss at several hundred segments: the window is 0.7 of what it was and then follows W_cubic(t)."""
    path = Path(net, "cubic", rate=1e9, rtt=0.1, queue=4)
    path.flow()
    net.run(until=lambda: path.received[PORT] > 600_000)
    before = path.sender()
    path.lose_one()
    net.run(until=lambda: path.sender().ssthresh < UNKNOWN)
    w_max = path.sender().ssthresh / 0.7
    assert before.cwnd <= w_max < 4 * before.cwnd
    net.run(until=lambda: path.sender().details["ca_state"] == 0)
    mss, cwnd = before.mss, path.sender().cwnd
    assert cwnd == pytest.approx(0.7 * w_max, rel=0.02)
    start, rtt = net.now / 1e9, 0.1
    k = ((w_max - cwnd) / mss / 0.4) ** (1 / 3)
    assert k > 4
    for _ in range(int(1.5 * k / 0.25)):
        net.run(0.25)
        record, t = path.sender(), net.now / 1e9 - start
        earlier, later = (0.4 * (t + ahead - k) ** 3 * mss + w_max for ahead in (-rtt, rtt))
        assert 0.98 * earlier <= record.cwnd <= 1.02 * later, (t, k)
    assert path.sender().cwnd > w_max


@pytest.mark.rfc("9438", "4.7")
def test_cubic_gives_way_when_it_loses_below_its_last_maximum(net: sim.Network) -> None:
    """Fast convergence: a second loss at once remembers less than the window it found."""
    path = Path(net, "cubic", rate=1e9, rtt=0.1, queue=4)
    path.flow()
    net.run(until=lambda: path.received[PORT] > 600_000)
    path.lose_one()
    net.run(until=lambda: path.sender().ssthresh < UNKNOWN)
    net.run(until=lambda: path.sender().details["ca_state"] == 0)
    net.run(0.3)
    second = path.sender().cwnd
    path.lose_one()
    first = path.sender().ssthresh
    net.run(until=lambda: path.sender().ssthresh < first)
    net.run(until=lambda: path.sender().details["ca_state"] == 0)
    net.run(40, until=lambda: path.sender().cwnd > 0.84 * second)
    plateau = [path.sender().cwnd for _ in range(8) if net.run(0.2) or True]
    # It is flat around 0.85 of the window of the second loss, not around that window.
    assert plateau[-1] < 0.9 * second


@pytest.mark.rfc("9406", "4.2")
def test_hystart_leaves_slow_start_before_the_queue_overflows(net: sim.Network) -> None:
    path = Path(net, "cubic", rate=1e9, rtt=0.1, queue=1)
    path.flow()
    net.run(0.3)
    while path.sender().ssthresh == UNKNOWN:
        net.run(0.02)
        assert net.now < 4e9
    assert path.dropped() == 0
    bdp = 1e9 * 0.1 / 8
    assert path.sender().ssthresh > bdp  # and not before the path is full
    net.run(5)
    assert path.received[PORT] * 8 > 0.8 * 1e9 * 5


def test_slow_start_without_hystart_overflows_that_queue(net: sim.Network) -> None:
    """The test above can fail: Reno on the same path."""
    path = Path(net, "reno", rate=1e9, rtt=0.1, queue=1)
    path.flow()
    net.run(3)
    assert path.dropped() > 1000


@pytest.mark.rfc("7661", "4.3")
def test_a_window_that_is_not_used_does_not_grow(net: sim.Network) -> None:
    """An application that sends 4 segments a round trip keeps its 10."""
    path = Path(net, "cubic", rate=1e8, rtt=0.05)
    server = path.b.create_server(("", PORT))
    client = path.a.create_connection(("10.0.0.2", PORT))
    connection, _ = server.accept()
    for _ in range(40):
        client.sendall(bytes(4 * 1448))
        net.run(0.06)
        connection.recv(65536)
    assert path.sender().cwnd == 10 * 1448


@pytest.mark.rfc("5681", "4.1")
def test_an_idle_connection_forgets_its_window(net: sim.Network) -> None:
    """The window is halved each RTO down to the initial one, and what congestion control held is given back."""
    path = Path(net, "cubic", rate=1e9, rtt=0.02, queue=4)
    server = path.b.create_server(("", PORT))
    client = path.a.create_connection(("10.0.0.2", PORT))
    connection, _ = server.accept()
    net.spawn(client.sendall, bytes(3_000_000))
    left = 3_000_000
    while left:
        left -= len(connection.recv(1 << 20))
    net.run(0.1)
    grown = path.sender().cwnd
    assert grown > 100 * 1448
    assert path.a.live()["sending"] == 1
    net.run(0.3)
    client.sendall(b"x")
    assert grown / 3 < path.sender().cwnd < grown
    net.run(10)
    assert path.a.live()["sending"] == 0
    assert path.sender().cwnd == 10 * 1448
    assert path.sender().ssthresh >= 3 * (grown // 2) // 4 - 4


def test_an_idle_connection_keeps_its_window_where_asked_to(net: sim.Network) -> None:
    path = Path(net, "cubic", rate=1e9, rtt=0.02, queue=4)
    path.a.sysctl["net.ipv4.tcp_slow_start_after_idle"] = 0
    server = path.b.create_server(("", PORT))
    client = path.a.create_connection(("10.0.0.2", PORT))
    connection, _ = server.accept()
    net.spawn(client.sendall, bytes(3_000_000))
    left = 3_000_000
    while left:
        left -= len(connection.recv(1 << 20))
    grown = path.sender().cwnd
    net.run(60)
    assert path.sender().cwnd >= grown > 100 * 1448


def test_another_algorithm_takes_over_in_the_middle(net: sim.Network) -> None:
    path = Path(net, "cubic", rate=2e7, rtt=0.04)
    server = path.b.create_server(("", PORT))
    client = path.a.create_connection(("10.0.0.2", PORT))
    connection, _ = server.accept()
    net.spawn(client.sendall, bytes(4_000_000))
    got, names = 0, str(path.a.sysctl["net.ipv4.tcp_available_congestion_control"]).split()
    for name in (*names, *names):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
        assert path.sender().details["congestion"] == name
        for _ in range(5):
            got += len(connection.recv(100_000))
    while got < 4_000_000:
        got += len(connection.recv(1 << 20))


def test_bbr_can_be_left_in_recovery_and_come_back(net: sim.Network) -> None:
    """It has no ssthresh that another algorithm could go on with, and its old snapshots are none of its new model's."""
    path = Path(net, "bbr", rate=2e7, rtt=0.04)
    server = path.b.create_server(("", PORT))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    client = path.a.create_connection(("10.0.0.2", PORT))
    connection, _ = server.accept()
    net.spawn(client.sendall, bytes(30_000_000))
    net.spawn(lambda: [None for _ in iter(lambda: connection.recv(1 << 20), b"")])
    net.run(0.12)
    path.lose_one()
    net.run(5, until=lambda: path.sender().details["ca_state"] == 3)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    net.run(1)
    assert path.sender().cwnd < 1000 * 1448
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
    net.run(0.02)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
    net.run(1)
    assert path.sender().details["bbr"]["bw"] * 8 < 1.3 * 2e7


def test_bbr_finds_the_bandwidth_and_keeps_the_queue_small(net: sim.Network) -> None:
    """A queue of four bandwidth-delay products, which CUBIC fills: BBR leaves it nearly empty, and loses nothing."""
    path = Path(net, "bbr", rate=5e7, rtt=0.04, queue=4)
    path.flow()
    net.run(2)
    start = path.received[PORT]
    backlogs = []
    for _ in range(100):
        net.run(0.05)
        backlogs.append(path.wire.a_to_b.backlog[1])
    bdp = 5e7 * 0.04 / 8
    assert (path.received[PORT] - start) * 8 / 5 > 0.93 * 5e7 * 1448 / 1514
    assert sorted(backlogs)[50] < 0.1 * bdp
    assert max(backlogs) < 0.5 * bdp
    assert path.dropped() == 0
    bbr = path.sender().details["bbr"]
    assert bbr["bw"] * 8 == pytest.approx(5e7 * 1448 / 1514, rel=0.03)
    assert bbr["mrtt"] == pytest.approx(40_000, rel=0.03)


def test_bbr_looks_at_the_round_trip_again_every_ten_seconds(net: sim.Network) -> None:
    path = Path(net, "bbr", rate=2e7, rtt=0.04, queue=4)
    path.flow()
    modes = set()
    least = 1 << 30
    for _ in range(1200):
        net.run(0.01)
        record = path.sender() if net.now > 5e8 else None
        if record is not None:
            modes.add(record.details["bbr"]["mode"])
            least = min(least, record.cwnd) if record.details["bbr"]["mode"] == "PROBE_RTT" else least
    assert modes >= {"PROBE_BW", "PROBE_RTT"}
    assert least == 4 * 1448
    assert path.sender().details["bbr"]["mode"] == "PROBE_BW"
    assert path.sender().cwnd > 20 * 1448


def test_bbr_does_not_take_loss_for_congestion(net: sim.Network) -> None:
    """1 % of random loss: CUBIC is down to a few Mbit/s, BBR keeps most of the path."""
    path = Path(net, "bbr", rate=5e7, rtt=0.05, loss=(0.01, 0))
    path.flow()
    net.run(10)
    assert path.received[PORT] * 8 / 10 > 0.6 * 5e7


@pytest.mark.parametrize("algorithm", ["reno", "cubic", "bbr"])
def test_max_pacing_rate(net: sim.Network, algorithm: str) -> None:
    """SO_MAX_PACING_RATE: no faster than that over any tenth of a second, and nearly as fast."""
    path = Path(net, algorithm, rate=1e9, rtt=0.02, queue=4)
    server = path.b.create_server(("", PORT))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    client = path.a.create_connection(("10.0.0.2", PORT))
    client.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 1_000_000)
    assert client.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE) == 1_000_000
    connection, _ = server.accept()
    net.spawn(client.sendall, bytes(3_000_000))
    counts = []
    connection.settimeout(0)
    for _ in range(28):
        net.run(0.1)
        counts.append(len(connection.recv(1 << 20)))
    assert max(counts) <= 106_000
    assert min(counts[4:]) >= 90_000
    assert path.wire.a_to_b.backlog[0] <= 2


def test_a_pacing_rate_can_be_changed_and_taken_away(net: sim.Network) -> None:
    path = Path(net, "cubic", rate=1e8, rtt=0.02, queue=4)
    server = path.b.create_server(("", PORT))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    client = path.a.create_connection(("10.0.0.2", PORT))
    connection, _ = server.accept()
    client.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, (100_000).to_bytes(8, sys.byteorder))
    assert client.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 8) == (100_000).to_bytes(8, sys.byteorder)
    net.spawn(client.sendall, bytes(3_000_000))
    net.run(1)
    connection.settimeout(0)
    assert 80_000 < len(connection.recv(1 << 24)) < 125_000
    client.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, -1)
    assert client.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE) == -1
    connection.settimeout(None)
    left = 2_800_000
    start = net.now
    while left > 0:
        left -= len(connection.recv(1 << 20))
    assert net.now - start < 1.5e9


@pytest.mark.rfc("3168", "6.1.2")
@pytest.mark.parametrize("algorithm", ["reno", "cubic"])
def test_marks_slow_a_sender_down_without_a_loss(net: sim.Network, algorithm: str) -> None:
    """A bottleneck that marks what waits too long (RFC 3168 §5, as an AQM would): the path is full, nothing is lost."""
    path = Path(net, algorithm, rate=2e7, rtt=0.04, queue=4)
    path.a.sysctl["net.ipv4.tcp_ecn"] = 1
    marked = 0

    def mark(frame: bytes, number: int) -> bytes:
        nonlocal marked
        if len(frame) < 1000 or path.wire.a_to_b.backlog[0] < 70 or frame[15] & 3 == 0:
            return frame
        marked += 1
        return with_ce(frame)

    path.wire.a_to_b.filter = mark
    path.flow()
    net.run(15)
    assert marked > 10
    assert path.a.counters()["TcpRetransSegs"] == 0
    assert path.dropped() == 0
    assert path.sender().details["options"] & 8
    assert path.received[PORT] * 8 / 15 > 0.85 * 2e7
    assert path.sender().rtt < 120_000  # without ECN the queue would be full: 200 ms


@pytest.mark.parametrize(
    ("algorithm", "flows"),
    [("reno", 2), ("reno", 8), ("cubic", 2), ("cubic", 4), ("cubic", 8), ("cubic", 16), ("bbr", 2), ("bbr", 8)],
)
def test_flows_of_one_algorithm_share_evenly(net: sim.Network, algorithm: str, flows: int) -> None:
    path = Path(net, algorithm, rate=2e7, rtt=0.04)
    for number in range(flows):
        path.flow(PORT + number)
    seconds = 40
    if algorithm == "bbr":
        seconds = 60  # shares meet when PROBE_RTT has emptied the queue a few times, once in ten seconds
    net.run(seconds)
    assert share(list(path.received.values())) >= 0.95
    assert sum(path.received.values()) * 8 / seconds > 0.9 * 2e7
