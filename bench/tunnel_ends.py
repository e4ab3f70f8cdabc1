"""The ends of a device tunnel on ustack, each in a process of its own, for bench/tunnel.py.

    python -m bench.tunnel_ends device MTU CERTIFICATE               prints its port, and serves until it is killed
    python -m bench.tunnel_ends host PORT MTU WORK AMOUNT [TUNNELS]  prints one JSON object

WORK: out, in (AMOUNT: seconds), rpc, echo (AMOUNT: how many). The tunnel is that of examples/device_tunnel.py. TUNNELS
of them, each with a stack of its own, work at once.
"""

from __future__ import annotations

import asyncio
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
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def example() -> Any:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("device_tunnel", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- the device


async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    total = 0
    while data := await reader.read(BLOCK):
        total += len(data)
    writer.write(struct.pack(">Q", total))
    writer.close()


async def source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    block = bytes(BLOCK)
    while True:
        writer.write(block)
        await writer.drain()


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

    class Served(there.Tunnel):  # type: ignore[misc, name-defined]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            for port, handler in (
                (SINK, quietly(sink)),
                (SOURCE, quietly(source)),
                (RPC, quietly(answer, ANSWER)),
                (ECHO, quietly(answer, 0)),
            ):
                # It listens from here on: the other end may come at once.
                sock = self.stack.create_server(("", port), family=socket.AF_INET6)
                services.append(asyncio.ensure_future(self.stack.start_server(handler, sock=sock, limit=BLOCK)))

        def connection_lost(self, error: Exception | None) -> None:
            self.stack.close(timeout=0)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Served(there.DEVICE, mtu), "127.0.0.1", 0, ssl=context, backlog=200)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# -- the host


async def send(streams: Streams, seconds: float) -> tuple[int, float]:
    reader, writer = streams
    block = bytes(BLOCK)
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        writer.write(block)
        await writer.drain()
    writer.write_eof()
    total = struct.unpack(">Q", await reader.readexactly(8))[0]
    return total, time.monotonic() - begin


async def receive(streams: Streams, seconds: float) -> tuple[int, float]:
    total, begin = 0, time.monotonic()
    while time.monotonic() - begin < seconds:
        total += len(await streams[0].read(BLOCK))
    return total, time.monotonic() - begin


async def ask(streams: Streams, count: int) -> list[float]:
    """Seconds that each request took, one after the other."""
    reader, writer = streams
    request = struct.pack(">I", REQUEST) + bytes(REQUEST)
    took = []
    for _ in range(count):
        begin = time.monotonic()
        writer.write(request)
        await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
        took.append(time.monotonic() - begin)
    return took


async def host(port: int, mtu: int, work: str, amount: float, tunnels: int) -> dict[str, Any]:
    there = example()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    loop = asyncio.get_running_loop()
    ends = [there.Tunnel(there.HOST, mtu) for _ in range(tunnels)]
    for end in ends:
        await loop.create_connection(lambda end=end: end, "127.0.0.1", port, ssl=context)
    service = {"out": SINK, "in": SOURCE, "rpc": RPC, "echo": ECHO}[work]
    streams = [await end.stack.open_connection(there.DEVICE, service, limit=BLOCK) for end in ends]
    if work in ("rpc", "echo"):
        return {"took": await ask(streams[0], int(amount))}
    cpu, begin = time.process_time(), time.monotonic()
    done = await asyncio.gather(*((send if work == "out" else receive)(one, amount) for one in streams))
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
