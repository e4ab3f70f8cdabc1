"""System calls of scripts on a stack's sockets.

Responsible for: descriptors, arguments in the language's forms, the contents of buffers (a pattern that says at which
offset of the stream a byte is). Not for: when they are made and how long they may take (runner).
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
from typing import Any

from tap_harness.packetdrill.script import ANY, Call, Unsupported
from tap_harness.packetdrill.wire import pattern

_NONBLOCK = os.O_NONBLOCK
_MSG_FASTOPEN = 0x20000000
_INT = struct.Struct("i")
_EPOLL_ADD, _EPOLL_DEL = 1, 2
_EPOLL_DATA = ("fd", "ptr", "u32", "u64")
_NEVER_BLOCKS = {
    "socket", "bind", "listen", "shutdown", "setsockopt", "getsockopt", "fcntl", "ioctl", "epoll_create",
    "epoll_create1", "epoll_ctl",
}  # fmt: skip


class Wrong(Exception):
    """A call did something else than it is to do: what, in a sentence."""


class Descriptor:
    """A script's descriptor: its socket, the bytes it has written, how many it has read."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.written = bytearray()
        self.consumed = 0


class Epoll:
    """What a script's epoll_create() made. data: of each script's descriptor, the real one and what epoll_wait says."""

    def __init__(self) -> None:
        self.poll = select.epoll()
        self.data: dict[int, tuple[int, Any]] = {}

    def settimeout(self, timeout: float | None) -> None:
        """As a socket's: nothing here."""

    def close(self) -> None:
        """Close it."""
        self.poll.close()


