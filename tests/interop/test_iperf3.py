"""iperf3 against `ustack iperf3`: every kind of test, both as server and as client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tap_harness.ends import FOUR, SIX, Ends
from tap_harness.process import Child

pytestmark = pytest.mark.usefixtures("iperf3")
MIB = 1 << 20
AS_SERVER = ["-t 1", "-t 1 -P 4", "-t 1 -P 2 -R", "-t 1 --bidir", "-n 20M"]
COUNTING = [
    "-t 1 -R", "-t 1 -O 1", "-n 20M -R", "-k 50", "-k 50 -R", "-n 1M -l 1000 -N -w 64K -S 0x10",
    "-t 1 -R -b 20M --get-server-output",
]  # fmt: skip
AS_SERVER_UDP = ["-t 1 -b 10M", "-t 1 -b 5M --bidir -l 500"]
COUNTING_UDP = ["-t 1 -b 10M -R -P 2", "-t 1 -b 5M --udp-counters-64bit -O 1"]
AS_CLIENT = ["-t 1", "-t 1 -P 3", "-t 1 -P 2 -R", "-t 1 --bidir"]
COUNTING_AS_CLIENT = ["-t 1 -R", "-t 1 -b 20M -R"]
FAMILY_LESS = pytest.mark.ipv4("these options are about when, how much and how iperf3 counts, not about the way there")


PLACE = [
    "--address", FOUR.stack_net, "--address", SIX.stack_net,
    "--host-address", FOUR.kernel_net, "--host-address", SIX.kernel_net,
]  # fmt: skip


@pytest.fixture
def server(ns: Any) -> Iterator[Child]:
    child: Child = ns.python("ustack", "iperf3", "-s", "--offload", *PLACE)
    child.wait_line("^iperf3 server on 10.9.0.2, port 5201", timeout=20)
    yield child
    child.stop()


def shorter(words: str, ends: Ends) -> str:
    """Over IPv6 by amount where it is by time: what differs is the addresses. Both ways at once share an amount, of
    which one may get nothing.
    """
    if not ends.six or "--bidir" in words:
        return words
    return words.replace("-t 1", "-n 200K" if "-b" in words else "-n 8M")


def measured(ns: Any, words: str, ends: Ends) -> dict[str, Any]:
    """What the kernel's iperf3 reports of a test against the stack."""
    found: dict[str, Any] = json.loads(ns.sh(f"iperf3 -J -c {ends.stack} {shorter(words, ends)}", timeout=60))
    assert "error" not in found, found["error"]
    return found["end"]


@pytest.mark.parametrize("words", AS_SERVER)
def test_tcp(ns: Any, server: Child, words: str, ends: Ends) -> None:
    tcp(ns, words, ends)


@FAMILY_LESS
@pytest.mark.parametrize("words", COUNTING)
def test_tcp_counted(ns: Any, server: Child, words: str) -> None:
    tcp(ns, words, FOUR)


def tcp(ns: Any, words: str, ends: Ends) -> None:
    end = measured(ns, words, ends)
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
def test_udp(ns: Any, server: Child, words: str, ends: Ends) -> None:
    udp(ns, words, ends)


@FAMILY_LESS
@pytest.mark.parametrize("words", COUNTING_UDP)
def test_udp_counted(ns: Any, server: Child, words: str) -> None:
    udp(ns, words, FOUR)


def udp(ns: Any, words: str, ends: Ends) -> None:
    end = measured(ns, f"-u {words}", ends)
    for stream in end["streams"]:
        assert stream["udp"]["packets"] > 0
        assert stream["udp"]["lost_packets"] <= stream["udp"]["packets"] // 2
    assert end["sum"]["bytes"] > 0


def test_one_test_at_a_time(ns: Any, server: Child, ends: Ends) -> None:
    first = ns.popen(["iperf3", "-c", ends.stack, "-t", "30"])
    server.wait_line("Gbit/s|Mbit/s", timeout=20)
    second = ns.popen(["iperf3", "-c", ends.stack, "-t", "1"])
    assert second.wait(20) == 1
    assert "busy" in second.output()
    first.signal(9)  # vanishes: the server is free again
    server.wait_line("received", timeout=20)
    measured(ns, "-n 1M", ends)


def test_one_off(ns: Any, ends: Ends) -> None:
    child = ns.python("ustack", "iperf3", "-s", "-1", "--json", "-p", "5555", *ends.options)
    # Without a line to wait for: iperf3 has to find the port open.
    wait = f"for i in $(seq 100); do nc -z {ends.stack} 5555 && break; sleep 0.1; done"
    ns.sh(f"{wait}; iperf3 -p 5555 -c {ends.stack} -n 1M", timeout=60)
    assert child.wait(20) == 0, child.output()
    report = json.loads(child.output())
    assert report["error"] is None
    assert report["streams"][0]["bytes"] > 0


@pytest.mark.parametrize("words", AS_CLIENT)
def test_as_a_client(ns: Any, words: str, ends: Ends) -> None:
    as_a_client(ns, words, ends)


@FAMILY_LESS
@pytest.mark.parametrize("words", COUNTING_AS_CLIENT)
def test_as_a_client_counted(ns: Any, words: str) -> None:
    as_a_client(ns, words, FOUR)


def as_a_client(ns: Any, words: str, ends: Ends) -> None:
    ends.device(ns)
    server = ns.popen(["iperf3", "-s", "-1", "-J"])
    ns.sh("for i in $(seq 100); do ss -ltn | grep -q :5201 && break; sleep 0.1; done")
    options = [*ends.options[:2], "--json", *shorter(words, ends).split()]
    child = ns.python("ustack", "iperf3", "-c", ends.kernel, *options)
    assert child.wait(30) == 0, child.output()
    report = json.loads(child.output())
    assert server.wait(20) == 0
    theirs = json.loads(server.output())
    assert "error" not in theirs
    for mine, remote in zip(report["streams"], report["remote"]["streams"], strict=True):
        assert mine["id"] == remote["id"]
        assert min(mine["bytes"], remote["bytes"]) > 0


def test_nobody_there(ns: Any, ends: Ends) -> None:
    child = ns.python("ustack", "iperf3", "-c", ends.kernel, *ends.options)
    assert child.wait(30) == 1
    assert child.output() == f"ustack iperf3: {ends.kernel}, port 5201: Connection refused\n"
