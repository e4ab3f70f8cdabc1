"""asyncio over a stack: connections, servers and datagram endpoints in whatever event loop is running.

`Aio` (Stack.aio) has the event loop's methods for one stack; `EventLoop` is an event loop of which they are the own.
Everything here is written over the engine's events: no thread and no descriptor for a connection, none at all for a
stack that the loop drives (driver="asyncio").
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from ..outside import plain
from ..socket import Socket
from . import connect, server
from .datagram import DatagramTransport
from .loop import EventLoop, EventLoopPolicy
from .reactor import Reactor
from .server import Server
from .stream import StreamTransport

if TYPE_CHECKING:
    from ..stack import Stack

__all__ = ["Aio", "DatagramTransport", "EventLoop", "EventLoopPolicy", "Server", "StreamTransport"]

_LIMIT = 1 << 16


class Aio:
    """The methods of an event loop that make connections, for one stack: arguments and results are asyncio's."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    async def create_connection(self, protocol_factory: Any, *arguments: Any, **keywords: Any) -> tuple[Any, Any]:
        """(transport, protocol): as loop.create_connection."""
        return await connect.create_connection(self._stack, protocol_factory, *arguments, **keywords)

    async def create_server(self, protocol_factory: Any, *arguments: Any, **keywords: Any) -> Server:
        """As loop.create_server."""
        return await server.create_server(self._stack, protocol_factory, *arguments, **keywords)

    async def create_datagram_endpoint(
        self,
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
        """(transport, protocol): as loop.create_datagram_endpoint."""
        loop = asyncio.get_running_loop()
        reactor = Reactor.of(self._stack, loop)
        peer = None
        if sock is None:
            ends = []
            for address in (local_addr, remote_addr):
                wanted = {"family": family, "type": socket.SOCK_DGRAM, "proto": proto, "flags": flags}
                ends.append(address and (await connect.addresses(self._stack, loop, *address[:2], **wanted))[0])
            if ends[0] and ends[1] and ends[0][0] != ends[1][0]:
                raise ValueError("can not get address information")
            if not ends[0] and not ends[1] and not family:
                raise ValueError("unexpected address family")
            sock = Socket(self._stack, (ends[0] or ends[1] or [family])[0], socket.SOCK_DGRAM)
            try:
                if reuse_port:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if allow_broadcast:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                if ends[0]:
                    sock.bind(ends[0][4])
                if ends[1]:
                    peer = ends[1][4]
                    sock.connect(peer)
            except BaseException:
                sock.close()
                raise
        else:
            sock = plain(sock)
            if sock.type != socket.SOCK_DGRAM:
                raise ValueError(f"A datagram socket was expected, got {sock!r}")
            peer = sock._names()[1]
        sock.setblocking(False)
        waiter = loop.create_future()
        protocol = protocol_factory()
        transport = DatagramTransport(reactor, sock, protocol, peer, waiter)
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol

    async def sock_connect(self, sock: Any, address: Any) -> None:
        """As loop.sock_connect: names are looked up."""
        sock = plain(sock)
        if sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        loop = asyncio.get_running_loop()
        wanted = {"family": sock.family, "type": sock.type, "proto": 0}
        found = await connect.addresses(self._stack, loop, address[0], address[1], **wanted)
        await connect.connect(Reactor.of(self._stack, loop), sock, found[0][4])

    async def open_connection(
        self, host: Any = None, port: Any = None, *, limit: int = _LIMIT, **keywords: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """(reader, writer): as asyncio.open_connection."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await self.create_connection(lambda: protocol, host, port, **keywords)
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def start_server(
        self, client_connected: Any, host: Any = None, port: Any = None, *, limit: int = _LIMIT, **keywords: Any
    ) -> Server:
        """As asyncio.start_server."""
        loop = asyncio.get_running_loop()

        def factory() -> asyncio.StreamReaderProtocol:
            reader = asyncio.StreamReader(limit=limit, loop=loop)
            return asyncio.StreamReaderProtocol(reader, client_connected, loop=loop)

        return await self.create_server(factory, host, port, **keywords)
