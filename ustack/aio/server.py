"""Servers in an event loop: listening sockets of a stack, and the connections they accept."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..outside import plain
from ..socket import Socket
from .connect import addresses, make_transport, no_tls_without_context, tls_context
from .reactor import READ, Reactor

if TYPE_CHECKING:
    from ..stack import Stack

_WAITS_FOR_CLIENTS = sys.version_info >= (3, 12)
_PAUSE = 1.0  # s, after accept() has failed for want of memory


class Server(asyncio.AbstractServer):
    """What create_server() and start_server() return: as asyncio.Server."""

    def __init__(
        self, reactor: Reactor, sockets: list[Socket], protocol_factory: Any, backlog: int, tls: dict[str, Any]
    ) -> None:
        self._reactor = reactor
        self._loop = reactor.loop
        self._sockets: list[Socket] | None = sockets
        self._factory = protocol_factory
        self._backlog = backlog
        self._tls = tls
        self._active: set[Any] = set()
        self._waiters: list[asyncio.Future[None]] = []
        self._serving = False
        self._forever: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sockets={self.sockets!r}>"

    # -- connections

    def _attach(self, transport: Any) -> None:
        self._active.add(transport)

    def _detach(self, transport: Any) -> None:
        self._active.discard(transport)
        if self._sockets is None and not self._active:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()

    def _accept(self, listener: Socket) -> None:
        for _ in range(self._backlog):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.ENOMEM, errno.ENOBUFS, errno.EMFILE, errno.ENFILE):
                    raise
                self._rest(listener, error)
                return
            sock.setblocking(False)
            try:
                make_transport(self._reactor, sock, self._factory(), server=self, **self._tls)
            except BaseException:
                sock.close()
                raise

    def _rest(self, listener: Socket, error: OSError) -> None:
        """No memory: wait a while, as what is there would be told again and again."""
        self._loop.call_exception_handler({"message": "accept() is out of memory", "exception": error})
        self._reactor.modify(listener, 0, _Listening(self, listener))
        self._loop.call_later(_PAUSE, self._go_on, listener)

    def _go_on(self, listener: Socket) -> None:
        if self._sockets is not None and listener in self._sockets:
            self._reactor.modify(listener, READ, _Listening(self, listener))

    # -- what a program asks of it

    @property
    def sockets(self) -> tuple[Socket, ...]:
        """The listening sockets; none once closed."""
        return tuple(self._sockets or ())

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether it accepts connections."""
        return self._serving

    def _start(self) -> None:
        if self._serving or self._sockets is None:
            return
        self._serving = True
        for sock in self._sockets:
            sock.listen(self._backlog)
            self._reactor.register(sock, READ, _Listening(self, sock))

    async def start_serving(self) -> None:
        """Begin to accept connections."""
        self._start()

    async def serve_forever(self) -> None:
        """Accept connections until this is cancelled; then close."""
        if self._forever is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if self._sockets is None:
            raise RuntimeError(f"server {self!r} is closed")
        self._start()
        self._forever = self._loop.create_future()
        try:
            await self._forever
        except asyncio.CancelledError:
            self.close()
            await self.wait_closed()
            raise
        finally:
            self._forever = None

    def close(self) -> None:
        """Accept no more; connections that are there go on."""
        sockets, self._sockets = self._sockets, None
        if sockets is None:
            return
        for sock in sockets:
            if self._serving:
                self._reactor.unregister(sock)
            sock.close()
        self._serving = False
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()

    def close_clients(self) -> None:
        """Close every connection once what it has to send is sent."""
        for transport in list(self._active):
            transport.close()

    def abort_clients(self) -> None:
        """Close every connection now."""
        for transport in list(self._active):
            transport.abort()

    async def wait_closed(self) -> None:
        """Wait until it is closed and, from Python 3.12 on, every connection is, too."""
        if (self._sockets is None and not self._active) or not _WAITS_FOR_CLIENTS:
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter


class _Listening:
    """A server's listening socket, to be told of connections."""

    __slots__ = ("_server", "_sock")

    def __init__(self, server: Server, sock: Socket) -> None:
        self._server = server
        self._sock = sock

    def _ready(self, events: int) -> None:
        self._server._accept(self._sock)

    def _abandoned(self) -> None:
        self._server.close()


async def _listeners(
    stack: Stack, host: Any, port: Any, family: int, flags: int, reuse_address: bool | None, reuse_port: bool | None
) -> list[Socket]:
    loop = asyncio.get_running_loop()
    if host in ("", None):
        hosts: Iterable[Any] = [None]
    else:
        hosts = [host] if isinstance(host, (str, bytes)) else host
    found: dict[Any, None] = {}
    for one in hosts:
        for info in await addresses(stack, loop, one, port or 0, family=family, type=socket.SOCK_STREAM, flags=flags):
            found[info] = None
    made: list[Socket] = []
    try:
        for af, kind, proto, _, address in found:
            sock = Socket(stack, af, kind, proto)
            made.append(sock)
            if reuse_address is not False:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if af == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind(address)
            except OSError as error:
                text = f"error while attempting to bind on address {address!r}: {os.strerror(error.errno or 0).lower()}"
                raise OSError(error.errno, text) from None
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return made


async def create_server(
    stack: Stack,
    protocol_factory: Any,
    host: Any = None,
    port: Any = None,
    *,
    family: int = 0,
    flags: int = socket.AI_PASSIVE,
    sock: Any = None,
    backlog: int = 100,
    ssl: Any = None,
    reuse_address: bool | None = None,
    reuse_port: bool | None = None,
    keep_alive: bool | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    start_serving: bool = True,
) -> Server:
    """As the event loop's method. Raises OSError, ValueError, TypeError."""
    if isinstance(ssl, bool):
        raise TypeError("ssl argument must be an SSLContext or None")
    no_tls_without_context(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
    reactor = Reactor.of(stack, asyncio.get_running_loop())
    if sock is not None:
        if host is not None or port is not None:
            raise ValueError("host/port and sock can not be specified at the same time")
        sockets = [plain(sock)]
        if sockets[0].type != socket.SOCK_STREAM:
            raise ValueError(f"A Stream Socket was expected, got {sock!r}")
    elif host is None and port is None:
        raise ValueError("Neither host/port nor sock were specified")
    else:
        sockets = await _listeners(stack, host, port, family, flags, reuse_address, reuse_port)
    for one in sockets:
        one.setblocking(False)
        if keep_alive:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    tls: dict[str, Any] = {}
    if ssl is not None:
        tls = {
            "context": tls_context(ssl),
            "handshake_timeout": ssl_handshake_timeout,
            "shutdown_timeout": ssl_shutdown_timeout,
        }
    server = Server(reactor, sockets, protocol_factory, backlog, tls)
    if start_serving:
        server._start()
    return server
