"""Attackers that answer: they keep a connection formally alive for ever, and choose addresses for their hashes.

The crowds that say nothing any more are in test_tcp_exhaustion; a used-up budget is in test_budget.
"""

from __future__ import annotations

import contextlib
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

import ustack
from tap_harness.lab import PORT, Lab
from tap_harness.segment import ACK, FIN, RST, SYN
from ustack import sim


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.close()


@pytest.mark.rfc("9293", "MUST-36")
def test_shut_window_with_every_probe_answered(lab: Lab) -> None:
    """While the application holds the connection it stays open; an orphan ends within minutes, with RST."""
    end = lab.open_raw(40000, PORT)
    sock = lab.accept()
    lab.carrier.send(end.frame(ACK, win=0))
    lab.write(sock, b"x" * 1000)

    def probed_until(seconds: float) -> int | None:
        """Answers each probe with the same shut window; the flags of a RST, None if there was none."""
        stop = lab.carrier.now() + seconds
        while lab.carrier.now() < stop:
            lab.carrier.advance(0.5)
            for segment in lab.segments():
                if segment.flags & RST:
                    return segment.flags
                lab.carrier.send(end.frame(ACK, win=0))
        return None

    assert probed_until(3600) is None
    assert lab.stack.live()["tcbs"] == 1
    sock.close()
    assert probed_until(900) is not None
    assert lab.stack.live()["tcbs"] == 0


@pytest.mark.parametrize("memory", [1 << 20])
def test_orphans_go_first_when_memory_is_short(memory: int) -> None:
    """Closed connections to shut windows: at the budget they end with their next probe, and new clients are served."""
    with contextlib.closing(Lab(memory=memory)) as lab:
        health = lab.health
        for sport in range(20000, 20080):
            end = lab.open_raw(sport, PORT)
            sock = lab.accept()
            lab.carrier.send(end.frame(ACK, win=0))
            with contextlib.suppress(OSError):
                for _ in range(10):
                    sock.send(bytes(8000))
            sock.close()
        assert lab.stack.live()["buffer_bytes"] > memory * 13 // 16
        lab.carrier.advance(5)
        lab.segments()
        assert lab.stack.live()["buffer_bytes"] <= memory * 14 // 16
        health.echo(10_000)


def by_sum(address: int, port: int) -> int:
    return (address + port) & 0xFFFF


def by_xor(address: int, port: int) -> int:
    return (address ^ address >> 16 ^ port) & 0xFFF


def by_crc(address: int, port: int) -> int:
    return zlib.crc32(address.to_bytes(4, "big") + port.to_bytes(2, "big")) & 0xFFF


@pytest.mark.parametrize("weak", [by_sum, by_xor, by_crc])
def test_four_tuples_chosen_to_collide(weak: Callable[[int, int], int]) -> None:
    """2000 four-tuples that a hash without a key would put into one chain are spread by ours."""
    testing = pytest.importorskip("ustack_ext.base.testing")
    key = bytes(range(16))
    chosen = []
    address = 0x0B000000
    while len(chosen) < 2000:
        address += 1
        port = 1024 + address * 7919 % 60000
        if weak is by_crc:
            port = next((p for p in range(1024, 65536) if weak(address, p) == 7), 0)
        elif weak is by_xor:
            port = 0x2000 | ((address ^ address >> 16 ^ 7) & 0xFFF)
        else:
            port = (7 - address) & 0xFFFF
        chosen.append((address, port))
    assert len({weak(*one) for one in chosen}) == 1
    mapped = 0xFFFF << 32
    ours = 0x0A090002 | mapped
    buckets = Counter(
        testing.hash_words(key, [0, ours, 0, mapped | address, 80 << 16 | port]) & 2047 for address, port in chosen
    )
    assert max(buckets.values()) <= 10


def test_a_flood_of_syns_to_foreign_addresses() -> None:
    """A forwarder that nobody answers for: requests are bounded, the flood is shed and counted, who comes last is asked
    about, and nothing was sent."""
    with sim.Network(seed=5) as net:
        crowd, gate = net.stack("crowd"), net.stack("gate")
        net.wire(crowd, gate, addresses=("10.0.0.1/8", "10.0.0.2/24"))
        crowd.add_route("default", "10.0.0.2")
        requests: list[ustack.ForwardRequest] = []
        forwarder = gate.forward_tcp(requests.append, backlog=64)
        crowd.socket(type=ustack.SOCK_DGRAM).sendto(b"", ("10.0.0.2", 9))
        net.run(0.1)  # the neighbours know each other
        socks = []
        for k in range(3000):
            sock = crowd.socket()
            sock.setblocking(False)
            sock.connect_ex((f"198.51.{k % 250}.1", 1 + k))
            socks.append(sock)
        net.run(0.2)
        assert forwarder.undecided == 64
        seen = gate.counters()
        assert seen["DropFlowBacklog"] >= 2900
        assert seen["TcpOutSegs"] == 0
        for sock in socks:
            sock.close()
        net.run(60)
        assert forwarder.undecided == 0
        sock = crowd.socket()
        sock.setblocking(False)
        sock.connect_ex(("203.0.113.1", 443))
        net.run(0.1)
        served = requests[-1].accept()
        net.run(0.1)
        sock.send(b"through")
        net.run(0.1)
        assert served.recv(10) == b"through"
        assert gate.live()["tcbs"] == 1


@pytest.mark.parametrize("flags", [SYN | ACK, SYN | FIN, FIN, ACK, RST, 0])
def test_segments_that_open_nothing_make_no_request(lab: Lab, flags: int) -> None:
    requests: list[ustack.ForwardRequest] = []
    lab.stack.forward_tcp(requests.append)
    end = lab.open_raw(40000)
    lab.carrier.send(replace(end.path, dport=PORT + 1000).frame(1, 2, flags, 100))
    lab.carrier.advance(1)
    assert requests == []
    assert lab.stack.counters().get("FlowTcpRequests", 0) == 0
