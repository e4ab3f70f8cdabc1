"""Which differences between ustack and Linux are allowed, and why: docs/differences.md has a section for each name.

Everything not named here is a bug of one of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tap_harness.differential.story import Call, Segment, Step, Story
from tap_harness.differential.teller import Seen


@dataclass(frozen=True)
class Place:
    """Where two tellings of a story part: the step, what was seen there, and in which state the story began."""

    story: Story
    step: Step | None
    ours: Seen | str
    theirs: Seen | str
    before: tuple[Step, ...]


@dataclass(frozen=True)
class Rule:
    """A difference that is allowed. name: its section in docs/differences.md."""

    name: str
    holds: Callable[[Place], bool]


AFTER_FIN = ("CLOSE-WAIT", "CLOSING", "LAST-ACK", "TIME-WAIT")


def _peer_has_ended(place: Place) -> bool:
    """Whether the peer's FIN came before this step."""
    ends = [step for step in place.before if isinstance(step, Segment) and "F" in step.flags and "A" in step.flags]
    return place.story.state in AFTER_FIN or bool(ends)


def _after_fin(place: Place) -> bool:
    step = place.step
    return isinstance(step, Segment) and _peer_has_ended(place) and (step.size > 0 or "F" in step.flags)


def _reset_below(place: Place) -> bool:
    step = place.step
    return isinstance(step, Segment) and "R" in step.flags and step.seq == -1 and _peer_has_ended(place)


def _shrunken(place: Place) -> bool:
    """The answers differ in their sequence number only, and a window was taken back."""
    mine, other = place.ours, place.theirs
    if isinstance(mine, str) or isinstance(other, str) or mine.answer is None or other.answer is None:
        return False
    told = [step for step in (*place.before, place.step) if isinstance(step, Segment) and "A" in step.flags]
    alike = mine.answer[0] == other.answer[0] == "A" and mine.answer[2] == other.answer[2]
    return alike and other.answer[1] < mine.answer[1] and any(step.win < 65535 for step in told)


def _resets(seen: Seen | str) -> bool:
    return not isinstance(seen, str) and (
        any(flags.startswith("R") for flags, _ in seen.others) or (seen.answer is not None and seen.answer[0] == "R")
    )


def _half_open(place: Place) -> bool:
    return place.story.state in ("LISTEN", "SYN-RECEIVED")


def _syn_received_ack(place: Place) -> bool:
    step = place.step
    wrong = isinstance(step, Segment) and "A" in step.flags and step.ack != 0 and "R" not in step.flags
    return wrong and _half_open(place) and _resets(place.theirs) and not _resets(place.ours)


def _syn_received_syn(place: Place) -> bool:
    step = place.step
    return isinstance(step, Segment) and "S" in step.flags and _half_open(place) and _resets(place.theirs)


def _reset_when_closed(place: Place) -> bool:
    step = place.step
    closed = place.story.state == "TIME-WAIT" or any(getattr(one, "name", "") == "close" for one in place.before)
    ends = closed or (place.story.state in ("FIN-WAIT-1", "FIN-WAIT-2", "CLOSING") and _peer_has_ended(place))
    kills = isinstance(step, Segment) and bool({"R", "S"} & set(step.flags)) and _resets(place.theirs)
    unchecked = isinstance(step, Segment) and "F" in step.flags and step.ack > 0
    return ends and (kills or unchecked)


def _ack_before_the_beginning(place: Place) -> bool:
    mine, other = place.ours, place.theirs
    told = [step for step in (*place.before, place.step) if isinstance(step, Segment) and "A" in step.flags]
    if not any(step.ack < 0 and step.size > 0 for step in told):
        return False
    if isinstance(mine, str) or isinstance(other, str) or mine.answer is None or other.answer is None:
        return False
    return mine.answer[2] > other.answer[2] or _resets(mine)


def _was_half_open(place: Place) -> bool:
    syns = [step for step in place.before if isinstance(step, Segment) and "S" in step.flags]
    return place.story.state == "SYN-SENT" and bool(syns)


def _called(place: Place, *names: str) -> bool:
    return isinstance(place.step, Call) and place.step.name in names


def _shutdown_half_open(place: Place) -> bool:
    return _called(place, "shutdown", "close") and _was_half_open(place)


def _after_shutdown_of_open(place: Place) -> bool:
    shut = any(isinstance(step, Call) and step.name == "shutdown" for step in place.before)
    return place.story.state == "SYN-SENT" and shut and _called(place, "recv", "send", "shutdown")


def _reset_at_the_end(place: Place) -> bool:
    resets = [step for step in place.before if isinstance(step, Segment) and "R" in step.flags]
    told = "ConnectionResetError" in str(place.theirs) and "BrokenPipeError" in str(place.ours)
    return _called(place, "send") and bool(resets) and told


def _window_of_old_segment(place: Place) -> bool:
    mine, other = place.ours, place.theirs
    if isinstance(mine, str) or isinstance(other, str) or mine.others != other.others:
        return False
    told = [step for step in (*place.before, place.step) if isinstance(step, Segment) and "A" in step.flags]
    return mine.sent != other.sent and any(step.seq > 0 and step.win < 65535 for step in told)


RULES: tuple[Rule, ...] = (
    Rule("An ACK of something else in SYN-RECEIVED", _syn_received_ack),
    Rule("A SYN in the window in SYN-RECEIVED", _syn_received_syn),
    Rule("A RST, a SYN or a FIN in the window when the connection is closed on this side", _reset_when_closed),
    Rule("Data with an ACK of what was never sent", _ack_before_the_beginning),
    Rule("Closing in SYN-RECEIVED", _shutdown_half_open),
    Rule("Reading after a shutdown in SYN-SENT", _after_shutdown_of_open),
    Rule("A RST in CLOSING or LAST-ACK", _reset_at_the_end),
    Rule("The window in a segment that is older than another", _window_of_old_segment),
    Rule("Data and FINs after the peer's FIN", _after_fin),
    Rule("A RST one below RCV.NXT after the peer's FIN", _reset_below),
    Rule("The sequence number of an ACK when the window was taken back", _shrunken),
)


def verdict(story: Story, ours: Sequence[Seen | str], theirs: Sequence[Seen | str]) -> str | None:
    """None if the two are alike, or part where a rule allows it; otherwise where and how they part.

    What follows on an allowed difference is not compared: the two connections are not in the same situation any more.
    """
    steps: list[Step | None] = [*story.steps, None]
    for number, (step, mine, other) in enumerate(zip(steps, ours, theirs, strict=True)):
        if mine == other:
            continue
        place = Place(story, step, mine, other, story.steps[:number])
        if any(rule.holds(place) for rule in RULES):
            return None
        where = "at the end" if step is None else f"at step {number + 1}, {step}"
        return f"{story}\n{where}\n  Linux:  {other}\n  ustack: {mine}"
    return None


__all__ = ["RULES", "Place", "Rule", "Segment", "verdict"]
