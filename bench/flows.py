"""The ends of bulk flows over a troubled path: the same program on kernel sockets and on ustack's.

    python -m bench.flows sink   kernel|tap:FD ADDRESS FLOWS SKIP SECONDS
    python -m bench.flows source kernel|tap:FD ADDRESS PEER FLOWS ALGORITHM

FD is of a TAP without offloads. The sink prints "ready", takes FLOWS connections, and from SKIP seconds after the last
of them counts for SECONDS what each brings; then it prints that as one JSON object, {address of the peer: [bytes/s of a
flow]}, and ends. The source sends by the congestion control ALGORITHM for as long as somebody reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from typing import Any

PORT = 7000
BLOCK = 256 * 1024  # bytes, as in common.h
TCP_CONGESTION = 13
# Linux's defaults of many years, and ustack's: both sides get them.
TCP_WMEM = "4096 16384 4194304"
TCP_RMEM = "4096 131072 6291456"


class Flow:
    """One connection that is read from in a thread of its own; `got` is what has come so far."""

    def __init__(self, connection: Any, peer: str) -> None:
        self.connection, self.peer, self.got = connection, peer, 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        buffer = bytearray(BLOCK)
        while got := self.connection.recv_into(buffer):
            self.got += got


def sink(make: Any, address: str, flows: str, skip: str, seconds: str) -> None:
    listener = make.create_server((address, PORT), backlog=64)
    print("ready", flush=True)
    taken = []
    for _ in range(int(flows)):
        connection, peer = listener.accept()
        taken.append(Flow(connection, peer[0]))
    time.sleep(float(skip))
    before, start = [flow.got for flow in taken], time.monotonic()
    time.sleep(float(seconds))
    after, elapsed = [flow.got for flow in taken], time.monotonic() - start
    found: dict[str, list[float]] = {}
    for flow, first, last in zip(taken, before, after, strict=True):
        found.setdefault(flow.peer, []).append((last - first) / elapsed)
    print(json.dumps(found), flush=True)


def pour(connection: Any) -> None:
    block = bytes(BLOCK)
    try:
        while True:
            connection.sendall(block)
    except OSError:  # the sink has enough
        return


def source(make: Any, peer: str, flows: str, algorithm: str) -> None:
    threads = []
    for _ in range(int(flows)):
        connection = make.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.setsockopt(socket.IPPROTO_TCP, TCP_CONGESTION, algorithm.encode())
        connection.connect((peer, PORT))
        threads.append(threading.Thread(target=pour, args=(connection,), daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main(kind: str, where: str, address: str, *arguments: str) -> None:
    make: Any = socket
    if where != "kernel":
        import ustack

        make = ustack.Stack()
        make.sysctl["net.ipv4.tcp_rmem"] = TCP_RMEM
        make.sysctl["net.ipv4.tcp_wmem"] = TCP_WMEM
        make.attach(ustack.Tap(fd=int(where.partition(":")[2]), offload=False), addresses=[f"{address}/24"])
    # The kernel's TCP runs where the wire writes to its TAP, before any other program; so that a busy machine does not
    # show as one end's slowness, the programs run before others as well. All their threads, and only now: a program
    # that loads its modules would hold up the ends of the other runs.
    with contextlib.suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            os.sched_setscheduler(int(thread), os.SCHED_RR, os.sched_param(1))
    if kind == "sink":
        sink(make, address, *arguments)
    else:
        source(make, *arguments)
    sys.stdout.flush()
    os._exit(0)  # not waiting for what a dead path still owes


if __name__ == "__main__":
    main(*sys.argv[1:])
