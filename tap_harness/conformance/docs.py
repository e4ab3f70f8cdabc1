"""docs/conformance.md, from a run against the stack and one against the kernel, side by side."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from tap_harness.conformance.registry import MUST, SHOULD, load
from tap_harness.conformance.report import totals
from tap_harness.conformance.run import FAIL, NOT_APPLICABLE, PASS, Result

_HEAD = """\
# Conformance

Made by `make conformance` (`ustack conformance --docs docs/conformance.md`): do not edit. Every requirement has a
scenario in `tap_harness/conformance/`, which is run against ustack in virtual time and against the kernel of the
machine ({kernel}) through a TAP, in real time. `ustack conformance --target IFACE:ADDRESS` runs what can be seen on a
wire against any other host; [cli.md](cli.md#ustack-conformance) has the options.

A requirement is *not applicable* to a target that cannot be asked: the kernel where it would take too long in real
time, a remote host where its applications would have to be told what to do. RFC 9293's requirements are numbered as in
its Appendix B.
"""


def page(stack: Sequence[Result], kernel: Sequence[Result]) -> str:
    """The whole page. The two runs must be of the same checks, in the same order."""
    pairs = list(zip(stack, kernel, strict=True))
    parts = [_HEAD.format(kernel=f"Linux {platform.release().split('-')[0]}"), *_totals(stack, kernel)]
    parts += _deviations("What ustack does not meet", [ours for ours, _ in pairs])
    parts += _deviations("What this kernel does not meet", [theirs for _, theirs in pairs])
    for document in load():
        rows = [pair for pair in pairs if pair[0].check.rfc == document.number]
        if not rows:
            continue
        parts += [
            f"\n## RFC {document.number}, {document.title}\n",
            "| | requirement | ustack | Linux |",
            "|---|---|---|---|",
        ]
        parts += [_row(ours, theirs) for ours, theirs in rows]
    return "\n".join(parts) + "\n"


def _totals(stack: Sequence[Result], kernel: Sequence[Result]) -> list[str]:
    ours, theirs = totals(stack), totals(kernel)
    lines = [
        "| RFC | checks | ustack: pass | fail | n/a | Linux: pass | fail | n/a |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for number in [*(document.number for document in load()), ""]:
        if number in ours:
            left, right = ours[number], theirs[number]
            count = left[PASS] + left[FAIL] + left[NOT_APPLICABLE]
            numbers = [str(side[kind]) for side in (left, right) for kind in (PASS, FAIL, NOT_APPLICABLE)]
            lines.append(f"| {number or 'all'} | {count} | {' | '.join(numbers)} |")
    failed = [side[""]["failed MUST"] for side in (ours, theirs)]
    return [*lines, "", f"Failed MUSTs: ustack {failed[0]}, Linux {failed[1]}."]


def _deviations(title: str, results: Sequence[Result]) -> list[str]:
    failed = [result for result in results if result.outcome == FAIL]
    lines = [f"\n## {title}\n"]
    for level in (MUST, SHOULD, "MAY"):
        for result in failed:
            if result.check.level == level:
                check = result.check
                why = result.because or f"Seen: {_plain(result.reason)}"
                lines.append(f"- RFC {check.rfc} {check.ident} ({level}), {_plain(check.text)}: {why}")
    return lines if failed else [*lines, "Nothing that a check could see."]


def _row(ours: Result, theirs: Result) -> str:
    check = ours.check
    level = "" if check.ident.startswith(("MUST", "SHLD", "MAY", "REC")) else f" {check.level}"
    cells = [_cell(ours), _cell(theirs)]
    if ours.outcome == NOT_APPLICABLE and ours.reason == theirs.reason:
        cells = [f"n/a: {_plain(ours.reason)}", "n/a"]
    return f"| {check.ident}{level} | {_plain(check.text)} | {' | '.join(cells)} |"


def _cell(result: Result) -> str:
    if result.outcome == FAIL:
        return "**fail**"
    return "pass" if result.outcome == PASS else f"n/a: {_plain(result.reason)}"


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
