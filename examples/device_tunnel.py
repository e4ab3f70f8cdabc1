"""A device tunnel: IP packets of up to 16,000 bytes, each after its length, in a TLS stream; all in one event loop.

The device's end would be another machine. Here both ends are in this process, and the TLS stream between them is the
kernel's, over the loopback; the stacks have neither thread nor descriptor. No privilege is needed.
"""

import asyncio
import ssl

import ustack

MTU = 16000


def context(purpose: int) -> ssl.SSLContext:
    """TLS without certificates, of which there are none here. In life: load_cert_chain(), create_default_context()."""
    made = ssl.SSLContext(purpose)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
    return made


class Tunnel(asyncio.Protocol):
    """One end: a stack's link over a stream of packets."""

    def __init__(self, address: str) -> None:
        self.stack = ustack.Stack(driver="asyncio")
        # TLS authenticates what it carries: TCP's checksums would be computed for nothing.
        self.link = ustack.Callback(
            send_many=self.send, medium="ip", mtu=MTU, verify_checksums=False, generate_checksums=False
        )
        self.stack.attach(self.link, addresses=[address])
        self.buffer = bytearray()
        self.full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, packets: list[bytes]) -> int:
        if self.full:
            return 0  # they wait for resume()
        self.transport.writelines([len(packet).to_bytes(2, "big") + packet for packet in packets])
        return len(packets)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self.link.resume()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        packets, at = [], 0
        while len(self.buffer) - at >= 2:
            end = at + 2 + int.from_bytes(self.buffer[at : at + 2], "big")
            if end > len(self.buffer):
                break
            packets.append(bytes(self.buffer[at + 2 : end]))
            at = end
        del self.buffer[:at]
        self.link.receive_many(packets)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The device's service: says how much it was sent."""
    size = 0
    while data := await reader.read(1 << 18):
        size += len(data)
    writer.write(b"%d bytes through the tunnel" % size)
    writer.close()


async def main() -> None:
    loop = asyncio.get_running_loop()
    device, host = Tunnel("10.9.0.2/30"), Tunnel("10.9.0.1/30")
    listening = await loop.create_server(lambda: device, "127.0.0.1", 0, ssl=context(ssl.PROTOCOL_TLS_SERVER))
    where = listening.sockets[0].getsockname()
    await loop.create_connection(lambda: host, *where, ssl=context(ssl.PROTOCOL_TLS_CLIENT))
    service = await device.stack.start_server(serve, "", 62078)

    reader, writer = await host.stack.open_connection("10.9.0.2", 62078)
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
