"""The timer wheel against a dict of deadlines."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ustack_ext.base.testing import NEVER, TimerWheel

TIMERS = 200
LISTED = 64  # timers a slot holds before it is split
TICK = 1 << 18
SECOND = 1_000_000_000

# Distances in time around every boundary of the wheel: within a tick, its edge, each level's edge, hours, years.
distances = st.one_of(
    st.integers(0, 3 * TICK),
    st.integers(0, 7).flatmap(lambda level: st.integers(-2, 2).map(lambda d: max(0, (TICK << 6 * level) + d))),
    st.integers(0, 7).flatmap(lambda level: st.integers(0, 130).map(lambda slots: slots * (TICK << 6 * level))),
    st.integers(0, 40_000 * SECOND),
).map(lambda ns: min(ns, 1 << 62))


class WheelMachine(RuleBasedStateMachine):
    """Any order of arm, cancel and expire: the wheel and the dict agree on who is due, when, and who is next."""

    @initialize(now=st.one_of(st.integers(0, 10), st.integers(0, 1 << 62)))
    def begin(self, now: int) -> None:
        self.now = now
        self.seen = now  # what an armed deadline may not be before: the last one that expired, or the last time given
        self.wheel = TimerWheel(now, TIMERS)
        self.deadlines: dict[int, int] = {}

    @rule(i=st.integers(0, TIMERS - 1), distance=distances)
    def arm(self, i: int, distance: int) -> None:
        self.set(i, min(self.now + distance, NEVER - 1))

    @rule(i=st.integers(0, TIMERS - 1), distance=distances)
    def arm_in_the_past(self, i: int, distance: int) -> None:
        self.set(i, max(self.now - distance, 0))

    def set(self, i: int, deadline: int) -> None:
        self.wheel.arm(i, deadline)
        if self.deadlines.get(i) != deadline:
            self.deadlines[i] = max(deadline, self.seen)

    @rule(
        first=st.integers(0, TIMERS - 1),
        n=st.integers(LISTED, 3 * LISTED),
        distance=distances,
        step=st.one_of(st.sampled_from([0, 1, 64, 4096, TICK, 64 * TICK]), st.integers(-4096, 4096)),
    )
    def arm_many(self, first: int, n: int, distance: int, step: int) -> None:
        """More than a slot's list holds: equal, close together in either order, or spread."""
        for k, i in enumerate(range(first, min(first + n, TIMERS))):
            self.set(i, max(0, min(self.now + distance + k * step, NEVER - 1)))

    @rule(first=st.integers(0, TIMERS - 1), n=st.integers(1, TIMERS))
    def cancel_many(self, first: int, n: int) -> None:
        for i in range(first, min(first + n, TIMERS)):
            self.cancel(i)

    @rule(i=st.integers(0, TIMERS - 1))
    def cancel(self, i: int) -> None:
        self.wheel.cancel(i)
        self.deadlines.pop(i, None)

    @rule(distance=distances)
    def pass_time(self, distance: int) -> None:
        self.now = min(self.now + distance, NEVER - 1)
        self.expire_all()

    @rule()
    def pass_to_next(self) -> None:
        if self.deadlines:
            self.now = max(self.now, min(self.deadlines.values()))
            self.expire_all()

    @rule(distance=distances, most=st.integers(0, 3))
    def expire_some(self, distance: int, most: int) -> None:
        """The caller stops after a few, and arms and cancels others before it goes on."""
        self.now = min(self.now + distance, NEVER - 1)
        for _ in range(most):
            if not self.expire_one():
                break

    def expire_one(self) -> bool:
        got = self.wheel.expire(self.now)
        due = {i: deadline for i, deadline in self.deadlines.items() if deadline <= self.now}
        if not due:
            assert got is None
            self.seen = max(self.seen, self.now)
            return False
        assert got is not None
        index, deadline = got
        assert deadline == min(due.values()) == self.deadlines.pop(index)
        self.seen = deadline
        return True

    def expire_all(self) -> None:
        while self.expire_one():
            pass

    @invariant()
    def agree(self) -> None:
        earliest = min(self.deadlines.values(), default=NEVER)
        assert self.wheel.armed == len(self.deadlines)
        assert self.seen <= self.wheel.wake() <= earliest or not self.deadlines
        assert self.wheel.next() == earliest == self.wheel.wake()
        assert self.wheel.nodes <= 11 * len(self.deadlines)
        assert [i for i in range(TIMERS) if self.wheel.is_armed(i)] == sorted(self.deadlines)


TestWheelMachine = WheelMachine.TestCase
TestWheelMachine.settings = settings(max_examples=100, stateful_step_count=40)


class LazyWheelMachine(WheelMachine):
    """The same, not asking for the next deadline after each step: the cached one goes stale in other ways."""

    @invariant()
    def agree(self) -> None:
        assert self.wheel.armed == len(self.deadlines)

    @rule()
    def ask(self) -> None:
        assert self.wheel.next() == min(self.deadlines.values(), default=NEVER)

    @rule()
    def ask_when_to_wake(self) -> None:
        earliest = min(self.deadlines.values(), default=NEVER)
        assert self.seen <= self.wheel.wake() <= earliest


