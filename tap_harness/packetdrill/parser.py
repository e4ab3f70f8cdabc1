"""The language's outer half: options, times, and which kind of event it is."""

from __future__ import annotations

import ast
import re
import textwrap

from tap_harness.packetdrill import packetparser
from tap_harness.packetdrill.callparser import parse_call
from tap_harness.packetdrill.scanner import Scanner
from tap_harness.packetdrill.script import Action, Call, Code, Command, Event, Script, SyntaxFault, When

_TIME = r"[0-9]{1,9}(?:\.(?!\.)[0-9]*)?|\.(?!\.)[0-9]+"
_OPTION = re.compile(r"--([a-z_0-9]+)(?:=(.*))?$")


def parse(text: str, name: str = "script") -> Script:
    """Read a script. Raises SyntaxFault."""
    scan = Scanner(text, name)
    script = Script(name)
    while scan.looks_at("--"):
        _option(scan, script)
    try:
        while not scan.done:
            script.events.append(_event(scan))
    except RecursionError:
        scan.fail("nested too deep")
    return script


def _option(scan: Scanner, script: Script) -> None:
    start = scan.at
    written = scan.need(r"--[^\s]*", "an option")
    found = _OPTION.match(written)
    if found is None:
        scan.fail(f"{written!r} is not --option=value", start)
    script.options[found[1]] = (found[2] or "").strip("\"'")


def _event(scan: Scanner) -> Event:
    start, line = scan.at, scan.line
    when, end = (When(0, True), None) if scan.looks_at("`") else _when(scan)
    begin = scan.at
    action = _action(scan)
    if end is not None:
        if not isinstance(action, Call):
            scan.fail("only a system call has an end time (start...end)", begin)
        action = Call(action.name, action.arguments, action.result, action.error, end)
    written = " ".join(scan.text[start : scan.end].split())
    return Event(line, written, when, action)


def _when(scan: Scanner) -> tuple[When, int | None]:
    """The time of an event, and the end of a blocking call."""
    if scan.take(r"\*"):
        return When(None), None
    start = scan.at
    relative = scan.take(r"\+") is not None
    if relative and scan.looks_at("~"):
        first = 0
    else:
        first = _time(scan)
    if scan.take("~"):
        if relative != (scan.take(r"\+") is not None):
            scan.fail("both ends of a time range are absolute, or both relative: +a~+b")
        last = _time(scan)
        if last < first:
            scan.fail("the time range ends before it begins", start)
        return When(first, relative, last), None
    if scan.take(r"\.\.\."):
        scan.take(r"\+")
        end = _time(scan)
        if end < first:
            scan.fail("the call ends before it begins", start)
        return When(first, relative), end
    return When(first, relative), None


def _time(scan: Scanner) -> int:
    return round(float(scan.need(_TIME, "a time (0.1, +.1, *)")) * 1e9)


def _action(scan: Scanner) -> Action:
    if scan.looks_at("[<>]"):
        return packetparser.parse_packet(scan)
    if scan.looks_at("`"):
        written = scan.need(r"`[^`]*`", "the closing ` of a command")
        return Command(" ".join(written[1:-1].split()))
    if scan.looks_at("%{"):
        return _code(scan)
    if scan.looks_at("[A-Za-z_]"):
        return parse_call(scan)
    raise scan.fault("expected < or > and a packet, a system call, `a command` or %{ Python }%")


def _code(scan: Scanner) -> Code:
    line = scan.line
    body = scan.need(r"%\{.*?\}%", "the closing }% of Python code")[2:-2]
    first, _, rest = body.partition("\n")
    text = (first.strip() + "\n" if first.strip() else "\n") + textwrap.dedent(rest)
    try:
        ast.parse(text)
    except SyntaxError as error:
        at = line + (error.lineno or 1) - 1
        raise SyntaxFault(scan.name, at, max(error.offset or 1, 1), f"{error.msg} (Python)") from None
    except ValueError as error:
        raise SyntaxFault(scan.name, line, 1, f"{error} (Python)") from None
    return Code(text, line)
