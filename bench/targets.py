"""What was set out to be reached, as ratios within one run, and whether it was. No opinion beyond that."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

Where = tuple[str, str, str]  # case, row, key of a column

BULK = ("bulk", "ustack-native-offload")
PYTHON = ("bulk", "ustack-offload")
PLAIN = ("bulk", "ustack-native")
PING = ("ping", "ustack-native")
BUSY = ("ping", "ustack-native-busy")
SHORT = ("connect", "ustack-native")
HTTP = ("http", "ustack-native")


@dataclass(frozen=True)
class Target:
    """The median at `what` is to be at least (or at most) `bound` times that at `to`; without `to`, that much itself.

    sign: "≥" or "≤".
    """

    group: str
    text: str
    what: Where
    sign: str
    bound: float
    to: Where | None = None


def _both(group: str, text: str, row: tuple[str, str], sign: str, bound: float, to: str, of: str) -> list[Target]:
    arrows = {"in": "kernel→stack", "out": "stack→kernel"}
    return [
        Target(group, f"{text}, {arrow}", (*row, f"{load}.{of}"), sign, bound, (row[0], to, f"{load}.{of}"))
        for load, arrow in arrows.items()
    ]


def _unpaced(group: str, text: str, row: str, bound: float, to: str) -> Target:
    return Target(group, f"{text}, kernel→stack", ("unpaced", row, "in.gbit"), "≥", bound, ("unpaced", to, "in.gbit"))


G1, G2 = "bulk, TAP with offloads", "bulk, plain TAP"
G1R, G2R = (f"{group}, a client that does not pace" for group in (G1, G2))
G3, G4 = "ping-pong", "short connections, HTTP"
G5 = "IPv6"
G6 = "in memory"

TARGETS = (
    Target(G1, "× Linux, stack→kernel", (*BULK, "out.gbit"), "≥", 1.4, ("bulk", "kernel", "out.gbit")),
    Target(G1, "× the limit, stack→kernel", (*BULK, "out.gbit"), "≥", 0.75, ("bulk", "limit-offload", "out.gbit")),
    Target(G1, "× Linux, kernel→stack", (*BULK, "in.gbit"), "≥", 0.75, ("bulk", "kernel", "in.gbit")),
    Target(G1, "× the limit, kernel→stack", (*BULK, "in.gbit"), "≥", 1.0, ("bulk", "limit-offload", "in.gbit")),
    *_both(G1, "× gVisor", BULK, "≥", 1.8, "gvisor-offload", "gbit"),
    *_both(G1, "CPU per GB, × the limit's", BULK, "≤", 1.4, "limit-offload", "server_cpu"),
    *_both(G1, "a Python program, × the native service", PYTHON, "≥", 0.9, "ustack-native-offload", "gbit"),
    _unpaced(G1R, "× Linux", "ustack-native-offload", 0.75, "kernel"),
    _unpaced(G1R, "× the limit", "ustack-native-offload", 1.0, "limit-offload"),
    _unpaced(G1R, "× gVisor", "ustack-native-offload", 1.8, "gvisor-offload"),
    _unpaced(G1R, "a Python program, × the native service", "ustack-offload", 0.9, "ustack-native-offload"),
    *_both(G2, "× the limit", PLAIN, "≥", 0.9, "limit", "gbit"),
    _unpaced(G2R, "× the limit", "ustack-native", 0.9, "limit"),
    *_both(G2, "× lwIP", PLAIN, "≥", 1.0, "lwip", "gbit"),
    Target(G3, "one core, × Linux", (*PING, "one.p50"), "≤", 0.85, ("ping", "kernel", "one.p50")),
    Target(G3, "one core, × the limit", (*PING, "one.p50"), "≤", 1.1, ("ping", "limit", "one.p50")),
    Target(G3, "one core, p99 × Linux's", (*PING, "one.p99"), "≤", 1.0, ("ping", "kernel", "one.p99")),
    Target(G3, "two cores, busy-polled, × Linux", (*BUSY, "two.p50"), "≤", 0.5, ("ping", "kernel", "two.p50")),
    Target(G3, "two cores, busy-polled, p99 × Linux's", (*BUSY, "two.p99"), "≤", 1.0, ("ping", "kernel", "two.p99")),
    Target(
        G3, "Python echo, one core, × the same on kernel sockets", ("ping", "ustack", "one.p50"), "≤", 1.3,
        ("ping", "kernel-python", "one.p50"),
    ),
    Target(G4, "connections/s, × Linux", (*SHORT, "connect.rate"), "≥", 1.7, ("connect", "kernel", "connect.rate")),
    Target(G4, "connections/s, × lwIP", (*SHORT, "connect.rate"), "≥", 1.0, ("connect", "lwip", "connect.rate")),
    Target(
        G4, "connections/s where the client closes first, × lwIP", (*SHORT, "leave.rate"), "≥", 1.0,
        ("connect", "lwip", "leave.rate"),
    ),
    Target(G4, "p99, × Linux's", (*SHORT, "connect.p99"), "≤", 1.0, ("connect", "kernel", "connect.p99")),
    Target(G4, "HTTP, kept connections, × Linux", (*HTTP, "keep.rate"), "≥", 1.5, ("http", "kernel", "keep.rate")),
    Target(G4, "HTTP, a connection each, × Linux", (*HTTP, "close.rate"), "≥", 1.5, ("http", "kernel", "close.rate")),
    *_both(G5, "iperf3, × the same over IPv4", ("iperf3", "ustack-6"), "≥", 0.95, "ustack", "gbit"),
    Target(G6, "Gbit/s in segments of the MSS", ("memory", "segments", "copy.gbit"), "≥", 20.0),
    Target(G6, "Gbit/s in superframes", ("memory", "superframes", "copy.gbit"), "≥", 100.0),
)  # fmt: skip


def judge(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each target whose subject was measured for in this run: its figure and whether it is met; None: unknown.

    cases: those of a report. A target whose case was not run is left out.
    """
    medians = {
        (case["name"], row["name"], key): number["median"]
        for case in cases
        for row in case["rows"]
        for key, number in row["numbers"].items()
    }
    run = {(case["name"], row["name"]) for case in cases for row in case["rows"]}
    return [_judged(target, medians) for target in TARGETS if target.what[:2] in run]


def _judged(target: Target, medians: dict[Where, float]) -> dict[str, Any]:
    figure = medians.get(target.what)
    if figure is not None and target.to is not None:
        base = medians.get(target.to)
        figure = figure / base if base else None
    compare = operator.ge if target.sign == "≥" else operator.le
    return {
        "group": target.group,
        "target": target.text,
        "wanted": f"{target.sign} {target.bound:g}",
        "figure": figure,
        "met": None if figure is None else compare(figure, target.bound),
    }


def told(judged: dict[str, Any]) -> list[str]:
    """The cells of a line of the table."""
    figure = "–" if judged["figure"] is None else f"{judged['figure']:.2f}"
    verdict = {True: "met", False: "missed", None: "not measured"}[judged["met"]]
    return [f"{judged['group']}: {judged['target']}", judged["wanted"], figure, verdict]


HEAD = ["target", "wanted", "here", ""]
