"""The control socket of a running stack: a Unix socket over which `ustack ss`, `addr`, `route`, … ask what the stack
knows and change it, in JSON lines.

Responsible for: where that socket lives, who may use it, the question and the answer. Not for: deciding what a
connection looks like (Stack.connections()), or what a change does (Stack's methods).

A client sends one line, {"ask": WHAT} with one of _QUESTIONS, or {"change": METHOD, "arguments": {…}} with one of
_CHANGES; the answer is one line about the stack ({"pid", "device", "addresses"}), then one line for each thing asked
for, then end of file; or one line {"error": TEXT}. The
socket has mode 0600 in a directory of mode 0700, and the peer's user id (SO_PEERCRED, unix(7)) must be this process's
or root's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_DIRECTORY_VARIABLE = "USTACK_RUNTIME_DIR"
_QUESTIONS = ("about", "connections", "counters", "interfaces", "routes", "rules", "neighbors", "sysctl")
_CHANGES = (
    "add_address", "remove_address", "add_route", "del_route", "add_rule", "del_rule", "add_neighbor", "del_neighbor",
    "add_vlan", "add_bridge", "remove_interface", "sysctl",
)  # fmt: skip
_QUESTION_LIMIT = 4096  # bytes
_PATIENCE = 2.0  # seconds a client may take to ask and to read


def directory() -> Path:
    """Where control sockets live: /run/ustack for root, $XDG_RUNTIME_DIR/ustack for others.

    $USTACK_RUNTIME_DIR overrides both.
    """
    if chosen := os.environ.get(_DIRECTORY_VARIABLE):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/run/ustack")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "ustack" if runtime else Path(f"/tmp/ustack-{os.geteuid()}")


def pin_directory() -> None:
    """Keep the present answer of `directory` for this process, before it becomes a namespace's root."""
    os.environ[_DIRECTORY_VARIABLE] = str(directory())


def _safe_directory() -> Path:
    """Make the directory, or take it as it is when nobody else can write to it. Raises OSError."""
    path = directory()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = path.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o022:
        raise PermissionError(f"{path} is not a directory of this user alone")
    return path


@contextlib.contextmanager
def publish(stack: Any, device: str, addresses: list[str]) -> Iterator[Path | None]:
    """A context manager: answer questions about a stack while it is open.

    Yields the socket's path, or None where there is no place for it (a stack needs no control socket to work).
    """
    try:
        path = _safe_directory() / f"{device}-{os.getpid()}.sock"
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
    except OSError:
        yield None
        return
    path.chmod(0o600)
    listener.listen(8)
    about = {"pid": os.getpid(), "device": device, "addresses": addresses}
    thread = threading.Thread(target=_answer_all, args=(listener, stack, about), name="ustack-control", daemon=True)
    thread.start()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept, which close alone would not
        thread.join()
        listener.close()


def _answer_all(listener: socket.socket, stack: Any, about: dict[str, Any]) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client, contextlib.suppress(OSError):
            client.settimeout(_PATIENCE)
            if _is_allowed(client):
                _answer(client, stack, about)


def _is_allowed(client: socket.socket) -> bool:
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    return struct.unpack("iII", credentials)[1] in (0, os.geteuid())


def _answer(client: socket.socket, stack: Any, about: dict[str, Any]) -> None:
    try:
        question = json.loads(_read_line(client))
    except (ValueError, RecursionError):  # no JSON, or brackets within brackets
        question = None
    try:
        if isinstance(question, dict) and "change" in question:
            _change(stack, question["change"], question.get("arguments"))
            lines = [about]
        else:
            lines = [about, *_look_up(stack, question.get("ask") if isinstance(question, dict) else None)]
    except KeyError as error:
        lines = [{"error": str(error.args[0] if error.args else error)}]
    except (OSError, ValueError, TypeError, OverflowError) as error:
        lines = [{"error": str(error)}]
    client.sendall(b"".join(json.dumps(line, default=str).encode() + b"\n" for line in lines))


def _look_up(stack: Any, what: Any) -> list[dict[str, Any]]:
    if what not in _QUESTIONS:
        raise ValueError(f"ask for one of {', '.join(_QUESTIONS)}")
    if what == "about":
        return []
    if what in ("counters", "sysctl"):
        return [dict(getattr(stack, what)() if what == "counters" else stack.sysctl)]
    return [plain(one) for one in getattr(stack, what)()]


def _change(stack: Any, name: Any, arguments: Any) -> None:
    if name not in _CHANGES or not isinstance(arguments, dict):
        raise ValueError(f"change one of {', '.join(_CHANGES)}, with an object of arguments")
    if name == "sysctl":
        stack.sysctl[arguments["name"]] = arguments["value"]
    else:
        getattr(stack, name)(**arguments)


def _read_line(client: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < _QUESTION_LIMIT:
        piece = client.recv(_QUESTION_LIMIT - len(line))
        if not piece:
            break
        line += piece
    return line


def plain(record: Any) -> dict[str, Any]:
    """A connection record as a dictionary, whichever kind of record it is."""
    if isinstance(record, dict):
        return record
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return dataclasses.asdict(record)
    if hasattr(record, "_asdict"):
        return dict(record._asdict())
    return dict(vars(record))


def sockets() -> list[Path]:
    """The control sockets there are, running stacks' and those that a killed process left."""
    return sorted(directory().glob("*.sock"))


def ask(path: Path, question: str | dict[str, Any]) -> list[dict[str, Any]]:
    """Ask one stack; returns the lines of its answer, the one about the stack first.

    question: what to ask for, or the question as it is sent. Raises OSError: ConnectionRefusedError when its process is
    gone; ValueError on nonsense.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_PATIENCE)
        client.connect(str(path))
        lines = []
        # A stack that does not know this user closes at once, with the question unread.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError), client.makefile("rb") as stream:
            sent = {"ask": question} if isinstance(question, str) else question
            client.sendall(json.dumps(sent).encode() + b"\n")
            lines = [json.loads(line) for line in stream]
    if not lines:
        raise PermissionError(f"the stack behind {path} does not answer this user")
    return lines
