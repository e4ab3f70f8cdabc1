"""The control socket of a running stack: a Unix socket over which `ustack ss`, `addr`, `route`, … ask what the stack
knows and change it, in JSON lines.

Responsible for: where that socket lives, who may use it, the question and the answer. Not for: deciding what a
connection looks like (Stack.connections()), or what a change does (Stack's methods).

A client sends one line, {"ask": WHAT} with one of _QUESTIONS, or {"change": METHOD, "arguments": {…}} with one of
_CHANGES; the answer is one line about the stack ({"pid", "device", "addresses"}), then one line for each thing asked
for, then end of file; or one line {"error": TEXT}. {"capture": {…}}, with the options of Stack.capture (programs of
filters as base64), is answered by the line about the stack and then by a pcapng file that goes on until the client
closes: a client that reads slower than frames come loses frames, and holds up nobody. The socket has mode 0600 in a
directory of mode 0700, and the peer's user id (SO_PEERCRED, unix(7)) must be this process's or root's.
"""

from __future__ import annotations

import base64
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
from typing import Any, BinaryIO

_DIRECTORY_VARIABLE = "USTACK_RUNTIME_DIR"
_QUESTIONS = ("about", "connections", "counters", "interfaces", "routes", "rules", "neighbors", "sysctl")
_CHANGES = (
    "add_address", "remove_address", "add_route", "del_route", "add_rule", "del_rule", "add_neighbor", "del_neighbor",
    "add_vlan", "add_bridge", "remove_interface", "sysctl",
)  # fmt: skip
_QUESTION_LIMIT = 1 << 18  # bytes: the longest programs of filters are in it
_CAPTURES = 8  # at a time
_CAPTURE_OPTIONS = ("interface", "snaplen", "buffer")
_BUFFER_MAX = 64 << 20  # bytes a client may ask for
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
    watchers = _Watchers(stack)
    arguments = (listener, stack, about, watchers)
    thread = threading.Thread(target=_answer_all, args=arguments, name="ustack-control", daemon=True)
    thread.start()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept, which close alone would not
        thread.join()
        listener.close()
        watchers.close()


def _answer_all(listener: socket.socket, stack: Any, about: dict[str, Any], watchers: _Watchers) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client, contextlib.suppress(OSError):
            client.settimeout(_PATIENCE)
            if _is_allowed(client):
                _answer(client, stack, about, watchers)


class _Watchers:
    """Clients that a capture is sent to, each by a thread of its own."""

    def __init__(self, stack: Any) -> None:
        self._stack = stack
        self._lock = threading.Lock()
        self._closed = False
        self._clients: dict[socket.socket, threading.Thread] = {}

    def add(self, client: socket.socket, about: dict[str, Any], options: dict[str, Any]) -> None:
        """Begin to send. Raises OSError, ValueError, TypeError: the capture cannot be."""
        mine = client.dup()
        try:
            mine.settimeout(None)
            with self._lock:
                if self._closed or len(self._clients) >= _CAPTURES:
                    raise ValueError(f"{_CAPTURES} captures are going on already")
                stream = _Behind(mine, json.dumps(about, default=str).encode() + b"\n")
                capture = self._stack.capture(stream, **options)
                thread = threading.Thread(
                    target=self._attend, args=(mine, capture), name="ustack-control-capture", daemon=True
                )
                self._clients[mine] = thread
                thread.start()
        except BaseException:
            mine.close()
            raise

    def _attend(self, client: socket.socket, capture: Any) -> None:
        """Until the client closes, or writing to it failed, which the writer makes an end of file, too."""
        with contextlib.suppress(OSError):
            while client.recv(4096):
                pass
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)  # wakes a writer that waits for the client to read
        with contextlib.suppress(OSError):
            capture.close()
        with self._lock:
            self._clients.pop(client, None)
        client.close()

    def close(self) -> None:
        """End them all."""
        with self._lock:
            self._closed = True
            threads = list(self._clients.items())
        for client, _ in threads:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for _, thread in threads:
            thread.join()


class _Behind:
    """A file to write to whose first bytes are something else: what a client is told before the capture."""

    def __init__(self, client: socket.socket, first: bytes) -> None:
        self._client = client
        self._first = first

    def write(self, data: bytes) -> None:
        first, self._first = self._first, b""
        try:
            self._client.sendall(first + data)
        except OSError:
            self.abort()
            raise

    def abort(self) -> None:
        """Nothing more will be written, and who waits for the client to read need not."""
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)


def _is_allowed(client: socket.socket) -> bool:
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    return struct.unpack("iII", credentials)[1] in (0, os.geteuid())


def _answer(client: socket.socket, stack: Any, about: dict[str, Any], watchers: _Watchers) -> None:
    try:
        question = json.loads(_read_line(client))
    except (ValueError, RecursionError):  # no JSON, or brackets within brackets
        question = None
    try:
        if isinstance(question, dict) and "capture" in question:
            watchers.add(client, about, _capture_options(question["capture"]))
            return
        if isinstance(question, dict) and "change" in question:
            _change(stack, question["change"], question.get("arguments"))
            lines = [about]
        else:
            lines = [about, *_look_up(stack, question.get("ask") if isinstance(question, dict) else None)]
    except KeyError as error:
        lines = [{"error": str(error.args[0] if error.args else error)}]
    except (OSError, ValueError, TypeError, OverflowError, AttributeError, MemoryError) as error:
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


def _capture_options(asked: Any) -> dict[str, Any]:
    if not isinstance(asked, dict) or not asked.keys() <= {*_CAPTURE_OPTIONS, "filter"}:
        raise ValueError(f"capture with an object of {', '.join(_CAPTURE_OPTIONS)}, filter")
    options = dict(asked)
    if not 0 < options.get("buffer", 1) <= _BUFFER_MAX:
        raise ValueError(f"buffer: at most {_BUFFER_MAX} bytes")
    if programs := options.pop("filter", None):
        options["filter"] = {medium: base64.b64decode(text) for medium, text in programs.items()}
    return options


def _read_line(client: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < _QUESTION_LIMIT:
        piece = client.recv(min(65536, _QUESTION_LIMIT - len(line)))
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
    with _connected(path) as client:
        lines = []
        # A stack that does not know this user closes at once, with the question unread.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError), client.makefile("rb") as stream:
            sent = {"ask": question} if isinstance(question, str) else question
            client.sendall(json.dumps(sent).encode() + b"\n")
            lines = [json.loads(line) for line in stream]
    if not lines:
        raise PermissionError(f"the stack behind {path} does not answer this user")
    return lines


def _connected(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.settimeout(_PATIENCE)
        client.connect(str(path))
    except BaseException:
        client.close()
        raise
    return client


@contextlib.contextmanager
def watch(path: Path, options: dict[str, Any]) -> Iterator[BinaryIO]:
    """A context manager: a capture of one stack, as a pcapng file to read that goes on until this is left.

    options: of Stack.capture; filter: {"ethernet": program, "ip": program}. Raises OSError; ValueError: what the stack
    says against it.
    """
    sent = dict(options)
    if programs := sent.pop("filter", None):
        sent["filter"] = {medium: base64.b64encode(program).decode() for medium, program in programs.items()}
    with _connected(path) as client, client.makefile("rb") as stream:
        client.sendall(json.dumps({"capture": sent}).encode() + b"\n")
        try:
            first = json.loads(stream.readline() or "null")
        except ConnectionResetError:
            first = None
        if first is None:
            raise PermissionError(f"the stack behind {path} does not answer this user")
        if "error" in first:
            raise ValueError(first["error"])
        client.settimeout(None)
        yield stream
