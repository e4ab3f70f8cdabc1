"""The rest of asyncio's event loop for a stack: sock_*, sendfile, start_tls, accepted sockets, datagram options."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

import ustack
from tests.certificate import client_context, server_context
from tests.unit.aio_worlds import DATA, HERE, KINDS, THERE, Recorder, echo, exchange, protocols, run, until, uvloop

NAME = "server.test"
PIECE = DATA[:50000]


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1].__name__}")
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A driver and an event loop."""
    return {"driver": request.param[0], "new_loop": request.param[1]}


def own(stack: ustack.Stack, type: int = socket.SOCK_STREAM) -> ustack.Socket:
    """A socket that does not block."""
    sock = stack.socket(type=type)
    sock.setblocking(False)
    return sock


def listening(stack: ustack.Stack, port: int = 7) -> ustack.Socket:
    listener = stack.create_server(("", port))
    listener.setblocking(False)
    return listener


def streams() -> asyncio.StreamReaderProtocol:
    return asyncio.StreamReaderProtocol(asyncio.StreamReader(), echo)


# -- sockets


def test_streams_by_sockets(kind: dict[str, Any], tmp_path: Path) -> None:
    """Both directions of a socket at once, from two tasks, and more than its buffers hold."""
    (tmp_path / "file").write_bytes(DATA)

    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        left.hosts[NAME] = THERE
        listener, client = listening(right), own(left)
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        accepting = asyncio.ensure_future(right.aio.sock_accept(listener))
        await left.aio.sock_connect(client, (NAME, 7))
        server, address = await accepting
        assert server.gettimeout() == 0
        assert address == client.getsockname()

        async def back() -> None:
            room = bytearray(10000)
            while got := await right.aio.sock_recv_into(server, room):
                await right.aio.sock_sendall(server, room[:got])
            server.close()

        async def send() -> int:
            await left.aio.sock_sendall(client, DATA)
            with (tmp_path / "file").open("rb") as file:
                sent = await left.aio.sock_sendfile(client, file, 1000, 70000)
                assert file.tell() == 71000
                with pytest.raises(asyncio.SendfileNotAvailableError):
                    await left.aio.sock_sendfile(client, file, fallback=False)
            client.shutdown(socket.SHUT_WR)
            return sent

        answering, sending = asyncio.ensure_future(back()), asyncio.ensure_future(send())
        got = bytearray()
        while data := await left.aio.sock_recv(client, 1 << 16):
            got += data
        assert await sending == 70000
        await answering
        assert got == DATA + DATA[1000:71000]
        if before and kind["driver"] == "asyncio":
            assert len(os.listdir("/proc/self/fd")) <= before
        client.close()
        listener.close()

    run(test, **kind)


def test_datagrams_by_sockets(kind: dict[str, Any]) -> None:
    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        with own(left, socket.SOCK_DGRAM) as client, own(right, socket.SOCK_DGRAM) as server:
            server.bind((THERE, 7))
            asking = asyncio.ensure_future(right.aio.sock_recvfrom(server, 100))
            await asyncio.sleep(0)
            assert await left.aio.sock_sendto(client, b"one", (THERE, 7)) == 3
            data, address = await asking
            room = bytearray(100)
            answer = asyncio.ensure_future(left.aio.sock_recvfrom_into(client, room))
            await right.aio.sock_sendto(server, data + b" back", address)
            assert await answer == (8, (THERE, 7))
            assert room[:8] == b"one back"

    run(test, **kind)


def test_calls_that_are_cancelled_leave_nothing(kind: dict[str, Any]) -> None:
    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        listener, client = listening(right), own(left)
        await left.aio.sock_connect(client, (THERE, 7))
        server, _ = await right.aio.sock_accept(listener)
        reactor = left._reactors[asyncio.get_running_loop()]
        two = [asyncio.ensure_future(left.aio.sock_recv(client, 10)) for _ in range(2)]
        await asyncio.sleep(0)
        two[0].cancel()
        await asyncio.sleep(0)
        await right.aio.sock_sendall(server, b"for whoever is left")
        assert await two[1] == b"for whoeve"
        assert await left.aio.sock_recv(client, 100) == b"r is left"
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(left.aio.sock_recv(client, 10), 0.01)
        assert reactor.waits == {}
        assert reactor._waiting == 0
        waiting = asyncio.ensure_future(left.aio.sock_recv(client, 10))
        await asyncio.sleep(0)
        left.close(timeout=0)
        with pytest.raises(ConnectionAbortedError):
            await waiting
        for sock in (server, listener, client):
            sock.close()

    run(test, **kind)


