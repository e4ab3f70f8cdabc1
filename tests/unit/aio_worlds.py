"""Two stacks joined by a pipe in an event loop of several kinds, and what the tests of asyncio do there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import ustack

HERE, THERE = "10.9.0.1", "10.9.0.2"


Test = Callable[[ustack.Stack, ustack.Stack], Awaitable[Any]]


def run(test: Test, driver: str = "asyncio", new_loop: Any = asyncio.new_event_loop, **pipe: Any) -> Any:
    """Run a coroutine function with two stacks that are joined by a pipe, in an event loop of its own."""

    async def main() -> Any:
        problems: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
        a, b = ustack.pipe(**pipe)
        async with ustack.Stack(driver=driver) as left, ustack.Stack(driver=driver) as right:
            left.attach(a, addresses=[f"{HERE}/24"])
            right.attach(b, addresses=[f"{THERE}/24"])
            result = await asyncio.wait_for(test(left, right), 60)
        assert problems == []
        return result

    loop = new_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def uvloop() -> Any:
    """A loop of uvloop's, if it is installed."""
    return pytest.importorskip("uvloop", reason="optional: uvloop is not installed").new_event_loop()


KINDS = [(driver, new_loop) for new_loop in (asyncio.new_event_loop, uvloop) for driver in ("asyncio", "thread")]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
    """Send, end, and read to the end."""

    async def send() -> None:
        for at in range(0, len(data), 100000):
            writer.write(data[at : at + 100000])
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    task = asyncio.ensure_future(send())
    got = await (reader.read() if writer.can_write_eof() else reader.readexactly(len(data)))
    await task
    writer.close()
    await writer.wait_closed()
    return got


DATA = bytes(range(251)) * 9000


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens soon."""
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it does not happen")


class Recorder(asyncio.Protocol):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.data = bytearray()
        self.transport: Any = None
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.told.append("eof")
        return True

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, error: Exception | None) -> None:
        self.told.append(error)
        self.over.set_result(None)


async def protocols(left: ustack.Stack, right: ustack.Stack) -> tuple[Recorder, Recorder, Any]:
    """Two ends of a connection, and the server."""
    accepted: asyncio.Future[Recorder] = asyncio.get_running_loop().create_future()

    class Accepted(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            accepted.set_result(self)

    server = await right.aio.create_server(Accepted, "", 7)
    _, ours = await left.aio.create_connection(Recorder, THERE, 7)
    return ours, await accepted, server