class Calls:
    """The system calls on one target. local, remote: what `...` stands for where an address is needed."""

    def __init__(self, target: Any, local: tuple[str, int], remote: tuple[str, int]) -> None:
        self._target = target
        self._local = local
        self._remote = remote
        self._family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
        self._any = "::" if ":" in local[0] else "0.0.0.0"
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
            host = self._any
        return (default[0] if host is ANY else host, default[1] if port is ANY else port)

    # -- opening and closing

    def _socket(self, call: Call, family: Any, kind: int, proto: Any = 0) -> int:
        if family not in (ANY, self._family):
            raise Unsupported("the family is ... or that of --ip_version")
        proto = 0 if proto is ANY else proto
        sock = self._target.socket(self._family, kind & ~socket.SOCK_NONBLOCK & ~socket.SOCK_CLOEXEC, proto)
        sock.settimeout(0.0 if kind & socket.SOCK_NONBLOCK else None)
        return self._number(call, sock)

    def _bind(self, call: Call, fd: int, address: Any, length: Any = ANY) -> int:
        self._of(fd).sock.bind(self._address(address, (self._any, self._local[1])))
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

    def _send(self, call: Call, fd: int, data: Any, size: int, flags: int = 0, to: Any = None) -> int:
        one = self._of(fd)
        outgoing = self._outgoing(one, data, size)
        taken = int(one.sock.send(outgoing, flags) if to is None else one.sock.sendto(outgoing, flags, to))
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
            to = self._address(address, self._remote) if flags & _MSG_FASTOPEN else None
            if to is not None:
                self.main = one
            return self._send(call, fd, data, size, flags, to)
        to = self._address(address, self._remote)
        return int(one.sock.sendto(data[:size] if isinstance(data, bytes) else pattern(0, size), flags, to))

    def _recv(self, call: Call, fd: int, buffer: Any, size: int, flags: int = 0, *_: Any) -> int:
        one = self._of(fd)
        data = one.sock.recv(size, flags)
        if flags & socket.MSG_OOB:  # out of the stream: where in it the octet was, the script says by its contents
            if isinstance(buffer, bytes) and data != buffer:
                raise Wrong(f"{call.name}() returned {data!r}, not {buffer!r}")
            return len(data)
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
        """What `ready` returns when it is not empty, after at most so many ms (-1: whenever)."""
        return list(self._target.wait(ready, None if milliseconds < 0 else milliseconds / 1000))

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

    def _epoll_create(self, call: Call, flags: int = 0) -> int:
        return self._number(call, Epoll())

    _epoll_create1 = _epoll_create

    def _epoll_ctl(self, call: Call, epfd: int, operation: int, fd: int, event: Any = ANY) -> int:
        epoll = self._epoll(epfd)
        real = self._of(fd).sock.fileno()
        if operation == _EPOLL_DEL:
            epoll.poll.unregister(real)
            epoll.data.pop(fd, None)
            return 0
        if not isinstance(event, dict):
            raise Unsupported("epoll_ctl(): {events=EPOLLIN, fd=4} is needed")
        change = epoll.poll.register if operation == _EPOLL_ADD else epoll.poll.modify
        change(real, event["events"])
        epoll.data[fd] = (real, next((event[name] for name in _EPOLL_DATA if name in event), fd))
        return 0

    def _epoll(self, epfd: Any) -> Epoll:
        found = self._of(epfd).sock
        if not isinstance(found, Epoll):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return found

    def _epoll_wait(self, call: Call, epfd: int, events: Any, most: int, timeout: int) -> int:
        epoll = self._epoll(epfd)
        found = self._wait(lambda: epoll.poll.poll(0, most), timeout)
        data = dict(epoll.data.values())
        expected = events if isinstance(events, list) else [] if events is ANY else [events]
        for one in expected[: len(found)]:
            value = next((one[name] for name in _EPOLL_DATA if name in one), ANY)
            got = next((mask for real, mask in found if value is ANY or data.get(real) == value), None)
            if got is None or one.get("events", ANY) not in (ANY, got):
                named = "nothing" if got is None else poll_names(got)
                raise Wrong(f"epoll_wait() gave {named} for {value}, not {poll_names(one.get('events', 0))}")
        return len(found)

    # -- several buffers, and what waits in the queues

    @staticmethod
    def _vector(message: Any) -> tuple[list[int], Any]:
        """(the lengths of msg_iov, the first buffer's contents)."""
        vector = next((value for name, value in message.items() if name.startswith("msg_iov")), None)
        if not isinstance(vector, list):
            raise Unsupported("msg_iov(N)=[{..., length}, ...] is needed")
        return [one["1"] for one in vector], vector[0]["0"] if vector else ANY

    def _writev(self, call: Call, fd: int, vector: list[dict[str, Any]], count: int) -> int:
        return self._write(call, fd, vector[0]["0"] if vector else ANY, sum(one["1"] for one in vector[:count]))

    def _readv(self, call: Call, fd: int, vector: list[dict[str, Any]], count: int) -> int:
        return self._recv(call, fd, vector[0]["0"] if vector else ANY, sum(one["1"] for one in vector[:count]))

    def _sendmsg(self, call: Call, fd: int, message: Any, flags: int = 0) -> int:
        lengths, data = self._vector(message)
        one = self._of(fd)
        name = next((value for key, value in message.items() if key.startswith("msg_name")), ANY)
        to = self._address(name, self._remote) if one.sock.type != socket.SOCK_STREAM or flags & _MSG_FASTOPEN else None
        whole = self._outgoing(one, data, sum(lengths))
        cuts = [sum(lengths[:k]) for k in range(len(lengths) + 1)]
        pieces = [whole[cuts[k] : cuts[k + 1]] for k in range(len(lengths))]
        taken = int(one.sock.sendmsg(pieces, [], flags, to) if to else one.sock.sendmsg(pieces, [], flags))
        one.written += whole[:taken]
        return taken

    def _recvmsg(self, call: Call, fd: int, message: Any, flags: int = 0) -> int:
        lengths, data = self._vector(message)
        return self._recv(call, fd, data, sum(lengths), flags)

    def _ioctl(self, call: Call, fd: int, request: int, value: Any) -> int:
        sock = self._of(fd).sock
        if isinstance(sock, socket.socket):
            found = int(_INT.unpack(fcntl.ioctl(sock, request, bytes(_INT.size)))[0])
        else:
            found = int(sock.ioctl(request))
        if isinstance(value, list) and value and value[0] not in (ANY, found):
            raise Wrong(f"ioctl() gave {found}, not {value[0]}")
        return 0

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
