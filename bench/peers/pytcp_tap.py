"""The services on pmd-pytcp, a stack in pure Python, by its asyncio sockets on a plain TAP: a peer of the comparison.

    python pytcp_tap.py sink|source|echo|short FD ADDRESS PORT

Runs in the virtual environment that bench/build.py makes for it, with nothing of ours. Prints "ready" and serves until
it is killed, each connection in a task.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from typing import Any

from pmd_net_addr import Ip4IfAddr, MacAddress
from pmd_pytcp import stack
from pmd_pytcp.lib.interface_layer import InterfaceLayer
from pmd_pytcp.socket import AddressFamily, SocketType, socket

BLOCK = 256 * 1024  # bytes, as in common.h
BACKLOG = 1024


async def sink(connection: Any) -> None:
    total = 0
    while data := await connection.recv(BLOCK):
        total += len(data)
    await connection.send(struct.pack(">Q", total))


async def source(connection: Any) -> None:
    block = bytes(BLOCK)
    while True:
        # send() takes everything at once, and its sockets do not tell how much is still to go.
        while len(connection.tcp_session._tx.buffer) > BLOCK:
            await asyncio.sleep(0)
        await connection.send(block)


async def echo(connection: Any) -> None:
    while data := await connection.recv(65536):
        await connection.send(data)


async def short(connection: Any) -> None:
    await connection.recv(1)
    await connection.send(b"!")


async def served(connection: Any, service: Any) -> None:
    try:
        await service(connection)
    except (OSError, AttributeError):  # the client is gone; with its reset the session
        pass
    finally:
        connection.close()


async def main(service: str, fd: str, address: str, port: str) -> None:
    stack.LOG__CHANNEL.clear()
    stack.init(
        fd=int(fd),
        layer=InterfaceLayer.L2,
        mac_address=MacAddress("02:00:00:00:00:02"),
        interface_name="ust0",
        ip4_dhcp=False,
        ip6_support=False,
    )
    await stack.start()
    # Given as ip4_host it would be probed for seconds first.
    stack.address.interface(1).add(ifaddr=Ip4IfAddr(f"{address}/24"))
    listener: Any = socket(AddressFamily.INET4, SocketType.STREAM)
    listener.bind((address, int(port)))
    listener.listen(backlog=BACKLOG)
    print("ready", flush=True)
    tasks = set()
    while True:
        connection, _ = await listener.accept()
        task = asyncio.create_task(served(connection, globals()[service]))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
