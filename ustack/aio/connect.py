"""Making connections in an event loop: names, the handshakes of TCP and TLS, and nothing left behind when cancelled."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

from .. import resolve
from ..outside import plain
from ..socket import Socket
from .reactor import WRITE, Reactor
from .stream import StreamTransport

if TYPE_CHECKING:
    from ..stack import Stack

_HANDSHAKE = 60.0  # s, as asyncio has it
_SHUTDOWN = 30.0


class _Connecting:
    """Waits for the end of a TCP handshake."""

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self._future = future

    def _ready(self, events: int) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def _abandoned(self) -> None:
        self._ready(0)


async def connect(reactor: Reactor, sock: Socket, address: Any) -> None:
    """Connect a non-blocking socket. Raises OSError."""
    code = sock.connect_ex(address)
    if code in (errno.EINPROGRESS, errno.EALREADY):
        future: asyncio.Future[None] = reactor.loop.create_future()
        reactor.register(sock, WRITE, _Connecting(future))
        try:
            await future
        finally:
            reactor.unregister(sock)
        code = sock.connect_ex(address)
    if code not in (0, errno.EISCONN):
        raise OSError(code, f"Connect call failed {address}: {os.strerror(code)}")


async def addresses(
    stack: Stack, loop: asyncio.AbstractEventLoop, host: Any, port: Any, *, flags: int = 0, **wanted: Any
) -> list[resolve.AddressInfo]:
    """getaddrinfo(); the stack's resolver, which may block, is asked in another thread."""
    known = host is None or not isinstance(host, str) or resolve.numeric(host) is not None
    if known or not stack._asks_for_names():
        return resolve.getaddrinfo(stack, host, port, flags=flags, **wanted)

    def ask() -> list[resolve.AddressInfo]:
        return resolve.getaddrinfo(stack, host, port, flags=flags, **wanted)

    return await loop.run_in_executor(None, ask)


def tls_context(ssl: Any) -> Any:
    """The context that an `ssl` argument stands for; None: no TLS."""
    if ssl is None or ssl is False:
        return None
    import ssl as _ssl

    if ssl is True:
        return _ssl.create_default_context()
    if not isinstance(ssl, _ssl.SSLContext):
        raise TypeError(f"ssl argument must be an instance of ssl.SSLContext, got {ssl!r}")
    return ssl


def make_transport(
    reactor: Reactor,
    sock: Socket,
    protocol: Any,
    waiter: asyncio.Future[Any] | None = None,
    *,
    context: Any = None,
    server: Any = None,
    server_hostname: str | None = None,
    handshake_timeout: float | None = None,
    shutdown_timeout: float | None = None,
) -> Any:
    """The transport of a connected socket; with a context, TLS on top of it. `waiter` is done when it is ready."""
    if context is None:
        return StreamTransport(reactor, sock, protocol, waiter, server)
    from asyncio import sslproto

    timeouts: dict[str, Any] = {"ssl_handshake_timeout": handshake_timeout or _HANDSHAKE}
    if sys.version_info >= (3, 11):
        timeouts["ssl_shutdown_timeout"] = shutdown_timeout or _SHUTDOWN
    ready: Any = waiter
    tls = sslproto.SSLProtocol(reactor.loop, protocol, context, ready, server is not None, server_hostname, **timeouts)
    StreamTransport(reactor, sock, tls, None, server)
    return tls._app_transport


async def _bind(sock: Socket, locals_: list[resolve.AddressInfo], family: int) -> None:
    failure: OSError | None = None
    for info in locals_:
        if info[0] == family:
            try:
                sock.bind(info[4])
                return
            except OSError as error:
                text = f"error while attempting to bind on address {info[4]!r}: {os.strerror(error.errno or 0)}"
                failure = OSError(error.errno, text)
    raise failure or OSError(f"no matching local address with {family=} found")


async def _connect_one(
    reactor: Reactor, info: resolve.AddressInfo, locals_: list[resolve.AddressInfo] | None
) -> Socket:
    sock = Socket(reactor.stack, info[0], info[1], info[2])
    try:
        sock.setblocking(False)
        if locals_ is not None:
            await _bind(sock, locals_, info[0])
        await connect(reactor, sock, info[4])
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_any(
    reactor: Reactor, found: list[resolve.AddressInfo], locals_: list[resolve.AddressInfo] | None, all_errors: bool
) -> Socket:
    failures: list[Exception] = []
    for info in found:
        try:
            return await _connect_one(reactor, info, locals_)
        except OSError as error:
            failures.append(error)
    if all_errors and sys.version_info >= (3, 11):
        raise ExceptionGroup("create_connection failed", failures)  # noqa: F821
    if len(failures) == 1 or all(str(one) == str(failures[0]) for one in failures):
        raise failures[0]
    raise OSError(f"Multiple exceptions: {', '.join(str(one) for one in failures)}")


async def create_connection(
    stack: Stack,
    protocol_factory: Any,
    host: Any = None,
    port: Any = None,
    *,
    ssl: Any = None,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    sock: Any = None,
    local_addr: Any = None,
    server_hostname: str | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    happy_eyeballs_delay: float | None = None,
    interleave: int | None = None,
    all_errors: bool = False,
) -> tuple[Any, Any]:
    """As the event loop's method. Addresses are tried one after another. Raises OSError, ssl.SSLError, ValueError."""
    del happy_eyeballs_delay, interleave
    loop = asyncio.get_running_loop()
    context = tls_context(ssl)
    server_hostname = _server_hostname(context, server_hostname, host, ssl_handshake_timeout, ssl_shutdown_timeout)
    reactor = Reactor.of(stack, loop)
    if sock is not None:
        if host is not None or port is not None:
            raise ValueError("host/port and sock can not be specified at the same time")
        sock = plain(sock)
        if sock.type != socket.SOCK_STREAM:
            raise ValueError(f"A Stream Socket was expected, got {sock!r}")
        sock.setblocking(False)
    else:
        if host is None and port is None:
            raise ValueError("host and port was not specified and no sock specified")
        wanted = {"family": family, "type": socket.SOCK_STREAM, "proto": proto, "flags": flags}
        found = await addresses(stack, loop, host, port, **wanted)
        locals_ = None
        if local_addr is not None:
            locals_ = await addresses(stack, loop, *local_addr[:2], **wanted)
        sock = await _connect_any(reactor, found, locals_, all_errors)
    waiter: asyncio.Future[None] = loop.create_future()
    protocol = protocol_factory()
    transport = make_transport(
        reactor,
        sock,
        protocol,
        waiter,
        context=context,
        server_hostname=server_hostname,
        handshake_timeout=ssl_handshake_timeout,
        shutdown_timeout=ssl_shutdown_timeout,
    )
    try:
        await waiter
    except BaseException:
        transport.abort() if context is not None else transport.close()
        raise
    return transport, protocol


def _server_hostname(
    context: Any, server_hostname: str | None, host: Any, handshake: float | None, shutdown: float | None
) -> str | None:
    if context is None:
        if server_hostname is not None:
            raise ValueError("server_hostname is only meaningful with ssl")
        if handshake is not None:
            raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
        if shutdown is not None:
            raise ValueError("ssl_shutdown_timeout is only meaningful with ssl")
        return None
    if server_hostname is None:
        if not host:
            raise ValueError("You must set server_hostname when using ssl without a host")
        return str(host)
    return server_hostname
