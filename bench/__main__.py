"""python -m bench: measures, tells how it goes on stderr, prints tables on stdout. Exit code 1 if anything broke."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench import machine, report
from bench.cases import CASES, Case
from bench.stats import rotated
from tap_harness.netns import ROOT

PAGE = ROOT / "docs" / "performance.md"
RUNS, SECONDS = 5, 1.0


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure ustack against the kernel's TCP and what other stacks are installed, side by side.",
        epilog="NAME is a case ("
        + ", ".join(CASES)
        + ") or whom to measure ("
        + ", ".join(_everybody())
        + "; with all its variants). Without NAME: everything. The kernel over veth is what ratios are to.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="measure only this")
    parser.add_argument("--runs", type=_positive(int), default=RUNS, metavar="N", help="runs (%(default)s)")
    parser.add_argument(
        "--seconds", type=_positive(float), default=SECONDS, metavar="S", help="of each measurement (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with the value of every run")
    parser.add_argument("--targets", action="store_true", help="print no tables, only what was to be reached and is")
    parser.add_argument("--docs", action="store_true", help=f"also put the tables into {PAGE.relative_to(ROOT)}")
    chosen = parser.parse_args(argv)
    unknown = set(chosen.names) - set(CASES) - set(_everybody())
    if unknown:
        parser.error(f"there is no {' or '.join(sorted(unknown))}: see --help")
    if chosen.docs and chosen.names:
        parser.error("--docs keeps whole tables only: leave the names out")
    return chosen


def _positive(kind: type) -> Any:
    def parse(text: str) -> Any:
        value = kind(text)
        if not 0 < value <= 3600:
            raise ValueError
        return value

    parse.__name__ = "number"  # argparse says "invalid number value"
    return parse


def _everybody() -> list[str]:
    """What rows there are, without those that are variants of one (kernel-plain, ustack-selector, ...)."""
    rows = {row: None for case in CASES.values() for row in case.rows if case.reference is not None}
    return [row for row in rows if not any(row.startswith(f"{other}-") for other in rows)]


def selected(names: Sequence[str]) -> dict[Case, list[str]]:
    """The cases and rows that `names` ask for; all where there are none. A reference row stays: ratios need it."""
    cases = [case for case in CASES.values() if case.name in names] or list(CASES.values())
    people = [name for name in names if name not in CASES]
    found = {}
    for case in cases:
        rows = [
            row
            for row in case.rows
            if not people or row == case.reference or any(row == who or row.startswith(f"{who}-") for who in people)
        ]
        if rows and (case.reference or not people or case.name in names):
            found[case] = rows
    return found


class Run:
    """Collects what is measured, run after run."""

    def __init__(self, chosen: dict[Case, list[str]], runs: int, seconds: float) -> None:
        self.chosen = chosen
        self.runs = runs
        self.seconds = seconds
        self.values: report.Values = {}
        self.missing: list[dict[str, str]] = []
        self.failed: list[str] = []
        self._doable: dict[tuple[str, str], list[str]] = {}
        for case, rows in chosen.items():
            self.values[case.name] = {row: {} for row in rows}
            for load in case.loads:
                self._doable[case.name, load] = [row for row in rows if self._can(case, row, load)]

    def _can(self, case: Case, row: str, load: str) -> bool:
        if (row, load) in case.without:
            return False
        reason = case.missing(row, load)
        if reason is not None:
            entry = {"case": case.name, "row": case.rows[row], "reason": reason}
            if entry not in self.missing:
                self.missing.append(entry)
        return reason is None

    def go(self) -> None:
        """Everything once, then everything again: what drifts, drifts for all."""
        for number in range(self.runs):
            for case in self.chosen:
                for load in case.loads:
                    for row in rotated(self._doable[case.name, load], number):
                        self._one(number, case, load, row)

    def _one(self, number: int, case: Case, load: str, row: str) -> None:
        where = f"run {number + 1}/{self.runs}: {case.name} {load}, {row}"
        try:
            found = case.measure(row, load, self.seconds)
        except (AssertionError, OSError) as error:
            self.failed.append(f"{where}: {error}")
            print(f"{where}: FAILED: {error}", file=sys.stderr)
            return
        print(f"{where}: {', '.join(f'{key} {value:.4g}' for key, value in found.items())}", file=sys.stderr)
        for metric, value in found.items():
            self.values[case.name][row].setdefault(f"{load}.{metric}", []).append(value)


def main(argv: Sequence[str]) -> int:
    chosen = arguments(argv)
    about: dict[str, Any] = {
        "command": " ".join(["python -m bench", *argv]),
        "date": time.strftime("%Y-%m-%d"),
        "runs": chosen.runs,
        "seconds": chosen.seconds,
        "machine": machine.describe(),
    }
    run = Run(selected(chosen.names), chosen.runs, chosen.seconds)
    run.go()
    about["load_end"] = machine.load()
    made = report.compose(about, run.values, run.missing, run.failed)
    if chosen.json:
        print(json.dumps(made, indent=1))
    else:
        print(report.text({**made, "cases": []} if chosen.targets else made))
    if chosen.docs:
        report.write_page(PAGE, made)
    return 1 if run.failed else 0


if __name__ == "__main__":
    os.chdir(ROOT)
    with contextlib.suppress(BrokenPipeError):
        try:
            sys.exit(main(sys.argv[1:]))
        except KeyboardInterrupt:
            sys.exit(130)
