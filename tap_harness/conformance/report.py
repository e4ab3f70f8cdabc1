"""Results as text, JSON and HTML."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tap_harness.conformance.registry import MUST, load
from tap_harness.conformance.run import FAIL, NOT_APPLICABLE, PASS, Result

_MARK = {PASS: "pass", FAIL: "FAIL", NOT_APPLICABLE: "n/a "}
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #1b1b1b }
table { border-collapse: collapse; width: 100% } td, th { border-bottom: 1px solid #ddd; padding: .3em .6em;
text-align: left; vertical-align: top } th { background: #f4f4f4 } .pass { color: #17692b } .fail { color: #a31515;
font-weight: 600 } .na { color: #777 } pre { background: #f7f7f7; padding: .8em; overflow-x: auto; font-size: 12px }
td:first-child, td:nth-child(2), td:nth-child(4) { white-space: nowrap } details { margin: .3em 0 }
"""


def totals(results: Sequence[Result]) -> dict[str, dict[str, int]]:
    """By document, and "" for all: how many passed, failed, were not applicable, and MUSTs failed."""
    found: dict[str, dict[str, int]] = {}
    for result in results:
        for key in (result.check.rfc, ""):
            row = found.setdefault(key, {PASS: 0, FAIL: 0, NOT_APPLICABLE: 0, "failed MUST": 0})
            row[result.outcome] += 1
            row["failed MUST"] += result.outcome == FAIL and result.check.level == MUST
    return found


def line(result: Result) -> str:
    """One line about a result."""
    check = result.check
    text = f"{_MARK[result.outcome]}  RFC {check.rfc} {check.ident}: {check.text}"
    return text if result.outcome == PASS else f"{text}\n          {result.reason}"


def summary(results: Sequence[Result]) -> str:
    """The totals as a table for a terminal."""
    rows = [f"{'RFC':>6} {'pass':>6} {'fail':>6} {'n/a':>6}   failed MUST"]
    table = totals(results)
    for number in [*(key for key in table if key), ""]:
        if number in table:
            row = table[number]
            rows.append(
                f"{number or 'all':>6} {row[PASS]:>6} {row[FAIL]:>6} {row[NOT_APPLICABLE]:>6}   {row['failed MUST']}"
            )
    return "\n".join(rows)


def as_json(target: str, results: Sequence[Result]) -> str:
    """Everything but the frames."""
    rows: list[dict[str, Any]] = []
    for result in results:
        check = result.check
        row: dict[str, Any] = {"rfc": check.rfc, "id": check.ident, "level": check.level, "requirement": check.text}
        row |= {"check": check.name, "result": result.outcome, "seconds": round(result.seconds, 4)}
        if result.outcome != PASS:
            row["reason"] = result.reason
        if result.because:
            row["because"] = result.because
        if result.detail:
            row["detail"] = result.detail
        rows.append(row)
    return json.dumps({"target": target, "totals": totals(results), "results": rows}, indent=1)


def as_html(target: str, results: Sequence[Result], traces: dict[str, Path]) -> str:
    """A page that needs nothing but itself. traces: where the trace of a failed check is."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        f"<title>TCP conformance: {html.escape(target)}</title><style>{_STYLE}</style>",
        f"<h1>TCP conformance: {html.escape(target)}</h1><pre>{html.escape(summary(results))}</pre>",
    ]
    for document in load():
        rows = [result for result in results if result.check.rfc == document.number]
        if not rows:
            continue
        parts.append(f"<h2 id='rfc{document.number}'>RFC {document.number}, {html.escape(document.title)}</h2>")
        parts.append("<table><tr><th>requirement<th>level<th>what<th>result</tr>")
        parts += [_row(result, traces.get(result.check.name)) for result in rows]
        parts.append("</table>")
    return "\n".join([*parts, "</html>"])


def _row(result: Result, trace: Path | None) -> str:
    check = result.check
    what = html.escape(check.text)
    if result.outcome != PASS:
        what += f"<br><small>{html.escape(result.reason)}</small>"
    if result.because:
        what += f"<br><small><b>Why:</b> {html.escape(result.because)}</small>"
    if result.detail:
        what += f"<details><summary>the exchange</summary><pre>{html.escape(result.detail)}</pre></details>"
    if trace is not None:
        what += f"<small><a href='{html.escape(str(trace))}'>{html.escape(trace.name)}</a></small>"
    kind = {PASS: "pass", FAIL: "fail", NOT_APPLICABLE: "na"}[result.outcome]
    cells = [html.escape(check.ident), check.level, what, f"<span class='{kind}'>{result.outcome}</span>"]
    return "<tr><td>" + "<td>".join(cells) + "</tr>"
