"""Real programs as the load: wrk, iperf3, sockperf. How they are called, and what is read from what they print."""

from __future__ import annotations

import json
import re
from typing import Any

from bench import rigs

CONNECTIONS = 64  # of wrk
MESSAGE = 64  # bytes of a message of sockperf
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}  # in ms


def whole(seconds: float) -> int:
    """These programs take whole seconds."""
    return max(1, round(seconds))


def wrk(contender: str, service: str, seconds: float) -> dict[str, float]:
    """One thread of wrk, many connections that stay open where the server lets them."""
    printed, used = rigs.put_load(contender, service, wrk_command(seconds), whole(seconds))
    found = read_wrk(printed)
    found["server_cpu"] = used / max(found.pop("requests"), 1) * 1e6
    return found


def wrk_command(seconds: float) -> list[str]:
    url = f"http://{rigs.SERVER}:{rigs.PORT}/"
    return ["wrk", "--threads=1", f"--connections={CONNECTIONS}", f"--duration={whole(seconds)}s", "--latency", url]


def read_wrk(printed: str) -> dict[str, float]:
    """Requests, requests a second, percentiles in ms, and what failed. Raises AssertionError."""
    rate = re.search(r"Requests/sec:\s+([\d.]+)", printed)
    count = re.search(r"(\d+) requests in ", printed)
    times = {
        share: float(value) * UNITS[unit] for share, value, unit in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s)", printed)
    }
    if rate is None or count is None or not {"50", "99"} <= set(times):
        raise AssertionError(f"wrk printed no rate or no latencies: {printed}")
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", printed)
    statuses = re.search(r"Non-2xx or 3xx responses: (\d+)", printed)
    failed = sum(map(int, errors.groups())) if errors else 0
    failed += int(statuses[1]) if statuses else 0
    return {
        "requests": float(count[1]),
        "rate": float(rate[1]),
        "p50": times["50"],
        "p99": times["99"],
        "failed": float(failed),
    }


def iperf3_end(contender: str, host: str, load: str, seconds: float, *options: str) -> tuple[dict[str, Any], float]:
    """What iperf3 says at the end, and CPU seconds of the server; load: "in", to the server, or "out"."""
    took = whole(seconds)
    command = ["iperf3", "--client", host, "--port", str(rigs.PORT), "--json", f"--time={took}", *options]
    command += ["--reverse"] if load == "out" else []
    printed, used = rigs.put_load(contender, "iperf3", command, took)
    end: dict[str, Any] = json.loads(printed)["end"]
    return end, used


def iperf3(contender: str, host: str, load: str, seconds: float) -> dict[str, float]:
    """One TCP stream."""
    end, used = iperf3_end(contender, host, load, seconds)
    got = end["sum_received"]
    return {"gbit": got["bits_per_second"] / 1e9, "server_cpu": used / (got["bytes"] / 1e9)}


def iperf3_udp(contender: str, host: str, load: str, length: int, seconds: float) -> dict[str, float]:
    """One UDP stream as fast as it goes, datagrams of `length` bytes: what arrives counts."""
    end, used = iperf3_end(contender, host, load, seconds, "--udp", "--bitrate=0", f"--length={length}")
    return read_udp(end, length, used)


def read_udp(end: dict[str, Any], length: int, used: float) -> dict[str, float]:
    """From the end of a test over UDP. Raises AssertionError."""
    found = end["sum"]
    arrived = found["packets"] - found["lost_packets"]
    if arrived <= 0:
        raise AssertionError(f"nothing arrived: {found}")
    rate = arrived / found["seconds"]
    return {
        "gbit": rate * length * 8 / 1e9,
        "rate": rate,
        "lost": 100 * found["lost_packets"] / found["packets"],
        "server_cpu": used / arrived * 1e6,
    }


def sockperf(contender: str, load: str, seconds: float) -> dict[str, float]:
    """Its ping-pong, over TCP, round trips in us; load: "one" core or "two"."""
    took = whole(seconds)
    client, server = rigs.cores(load)
    command = ["sockperf", "ping-pong", "--tcp", "-i", rigs.SERVER, "-p", str(rigs.PORT)]
    command += ["-t", str(took), "-m", str(MESSAGE), "--full-rtt"]
    printed, _ = rigs.put_load(contender, "sockperf", command, took, client, server)
    return read_sockperf(printed)


def read_sockperf(printed: str) -> dict[str, float]:
    """Percentiles in us. Raises AssertionError."""
    times = dict(re.findall(r"percentile ([\d.]+) = +([\d.]+)", printed))
    if not {"50.000", "99.000"} <= set(times):
        raise AssertionError(f"sockperf printed no percentiles: {printed}")
    return {"p50": float(times["50.000"]), "p99": float(times["99.000"])}
