"""The table of a run: as text, as Markdown, as JSON, and in the page that keeps it.

A report is the JSON object itself, so a table can be made again from a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import machine, plots, targets
from bench.cases import CASES, Case, Column
from bench.stats import ratio, summarise

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
NOT_MEASURED = "not measured"
PLOTS = "plots"  # the directory of the pictures, beside the page

# case -> row -> column's key -> the value of each run
Values = dict[str, dict[str, dict[str, list[float]]]]


def compose(about: dict[str, Any], values: Values, missing: list[dict[str, str]], failed: list[str]) -> dict[str, Any]:
    """The report of a run.

    about: command, date, runs, seconds, machine, load_end. missing: case, row, reason of what could not be measured.
    failed: what was tried and broke.
    """
    cases = []
    for name, rows in values.items():
        case = CASES[name]
        cases.append({"name": name, "title": case.title, "reference": case.reference, "rows": _rows(case, rows)})
    judged = targets.judge(cases)
    return {"format": 2, **about, "cases": cases, "targets": judged, "not_measured": missing, "failed": failed}


def _rows(case: Case, rows: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    base = rows.get(case.reference or "", {})
    found = []
    for row, metrics in rows.items():
        numbers = {}
        for column in case.columns:
            if not metrics.get(column.key):
                continue
            summary = summarise(metrics[column.key])
            number: dict[str, Any] = {
                "median": summary.median,
                "low": summary.low,
                "high": summary.high,
                "values": list(summary.values),
            }
            if column.compared and base.get(column.key):
                number["ratio"] = ratio(summary, summarise(base[column.key]))
            numbers[column.key] = number
        found.append({"name": row, "title": case.rows[row], "numbers": numbers})
    return found


# -- tables


def _grid(case: dict[str, Any]) -> list[list[str]]:
    """The cells of a case's table, its head first."""
    columns = CASES[case["name"]].columns
    with_ratio = case["reference"] is not None
    head = [""]
    for column in columns:
        head.append(column.title)
        if column.compared and with_ratio:
            head.append("× Linux")
    grid = [head]
    for row in case["rows"]:
        cells = [row["title"]]
        for column in columns:
            cells += _cells(column, row["numbers"].get(column.key), with_ratio)
        grid.append(cells)
    return grid


def _cells(column: Column, number: dict[str, Any] | None, with_ratio: bool) -> list[str]:
    told = number and summarise(number["values"]).text(column.digits, spread=column.compared)
    cells = [told or "–"]
    if column.compared and with_ratio:
        times = number and number.get("ratio")
        cells.append(f"{times:.2f}" if times is not None else "–")
    return cells


def _absent(report: dict[str, Any]) -> list[str]:
    return [f"{entry['case']}, {entry['row']}: {entry['reason']}" for entry in report["not_measured"]]


def _head(report: dict[str, Any]) -> str:
    return (
        f"{report['date']}, {machine.sentence(report['machine'])}, "
        f"{report['load_end']} when it ended. Medians of {report['runs']} alternating runs of "
        f"{report['seconds']:g} s each (lowest–highest)."
    )


def text(report: dict[str, Any]) -> str:
    """For a terminal."""
    lines = [f"$ {report['command']}", _head(report)]
    for case in report["cases"]:
        lines += ["", case["title"], *_in_columns(_grid(case))]
    if report["targets"]:
        lines += ["", *_in_columns(_targets(report))]
    for title, entries in ((NOT_MEASURED, _absent(report)), ("failed", report["failed"])):
        if entries:
            lines += ["", f"{title}:", *(f"  {entry}" for entry in entries)]
    return "\n".join(lines)


def _in_columns(grid: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in grid) for i in range(len(grid[0]))]
    lines = []
    for row in grid:
        numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join([row[0].ljust(widths[0]), *numbers]))
    return lines


def _targets(report: dict[str, Any]) -> list[list[str]]:
    return [targets.HEAD, *map(targets.told, report["targets"])]


def markdown(report: dict[str, Any], drawn: Sequence[str] = ()) -> str:
    """For a page. drawn: the cases of which there is a picture."""
    lines = [f"Made by `{report['command']}`: {_head(report)}"]
    for case in report["cases"]:
        lines += ["", f"**{case['title']}**", "", *_table(_grid(case))]
        if case["name"] in drawn:
            lines += ["", f"![{case['title']}]({PLOTS}/{case['name']}.svg)"]
    if report["targets"]:
        lines += ["", "**what was set out to be reached**", "", *_table(_targets(report))]
    for title, entries in ((NOT_MEASURED.capitalize(), _absent(report)), ("Failed", report["failed"])):
        if entries:
            lines += ["", f"{title}:", "", *(f"- {entry}" for entry in entries)]
    return "\n".join(lines)


def _table(grid: list[list[str]]) -> list[str]:
    head, *rows = grid
    return [_line(head), _line(["---", *["---:"] * (len(head) - 1)]), *map(_line, rows)]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_page(path: Path, report: dict[str, Any]) -> None:
    """Put the tables between the page's markers, and pictures beside it. Raises ValueError where it has no markers."""
    page = path.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} has no place for the table: write {BEGIN} and {END} into it")
    drawn = plots.write(path.parent / PLOTS, report)
    path.write_text(f"{before}{BEGIN}\n\n{markdown(report, drawn)}\n\n{END}{after}", encoding="utf-8")
