"""An event loop whose connections, servers and datagram endpoints are a stack's: for programs that know nothing of it.

Responsible for: which of the loop's methods are the stack's. While it runs, the socket module is patched in its thread,
for programs that make sockets themselves. Sockets of the kernel, subprocesses, pipes and AF_UNIX work as ever.
"""

from __future__ import annotations

import asyncio
import socket
import types
from typing import TYPE_CHECKING, Any

from .. import resolve
from ..outside import EitherSocket, plain
from ..socket import Socket
from .calls import Calls, SocketCalls
from .stream import StreamTransport

if TYPE_CHECKING:
    from ..stack import Stack


class EventLoop(SocketCalls, asyncio.SelectorEventLoop):
    """An asyncio event loop on a stack (Stack.loop_factory makes it).

    outside: what becomes of addresses that the stack has no route to, "refuse" or "kernel".
    """

    def __init__(self, stack: Stack, outside: str = "refuse") -> None:
        super().__init__()
        self._stack = stack
        self._outside = outside
        self._patched = stack.patched(scope="thread", outside=outside)
        if stack._driver.kind == "asyncio":
            stack._driver.bind(self)

    @property
    def stack(self) -> Stack:
        """The stack."""
        return self._stack

    def run_forever(self) -> None:
        """Run until stop() is called."""
        with self._patched:
            super().run_forever()

    def close(self) -> None:
        """Close the loop; the stack lives on."""
        if not self.is_closed() and not self.is_running():
            reactor = self._stack._reactors.pop(self, None)
            if reactor is not None:
                reactor.close()
            if self._stack._driver.kind == "asyncio" and self._stack._driver.loop is self:
                self._stack._driver.unbind()
        super().close()

    # -- what is the stack's

    def _is_stacks(self, host: Any, sock: Any) -> bool:
        if sock is not None:
            return isinstance(plain(sock), Socket)
        if self._outside == "refuse" or host is None:
            return True
        if resolve.numeric(host) is not None:
            return self._stack.reaches(host)
        try:
            found = resolve.getaddrinfo(self._stack, host, 0)
        except socket.gaierror:
            return False
        return self._stack.reaches(found[0][4][0])

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **keywords: Any
    ) -> Any:
        """As asyncio's."""
        if self._is_stacks(host, keywords.get("sock")):
            return await self._stack.aio.create_connection(protocol_factory, host, port, **keywords)
        return await super().create_connection(protocol_factory, host, port, **keywords)

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **keywords: Any) -> Any:
        """As asyncio's."""
        sock = keywords.get("sock")
        if sock is None or isinstance(plain(sock), Socket):
            return await self._stack.aio.create_server(protocol_factory, host, port, **keywords)
        return await super().create_server(protocol_factory, host, port, **keywords)

    async def create_datagram_endpoint(
        self, protocol_factory: Any, local_addr: Any = None, remote_addr: Any = None, **keywords: Any
    ) -> Any:
        """As asyncio's."""
        is_unix = keywords.get("family") == getattr(socket, "AF_UNIX", None) or isinstance(local_addr, (str, bytes))
        sock = keywords.get("sock")
        if not is_unix and self._is_stacks(remote_addr and remote_addr[0], sock):
            aio = self._stack.aio
            return await aio.create_datagram_endpoint(protocol_factory, local_addr, remote_addr, **keywords)
        return await super().create_datagram_endpoint(protocol_factory, local_addr, remote_addr, **keywords)

    async def connect_accepted_socket(self, protocol_factory: Any, sock: Any, **keywords: Any) -> Any:
        """As asyncio's."""
        if isinstance(plain(sock), Socket):
            return await self._stack.aio.connect_accepted_socket(protocol_factory, sock, **keywords)
        return await super().connect_accepted_socket(protocol_factory, sock, **keywords)

    async def sock_connect(self, sock: Any, address: Any) -> None:
        """As asyncio's. The address decides whose socket it is, where that is left open."""
        if isinstance(sock, EitherSocket):
            if resolve.numeric(address[0]) is None:
                found = await self.getaddrinfo(*address[:2], family=sock.family, type=sock.type)
                address = found[0][4]
            sock._decide(address)
        own = plain(sock)
        if isinstance(own, Socket):
            return await self._stack.aio.sock_connect(own, address)
        return await super().sock_connect(own, address)

    async def sendfile(
        self, transport: Any, file: Any, offset: int = 0, count: int | None = None, *, fallback: bool = True
    ) -> int:
        """As asyncio's."""
        if isinstance(transport, StreamTransport):
            return await Calls.sendfile(transport, file, offset, count, fallback=fallback)
        return await super().sendfile(transport, file, offset, count, fallback=fallback)

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        """As asyncio's: the stack's names."""
        from .connect import addresses

        try:
            return await addresses(self._stack, self, host, port, family=family, type=type, proto=proto, flags=flags)
        except socket.gaierror:
            if self._outside == "refuse":
                raise
        return await super().getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> Any:
        """As asyncio's: the stack's names."""
        return resolve.getnameinfo(self._stack, sockaddr, flags)


class EventLoopPolicy(asyncio.DefaultEventLoopPolicy):
    """asyncio.set_event_loop_policy(ustack.EventLoopPolicy(stack)): every new event loop is one on the stack."""

    def __init__(self, stack: Stack, outside: str = "refuse") -> None:
        super().__init__()
        self._loop_factory = types.MethodType(_make_loop, (stack, outside))


def _make_loop(what: tuple[Any, str]) -> EventLoop:
    return EventLoop(*what)
