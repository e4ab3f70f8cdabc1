"""What is measured: for each case its rows (who), its loads (how) and its columns (what is told of it).

Bulk transfers are left to the scheduler, as they would be in use, and once more pinned to a core each; ping-pong is
pinned, because where the two processes are is what it measures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from bench import build, real, rigs, scale
from tap_harness import need
from tap_harness.netns import ROOT

GB = 1e9
AT_A_TIME = 32  # short connections
PING_SIZE = 64  # bytes
PEERS = ("lwip", "gvisor", "gvisor-offload", "pytcp")


@dataclass(frozen=True)
class Column:
    """One number of a row. digits after the point; compared: its ratio to the reference row is told too."""

    load: str
    metric: str
    title: str
    digits: int = 1
    compared: bool = False

    @property
    def key(self) -> str:
        return f"{self.load}.{self.metric}"


@dataclass(frozen=True, eq=False)
class Case:
    """rows: name -> title. measure(row, load, seconds) -> metrics. missing(row, load) -> reason or None: not here.

    without: (row, load) that make no sense anywhere.
    """

    name: str
    title: str
    rows: dict[str, str]
    loads: tuple[str, ...]
    columns: tuple[Column, ...]
    measure: Callable[[str, str, float], dict[str, float]]
    missing: Callable[[str, str], str | None]
    reference: str | None = None
    without: frozenset[tuple[str, str]] = frozenset()


def _titles(*names: str) -> dict[str, str]:
    return {name: rigs.CONTENDERS[name].title for name in names}


# -- bulk

UNPACED = "reno"  # a congestion control that every kernel has

BULK = (
    "kernel",
    "kernel-plain",
    "ustack",
    "ustack-offload",
    "ustack-native",
    "ustack-native-offload",
    *PEERS,
    "limit",
    "limit-offload",
)
PINNED = tuple(row for row in BULK if row not in ("kernel-plain", "lwip", "gvisor", "pytcp"))


def _bulk(
    row: str,
    load: str,
    seconds: float,
    cores: tuple[int | None, int | None] = (None, None),
    congestion: str | None = None,
) -> dict[str, float]:
    service, kind = {"in": ("sink", "send"), "out": ("source", "receive")}[load]
    found = rigs.load(row, service, (kind, seconds, 0), *cores, congestion)
    return {
        "gbit": found["bytes"] * 8 / found["seconds"] / GB,
        "server_cpu": found["server_cpu_seconds"] / (found["bytes"] / GB),
        "client_cpu": found["client_cpu_seconds"] / (found["bytes"] / GB),
    }


def _unpaced(row: str, load: str, seconds: float) -> dict[str, float]:
    """BBR, where it is the kernel's default, sends by a clock of its own and not as fast as it goes."""
    return _bulk(row, load, seconds, congestion=UNPACED)


def _pinned(row: str, load: str, seconds: float) -> dict[str, float]:
    return _bulk(row, load, seconds, rigs.cores("two"))


def _bulk_columns(load: str, arrow: str) -> tuple[Column, ...]:
    return (
        Column(load, "gbit", f"{arrow} Gbit/s", 2, compared=True),
        Column(load, "server_cpu", "server CPU s/GB", 2),
        Column(load, "client_cpu", "client CPU s/GB", 2),
    )


# -- ping-pong

BUSY = ("ustack-busy", "ustack-native-busy", "limit-busy")  # on two cores: on one, polling keeps the client from it
PING = (
    "kernel",
    "kernel-python",
    "ustack",
    "ustack-offload",
    "ustack-native",
    "ustack-native-offload",
    *PEERS,
    "limit",
    "limit-offload",
    *BUSY,
)


def _ping(row: str, load: str, seconds: float) -> dict[str, float]:
    found = rigs.load(row, "echo", ("ping", seconds, PING_SIZE), *rigs.cores(load))
    return {"p50": found["p50_us"], "p99": found["p99_us"]}


def _round_trips() -> tuple[Column, ...]:
    return (
        Column("one", "p50", "one core, median", 1, compared=True),
        Column("one", "p99", "p99", 1),
        Column("two", "p50", "two cores, median", 1, compared=True),
        Column("two", "p99", "p99", 1),
    )


# -- short connections

