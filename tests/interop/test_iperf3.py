"""iperf3 against `ustack iperf3`: every kind of test, both as server and as client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tap_harness.net import KERNEL, KERNEL6, STACK, STACK6
from tap_harness.process import Child

pytestmark = pytest.mark.usefixtures("iperf3")
MIB = 1 << 20
AS_SERVER = [
    "-t 1", "-t 1 -P 4", "-t 1 -R", "-t 1 -P 2 -R", "-t 1 --bidir", "-t 1 -O 1", "-n 20M", "-n 20M -R", "-k 50",
    "-k 50 -R", "-n 1M -l 1000 -N -w 64K -S 0x10", "-t 1 -R -b 20M --get-server-output",
]  # fmt: skip
AS_SERVER_UDP = ["-b 10M", "-b 10M -R -P 2", "-b 5M --bidir -l 500", "-b 5M --udp-counters-64bit -O 1"]
AS_CLIENT = [[], ["-P", "3"], ["-R"], ["-P", "2", "-R"], ["--bidir"], ["-b", "20M", "-R"]]


@pytest.fixture(autouse=True)
def _own_runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USTACK_RUNTIME_DIR", str(tmp_path / "run"))


PLACE = [
    "--address", f"{STACK}/24", "--address", f"{STACK6}/64",
    "--host-address", f"{KERNEL}/24", "--host-address", f"{KERNEL6}/64",
]  # fmt: skip


@pytest.fixture
def server(ns: Any) -> Iterator[Child]:
    child: Child = ns.python("ustack", "iperf3", "-s", "--offload", *PLACE)
    child.wait_line("^iperf3 server on 10.9.0.2, port 5201", timeout=20)
    yield child
    child.stop()


def measured(ns: Any, words: str, host: str = STACK) -> dict[str, Any]:
    """What the kernel's iperf3 reports of a test against the stack."""
    found: dict[str, Any] = json.loads(ns.sh(f"iperf3 -J -c {host} {words}", timeout=60))
    assert "error" not in found, found["error"]
    return found["end"]


@pytest.mark.parametrize("words", AS_SERVER)
def test_tcp(ns: Any, server: Child, words: str) -> None:
    end = measured(ns, words)
    streams = 1 if "-P" not in words else int(words.split("-P ")[1].split()[0])
    assert len(end["streams"]) == streams * (2 if "--bidir" in words else 1)
    for stream in end["streams"]:
        assert stream["sender"]["sender"] == stream["receiver"]["sender"]
        sent, received = stream["sender"]["bytes"], stream["receiver"]["bytes"]
        # After --omit the two sides begin to count at different times.
        assert received > 0
        assert received <= sent or "-O" in words
        assert stream["receiver"]["seconds"] > 0
    for option, amount in (("-n 20M", MIB * 20), ("-k 50", 131072 * 50)):
        if words == option:  # the client's end, which counts no block that was taken in parts
            assert amount <= end["sum_sent"]["bytes"] < 2 * amount
    assert end["cpu_utilization_percent"]["remote_total"] > 0


@pytest.mark.parametrize("words", AS_SERVER_UDP)
def test_udp(ns: Any, server: Child, words: str) -> None:
    end = measured(ns, f"-u -t 1 {words}")
    for stream in end["streams"]:
        assert stream["udp"]["packets"] > 0
        assert stream["udp"]["lost_packets"] <= stream["udp"]["packets"] // 2
    assert end["sum"]["bytes"] > 0


@pytest.mark.parametrize("words", ["-n 8M -P 2 --bidir", "-u -t 1 -l 1400 -b 20M", "-u -t 1 -l 64 -b 1M -R"])
def test_over_ipv6(ns: Any, server: Child, words: str) -> None:
    end = measured(ns, words, STACK6)
    assert end["streams"]
    for stream in end["streams"]:
        assert (stream["udp"]["packets"] if "udp" in stream else stream["receiver"]["bytes"]) > 0


def test_one_test_at_a_time(ns: Any, server: Child) -> None:
    first = ns.popen(["iperf3", "-4", "-c", STACK, "-t", "30"])
    server.wait_line("Gbit/s|Mbit/s", timeout=20)
    second = ns.popen(["iperf3", "-4", "-c", STACK, "-t", "1"])
    assert second.wait(20) == 1
    assert "busy" in second.output()
    first.signal(9)  # vanishes: the server is free again
    server.wait_line("received", timeout=20)
    measured(ns, "-t 1")


def test_one_off(ns: Any) -> None:
    child = ns.python("ustack", "iperf3", "-s", "-1", "--json", "-p", "5555")
    # Without a line to wait for: iperf3 has to find the port open.
    ns.sh(
        f"for i in $(seq 100); do nc -z {STACK} 5555 && break; sleep 0.1; done; iperf3 -4 -p 5555 -c {STACK} -n 1M",
        timeout=60,
    )
    assert child.wait(20) == 0, child.output()
    report = json.loads(child.output())
    assert report["error"] is None
    assert report["streams"][0]["bytes"] > 0


@pytest.mark.parametrize("words", AS_CLIENT)
def test_as_a_client(ns: Any, words: list[str]) -> None:
    ns.sh(f"ip tuntap add dev ust0 mode tap && ip addr add {KERNEL}/24 dev ust0 && ip link set ust0 up")
    server = ns.popen(["iperf3", "-4", "-s", "-1", "-J"])
    ns.sh("for i in $(seq 100); do ss -ltn | grep -q :5201 && break; sleep 0.1; done")
    child = ns.python("ustack", "iperf3", "-c", KERNEL, "-t", "1", "--json", *words)
    assert child.wait(30) == 0, child.output()
    report = json.loads(child.output())
    assert server.wait(20) == 0
    theirs = json.loads(server.output())
    assert "error" not in theirs
    for mine, remote in zip(report["streams"], report["remote"]["streams"], strict=True):
        assert mine["id"] == remote["id"]
        assert min(mine["bytes"], remote["bytes"]) > 0


def test_nobody_there(ns: Any) -> None:
    child = ns.python("ustack", "iperf3", "-c", KERNEL)
    assert child.wait(30) == 1
    assert child.output() == f"ustack iperf3: {KERNEL}, port 5201: Connection refused\n"
