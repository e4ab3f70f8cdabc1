"""Stories made up by hypothesis, told to Linux over a TAP and to ustack: what they say must be the same.

USTACK_FULL=1 tells many more. A story that parts is told again to fresh stacks before it counts: a machine that was
busy for longer than a retransmission timeout makes Linux say something else.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tap_harness.differential import RULES, Call, Segment, Story, Wait, tell, verdict
from tap_harness.ends import FOUR, SIX, Ends
from tap_harness.lab import STATES, Lab
from tap_harness.linux_carrier import LinuxCarrier

EXAMPLES = 3000 if os.environ.get("USTACK_FULL") == "1" else 40
TOLD_AGAIN = 2
ROOT = Path(__file__).resolve().parents[2]

near = st.sampled_from([0, 0, 0, 0, 0, -1, 1, 2, -3, 10, -50, 100, 5000])
far = st.sampled_from([1 << 20, -(1 << 20), 1 << 30, -(1 << 30)])
data_flags = st.sampled_from(["A", "PA", "PA", "FA", "FPA"])
any_flags = st.sampled_from(["", "R", "RA", "S", "SA", "F", "P", "SF", "FSRPA", "A", "FA"])
sizes = st.sampled_from([0, 0, 1, 5, 100, 1000])
windows = st.sampled_from([65535, 65535, 65535, 0, 2000])

ordinary = st.builds(Segment, data_flags, near, st.sampled_from([0, 0, 0, -1, -5]), sizes, windows)
odd = st.builds(Segment, any_flags, st.one_of(near, far), st.one_of(near, far), st.sampled_from([0, 0, 1, 50]))
calls = st.one_of(
    st.builds(Call, st.just("send"), st.sampled_from([1, 100, 3000])),
    st.builds(Call, st.sampled_from(["recv", "recv", "shutdown", "close"])),
)
# Long enough for a delayed acknowledgement and a tail loss probe, too short for a retransmission timeout.
waits = st.builds(Wait, st.just(0.05))
stories = st.builds(
    Story,
    st.sampled_from(["ESTABLISHED", *STATES]),
    st.lists(st.one_of(ordinary, ordinary, calls, odd, waits), min_size=1, max_size=10).map(tuple),
)


class Pair:
    """Linux and ustack, each in a laboratory of its own, used for many stories."""

    def __init__(self, ends: Ends) -> None:
        self._cleanup = contextlib.ExitStack()
        self.ends = ends
        self.linux, self.ours = Lab(LinuxCarrier(ends.stack_net), ends), Lab(ends=ends)
        for lab in (self.linux, self.ours):
            self._cleanup.callback(lab.close)
        self.ours.stack.sysctl["net.ipv4.tcp_invalid_ratelimit"] = 0

    def compare(self, story: Story) -> str | None:
        """Where the two part, None if they do not."""
        return verdict(story, tell(self.ours, story), tell(self.linux, story))

    def close(self) -> None:
        """Close both."""
        self._cleanup.close()


@pytest.fixture(scope="module", params=[FOUR, SIX], ids=["IPv4", "IPv6"])
def pair(privileged: None, request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(request.param)
    yield made
    made.close()


def test_linux_and_ustack_say_the_same(pair: Pair) -> None:
    @settings(
        max_examples=pair.ends.amount(EXAMPLES),
        derandomize=EXAMPLES < 100,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(story=stories)
    def say_the_same(story: Story) -> None:
        parted = pair.compare(story)
        for _ in range(TOLD_AGAIN):
            if parted is None:
                return
            fresh = Pair(pair.ends)
            try:
                parted = fresh.compare(story)
            finally:
                fresh.close()
        assert parted is None, parted

    say_the_same()


def test_a_difference_is_seen(pair: Pair) -> None:
    story = Story("ESTABLISHED", (Segment("PA", size=5), Call("recv")))
    theirs = tell(pair.linux, story)
    ours = tell(pair.ours, Story("ESTABLISHED", (Segment("PA", size=6), Call("recv"))))
    assert verdict(story, ours, theirs) is not None


@pytest.mark.ipv4("it is about a document")
def test_every_allowed_difference_is_explained() -> None:
    text = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## (.+)$", text, re.MULTILINE)) == {rule.name for rule in RULES}
