"""asyncio over a stack: transports, servers, datagram endpoints, TLS, in loops of several kinds, and what is left."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any

import pytest

import ustack
from tests.certificate import client_context, server_context
from tests.unit.aio_worlds import DATA, HERE, KINDS, THERE, Recorder, echo, exchange, protocols, run, until, uvloop


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1].__name__}")
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A driver and an event loop."""
    return {"driver": request.param[0], "new_loop": request.param[1]}


def test_streams(kind: dict[str, Any]) -> None:
    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        server = await right.start_server(echo, "", 7)
        reader, writer = await left.open_connection(THERE, 7)
        assert writer.get_extra_info("peername") == (THERE, 7)
        assert writer.get_extra_info("sockname")[0] == HERE
        assert isinstance(writer.get_extra_info("socket"), ustack.Socket)
        assert await exchange(reader, writer, DATA) == DATA
        assert server.is_serving()
        server.close()
        await server.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            await left.open_connection(THERE, 7)

    run(test, **kind)


@pytest.mark.parametrize("upgrade", [False, True])
def test_tls(kind: dict[str, Any], upgrade: bool) -> None:
    if upgrade and kind["new_loop"] is uvloop:
        pytest.skip("optional: uvloop's start_tls() takes its own transports only")

    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        server = await right.start_server(echo, "", 443, ssl=server_context())
        if upgrade:
            loop = asyncio.get_running_loop()
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader)
            plain, _ = await left.aio.create_connection(lambda: protocol, THERE, 443)
            transport = await loop.start_tls(plain, protocol, client_context(), server_hostname="server.test")
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)  # type: ignore[arg-type]
        else:
            reader, writer = await left.open_connection(
                THERE, 443, ssl=client_context(), server_hostname="server.test"
            )
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert await exchange(reader, writer, DATA) == DATA
        server.close()

    run(test, **kind)


def test_a_wrong_certificate_is_refused_and_nothing_is_left(kind: dict[str, Any]) -> None:
    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        server = await right.start_server(echo, "", 443, ssl=server_context())
        with pytest.raises(ssl.SSLCertVerificationError):
            await left.open_connection(THERE, 443, ssl=client_context(), server_hostname="other.test")
        server.close()
        await until(lambda: left.live()["sockets"] == right.live()["sockets"] == 0)

    run(test, **kind)


def test_flow_control_and_half_close(kind: dict[str, Any]) -> None:
    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        ours, theirs, server = await protocols(left, right)
        theirs.transport.pause_reading()
        assert not theirs.transport.is_reading()
        ours.transport.set_write_buffer_limits(high=10000)
        piece = bytes(1 << 16)
        sent = 0
        while "pause" not in ours.told or ours.transport.get_write_buffer_size() <= 10000:
            ours.transport.write(piece)  # until windows and queues, which grow meanwhile, are full
            sent += len(piece)
            await asyncio.sleep(0.001)
        ours.transport.writelines([b"the", b"", b"end"])
        ours.transport.write_eof()
        with pytest.raises(RuntimeError):
            ours.transport.write(b"more")
        held = len(theirs.data)
        await asyncio.sleep(0.02)
        assert len(theirs.data) == held
        theirs.transport.resume_reading()
        await until(lambda: "eof" in theirs.told)
        assert len(theirs.data) == sent + 6
        assert theirs.data.endswith(b"theend")
        assert "resume" in ours.told
        theirs.transport.write(b"still here")
        await until(lambda: ours.data == b"still here")
        theirs.transport.close()
        await until(lambda: "eof" in ours.told)
        ours.transport.close()
        await ours.over
        await theirs.over
        assert ours.told[-1] is None
        assert theirs.told[-1] is None
        assert ours.transport.get_extra_info("peername") == (THERE, 7)
        server.close()

    run(test, **kind)


