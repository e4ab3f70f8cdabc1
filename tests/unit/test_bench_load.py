"""The bench's C programs against each other on the loopback, and every case once, briefly. Not how fast anything is."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bench import build, native, real, rigs
from bench.cases import CASES
from tap_harness import need
from tap_harness.netns import ROOT
from tap_harness.process import Child

BRIEF = "0.3"  # seconds
SMOKE = "0.3"
pytestmark = pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="optional: speed under a sanitizer means nothing, and the bench's processes have not loaded its runtime",
)
# Of these cases the bench needs these rows: its reference, its subject, its limit. The other stacks, and what the other
# cases are measured with, may not be installed.
BASIC = ("bulk", "pinned", "ping", "connect", "memory")
NEEDED = ("kernel", "ustack", "ustack-native", "limit")


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


def test_leave(served: Callable[..., dict[str, Any]]) -> None:
    found = served("reply", "leave", "8", "127.0.0.2")
    assert found["connections"] > 0
    assert found["failed"] == 0


def test_http(served: Callable[..., dict[str, Any]]) -> None:
    answer = native.SERVICES["http"][1]["body"]
    for service, closes in (("http", False), ("http-close", True)):
        with Child([build.program("serve.c"), service, "127.0.0.3", "7098"]) as child:
            child.wait_line("^ready$")
            connection = http.client.HTTPConnection("127.0.0.3", 7098, timeout=10)
            for _ in range(2):
                connection.request("GET", "/")
                response = connection.getresponse()
                assert (response.status, response.read(), response.will_close) == (200, answer, closes)
            connection.close()


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


WRK = """\
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   634.99us    1.07ms  22.69ms   97.10%
    Req/Sec   105.68k    16.95k  124.31k    80.00%
  Latency Distribution
     50%  204.00us
     75%    1.05ms
     90%    1.50ms
     99%    1.10s
  105228 requests in 1.00s, 20.88MB read
  Socket errors: connect 1, read 2, write 3, timeout 4
  Non-2xx or 3xx responses: 5
Requests/sec: 105200.50
"""


def test_what_wrk_prints() -> None:
    found = real.read_wrk(WRK)
    wanted = {"requests": 105228.0, "rate": 105200.5, "p50": 0.204, "p99": 1100.0, "failed": 15.0}
    assert found == pytest.approx(wanted)
    clean = "".join(line for line in WRK.splitlines(keepends=True) if "errors" not in line and "Non-2xx" not in line)
    assert real.read_wrk(clean)["failed"] == 0
    with pytest.raises(AssertionError, match="no rate"):
        real.read_wrk("unable to connect to 10.9.0.2:7000 Connection refused")


def test_what_sockperf_prints() -> None:
    printed = (
        "---> percentile 99.900 = 9190.869\n---> percentile 99.000 = 7362.053\n---> percentile 50.000 =   44.090\n"
    )
    assert real.read_sockperf(printed) == {"p50": 44.09, "p99": 7362.053}


def test_of_iperf3_over_udp_what_arrives_counts() -> None:
    end = {"sum": {"packets": 1000, "lost_packets": 200, "seconds": 2.0, "bits_per_second": 1e9}}
    found = real.read_udp(end, 1400, used=0.004)
    assert found == {"gbit": 400 * 1400 * 8 / 1e9, "rate": 400.0, "lost": 20.0, "server_cpu": 5.0}
    end["sum"]["lost_packets"] = 1000
    with pytest.raises(AssertionError, match="nothing arrived"):
        real.read_udp(end, 1400, used=0.004)
    with pytest.raises(AssertionError, match="no percentiles"):
        real.read_sockperf("No messages were received from the server")


# "scale" takes as long as it takes; test_bench_crowd.py runs it with fewer connections.
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name != "scale"])
def test_every_case_runs(name: str) -> None:
    if name != "memory" and (reason := need.missing_privilege()):
        pytest.skip(reason)
    command = [sys.executable, "-m", "bench", "--json", "--runs", "1", "--seconds", SMOKE, name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    absent = {entry["row"] for entry in report["not_measured"]}
    (case,) = report["cases"]
    for row in case["rows"]:
        if row["title"] in absent and not (name in BASIC and row["name"] in NEEDED):
            continue
        wanted = {column.key for column in CASES[name].columns if (row["name"], column.load) not in CASES[name].without}
        if name == "memory":  # in which each row has some of the columns
            wanted &= set(row["numbers"])
        assert wanted
        assert set(row["numbers"]) == wanted, (row["name"], done.stderr)
        # Nothing need fail or be lost.
        medians = {
            key: number["median"] for key, number in row["numbers"].items() if not key.endswith(("failed", "lost"))
        }
        assert min(medians.values()) > 0, medians
