"""The bench's C programs against each other on the loopback, and every case once, briefly. Not how fast anything is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bench import build, rigs
from bench.cases import CASES
from tap_harness import need
from tap_harness.netns import ROOT
from tap_harness.process import Child

BRIEF = "0.3"  # seconds
SMOKE = "0.5"
pytestmark = pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="optional: speed under a sanitizer means nothing, and the bench's processes have not loaded its runtime",
)
# Without these the bench has no reference, no subject and no limit; the others are peers that may not be installed.
ALWAYS = ("kernel", "ustack", "limit")


@pytest.fixture
def served() -> Iterator[Callable[..., dict[str, Any]]]:
    """served(service, load, *arguments): what the load program reports of a C server on 127.0.0.1."""
    try:
        server, client = build.program("serve.c"), build.program("load.c")
    except build.CannotBuild as error:
        pytest.skip(str(error))
    children: list[Child] = []

    def run(service: str, load: str, *arguments: str) -> dict[str, Any]:
        port = str(7100 + len(children))
        children.append(child := Child([server, service, "127.0.0.1", port]))
        child.wait_line("^ready$")
        command = [client, load, "127.0.0.1", port, BRIEF, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    yield run
    for child in children:
        child.stop()


def test_bulk(served: Callable[..., dict[str, Any]]) -> None:
    for service, load in (("sink", "send"), ("source", "receive")):
        found = served(service, load)
        assert found["bytes"] > 0
        assert found["seconds"] >= float(BRIEF)


def test_ping(served: Callable[..., dict[str, Any]]) -> None:
    found = served("echo", "ping", "64")
    values = [value for value, _ in found["histogram_us"]]
    assert sum(count for _, count in found["histogram_us"]) == found["rounds"] > 0
    assert values == sorted(values)
    assert values[0] <= found["p50_us"] <= found["p90_us"] <= found["p99_us"] <= found["p999_us"] <= values[-1]
    # The median is where half of the round trips are: the histogram and the percentile are of the same numbers.
    below = sum(count for value, count in found["histogram_us"] if value < found["p50_us"])
    assert below <= found["rounds"] / 2


def test_connect(served: Callable[..., dict[str, Any]]) -> None:
    found = served("short", "connect", "8", "127.0.0.1", "127.0.0.2")
    assert found["connections"] > 0
    assert found["failed"] == 0


def test_nobody_listens() -> None:
    try:
        client = build.program("load.c")
    except build.CannotBuild as error:
        pytest.skip(str(error))
    done = subprocess.run(
        [client, "send", "127.0.0.1", "7099", BRIEF], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "Connection refused" in done.stderr


def test_cpu_time_of_another_process() -> None:
    with Child([sys.executable, "-c", "sum(range(3_000_000)); print('ready', flush=True); input()"], stdin=-1) as child:
        child.wait_line("^ready$")
        assert rigs.process_cpu(child.pid) > 0


@pytest.mark.parametrize("name", CASES)
def test_every_case_runs(name: str) -> None:
    if name != "memory" and (reason := need.missing_privilege()):
        pytest.skip(reason)
    command = [sys.executable, "-m", "bench", "--json", "--runs", "1", "--seconds", SMOKE, name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    (case,) = json.loads(done.stdout)["cases"]
    for row in case["rows"]:
        if name == "memory" or row["name"].startswith(ALWAYS):
            without = CASES[name].without
            wanted = {column.key for column in CASES[name].columns if (row["name"], column.load) not in without}
            if name == "memory":  # some rows carry bytes, some are of things that are counted, some both
                assert set(row["numbers"]) & wanted, (row["name"], done.stderr)
            else:
                assert set(row["numbers"]) == wanted, (row["name"], done.stderr)
            medians = {key: number["median"] for key, number in row["numbers"].items() if not key.endswith("failed")}
            assert min(medians.values()) > 0, medians
