"""A packet of the stack beside the line that expects it: which fields differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from tap_harness.packetdrill.packetparser import ECN
from tap_harness.packetdrill.report import options_text
from tap_harness.packetdrill.script import Tcp, TcpOption, Udp
from tap_harness.packetdrill.wire import Got

_UDP = 17


class Shifts(Protocol):
    """What a number on the wire is more than the script's, of each side."""

    remote_port: int
    remote_shift: int
    local_shift: int
    ts_shift: int | None


def relative(got: Got, one: Shifts) -> Tcp:
    """A segment of the stack with the script's numbers."""
    mark = next(name for name, bits in ECN.items() if bits == got.ecn)
    return Tcp(
        False,
        got.flags,
        (got.seq - one.local_shift) % (1 << 32),
        len(got.data),
        (got.ack - one.remote_shift) % (1 << 32) if "." in got.flags else None,
        got.win,
        got.urg,
        tuple(_relative_option(option, one) for option in got.options),
        mark if got.ecn else None,
    )


def _relative_option(option: TcpOption, one: Shifts) -> TcpOption:
    name, *values = option
    if name == "sack":
        return (name, *(tuple((edge - one.remote_shift) % (1 << 32) for edge in block) for block in values))
    if name == "TS":
        return (name, (values[0] - (one.ts_shift or 0)) % (1 << 32), values[1])
    return option


def differences(wanted: Tcp | Udp, got: Got, one: Shifts, tolerance: int) -> list[tuple[str, str]]:
    """(field, what differs) of each field that is not as wanted. tolerance in ns, for timestamps too."""
    rows: list[tuple[str, Any, Any]] = []
    if not got.right:
        rows.append(("checksum", "right", "wrong"))
    if wanted.ecn is not None:
        allowed = (1, 2) if wanted.ecn == "ect01" else (ECN[wanted.ecn],)
        if got.ecn not in allowed:
            rows.append(("ECN", wanted.ecn, next(name for name, bits in ECN.items() if bits == got.ecn)))
    if isinstance(wanted, Udp):
        if got.protocol != _UDP:
            rows.append(("protocol", "UDP", "TCP" if got.is_tcp else got.protocol))
        elif len(got.data) != wanted.length:
            rows.append(("length", wanted.length, len(got.data)))
    elif not got.is_tcp:
        rows.append(("protocol", "TCP", "UDP" if got.protocol == _UDP else got.protocol))
    else:
        rows += _segment_rows(wanted, got, one, tolerance)
    return [(field, f"{first} expected, {second} got") for field, first, second in rows]


def _segment_rows(wanted: Tcp, got: Got, one: Shifts, tolerance: int) -> list[tuple[str, Any, Any]]:
    shown = relative(got, one)
    pairs = [
        ("peer's port", one.remote_port, got.dport),
        ("flags", wanted.flags or "-", shown.flags or "-"),
        ("seq", wanted.seq, shown.seq),
        ("length", wanted.length, shown.length),
        ("urg", wanted.urg, shown.urg),
    ]
    if wanted.ack is not None:
        pairs.append(("ack", wanted.ack, shown.ack))
    if wanted.win is not None:
        pairs.append(("win", wanted.win, shown.win))
    rows: list[tuple[str, Any, Any]] = [(field, first, second) for field, first, second in pairs if first != second]
    if wanted.options is not None and not _same_options(wanted.options, shown.options or (), tolerance):
        first, second = options_text(wanted.options), options_text(shown.options)
        rows.append(("options", f"<{first}>" if first else "none", f"<{second}>" if second else "none"))
    return rows


def _same_options(wanted: Sequence[TcpOption], got: Sequence[TcpOption], tolerance: int) -> bool:
    if len(wanted) != len(got):
        return False
    ticks = tolerance // 1_000_000  # the stack's timestamps are milliseconds
    for first, second in zip(wanted, got, strict=True):
        if first[0] == second[0] == "TS":
            apart = (first[1] - second[1] + (1 << 31)) % (1 << 32) - (1 << 31)
            if abs(apart) > ticks or first[2] != second[2]:
                return False
        elif first[0] == second[0] and first[0] in ("FO", "FOEXP") and first[1] is None:
            continue
        elif first != second:
            return False
    return True