# row: (contender, service, title)
_SHORT = {
    "kernel": ("kernel", "short", "Linux over veth, server in C, epoll"),
    "kernel-python": ("kernel-python", "short", "Linux over veth, server in Python, one after the other"),
    "kernel-selector": ("kernel-python", "select", "Linux over veth, server in Python, selectors"),
    "ustack": ("ustack", "short", "ustack on a plain TAP, server in Python, one after the other"),
    "ustack-offload": ("ustack-offload", "short", "the same with offloads"),
    "ustack-selector": ("ustack", "select", "ustack on a plain TAP, server in Python, selectors"),
    "ustack-selector-own": ("ustack", "select-own", "ustack on a plain TAP, server in Python, Stack.selector()"),
    **{
        row: (row, "short", rigs.CONTENDERS[row].title)
        for row in ("ustack-native", "ustack-native-offload", *PEERS, "limit", "limit-offload")
    },
}
# Whom the client leaves first: a server that serves one after the other would wait for it each time.
_LEFT = ("kernel", "ustack-native", "ustack-native-offload", "lwip", "gvisor", "gvisor-offload", "limit")


def _connect(row: str, load: str, seconds: float) -> dict[str, float]:
    contender, service, _ = _SHORT[row]
    found = rigs.load(contender, service if load == "connect" else "reply", (load, seconds, AT_A_TIME))
    return {
        "rate": found["connections"] / found["seconds"],
        "p50": found["p50_us"] / 1000,
        "p99": found["p99_us"] / 1000,
        "failed": found["failed"],
        "server_cpu": found["server_cpu_seconds"] / max(found["connections"], 1) * 1e6,
    }


# -- real programs

# row: (contender, service, title)
_HTTP = {
    "kernel": ("kernel", "http", "Linux over veth, server in C, epoll"),
    "ustack-native": ("ustack-native", "http", "ustack on a plain TAP, native service"),
    "ustack-native-offload": ("ustack-native-offload", "http", "ustack on a TAP with offloads, native service"),
    "limit": ("limit", "http", "limit: TCP only faked, on a plain TAP"),
    "limit-offload": ("limit-offload", "http", "the same with offloads"),
    "kernel-python": ("kernel-python", "http", "Linux over veth, Python's http.server"),
    "ustack": ("ustack-verb", "http", "ustack serve (Python's http.server)"),
}
_HTTP_1_0 = ("kernel-python", "ustack")  # which closes after each answer as it is
# row: (contender, address of its server, title)
_IPERF3 = {
    "kernel": ("kernel-program", rigs.SERVER, "Linux over veth, iperf3 -s"),
    "ustack": ("ustack-verb", rigs.SERVER, "ustack iperf3 -s"),
    "kernel-6": ("kernel-program", rigs.SERVER6, "Linux over veth, IPv6"),
    "ustack-6": ("ustack-verb", rigs.SERVER6, "ustack iperf3 -s, IPv6"),
}
UDP_LENGTHS = {"bulk": 1400, "small": 64}  # bytes a datagram
_SOCKPERF = {
    "kernel": ("kernel-program", "Linux over veth, sockperf server"),
    "ustack": ("ustack", "ustack on a plain TAP, server in Python"),
}


def _wrk(row: str, load: str, seconds: float) -> dict[str, float]:
    contender, service, _ = _HTTP[row]
    return real.wrk(contender, service if load == "keep" or row in _HTTP_1_0 else "http-close", seconds)


def _iperf3_udp(row: str, load: str, seconds: float) -> dict[str, float]:
    contender, host, _ = _IPERF3[row]
    way, size = load.split("-")
    return real.iperf3_udp(contender, host, way, UDP_LENGTHS[size], seconds)


def _iperf3_missing(row: str, _load: str) -> str | None:
    return need.missing_program("iperf3") or rigs.missing(_IPERF3[row][0])


# -- in memory

# row: (module of the bench, its arguments, title)
_MEMORY = {
    "manual-1500": ("memory", ("manual", "1500"), "stacks, one thread for both, MTU 1500"),
    "manual-65535": ("memory", ("manual", "65535"), "stacks, one thread for both, MTU 65535"),
    "thread-1500": ("memory", ("thread", "1500"), "stacks, a thread for each, MTU 1500"),
    "thread-65535": ("memory", ("thread", "65535"), "stacks, a thread for each, MTU 65535"),
    "segments": ("pair", ("segments",), "engines, one stream, each segment of 1448 bytes"),
    "superframes": ("pair", ("superframes",), "engines, one stream, each superframe of up to 64 KB"),
    "round-trips": ("pair", ("ping",), "engines, each 64-byte round trip"),
    "connections": ("pair", ("connect",), "engines, each short connection"),
}


