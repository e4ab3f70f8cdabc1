"""Many connections on one engine: nothing about them costs more than itself, in bytes or in steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import build

MANY = 100_000
CONNECTION_MAX = 400  # bytes of an idle connection in the engine, the table's buckets and malloc's own included
PAGE = 4096


@pytest.fixture(scope="module")
def module() -> Any:
    return build.crowd()


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def opened(module: Any, count: int) -> Any:
    crowd = module.Crowd(count)
    assert crowd.open(count) == count
    assert crowd.accept() == count
    return crowd


def test_sizes(module: Any) -> None:
    sizes = module.sizes()
    assert sizes["synreq"] <= 128
    assert sizes["timewait"] <= 128


def test_an_idle_connection_is_its_control_block_and_a_bucket(module: Any) -> None:
    """Nothing else: no timer, no buffer, and of memory no more than a twentieth lost between the objects."""
    crowd = module.Crowd(MANY)
    crowd.touch()
    before = resident()
    assert crowd.open(MANY) == MANY
    assert crowd.timers == (0, 0)
    assert crowd.pool[0] == 0
    block = -(-module.sizes()["tcb"] // 16) * 16
    assert crowd.held / MANY < (block + 8) * 1.05
    assert (resident() - before) / MANY < (block + 8) * 1.05 + 16
    assert (resident() - before) / MANY < CONNECTION_MAX


@pytest.mark.parametrize("count", [10, 4095, 5000])
def test_every_connection_answers(module: Any, count: int) -> None:
    """Also beyond the number from which a batch is looked at ahead; and what it took for buffers and timers goes."""
    crowd = opened(module, count)
    assert crowd.exchange(0, count) >= 3 * count
    assert crowd.exchange(count, 2 * count, 1000) >= 6 * count
    assert crowd.pool[0] == 0
    crowd.rest()
    assert crowd.timers == (0, 0)


def test_established_connections_are_served_in_a_flood(module: Any) -> None:
    """Ten SYNs of nobody to each request: every request has its echo, and few SYNs are worth an answer."""
    crowd = opened(module, 500)
    crowd.exchange(0, 10_000)                            # beyond the segments that are acknowledged at once
    assert crowd.strangers(5000) == 500                  # the queue is full, as long as the backlog
    requests = 2000
    flooded, answers, queued = crowd.flood(0, requests, 10)
    assert flooded == 10 * requests
    batches = requests // (64 // 11)
    assert 0 < answers <= 8 * batches
    assert queued == 500


def test_clients_get_in_during_a_flood(module: Any) -> None:
    """Some at once; the others would have to try again."""
    crowd = module.Crowd(400)
    crowd.strangers(5000)
    assert crowd.open(200) >= 20


def test_a_full_queue_is_small(module: Any) -> None:
    crowd = module.Crowd(100_000)
    before = crowd.held
    assert crowd.strangers(50_000) == 1024
    assert crowd.held - before <= 1024 * 128 * 1.3 + 65536
