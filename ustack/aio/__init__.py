"""asyncio over a stack: connections, servers and datagram endpoints in whatever event loop is running.

`Aio` (Stack.aio) has the event loop's methods for one stack; `EventLoop` is an event loop of which they are the own.
Everything here is written over the engine's events: no thread and no descriptor for a connection, none at all for a
stack that the loop drives (driver="asyncio").
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ..outside import plain
from . import connect, datagram, server
from .calls import Calls
from .datagram import DatagramTransport
from .loop import EventLoop, EventLoopPolicy
from .server import Server
from .stream import StreamTransport

if TYPE_CHECKING:
    from ..stack import Stack

__all__ = ["Aio", "DatagramTransport", "EventLoop", "EventLoopPolicy", "Server", "StreamTransport"]

_LIMIT = 1 << 16


class Aio(Calls):
    """An event loop's methods for one stack and its sockets and transports: arguments and results are asyncio's."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    async def create_connection(self, protocol_factory: Any, *arguments: Any, **keywords: Any) -> tuple[Any, Any]:
        """(transport, protocol): as loop.create_connection."""
        return await connect.create_connection(self._stack, protocol_factory, *arguments, **keywords)

    async def create_server(self, protocol_factory: Any, *arguments: Any, **keywords: Any) -> Server:
        """As loop.create_server."""
        return await server.create_server(self._stack, protocol_factory, *arguments, **keywords)

    async def create_datagram_endpoint(
        self, protocol_factory: Any, local_addr: Any = None, remote_addr: Any = None, **keywords: Any
    ) -> tuple[Any, Any]:
        """(transport, protocol): as loop.create_datagram_endpoint."""
        return await datagram.create_datagram_endpoint(
            self._stack, protocol_factory, local_addr, remote_addr, **keywords
        )

    async def connect_accepted_socket(self, protocol_factory: Any, sock: Any, **keywords: Any) -> tuple[Any, Any]:
        """(transport, protocol): as loop.connect_accepted_socket."""
        return await connect.connect_accepted_socket(self._stack, protocol_factory, sock, **keywords)

    async def sock_connect(self, sock: Any, address: Any) -> None:
        """As loop.sock_connect: names are looked up."""
        await connect.sock_connect(self._stack, plain(sock), address)

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