def test_what_connection_made_writes_arrives(kind: dict[str, Any]) -> None:
    """More than the socket takes at once, on either side."""

    class Talker(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.write(DATA * 5)

    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        accepted: list[Talker] = []

        def factory() -> Talker:
            accepted.append(Talker())
            return accepted[-1]

        server = await right.aio.create_server(factory, "", 7)
        _, ours = await left.aio.create_connection(Talker, THERE, 7)
        await until(lambda: len(ours.data) == 5 * len(DATA) == len(accepted[0].data))
        assert ours.data == DATA * 5 == accepted[0].data
        ours.transport.close()
        await ours.over
        server.close()

    run(test, **kind)


def test_a_reset_is_told(kind: dict[str, Any]) -> None:
    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        ours, theirs, server = await protocols(left, right)
        sock = theirs.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.transport.abort()
        await ours.over
        assert isinstance(ours.told[-1], ConnectionResetError)
        ours.transport.write(b"into the void")
        server.close()

    run(test, **kind)


def test_buffered_protocol(kind: dict[str, Any]) -> None:
    class Filled(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.room = bytearray(1000)
            self.got = bytearray()

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.room

        def buffer_updated(self, nbytes: int) -> None:
            self.got += self.room[:nbytes]

    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        server = await right.start_server(echo, "", 7)
        transport, protocol = await left.aio.create_connection(Filled, THERE, 7)
        transport.write(DATA[:50000])
        await until(lambda: len(protocol.got) == 50000)
        assert protocol.got == DATA[:50000]
        transport.close()
        server.close()

    run(test, **kind)


def test_datagrams(kind: dict[str, Any]) -> None:
    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, address: Any) -> None:
            self.transport.sendto(data.upper(), address)

    class Client(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.got: list[Any] = []

        def datagram_received(self, data: bytes, address: Any) -> None:
            self.got.append((data, address))

        def error_received(self, error: Exception) -> None:
            self.got.append(type(error))

    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        server, _ = await right.create_datagram_endpoint(Echo, local_addr=(THERE, 7))
        transport, protocol = await left.create_datagram_endpoint(Client, remote_addr=(THERE, 7))
        assert transport.get_extra_info("peername") == (THERE, 7)
        transport.sendto(b"loud")
        await until(lambda: protocol.got == [(b"LOUD", (THERE, 7))])
        with pytest.raises(ValueError, match="Invalid address"):
            transport.sendto(b"x", (THERE, 8))
        server.close()
        await asyncio.sleep(0)
        await until(lambda: not right.live()["sockets"])
        transport.sendto(b"anybody?")
        await until(lambda: ConnectionRefusedError in protocol.got)
        transport.close()

    run(test, **kind)


def test_the_stacks_end_is_told(kind: dict[str, Any]) -> None:
    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        ours, theirs, server = await protocols(left, right)
        pending = asyncio.ensure_future(left.open_connection("10.9.0.77", 7))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        left.close(timeout=0)
        await ours.over
        assert isinstance(ours.told[-1], ConnectionAbortedError)
        with pytest.raises(OSError, match="Connect call failed"):
            await pending
        await theirs.over
        server.close()

    run(test, **kind)


# -- what it costs, and what is left


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="optional: this system has no /proc/self/fd")
@pytest.mark.parametrize("driver", ["asyncio", "thread"])
def test_no_descriptor_for_a_connection(driver: str) -> None:
    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        server = await right.start_server(echo, "", 7)
        first = await left.open_connection(THERE, 7)
        before = len(os.listdir("/proc/self/fd"))
        writers = [(await left.open_connection(THERE, 7))[1] for _ in range(50)]
        assert len(os.listdir("/proc/self/fd")) <= before
        for writer in (first[1], *writers):
            writer.close()
        server.close()

    run(test, driver)


async def storm(left: ustack.Stack, right: ustack.Stack, connects: int) -> None:
    """Connects that are cancelled at random points."""
    dice = random.Random(6)
    server = await right.start_server(echo, "", 7, backlog=64)
    idle = {kind: (left.live()[kind], right.live()[kind]) for kind in ("sockets", "tcbs")}

    async def one(number: int) -> None:
        target = [(THERE, 7), (THERE, 8), ("10.9.0.77", 7)][number % 3]
        try:
            _, writer = await left.open_connection(*target)
            writer.write(b"hello")
            writer.close()
        except OSError:
            pass

    for batch in range(0, connects, 250):
        tasks = [asyncio.ensure_future(one(batch + i)) for i in range(250)]
        while tasks:
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(0)
            dice.shuffle(tasks)
            for task in tasks[:80]:
                task.cancel()
            gone, tasks = tasks[:80], tasks[80:]
            await asyncio.gather(*gone, return_exceptions=True)
    await until(lambda: left.live()["sockets"] == idle["sockets"][0] and right.live()["sockets"] == idle["sockets"][1])
    for stack in (left, right):
        reactor = stack._reactors.get(asyncio.get_running_loop())
        assert reactor is None or reactor._waiting == (len(server.sockets) if stack is right else 0)
    server.close()


@pytest.mark.parametrize("driver", ["asyncio", "thread"])
def test_a_storm_of_cancelled_connects_leaves_nothing(driver: str) -> None:
    connects = 10000 if os.environ.get("USTACK_FULL") else 1000

    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        await storm(left, right, connects)

    run(test, driver)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("USTACK_FULL"), reason="optional: 50,000 connections, with USTACK_FULL=1 only")
