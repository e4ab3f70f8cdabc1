"""The examples run, or, where they need a device, their parts do; and a user's program that is typed passes mypy."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import ustack

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def load(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, *arguments: str) -> str:
    """What an example prints; its warnings are errors."""
    program = [sys.executable, "-X", "dev", "-W", "error", str(ROOT / "examples" / f"{name}.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["echo_server", "http_get"])
def test_those_with_a_device_say_how_they_are_used(name: str) -> None:
    assert "--tap" in run(name, "--help")


def test_http_get_from_an_echo_servers_neighbour() -> None:
    page = b"<p>over a wire in memory</p>" * 1000

    def serve(server: ustack.Socket) -> None:
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as request:
            assert request.readline().startswith(b"GET /page?x=1 HTTP/1.0")
            while request.readline().strip():
                pass
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n" + page)

    near_end, far_end = ustack.pipe()
    with ustack.Stack() as near, ustack.Stack() as far:
        near.attach(near_end, addresses=["10.9.0.1/24"])
        far.attach(far_end, addresses=["10.9.0.2/24"])
        with far.create_server(("", 8000)) as server:
            thread = threading.Thread(target=serve, args=(server,))
            thread.start()
            get = load("http_get").get
            assert get(near, "http://10.9.0.2:8000/page?x=1") == ("HTTP/1.0 200 OK", page)
            thread.join()
        with pytest.raises(ValueError, match="no http:// URL"):
            get(near, "ftp://10.9.0.2/")


def test_echo_server_echoes() -> None:
    with ustack.Stack() as stack, stack.create_server(("127.0.0.1", 0)) as server:
        with stack.create_connection(server.getsockname(), timeout=10) as client:
            connection, peer = server.accept()
            thread = threading.Thread(target=load("echo_server").echo, args=(connection, peer))
            thread.start()
            client.sendall(b"again")
            assert client.recv(10) == b"again"
        thread.join()


def test_examples_and_typed_programs_pass_mypy() -> None:
    mypy = pytest.importorskip("mypy.api")
    report, errors, status = mypy.run(
        ["--strict", "--follow-imports=silent", f"--config-file={ROOT / 'pyproject.toml'}", *map(str, EXAMPLES)]
    )
    assert status == 0, report + errors


async def hundred_tunnels(there: ModuleType) -> list[int]:
    """As many device tunnels in one process, each with a TLS stream and two stacks of its own: what each moved."""
    loop = asyncio.get_running_loop()
    devices: list[Any] = []
    servers: list[Any] = []

    def device() -> Any:
        made = there.Tunnel(there.DEVICE)
        devices.append(made)
        sock = made.stack.create_server(("", 62078), family=socket.AF_INET6)
        servers.append(loop.create_task(made.stack.start_server(there.serve, sock=sock)))
        return made

    server = await loop.create_server(
        device, "127.0.0.1", 0, ssl=there.context(ssl.PROTOCOL_TLS_SERVER), backlog=200
    )
    where = server.sockets[0].getsockname()

    async def one() -> int:
        host = there.Tunnel(there.HOST)
        await loop.create_connection(lambda: host, *where, ssl=there.context(ssl.PROTOCOL_TLS_CLIENT))
        reader, writer = await host.stack.open_connection(there.DEVICE, 62078)
        writer.write(bytes(200_000))
        writer.write_eof()
        said = await reader.read()
        writer.close()
        await host.stack.aclose()
        host.transport.close()
        return int(said.split()[0])

    moved = await asyncio.gather(*(one() for _ in range(100)))
    for made in devices:
        made.stack.close(timeout=0)
        made.transport.close()
    server.close()
    await asyncio.sleep(0.05)
    return moved


def test_a_hundred_device_tunnels_in_one_process() -> None:
    assert asyncio.run(hundred_tunnels(load("device_tunnel"))) == [200_000] * 100
