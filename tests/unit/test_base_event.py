"""The event list against an ordered dict: each source at most once, in order, its bits gathered."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from ustack_ext.base.testing import Events

SOURCES = 8
DEAF = (3, 7)


class EventMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.events = Events(SOURCES, DEAF)
        self.pending: dict[int, int] = {}

    @rule(i=st.integers(0, SOURCES - 1), bits=st.integers(1, 31))
    def raise_(self, i: int, bits: int) -> None:
        self.events.raise_(i, bits)
        if i not in DEAF:
            self.pending[i] = self.pending.get(i, 0) | bits

    @rule()
    def pop(self) -> None:
        first = next(iter(self.pending), None)
        assert self.events.pop() == (None if first is None else (first, self.pending.pop(first)))

    @rule(i=st.integers(0, SOURCES - 1))
    def forget(self, i: int) -> None:
        self.events.forget(i)
        self.pending.pop(i, None)


TestEventMachine = EventMachine.TestCase
TestEventMachine.settings = settings(max_examples=200, stateful_step_count=40)
