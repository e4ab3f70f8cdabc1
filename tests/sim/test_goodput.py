"""Bulk transfers over troubled paths in virtual time: none stalls, tail losses cost little, buffers fill the path."""

from __future__ import annotations

import os
from typing import Any

import pytest

from bench.goodput import PAYLOAD, Cell, grid, measure, pour, tables
from ustack import sim

MSS = 1448
RTT = 0.05
SMALL = 100_000

PART = [
    Cell(0.001, 10e6, 0.03, True, 0, 0.25),
    Cell(0.02, 10e6, 0.03, False, 0, 0.25),
    Cell(0.02, 100e6, 0.01, True, 0, 1),
    Cell(0.02, 100e6, 0, False, 0.03, 1),
    Cell(0.1, 10e6, 0.03, True, 0, 4),
    Cell(0.1, 100e6, 0.001, False, 0, 1),
    Cell(0.1, 100e6, 0, False, 0, 0.25),
    Cell(0.3, 10e6, 0.01, False, 0, 1),
    Cell(0.3, 10e6, 0, False, 0.01, 4),
    Cell(0.3, 100e6, 0, False, 0, 4),
]
CELLS = list(grid()) if os.environ.get("USTACK_FULL") else PART


@pytest.mark.rfc("6298", "5")
@pytest.mark.parametrize("cell", CELLS, ids=lambda c: f"{c.column()}, {c.row()}, queue {c.queue:g}".replace(" ", ""))
def test_no_transfer_stalls(cell: Cell) -> None:
    outcome = measure(cell)
    assert not outcome.stalled, outcome
    assert outcome.used > 0.01, outcome
    if not cell.loss and not cell.reorder and cell.queue >= 1 and cell.rate * cell.rtt < 30e6:
        assert outcome.used > 0.85, outcome
    if cell.reorder and cell.queue >= 1:
        assert outcome.resent <= 0.01 * outcome.sent or outcome.used > 0.8, outcome


def test_the_table() -> None:
    outcomes = [measure(Cell(0.001, 10e6, 0, False, reorder, 1)) for reorder in (0, 0.03)]
    text = tables(outcomes)
    assert "| | 1 ms, 10 Mbit/s |" in text
    assert "2 cells, 0 with a silence longer" in text
    assert "3 % reordered" in text


# -- the end of a short transfer


def completion(lost: int | None) -> tuple[float, dict[str, int]]:
    """How long 100 KB take over 50 ms, seen by the receiver, with the frame that ends `lost` segments before the last
    one lost once.
    """
    with sim.Network(seed=3) as net:
        receiver, sender = net.stack("receiver"), net.stack("sender")
        wire = net.wire(receiver, sender, addresses=("10.0.0.1/24", "10.0.0.2/24"), rate=100e6, delay=RTT / 2)
        with receiver.create_server(("", 80)) as listener:
            client = sender.create_connection(("10.0.0.1", 80))
            server, _ = listener.accept()
        frames = 0
        last = (SMALL + MSS - 1) // MSS

        def lose(frame: bytes, number: int) -> bytes | None:
            nonlocal frames
            frames += len(frame) > 100
            return None if lost is not None and len(frame) > 100 and frames == last - lost else frame

        wire.b_to_a.filter = lose
        with client, server:
            start = net.now
            net.spawn(client.sendall, bytes(SMALL))
            got = 0
            while got < SMALL:
                got += len(server.recv(1 << 20))
            return (net.now - start) / 1e9, sender.counters()


@pytest.mark.rfc("8985", "7")
@pytest.mark.parametrize("lost", [0, 1, 2, 5, 20])
def test_a_loss_near_the_end_costs_three_round_trips_at_most(lost: int) -> None:
    clean, _ = completion(None)
    late, counters = completion(lost)
    assert late > clean
    assert late - clean <= 3 * RTT
    assert counters["TCPTimeouts"] == 0
    if lost == 0:
        assert counters["TCPLossProbes"] == 1


# -- buffers that tune themselves


@pytest.mark.rfc("9293", "SHLD-14")
def test_six_megabytes_of_window_are_filled_from_the_first_seconds() -> None:
    """1 Gbit/s over 100 ms: the receiver's default limit, 6 MiB, is the bound where the sender may buffer more."""
    window = 6 << 20
    with sim.Network(seed=4) as net:
        receiver, sender = net.stack("receiver"), net.stack("sender")
        sender.sysctl["net.ipv4.tcp_wmem"] = (4096, 16384, 4 * window)
        wire = net.wire(receiver, sender, addresses=("10.0.0.1/24", "10.0.0.2/24"), rate=1e9, delay=0.05)
        wire.b_to_a.queue_bytes = 2 * window
        with receiver.create_server(("", 80)) as listener:
            client = sender.create_connection(("10.0.0.1", 80))
            server, _ = listener.accept()
        with client, server:
            net.spawn(client.sendall, bytes(200 << 20))
            got = 0
            while net.now < 2_000_000_000:
                got += len(server.recv(1 << 20))
            start, got = net.now, 0
            while net.now < 4_000_000_000:
                got += len(server.recv(1 << 20))
            seconds = (net.now - start) / 1e9
            assert got / seconds >= 0.9 * window / 0.1


def beginning(queue: float, seconds: float) -> tuple[int, dict[str, Any]]:
    """100 Mbit/s over 100 ms: what arrives in the first seconds, and what the sender says of itself then."""
    cell = Cell(0.1, 100e6, 0, False, 0, queue)
    with sim.Network(seed=5) as net:
        receiver, sender = net.stack("receiver"), net.stack("sender")
        wire = net.wire(receiver, sender, addresses=("10.0.0.1/24", "10.0.0.2/24"), rate=cell.rate, delay=cell.rtt / 2)
        wire.b_to_a.queue_bytes = int(cell.queue * cell.rate * cell.rtt / 8)
        with receiver.create_server(("", 80)) as listener:
            client = sender.create_connection(("10.0.0.1", 80))
            server, _ = listener.accept()
        with client, server:
            net.spawn(pour, client)
            end, got = net.now + int(seconds * 1e9), 0
            while net.now < end:
                got += len(server.recv(1 << 20))
            (flow,) = (c for c in sender.connections() if c.state == "ESTABLISHED")
            return got, flow.details


@pytest.mark.rfc("9293", "SHLD-14")
def test_the_receiver_does_not_hold_up_slow_start() -> None:
    """The window doubles as fast as the sender's does, which is ten segments, twenty, forty ... a round trip."""
    got, flow = beginning(queue=4, seconds=1.0)
    assert flow["rwnd_limited"] <= 100_000  # us
    assert got >= 0.3 * 100e6 / 8 * PAYLOAD


def test_buffers_hold_what_is_sent_while_slow_start_is_repaired() -> None:
    """A queue of a quarter of the path overflows: the losses are repaired, and new data goes out meanwhile."""
    got, flow = beginning(queue=0.25, seconds=3.0)
    assert flow["sndbuf_limited"] == 0
    assert flow["total_retrans"] > 0
    assert got >= 0.6 * 3 * 100e6 / 8 * PAYLOAD
