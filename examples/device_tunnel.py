"""A device tunnel: IPv6 packets of up to 16,000 bytes, each after its length, in a TLS stream; all in one event loop.

The device's end would be another machine. Here both ends are in this process, and the TLS stream between them is the
kernel's, over the loopback; the stacks have neither thread nor descriptor. No privilege is needed.
"""

import asyncio
import ssl

import ustack

MTU = 16000
HOST, DEVICE = "fd00::1", "fd00::2"


def context(purpose: int) -> ssl.SSLContext:
    """TLS without certificates, of which there are none here. In life: load_cert_chain(), create_default_context()."""
    made = ssl.SSLContext(purpose)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
    return made


class Tunnel(asyncio.BufferedProtocol):
    """One end: a stack's link over a stream of packets."""

    def __init__(self, address: str, mtu: int = MTU) -> None:
        self.stack = ustack.Stack(driver="asyncio")
        # TLS authenticates what it carries: TCP's checksums would be computed for nothing.
        self.link = ustack.Callback(
            send_stream=self.send,
            length_bytes=2,
            medium="ip",
            mtu=mtu,
            verify_checksums=False,
            generate_checksums=False,
        )
        self.stack.attach(self.link, addresses=[f"{address}/64"])
        self.full = False
        self.room = memoryview(bytearray(1 << 18))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, packets: bytes) -> bool:
        if self.full:
            return False  # they wait for resume()
        self.transport.write(packets)
        return True

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self.link.resume()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.room  # TLS decrypts to here, and the link takes its packets from here

    def buffer_updated(self, nbytes: int) -> None:
        self.link.receive_stream(self.room[:nbytes])


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The device's service: says how much it was sent."""
    size = 0
    while data := await reader.read(1 << 18):
        size += len(data)
    writer.write(b"%d bytes through the tunnel" % size)
    writer.close()


async def main() -> None:
    loop = asyncio.get_running_loop()
    device, host = Tunnel(DEVICE), Tunnel(HOST)
    listening = await loop.create_server(lambda: device, "127.0.0.1", 0, ssl=context(ssl.PROTOCOL_TLS_SERVER))
    where = listening.sockets[0].getsockname()
    await loop.create_connection(lambda: host, *where, ssl=context(ssl.PROTOCOL_TLS_CLIENT))
    service = await device.stack.start_server(serve, "", 62078)

    reader, writer = await host.stack.open_connection(DEVICE, 62078)
    for _ in range(100):
        writer.write(bytes(100_000))
        await writer.drain()
    writer.write_eof()
    print((await reader.read()).decode())
    writer.close()

    service.close()
    for tunnel in (host, device):
        await tunnel.stack.aclose()
        tunnel.transport.close()
    listening.close()
    await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main())