def test_a_transports_socket_is_the_transports(kind: dict[str, Any]) -> None:
    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        ours, _, server = await protocols(left, right)
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="already"):
            await left.aio.sock_recv(ours.transport.get_extra_info("socket"), 10)
        ours.transport.close()
        await ours.over
        server.close()
        # One socket may be waited on twice.
        with own(left) as sock, listening(right, 8):
            await asyncio.gather(*(left.aio.sock_connect(sock, (THERE, 8)) for _ in range(3)))
            assert sock.getpeername() == (THERE, 8)

    run(test, **kind)


# -- transports


def test_accepted_sockets_with_tls(kind: dict[str, Any]) -> None:
    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        listener = listening(right)

        async def serve() -> None:
            sock, _ = await right.aio.sock_accept(listener)
            await right.aio.connect_accepted_socket(streams, sock, ssl=server_context())

        serving = asyncio.ensure_future(serve())
        reader, writer = await left.open_connection(THERE, 7, ssl=client_context(), server_hostname=NAME)
        assert await exchange(reader, writer, DATA) == DATA
        await serving
        with own(right, socket.SOCK_DGRAM) as sock, pytest.raises(ValueError, match="Stream Socket"):
            await right.aio.connect_accepted_socket(streams, sock)
        with own(right) as sock, pytest.raises(ValueError, match="only meaningful with ssl"):
            await right.aio.connect_accepted_socket(streams, sock, ssl_handshake_timeout=1.0)
        listener.close()
        await until(lambda: left.live()["sockets"] == right.live()["sockets"] == 0)

    run(test, **kind)


@pytest.mark.parametrize("driver", ["asyncio", "thread"])
def test_tls_connects_that_are_cancelled_leave_nothing(driver: str) -> None:
    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        dice = random.Random(6)
        context = client_context()
        server = await right.start_server(echo, "", 443, ssl=server_context())

        async def one() -> None:
            _, writer = await left.open_connection(THERE, 443, ssl=context, server_hostname=NAME)
            writer.close()
            await writer.wait_closed()

        tasks = [asyncio.ensure_future(one()) for _ in range(60)]
        while tasks:
            for _ in range(dice.randrange(8)):
                await asyncio.sleep(0)
            dice.shuffle(tasks)
            tasks[0].cancel()
            await asyncio.gather(tasks.pop(0), return_exceptions=True)
        await until(lambda: left.live()["sockets"] == 0 and right.live()["sockets"] == len(server.sockets))
        server.close()

    run(test, driver)


@pytest.mark.parametrize("turned", [False, True], ids=["client", "server"])
def test_start_tls_over_a_connection_and_over_tls(kind: dict[str, Any], turned: bool) -> None:
    """turned: TLS's client is who accepted the connection."""
    if sys.version_info < (3, 11):
        pytest.skip("optional: TLS over TLS is asyncio's from Python 3.11 on")

    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        one, other, server = await protocols(left, right)
        await until(lambda: one.transport is not None)
        ends = [(right, other, other.transport), (left, one, one.transport)]
        if not turned:
            ends.reverse()
        for text in (b"through TLS", b"through TLS in TLS"):
            (stack, client, inner), (peer, serves, below) = ends
            over = await asyncio.gather(
                stack.aio.start_tls(inner, client, client_context(), server_hostname=NAME),
                peer.aio.start_tls(below, serves, server_context(), server_side=True),
            )
            for transport, hears in zip(over, (serves, client), strict=True):
                hears.data.clear()
                transport.write(text)
                await until(lambda: hears.data == text)  # noqa: B023
            ends = [(stack, client, over[0]), (peer, serves, over[1])]
        for _, _, transport in ends:
            transport.abort()
        await asyncio.gather(one.over, other.over)
        server.close()

    run(test, **kind)


