"""How large a segment the path carries: what routers say, how long it counts, and paths where none says anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import Ether

import ustack
from ustack import sim

CLIENT, SERVER, ROUTER = "10.0.0.2", "10.0.0.1", "10.0.0.3"
PORTS = (80, 81)


@dataclass
class Path:
    """A client whose packets to the server pass a hop of a smaller MTU, which says so or is silent."""

    net: sim.Network
    wire: sim.Wire
    client: ustack.Stack
    listeners: dict[int, ustack.Socket]
    mtu: int = 1500
    speaks: bool = True
    told: int | None = None  # what it says, where that is not its MTU
    errors: int = 0
    largest: int = 0
    uncut: int = 0  # packets with DF
    open: list[ustack.Socket] = field(default_factory=list)

    def watch(self) -> None:
        self.wire.b_to_a.filter = self.forward

    def forward(self, frame: bytes, number: int) -> bytes | None:
        packet = Ether(frame)
        if IP not in packet:
            return frame
        if packet[IP].len <= self.mtu or "DF" not in packet[IP].flags:
            self.largest = max(self.largest, packet[IP].len)
            self.uncut += "DF" in packet[IP].flags
            return frame
        if self.speaks:
            self.errors += 1
            self.net.call_later(0.001, self.say, packet)
        return None

    def say(self, packet: Any, *, src: str = ROUTER, seq: int | None = None) -> None:
        quote = packet[IP].copy()
        if seq is not None:
            quote[TCP].seq = seq
        told = self.mtu if self.told is None else self.told
        error = IP(src=src, dst=CLIENT) / ICMP(type=3, code=4, nexthopmtu=told) / bytes(quote)[:28]
        self.wire.a.send(bytes(Ether(src=packet.dst, dst=packet.src) / error))

    def connect(self, port: int = 80) -> tuple[ustack.Socket, ustack.Socket]:
        client = self.client.create_connection((SERVER, port))
        server, _ = self.listeners[port].accept()
        self.open += [client, server]
        return client, server

    def transfer(self, pair: tuple[ustack.Socket, ustack.Socket], size: int) -> None:
        data = bytes(range(256)) * (size // 256)
        self.net.spawn(pair[0].sendall, data)
        got = bytearray()
        while len(got) < len(data):
            got += pair[1].recv(1 << 20)
        assert bytes(got) == data

    def mss(self) -> set[int]:
        return {c.mss for c in self.client.connections() if c.state == "ESTABLISHED"}


@pytest.fixture
def path() -> Iterator[Path]:
    with sim.Network(seed=11) as net:
        server, client = net.stack("server"), net.stack("client")
        wire = net.wire(server, client, addresses=(SERVER + "/24", CLIENT + "/24"), rate=100e6, delay=0.01)
        listeners = {port: server.create_server(("", port)) for port in PORTS}
        made = Path(net, wire, client, listeners)
        made.watch()
        yield made
        for sock in (*made.open, *listeners.values()):
            sock.close()
        vars(made).clear()


@pytest.mark.rfc("1191", "6.2", "6.3")
@pytest.mark.rfc("9293", "MUST-16")
def test_a_smaller_hop_costs_a_round_trip_and_no_time_out(path: Path) -> None:
    path.mtu = 1000
    start = path.net.now
    pair = path.connect()
    path.transfer(pair, 200_000)
    assert path.mss() == {1000 - 52}
    assert path.largest == 1000
    counters = path.client.counters()
    assert counters["TCPTimeouts"] == 0
    assert counters["TCPLossProbes"] == 0
    assert path.net.now - start < 300_000_000
    record = next(c for c in path.client.connections() if c.state == "ESTABLISHED")
    assert record.ssthresh > 1 << 30, "no congestion was concluded from it"


def test_superframes_in_flight_are_cut_anew(path: Path) -> None:
    """The path becomes narrower in the middle of a transfer with a window of many segments."""
    pair = path.connect()
    path.transfer(pair, 1_000_000)
    path.net.spawn(pair[0].sendall, bytes(2_000_000))
    pair[1].recv(1)
    path.mtu = 900
    got = 1
    while got < 2_000_000:
        got += len(pair[1].recv(1 << 20))
    assert path.mss() == {900 - 52}
    assert path.client.counters()["TCPTimeouts"] == 0


@pytest.mark.rfc("1191", "6.3")
def test_all_connections_to_the_destination_know_and_forget_it_after_ten_minutes(path: Path) -> None:
    first = path.connect()
    second = path.connect(81)
    path.mtu = 1200
    path.transfer(first, 50_000)
    assert path.errors > 0
    path.transfer(first, 25_600)
    path.errors = 0
    path.transfer(second, 50_176)
    third = path.connect()
    path.transfer(third, 50_176)
    assert path.errors == 0
    assert path.mss() == {1200 - 52}
    path.mtu = 1500
    path.net.run(601)
    path.transfer(second, 50_176)
    assert path.largest == 1500


@pytest.mark.rfc("5927", "4.1", "7.2")
@pytest.mark.parametrize("told", [1499, 1500, 1501, 9000, 65535])
def test_what_says_nothing_new_or_is_not_in_flight_changes_nothing(path: Path, told: int) -> None:
    pair = path.connect()
    path.transfer(pair, 10_240)
    seen: list[Any] = []
    path.wire.b_to_a.filter = lambda frame, number: (seen.append(Ether(frame)), frame)[1]
    path.transfer(pair, 1024)
    path.net.run(0.1)
    path.told = told
    for offset in (0, -1, 1 << 30, 1 << 31, 1460):
        path.say(seen[0], seq=seen[0][TCP].seq + offset & 0xFFFFFFFF)
    path.net.run(0.1)
    assert path.mss() == {1448}
    assert path.client.counters()["OutOfWindowIcmps"] == 5


@pytest.mark.rfc("1191", "6.2")
@pytest.mark.parametrize("told", [0, 1, 68, 551, 552])
def test_no_estimate_below_min_pmtu_and_then_routers_may_fragment(path: Path, told: int) -> None:
    """Without a next-hop MTU, or with one that nothing real has: 552, and DF off, as Linux does it."""
    path.mtu = 600
    path.told = told
    pair = path.connect()
    path.transfer(pair, 20_480)
    assert path.mss() == {552 - 52}
    path.uncut = 0
    path.transfer(pair, 20_480)
    assert path.uncut == 0


@pytest.mark.parametrize(("mode", "mss"), [(0, 1148), (1, 500), (2, 1448), (3, 1148)])
def test_no_pmtu_disc(path: Path, mode: int, mss: int) -> None:
    path.client.sysctl["net.ipv4.ip_no_pmtu_disc"] = mode
    pair = path.connect()
    path.transfer(pair, 20_480)
    seen: list[Any] = []
    path.wire.b_to_a.filter = lambda frame, number: (seen.append(Ether(frame)), None)[1]
    path.net.spawn(pair[0].sendall, bytes(1448))
    path.net.run(0.005)
    assert ("DF" in seen[0][IP].flags) == (mode in (0, 3))
    path.told = 1200
    path.say(seen[0])
    path.net.run(0.02)
    assert path.mss() == {mss}


def test_hops_may_become_narrower_one_after_the_other(path: Path) -> None:
    pair = path.connect()
    for _ in range(3):
        path.mtu -= 100
        path.transfer(pair, 20_480)
    assert path.mss() == {1200 - 52}
    assert path.client.counters()["TCPTimeouts"] == 0


@pytest.mark.rfc("4821", "7.7")
@pytest.mark.rfc("8899", "4.3")
def test_a_black_hole_is_found_by_time_outs_and_searched(path: Path) -> None:
    """No router speaks: without probing the connection is dead; with it the size that fits is found to within 8."""
    path.mtu = 1300
    path.speaks = False
    path.client.sysctl["net.ipv4.tcp_mtu_probing"] = 1
    pair = path.connect()
    path.transfer(pair, 5_000_192)
    assert path.largest in range(1292, 1301)
    assert {path.largest - 52} == path.mss()
    counters = path.client.counters()
    assert counters["TCPMTUPSuccess"] >= 2
    assert counters["TCPMTUPFail"] >= 2
    assert counters["TCPTimeouts"] <= 4
    again = path.connect(81)
    path.transfer(again, 20_480)
    assert path.client.counters()["TCPTimeouts"] == counters["TCPTimeouts"], "what one found out, all know"


@pytest.mark.rfc("4821", "7.3")
def test_probing_from_the_start_goes_to_the_top_at_once(path: Path) -> None:
    path.client.sysctl["net.ipv4.tcp_mtu_probing"] = 2
    pair = path.connect()
    assert path.mss() == {1024}
    path.transfer(pair, 200_192)
    assert path.mss() == {1448}
    counters = path.client.counters()
    assert (counters["TCPMTUPSuccess"], counters["TCPMTUPFail"], counters["TcpRetransSegs"]) == (1, 0, 0)


def test_mss_clamp(path: Path) -> None:
    path.client.sysctl["net.ipv4.tcp_mss_clamp"] = 1000
    syn: list[Any] = []

    def note(frame: bytes, number: int) -> bytes:
        packet = Ether(frame)
        if TCP in packet and packet[TCP].flags.S:
            syn.append(dict(packet[TCP].options)["MSS"])
        return frame

    path.wire.b_to_a.filter = note
    pair = path.connect()
    assert syn == [1000]
    assert path.mss() == {1000 - 12}
    path.watch()
    path.transfer(pair, 20_480)
    assert path.largest == 1040
