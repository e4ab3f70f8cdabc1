"""ustack.proxy: SOCKS5 (RFC 1928) and HTTP CONNECT from the kernel's loopback into a stack's network."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

import ustack
from ustack.proxy import Proxy

DATA = bytes(range(256)) * 2000


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Everything comes back once the client has closed its side."""
    writer.write(await reader.read())
    writer.close()


@contextlib.asynccontextmanager
async def network() -> AsyncIterator[tuple[Proxy, Any, Any]]:
    """A proxy into a network with an echo server at 10.9.0.2, port 7; where it listens for SOCKS5 and for HTTP."""
    a, b = ustack.pipe()
    async with ustack.Stack(driver="asyncio") as left, ustack.Stack(driver="asyncio") as right:
        left.attach(a, addresses=["10.9.0.1/24"])
        right.attach(b, addresses=["10.9.0.2/24"])
        left.hosts["echo.test"] = "10.9.0.2"
        server = await right.start_server(echo, "", 7)
        proxy = Proxy(left)
        yield proxy, await proxy.start_socks5("127.0.0.1", 0), await proxy.start_http_connect("127.0.0.1", 0)
        await proxy.close()
        server.close()


def run(test: Any) -> None:
    async def main() -> None:
        async with network() as (proxy, socks, http):
            await asyncio.wait_for(test(proxy, socks, http), 30)

    asyncio.run(main())


async def through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The connection is made: what is said comes back, with half-close."""
    writer.write(DATA)
    writer.write_eof()
    assert await reader.read() == DATA
    writer.close()


HOSTS = [b"\1" + socket.inet_aton("10.9.0.2"), b"\3\x09echo.test"]


@pytest.mark.parametrize("host", HOSTS, ids=["address", "name"])
def test_socks5(host: bytes) -> None:
    async def test(proxy: Proxy, socks: Any, http: Any) -> None:
        reader, writer = await asyncio.open_connection(*socks)
        writer.write(b"\5\2\0\2" + b"\5\1\0" + host + b"\0\7")
        assert await reader.readexactly(2) == b"\5\0"
        answer = await reader.readexactly(10)
        assert answer[:8] == b"\5\0\0\1" + socket.inet_aton("10.9.0.1")
        assert proxy.connections == 1
        await through(reader, writer)

    run(test)


REFUSED = [
    (b"\5\1\2", b"\5\xff"),
    (b"\4\1\0\x50", b""),
    (b"\5\1\0\5\2\0\1\x0a\x09\0\2\0\7", b"\5\0\5\7\0\1\0\0\0\0\0\0"),
    (b"\5\1\0\5\1\0\x09", b"\5\0\5\x08\0\1\0\0\0\0\0\0"),
    (b"\5\1\0\5\1\0\1\x0a\x09\0\2\0\1", b"\5\0\5\5\0\1\0\0\0\0\0\0"),
    (b"\5\1\0\5\1\0\1\xc0\0\2\1\0\1", b"\5\0\5\3\0\1\0\0\0\0\0\0"),
    (b"\5\1\0\5\1\0\3\x08no.where\0\1", b"\5\0\5\4\0\1\0\0\0\0\0\0"),
    (b"\5\1\0\5\1\0\1\x0a\x09", b"\5\0"),
]


@pytest.mark.parametrize(("request_", "answer"), REFUSED)
def test_socks5_refusals(request_: bytes, answer: bytes) -> None:
    async def test(proxy: Proxy, socks: Any, http: Any) -> None:
        reader, writer = await asyncio.open_connection(*socks)
        writer.write(request_)
        writer.write_eof()
        assert await reader.read() == answer
        writer.close()

    run(test)


def test_http_connect() -> None:
    async def test(proxy: Proxy, socks: Any, http: Any) -> None:
        reader, writer = await asyncio.open_connection(*http)
        writer.write(b"CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test:7\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        await through(reader, writer)

    run(test)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"GET http://echo.test/ HTTP/1.1", b"405"),
        (b"CONNECT echo.test HTTP/1.1", b"400"),
        (b"nonsense", b"400"),
        (b"CONNECT echo.test:1 HTTP/1.1", b"502"),
        (b"CONNECT no.where:1 HTTP/1.1", b"502"),
    ],
)
def test_http_refusals(line: bytes, code: bytes) -> None:
    async def test(proxy: Proxy, socks: Any, http: Any) -> None:
        reader, writer = await asyncio.open_connection(*http)
        writer.write(line + b"\r\n\r\n")
        assert (await reader.read()).split()[1] == code
        writer.close()

    run(test)


def test_closing_ends_every_connection() -> None:
    async def test(proxy: Proxy, socks: Any, http: Any) -> None:
        reader, writer = await asyncio.open_connection(*socks)
        writer.write(b"\5\1\0\5\1\0" + HOSTS[0] + b"\0\7")
        await reader.readexactly(12)
        await proxy.close()
        assert await reader.read() == b""
        assert proxy.connections == 0
        writer.close()

    run(test)
