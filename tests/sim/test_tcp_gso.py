"""Superframes on links that cannot cut them: one transmission of TCP is many frames of the wire."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

import ustack
from ustack import sim

FULL = 14 + 1500


@dataclass
class Line:
    """A client and a server joined by a simulated wire, on which every frame of the client is seen."""

    net: sim.Network
    wire: sim.Wire
    stack: ustack.Stack
    client: ustack.Socket
    server: ustack.Socket
    frames: list[bytes]
    lost: set[int]  # positions in frames that do not arrive
    mss: int

    def watch(self) -> None:
        def note(frame: bytes, number: int) -> bytes | None:
            self.frames.append(frame)
            return None if len(self.frames) - 1 in self.lost else frame

        self.wire.b_to_a.filter = note

    def transfer(self, data: bytes) -> None:
        """Sends it, and checks what comes."""
        self.net.spawn(self.client.sendall, data)
        got = bytearray()
        while len(got) < len(data):
            got += self.server.recv(1 << 20)
        assert bytes(got) == data

    def segments(self) -> list[tuple[int, int, str]]:
        """(offset in the stream, length, flags) of each frame with data."""
        packets = [found[TCP] for frame in self.frames if TCP in (found := Ether(frame)) and found[TCP].payload]
        first = packets[0].seq
        return [(p.seq - first & 0xFFFFFFFF, len(p.payload), str(p.flags)) for p in packets]


@pytest.fixture(params=["10.0.0.1/24 10.0.0.2/24", "fd00::1/64 fd00::2/64"], ids=["IPv4", "IPv6"])
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    addresses = request.param.split()
    host = addresses[0].split("/")[0]
    six = ":" in host
    with sim.Network(seed=5) as net:
        a, b = net.stack("a"), net.stack("b")
        wire = net.wire(a, b, addresses=addresses, rate=10e9, delay=0.0001)
        net.run(3)
        with a.create_server((host, 80), family=ustack.AF_INET6 if six else ustack.AF_INET) as listener:
            client = b.create_connection((host, 80))
            server, _ = listener.accept()
        with client, server:
            made = Line(net, wire, b, client, server, [], set(), 1428 if six else 1448)
            yield made
            vars(made).clear()  # the test's own reference to it lives on


def test_a_window_leaves_as_full_segments(line: Line) -> None:
    """Ten segments at first, as before there were superframes; PSH on the last alone."""
    line.watch()
    line.transfer(bytes(range(256)) * 100)
    sent = line.segments()
    mss = line.mss
    assert sent[:10] == [(i * mss, mss, "A") for i in range(10)]
    assert sent[-1] == (17 * mss, 25600 - 17 * mss, "PA")
    counters = line.stack.counters()
    assert counters["TcpRetransSegs"] == 0
    assert counters["TcpOutSegs"] == len(line.frames) + 2  # the SYN and the ACK of the SYN-ACK were not watched


@pytest.mark.parametrize("lost", [{0}, {4}, {9}, {2, 3}, {1, 5, 8}, set(range(1, 10))], ids=str)
def test_only_what_is_lost_of_a_superframe_is_sent_again(line: Line, lost: set[int]) -> None:
    line.watch()
    line.lost = lost
    data = bytes(i * 31 & 0xFF for i in range(40000))
    line.transfer(data)
    line.net.run(1)
    sent = line.segments()
    seen: set[int] = set()
    again = []
    for seq, length, _ in sent:
        if seq in seen:
            again.append(seq)
        seen.add(seq)
        assert length <= line.mss
    # a loss probe may repeat the last segment
    assert {seq for seq in again if seq < 10 * line.mss} >= {i * line.mss for i in lost}
    assert len(again) <= len(lost) + 1
    assert line.stack.counters()["TcpRetransSegs"] == len(again)


def test_a_round_trip_is_measured_by_an_acknowledgement_of_a_part(line: Line) -> None:
    """The receiver acknowledges every second segment, the record is larger: still not the timestamps' milliseconds."""
    line.transfer(bytes(2_000_000))
    info: Any = line.client.getsockopt(6, 11, 104)
    rtt = int.from_bytes(info[68:72], "little")
    assert 200 <= rtt < 1000


def test_a_superframe_waits_for_the_neighbours_address(line: Line) -> None:
    """It is in the neighbour's queue as one, and leaves cut."""
    interface = next(one.name for one in line.stack.interfaces() if one.name != "lo")
    line.watch()
    line.stack.del_neighbor(interface, line.client.getpeername()[0])
    line.transfer(bytes(range(256)) * 50)
    first = Ether(line.frames[0])
    assert first.type == 0x0806 or first[IPv6].payload.type == 135  # a request, or a solicitation
    assert [len(frame) for frame in line.frames[1:9]] == [FULL] * 8
    assert all(Ether(frame).dst != "00:00:00:00:00:00" for frame in line.frames)
    assert line.stack.counters()["TcpRetransSegs"] == 0


def test_what_a_full_queue_refuses_is_counted_and_sent_again() -> None:
    stacks = [ustack.Stack(driver="manual") for _ in range(2)]
    ends = ustack.pipe(queue=4)
    for i, stack in enumerate(stacks):
        stack.attach(ends[i], addresses=[f"10.0.0.{i + 1}/24"])
    a, b = stacks
    now = 0

    def run(ms: int) -> None:
        nonlocal now
        for _ in range(ms):
            now += 1_000_000
            a.poll(now)
            b.poll(now)

    listener = b.create_server(("", 80))
    listener.setblocking(False)
    sender = a.socket()
    sender.setblocking(False)
    sender.connect_ex(("10.0.0.2", 80))
    run(3)
    receiver: Any = listener.accept()[0]
    receiver.setblocking(False)
    data = bytes(range(256)) * 50
    before = a.counters()
    assert sender.send(data) == len(data)
    after = a.counters()
    assert after["DropTxQueueFull"] - before["DropTxQueueFull"] == 5  # nine segments, four places
    assert after["TcpOutSegs"] - before["TcpOutSegs"] == 9
    got = bytearray()
    for _ in range(2000):
        run(1)
        try:
            got += receiver.recv(1 << 16)
        except BlockingIOError:
            pass
    assert bytes(got) == data
    for stack in stacks:
        stack.close()
