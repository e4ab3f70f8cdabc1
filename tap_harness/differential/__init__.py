"""The same story told to two stacks: segments, waits and socket calls, and a comparison of what comes of them.

Responsible for: what a story is made of (story), telling it and noting what a stack says in numbers that do not depend
on the stack (teller), and which differences are allowed (differences, docs/differences.md). Not for: making stories up
(tests/kernel/test_differential.py has hypothesis do that).
"""

from tap_harness.differential.differences import RULES, Rule, verdict
from tap_harness.differential.story import Call, Segment, Step, Story, Wait
from tap_harness.differential.teller import Seen, tell

__all__ = ["RULES", "Call", "Rule", "Seen", "Segment", "Step", "Story", "Wait", "tell", "verdict"]
