"""A case's table as a picture: bars with the lowest and highest of the runs, in SVG, without a library.

Nothing else needs one here, and what a plotting library brings along is larger than all of the bench.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from bench.cases import CASES, Column

LEFT, WIDTH, RIGHT = 360, 420, 130  # of the names, the bars, the numbers
BAR, GAP, TOP = 14, 6, 34
BEYOND = 4  # times the middle row: what is longer is cut off, so that the others can be told apart
FONT = 'font-family="system-ui, sans-serif" font-size="12" fill="#888"'
COLOURS = (("ustack", "#2a78c8"), ("kernel", "#9a9a9a"), ("limit", "#c9c9c9"), ("", "#d98c3f"))


def write(directory: Path, report: dict[str, Any]) -> list[str]:
    """A file for each case of the report into `directory`; returns the names of the cases that have one."""
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    for case in report["cases"]:
        picture = draw(case)
        if picture:
            (directory / f"{case['name']}.svg").write_text(picture, encoding="utf-8")
            drawn.append(case["name"])
    return drawn


def draw(case: dict[str, Any]) -> str:
    """The picture of one case: a block of bars for each column that is compared; "" where nothing was measured."""
    body: list[str] = []
    y = 0
    for column in CASES[case["name"]].columns:
        rows = [row for row in case["rows"] if column.key in row["numbers"]]
        if column.compared and rows:
            body += _block(column, rows, y)
            y += TOP + len(rows) * (BAR + GAP) + GAP
    if not body:
        return ""
    size = f'width="{LEFT + WIDTH + RIGHT}" height="{y}" viewBox="0 0 {LEFT + WIDTH + RIGHT} {y}"'
    title = f"<title>{escape(case['title'])}</title>"
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size} {FONT}>', title, *body, "</svg>\n"])


def _block(column: Column, rows: list[dict[str, Any]], y: int) -> list[str]:
    middle = statistics.median(row["numbers"][column.key]["median"] for row in rows)
    most = min(max(row["numbers"][column.key]["high"] for row in rows), BEYOND * middle) or 1.0
    drawn = [f'<text x="{LEFT}" y="{y + 20}" font-weight="bold">{escape(column.title)}</text>']
    for number, row in enumerate(rows):
        drawn += _bar(row, column, most, y + TOP + number * (BAR + GAP))
    return drawn


def _bar(row: dict[str, Any], column: Column, most: float, y: int) -> list[str]:
    number = row["numbers"][column.key]
    median, low, high = (LEFT + WIDTH * min(number[key] / most, 1) for key in ("median", "low", "high"))
    cut = "≫ " if number["median"] > most else ""
    colour = next(colour for start, colour in COLOURS if row["name"].startswith(start))
    base, middle, tick = y + BAR - 3, y + BAR / 2, f"{y + 3}v{BAR - 6}"
    return [
        f'<text x="{LEFT - 8}" y="{base}" text-anchor="end">{escape(row["title"])}</text>',
        f'<rect x="{LEFT}" y="{y}" width="{median - LEFT:.1f}" height="{BAR}" fill="{colour}"/>',
        f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {tick}M{high:.1f} {tick}" stroke="#555"/>',
        f'<text x="{max(high, median) + 8:.1f}" y="{base}">{cut}{number["median"]:,.{column.digits}f}</text>',
    ]