TestLazyWheelMachine = LazyWheelMachine.TestCase
TestLazyWheelMachine.settings = settings(max_examples=100, stateful_step_count=40)


def drain(wheel: TimerWheel, now: int) -> list[int]:
    order = []
    while (got := wheel.expire(now)) is not None:
        order.append(got[0])
    return order


def test_empty() -> None:
    wheel = TimerWheel(5, 1)
    assert wheel.next() == NEVER
    assert wheel.expire(NEVER) is None


def test_equal_deadlines_expire_in_order_of_arming() -> None:
    """So that a run is the same each time."""
    wheel = TimerWheel(0, 50)
    for i in range(50):
        wheel.arm(i, 10 * SECOND)
    assert drain(wheel, 10 * SECOND) == list(range(50))


def test_not_before_its_nanosecond() -> None:
    wheel = TimerWheel(0, 2)
    wheel.arm(0, TICK * 10 + 7)
    wheel.arm(1, TICK * 10 + 8)
    assert wheel.expire(TICK * 10 + 6) is None
    assert drain(wheel, TICK * 10 + 7) == [0]
    assert drain(wheel, TICK * 10 + 8) == [1]


@pytest.mark.parametrize("deadline", [NEVER, NEVER - 1, 1 << 63])
def test_farthest_deadlines(deadline: int) -> None:
    wheel = TimerWheel(0, 1)
    wheel.arm(0, deadline)
    assert wheel.next() == deadline
    assert wheel.expire(deadline - 1) is None
    assert wheel.expire(deadline) == (0, deadline)


def test_one_timer_per_level_across_a_jump() -> None:
    wheel = TimerWheel(3 * SECOND, 8)
    for level in reversed(range(8)):
        wheel.arm(level, 3 * SECOND + (TICK << 6 * min(level, 6)) + level)
    assert drain(wheel, NEVER) == list(range(8))
    assert wheel.armed == 0


def test_time_that_goes_back_does_no_harm() -> None:
    wheel = TimerWheel(100 * SECOND, 1)
    assert wheel.expire(50 * SECOND) is None
    wheel.arm(0, 60 * SECOND)
    assert wheel.next() == 100 * SECOND             # at once
    assert wheel.expire(60 * SECOND) is None
    assert wheel.expire(100 * SECOND) == (0, 100 * SECOND)


def test_a_driver_that_sleeps_until_wake_comes_to_every_deadline() -> None:
    """However often it wakes early, it gets on, and nothing expires late."""
    wheel = TimerWheel(0, 1000)
    deadlines = {i: 20 * SECOND + i * i * 7919 for i in range(1000)}
    for i, deadline in deadlines.items():
        wheel.arm(i, deadline)
    order, wakes = [], 0
    while wheel.armed:
        wheel.arm(0, deadlines[0] + 1) if wakes == 0 else None      # what is known of the earliest goes
        now = wheel.wake()
        wakes += 1
        while (got := wheel.expire(now)) is not None:
            assert got[1] == now
            order.append(got[0])
    assert order == sorted(range(1000), key=lambda i: deadlines[i] + (i == 0))
    assert wakes < 1200


@pytest.mark.parametrize("gap", [0, 1, 100, TICK, SECOND])
def test_crowds_split_and_leave_nothing(gap: int) -> None:
    """Thousands in a slot: nodes for them, not for each of them, and none once they are gone."""
    count = 5000
    wheel = TimerWheel(0, count)
    for i in range(count):
        wheel.arm(i, 100 * SECOND + (i * 7919 % count) * gap)
    assert 0 < wheel.nodes <= count // 3
    assert wheel.next() == 100 * SECOND
    for i in range(0, count, 2):
        wheel.cancel(i)
    got = drain(wheel, NEVER)
    assert sorted(got) == list(range(1, count, 2))
    assert gap == 0 or got == sorted(got, key=lambda i: i * 7919 % count)
    assert wheel.nodes == 0


def test_one_timer_armed_again_and_again_makes_no_node() -> None:
    wheel = TimerWheel(0, 2)
    wheel.arm(1, 5 * SECOND + 1)
    for i in range(1000):
        wheel.arm(0, 5 * SECOND + i * 1000 + 2)
        assert wheel.nodes == 0


def test_a_crowd_is_never_walked() -> None:
    """Cancelling the earliest of many and asking for the next, over and over: each must be found without the rest.

    A linear walk would look at 100 000 timers 100 000 times and not come back.
    """
    count = 100_000
    wheel = TimerWheel(0, count)
    for i in range(count):
        wheel.arm(i, 60 * SECOND + i * 10_000)
    for i in range(count - 1):
        wheel.cancel(i)
        assert wheel.next() == 60 * SECOND + (i + 1) * 10_000
