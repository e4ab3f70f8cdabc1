"""What is measured: for each case its rows (who), its loads (how) and its columns (what is told of it).

Bulk transfers are left to the scheduler, as they would be in use; ping-pong is pinned, because where the two processes
are is what it measures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from bench import build, rigs
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


def _bulk(row: str, load: str, seconds: float) -> dict[str, float]:
    service, kind = {"in": ("sink", "send"), "out": ("source", "receive")}[load]
    found = rigs.load(row, service, (kind, seconds, 0))
    return {
        "gbit": found["bytes"] * 8 / found["seconds"] / GB,
        "server_cpu": found["server_cpu_seconds"] / (found["bytes"] / GB),
        "client_cpu": found["client_cpu_seconds"] / (found["bytes"] / GB),
    }


def _bulk_columns(load: str, arrow: str) -> tuple[Column, ...]:
    return (
        Column(load, "gbit", f"{arrow} Gbit/s", 2, compared=True),
        Column(load, "server_cpu", "server CPU s/GB", 2),
        Column(load, "client_cpu", "client CPU s/GB", 2),
    )


# -- ping-pong


def _ping(row: str, load: str, seconds: float) -> dict[str, float]:
    first, *others = rigs.cpus()
    server = first if load == "one" else others[0]
    found = rigs.load(row, "echo", ("ping", seconds, PING_SIZE), client_cpu=first, server_cpu=server)
    return {"p50": found["p50_us"], "p99": found["p99_us"]}


def _ping_missing(row: str, load: str) -> str | None:
    if load == "two" and len(rigs.cpus()) < 2:
        return "this machine has one CPU"
    return rigs.missing(row)


# -- short connections

# row: (contender, service, title)
_SHORT = {
    "kernel": ("kernel", "short", "Linux over veth, server in C, epoll"),
    "kernel-python": ("kernel-python", "short", "Linux over veth, server in Python, one after the other"),
    "ustack": ("ustack", "short", "ustack on a plain TAP, server in Python, one after the other"),
    "ustack-offload": ("ustack-offload", "short", "the same with offloads"),
    "kernel-selector": ("kernel-python", "select", "Linux over veth, server in Python, selectors"),
    "ustack-selector": ("ustack", "select", "ustack on a plain TAP, server in Python, selectors"),
    "lwip": ("lwip", "short", "lwIP on a plain TAP, server in C"),
    "gvisor": ("gvisor", "short", "gVisor netstack on a plain TAP, server in Go"),
    "gvisor-offload": ("gvisor-offload", "short", "the same with offloads"),
    "pytcp": ("pytcp", "short", "pmd-pytcp (pure Python) on a plain TAP, server in Python"),
    "limit": ("limit", "short", "limit: TCP only faked, on a plain TAP"),
    "limit-offload": ("limit-offload", "short", "the same with offloads"),
}


def _connect(row: str, _load: str, seconds: float) -> dict[str, float]:
    contender, service, _ = _SHORT[row]
    found = rigs.load(contender, service, ("connect", seconds, AT_A_TIME))
    return {
        "rate": found["connections"] / found["seconds"],
        "p50": found["p50_us"] / 1000,
        "p99": found["p99_us"] / 1000,
        "failed": found["failed"],
        "server_cpu": found["server_cpu_seconds"] / max(found["connections"], 1) * 1e6,
    }


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


CASES = {
    case.name: case
    for case in (
        Case(
            "bulk",
            f"TCP, one stream, MTU {rigs.MTU}; the client is the kernel's TCP",
            _titles("kernel", "kernel-plain", "ustack", "ustack-offload", *PEERS, "limit", "limit-offload"),
            ("in", "out"),
            (*_bulk_columns("in", "client→server"), *_bulk_columns("out", "server→client")),
            _bulk,
            lambda row, _load: rigs.missing(row),
            reference=rigs.KERNEL,
        ),
        Case(
            "ping",
            f"{PING_SIZE}-byte ping-pong, µs a round trip; client and server pinned",
            _titles(
                "kernel", "kernel-python", "ustack", "ustack-offload", *PEERS, "limit", "limit-offload", "limit-busy"
            ),
            ("one", "two"),
            (
                Column("one", "p50", "one core, median", 1, compared=True),
                Column("one", "p99", "p99", 1),
                Column("two", "p50", "two cores, median", 1, compared=True),
                Column("two", "p99", "p99", 1),
            ),
            _ping,
            _ping_missing,
            reference=rigs.KERNEL,
            # On one core polling only keeps the client from running.
            without=frozenset({("limit-busy", "one")}),
        ),
        Case(
            "connect",
            f"short connections (connect, 1 byte each way, close), {AT_A_TIME} at a time",
            {row: title for row, (_, _, title) in _SHORT.items()},
            ("short",),
            (
                Column("short", "rate", "connections/s", 0, compared=True),
                Column("short", "p50", "median ms", 2),
                Column("short", "p99", "p99 ms", 2),
                Column("short", "server_cpu", "server CPU µs each", 1),
                Column("short", "failed", "failed", 0),
            ),
            _connect,
            lambda row, _load: rigs.missing(_SHORT[row][0]),
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
    )
}