def _memory(row: str, _load: str, seconds: float) -> dict[str, float]:
    module, arguments, _ = _MEMORY[row]
    command = [sys.executable, "-m", f"bench.{module}", *arguments, str(seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode != 0:
        raise AssertionError(f"exit code {done.returncode} from {' '.join(command)}: {done.stderr}")
    found = json.loads(done.stdout)
    numbers = {}
    if found["bytes"]:
        numbers["gbit"] = found["bytes"] * 8 / found.get("seconds", found["cpu_seconds"]) / GB
        numbers["cpu"] = found["cpu_seconds"] / (found["bytes"] / GB)
    if "each" in found:
        numbers["each"] = found["cpu_seconds"] / found["each"] * 1e9
    return numbers


def _memory_missing(row: str, _load: str) -> str | None:
    if _MEMORY[row][0] == "pair":
        try:
            build.engines()
        except build.CannotBuild as error:
            return str(error)
    return None


# -- many connections

# row: (kind of measurement, its number, title)
_SCALE = {
    f"{kind}-{number}": (kind, number, title)
    for kind, number, title in (
        *(("engine", count, f"virtual time, {count:,}") for count in (10, 1000, 100_000, 1_000_000)),
        *(("instructions", count, f"virtual time, callgrind, {count:,}") for count in (1000, 1_000_000)),
        ("sockets", 100_000, "held by a program as Python sockets, 100,000"),
        ("tap", 10_000, "kernel clients on a plain TAP, 10,000"),
        ("tap", 200_000, "kernel clients on a plain TAP, 200,000"),
        ("flood", 2, "one stream on a plain TAP in a flood of SYNs"),
    )
}


def _scale(row: str, _load: str, _seconds: float) -> dict[str, float]:
    kind, number, _ = _SCALE[row]
    return scale.apart(kind, number)


def _scale_missing(row: str, _load: str) -> str | None:
    kind, _, _ = _SCALE[row]
    return rigs.missing("ustack") if kind in ("tap", "flood") else scale.missing(kind)


CASES = {
    case.name: case
    for case in (
        Case(
            "bulk",
            f"TCP, one stream, MTU {rigs.MTU}; the client is the kernel's TCP",
            _titles(*BULK),
            ("in", "out"),
            (*_bulk_columns("in", "client→server"), *_bulk_columns("out", "server→client")),
            _bulk,
            lambda row, _load: rigs.missing(row),
            reference=rigs.KERNEL,
        ),
        Case(
            "pinned",
            "the same, client and server pinned to a core each",
            _titles(*PINNED),
            ("in", "out"),
            (*_bulk_columns("in", "client→server"), *_bulk_columns("out", "server→client")),
            _pinned,
            lambda row, _load: rigs.no_core("two") or rigs.missing(row),
            reference=rigs.KERNEL,
        ),
        Case(
            "unpaced",
            f"one stream to the server as before, the client's congestion control {UNPACED}, which does not pace",
            _titles(*BULK),
            ("in",),
            _bulk_columns("in", "client→server"),
            _unpaced,
            lambda row, _load: rigs.missing(row),
            reference=rigs.KERNEL,
        ),
        Case(
            "ping",
            f"{PING_SIZE}-byte ping-pong, µs a round trip; client and server pinned",
            _titles(*PING),
            ("one", "two"),
            _round_trips(),
            _ping,
            lambda row, load: rigs.no_core(load) or rigs.missing(row),
            reference=rigs.KERNEL,
            without=frozenset((row, "one") for row in BUSY),
        ),
        Case(
            "connect",
            f"short connections (connect, 1 byte each way, close), {AT_A_TIME} at a time",
            {row: title for row, (_, _, title) in _SHORT.items()},
            ("connect", "leave"),
            (
                Column("connect", "rate", "connections/s", 0, compared=True),
                Column("connect", "p50", "median ms", 2),
                Column("connect", "p99", "p99 ms", 2),
                Column("connect", "server_cpu", "server CPU µs each", 1),
                Column("connect", "failed", "failed", 0),
                Column("leave", "rate", "client closes first: connections/s", 0, compared=True),
                Column("leave", "p99", "p99 ms", 2),
                Column("leave", "failed", "failed", 0),
            ),
            _connect,
            lambda row, _load: rigs.missing(_SHORT[row][0]),
            reference=rigs.KERNEL,
            without=frozenset((row, "leave") for row in _SHORT if row not in _LEFT),
        ),
        Case(
            "http",
            f"HTTP: wrk with {real.CONNECTIONS} connections, an answer of 128 bytes",
            {row: title for row, (_, _, title) in _HTTP.items()},
            ("keep", "close"),
            (
                Column("keep", "rate", "kept connections: requests/s", 0, compared=True),
                Column("keep", "p50", "median ms", 2),
                Column("keep", "p99", "p99 ms", 2),
                Column("keep", "server_cpu", "server CPU µs each", 1),
                Column("keep", "failed", "failed", 0),
                Column("close", "rate", "a connection each: requests/s", 0, compared=True),
                Column("close", "p99", "p99 ms", 2),
                Column("close", "server_cpu", "server CPU µs each", 1),
                Column("close", "failed", "failed", 0),
            ),
            _wrk,
            lambda row, _load: need.missing_program("wrk") or rigs.missing(_HTTP[row][0]),
            reference=rigs.KERNEL,
            without=frozenset((row, "keep") for row in _HTTP_1_0),
        ),
        Case(
            "iperf3",
            "iperf3, one stream",
            {row: title for row, (_, _, title) in _IPERF3.items()},
            ("in", "out"),
            (
                Column("in", "gbit", "client→server Gbit/s", 2, compared=True),
                Column("in", "server_cpu", "server CPU s/GB", 2),
                Column("out", "gbit", "server→client Gbit/s", 2, compared=True),
                Column("out", "server_cpu", "server CPU s/GB", 2),
            ),
            lambda row, load, seconds: real.iperf3(*_IPERF3[row][:2], load, seconds),
            _iperf3_missing,
            reference=rigs.KERNEL,
        ),
        Case(
            "iperf3-udp",
            "iperf3 -u, one stream as fast as it goes: what arrives",
            {row: title for row, (_, _, title) in _IPERF3.items()},
            ("in-bulk", "out-bulk", "in-small", "out-small"),
            (
                Column("in-bulk", "gbit", f"client→server, {UDP_LENGTHS['bulk']} bytes, Gbit/s", 2, compared=True),
                Column("in-bulk", "lost", "lost %", 1),
                Column("in-bulk", "server_cpu", "server CPU µs each", 2),
                Column("out-bulk", "gbit", "server→client Gbit/s", 2, compared=True),
                Column("out-bulk", "server_cpu", "server CPU µs each", 2),
                Column("in-small", "rate", f"client→server, {UDP_LENGTHS['small']} bytes, 1/s", 0, compared=True),
                Column("in-small", "lost", "lost %", 1),
                Column("out-small", "rate", "server→client 1/s", 0, compared=True),
            ),
            _iperf3_udp,
            _iperf3_missing,
            reference=rigs.KERNEL,
        ),
        Case(
            "sockperf",
            f"sockperf ping-pong over TCP, {real.MESSAGE} bytes, µs a round trip; client and server pinned",
            {row: title for row, (_, title) in _SOCKPERF.items()},
            ("one", "two"),
            _round_trips(),
            lambda row, load, seconds: real.sockperf(_SOCKPERF[row][0], load, seconds),
            lambda row, load: need.missing_program("sockperf") or rigs.no_core(load) or rigs.missing(_SOCKPERF[row][0]),
            reference=rigs.KERNEL,
        ),
        Case(
            "memory",
            "in memory, no device: two stacks over ustack.pipe() with Python sockets, one stream; two engines in one "
            "thread of C",
            {row: title for row, (_, _, title) in _MEMORY.items()},
            ("copy",),
            (
                Column("copy", "gbit", "Gbit/s", 2, compared=True),
                Column("copy", "cpu", "CPU s/GB, both", 3),
                Column("copy", "each", "ns each, both", 0, compared=True),
            ),
            _memory,
            _memory_missing,
        ),
        Case(
            "scale",
            "many connections: idle, and with a request and its echo on one after the other, in random order",
            {row: title for row, (_, _, title) in _SCALE.items()},
            ("held",),
            (
                Column("held", "bytes", "bytes an idle connection", 0),
                Column("held", "open_us", "µs to open", 2),
                Column("held", "packet_ns", "CPU ns a packet", 0, compared=True),
                Column("held", "packet_instructions", "instructions a packet, clients' included", 0),
                Column("held", "ping_ratio", "ping, × that with none", 2),
                Column("held", "share", "bulk, × that in junk", 2),
            ),
            _scale,
            _scale_missing,
        ),
    )
}
