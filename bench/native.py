"""The services as ustack's own, answered inside the data plane (ustack.Service): what server.py and serve.c do, without
a program in between.

    python -m bench.native sink|source|echo|short|http tap:FD|offload:FD ADDRESS PORT

FD is of a TAP, without or with offloads. Prints "ready" and serves until it is killed, many connections at a time.
`http` answers each request with HTTP_ANSWER and keeps the connection. The sink never copies what came out of the
receive queue, which a program has to: it shows what TCP takes in, not what a program gets.
"""

from __future__ import annotations

import sys
import threading

import ustack

BACKLOG = 1024
HTTP_BODY = b"x" * 62 + b"\n"
HTTP_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 63\r\n\r\n" + HTTP_BODY
assert len(HTTP_ANSWER) == 128


def start(stack: ustack.Stack, name: str, address: tuple[str, int]) -> ustack.Service:
    """The service that load.c and wrk expect under that name."""
    if name == "sink":
        return stack.start_service(address, "discard", report=True, backlog=BACKLOG)
    if name == "source":
        return stack.start_service(address, "chargen", backlog=BACKLOG)
    if name == "echo":
        return stack.start_service(address, "echo", backlog=BACKLOG)
    if name == "short":
        return stack.start_service(address, "answer", answer=b"!", close=True, backlog=BACKLOG)
    if name == "http":
        return stack.start_service(address, "answer", answer=HTTP_ANSWER, end=b"\r\n\r\n", backlog=BACKLOG)
    raise ValueError(f"{name!r} is no service of the benchmarks")


def main(name: str, where: str, address: str, port: str) -> None:
    stack = ustack.Stack()
    kind, _, fd = where.partition(":")
    stack.attach(ustack.Tap(fd=int(fd), offload=kind == "offload"), addresses=[f"{address}/24"])
    start(stack, name, (address, int(port)))
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
