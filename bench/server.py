"""The services in ordinary Python, on kernel sockets or on ustack's: the same code on both.

    python -m bench.server sink|source|echo|short|select kernel|tap:FD|offload:FD ADDRESS PORT

FD is of a TAP, without or with offloads. Prints "ready" and serves until it is killed, one connection after the other;
`select` is `short` with a selector and many connections at a time. What a service says and hears is described at the
client: load.c.
"""

from __future__ import annotations

import selectors
import socket
import struct
import sys
from typing import Any

BLOCK = 256 * 1024  # bytes, as in common.h
BACKLOG = 1024


def sink(connection: Any) -> None:
    buffer = bytearray(BLOCK)
    total = 0
    while got := connection.recv_into(buffer):
        total += got
    connection.sendall(struct.pack(">Q", total))


def source(connection: Any) -> None:
    block = bytes(BLOCK)
    while True:  # until the client has enough and closes, which sendall() raises
        connection.sendall(block)


def echo(connection: Any) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := connection.recv(65536):
        connection.sendall(data)


def short(connection: Any) -> None:
    connection.recv(1)
    connection.send(b"!")


def serve(listener: Any, service: Any) -> None:
    """One connection after the other."""
    while True:
        connection, _ = listener.accept()
        try:
            service(connection)
        except ConnectionError:
            pass
        finally:
            connection.close()


def serve_with_selector(listener: Any) -> None:
    """`short` for many connections at a time."""
    listener.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                ready: Any = key.fileobj
                if ready is not listener:
                    selector.unregister(ready)
                    answer(ready)
                    continue
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    continue
                connection.setblocking(False)
                selector.register(connection, selectors.EVENT_READ)


def answer(connection: Any) -> None:
    try:
        short(connection)
    except ConnectionError:
        pass
    finally:
        connection.close()


def main(name: str, where: str, address: str, port: str) -> None:
    if where == "kernel":
        listener: Any = socket.create_server((address, int(port)), backlog=BACKLOG)
    else:
        import ustack

        stack = ustack.Stack()
        kind, _, fd = where.partition(":")
        stack.attach(ustack.Tap(fd=int(fd), offload=kind == "offload"), addresses=[f"{address}/24"])
        listener = stack.create_server((address, int(port)), backlog=BACKLOG)
    print("ready", flush=True)
    if name == "select":
        serve_with_selector(listener)
    else:
        serve(listener, {"sink": sink, "source": source, "echo": echo, "short": short}[name])


if __name__ == "__main__":
    main(*sys.argv[1:])
