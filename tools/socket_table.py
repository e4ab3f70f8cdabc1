"""Writes docs/socket-table.md: all names of the socket module, and what ustack makes of each.

Options are tried on sockets of a stack and so cannot be wrong on the day this is run; functions, methods and flags are
from the tables here, which tests/unit/test_socket_table.py holds against the module. Run it after adding an option:

    python tools/socket_table.py docs/socket-table.md
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ustack

WORKS, KERNEL, REFUSED = "works", "the kernel's", "refused"

FUNCTIONS = {
    "socket": (
        WORKS,
        "AF_INET, AF_INET6, AF_PACKET; SOCK_STREAM, SOCK_DGRAM, SOCK_RAW; other families, `fileno=`: the kernel's",
    ),
    "create_connection": (WORKS, ""),
    "create_server": (WORKS, ""),
    "has_dualstack_ipv6": (WORKS, "what the stack says"),
    "getaddrinfo": (WORKS, "numeric, `localhost`, `stack.hosts`, `stack.resolver`"),
    "gethostbyname": (WORKS, "as getaddrinfo"),
    "gethostbyname_ex": (WORKS, "as getaddrinfo"),
    "gethostbyaddr": (WORKS, "by `stack.hosts`; else herror"),
    "getnameinfo": (WORKS, "by `stack.hosts`"),
    "getfqdn": (WORKS, "as gethostbyaddr"),
    "if_nameindex": (WORKS, "the stack's interfaces"),
    "if_nametoindex": (WORKS, "the stack's interfaces"),
    "if_indextoname": (WORKS, "the stack's interfaces"),
    "getdefaulttimeout": (WORKS, "of the process"),
    "setdefaulttimeout": (WORKS, "of the process"),
    "fromfd": (KERNEL, "a descriptor of the stack's is good for waiting only"),
    "dup": (KERNEL, "as fromfd"),
    "close": (KERNEL, "as fromfd"),
    "socketpair": (KERNEL, ""),
    "send_fds": (KERNEL, "AF_UNIX only"),
    "recv_fds": (KERNEL, "AF_UNIX only"),
    "gethostname": (KERNEL, ""),
    "sethostname": (KERNEL, ""),
    "getprotobyname": (KERNEL, "a table"),
    "getservbyname": (KERNEL, "a table"),
    "getservbyport": (KERNEL, "a table"),
    **dict.fromkeys(
        [
            "CMSG_LEN",
            "CMSG_SPACE",
            "htonl",
            "htons",
            "ntohl",
            "ntohs",
            "inet_aton",
            "inet_ntoa",
            "inet_ntop",
            "inet_pton",
        ],
        (KERNEL, "arithmetic"),
    ),
}

METHODS = {
    **dict.fromkeys(
        [
            "accept",
            "bind",
            "close",
            "connect",
            "connect_ex",
            "detach",
            "family",
            "getblocking",
            "getpeername",
            "getsockname",
            "getsockopt",
            "gettimeout",
            "listen",
            "makefile",
            "proto",
            "recv",
            "recv_into",
            "recvfrom",
            "recvfrom_into",
            "recvmsg",
            "recvmsg_into",
            "send",
            "sendall",
            "sendmsg",
            "sendto",
            "setblocking",
            "setsockopt",
            "settimeout",
            "shutdown",
            "timeout",
            "type",
        ],
        (WORKS, ""),
    ),
    "fileno": (
        WORKS,
        "made when first asked for; for waiting (select, poll, epoll, asyncio), not for reading and writing",
    ),
    "sendfile": (WORKS, "reads the file, or maps it with `zerocopy=True`; there is no sendfile(2)"),
    "get_inheritable": (WORKS, "False"),
    "set_inheritable": (REFUSED, "EOPNOTSUPP for True: the connection lives in this process"),
    "dup": (REFUSED, "EOPNOTSUPP: one connection has one socket object"),
    "sendmsg_afalg": (REFUSED, "OSError, as for every socket that is not AF_ALG"),
}

FLAGS = {
    "MSG_PEEK": (WORKS, ""),
    "MSG_DONTWAIT": (WORKS, ""),
    "MSG_WAITALL": (WORKS, ""),
    "MSG_TRUNC": (WORKS, "datagrams"),
    "MSG_CTRUNC": (WORKS, "in what recvmsg returns"),
    "MSG_MORE": (WORKS, ""),
    "MSG_NOSIGNAL": (WORKS, "always so: EPIPE, never SIGPIPE"),
    "MSG_OOB": (WORKS, "TCP's urgent data (RFC 6093)"),
    "MSG_FASTOPEN": (WORKS, "TCP's data in the SYN (RFC 7413)"),
    "MSG_ERRQUEUE": (WORKS, "recvmsg of datagram and raw sockets, after `IP_RECVERR`"),
    **dict.fromkeys(["MSG_CMSG_CLOEXEC", "MSG_CONFIRM", "MSG_DONTROUTE", "MSG_EOR"], ("ignored", "")),
}

# Names that look like options and are values, or belong to other families.
NOT_OPTIONS = ("IP_DEFAULT_", "IP_MAX_", "IPV6_RTHDR_TYPE_0", "SO_VM_", "SO_J1939_")
LEVELS = {"SO_": "SOL_SOCKET", "TCP_": "IPPROTO_TCP", "IP_": "IPPROTO_IP", "IPV6_": "IPPROTO_IPV6"}


def options() -> Iterator[tuple[str, str]]:
    """(level, name) of every option that this Python knows."""
    for prefix, level in LEVELS.items():
        for name in sorted(dir(socket)):
            if name.startswith(prefix) and not name.startswith(NOT_OPTIONS):
                yield level, name


ADDRESS, ADDRESS6, GROUP, GROUP6, SOURCE = "10.9.0.2", "fd09::2", "239.1.2.3", "ff12::123", "10.9.0.1"
KINDS = {"TCP": (socket.SOCK_STREAM, 0), "UDP": (socket.SOCK_DGRAM, 0), "raw": (socket.SOCK_RAW, 253)}
# What has to be set before an option can be.
FIRST = {
    "IP_DROP_MEMBERSHIP": "IP_ADD_MEMBERSHIP",
    "IPV6_LEAVE_GROUP": "IPV6_JOIN_GROUP",
    "IP_DROP_SOURCE_MEMBERSHIP": "IP_ADD_SOURCE_MEMBERSHIP",
    "IP_BLOCK_SOURCE": "IP_ADD_MEMBERSHIP",
    "IP_UNBLOCK_SOURCE": "IP_BLOCK_SOURCE",
}


def values(interface: int) -> dict[str, bytes]:
    """What options are set to that take no number, nor what reading them gives."""
    mreq = socket.inet_aton(GROUP) + socket.inet_aton(ADDRESS)
    mreq6 = socket.inet_pton(socket.AF_INET6, GROUP6) + struct.pack("=I", interface)
    sources = ("IP_ADD_SOURCE_MEMBERSHIP", "IP_DROP_SOURCE_MEMBERSHIP", "IP_BLOCK_SOURCE", "IP_UNBLOCK_SOURCE")
    return {
        "TCP_CONGESTION": b"reno",
        "SO_LINGER": struct.pack("ii", 1, 1),
        "SO_BINDTODEVICE": b"lo",
        **dict.fromkeys(("SO_RCVTIMEO", "SO_SNDTIMEO"), struct.pack("ll", 1, 0)),
        **dict.fromkeys(("IP_ADD_MEMBERSHIP", "IP_DROP_MEMBERSHIP"), mreq),
        **dict.fromkeys(("IPV6_JOIN_GROUP", "IPV6_LEAVE_GROUP"), mreq6),
        **dict.fromkeys(sources, mreq + socket.inet_aton(SOURCE)),
    }


def outcome(sock: Any, level: str, name: str, arguments: dict[str, bytes]) -> str:
    """What reading the option and setting it give: "get", "set", both, or the error."""
    can, failures = [], []
    value: Any = 1
    for size in (0, 256):
        try:
            value = sock.getsockopt(getattr(socket, level), getattr(socket, name), *((size,) if size else ()))
            can.append("get")
            break
        except OSError as error:
            failures.append(error)
    try:
        _set(sock, level, name, arguments, value)
        can.append("set")
    except OSError as error:
        failures.append(error)
    return " ".join(can) or errno.errorcode.get(failures[0].errno or 0, "?")


def _set(sock: Any, level: str, name: str, arguments: dict[str, bytes], value: Any) -> None:
    if name in FIRST and hasattr(socket, FIRST[name]):
        _set(sock, level, FIRST[name], arguments, value)
    sock.setsockopt(getattr(socket, level), getattr(socket, name), arguments.get(name, value))


def option_rows() -> Iterator[tuple[str, str, list[str]]]:
    """(level, option, what each of KINDS gives), by trying them."""
    with ustack.Stack(driver="manual") as stack:
        link = ustack.Callback(lambda frame: None, medium="ethernet")
        name = stack.attach(link, addresses=[f"{ADDRESS}/24", f"{ADDRESS6}/64"])
        arguments = values(next(one.index for one in stack.interfaces() if one.name == name))
        for level, option in options():
            row = []
            family = socket.AF_INET6 if level == "IPPROTO_IPV6" else socket.AF_INET
            for kind, proto in KINDS.values():
                with stack.socket(family, kind, proto) as sock:
                    row.append(outcome(sock, level, option, arguments))
            yield level, option, row


def table(heading: str, entries: dict[str, tuple[str, str]]) -> list[str]:
    lines = [f"## {heading}", "", "| name | ustack | remarks |", "|---|---|---|"]
    return [*lines, *(f"| `{name}` | {what} | {remark} |" for name, (what, remark) in sorted(entries.items())), ""]


HEAD = """\
# The socket module, name by name

What a stack makes of every function, method, option and flag of the socket module (Python 3.11 on Linux): of
`stack.socket_module`, of `socket` within `stack.patched()`, and of `ustack.Socket`. Exceptions, with their types and
errno, are the socket module's: `socket.timeout` is `TimeoutError`, `socket.error` is `OSError`, `gaierror` and `herror`
are the same objects. Constants are the platform's. [sockets.md](sockets.md) has what is different on purpose.

*works*: as documented for Python, on the stack. *the kernel's*: delegated, the same as without a stack. *refused*: with
the error named.

<!-- Made by tools/socket_table.py. -->
"""


def document() -> str:
    """The whole page."""
    lines = [HEAD, *table("Functions", FUNCTIONS), *table("Methods and attributes of a socket", METHODS)]
    lines += ["## Options", "", "What can be done with each: read (get) and written (set), or else the error.", ""]
    lines += [f"| level | option | {' | '.join(KINDS)} |", "|---|---|---|---|---|"]
    lines += [f"| `{level}` | `{name}` | {' | '.join(row)} |" for level, name, row in option_rows()]
    lines += ["", *table("Flags", FLAGS)]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(document(), encoding="utf-8")
