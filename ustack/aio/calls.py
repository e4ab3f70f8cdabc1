"""The event loop's methods that take a socket or a transport of a stack, for every event loop: no descriptor is made.

Responsible for: sock_recv() and its neighbours, who try again once their socket is ready; start_tls() and sendfile(),
which loops such as uvloop's have for their own transports only. Not for: making connections (connect.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..outside import EitherSocket, plain
from ..socket import Socket, is_regular
from .reactor import READ, WRITE, Reactor

_PIECE = 1 << 18
# asyncio's own code, for loops that are not made of it, too; of the loop it needs no more than any loop has.
_asyncio: Any = asyncio.BaseEventLoop


class _Waits:
    """Who waits until one socket is readable, and who until it is writable."""

    __slots__ = ("_futures", "_reactor", "_sock", "_want")

    def __init__(self, reactor: Reactor, sock: Socket) -> None:
        self._reactor = reactor
        self._sock = sock
        self._futures: dict[int, set[asyncio.Future[None]]] = {READ: set(), WRITE: set()}
        self._want = 0
        reactor.register(sock, 0, self)
        reactor.waits[sock] = self

    def add(self, event: int, future: asyncio.Future[None]) -> None:
        self._futures[event].add(future)
        self._update()

    def remove(self, event: int, future: asyncio.Future[None]) -> None:
        self._futures[event].discard(future)
        self._update()

    def _update(self) -> None:
        want = sum(event for event, futures in self._futures.items() if futures)
        if not want:
            if self._reactor.waits.pop(self._sock, None) is not None:
                self._reactor.unregister(self._sock)
        elif want != self._want:
            self._reactor.modify(self._sock, want, self)
        self._want = want

    def _ready(self, events: int) -> None:
        for event, futures in self._futures.items():
            if events & event:
                for future in futures:
                    if not future.done():
                        future.set_result(None)

    def _abandoned(self) -> None:
        self._ready(READ | WRITE)


async def ready(reactor: Reactor, sock: Socket, event: int) -> None:
    """Wait until a socket is readable (READ) or writable (WRITE). Raises OSError on a closed socket; RuntimeError: it
    is a transport's."""
    waits: _Waits = reactor.waits.get(sock) or _Waits(reactor, sock)
    future: asyncio.Future[None] = reactor.loop.create_future()
    waits.add(event, future)
    try:
        await future
    finally:
        waits.remove(event, future)


async def _again(sock: Socket, event: int, call: Callable[..., Any], *arguments: Any) -> Any:
    """What call(*arguments) returns as soon as it does not have to wait."""
    while True:
        try:
            return call(*arguments)
        except (BlockingIOError, InterruptedError):
            pass
        await ready(Reactor.of(sock.stack, asyncio.get_running_loop()), sock, event)


async def sock_recv(sock: Any, nbytes: int) -> bytes:
    """As loop.sock_recv."""
    sock = plain(sock)
    return bytes(await _again(sock, READ, sock.recv, nbytes))


async def sock_recv_into(sock: Any, buf: Any) -> int:
    """As loop.sock_recv_into."""
    sock = plain(sock)
    return int(await _again(sock, READ, sock.recv_into, buf))


async def sock_recvfrom(sock: Any, bufsize: int) -> tuple[bytes, Any]:
    """As loop.sock_recvfrom."""
    sock = plain(sock)
    data, address = await _again(sock, READ, sock.recvfrom, bufsize)
    return data, address


async def sock_recvfrom_into(sock: Any, buf: Any, nbytes: int = 0) -> tuple[int, Any]:
    """As loop.sock_recvfrom_into."""
    sock = plain(sock)
    count, address = await _again(sock, READ, sock.recvfrom_into, buf, nbytes)
    return count, address


async def sock_sendall(sock: Any, data: Any) -> None:
    """As loop.sock_sendall."""
    sock = plain(sock)
    with memoryview(data) as view, view.cast("B") as octets:
        sent = 0
        while True:
            sent += await _again(sock, WRITE, sock.send, octets[sent:])
            if sent >= len(octets):
                return


async def sock_sendto(sock: Any, data: Any, address: Any) -> int:
    """As loop.sock_sendto; address is numeric."""
    sock = plain(sock)
    return int(await _again(sock, WRITE, sock.sendto, data, address))


async def sock_accept(sock: Any) -> tuple[Socket, Any]:
    """As loop.sock_accept: (a non-blocking socket, the peer's address)."""
    sock = plain(sock)
    conn, address = await _again(sock, READ, sock.accept)
    conn.setblocking(False)
    return conn, address


