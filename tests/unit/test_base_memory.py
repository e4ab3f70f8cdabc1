"""Slabs and buffer pools against a dict of what was handed out: contents stay, counters are right, memory goes back."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from ustack_ext.base.testing import UNPOOLED, ObjectSlab, Pool, class_cap

CHUNK = 512 * 1024       # the largest there is
SPARE = 8 << 20          # what a class of buffers keeps of the chunks that nothing is in
SIZES = [16384, 16385, 65535 + 14 + 64, 73728, 73729, 0xFFFFFFFF]      # around the edges of the classes


class SlabMachine(RuleBasedStateMachine):
    """Objects are zeroed, apart from each other, and never more than the limit."""

    @initialize(size=st.sampled_from([1, 16, 100, 512, 4096, 60000]), limit=st.integers(0, 300))
    def begin(self, size: int, limit: int) -> None:
        self.slab = ObjectSlab(size, limit)
        self.limit = limit
        self.objects: dict[int, int] = {}
        self.serial = 0

    @rule(n=st.integers(1, 150))
    def alloc(self, n: int) -> None:
        for _ in range(n):
            handle = self.slab.alloc()
            if len(self.objects) == self.limit:
                assert handle is None
                return
            assert handle is not None
            assert handle % 16 == 0
            assert handle not in self.objects
            assert not any(self.slab.read(handle))
            self.serial = self.serial % 255 + 1
            self.slab.fill(handle, self.serial)
            self.objects[handle] = self.serial

    @rule(data=st.data(), n=st.integers(1, 150))
    def free(self, data: st.DataObject, n: int) -> None:
        for _ in range(min(n, len(self.objects))):
            handle = sorted(self.objects)[data.draw(st.integers(0, len(self.objects) - 1)) if n < 10 else 0]
            assert self.slab.read(handle) == bytes([self.objects.pop(handle)]) * self.slab.size
            self.slab.free(handle)

    @invariant()
    def agree(self) -> None:
        assert self.slab.live == len(self.objects)
        assert self.slab.held >= self.slab.live * self.slab.size
        if not self.objects:
            assert self.slab.held <= CHUNK        # one spare

    def teardown(self) -> None:
        for handle in getattr(self, "objects", {}):
            assert self.slab.read(handle) == bytes([self.objects[handle]]) * self.slab.size
            self.slab.free(handle)


def test_slab() -> None:
    run_state_machine_as_test(SlabMachine, settings=settings(max_examples=60, stateful_step_count=20))


@pytest.mark.parametrize(("asked", "size"), [(0, 16), (1, 16), (16, 16), (17, 32), (500, 512)])
def test_slab_rounds_to_16(asked: int, size: int) -> None:
    assert ObjectSlab(asked, 1).size == size


@pytest.mark.skipif(UNPOOLED, reason="optional: a sanitizer build keeps no chunks")
def test_slab_gives_memory_back_in_any_order_of_freeing() -> None:
    for order in (1, -1):
        slab = ObjectSlab(512, 100_000)
        handles = [slab.alloc() for _ in range(20_000)]
        assert slab.held < 20_000 * 512 * 1.05       # little more than the objects themselves
        for handle in handles[::order]:
            slab.free(handle)
        assert slab.held <= CHUNK


@pytest.mark.skipif(UNPOOLED, reason="optional: a sanitizer build keeps no chunks")
@pytest.mark.parametrize("size", [64, 512, 5000])
def test_many_objects_lie_on_few_huge_pages(size: int) -> None:
    """All but the first MiB; what comes and goes in any order neither overlaps nor stays."""
    rng = random.Random(7)
    slab = ObjectSlab(size, 1_000_000)
    handles = [slab.alloc() for _ in range((24 << 20) // slab.size)]
    first = (1 << 20) // slab.size
    pages = {handle >> 21 for handle in handles[first * 5 // 4 :]}
    assert len(pages) <= 24 / 2 * 1.2 + 1
    assert len(set(handles)) == len(handles)
    for _ in range(3):
        rng.shuffle(handles)
        kept = handles[: rng.randrange(100)]
        for number, handle in enumerate(kept):
            slab.fill(handle, number)
        for handle in handles[len(kept) :]:
            slab.free(handle)
        handles = kept + [slab.alloc() for _ in range((12 << 20) // slab.size)]
        for handle in handles[len(kept) :]:
            slab.fill(handle, 255)
        assert [slab.read(handle) for handle in kept] == [bytes([number]) * slab.size for number in range(len(kept))]
        assert len(set(handles)) == len(handles)
    for handle in handles:
        slab.free(handle)
    assert slab.live == 0
    assert slab.held <= CHUNK


@pytest.mark.skipif(UNPOOLED, reason="optional: a sanitizer build keeps no chunks")
def test_steady_state_keeps_its_memory() -> None:
    """One object more and less at a chunk's edge: the spare takes it, and malloc is not asked each time."""
    slab = ObjectSlab(512, 100_000)
    first = slab.alloc()
    chunk = slab.held
    handles = []
    while slab.held == chunk:
        handles.append(slab.alloc())
    for _ in range(10):
        slab.free(handles.pop())
        assert slab.held == 2 * chunk
        handles.append(slab.alloc())
        assert slab.held == 2 * chunk
    for handle in [*handles, first]:
        slab.free(handle)
    assert slab.live == 0


@pytest.mark.skipif(UNPOOLED, reason="optional: a sanitizer build keeps no chunks")
def test_chunks_in_use_are_filled_before_the_spare() -> None:
    """So that load which falls gathers in few chunks."""
    slab = ObjectSlab(512, 100_000)
    older = [slab.alloc()]
    chunk = slab.held
    while slab.held == chunk:
        older.append(slab.alloc())
    newer = older.pop()
    slab.free(newer)                  # its chunk is the spare now
    slab.free(older[3])
    assert slab.alloc() == older[3]
    for handle in older:
        slab.free(handle)


