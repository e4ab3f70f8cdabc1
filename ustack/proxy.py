"""Proxies that let the kernel's programs reach a stack's network: SOCKS5 (RFC 1928), HTTP CONNECT (RFC 9110 §9.3.6).

Responsible for: the two protocols, and carrying bytes both ways with half-close and back-pressure. Not for: the stack's
device and addresses. Names are looked up on the stack's side.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .stack import Stack

_PIECE = 1 << 16
_HEAD = 16384  # bytes of an HTTP request's head at most
_PATIENCE = 30.0  # s for the proxy's own handshake, and for the connection that is asked for

_VERSION = 5
_NO_AUTHENTICATION, _NO_METHOD = 0, 0xFF
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_FAILURE, _NET_UNREACHABLE, _HOST_UNREACHABLE, _REFUSED, _NOT_SUPPORTED, _NO_SUCH_TYPE = 1, 3, 4, 5, 7, 8

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Refusal(Exception):
    """The client is answered with this, and that was all."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer


class Proxy:
    """Proxies of one stack in the running event loop. connections: how many there are now."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """Clients at this moment."""
        return len(self._tasks)

    async def start_socks5(self, host: str, port: int) -> tuple[str, int]:
        """Listen for SOCKS5 clients on an address of the kernel -> the address. Raises OSError."""
        return await self._start(host, port, self._socks5)

    async def start_http_connect(self, host: str, port: int) -> tuple[str, int]:
        """Listen for HTTP clients that say CONNECT on an address of the kernel -> the address. Raises OSError."""
        return await self._start(host, port, self._http)

    async def _start(self, host: str, port: int, shake: Callable[..., Awaitable[Streams]]) -> tuple[str, int]:
        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._serve(reader, writer, shake)
            except (OSError, asyncio.CancelledError):
                pass
            finally:
                self._tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(client, host, port, limit=_PIECE)
        self._servers.append(server)
        name = server.sockets[0].getsockname()
        return name[0], name[1]

    async def close(self) -> None:
        """Listen no more, and end every connection."""
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, shake: Callable[..., Awaitable[Streams]]
    ) -> None:
        try:
            there = await asyncio.wait_for(shake(reader, writer), _PATIENCE)
        except _Refusal as refusal:
            writer.write(refusal.answer)
            await writer.drain()
            return
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.TimeoutError):
            return
        try:
            await asyncio.gather(_carry(reader, there[1]), _carry(there[0], writer))
        finally:
            there[1].close()

    # -- SOCKS5

    async def _socks5(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Streams:
        version, count = await reader.readexactly(2)
        if version != _VERSION:
            raise _Refusal(b"")
        if _NO_AUTHENTICATION not in await reader.readexactly(count):
            raise _Refusal(bytes([_VERSION, _NO_METHOD]))
        writer.write(bytes([_VERSION, _NO_AUTHENTICATION]))
        _, command, _, kind = await reader.readexactly(4)
        host = await _read_host(reader, kind)
        port = int.from_bytes(await reader.readexactly(2), "big")
        if command != _CONNECT:
            raise _Refusal(_reply(_NOT_SUPPORTED))
        try:
            there = await self._stack.open_connection(host, port, limit=_PIECE)
        except OSError as error:
            raise _Refusal(_reply(_code(error))) from None
        writer.write(_reply(0, there[1].get_extra_info("sockname")))
        return there

    # -- HTTP

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Streams:
        head = await reader.readuntil(b"\r\n\r\n")
        words = head.split(b"\r\n", 1)[0].split()
        if len(words) != 3 or len(head) > _HEAD:
            raise _Refusal(_status(400, "Bad Request"))
        if words[0] != b"CONNECT":
            raise _Refusal(_status(405, "Method Not Allowed", "Allow: CONNECT\r\n"))
        host, colon, port = words[1].decode("ascii", "replace").rpartition(":")
        if not colon or not port.isdigit() or int(port) > 0xFFFF:
            raise _Refusal(_status(400, "Bad Request"))
        try:
            there = await self._stack.open_connection(host.strip("[]"), int(port), limit=_PIECE)
        except OSError as error:
            late = isinstance(error, TimeoutError)
            raise _Refusal(_status(504, "Gateway Timeout") if late else _status(502, "Bad Gateway")) from None
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return there


async def _read_host(reader: asyncio.StreamReader, kind: int) -> str:
    if kind == _IPV4:
        return socket.inet_ntop(socket.AF_INET, await reader.readexactly(4))
    if kind == _IPV6:
        return socket.inet_ntop(socket.AF_INET6, await reader.readexactly(16))
    if kind == _NAME:
        (length,) = await reader.readexactly(1)
        return (await reader.readexactly(length)).decode("ascii", "replace")
    raise _Refusal(_reply(_NO_SUCH_TYPE))


def _code(error: OSError) -> int:
    """SOCKS5's reply for why a connection could not be made (RFC 1928 §6)."""
    if isinstance(error, (socket.gaierror, TimeoutError)):
        return _HOST_UNREACHABLE
    codes = {
        errno.ECONNREFUSED: _REFUSED,
        errno.ENETUNREACH: _NET_UNREACHABLE,
        errno.EHOSTUNREACH: _HOST_UNREACHABLE,
    }
    return codes.get(error.errno or 0, _FAILURE)


def _reply(code: int, bound: Any = None) -> bytes:
    address = ipaddress.ip_address(bound[0] if bound else "0.0.0.0")
    port = bound[1] if bound else 0
    kind = _IPV4 if address.version == 4 else _IPV6
    return bytes([_VERSION, code, 0, kind]) + address.packed + int(port).to_bytes(2, "big")


def _status(code: int, reason: str, fields: str = "") -> bytes:
    return f"HTTP/1.1 {code} {reason}\r\n{fields}Content-Length: 0\r\nConnection: close\r\n\r\n".encode()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes from one side to the other, and the end of the stream after them."""
    while data := await reader.read(_PIECE):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
