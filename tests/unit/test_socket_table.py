"""docs/socket-table.md: every name of the socket module has its row, and what is said to work does."""

from __future__ import annotations

import inspect
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


def test_options_do_what_the_page_says() -> None:
    pattern = re.compile(r"^\| `(\w+)` \| `(\w+)` \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)
    said = {match[2]: list(match.group(3, 4, 5)) for match in pattern.finditer(PAGE.read_text(encoding="utf-8"))}
    assert said["SO_RCVBUF"] == ["get set"] * 3
    found = {name: row for _, name, row in socket_table.option_rows()}
    wrong = {name: (said[name], row) for name, row in found.items() if said.get(name, row) != row}
    assert wrong == {}, "run: python tools/socket_table.py docs/socket-table.md"


def test_what_is_said_to_be_the_kernels_is() -> None:
    kernels = {name for name, (what, _) in socket_table.FUNCTIONS.items() if what == socket_table.KERNEL}
    with ustack.Stack(driver="manual") as stack:
        module = stack.socket_module
        for name in kernels & {name for name in dir(socket) if inspect.isbuiltin(getattr(socket, name))}:
            assert getattr(module, name) is getattr(socket, name)
        for one in module.socketpair():
            with one:
                assert not isinstance(one, ustack.Socket)
        for name, (what, _) in socket_table.FUNCTIONS.items():
            if what == socket_table.WORKS and not name.endswith("defaulttimeout"):
                assert getattr(module, name) is not getattr(socket, name)


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
