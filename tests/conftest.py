"""What every test shares: what a skip means in CI, what lets tests run side by side, the rfc marker's record, and the
check that nothing is left over.

Options:
    --rfc-report=FILE   write which RFC requirements were shown, by which test, with which outcome (JSON)
"""

from __future__ import annotations

import gc
import itertools
import json
import os
from collections import defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

IN_CI = os.environ.get("CI") == "true"

# Time is never asserted, so a slow example (a sanitizer build, a busy machine) is no failure; in CI the examples are
# always the same ones, so that a failure there can be had again.
settings.register_profile("ustack", deadline=None, derandomize=IN_CI, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ustack")

# A skip whose reason starts so is one in CI too: it is about the platform, not about something that was not installed.
ACCEPTED_SKIP = "optional:"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rfc-report", metavar="FILE", help="write RFC requirements with their tests' outcomes (JSON)")


# -- a skip is a failure in CI


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else str(report.longrepr)


def fail_forbidden_skip(report: Any) -> None:
    """In CI a machine that cannot run a test is a broken machine: what would be skipped is reported as failed."""
    if not IN_CI or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = skip_reason(report)
    if not reason.startswith(ACCEPTED_SKIP):
        report.outcome = "failed"
        report.longrepr = f"skipped, which counts as failed when CI=true: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    fail_forbidden_skip(report)
    report.requirements = requirements(item)
    if report.failed:
        item.stash[failed_key] = True
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    report = yield
    fail_forbidden_skip(report)
    return report


# -- side by side

# What shares something dear to make, or builds in one directory: one after another, in the same worker. Everything else
# may run beside anything else: its namespace, its temporary directory and its runtime directory are its own.
TOGETHER = (
    "tests/unit/test_bench_",
    "tests/unit/test_packaging.py",
    "tests/hostile/fuzz/",
    "tests/kernel/test_differential.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: one more than there are cores, as many a test waits (for a kernel's timer, for a program)."""
    return 1 + (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By the names of tests: xdist's own mark is written where pytest 9.2 no longer reads, and no group comes of it."""
    from xdist.scheduler import LoadScopeScheduling

    class ByName(LoadScopeScheduling):  # type: ignore[misc, unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            return next((start for start in TOGETHER if nodeid.startswith(start)), nodeid)

    return ByName(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("rfc"):
            if not mark.args or mark.kwargs:
                raise pytest.UsageError(f"{item.nodeid}: write @pytest.mark.rfc('9293', 'MUST-13')")


@pytest.fixture(autouse=True)
def own_runtime_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other test's stacks are found by the control socket, nor those of whoever runs the tests.

    Only a name: whoever publishes a socket makes the directory. It is short, as a socket's path has to be.
    """
    monkeypatch.setenv("USTACK_RUNTIME_DIR", str(tmp_path_factory.getbasetemp() / f"run{next(numbers)}"))


numbers = itertools.count()

# -- which requirement is shown by which test

failed_key = pytest.StashKey[bool]()
outcomes: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))


def requirements(item: pytest.Item) -> list[tuple[str, str]]:
    """(RFC, requirement) of the test's marks."""
    marks = [[str(argument) for argument in mark.args] for mark in item.iter_markers("rfc")]
    return [(number, each) for number, *named in marks for each in named or ["-"]]


def pytest_runtest_logreport(report: Any) -> None:
    """In the process that was started, wherever the test ran."""
    if report.when != "call" and report.passed:
        return
    for number, requirement in getattr(report, "requirements", ()):  # a worker that crashed reports without
        outcomes[number][requirement][report.nodeid] = report.outcome


def pytest_sessionfinish(session: pytest.Session) -> None:
    target = session.config.getoption("--rfc-report")
    if target and not hasattr(session.config, "workerinput"):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(outcomes, indent=1, sort_keys=True)
        Path(target).write_text(text + "\n", encoding="utf-8")


# -- nothing is left over


def live_objects() -> dict[str, int]:
    """What is alive in the data plane, by kind. Empty in a release build, which does not count."""
    try:
        from ustack_ext.base import live
    except ImportError:  # not built: the tests that need it say so themselves
        return {}
    return {kind: count for kind, count in live.live_objects().items() if count}


@pytest.fixture(autouse=True)
def nothing_left_over(request: pytest.FixtureRequest) -> Iterator[None]:
    """In debug and sanitizer builds: every buffer, connection, neighbour and timer is gone when a test is over.

    Set up before a test's other fixtures, so it looks when they are closed. A stack that several tests share (a fixture
    of a wider scope) makes it impossible to tell, and so does a failed test: its traceback keeps what it used.
    """
    shared = live_objects()
    yield
    if shared or request.node.stash.get(failed_key, False):
        return
    if live_objects():
        gc.collect()
    left = live_objects()
    assert left == {}, f"left over after the test: {left}"
