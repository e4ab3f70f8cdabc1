"""Making connections in an event loop: names, the handshakes of TCP and TLS, and nothing left behind when cancelled."""

from __future__ import annotations

import asyncio
import collections
import errno
import os
import socket
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from .. import resolve
from ..connect import in_turns
from ..outside import plain
from ..socket import Socket
from .calls import ready
from .reactor import WRITE, Reactor
from .stream import StreamTransport

if TYPE_CHECKING:
    from ..stack import Stack

_HANDSHAKE = 60.0  # s, as asyncio has it
_SHUTDOWN = 30.0


async def connect(reactor: Reactor, sock: Socket, address: Any) -> None:
    """Connect a non-blocking socket. Raises OSError."""
    code = sock.connect_ex(address)
    if code in (errno.EINPROGRESS, errno.EALREADY):
        await ready(reactor, sock, WRITE)
        code = sock.connect_ex(address)
    if code not in (0, errno.EISCONN):
        raise OSError(code, f"Connect call failed {address}: {os.strerror(code)}")


async def sock_connect(stack: Stack, sock: Socket, address: Any) -> None:
    """As loop.sock_connect: names are looked up. Raises OSError; ValueError: the socket blocks."""
    if sock.gettimeout() != 0:
        raise ValueError("the socket must be non-blocking")
    loop = asyncio.get_running_loop()
    if resolve.numeric(address[0]) is None:
        wanted = {"family": sock.family, "type": sock.type, "proto": 0}
        address = (await addresses(stack, loop, address[0], address[1], **wanted))[0][4]
    await connect(Reactor.of(stack, loop), sock, address)


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
    server_side: bool = False,
    server_hostname: str | None = None,
    handshake_timeout: float | None = None,
    shutdown_timeout: float | None = None,
) -> Any:
    """The transport of a connected socket; with a context, TLS on top of it. `waiter` is done when it is ready.

    server: whose connection it is. server_side: of TLS, as a server's connections are.
    """
    if context is None:
        return StreamTransport(reactor, sock, protocol, waiter, server)
    from asyncio import sslproto

    timeouts: dict[str, Any] = {"ssl_handshake_timeout": handshake_timeout or _HANDSHAKE}
    if sys.version_info >= (3, 11):
        timeouts["ssl_shutdown_timeout"] = shutdown_timeout or _SHUTDOWN
    serves = server_side or server is not None
    told: Any = waiter
    tls = sslproto.SSLProtocol(reactor.loop, protocol, context, told, serves, server_hostname, **timeouts)
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


async def _one_after_another(
    reactor: Reactor, found: list[resolve.AddressInfo], locals_: list[resolve.AddressInfo] | None, failures: list[Any]
) -> Socket | None:
    for info in found:
        try:
            return await _connect_one(reactor, info, locals_)
        except OSError as error:
            failures.append(error)
    return None


