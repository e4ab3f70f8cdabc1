"""System calls as the language writes them: `setsockopt(3, SOL_SOCKET, SO_REUSEADDR, [1], 4) = 0`."""

from __future__ import annotations

import ast
import errno
import fcntl
import os
import select
import socket
from typing import Any

from tap_harness.packetdrill.scanner import Scanner
from tap_harness.packetdrill.script import ANY, Call

CALLS = (
    "socket", "bind", "listen", "accept", "accept4", "connect", "read", "write", "send", "recv", "sendto",
    "recvfrom", "close", "shutdown", "setsockopt", "getsockopt", "fcntl", "poll", "ioctl", "epoll_create",
    "epoll_create1", "epoll_ctl", "epoll_wait", "sendmsg", "recvmsg", "writev", "readv",
)  # fmt: skip
_NUMBERS = {
    "SOL_TCP": 6, "SOL_IP": 0, "SOL_UDP": 17, "F_GETFL": fcntl.F_GETFL, "F_SETFL": fcntl.F_SETFL, "INADDR_ANY": 0,
    "SO_ZEROCOPY": 60, "SO_MAX_PACING_RATE": 47, "IP_MTU": 14, "IP_MTU_DISCOVER": 10, "TCP_INQ": 36,
    "SIOCINQ": 0x541B, "FIONREAD": 0x541B, "SIOCOUTQ": 0x5411, "SIOCOUTQNSD": 0x894B, "IP_RECVERR": 11,
    "SIOCATMARK": 0x8905,
    "MSG_FASTOPEN": 0x20000000, "TCP_TIMESTAMP": 24, "TCP_FASTOPEN_NO_COOKIE": 34, "TCP_FASTOPEN": 23,
    "TCP_NOTSENT_LOWAT": 25, "TCP_FASTOPEN_CONNECT": 30, "EPOLL_CTL_ADD": 1, "EPOLL_CTL_DEL": 2,
    "EPOLL_CTL_MOD": 3,
}  # fmt: skip
_PREFIXES = ("AF_", "PF_", "SOCK_", "SOL_", "SO_", "IPPROTO_", "TCP_", "IP_", "MSG_", "SHUT_", "POLL", "EPOLL", "O_")


def symbol(name: str) -> int | None:
    """The number behind one of the platform's names, or None."""
    if name in _NUMBERS:
        return _NUMBERS[name]
    if name.startswith("PF_"):
        name = "AF_" + name[3:]
    if not name.startswith(_PREFIXES):
        return None
    for module in (socket, select, os):
        if isinstance(value := getattr(module, name, None), int):
            return int(value)
    return None


def parse_call(scan: Scanner) -> Call:
    """A system call and its result, from its name on. Raises SyntaxFault."""
    start = scan.at
    name = scan.need("[a-z_][a-z_0-9]*|[A-Za-z_]+", "a system call")
    if name not in CALLS:
        scan.fail(f"{name!r} is no system call known here ({', '.join(CALLS)})", start)
    scan.need(r"\(", "( after a system call")
    arguments = _list(scan, r"\)", ")")
    scan.need("=", "= and the result of the system call")
    if scan.take(r"\.\.\."):
        return Call(name, tuple(arguments), ANY)
    result = _expression(scan)
    if not isinstance(result, int):
        scan.fail("the result of a system call is a number or ...", start)
    error = None
    if result == -1:
        at = scan.at
        error = scan.need("E[A-Z0-9]+", "the name of the error (-1 EAGAIN)")
        if not isinstance(getattr(errno, error, None), int):
            scan.fail(f"{error!r} is no error of this platform", at)
        scan.take(r"\([^)\n]*\)")
    return Call(name, tuple(arguments), result, error)


def _list(scan: Scanner, end: str, name: str) -> list[Any]:
    found: list[Any] = []
    while not scan.take(end):
        if found:
            scan.need(",", f", or {name}")
        found.append(_expression(scan))
    return found


def _expression(scan: Scanner) -> Any:
    """Numbers, names, a | b, "text", [list], {field = value}, htons(n), inet_addr("a.b.c.d"), ... (as ANY)."""
    value = _term(scan)
    while scan.take(r"\|"):
        other = _term(scan)
        if not (isinstance(value, int) and isinstance(other, int)):
            scan.fail("| joins numbers")
        value |= other
    return value


def _term(scan: Scanner) -> Any:
    if scan.take(r"\.\.\."):
        return ANY
    if scan.looks_at("-?[0-9]"):
        sign = -1 if scan.take("-") else 1
        return sign * scan.number("a number", 1 << 64)
    if scan.looks_at('"'):
        start = scan.at
        written = scan.need(r'"(?:[^"\\\n]|\\.)*"', 'the closing " of a text')
        try:
            return ast.literal_eval("b" + written)
        except (SyntaxError, ValueError):
            scan.fail("this text has an escape or a character that is not of C", start)
    if scan.take(r"\["):
        return _list(scan, r"\]", "]")
    if scan.take(r"\{"):
        return _struct(scan)
    start = scan.at
    name = scan.need(r"[A-Za-z_][A-Za-z_0-9]*", "an argument")
    if scan.take(r"\("):
        inner = _list(scan, r"\)", ")")
        if len(inner) == 1 and name in ("htons", "htonl", "inet_addr"):
            return inner[0]
        scan.fail(f"{name}() is not known here (htons, htonl, inet_addr)", start)
    value = symbol(name)
    if value is None:
        scan.fail(f"{name!r} is not a name known here", start)
    return value


def _struct(scan: Scanner) -> dict[str, Any]:
    """{name = value, …}; values without a name are called 0, 1, …"""
    found: dict[str, Any] = {}
    while not scan.take(r"\}"):
        if found:
            scan.need(",", ", or }")
        name = str(len(found))
        if scan.looks_at(r"\.?[a-z_][A-Za-z_0-9.]*(\((\d+|\.\.\.)\))?\s*="):
            name = scan.need(r"\.?[a-z_][A-Za-z_0-9.]*", "a field").lstrip(".")
            name += scan.take(r"\((\d+|\.\.\.)\)") or ""  # msg_iov(2)=
            scan.need("=", "=")
        found[name] = _expression(scan)
    return found
