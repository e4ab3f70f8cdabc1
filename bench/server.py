"""The services in ordinary Python, on kernel sockets or on ustack's: the same code on both.

    python -m bench.server sink|source|echo|short|select|sockperf kernel|tap:FD|offload:FD|busy:FD ADDRESS PORT
    python -m bench.server select-own tap:FD|offload:FD|busy:FD ADDRESS PORT
    python -m bench.server http kernel ADDRESS PORT

FD is of a TAP, without or with offloads, or without and asked again and again for BUSY µs. Prints "ready" and serves
until it is killed, one connection after the other; `select` is `short` with a selector and many connections at a time,
`select-own` the same with Stack.selector(), `sockperf` an echo that sockperf's client takes for its server, `http` what
`ustack serve` does, on kernel sockets. What the others say and hear is described at the client: load.c.
"""

from __future__ import annotations

import http.server
import selectors
import socket
import struct
import sys
from typing import Any

BLOCK = 256 * 1024  # bytes, as in common.h
BACKLOG = 1024
BUSY = 200  # as in native.py


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


def sockperf(connection: Any) -> None:
    """Messages of 64 bytes, each sent back without the mark of a client, the last bit of its tenth byte."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    message = bytearray(64)
    while connection.recv_into(message) == len(message):
        message[9] &= 0xFE
        connection.sendall(message)


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


def serve_with_selector(listener: Any, made: Any) -> None:
    """`short` for many connections at a time. made: a selector."""
    listener.setblocking(False)
    with made as selector:
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


def serve_http(there: tuple[str, int]) -> None:
    from bench import build
    from ustack.cli.httpd import file_handler

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = BACKLOG

    with Server(there, file_handler(build.site(), quiet=True)) as server:
        print("ready", flush=True)
        server.serve_forever()


def main(name: str, where: str, address: str, port: str) -> None:
    if name == "http":
        serve_http((address, int(port)))
    if where == "kernel":
        listener: Any = socket.create_server((address, int(port)), backlog=BACKLOG)
    else:
        import ustack

        stack = ustack.Stack()
        kind, _, fd = where.partition(":")
        if kind == "busy":
            stack.sysctl["net.core.busy_read"] = BUSY  # what a caller that waits does, who polls the device himself
        stack.attach(ustack.Tap(fd=int(fd), offload=kind == "offload"), addresses=[f"{address}/24"])
        listener = stack.create_server((address, int(port)), backlog=BACKLOG)
    print("ready", flush=True)
    if name == "select":
        serve_with_selector(listener, selectors.DefaultSelector())
    elif name == "select-own":
        serve_with_selector(listener, stack.selector())
    else:
        serve(listener, {"sink": sink, "source": source, "echo": echo, "short": short, "sockperf": sockperf}[name])


if __name__ == "__main__":
    main(*sys.argv[1:])
