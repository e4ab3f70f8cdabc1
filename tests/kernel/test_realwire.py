"""The measurement beside the kernel over a troubled wire works; how fast anything is it doesn't ask."""

from __future__ import annotations

import pytest

from bench import realwire
from bench.realwire import KERNEL, USTACK, WAYS, Cell, Fair, Machine, Outcome, measure, share, text

pytestmark = [
    pytest.mark.usefixtures("privileged"),
    pytest.mark.ipv4("it is about the measurement; what has `impaired` is over both"),
]


def test_a_cell_three_ways() -> None:
    cell = Cell(0.005, 20e6, 0.02, True, 0.0, 1.0, seconds=0.4)
    outcome = measure(Machine(), cell, 1, until=0.0, least=1, most=1)
    assert [len(runs) for runs in outcome.runs] == [1] * len(WAYS)
    for (run,) in outcome.runs:
        assert run.total > 0
        assert run.wire["there"]["passed"] > 0
        assert run.wire["there"]["lost"] > 0
        assert sum(run.wire["late_ns"]) == run.wire["there"]["passed"] + run.wire["back"]["passed"]
    assert "2 % lost, bursts of 4 | cubic |" in text([outcome], [], "")


def test_reordering_and_a_queue_that_overflows() -> None:
    cell = Cell(0.02, 10e6, reorder=0.1, queue=0.5, algorithm="reno", seconds=0.5)
    run = realwire.transfer(cell, KERNEL, [(KERNEL, 1)], 7)
    assert run.wire["there"]["reordered"] > 0
    assert run.wire["there"]["dropped"] > 0
    assert run.wire["back"]["reordered"] == run.wire["back"]["dropped"] == 0


def test_flows_of_both_share_a_wire() -> None:
    fair = share(Machine(), Cell(0.005, 10e6, seconds=0.5), 4, True, 1, skip=0.1)
    assert [len(fair.rates[who]) for who in (USTACK, KERNEL)] == [2, 2]
    assert 0.25 <= fair.jain <= 1
    assert "4, half the kernel's" in text([], [fair], "")


def test_jains_index() -> None:
    assert Fair(Cell(0.1, 1e6), {USTACK: [3.0, 3.0], KERNEL: [3.0]}).jain == pytest.approx(1)
    assert Fair(Cell(0.1, 1e6), {USTACK: [3.0, 0.0]}).jain == pytest.approx(0.5)


def test_what_is_late() -> None:
    histogram = [0] * 64
    histogram[10], histogram[20] = 1000, 5
    assert realwire.percentile_99(histogram) == pytest.approx(1.5 * 2**10 / 1e9)
    histogram[20] = 50
    assert realwire.percentile_99(histogram) == pytest.approx(1.5 * 2**20 / 1e9)
    outcome = Outcome(Cell(0.001, 1e6))
    assert outcome.late == 0
