"""Python's network libraries, unmodified, over the stack: with `patched()`, in an event loop of the stack, with TLS.

Client and server are on two stacks of this process, each in a thread or a loop of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ftplib
import queue
import smtplib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ustack
from tap_harness.ends import Ends
from tests.certificate import PEM, client_context, server_context

NAME = "server.test"
BODY = bytes(range(256)) * 2000


def wanted(name: str) -> Any:
    """A library, or a skip."""
    return pytest.importorskip(name, reason=f"optional: {name} is not installed (pip install -e '.[interop]')")


@pytest.fixture(params=["thread", "asyncio"])
def driver(request: pytest.FixtureRequest) -> str:
    """Who runs the stacks."""
    return str(request.param)


class Wire:
    """A pipe: the client's end (`ends.kernel`), the server's (`ends.stack`, which is NAME)."""

    def __init__(self, ends: Ends) -> None:
        self.ends = ends
        self._client, self._server = ustack.pipe()

    def client(self, driver: str) -> ustack.Stack:
        """A stack on the client's end."""
        return self._stack(self._client, self.ends.kernel_net, driver)

    def server(self, driver: str) -> ustack.Stack:
        """A stack on the server's."""
        return self._stack(self._server, self.ends.stack_net, driver)

    def _stack(self, end: Any, address: str, driver: str) -> ustack.Stack:
        stack = ustack.Stack(driver=driver)
        stack.attach(end, addresses=[address])
        stack.hosts[NAME] = self.ends.stack
        return stack


@pytest.fixture
def wire(ends: Ends) -> Wire:
    return Wire(ends)


