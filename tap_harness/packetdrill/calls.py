"""System calls of scripts on a stack's sockets.

Responsible for: descriptors, arguments in the language's forms, the contents of buffers (a pattern that says at which
offset of the stream a byte is). Not for: when they are made and how long they may take (runner).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from typing import Any

from tap_harness.packetdrill.script import ANY, Call, Unsupported
from tap_harness.packetdrill.wire import pattern

_NONBLOCK = os.O_NONBLOCK
_INT = struct.Struct("i")
_NEVER_BLOCKS = {
    "socket", "bind", "listen", "shutdown", "setsockopt", "getsockopt", "fcntl", }  # fmt: skip


class Wrong(Exception):
    """A call did something else than it is to do: what, in a sentence."""


class Descriptor:
    """A script's descriptor: its socket, the bytes it has written, how many it has read."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.written = bytearray()
        self.consumed = 0


class Calls:
    """The system calls on one target. local, remote: what `...` stands for where an address is needed."""

    def __init__(self, target: Any, local: tuple[str, int], remote: tuple[str, int]) -> None:
        self._target = target
        self._local = local
        self._remote = remote
        self.open: dict[int, Descriptor] = {}
        self.main: Descriptor | None = None  # whose tcp_info %{ }% sees

    def may_block(self, call: Call) -> bool:
        """Whether the call needs a task of its own."""
        return call.name not in _NEVER_BLOCKS

    def make(self, call: Call) -> int:
        """Do it -> its result. Raises OSError, Wrong, Unsupported."""
        try:
            return int(getattr(self, f"_{call.name}")(call, *call.arguments))
        except (TypeError, KeyError, ValueError, AttributeError, struct.error) as error:
            raise Unsupported(f"{call.name}(): wrong arguments ({error})") from None

    def stream(self, port: int | None) -> Descriptor | None:
        """The descriptor whose peer has that port."""
        for one in self.open.values():
            try:
                if one.sock.getpeername()[1] == port:
                    return one
            except OSError:
                continue
        return None

    # -- helpers

    def _of(self, fd: Any) -> Descriptor:
        if fd not in self.open:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self.open[fd]

    def _number(self, call: Call, sock: Any) -> int:
        """The descriptor for a new socket: the script's choice where that is free."""
        fd = call.result if isinstance(call.result, int) and call.result > 2 else 3
        while fd in self.open:
            fd += 1
        self.open[fd] = Descriptor(sock)
        return int(fd)

    def _address(self, value: Any, default: tuple[str, int]) -> tuple[str, int]:
        if value is ANY:
            return default
        if not isinstance(value, dict):
            raise Unsupported("an address is ... or {sa_family = AF_INET, sin_port = htons(N), sin_addr = ...}")
        host, port = value.get("sin_addr", ANY), value.get("sin_port", ANY)
        if isinstance(host, bytes):
            host = host.decode()
        elif host is not ANY:
            host = "0.0.0.0"
        return (default[0] if host is ANY else host, default[1] if port is ANY else port)

    # -- opening and closing

    def _socket(self, call: Call, family: Any, kind: int, proto: Any = 0) -> int:
        if family not in (ANY, socket.AF_INET):
            raise Unsupported("only AF_INET")
        proto = 0 if proto is ANY else proto
        sock = self._target.stack.socket(socket.AF_INET, kind & ~socket.SOCK_NONBLOCK & ~socket.SOCK_CLOEXEC, proto)
        sock.settimeout(0.0 if kind & socket.SOCK_NONBLOCK else None)
        return self._number(call, sock)

    def _bind(self, call: Call, fd: int, address: Any, length: Any = ANY) -> int:
        self._of(fd).sock.bind(self._address(address, ("0.0.0.0", self._local[1])))
        return 0

    def _listen(self, call: Call, fd: int, backlog: int) -> int:
        self._of(fd).sock.listen(backlog)
        return 0

    def _accept(self, call: Call, fd: int, address: Any = ANY, length: Any = ANY, flags: int = 0) -> int:
        sock, _ = self._of(fd).sock.accept()
        sock.settimeout(0.0 if flags & socket.SOCK_NONBLOCK else None)
        number = self._number(call, sock)
        self.main = self.open[number]
        return number

    _accept4 = _accept

    def _connect(self, call: Call, fd: int, address: Any, length: Any = ANY) -> int:
        one = self._of(fd)
        self.main = one
        one.sock.connect(self._address(address, self._remote))
        return 0

    def _close(self, call: Call, fd: int) -> int:
        one = self._of(fd)
        del self.open[fd]
        one.sock.close()
        return 0

    def _shutdown(self, call: Call, fd: int, how: int) -> int:
        self._of(fd).sock.shutdown(how)
        return 0

    # -- data

    def _send(self, call: Call, fd: int, data: Any, size: int, flags: int = 0) -> int:
        one = self._of(fd)
        taken = int(one.sock.send(self._outgoing(one, data, size), flags))
        one.written += self._outgoing(one, data, size)[:taken]
        return taken

    def _write(self, call: Call, fd: int, data: Any, size: int) -> int:
        return self._send(call, fd, data, size) if self._of(fd).sock.timeout == 0 else self._send_all(fd, data, size)

    def _send_all(self, fd: int, data: Any, size: int) -> int:
        # write(2) on a blocking socket returns when all is taken.
        one = self._of(fd)
        whole = self._outgoing(one, data, size)
        one.written += whole
        try:
            one.sock.sendall(whole)
        except OSError:
            del one.written[len(one.written) - len(whole) :]
            raise
        return size

    @staticmethod
    def _outgoing(one: Descriptor, data: Any, size: int) -> bytes:
        if isinstance(data, bytes):
            return (data + bytes(size))[:size]
        return pattern(len(one.written), size)

    def _sendto(self, call: Call, fd: int, data: Any, size: int, flags: int = 0, address: Any = ANY, *_: Any) -> int:
        one = self._of(fd)
        if one.sock.type == socket.SOCK_STREAM:
            return self._send(call, fd, data, size, flags)
        to = self._address(address, self._remote)
        return int(one.sock.sendto(data[:size] if isinstance(data, bytes) else pattern(0, size), flags, to))

    def _recv(self, call: Call, fd: int, buffer: Any, size: int, flags: int = 0, *_: Any) -> int:
        one = self._of(fd)
        data = one.sock.recv(size, flags)
        stream = one.sock.type == socket.SOCK_STREAM
        expected = pattern(one.consumed, len(data)) if stream else pattern(0, len(data))
        if isinstance(buffer, bytes):
            expected = buffer
        if data != expected and not (isinstance(buffer, bytes) and not stream):
            raise Wrong(f"{call.name}() returned {len(data)} bytes that are not those the script sent")
        if not flags & socket.MSG_PEEK:
            one.consumed += len(data)
        return len(data)

    def _read(self, call: Call, fd: int, buffer: Any, size: int) -> int:
        return self._recv(call, fd, buffer, size)

    _recvfrom = _recv

    # -- options

    def _setsockopt(self, call: Call, fd: int, level: int, name: int, value: Any, length: Any = ANY) -> int:
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict):
            value = struct.pack(f"{len(value)}i", *value.values())
        self._of(fd).sock.setsockopt(level, name, value)
        return 0

    def _getsockopt(self, call: Call, fd: int, level: int, name: int, value: Any, length: Any = ANY) -> int:
        found = self._of(fd).sock.getsockopt(level, name)
        if isinstance(value, list) and len(value) == 1 and value[0] not in (ANY, found):
            raise Wrong(f"getsockopt() gave {found}, not {value[0]}")
        return 0

    def _fcntl(self, call: Call, fd: int, command: int, flags: Any = 0) -> int:
        sock = self._of(fd).sock
        if command == 3:  # F_GETFL
            return os.O_RDWR | (_NONBLOCK if sock.timeout == 0 else 0)
        if command == 4:  # F_SETFL
            sock.settimeout(0.0 if flags & _NONBLOCK else None)
            return 0
        raise Unsupported("fcntl(): only F_GETFL and F_SETFL")

    # -- readiness

    def _wait(self, ready: Any, milliseconds: int) -> list[Any]:
        """What `ready` returns when it is not empty, after at most so many ms of virtual time (-1: whenever)."""
        found: list[Any] = ready()
        if not found and milliseconds:
            network = self._target.network
            network.run(duration=1e6 if milliseconds < 0 else milliseconds / 1000, until=ready)
            found = ready()
        return found

    def _poll(self, call: Call, items: list[dict[str, Any]], count: int, timeout: int) -> int:
        poll = select.poll()
        numbers = {}
        for item in items:
            fd = self._of(item["fd"]).sock.fileno()
            numbers[fd] = item["fd"]
            poll.register(fd, item["events"])
        found = {numbers[fd]: events for fd, events in self._wait(lambda: poll.poll(0), timeout)}
        for item in items:
            expected, got = item.get("revents", ANY), found.get(item["fd"], 0)
            if expected not in (ANY, got):
                raise Wrong(f"poll() gave {poll_names(got)} for descriptor {item['fd']}, not {poll_names(expected)}")
        return len(found)

    def close_all(self) -> None:
        """Close what the script left open, without waiting for anything."""
        for fd in self.open.values():
            fd.sock.settimeout(0.0)
            fd.sock.close()
        self.open.clear()


def poll_names(mask: int) -> str:
    """POLLIN|POLLOUT for its number."""
    names = ("POLLIN", "POLLPRI", "POLLOUT", "POLLERR", "POLLHUP", "POLLNVAL", "POLLRDHUP")
    return "|".join(name for name in names if getattr(select, name, 0) & mask) or "0"
