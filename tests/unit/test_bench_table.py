"""The bench's arithmetic and its tables: medians, ratios, what is shown where nothing was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import plots, report, targets
from bench.__main__ import Run, arguments, selected
from bench.cases import CASES, Case, Column
from bench.stats import ratio, rotated, summarise

MACHINE = {
    "cpu": "Some CPU",
    "cpus": 2,
    "virtual": True,
    "kernel": "Linux 6.1",
    "python": "3.12.0",
    "ustack": "0.1.0",
    "commit": "abc123",
    "nice": 0,
    "load": 0.0,
}
ABOUT = {
    "command": "python -m bench",
    "date": "2026-01-02",
    "runs": 3,
    "seconds": 2.0,
    "machine": MACHINE,
    "load_end": 1.0,
}


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    """Two rows and a third that cannot be measured; what is measured counts up from 1."""
    counter = iter(range(1, 1000))

    def measure(row: str, load: str, seconds: float) -> dict[str, float]:
        if row == "broken":
            raise AssertionError("it broke")
        return {"speed": float(next(counter)), "cpu": 0.125}

    made = Case(
        "made-up",
        "a made-up case",
        {"kernel": "Linux", "ustack": "ustack", "absent": "absent", "broken": "broken"},
        ("one",),
        (Column("one", "speed", "speed", 1, compared=True), Column("one", "cpu", "CPU", 3)),
        measure,
        lambda row, _load: "not installed" if row == "absent" else None,
        reference="kernel",
    )
    monkeypatch.setitem(CASES, made.name, made)
    return made


def made_report(values: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    missing = [{"case": "made-up", "row": "absent", "reason": "not installed"}]
    return report.compose(ABOUT, {"made-up": values}, missing, [])


@pytest.mark.parametrize(
    ("values", "median"), [([3.0], 3.0), ([9.0, 1.0, 2.0], 2.0), ([4.0, 1.0, 2.0, 3.0], 2.5)], ids=str
)
def test_summary(values: list[float], median: float) -> None:
    summary = summarise(values)
    assert (summary.median, summary.low, summary.high) == (median, min(values), max(values))


def test_nothing_has_no_median() -> None:
    with pytest.raises(ValueError):
        summarise([])


@pytest.mark.parametrize(
    ("values", "digits", "spread", "text"),
    [
        ([1.0, 3.0, 2.0], 2, True, "2.00 (1.00–3.00)"),
        ([1.0, 3.0, 2.0], 1, False, "2.0"),
        ([12345.6], 0, True, "12,346"),
    ],
)
def test_summary_as_text(values: list[float], digits: int, spread: bool, text: str) -> None:
    assert summarise(values).text(digits, spread) == text


def test_ratio_is_of_medians() -> None:
    assert ratio(summarise([1.0, 5.0, 100.0]), summarise([2.0])) == 2.5
    assert ratio(summarise([1.0]), summarise([0.0])) is None


def test_everybody_is_first_once() -> None:
    orders = [rotated(["a", "b", "c"], by) for by in range(3)]
    assert [order[0] for order in orders] == ["a", "b", "c"]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert rotated([], 5) == []


def test_runs_alternate_and_what_breaks_is_told(case: Case) -> None:
    run = Run({case: list(case.rows)}, runs=3, seconds=1.0)
    run.go()
    assert run.values["made-up"]["kernel"]["one.speed"] == [1.0, 4.0, 5.0]
    assert run.values["made-up"]["ustack"]["one.speed"] == [2.0, 3.0, 6.0]
    assert run.missing == [{"case": "made-up", "row": "absent", "reason": "not installed"}]
    assert len(run.failed) == 3
    assert "it broke" in run.failed[0]


def test_report(case: Case) -> None:
    values = {"kernel": {"one.speed": [4.0, 2.0, 3.0]}, "ustack": {"one.speed": [1.5], "one.cpu": [0.5]}, "absent": {}}
    found = made_report(values)
    kernel, ustack, absent = found["cases"][0]["rows"]
    assert kernel["numbers"]["one.speed"] == {
        "median": 3.0,
        "low": 2.0,
        "high": 4.0,
        "values": [4.0, 2.0, 3.0],
        "ratio": 1.0,
    }
    assert ustack["numbers"]["one.speed"]["ratio"] == 0.5
    assert "ratio" not in ustack["numbers"]["one.cpu"]
    assert absent["numbers"] == {}
    assert json.loads(json.dumps(found)) == found


def test_without_the_reference_there_are_no_ratios(case: Case) -> None:
    found = made_report({"ustack": {"one.speed": [1.5]}})
    assert "ratio" not in found["cases"][0]["rows"][0]["numbers"]["one.speed"]


def test_markdown(case: Case) -> None:
    text = report.markdown(
        made_report({"kernel": {"one.speed": [4.0, 2.0, 3.0]}, "ustack": {"one.speed": [1.5]}, "absent": {}})
    )
    assert "Made by `python -m bench`: 2026-01-02, virtual machine, 2 cores of Some CPU, Linux 6.1" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table == [
        "|  | speed | × Linux | CPU |",
        "| --- | ---: | ---: | ---: |",
        "| Linux | 3.0 (2.0–4.0) | 1.00 | – |",
        "| ustack | 1.5 | 0.50 | – |",
        "| absent | – | – | – |",
    ]
    assert "- made-up, absent: not installed" in text


def test_text_is_in_columns(case: Case) -> None:
    text = report.text(made_report({"kernel": {"one.speed": [10.0]}, "ustack": {"one.speed": [1.5]}}))
    rows = [line for line in text.splitlines() if line.startswith(("Linux ", "ustack "))]
    assert [row.split() for row in rows] == [["Linux", "10.0", "1.00", "–"], ["ustack", "1.5", "0.15", "–"]]
    assert len({len(row) for row in rows}) == 1
    assert "not installed" in text


def test_targets_are_judged_by_medians(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    where, base = ("made-up", "ustack", "one.speed"), ("made-up", "kernel", "one.speed")
    wanted = [
        targets.Target("g", "fast", where, "≥", 1.5, base),
        targets.Target("g", "too fast", where, "≤", 1.5, base),
        targets.Target("g", "by itself", where, "≥", 3.0),
        targets.Target("g", "to nobody", where, "≥", 1.0, ("made-up", "absent", "one.speed")),
        targets.Target("g", "not run", ("other", "ustack", "one.speed"), "≥", 1.0),
    ]
    monkeypatch.setattr(targets, "TARGETS", wanted)
    found = made_report({"kernel": {"one.speed": [1.0, 2.0, 9.0]}, "ustack": {"one.speed": [4.0]}, "absent": {}})
    assert [targets.told(one) for one in found["targets"]] == [
        ["g: fast", "≥ 1.5", "2.00", "met"],
        ["g: too fast", "≤ 1.5", "2.00", "missed"],
        ["g: by itself", "≥ 3", "4.00", "met"],
        ["g: to nobody", "≥ 1", "–", "not measured"],
    ]
    assert "| g: too fast | ≤ 1.5 | 2.00 | missed |" in report.markdown(found)
    assert re.search(r"^g: fast +≥ 1.5 +2.00 +met$", report.text(found), re.MULTILINE)


def test_every_target_is_of_something_that_is_measured() -> None:
    for target in targets.TARGETS:
        for name, row, key in (where for where in (target.what, target.to) if where):
            assert row in CASES[name].rows, target
            assert key in {column.key for column in CASES[name].columns}, target
            assert (row, key.split(".")[0]) not in CASES[name].without, target


def test_plot(case: Case) -> None:
    made = made_report({"kernel": {"one.speed": [1.0, 2.0]}, "ustack": {"one.speed": [4.0], "one.cpu": [1.0]}})
    picture = ElementTree.fromstring(plots.draw(made["cases"][0]))
    space = "{http://www.w3.org/2000/svg}"
    widths = [float(bar.attrib["width"]) for bar in picture.iter(f"{space}rect")]
    assert widths == [pytest.approx(plots.WIDTH * 1.5 / 4, abs=0.1), plots.WIDTH]  # kernel, ustack; CPU is not compared
    assert [text.text for text in picture.iter(f"{space}text")] == ["speed", "Linux", "1.5", "ustack", "4.0"]
    assert plots.draw(made_report({"ustack": {}})["cases"][0]) == ""


def test_a_bar_that_would_hide_the_others_is_cut_off(case: Case) -> None:
    speeds = {"kernel": {"one.speed": [1.0]}, "ustack": {"one.speed": [2.0]}, "absent": {"one.speed": [900.0]}}
    picture = ElementTree.fromstring(plots.draw(made_report(speeds)["cases"][0]))
    space = "{http://www.w3.org/2000/svg}"
    widths = [float(bar.attrib["width"]) for bar in picture.iter(f"{space}rect")]
    assert widths == [plots.WIDTH / 8, plots.WIDTH / 4, plots.WIDTH]
    assert "≫ 900.0" in [text.text for text in picture.iter(f"{space}text")]


def test_page_keeps_what_is_around_the_table(case: Case, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{report.BEGIN}\nold\n{report.END}\n\nafter\n", encoding="utf-8")
    for speed in (1.0, 2.0):
        report.write_page(page, made_report({"kernel": {"one.speed": [speed]}}))
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n\n")
    assert text.endswith(f"{report.END}\n\nafter\n")
    assert "old" not in text
    assert "![a made-up case](plots/made-up.svg)" in text
    assert (tmp_path / "plots" / "made-up.svg").exists()
    assert re.findall(r"^\| Linux \| ([0-9.]+) ", text, re.MULTILINE) == ["2.0"]


def test_page_without_a_place_for_the_table(case: Case, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no place"):
        report.write_page(page, made_report({}))
    assert page.read_text(encoding="utf-8") == "nothing here\n"


class TestNames:
    def test_nothing_named_is_everything(self) -> None:
        assert {case.name: rows for case, rows in selected([]).items()} == {
            name: list(case.rows) for name, case in CASES.items()
        }

    def test_a_case(self) -> None:
        assert [case.name for case in selected(["ping"])] == ["ping"]

    def test_somebody_with_variants_and_what_ratios_are_to(self) -> None:
        (rows,) = selected(["connect", "ustack"]).values()
        assert rows[:3] == ["kernel", "ustack", "ustack-offload"]
        assert "ustack-native-offload" in rows
        assert all(row == "kernel" or row.startswith("ustack") for row in rows)

    @pytest.mark.parametrize(
        "argv", [["no-such"], ["--docs", "bulk"], ["--runs", "0"], ["--seconds", "-1"], ["--seconds", "x"]]
    )
    def test_wrong_arguments(self, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stopped:
            arguments(argv)
        assert stopped.value.code == 2
        assert "error" in capsys.readouterr().err