@contextlib.contextmanager
def running(wire: Wire, main: Callable[[asyncio.Event], Any], driver: str) -> Iterator[None]:
    """An event loop on a stack of its own, in a thread: main(stop) serves until the event is set."""
    ready, held = threading.Event(), []

    def serve() -> None:
        with wire.server(driver) as stack:
            loop = stack.loop_factory()
            stop = asyncio.Event()
            held.append((loop, stop))

            async def serving() -> None:
                task = asyncio.ensure_future(main(stop))
                while not task.done() and not stack.connections():
                    await asyncio.sleep(0.01)
                ready.set()
                await task

            loop.run_until_complete(serving())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(stack.aclose(1))
            loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(30)
    try:
        yield
    finally:
        loop, stop = held[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join()


async def app(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that answers with what it is sent."""
    assert scope["type"] == "http"
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-client", scope["client"][0].encode())]})
    await send({"type": "http.response.body", "body": body})


def uvicorn_main(wire: Wire, tls: bool) -> Callable[[asyncio.Event], Any]:
    uvicorn = wanted("uvicorn")
    wanted("h11")
    options: dict[str, Any] = {"ssl_certfile": str(PEM), "ssl_keyfile": str(PEM)} if tls else {}

    async def main(stop: asyncio.Event) -> None:
        options.update(log_level="error", lifespan="off", http="h11")
        config = uvicorn.Config(app, host=wire.ends.any, port=80, **options)
        server = uvicorn.Server(config)
        task = asyncio.ensure_future(server.serve())
        await stop.wait()
        server.should_exit = True
        await task

    return main


def url(tls: bool) -> str:
    return f"{'https' if tls else 'http'}://{NAME}:80/"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_requests_and_uvicorn(wire: Wire, driver: str, tls: bool) -> None:
    requests = wanted("requests")
    with running(wire, uvicorn_main(wire, tls), driver), wire.client("thread") as stack:
        with stack.patched(), requests.Session() as session:
            session.trust_env = False
            for _ in range(3):
                answer = session.post(url(tls), data=BODY, timeout=20, verify=str(PEM))
                assert answer.content == BODY
                assert answer.headers["x-client"] == wire.ends.kernel


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_httpx(wire: Wire, driver: str, tls: bool) -> None:
    httpx = wanted("httpx")
    with running(wire, uvicorn_main(wire, tls), "asyncio"), wire.client(driver) as stack:
        if driver == "thread":
            with stack.patched(), httpx.Client(verify=client_context(), trust_env=False, timeout=20) as client:
                assert client.post(url(tls), content=BODY).content == BODY

        async def main() -> None:
            async with httpx.AsyncClient(verify=client_context(), trust_env=False, timeout=20) as client:
                answers = await asyncio.gather(*(client.post(url(tls), content=BODY) for _ in range(3)))
            assert [answer.content for answer in answers] == [BODY] * 3

        in_loop(stack, main())


def in_loop(stack: ustack.Stack, coroutine: Any) -> None:
    loop = stack.loop_factory()
    try:
        loop.run_until_complete(asyncio.wait_for(coroutine, 60))
        loop.run_until_complete(asyncio.sleep(0.01))
    finally:
        loop.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_aiohttp(wire: Wire, driver: str, tls: bool, tmp_path: Path) -> None:
    aiohttp = wanted("aiohttp")
    from aiohttp import web

    (tmp_path / "file").write_bytes(BODY)

    async def answer(request: Any) -> Any:
        if request.headers.get("Upgrade"):
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                await socket.send_bytes(message.data)
            return socket
        return web.Response(body=await request.read())

    async def serve(stop: asyncio.Event) -> None:
        application = web.Application(client_max_size=1 << 24)
        application.router.add_route("*", "/", answer)
        application.router.add_static("/files", tmp_path)  # by loop.sendfile()
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, wire.ends.any, 80, ssl_context=server_context() if tls else None).start()
        await stop.wait()
        await runner.cleanup()

    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            keywords = {"ssl": client_context()} if tls else {}
            for _ in range(3):
                async with session.post(url(tls), data=BODY, **keywords) as response:
                    assert await response.read() == BODY
            async with session.get(url(tls) + "files/file", **keywords) as response:
                assert await response.read() == BODY
            async with session.ws_connect(url(tls), **keywords) as websocket:
                await websocket.send_bytes(BODY)
                assert (await websocket.receive()).data == BODY

    with running(wire, serve, driver), wire.client(driver) as stack:
        in_loop(stack, main())


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_websockets(wire: Wire, driver: str, tls: bool) -> None:
    wanted("websockets")
    from websockets.asyncio import client, server
    from websockets.sync.client import connect

    address = url(tls).replace("http", "ws")
    secure = client_context() if tls else None

    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async def serve(stop: asyncio.Event) -> None:
        async with server.serve(echo, wire.ends.any, 80, ssl=server_context() if tls else None):
            await stop.wait()

    async def main() -> None:
        async with client.connect(address, ssl=secure, proxy=None) as connection:
            await connection.send(BODY)
            assert await connection.recv() == BODY

    with running(wire, serve, driver), wire.client(driver) as stack:
        in_loop(stack, main())
        if driver == "thread":
            with stack.patched(), connect(address, ssl=secure, proxy=None) as connection:
                connection.send(BODY)
                assert connection.recv() == BODY


def test_anyio(wire: Wire, driver: str) -> None:
    """Its sockets, in whose stead trio's would be, too: names, streams, datagrams, a timeout that leaves nothing."""
    anyio = wanted("anyio")

    async def echo(stream: Any) -> None:
        async with stream:
            async for data in stream:
                await stream.send(data)

    async def serve(stop: asyncio.Event) -> None:
        listener = await anyio.create_tcp_listener(local_host=wire.ends.any, local_port=80)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            async with await anyio.create_udp_socket(local_host=wire.ends.stack, local_port=53) as udp:
                data, sender = await udp.receive()
                await udp.sendto(data.upper(), *sender[:2])
            await stop.wait()
            group.cancel_scope.cancel()

    async def main() -> None:
        async with await anyio.connect_tcp(NAME, 80) as stream:
            await stream.send(BODY)
            got = b""
            while len(got) < len(BODY):
                got += await stream.receive()
            assert got == BODY
            with pytest.raises(TimeoutError):
                with anyio.fail_after(0.01):
                    await stream.receive()
            await stream.send(b"still here")
            assert await stream.receive() == b"still here"
        async with await anyio.create_connected_udp_socket(wire.ends.stack, 53) as udp:
            await udp.send(b"loud")
            assert await udp.receive() == b"LOUD"

    with running(wire, serve, driver), wire.client(driver) as stack:
        in_loop(stack, main())


@pytest.fixture
def stacks(wire: Wire) -> Iterator[tuple[ustack.Stack, ustack.Stack]]:
    """Client's and server's, each with a thread."""
    with wire.client("thread") as left, wire.server("thread") as right:
        yield left, right


@pytest.mark.parametrize("tls", ["plain", "starttls", "tls"])
def test_smtplib_and_aiosmtpd(wire: Wire, driver: str, tls: str) -> None:
    wanted("aiosmtpd")
    from aiosmtpd.smtp import SMTP

    got: list[tuple[Any, bytes]] = []

    class Mailbox:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            got.append((session.ssl, envelope.content))
            return "250 taken"

    async def serve(stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"hostname": NAME, "loop": loop, "enable_SMTPUTF8": False}
        if tls == "starttls":
            options.update(tls_context=server_context(), require_starttls=True)
        context = server_context() if tls == "tls" else None
        server = await loop.create_server(lambda: SMTP(Mailbox(), **options), wire.ends.any, 25, ssl=context)
        await stop.wait()
        server.close()

    text = "Subject: over the stack\r\n\r\n" + "hello\r\n" * 10000
    with running(wire, serve, driver), wire.client("thread") as stack, stack.patched():
        with (
            smtplib.SMTP_SSL(NAME, 25, timeout=20, context=client_context())
            if tls == "tls"
            else smtplib.SMTP(NAME, 25, timeout=20)
        ) as client:
            if tls == "starttls":
                client.starttls(context=client_context())
            client.sendmail("a@server.test", ["b@server.test"], text)
    assert [content for _, content in got] == [text.encode()]
    assert (got[0][0] is not None) == (tls == "starttls")  # aiosmtpd notes only what it began itself


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_ftplib(stacks: Any, ends: Ends, tls: bool) -> None:
    """Passive mode: a second connection for the data; with TLS both are encrypted."""
    left, right = stacks

    def serve(listener: Any, data_listener: Any) -> None:
        port = data_listener.getsockname()[1]
        conn, _ = listener.accept()
        conn.sendall(b"220 ready\r\n")
        answers = {
            "USER": "331 password\r\n",
            "PASS": "230 in\r\n",
            "TYPE": "200 ok\r\n",
            "PBSZ": "200 ok\r\n",
            "PROT": "200 ok\r\n",
            "PASV": f"227 entering ({ends.stack.replace('.', ',')},{port >> 8},{port & 255})\r\n",
            "EPSV": f"229 entering (|||{port}|)\r\n",
            "QUIT": "221 bye\r\n",
            "AUTH": "234 go on\r\n",
        }
        pending = b""
        while piece := conn.recv(1000):
            pending += piece
            while b"\r\n" in pending:
                line, pending = pending.split(b"\r\n", 1)
                verb = line.split()[0].decode()
                if verb == "RETR":
                    conn.sendall(b"150 coming\r\n")
                    data, _ = data_listener.accept()
                    if tls:
                        data = context.wrap_socket(data, server_side=True)
                    data.sendall(BODY)
                    if tls:
                        data.unwrap()
                    data.close()
                    conn.sendall(b"226 done\r\n")
                    continue
                conn.sendall(answers[verb].encode())
                if verb == "AUTH":
                    conn = context.wrap_socket(conn, server_side=True)
        conn.close()

    context = server_context()
    listeners = [right.create_server(("", port), family=ends.family) for port in (21, 0)]
    with listeners[0], listeners[1]:
        with left.patched():
            thread = threading.Thread(target=serve, args=listeners)
            thread.start()
            client: ftplib.FTP = ftplib.FTP_TLS(context=client_context()) if tls else ftplib.FTP()
            with client:
                client.connect(NAME, 21, timeout=20)
                client.login("me", "secret")
                if isinstance(client, ftplib.FTP_TLS):
                    client.prot_p()
                parts: list[bytes] = []
                client.retrbinary("RETR file", parts.append)
                assert b"".join(parts) == BODY
            thread.join()


def test_paramiko_client_and_server(stacks: Any, ends: Ends) -> None:
    paramiko = wanted("paramiko")
    left, right = stacks
    key = paramiko.RSAKey.generate(2048)
    commands: queue.Queue[bytes] = queue.Queue()

    class Server(paramiko.ServerInterface):  # type: ignore[misc,name-defined]
        def check_auth_password(self, username: str, password: str) -> int:
            return int(paramiko.AUTH_SUCCESSFUL if password == "secret" else paramiko.AUTH_FAILED)

        def check_channel_request(self, kind: str, number: int) -> int:
            return int(paramiko.OPEN_SUCCEEDED)

        def check_channel_exec_request(self, channel: Any, command: bytes) -> bool:
            commands.put(command)
            return True

    with right.create_server(("", 22), family=ends.family) as listener:

        def serve() -> None:
            transport = paramiko.Transport(listener.accept()[0])
            transport.add_server_key(key)
            transport.start_server(server=Server())
            channel = transport.accept(20)
            channel.sendall(commands.get(timeout=20).upper())
            channel.send_exit_status(0)
            channel.close()
            transport.join(30)

        thread = threading.Thread(target=serve)
        thread.start()
        with left.patched(), paramiko.SSHClient() as client:
            client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
            client.connect(NAME, 22, "me", "secret", timeout=20, look_for_keys=False, allow_agent=False)
            _, out, _ = client.exec_command("loud")
            assert out.read() == b"LOUD"
        thread.join()


@pytest.mark.ipv4("no stack is left")
def test_patching_is_over() -> None:
    """After all this the socket module is what it was."""
    with socket.socket() as sock:
        assert not isinstance(sock, ustack.Socket)


def test_aioquic(wire: Wire, driver: str) -> None:
    """QUIC: datagrams both ways, with timers of its own."""
    wanted("aioquic")
    from aioquic.asyncio import QuicConnectionProtocol
    from aioquic.asyncio import serve as serve_quic
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.connection import QuicConnection

    def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def answer() -> None:
            writer.write(await reader.read())
            writer.write_eof()

        tasks.add(asyncio.ensure_future(answer()))

    tasks: set[Any] = set()

    async def serve(stop: asyncio.Event) -> None:
        configuration = QuicConfiguration(is_client=False, alpn_protocols=["echo"])
        configuration.load_cert_chain(PEM, PEM)
        server = await serve_quic(wire.ends.any, 4433, configuration=configuration, stream_handler=echo)
        await stop.wait()
        server.close()

    async def main() -> None:
        configuration = QuicConfiguration(alpn_protocols=["echo"], server_name=NAME, cafile=str(PEM))
        quic = QuicConnection(configuration=configuration)
        transport, client = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: QuicConnectionProtocol(quic), local_addr=(wire.ends.any, 0)
        )
        client.connect(wire.ends.name(wire.ends.stack, 4433))
        await client.wait_connected()
        reader, writer = await client.create_stream()
        writer.write(BODY)
        writer.write_eof()
        assert await reader.read() == BODY
        client.close()
        await client.wait_closed()
        transport.close()

    with running(wire, serve, driver), wire.client(driver) as stack:
        in_loop(stack, main())