async def _race(
    reactor: Reactor,
    found: list[resolve.AddressInfo],
    locals_: list[resolve.AddressInfo] | None,
    failures: list[Any],
    delay: float,
) -> Socket | None:
    """RFC 8305 §5: the next address is tried when one has failed, or after `delay` seconds; the first that connects."""
    waiting = collections.deque(found)
    running: set[asyncio.Task[Socket]] = set()
    winner: Socket | None = None
    try:
        while winner is None and (waiting or running):
            if waiting:
                running.add(asyncio.ensure_future(_connect_one(reactor, waiting.popleft(), locals_)))
            done, _ = await asyncio.wait(
                running, timeout=delay if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                if winner is not None:
                    break
                running.discard(task)
                if isinstance(error := task.exception(), OSError):
                    failures.append(error)
                else:
                    winner = task.result()
    finally:
        for task in running:
            task.cancel()
        for outcome in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(outcome, Socket):
                outcome.close()
    return winner


def _raise(failures: list[Any], all_errors: bool) -> NoReturn:
    if all_errors and sys.version_info >= (3, 11):
        raise ExceptionGroup("create_connection failed", failures)  # noqa: F821
    if len(failures) == 1 or all(str(one) == str(failures[0]) for one in failures):
        raise failures[0]
    raise OSError(f"Multiple exceptions: {', '.join(str(one) for one in failures)}")


def _interleaved(found: list[resolve.AddressInfo], count: int) -> list[resolve.AddressInfo]:
    """The families in turns, after `count` addresses of the first (RFC 8305 §4, First Address Family Count)."""
    first = [one for one in found if one[0] == found[0][0]][: count - 1]
    return first + in_turns([one for one in found if one not in first])


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
    """As the event loop's method. Raises OSError, ssl.SSLError, ValueError."""
    loop = asyncio.get_running_loop()
    context = tls_context(ssl)
    server_hostname = _server_hostname(context, server_hostname, host, ssl_handshake_timeout, ssl_shutdown_timeout)
    reactor = Reactor.of(stack, loop)
    if sock is not None:
        if host is not None or port is not None:
            raise ValueError("host/port and sock can not be specified at the same time")
        sock = _stream(sock)
    else:
        if host is None and port is None:
            raise ValueError("host and port was not specified and no sock specified")
        wanted = {"family": family, "type": socket.SOCK_STREAM, "proto": proto, "flags": flags}
        found = await addresses(stack, loop, host, port, **wanted)
        locals_ = None
        if local_addr is not None:
            locals_ = await addresses(stack, loop, *local_addr[:2], **wanted)
        if interleave or (interleave is None and happy_eyeballs_delay is not None):
            found = _interleaved(found, interleave or 1)
        failures: list[Any] = []
        if happy_eyeballs_delay is None:
            sock = await _one_after_another(reactor, found, locals_, failures)
        else:
            sock = await _race(reactor, found, locals_, failures, happy_eyeballs_delay)
        if sock is None:
            _raise(failures, all_errors)
    return await _made_ready(
        reactor,
        sock,
        protocol_factory,
        context=context,
        server_hostname=server_hostname,
        handshake_timeout=ssl_handshake_timeout,
        shutdown_timeout=ssl_shutdown_timeout,
    )


async def connect_accepted_socket(
    stack: Stack,
    protocol_factory: Any,
    sock: Any,
    *,
    ssl: Any = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
) -> tuple[Any, Any]:
    """As the event loop's method. Raises OSError, ssl.SSLError, ValueError, TypeError."""
    if isinstance(ssl, bool):
        raise TypeError("ssl argument must be an SSLContext or None")
    context = tls_context(ssl)
    no_tls_without_context(context, ssl_handshake_timeout, ssl_shutdown_timeout)
    return await _made_ready(
        Reactor.of(stack, asyncio.get_running_loop()),
        _stream(sock),
        protocol_factory,
        context=context,
        server_side=True,
        handshake_timeout=ssl_handshake_timeout,
        shutdown_timeout=ssl_shutdown_timeout,
    )


def _stream(sock: Any) -> Socket:
    """A program's connected socket, made to not block. Raises ValueError."""
    own = plain(sock)
    if not isinstance(own, Socket) or own.type != socket.SOCK_STREAM:
        raise ValueError(f"A Stream Socket was expected, got {sock!r}")
    own.setblocking(False)
    return own


async def _made_ready(reactor: Reactor, sock: Socket, protocol_factory: Any, **options: Any) -> tuple[Any, Any]:
    """(transport, protocol) of a connected socket, once its protocol, and TLS if that is wanted, has begun."""
    waiter: asyncio.Future[None] = reactor.loop.create_future()
    protocol = protocol_factory()
    transport = make_transport(reactor, sock, protocol, waiter, **options)
    try:
        await waiter
    except BaseException:
        transport.abort() if options["context"] is not None else transport.close()
        raise
    return transport, protocol


def no_tls_without_context(context: Any, handshake: float | None, shutdown: float | None) -> None:
    """Raises ValueError: timeouts of TLS are given where there is none."""
    if context is None and handshake is not None:
        raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
    if context is None and shutdown is not None:
        raise ValueError("ssl_shutdown_timeout is only meaningful with ssl")


def _server_hostname(
    context: Any, server_hostname: str | None, host: Any, handshake: float | None, shutdown: float | None
) -> str | None:
    if context is None:
        if server_hostname is not None:
            raise ValueError("server_hostname is only meaningful with ssl")
        no_tls_without_context(context, handshake, shutdown)
        return None
    if server_hostname is None:
        if not host:
            raise ValueError("You must set server_hostname when using ssl without a host")
        return str(host)
    return server_hostname
