"""asyncio in virtual time: the clock, timeouts, connections over a bad network, and the same run for the same seed."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

import ustack.sim
from ustack.aio import connect


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


def test_addresses_are_tried_at_once_where_so_said() -> None:
    """RFC 8305 §5: while the first is silent the next begins, after the delay; nothing is left of the first."""

    async def main(a: ustack.Stack, b: ustack.Stack) -> list[float]:
        loop = asyncio.get_running_loop()
        a.hosts["far.test"] = ["10.0.0.77", "10.0.0.78", "10.0.0.2"]
        a.hosts["nowhere.test"] = ["10.0.0.77", "10.0.0.78"]
        a.hosts["silent.test"] = ["10.0.0.87", "10.0.0.88"]
        server = await b.start_server(lambda reader, writer: writer.close(), "", 7)
        took = []
        for options in ({"happy_eyeballs_delay": 0.1}, {}):
            begin = loop.time()
            reader, writer = await a.open_connection("far.test", 7, **options)
            took.append(loop.time() - begin)
            assert a.live()["sockets"] == 1
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        with pytest.raises(OSError, match="Connect call failed"):
            await a.open_connection("nowhere.test", 7, happy_eyeballs_delay=0.1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(a.open_connection("silent.test", 7, happy_eyeballs_delay=0.1), 0.15)
        server.close()
        return took

    with ustack.sim.Network() as net:
        a, b = net.stack("a"), net.stack("b")
        net.wire(a, b, addresses=("10.0.0.1/24", "10.0.0.2/24"), delay=0.01)
        at_once, in_turn = net.run_async(main(a, b))
        assert 0.2 < at_once < 0.3
        assert in_turn > 1
        assert a.live()["sockets"] == 0


@pytest.mark.parametrize(
    ("count", "order"), [(1, "a1 b1 a2 b2 a3"), (2, "a1 a2 b1 a3 b2"), (3, "a1 a2 a3 b1 b2"), (9, "a1 a2 a3 b1 b2")]
)
def test_the_order_of_addresses(count: int, order: str) -> None:
    infos: Any = [("aaabb".index(name[0]), name) for name in ("a1", "a2", "a3", "b1", "b2")]
    assert " ".join(name for _, name in connect._interleaved(infos, count)) == order


def test_sockets_and_executors_in_virtual_time() -> None:
    async def main(a: ustack.Stack, b: ustack.Stack) -> None:
        loop = asyncio.get_running_loop()
        listener, client = b.create_server(("", 7)), a.socket()
        for sock in (listener, client):
            sock.setblocking(False)
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        await a.aio.sock_connect(client, ("10.0.0.2", 7))
        server, _ = await accepting
        sending = asyncio.ensure_future(loop.sock_sendall(client, bytes(300000)))
        got = 0
        while got < 300000:
            got += len(await loop.sock_recv(server, 1 << 16))
        await sending
        assert await loop.run_in_executor(None, sum, [1, 2]) == 3
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, divmod, 1, 0)
        for sock in (listener, client, server):
            sock.close()

    with ustack.sim.Network() as net:
        a, b = net.stack("a"), net.stack("b")
        net.wire(a, b, addresses=("10.0.0.1/24", "10.0.0.2/24"), delay=0.01)
        net.run_async(main(a, b))
