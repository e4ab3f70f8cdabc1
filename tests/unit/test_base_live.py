"""Live-object counters: process-wide, by kind, back to where they were."""

from __future__ import annotations

import pytest

from ustack_ext.base.live import live_objects
from ustack_ext.base.testing import ObjectSlab, Pool, TimerWheel

counting = pytest.mark.skipif(not live_objects(), reason="optional: only debug and sanitizer builds count")


def change_since(before: dict[str, int]) -> dict[str, int]:
    return {kind: n - before[kind] for kind, n in live_objects().items() if n != before[kind]}


@counting
def test_counts_buffers_objects_and_timers() -> None:
    before = live_objects()
    pool, slab, wheel = Pool(1 << 20), ObjectSlab(100, 10), TimerWheel(0, 4)
    buffers, objects = [pool.alloc(100) for _ in range(3)], [slab.alloc() for _ in range(2)]
    for i in range(4):
        wheel.arm(i, 1000 + i)
    wheel.arm(0, 5)                    # armed again, not once more
    pool.ref(buffers[0])
    assert change_since(before) == {"buffers": 3, "objects": 2, "timers": 4}
    pool.unref(buffers[0])
    assert wheel.expire(5) == (0, 5)
    wheel.cancel(1)
    wheel.cancel(1)
    slab.free(objects[0])
    assert change_since(before) == {"buffers": 3, "objects": 1, "timers": 2}
    for handle in buffers:
        pool.unref(handle)
    del wheel, slab
    assert change_since(before) == {}


@counting
def test_refused_ones_are_not_counted() -> None:
    before = live_objects()
    assert Pool(10).alloc(1) is None
    assert ObjectSlab(16, 0).alloc() is None
    assert change_since(before) == {}
