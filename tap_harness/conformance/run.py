"""Runs checks against a target: each on a fresh one; several at a time where time is real.

A check that fails in real time is run once more by itself: a busy machine is late, a wrong answer stays wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tap_harness.conformance.probe import Probe
from tap_harness.conformance.registry import Check, NotApplicable
from tap_harness.conformance.target import Frame, Target

PASS, FAIL, NOT_APPLICABLE = "pass", "fail", "n/a"
PATIENCE = 10.0  # s of real time one wait may take
AT_ONCE = 8  # checks against kernels of their own at the same time


@dataclass
class Result:
    """What became of a check. reason: why it failed or is not applicable; detail: the exchange of a failure."""

    check: Check
    outcome: str
    reason: str = ""
    detail: str = ""
    seconds: float = 0.0
    frames: list[Frame] = field(default_factory=list)
    because: str = ""


def run_one(check: Check, make: Callable[[], Target], patience: float = PATIENCE) -> Result:
    """Run one check on a target of its own."""
    if check.scenario is None:
        return Result(check, NOT_APPLICABLE, check.reason)
    begin = time.monotonic()
    target = make()
    try:
        if not target.virtual and check.takes > patience:
            return Result(check, NOT_APPLICABLE, f"it takes {check.takes:g} s of real time (see --patience)")
        probe = Probe(target, patience)
        try:
            check.scenario(probe)
            result = Result(check, PASS)
        except NotApplicable as why:
            result = Result(check, NOT_APPLICABLE, str(why))
        except Exception as error:  # whatever a target does to a scenario is a result, not the end of the run
            text = str(error) if isinstance(error, AssertionError) else f"the scenario was ended by {error!r}"
            result = Result(check, FAIL, _sentence(text), text, frames=target.wire.frames)
            result.because = check.because.get(target.name, "")
        finally:
            probe.close()
        result.seconds = time.monotonic() - begin
        return result
    finally:
        target.close()


def _sentence(text: str) -> str:
    """The first line of a failure, with what came where the second says it."""
    lines = text.splitlines() or ["failed"]
    got = [line for line in lines[1:3] if line.startswith(("got: ", "nothing came"))]
    if any(line.startswith("flags ") and "(nothing)" in line for line in lines[1:4]):
        return f"{lines[0]}; nothing came"
    wrong = [" ".join(line.split()[:-2]) for line in lines[1:14] if line.endswith("<-- differs")]
    return "; ".join([lines[0], *got, *([f"differs: {', '.join(wrong)}"] if wrong else [])])


def run_all(
    chosen: Sequence[Check],
    make: Callable[[], Target],
    *,
    at_once: int = 1,
    patience: float = PATIENCE,
    tell: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Run all; the results are in the order of the checks. tell(result) is called as they come."""
    found: list[Result] = []
    if at_once == 1:
        for check in chosen:
            result = run_one(check, make, patience)
            found.append(result)
            tell(result)
        return found
    with ThreadPoolExecutor(at_once) as pool:
        first = list(pool.map(lambda check: run_one(check, make, patience), chosen))
    for result in first:
        again = run_one(result.check, make, patience) if result.outcome == FAIL else result
        found.append(again)
        tell(again)
    return found
