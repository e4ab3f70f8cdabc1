"""docs/socket-table.md: every name of the socket module has its row, and what is said to work does."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

import ustack
from tools import socket_table

PAGE = Path(__file__).parents[2] / "docs" / "socket-table.md"


def rows() -> set[str]:
    return set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))


def functions() -> set[str]:
    """The module's functions, as its own __all__ has them."""
    names = {name for name in socket.__all__ if callable(getattr(socket, name, None))}
    return {name for name in names if not isinstance(getattr(socket, name), type)} | {"socket"}


def test_every_function_method_and_flag_is_there() -> None:
    methods = {name for name in dir(socket.socket) if not name.startswith("_")}
    flags = {name for name in dir(socket) if name.startswith("MSG_")}
    newer = {"MSG_ZEROCOPY"} if "MSG_ZEROCOPY" not in socket_table.FLAGS else set()
    assert functions() <= set(socket_table.FUNCTIONS)
    assert methods <= set(socket_table.METHODS)
    assert flags - newer <= set(socket_table.FLAGS)
    assert {*socket_table.FUNCTIONS, *socket_table.METHODS, *socket_table.FLAGS} <= rows()


def test_every_option_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    missing = [name for _, name in socket_table.options() if f"`{name}`" not in text]
    known = {"IP_PKTINFO", "IP_RECVTTL", "IP_UNBLOCK_SOURCE", "IP_BLOCK_SOURCE", "IP_ADD_SOURCE_MEMBERSHIP"}
    known |= {"IP_DROP_SOURCE_MEMBERSHIP", "SO_ORIGINAL_DST", "SO_BINDTOIFINDEX", "SO_RTABLE", "SO_USER_COOKIE"}
    assert set(missing) <= known, "run: python tools/socket_table.py docs/socket-table.md"


@pytest.mark.parametrize("kind", [2, 3])
def test_options_that_are_said_to_work_do(kind: int) -> None:
    pattern = re.compile(r"^\| `(\w+)` \| `(\w+)` \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)
    said = {match[2]: match[kind + 1] for match in pattern.finditer(PAGE.read_text(encoding="utf-8"))}
    assert "SO_RCVBUF" in said
    found = {name: row[kind - 2] for _, name, *row in socket_table.option_rows()}
    able = {"get", "set"}
    lost = {
        name: found[name]
        for name, what in said.items()
        if name in found and not set(what.split()) & able <= set(found[name].split())
    }
    assert lost == {}, "what is able to do less than the page says"


def test_what_a_socket_has() -> None:
    missing = [name for name in socket_table.METHODS if not hasattr(ustack.Socket, name)]
    assert missing == []
    assert ustack.timeout is socket.timeout is TimeoutError
    with ustack.Stack(driver="manual") as stack, stack.socket() as sock:
        with pytest.raises(OSError, match="AF_ALG"):
            sock.sendmsg_afalg(op=0)
        for refused in (sock.dup, lambda: sock.set_inheritable(True)):
            with pytest.raises(OSError):
                refused()
