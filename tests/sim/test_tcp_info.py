"""TCP_INFO's rates and times, as Linux has them: exact in virtual time, whatever the congestion control is."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, Self

import pytest

from ustack import sim

PORT = 80
RATE, RTT = 20e6, 0.04  # bit/s, s
MSS, FRAME = 1460, 1514  # bytes
BULK = 4_000_000
S = 1_000_000  # us


@pytest.fixture
def net() -> Iterator[sim.Network]:
    with sim.Network(seed=1) as network:
        yield network


def with_ce(frame: bytes) -> bytes:
    """An Ethernet frame of IPv4 with the mark of congestion in it, and a header checksum that is right."""
    changed = bytearray(frame)
    changed[15] |= 3
    total = sum(int.from_bytes(changed[at : at + 2], "big") for at in range(14, 34, 2) if at != 24)
    total = (total & 0xFFFF) + (total >> 16)
    changed[24:26] = (((total & 0xFFFF) + (total >> 16)) ^ 0xFFFF).to_bytes(2, "big")
    return bytes(changed)


class Pair:
    """A connection over a path of RATE and RTT; what it writes is read at once, unless told otherwise."""

    def __init__(self, net: sim.Network, algorithm: str = "cubic", *, ecn: bool = False) -> None:
        self.net = net
        self.a, self.b = net.stack("a"), net.stack("b")
        for stack in (self.a, self.b):
            stack.sysctl["net.ipv4.tcp_congestion_control"] = algorithm
            stack.sysctl["net.ipv4.tcp_timestamps"] = 0
            stack.sysctl["net.ipv4.tcp_ecn"] = int(ecn)
        self.wire = net.wire(
            self.a,
            self.b,
            addresses=("10.0.0.1/24", "10.0.0.2/24"),
            rate=RATE,
            delay=RTT / 2,
            queue_bytes=200_000,
        )
        with self.b.create_server(("", PORT)) as listener:
            self.sender = self.a.create_connection(("10.0.0.2", PORT))
            self.receiver, _ = listener.accept()

    def write(self, n: int) -> None:
        self.net.spawn(self.sender.sendall, bytes(n))

    def read(self, n: int) -> None:
        while n > 0:
            n -= len(self.receiver.recv(min(n, 1 << 20)))

    @property
    def info(self) -> dict[str, Any]:
        return dict(next(c for c in self.a.connections() if c.state == "ESTABLISHED").details)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sender.close()
        self.receiver.close()


@pytest.mark.parametrize("algorithm", ["reno", "cubic", "bbr"])
def test_the_delivery_rate_is_the_paths(net: sim.Network, algorithm: str) -> None:
    with Pair(net, algorithm) as pair:
        pair.write(BULK)
        pair.read(BULK // 2)
        midway = pair.info
        assert midway["delivery_rate"] == pytest.approx(RATE / 8 * MSS / FRAME, rel=0.1)
        assert not midway["app_limited"]
        pair.read(BULK // 2)
        net.run(1.0)
        after = pair.info
        assert after["delivered"] == 1 + after["data_segs_out"] - after["total_retrans"]
        assert after["delivered_ce"] == 0
        assert after["busy_time"] == pytest.approx(8 * BULK / RATE * FRAME / MSS * S, rel=0.25)


def test_what_the_application_has_no_more_of_is_no_rate_of_the_path(
    net: sim.Network,
) -> None:
    """A sample of little data counts if it is more than what is known, and is marked."""
    with Pair(net) as pair:
        for n in range(1, 6):
            pair.sender.send(bytes(1000))
            net.run(0.2)
            assert pair.info["app_limited"]
            assert pair.info["delivery_rate"] == pytest.approx(1000 / RTT, rel=0.1)
            assert pair.info["delivered"] == 1 + n
        pair.write(BULK)
        pair.read(BULK)
        net.run(1.0)
        known = pair.info["delivery_rate"]
        pair.sender.send(bytes(1000))
        net.run(1.0)
        assert pair.info["delivery_rate"] == known > 40 * 1000


def test_before_the_handshake_is_through_nothing_is_delivered(net: sim.Network) -> None:
    stack = net.stack("alone")
    net.wire(stack, net.stack("deaf"), addresses=("10.0.0.1/24", "10.0.0.2/24"), loss=1.0)
    with stack.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        assert sock.connect_ex(("10.0.0.2", PORT)) != 0
        net.run(0.5)
        (record,) = [c for c in stack.connections() if c.state == "SYN-SENT"]
        assert record.details["delivered"] == 0


@pytest.mark.rfc("3168", "6.1.2")
def test_segments_delivered_by_marked_acks_are_counted(net: sim.Network) -> None:
    with Pair(net, ecn=True) as pair:
        marked = 0

        def mark(frame: bytes, number: int) -> bytes:
            nonlocal marked
            if len(frame) < 1000 or marked:
                return frame
            marked += 1
            return with_ce(frame)

        pair.wire.a_to_b.filter = mark
        pair.write(50 * MSS)
        pair.read(50 * MSS)
        net.run(0.5)
        assert marked == 1
        assert 1 <= pair.info["delivered_ce"] < pair.info["delivered"] == 51


def test_what_a_sender_waited_for(net: sim.Network) -> None:
    """The peer's window, then room in its own send buffer."""
    with Pair(net) as pair:
        pair.write(BULK)
        net.run(5.0)
        shut = pair.info
        assert shut["rwnd_limited"] == pytest.approx(5 * S, rel=0.2)
        assert shut["busy_time"] >= shut["rwnd_limited"]
        pair.read(BULK)
        net.run(1.0)
        before = pair.info
        net.run(5.0)
        assert pair.info["busy_time"] == before["busy_time"]  # it has nothing to send
        pair.sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        pair.write(200_000)
        pair.read(200_000)
        assert pair.info["sndbuf_limited"] - before["sndbuf_limited"] >= S // 2