async def sock_sendfile(
    sock: Any, file: Any, offset: int = 0, count: int | None = None, *, fallback: bool = True
) -> int:
    """As loop.sock_sendfile: read and sent. Raises asyncio.SendfileNotAvailableError where fallback is False, as the
    kernel's sendfile(2) can't do it."""
    _asyncio._check_sendfile_params(None, plain(sock), file, offset, count)
    if not fallback:
        raise asyncio.SendfileNotAvailableError("sendfile(2) is not for a stack's sockets")
    loop = asyncio.get_running_loop()
    piece = memoryview(bytearray(_PIECE if count is None else min(count, _PIECE)))
    if offset or is_regular(file):  # sendfile(2) counts from the start
        file.seek(offset)
    sent = 0
    try:
        while count is None or sent < count:
            room = piece if count is None else piece[: count - sent]
            got = await loop.run_in_executor(None, file.readinto, room)
            if not got:
                break
            await sock_sendall(sock, piece[:got])
            sent += got
    finally:
        if sent > 0 and hasattr(file, "seek"):
            file.seek(offset + sent)
    return sent


async def sendfile(
    transport: Any, file: Any, offset: int = 0, count: int | None = None, *, fallback: bool = True
) -> int:
    """As loop.sendfile, in every event loop: read and sent. Raises RuntimeError: closing, or fallback is False."""
    if transport.is_closing():
        raise RuntimeError("Transport is closing")
    if not fallback:
        raise RuntimeError(f"fallback is disabled and native sendfile is not supported for transport {transport!r}")
    if is_regular(file):  # sendfile(2) counts from the start
        file.seek(offset)
    return int(await _asyncio._sendfile_fallback(asyncio.get_running_loop(), transport, file, offset, count))


async def start_tls(
    transport: Any,
    protocol: Any,
    sslcontext: Any,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
    **timeouts: float | None,
) -> Any:
    """As loop.start_tls, in every event loop: the transport of TLS over a transport of a stack's, which may be TLS's
    itself. timeouts: ssl_handshake_timeout, and from Python 3.11 on ssl_shutdown_timeout, in seconds."""
    loop = asyncio.get_running_loop()
    options = {"server_side": server_side, "server_hostname": server_hostname, **timeouts}
    return await _asyncio.start_tls(loop, transport, protocol, sslcontext, **options)


class Calls:
    """These functions, as methods of Stack.aio."""

    sock_recv = staticmethod(sock_recv)
    sock_recv_into = staticmethod(sock_recv_into)
    sock_recvfrom = staticmethod(sock_recvfrom)
    sock_recvfrom_into = staticmethod(sock_recvfrom_into)
    sock_sendall = staticmethod(sock_sendall)
    sock_sendto = staticmethod(sock_sendto)
    sock_accept = staticmethod(sock_accept)
    sock_sendfile = staticmethod(sock_sendfile)
    sendfile = staticmethod(sendfile)
    start_tls = staticmethod(start_tls)


class SocketCalls:
    """An event loop's sock_* methods: these for sockets of stacks, the next class's for all others."""

    def _whose(self, sock: Any) -> Any:
        return Calls if isinstance(plain(sock), Socket) else super()

    async def sock_recv(self, sock: Any, nbytes: int) -> Any:
        """As asyncio's."""
        return await self._whose(sock).sock_recv(plain(sock), nbytes)

    async def sock_recv_into(self, sock: Any, buf: Any) -> Any:
        """As asyncio's."""
        return await self._whose(sock).sock_recv_into(plain(sock), buf)

    async def sock_recvfrom(self, sock: Any, bufsize: int) -> Any:
        """As asyncio's."""
        return await self._whose(sock).sock_recvfrom(plain(sock), bufsize)

    async def sock_recvfrom_into(self, sock: Any, buf: Any, nbytes: int = 0) -> Any:
        """As asyncio's."""
        return await self._whose(sock).sock_recvfrom_into(plain(sock), buf, nbytes)

    async def sock_sendall(self, sock: Any, data: Any) -> Any:
        """As asyncio's."""
        return await self._whose(sock).sock_sendall(plain(sock), data)

    async def sock_sendto(self, sock: Any, data: Any, address: Any) -> Any:
        """As asyncio's."""
        if isinstance(sock, EitherSocket):
            sock._decide(address)
        return await self._whose(sock).sock_sendto(plain(sock), data, address)

    async def sock_accept(self, sock: Any) -> Any:
        """As asyncio's."""
        return await self._whose(sock).sock_accept(plain(sock))

    async def sock_sendfile(
        self, sock: Any, file: Any, offset: int = 0, count: int | None = None, *, fallback: bool | None = True
    ) -> Any:
        """As asyncio's."""
        return await self._whose(sock).sock_sendfile(plain(sock), file, offset, count, fallback=fallback)