def test_stream_writers_start_tls(kind: dict[str, Any]) -> None:
    if kind["new_loop"] is uvloop or sys.version_info < (3, 11):
        pytest.skip("optional: uvloop's takes its own transports only; StreamWriter.start_tls() is new in 3.11")

    async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go\n")
        await writer.start_tls(server_context())
        await echo(reader, writer)

    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        server = await right.start_server(upgrade, "", 7)
        reader, writer = await left.open_connection(THERE, 7)
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"go\n"
        await writer.start_tls(client_context(), server_hostname=NAME)
        writer.write(PIECE)
        assert await reader.readexactly(len(PIECE)) == PIECE
        writer.close()
        await writer.wait_closed()
        server.close()

    run(test, **kind)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_sendfile(kind: dict[str, Any], tls: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)

    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        received: list[Recorder] = []

        def factory() -> Recorder:
            received.append(Recorder())
            return received[-1]

        server = await right.aio.create_server(factory, "", 7, ssl=server_context() if tls else None)
        options = {"ssl": client_context(), "server_hostname": NAME} if tls else {}
        transport, protocol = await left.aio.create_connection(Recorder, THERE, 7, **options)
        transport.write(b"head")
        loop: Any = asyncio.get_running_loop() if kind["new_loop"] is not uvloop else left.aio  # uvloop has none
        with (tmp_path / "file").open("rb") as file:
            assert await loop.sendfile(transport, file, 5, 1000) == 1000
            assert file.tell() == 1005
            assert await left.aio.sendfile(transport, file, 1005) == len(DATA) - 1005
            with pytest.raises(RuntimeError, match="fallback is disabled"):
                await left.aio.sendfile(transport, file, fallback=False)
            transport.write(b"tail")
            received[0].transport.write(b"reading goes on")
            await until(lambda: protocol.data == b"reading goes on")
            await until(lambda: received[0].data.endswith(b"tail"))
            assert received[0].data == b"head" + DATA[5:] + b"tail"
            transport.close()
            with pytest.raises(RuntimeError, match="closing"):
                await left.aio.sendfile(transport, file)
        await protocol.over
        received[0].transport.close()
        server.close()

    run(test, **kind)


# -- datagram endpoints