class PoolMachine(RuleBasedStateMachine):
    """Buffers of all classes with references and a queue, under a budget."""

    @initialize(budget=st.sampled_from([0, 2111, 2112, 100_000, 1_000_000, 1 << 40]))
    def begin(self, budget: int) -> None:
        self.pool = Pool(budget)
        self.budget = budget
        self.refs: dict[int, int] = {}
        self.fill: dict[int, int] = {}
        self.queue: list[tuple[int, int]] = []
        self.failures = 0

    def truesize(self, handle: int) -> int:
        return self.pool.fields(handle)["truesize"]

    @rule(need=st.one_of(st.integers(0, 3000), st.sampled_from(SIZES)),
          n=st.integers(1, 40))
    def alloc(self, need: int, n: int) -> None:
        cap = next((class_cap(cls) for cls in range(3) if need <= class_cap(cls)), None)
        for _ in range(n):
            handle = self.pool.alloc(need)
            if cap is None or self.pool.used + (cap + 64 if handle is None else 0) > self.budget:
                assert handle is None
                self.failures += 1
                return
            assert handle is not None
            assert handle not in self.refs
            fields = self.pool.fields(handle)
            assert fields.pop("cls") == next(cls for cls in range(3) if class_cap(cls) == cap)
            assert fields == {"refs": 1, "cap": cap, "truesize": cap + 64, "off": 0, "len": 0, "seq": 0, "flags": 0,
                              "last": True}
            self.refs[handle] = 1
            self.fill[handle] = len(self.refs) % 251
            self.pool.fill(handle, self.fill[handle])

    @rule(data=st.data(), n=st.integers(1, 30))
    def unref(self, data: st.DataObject, n: int) -> None:
        queued = {handle for handle, _ in self.queue}
        loose = sorted(handle for handle in self.refs if handle not in queued)
        for handle in data.draw(st.permutations(loose))[:n] if loose else []:
            self.drop(handle)

    def drop(self, handle: int) -> None:
        assert self.pool.read(handle) == bytes([self.fill[handle]]) * self.pool.fields(handle)["cap"]
        self.pool.unref(handle)
        self.forget(handle)

    def forget(self, handle: int) -> None:
        self.refs[handle] -= 1
        if not self.refs[handle]:
            del self.refs[handle], self.fill[handle]

    @rule(data=st.data())
    def ref(self, data: st.DataObject) -> None:
        if self.refs:
            handle = data.draw(st.sampled_from(sorted(self.refs)))
            self.pool.ref(handle)
            self.refs[handle] += 1

    @rule(data=st.data(), length=st.integers(0, 2048))
    def push(self, data: st.DataObject, length: int) -> None:
        queued = {handle for handle, _ in self.queue}
        if loose := sorted(handle for handle in self.refs if handle not in queued):
            handle = data.draw(st.sampled_from(loose))
            self.pool.push(handle, length)
            self.queue.append((handle, length))

    @rule()
    def pop(self) -> None:
        handle = self.pool.pop()
        assert handle == (self.queue.pop(0)[0] if self.queue else None)
        if handle is not None:
            assert self.pool.fields(handle)["last"]

    @rule()
    def clear(self) -> None:
        self.pool.clear()
        for handle, _ in self.queue:
            self.forget(handle)
        self.queue.clear()

    @invariant()
    def agree(self) -> None:
        assert self.pool.live == len(self.refs)
        assert self.pool.used == sum(self.truesize(handle) for handle in self.refs) <= self.budget
        assert self.pool.held >= self.pool.used
        assert self.pool.failures == self.failures
        assert self.pool.queued == (len(self.queue), sum(length for _, length in self.queue))
        if not self.refs:
            assert self.pool.held <= 3 * SPARE       # a class

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            self.clear()
            while self.refs:
                self.drop(next(iter(self.refs)))


def test_pool() -> None:
    run_state_machine_as_test(PoolMachine, settings=settings(max_examples=60, stateful_step_count=20))


def test_classes_hold_what_they_are_for() -> None:
    small, _, large = (class_cap(cls) for cls in range(3))
    assert small >= 64 + 14 + 1500
    assert large >= 64 + 14 + 65535


@pytest.mark.skipif(UNPOOLED, reason="optional: a sanitizer build keeps no chunks")
@pytest.mark.parametrize("need", [1500, 10_000, 65_535])
def test_pool_gives_memory_back_after_load(need: int) -> None:
    """All but 8 MiB of spares, which the next rise of the load takes without asking the system."""
    pool = Pool(1 << 30)
    handles = [pool.alloc(need) for _ in range((48 << 20) // need)]
    assert pool.held < pool.used * 1.1 + CHUNK
    for handle in handles[::2] + handles[1::2]:      # every chunk half empty before the first is free
        pool.unref(handle)
    assert (pool.live, pool.used) == (0, 0)
    spare = pool.held
    assert spare <= SPARE
    handles = [pool.alloc(need) for _ in range((4 << 20) // need)]
    assert pool.held == spare
    for handle in handles:
        pool.unref(handle)


@pytest.mark.skipif(UNPOOLED, reason="optional: a sanitizer build keeps no chunks")
@pytest.mark.parametrize("size", [64, 128, 320, 384])
def test_slab_objects_of_whole_cache_lines_lie_on_them(size: int) -> None:
    slab = ObjectSlab(size, 10_000)
    handles = [slab.alloc() for _ in range(1000)]
    assert {handle % 64 for handle in handles} == {0}
    for handle in handles:
        slab.free(handle)
