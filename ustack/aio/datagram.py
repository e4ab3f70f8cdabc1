"""Datagrams in an event loop: what asyncio.DatagramTransport promises, over a stack's UDP socket, and making one."""

from __future__ import annotations

import asyncio
import collections
import socket
import warnings
from typing import TYPE_CHECKING, Any

from ..outside import plain
from ..socket import Socket
from . import connect
from .reactor import READ, WRITE, Reactor

if TYPE_CHECKING:
    from ..stack import Stack

_LARGEST = 65536
_BATCH = 32  # datagrams before other callbacks have their turn
_HIGH = 64 << 10


class DatagramTransport(asyncio.DatagramTransport):
    """A UDP endpoint. Made by create_datagram_endpoint(); protocols get it in connection_made()."""

    def __init__(self, reactor: Reactor, sock: Socket, protocol: Any, peer: Any, waiter: Any) -> None:
        super().__init__()
        self._reactor = reactor
        self._loop = reactor.loop
        self._sock = sock
        self._protocol = protocol
        self._peer = peer
        # allow_broadcast: the socket is not connected to its peer.
        self._target = peer if peer is not None and sock._names()[1] is None else None
        self._buffer: collections.deque[tuple[bytes, Any]] = collections.deque()
        self._size = 0
        self._high, self._low = _HIGH, _HIGH // 4
        self._paused = self._closing = self._registered = self._is_over = False
        self._names: dict[str, Any] = {}
        self._loop.call_soon(self._start, waiter)

    def _start(self, waiter: asyncio.Future[Any]) -> None:
        try:
            self._protocol.connection_made(self)
        except Exception as error:
            self._report(error, "protocol.connection_made() failed")
        if not self._closing:
            self._reactor.register(self._sock, READ, self)
            self._registered = True
        if not waiter.done():
            waiter.set_result(None)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closing ' if self._closing else ''}{self._sock!r}>"

    def __del__(self) -> None:
        sock = getattr(self, "_sock", None)
        if sock is not None and not sock._closed:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, stacklevel=2, source=self)
            sock.close()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """One of "socket", "sockname", "peername"."""
        if name == "socket":
            return self._sock
        if name in ("sockname", "peername"):
            try:
                self._names = dict(zip(("sockname", "peername"), self._sock._names(), strict=True))
            except OSError:
                pass
            found = self._names.get(name)
            return default if found is None else found
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Whom to tell from now on."""
        self._protocol = protocol

    def get_protocol(self) -> Any:
        """The protocol."""
        return self._protocol

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._closing

    def get_write_buffer_size(self) -> int:
        """Bytes that the socket has not taken yet."""
        return self._size

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Bytes waiting to be sent above which the protocol is paused, and below which it goes on."""
        self._high = high if high is not None else 4 * low if low is not None else _HIGH
        self._low = low if low is not None else self._high // 4

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """(low, high)."""
        return self._low, self._high

    def _ready(self, events: int) -> None:
        if events & READ:
            self._read()
        if events & WRITE and self._buffer:
            self._flush()

    def _read(self) -> None:
        for _ in range(_BATCH):
            if self._closing:
                return
            try:
                data, address = self._sock.recvfrom(_LARGEST)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._protocol.error_received(error)
                return
            self._protocol.datagram_received(data, address)

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send a datagram; what the socket does not take waits."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._peer is not None and addr not in (None, self._peer):
            raise ValueError(f"Invalid address: must be None or {self._peer}")
        if self._closing:
            return
        if not self._buffer and self._send(data, addr):
            return
        self._buffer.append((bytes(data), addr))
        self._size += len(data)
        self._reactor.modify(self._sock, READ | WRITE, self)
        if self._size > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def _send(self, data: Any, addr: Any) -> bool:
        """False: the socket has no room."""
        try:
            to = addr if self._peer is None else self._target
            if to is None:
                self._sock.send(data)
            else:
                self._sock.sendto(data, to)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._protocol.error_received(error)
        return True

    def _flush(self) -> None:
        while self._buffer:
            data, addr = self._buffer[0]
            if not self._send(data, addr):
                break
            self._buffer.popleft()
            self._size -= len(data)
        if self._paused and self._size <= self._low:
            self._paused = False
            self._protocol.resume_writing()
        if not self._buffer:
            if self._closing:
                self._finish(None)
            elif self._registered:
                self._reactor.modify(self._sock, READ, self)

    def close(self) -> None:
        """Close the endpoint once all is sent."""
        if self._closing:
            return
        self._closing = True
        if not self._buffer:
            self._finish(None)
        elif self._registered:
            self._reactor.modify(self._sock, WRITE, self)

    def abort(self) -> None:
        """Close the endpoint now."""
        self._buffer.clear()
        self._closing = True
        self._finish(None)

    _abandoned = abort

    def _report(self, error: BaseException, message: str) -> None:
        self._loop.call_exception_handler(
            {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
        )

    def _finish(self, error: BaseException | None) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._registered:
            self._registered = False
            self._reactor.unregister(self._sock)
        self._loop.call_soon(self._lost, error)

    def _lost(self, error: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self.get_extra_info("sockname")
            self._sock.close()
            self._protocol = None


async def _pairs(
    stack: Stack, ends: tuple[Any, Any], family: int, proto: int, flags: int
) -> list[tuple[tuple[int, int], list[Any]]]:
    """[((family, protocol), [own address, peer's])] of what `ends` are; None for an end that was not given."""
    loop = asyncio.get_running_loop()
    found: dict[tuple[int, int], list[Any]] = {}
    for at, end in enumerate(ends):
        if end is None:
            continue
        if not isinstance(end, tuple) or len(end) < 2:
            raise TypeError("2-tuple is expected")
        wanted = {"family": family, "type": socket.SOCK_DGRAM, "proto": proto, "flags": flags}
        for info in await connect.addresses(stack, loop, *end[:2], **wanted):
            pair = found.setdefault((info[0], info[2]), [None, None])
            pair[at] = pair[at] or info[4]
    needed = [at for at, end in enumerate(ends) if end is not None]
    complete = [(key, pair) for key, pair in found.items() if all(pair[at] for at in needed)]
    if not complete:
        raise ValueError("can not get address information")
    return complete


async def create_datagram_endpoint(
    stack: Stack,
    protocol_factory: Any,
    local_addr: Any = None,
    remote_addr: Any = None,
    *,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    reuse_port: bool | None = None,
    allow_broadcast: bool | None = None,
    sock: Any = None,
) -> tuple[Any, Any]:
    """As the event loop's method. Raises OSError, ValueError, TypeError."""
    loop = asyncio.get_running_loop()
    reactor = Reactor.of(stack, loop)
    peer = None
    if sock is not None:
        sock = plain(sock)
        if sock.type != socket.SOCK_DGRAM:
            raise ValueError(f"A datagram socket was expected, got {sock!r}")
        given = {"local_addr": local_addr, "remote_addr": remote_addr, "family": family, "proto": proto}
        given |= {"flags": flags, "reuse_port": reuse_port, "allow_broadcast": allow_broadcast}
        if problems := ", ".join(f"{name}={value}" for name, value in given.items() if value):
            raise ValueError(f"socket modifier keyword arguments can not be used when sock is specified. ({problems})")
        sock.setblocking(False)
        peer = sock._names()[1]
    else:
        pairs: list[tuple[tuple[int, int], list[Any]]] = [((family, proto), [None, None])]
        if local_addr or remote_addr:
            pairs = await _pairs(stack, (local_addr or None, remote_addr or None), family, proto, flags)
        elif not family:
            raise ValueError("unexpected address family")
        sock, peer = _open(stack, pairs, bool(reuse_port), bool(allow_broadcast))
    waiter = loop.create_future()
    protocol = protocol_factory()
    transport = DatagramTransport(reactor, sock, protocol, peer, waiter)
    try:
        await waiter
    except BaseException:
        transport.close()
        raise
    return transport, protocol


def _open(
    stack: Stack, pairs: list[tuple[tuple[int, int], list[Any]]], reuse_port: bool, broadcast: bool
) -> tuple[Socket, Any]:
    """A socket of the first of the pairs that can be had, and its peer. Raises the first's OSError."""
    failures: list[OSError] = []
    for (family, proto), (own, peer) in pairs:
        sock = Socket(stack, family, socket.SOCK_DGRAM, proto)
        try:
            sock.setblocking(False)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if broadcast:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            if own:
                sock.bind(own)
            if peer and not broadcast:  # who may send to all hears from all
                sock.connect(peer)
            return sock, peer
        except OSError as error:
            sock.close()
            failures.append(error)
        except BaseException:
            sock.close()
            raise
    raise failures[0]
