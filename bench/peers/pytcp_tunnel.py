"""The host's end of a device tunnel on pmd-pytcp, as pymobiledevice3 has it: a peer of bench/tunnel.py.

    python pytcp_tunnel.py PORT MTU WORK AMOUNT      WORK: out, in (AMOUNT: seconds), rpc, echo (AMOUNT: how many)

Runs in the virtual environment that bench/build.py makes for it, with nothing of ours. Prints one JSON object.

Its stack takes Ethernet frames from a descriptor (its other way, without Ethernet, does not work), so a header is put
before each packet and taken off again, across a pair of sockets. Tuned as pymobiledevice3 tunes it, but for two things
that are in its favour here: segments are as large as the MTU from the first, and no packet is lost where the pair of
sockets is full.
"""

from __future__ import annotations

import asyncio
import collections
import json
import socket
import ssl
import struct
import sys
import time
from typing import Any

from pmd_net_addr import Ip6Address, Ip6IfAddr, MacAddress
from pmd_pytcp import stack
from pmd_pytcp.lib.interface_layer import InterfaceLayer
from pmd_pytcp.socket import AddressFamily, SocketType
from pmd_pytcp.socket import socket as stack_socket

HOST, DEVICE = "fd00::1", "fd00::2"
SINK, SOURCE, RPC, ECHO = 7001, 7002, 7003, 7004  # as in bench/tunnel_ends.py
REQUEST = 200
BLOCK = 64 * 1024
OURS, THEIRS = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
IN = OURS + THEIRS + b"\x86\xdd"
BUFFER = 6 * 1024 * 1024
ENOUGH = 256  # packets that wait for the stack, above which the tunnel is not read

SYSCTLS = {
    "icmp6.default.accept_dad": 0,
    "tcp.rcv_wnd_max": 4 * 1024 * 1024,
    "tcp.delayed_ack.delay_ms": 1,
    "tcp.rto.min_ms": 200,
    "net.default.rx_cksum_validate": False,
}


class Tunnel(asyncio.Protocol):
    """Packets, each after its length, to and from the stack's descriptor."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for one in (self.near, self.far):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                one.setsockopt(socket.SOL_SOCKET, option, BUFFER)
            one.setblocking(False)
        self.buffer = bytearray()
        self.waiting: collections.deque[bytes] = collections.deque()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(self.near, self.from_stack)

    def from_stack(self) -> None:
        pieces = []
        for _ in range(64):
            try:
                frame = self.near.recv(65550)
            except BlockingIOError:
                break
            if frame[12:14] == b"\x86\xdd":
                pieces += [(len(frame) - 14).to_bytes(2, "big"), frame[14:]]
        self.transport.write(b"".join(pieces))

    def pause_writing(self) -> None:
        self.loop.remove_reader(self.near)

    def resume_writing(self) -> None:
        self.loop.add_reader(self.near, self.from_stack)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        at = 0
        while len(self.buffer) - at >= 2:
            end = at + 2 + int.from_bytes(self.buffer[at : at + 2], "big")
            if end > len(self.buffer):
                break
            self.waiting.append(IN + self.buffer[at + 2 : end])
            at = end
        del self.buffer[:at]
        self.to_stack()

    def to_stack(self) -> None:
        try:
            while self.waiting:
                self.near.send(self.waiting[0])
                self.waiting.popleft()
        except BlockingIOError:
            self.loop.add_writer(self.near, self.to_stack)
            if len(self.waiting) > ENOUGH:
                self.transport.pause_reading()
            return
        self.loop.remove_writer(self.near)
        self.transport.resume_reading()


async def up(port: int, mtu: int) -> None:
    """Returns when connections can be made."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tunnel = Tunnel()
    stack.LOG__CHANNEL.clear()
    stack.init(sysctls=SYSCTLS)
    index = stack.add_interface(
        fd=tunnel.far.fileno(),
        layer=InterfaceLayer.L2,
        mac_address=MacAddress(OURS.hex(":")),
        mtu=mtu,
        ip6_host=Ip6IfAddr(f"{HOST}/64"),
        ip6_gua_autoconfig=False,
        ip4_support=False,
    )
    await asyncio.get_running_loop().create_connection(lambda: tunnel, "127.0.0.1", port, ssl=context)
    await stack.start()
    while not any(str(one.address) == HOST for one in stack.local_ip6_hosts()):
        await asyncio.sleep(0)
    stack.neighbor.interface(index).add(ip=Ip6Address(DEVICE), mac=MacAddress(THEIRS.hex(":")))


async def connected(port: int) -> Any:
    made: Any = stack_socket(AddressFamily.INET6, SocketType.STREAM)
    await made.connect((DEVICE, port))
    return made


async def send(seconds: float) -> tuple[int, float]:
    conn = await connected(SINK)
    block = bytes(BLOCK)
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        # send() takes everything at once, and its sockets do not tell how much is still to go.
        while len(conn.tcp_session._tx.buffer) > 4 * 1024 * 1024:
            await asyncio.sleep(0)
        await conn.send(block)
    conn.shutdown(socket.SHUT_WR)
    total = struct.unpack(">Q", await conn.recv(8))[0]
    return total, time.monotonic() - begin


async def receive(seconds: float) -> tuple[int, float]:
    conn = await connected(SOURCE)
    total, begin = 0, time.monotonic()
    while time.monotonic() - begin < seconds:
        total += len(await conn.recv(BLOCK))
    return total, time.monotonic() - begin


async def ask(port: int, count: int) -> list[float]:
    """Seconds that each request took, one after the other."""
    conn = await connected(port)
    request = struct.pack(">I", REQUEST) + bytes(REQUEST)
    took = []
    for _ in range(count):
        begin = time.monotonic()
        await conn.send(request)
        data = b""
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
            data += await conn.recv(BLOCK)
        took.append(time.monotonic() - begin)
    return took


async def main(port: int, mtu: int, work: str, amount: float) -> None:
    await up(port, mtu)
    if work in ("rpc", "echo"):
        print(json.dumps({"took": await ask(RPC if work == "rpc" else ECHO, int(amount))}), flush=True)
        return
    cpu = time.process_time()
    total, took = await (send if work == "out" else receive)(amount)
    print(json.dumps({"bytes": total, "seconds": took, "cpu": time.process_time() - cpu}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4])))
