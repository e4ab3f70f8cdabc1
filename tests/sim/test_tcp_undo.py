"""Recoveries that were for nothing: paths that reorder and stall but lose nothing, and what is taken back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import ustack
from ustack import sim

RTT = 0.04
RATE = 100e6
UNDOS = ("TCPFullUndo", "TCPPartialUndo", "TCPDSACKUndo", "TCPLossUndo")


@dataclass
class Line:
    """A sender and a receiver over a path without losses: its queue holds whatever comes."""

    net: sim.Network
    wire: sim.Wire
    sender: ustack.Stack
    client: ustack.Socket
    server: ustack.Socket

    def transfer(self, size: int) -> float:
        """Seconds it took."""
        start = self.net.now
        self.net.spawn(self.client.sendall, bytes(size))
        got = 0
        while got < size:
            got += len(self.server.recv(1 << 20))
        return (self.net.now - start) / 1e9

    def counted(self, *names: str) -> int:
        counters = self.sender.counters()
        return sum(counters[name] for name in names)


def line(seed: int, timestamps: bool) -> Iterator[Line]:
    with sim.Network(seed=seed) as net:
        receiver, sender = net.stack("receiver"), net.stack("sender")
        sender.sysctl["net.ipv4.tcp_timestamps"] = int(timestamps)
        wire = net.wire(receiver, sender, addresses=("10.0.0.1/24", "10.0.0.2/24"), rate=RATE, delay=RTT / 2)
        with receiver.create_server(("", 80)) as listener:
            client = sender.create_connection(("10.0.0.1", 80))
            server, _ = listener.accept()
        with client, server:
            yield Line(net, wire, sender, client, server)


@pytest.fixture(params=[True, False], ids=["timestamps", "no-timestamps"])
def lossless(request: pytest.FixtureRequest) -> Iterator[Line]:
    yield from line(7, request.param)


@pytest.mark.rfc("8985", "6.2")
@pytest.mark.rfc("3522", "3.2")
@pytest.mark.rfc("2883", "4")
@pytest.mark.parametrize("late", [0.001, 0.005, 0.01, 0.02, 0.035])
def test_reordering_costs_nearly_nothing(lossless: Line, late: float) -> None:
    """3 % of the segments come late: at most 1 % are sent again, and no reduction of the window stands at the end."""
    lossless.wire.b_to_a.reorder = 0.03
    lossless.wire.b_to_a.reorder_delay = late
    lossless.transfer(10_000_000)
    assert lossless.wire.stats["b_to_a"]["reordered"] > 100
    assert lossless.counted("TcpRetransSegs") <= 0.01 * lossless.counted("TcpOutSegs")
    assert lossless.counted("TCPTimeouts") == 0
    lossless.wire.b_to_a.reorder = 0
    lossless.transfer(1_000_000)
    assert lossless.counted(*UNDOS) == lossless.counted("TCPSackRecovery", "TCPLossProbeRecovery")


@pytest.mark.rfc("5682", "3")
@pytest.mark.rfc("4015", "3")
def test_a_stalled_path_costs_a_few_segments(lossless: Line) -> None:
    """The path stands still until time-outs come; then all that was under way arrives, in order."""
    lossless.transfer(2_000_000)
    cwnd = max(c.cwnd for c in lossless.sender.connections() if c.state == "ESTABLISHED")
    until = lossless.net.now + 300_000_000
    held: list[bytes] = []

    def stand_still(frame: bytes, number: int) -> list[bytes] | None:
        held.append(frame)
        if lossless.net.now < until:
            return None
        released = held[:]
        held.clear()
        return released

    lossless.wire.b_to_a.filter = stand_still
    lossless.transfer(2_000_000)
    assert lossless.counted("TCPTimeouts") > 0
    assert lossless.counted("TCPLossUndo") == 1
    assert lossless.counted("TcpRetransSegs") <= 6
    assert max(c.cwnd for c in lossless.sender.connections() if c.state == "ESTABLISHED") >= cwnd


def test_frto_can_be_turned_off(lossless: Line) -> None:
    lossless.sender.sysctl["net.ipv4.tcp_frto"] = 0
    lossless.transfer(500_000)
    lossless.wire.b_to_a.delay = 1.0
    lossless.net.run(0.1)
    lossless.transfer(200_000)
    assert lossless.counted("TCPTimeouts") > 0
    assert lossless.counted("TCPSpuriousRTOs") == 0
