"""The services as ustack's own, answered inside the data plane (ustack.Service): what server.py and serve.c do, without
a program in between.

    python -m bench.native sink|source|echo|short|reply|http|http-close tap:FD|offload:FD|busy:FD ADDRESS PORT

FD is of a TAP, without or with offloads; busy: without, and asked again and again for BUSY µs before the stack sleeps.
Prints "ready" and serves until it is killed, many connections at a time.
The sink never copies what came out of the receive queue, which a program has to: it shows what TCP takes in, not what a
program gets.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import ustack

BACKLOG = 1024
BUSY = 200  # µs; twice a round trip between two cores
HTTP_BODY = b"0" * 128  # as in common.h

# service: (kind, options) of Stack.start_service()
SERVICES: dict[str, tuple[str, dict[str, Any]]] = {
    "sink": ("discard", {"report": True}),
    "source": ("chargen", {}),
    "echo": ("echo", {}),
    "reply": ("echo", {}),
    "short": ("answer", {"answer": b"!", "close": True}),
    "http": ("http", {"body": HTTP_BODY}),
    "http-close": ("http", {"body": HTTP_BODY, "close": True}),
}


def main(name: str, where: str, address: str, port: str) -> None:
    place, _, fd = where.partition(":")
    kind, options = SERVICES[name]
    stack = ustack.Stack()
    if place == "busy":
        stack.sysctl["net.core.busy_poll"] = BUSY
    stack.attach(ustack.Tap(fd=int(fd), offload=place == "offload"), addresses=[f"{address}/24"])
    stack.start_service((address, int(port)), kind, backlog=BACKLOG, **options)
    print("ready", flush=True)
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