def test_many_connections(capsys: pytest.CaptureFixture[str]) -> None:
    import resource

    count = 50000

    class Quiet(asyncio.Protocol):
        pass

    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        right.sysctl["net.core.somaxconn"] = 4096
        servers = [await right.aio.create_server(Quiet, "", port, backlog=4096) for port in (7, 8, 9)]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        transports: list[Any] = []
        while len(transports) < count:
            made = await asyncio.gather(
                *(left.aio.create_connection(Quiet, THERE, 7 + i % 3) for i in range(500))
            )
            transports += [transport for transport, _ in made]
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        with capsys.disabled():
            print(f"\n{count} connections, both ends: {used / count * 1024:.0f} bytes a connection")
        for transport in transports:
            transport.close()
        transports.clear()
        await until(lambda: right.live()["sockets"] == sum(len(server.sockets) for server in servers))
        assert left.live()["sockets"] == 0
        for server in servers:
            server.close()

    run(test, queue=1 << 16)


# -- from other threads


def test_blocking_sockets_in_other_threads(kind: dict[str, Any]) -> None:
    def fetch(left: ustack.Stack) -> bytes:
        with left.create_connection((THERE, 7), timeout=20) as sock:
            sock.sendall(DATA[:50000])
            sock.shutdown(socket.SHUT_WR)
            got = bytearray()
            while data := sock.recv(1 << 16):
                got += data
        return bytes(got)

    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        server = await right.start_server(echo, "", 7)
        loop = asyncio.get_running_loop()
        assert await asyncio.gather(*(loop.run_in_executor(None, fetch, left) for _ in range(3))) == [DATA[:50000]] * 3
        server.close()

    run(test, **kind)


def test_the_loops_own_thread_never_blocks() -> None:
    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        with left.socket() as sock, pytest.raises(BlockingIOError):
            sock.connect((THERE, 7))

    run(test)


def test_callback_links_send_in_the_loops_thread() -> None:
    import threading

    seen: set[int] = set()

    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        loop = asyncio.get_running_loop()
        ends: list[ustack.Callback] = []

        def carry(number: int) -> Callable[[bytes], None]:
            def send(packet: bytes) -> None:
                seen.add(threading.get_ident())
                loop.call_soon(ends[1 - number].receive, packet)

            return send

        ends += [ustack.Callback(carry(0), medium="ip"), ustack.Callback(carry(1), medium="ip")]
        left.attach(ends[0], addresses=["10.7.0.1/24"])
        right.attach(ends[1], addresses=["10.7.0.2/24"])
        server = await right.start_server(echo, "", 7)

        def fetch() -> bytes:
            with left.create_connection(("10.7.0.2", 7), timeout=20) as sock:
                sock.sendall(b"hello")
                return sock.recv(10)

        assert await loop.run_in_executor(None, fetch) == b"hello"
        assert seen == {threading.get_ident()}
        server.close()

    run(test)


# -- loops of the stack's own


def test_an_event_loop_for_programs_that_know_nothing_of_it() -> None:
    async def main(right: ustack.Stack) -> None:
        server = await asyncio.start_server(echo, "", 7)
        assert isinstance(server.sockets[0], ustack.Socket)
        reader, writer = await asyncio.open_connection("server.test", 7)
        assert await exchange(reader, writer, DATA) == DATA
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            assert isinstance(sock, ustack.Socket)
            sock.setblocking(False)
            await loop.sock_connect(sock, ("server.test", 7))
            await loop.sock_sendall(sock, b"hello")
            assert await loop.sock_recv(sock, 10) == b"hello"
        assert (await loop.getaddrinfo("server.test", 7, type=socket.SOCK_STREAM))[0][4] == ("127.0.0.1", 7)
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(5)", stdout=asyncio.subprocess.PIPE)
        assert (await process.communicate())[0] == b"5\n"
        server.close()

    for driver in ("asyncio", "thread"):
        with ustack.Stack(driver=driver) as stack:
            stack.hosts["server.test"] = "127.0.0.1"
            loop = stack.loop_factory()
            try:
                loop.run_until_complete(main(stack))
            finally:
                loop.close()
        assert socket.socket.__init__ is not None
        with socket.socket() as sock:
            assert not isinstance(sock, ustack.Socket)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_policy() -> None:
    with ustack.Stack(driver="asyncio") as stack:
        asyncio.set_event_loop_policy(ustack.EventLoopPolicy(stack))
        try:
            loop = asyncio.new_event_loop()
            assert loop.stack is stack  # type: ignore[attr-defined]
            loop.close()
        finally:
            asyncio.set_event_loop_policy(None)


def test_a_stack_has_one_loop_at_a_time() -> None:
    with ustack.Stack(driver="asyncio") as stack:
        first, second = stack.loop_factory(), asyncio.new_event_loop()
        with pytest.raises(RuntimeError, match="another event loop"):
            second.run_until_complete(stack.start_server(echo, "", 7))
        first.close()
        server = second.run_until_complete(stack.start_server(echo, "", 7))
        server.close()
        second.close()
