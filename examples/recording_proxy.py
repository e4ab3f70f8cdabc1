"""A transparent recording proxy: it takes connections to whatever destination, and writes down what both sides say.

The client knows nothing of it: it connects to an address of its choice. Here its packets come over a pipe from a second
stack; in life over a TUN or a VPN. Where that address is really to be found, `upstream` says: here one server of this
process, in life usually the address itself. Needs no privilege.
"""

import asyncio
import socketserver
import threading

import ustack


class Recorder:
    """Joins each connection of the stack to one of the kernel's network, and keeps what went over it."""

    def __init__(self, stack: ustack.Stack, upstream: dict[tuple[str, int], tuple[str, int]]) -> None:
        self.stack = stack
        self.upstream = upstream
        self.record: list[tuple[tuple[str, int], str, bytes]] = []
        self.done = asyncio.Event()  # a connection has ended
        stack.forward_tcp(self.handle)

    async def handle(self, request: ustack.ForwardRequest) -> None:
        destination = request.destination[:2]
        try:
            far = await asyncio.open_connection(*self.upstream.get(destination, destination))
        except OSError:
            request.reset()  # the client sees that its connection was refused
            return
        near = await self.stack.open_connection(sock=request.accept())
        await asyncio.gather(
            self.carry(destination, ">", near[0], far[1]),
            self.carry(destination, "<", far[0], near[1]),
        )
        for _, writer in (near, far):
            writer.close()
            await writer.wait_closed()
        self.done.set()

    async def carry(
        self, where: tuple[str, int], way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65536):
            self.record.append((where, way, data))
            writer.write(data)
            await writer.drain()
        writer.write_eof()


class Shout(socketserver.StreamRequestHandler):
    """The server: a line comes back in capitals."""

    def handle(self) -> None:
        self.wfile.write(self.rfile.readline().upper())


async def main() -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Shout) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        async with ustack.Stack(driver="asyncio") as client, ustack.Stack(driver="asyncio") as proxy:
            a, b = ustack.pipe()
            client.attach(a, addresses=["10.9.0.2/24"], gateway="10.9.0.1")
            proxy.attach(b, addresses=["10.9.0.1/24"])
            host, port = server.socket.getsockname()
            recorder = Recorder(proxy, {("198.51.100.7", 80): (host, port)})
            reader, writer = await client.open_connection("198.51.100.7", 80)
            writer.write(b"hello, whoever you are\n")
            await reader.read()
            writer.close()
            await recorder.done.wait()
            for (host, port), way, data in recorder.record:
                print(f"{host}:{port} {way} {data.decode().strip()}")
        server.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
