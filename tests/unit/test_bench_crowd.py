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
    assert crowd.timers == (0, 0)