class Datagrams(asyncio.DatagramProtocol):
    """Notes what arrives."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.got.append((data, address[0]))


def test_options_of_datagram_endpoints(kind: dict[str, Any]) -> None:
    async def test(left: ustack.Stack, right: ustack.Stack) -> None:
        for stack, address in ((left, "fd09::1"), (right, "fd09::2")):
            stack.add_address(stack.interfaces()[-1].name, f"{address}/64")
        left.hosts["both.test"] = [THERE, "fd09::2"]
        twice = [
            await right.create_datagram_endpoint(Datagrams, local_addr=(THERE, 7), reuse_port=True) for _ in range(2)
        ]
        # Who may send to all is not connected to one: it hears from others, too.
        transport, wide = await left.create_datagram_endpoint(
            Datagrams, local_addr=(HERE, 9), remote_addr=("10.9.0.255", 7), allow_broadcast=True
        )
        with pytest.raises(ValueError, match="Invalid address"):
            transport.sendto(b"x", (THERE, 8))
        twice[0][0].sendto(b"not asked for", (HERE, 9))
        await until(lambda: wide.got == [(b"not asked for", THERE)])
        # Of a name the addresses count that go with the other end.
        six, _ = await left.create_datagram_endpoint(
            Datagrams, local_addr=("fd09::1", 0), remote_addr=("both.test", 7)
        )
        assert six.get_extra_info("peername")[:2] == ("fd09::2", 7)
        with pytest.raises(ValueError, match="can not get address information"):
            await left.create_datagram_endpoint(Datagrams, local_addr=("fd09::1", 0), remote_addr=(THERE, 7))
        with pytest.raises(ValueError, match="unexpected address family"):
            await left.create_datagram_endpoint(Datagrams)
        with pytest.raises(TypeError, match="2-tuple"):
            await left.create_datagram_endpoint(Datagrams, local_addr="fd09::1")
        with pytest.raises(OSError, match="in use"):
            await right.create_datagram_endpoint(Datagrams, local_addr=(THERE, 7))
        with own(left, socket.SOCK_DGRAM) as sock:
            with pytest.raises(ValueError, match="modifier"):
                await left.create_datagram_endpoint(Datagrams, sock=sock, reuse_port=True)
            sock.connect((THERE, 7))
            given, _ = await left.create_datagram_endpoint(Datagrams, sock=sock)
            assert given.get_extra_info("peername") == (THERE, 7)
        any_address, _ = await left.create_datagram_endpoint(Datagrams, family=socket.AF_INET)
        for one in (transport, six, given, any_address, *(pair[0] for pair in twice)):
            one.close()
        await asyncio.sleep(0)

    run(test, **kind)


# -- a loop of the stack's own


@pytest.mark.parametrize("driver", ["asyncio", "thread"])
def test_a_loop_of_the_stacks(driver: str, tmp_path: Path) -> None:
    """What programs that know of no stack call."""
    (tmp_path / "file").write_bytes(DATA)

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with socket.create_server(("", 7)) as listener, socket.socket() as client:
            listener.setblocking(False)
            client.setblocking(False)
            _, (accepted, _) = await asyncio.gather(
                loop.sock_connect(client, ("127.0.0.1", 7)), loop.sock_accept(listener)
            )
            transport, protocol = await loop.connect_accepted_socket(Recorder, accepted)
            with (tmp_path / "file").open("rb") as file:
                sending = asyncio.ensure_future(loop.sock_sendfile(client, file, 0, 100000))
                assert await sending == 100000
                await until(lambda: len(protocol.data) == 100000)
                assert protocol.data == DATA[:100000]
                assert await loop.sendfile(transport, file, 0, 1000) == 1000
            room = bytearray(2000)
            assert await loop.sock_recv_into(client, room) == 1000
            assert room[:1000] == DATA[:1000]

            # add_reader() and add_writer(), by the socket's descriptor.
            readable, writable = asyncio.Event(), asyncio.Event()
            loop.add_reader(client, readable.set)
            loop.add_writer(client, writable.set)
            await asyncio.wait_for(writable.wait(), 20)
            assert loop.remove_writer(client)
            assert not readable.is_set()
            transport.write(b"now")
            await asyncio.wait_for(readable.wait(), 20)
            assert loop.remove_reader(client)
            assert client.recv(10) == b"now"
            transport.close()
        with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as other:
            for sock in (one, other):
                sock.setblocking(False)
                sock.bind(("127.0.0.1", 0))
            if sys.version_info >= (3, 11):
                await loop.sock_sendto(one, b"datagram", other.getsockname())
                assert await loop.sock_recvfrom(other, 100) == (b"datagram", one.getsockname())
                await loop.sock_sendto(one, b"again", other.getsockname())
                assert (await loop.sock_recvfrom_into(other, room))[0] == 5
        # Sockets of the kernel.
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            right.setblocking(False)
            await loop.sock_sendall(left, b"the kernel's")
            assert await loop.sock_recv(right, 100) == b"the kernel's"

    with ustack.Stack(driver=driver) as stack:
        loop = stack.loop_factory()
        try:
            loop.run_until_complete(asyncio.wait_for(main(), 60))
            loop.run_until_complete(asyncio.sleep(0))
        finally:
            loop.close()


def test_an_address_of_the_kernels_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connect() that takes a while, of a socket that becomes the kernel's by it."""

    class Slow(ustack.outside._KernelSocket):
        def connect(self, address: Any) -> None:
            super().connect(address)
            raise BlockingIOError

    monkeypatch.setattr(ustack.outside, "_KernelSocket", Slow)

    async def main(listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            assert isinstance(sock.chosen, ustack.Socket)  # type: ignore[attr-defined]
            sock.setblocking(False)
            await loop.sock_connect(sock, ("localhost", listener.getsockname()[1]))
            assert not isinstance(sock.chosen, ustack.Socket)  # type: ignore[attr-defined]
            conn, _ = await loop.sock_accept(listener)
            with conn:
                await loop.sock_sendall(sock, b"hello")
                assert await loop.sock_recv(conn, 10) == b"hello"

    with socket.create_server(("127.0.0.1", 0)) as kernels, ustack.Stack(driver="asyncio") as stack:
        kernels.setblocking(False)
        monkeypatch.setattr(stack, "reaches", lambda address: False)
        loop = ustack.EventLoop(stack, outside="kernel")
        try:
            loop.run_until_complete(asyncio.wait_for(main(kernels), 20))
        finally:
            loop.close()
