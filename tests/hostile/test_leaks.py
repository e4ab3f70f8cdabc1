"""What connections cost while they are idle, and that they leave nothing behind.

Figures are printed (pytest -s). Limits: 512 bytes for an idle connection with its Python socket; for what is left, the
allocator's slack.
"""

from __future__ import annotations

import gc
from typing import Any

import pytest

from tap_harness.checks import rss
from tap_harness.lab import PORT, Lab
from tap_harness.segment import ACK, FIN, MODULUS, PSH, RST
from ustack_ext.base.live import live_objects

MANY = 10_000
WARM_UP = 2_000
KIB = 1 << 10
# Pages that malloc keeps for the next time, Python's free lists. A leak of a Tcb a connection would be 6 MiB.
SLACK = 3 << 20


def open_and_close(lab: Lab, count: int) -> None:
    """So many connections with a request and an answer, ended in every way, in the order of their numbers."""
    for k in range(count):
        end = lab.open_raw(1024 + k % 60000, PORT)
        sock = lab.accept()
        lab.carrier.send(end.frame(ACK | PSH, b"request"))
        end.snd += 7
        assert lab.read(sock) == b"request"
        lab.write(sock, b"answer")
        end.rcv = (end.rcv + 6) % MODULUS
        way = k % 4
        if way == 0:  # the peer resets
            lab.carrier.send(end.frame(RST | ACK))
            sock.close()
        elif way == 1:  # the peer closes first
            lab.carrier.send(end.frame(FIN | ACK))
            end.snd += 1
            sock.close()
            end.rcv += 1
            lab.carrier.send(end.frame(ACK))
        elif way == 2:  # we do
            lab.carrier.send(end.frame(ACK))
            sock.close()
            lab.carrier.pump()
            end.rcv += 1
            lab.carrier.send(end.frame(FIN | ACK))
        else:  # we do, unread data: a reset
            lab.carrier.send(end.frame(ACK | PSH, b"unread"))
            sock.close()
        lab.carrier.drain()
    lab.carrier.advance(70)
    lab.carrier.drain()


@pytest.mark.slow
def test_ten_thousand_opened_and_closed(lab: Lab) -> None:
    """Counters and RSS are where they were."""
    open_and_close(lab, WARM_UP)
    gc.collect()
    before, counters = rss(), lab.stack.live()
    open_and_close(lab, MANY)
    gc.collect()
    after, left = rss(), lab.stack.live()
    print(f"\n{MANY} connections opened and closed: RSS {before / 1e6:.1f} -> {after / 1e6:.1f} MB")
    volatile = {"pool_bytes", "object_bytes", "timers"}  # spare chunks; the neighbour's ageing
    assert {k: v for k, v in left.items() if k not in volatile} == {
        k: v for k, v in counters.items() if k not in volatile
    }
    assert left["timers"] <= counters["timers"] + 1
    assert left["object_bytes"] <= counters["object_bytes"] + 512 * KIB
    assert after - before < SLACK


@pytest.mark.slow
def test_ten_thousand_idle(lab: Lab) -> None:
    """An idle connection costs at most 512 bytes all in: TCB, tables, Python socket, and nothing in queues."""
    listener = lab.stack.create_server(("", 82), backlog=1000)
    listener.setblocking(False)
    held: list[Any] = []

    def fill(count: int) -> None:
        for k in range(count):
            lab.open_raw(2000 + k, 82)
            held.append(listener.accept()[0])
            if k % 100 == 0:
                lab.carrier.drain()

    fill(200)
    for sock in held:
        sock.close()
    held.clear()
    lab.carrier.advance(200)
    lab.carrier.drain()
    gc.collect()
    before, resident = lab.stack.live(), rss()
    fill(MANY)
    lab.carrier.advance(1)
    lab.carrier.drain()
    gc.collect()
    after, now = lab.stack.live(), rss()
    assert after["tcbs"] - before["tcbs"] == MANY
    assert after["buffers"] == before["buffers"]
    each = (after["object_bytes"] - before["object_bytes"]) / MANY
    print(
        f"\n{MANY} idle connections: {each:.0f} bytes each in the data plane, "
        f"{(now - resident) / MANY:.0f} bytes of RSS each with the Python sockets"
    )
    if not live_objects():  # a sanitizer puts a wall around each object
        assert each <= 360
        assert (now - resident) / MANY <= 512
    for sock in held:
        sock.close()
    held.clear()
