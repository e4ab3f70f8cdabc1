"""asyncio in virtual time: the clock, timeouts, connections over a bad network, and the same run for the same seed."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

import ustack.sim


def test_time_is_virtual() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(1800))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.create_future(), 60)
        return loop.time() - begin

    with ustack.sim.Network() as net:
        assert net.run_async(main()) == pytest.approx(3660)
        assert net.now == pytest.approx(3660e9)


def test_what_cannot_happen_is_an_error() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with ustack.sim.Network() as net, pytest.raises(OSError) as failure:
        net.run_async(main())
    assert failure.value.errno == errno.EDEADLK


def transfer(seed: int, **settings: Any) -> tuple[int, bytes]:
    data = bytes(range(256)) * 2000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        await writer.drain()
        writer.close()

    async def main(a: ustack.Stack, b: ustack.Stack) -> bytes:
        server = await b.start_server(serve, "", 7)
        reader, writer = await a.open_connection("10.0.0.2", 7)
        writer.write(data)
        await writer.drain()
        writer.write_eof()
        got = await reader.read()
        writer.close()
        server.close()
        return bytes(got)

    with ustack.sim.Network(seed=seed) as net:
        a, b = net.stack("a"), net.stack("b")
        net.wire(a, b, addresses=("10.0.0.1/24", "10.0.0.2/24"), delay=0.01, **settings)
        got = net.run_async(main(a, b))
        assert got == data
        return net.now, got


def test_streams_over_a_bad_network_are_the_same_twice() -> None:
    assert transfer(3, loss=0.05) == transfer(3, loss=0.05)
    assert transfer(3, loss=0.05)[0] > transfer(3)[0]


def test_a_connect_that_nobody_answers_times_out_and_leaves_nothing() -> None:
    async def main(a: ustack.Stack) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(a.open_connection("10.0.0.2", 7), 1)
        assert a.live()["sockets"] == 0

    with ustack.sim.Network() as net:
        a, b = net.stack("a"), net.stack("b")
        wire = net.wire(a, b, addresses=("10.0.0.1/24", "10.0.0.2/24"))
        wire.up = False
        net.run_async(main(a))
        assert net.now == pytest.approx(1e9)
