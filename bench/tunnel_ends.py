"""The ends of a device tunnel on ustack, each in a process of its own, for bench/tunnel.py.

    python -m bench.tunnel_ends device MTU CERTIFICATE               prints its port, and serves until it is killed
    python -m bench.tunnel_ends host PORT MTU WORK AMOUNT [TUNNELS]  prints one JSON object

WORK: out, in (AMOUNT: seconds), rpc, echo (AMOUNT: how many). The tunnel is that of examples/device_tunnel.py. TUNNELS
of them, each with a stack of its own, work at once.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import json
import socket
import ssl
import struct
import sys
import time
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "device_tunnel.py"
SINK, SOURCE, RPC, ECHO = 7001, 7002, 7003, 7004
REQUEST = 200  # bytes
ANSWER = 4000
BLOCK = 256 * 1024


def example() -> Any:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("device_tunnel", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- the device


class Counter(asyncio.BufferedProtocol):
    """Throws away what comes, and knows how much it was."""

    def __init__(self) -> None:
        self.room = memoryview(bytearray(BLOCK))
        self.total = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.room

    def buffer_updated(self, nbytes: int) -> None:
        self.total += nbytes

    def eof_received(self) -> None:
        self.transport.write(struct.pack(">Q", self.total))


class Writer(asyncio.Protocol):
    """Writes until `deadline`, as fast as it can; `answer` is what comes back after the end of that."""

    def __init__(self, deadline: float = float("inf")) -> None:
        self.block = bytes(BLOCK)
        self.deadline = deadline
        self.full = False
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.go_on()

    def go_on(self) -> None:
        while not self.full:
            if time.monotonic() > self.deadline:
                self.transport.write_eof()
                return
            self.transport.write(self.block)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self.go_on()

    def data_received(self, data: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result(data)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int) -> None:
    """Header and body of each answer in writes of their own, by Nagle's algorithm: the end of an answer waits for the
    acknowledgement of its beginning, as devices do it."""
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    while True:
        length = int.from_bytes(await reader.readexactly(4), "big")
        await reader.readexactly(length)
        writer.write(struct.pack(">I", size))
        writer.write(bytes(size))


def quietly(service: Any, *arguments: Any) -> Any:
    """The service, which ends with its connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await service(reader, writer, *arguments)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    return serve


async def device(mtu: int, certificate: str) -> None:
    there = example()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    services: list[Any] = []

    class Served(there.Tunnel):  # type: ignore[name-defined]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            for port, serve in (
                (SINK, functools.partial(self.stack.aio.create_server, Counter)),
                (SOURCE, functools.partial(self.stack.aio.create_server, Writer)),
                (RPC, functools.partial(self.stack.start_server, quietly(answer, ANSWER))),
                (ECHO, functools.partial(self.stack.start_server, quietly(answer, 0))),
            ):
                # It listens from here on: the other end may come at once.
                sock = self.stack.create_server(("", port), family=socket.AF_INET6)
                services.append(asyncio.ensure_future(serve(sock=sock)))

        def connection_lost(self, error: Exception | None) -> None:
            self.stack.close(timeout=0)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Served(there.DEVICE, mtu), "127.0.0.1", 0, ssl=context, backlog=200)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# -- the host


async def send(stack: Any, there: str, seconds: float) -> tuple[int, float]:
    begin = time.monotonic()
    _, writer = await stack.aio.create_connection(functools.partial(Writer, begin + seconds), there, SINK)
    return struct.unpack(">Q", await writer.answer)[0], time.monotonic() - begin


async def receive(stack: Any, there: str, seconds: float) -> tuple[int, float]:
    begin = time.monotonic()
    transport, counter = await stack.aio.create_connection(Counter, there, SOURCE)
    await asyncio.sleep(seconds)
    total, took = counter.total, time.monotonic() - begin
    transport.abort()
    return total, took


async def ask(stack: Any, there: str, port: int, count: int) -> list[float]:
    """Seconds that each request took, one after the other."""
    reader, writer = await stack.open_connection(there, port)
    request = struct.pack(">I", REQUEST) + bytes(REQUEST)
    took = []
    for _ in range(count):
        begin = time.monotonic()
        writer.write(request)
        await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
        took.append(time.monotonic() - begin)
    return took


def _given(protocol: Any) -> Any:
    return protocol


async def host(port: int, mtu: int, work: str, amount: float, tunnels: int) -> dict[str, Any]:
    there = example()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    loop = asyncio.get_running_loop()
    ends = [there.Tunnel(there.HOST, mtu) for _ in range(tunnels)]
    for end in ends:
        await loop.create_connection(functools.partial(_given, end), "127.0.0.1", port, ssl=context)
    if work in ("rpc", "echo"):
        return {"took": await ask(ends[0].stack, there.DEVICE, RPC if work == "rpc" else ECHO, int(amount))}
    move = send if work == "out" else receive
    cpu, begin = time.process_time(), time.monotonic()
    done = await asyncio.gather(*(move(one.stack, there.DEVICE, amount) for one in ends))
    took = time.monotonic() - begin
    return {
        "bytes": sum(total for total, _ in done),
        "seconds": took,
        "cpu": time.process_time() - cpu,
        "least": min(total for total, _ in done),
    }


async def main(argv: list[str]) -> None:
    if argv[0] == "device":
        await device(int(argv[1]), argv[2])
        return
    port, mtu, work, amount, *more = argv[1:]
    print(json.dumps(await host(int(port), int(mtu), work, float(amount), int(more[0]) if more else 1)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
