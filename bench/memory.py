"""Two stacks in one process, joined by ustack.pipe(): what the stack costs where there is no device.

    python -m bench.memory thread|manual MTU SECONDS

thread: each stack has its thread, a sender and a receiver have theirs. manual: one thread does everything, in turns.
Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import ustack

BLOCK = 256 * 1024  # bytes
PORT = 7001
SENDER, RECEIVER = "10.9.0.1", "10.9.0.2"


def stacks(driver: str, mtu: int) -> tuple[Any, Any]:
    """Two stacks with a wire between them."""
    pair = ustack.Stack(driver=driver), ustack.Stack(driver=driver)
    for stack, end, address in zip(pair, ustack.pipe(mtu=mtu), (SENDER, RECEIVER), strict=True):
        stack.attach(end, addresses=[f"{address}/24"])
    return pair


def with_threads(sender: Any, receiver: Any, seconds: float) -> tuple[int, float]:
    """Returns bytes received and the seconds it took."""
    listener = receiver.create_server(("", PORT))
    sending = sender.create_connection((RECEIVER, PORT))
    receiving, _ = listener.accept()
    start = time.monotonic()

    def send() -> None:
        block = bytes(BLOCK)
        while time.monotonic() - start < seconds:
            sending.sendall(block)
        sending.close()

    thread = threading.Thread(target=send)
    thread.start()
    buffer = bytearray(BLOCK)
    total = 0
    while got := receiving.recv_into(buffer):
        total += got
    took = time.monotonic() - start
    thread.join()
    receiving.close()
    return total, took


def in_turns(sender: Any, receiver: Any, seconds: float) -> tuple[int, float]:
    """The same in one thread: send what fits, let both stacks work, read what came."""
    listener = receiver.create_server(("", PORT))
    listener.setblocking(False)
    sending = sender.socket()
    sending.setblocking(False)
    sending.connect_ex((RECEIVER, PORT))
    receiving = None
    block, buffer = bytes(BLOCK), bytearray(BLOCK)
    total = 0
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        try:
            sending.send(block)
        except BlockingIOError:
            pass
        receiver.poll()
        sender.poll()
        try:
            if receiving is None:
                receiving, _ = listener.accept()
                receiving.setblocking(False)
            while got := receiving.recv_into(buffer):
                total += got
        except BlockingIOError:
            pass
    return total, time.monotonic() - start


def main(driver: str, mtu: int, seconds: float) -> None:
    sender, receiver = stacks(driver, mtu)
    cpu = time.process_time()
    total, took = (with_threads if driver == "thread" else in_turns)(sender, receiver, seconds)
    cpu = time.process_time() - cpu
    sender.close()
    receiver.close()
    print(json.dumps({"bytes": total, "seconds": took, "cpu_seconds": cpu}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
