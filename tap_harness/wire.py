"""A bad wire in real time: frames relayed between two descriptors with loss, duplication, reordering, delay and a rate.

One relay process, so that it has a core's time of its own and dies with the test. What happens to the n-th frame of a
direction depends on the seed and n alone. For virtual time use ustack.sim instead.

    with ImpairedWire(tap.fd, socket.fileno(), there=Impairment(loss=0.02)) as wire: ...; print(wire.stop())
"""

import json
import os
import random
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from tap_harness.netns import ROOT, Namespace
from tap_harness.process import Child

FRAME = 65600  # bytes: larger than any frame
BATCH = 64  # frames taken from one side before the other gets its turn
PERIOD = 1 << 18  # frames after which the decisions of a direction repeat
HELD_FOR = 0.002  # seconds after which a frame held back for reordering goes even if no other passes it
HELD_FRAMES = 4  # frames that overtake one held back

PASS, DROP, DUPLICATE, HOLD = range(4)
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
ETH_P_ALL = 3


@dataclass(frozen=True)
class Impairment:
    """What one direction does to frames: probabilities 0..1; delay in seconds; rate in bit/s (0: unlimited)."""

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    delay: float = 0.0
    rate: float = 0.0
    seed: int = 1


def packet_socket(namespace: Namespace, device: str, buffer: int = 16 << 20) -> socket.socket:
    """A socket for all frames of a netdev: the wire's end at a TAP whose descriptor a stack has."""
    with namespace.entered():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        for option in (33, 32):  # SO_RCVBUFFORCE, SO_SNDBUFFORCE: only the wire's own loss may lose a frame
            sock.setsockopt(socket.SOL_SOCKET, option, buffer)
        sock.bind((device, ETH_P_ALL))
    sock.setblocking(False)
    return sock


class ImpairedWire:
    """The relay between non-blocking descriptors a and b (TAP, packet socket). `there`: a to b, `back`: b to a."""

    def __init__(self, a: int, b: int, *, there: Impairment, back: Impairment | None = None) -> None:
        config = json.dumps([asdict(there), asdict(there if back is None else back)])
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
        self._child = Child(
            [sys.executable, str(Path(__file__)), str(a), str(b), config], fds=[a, b], env=env, stdin=subprocess.PIPE
        )
        self._child.wait_line("^relaying$")

    def stop(self) -> list[dict[str, int]]:
        """End the relay; returns what each direction did: frames passed, lost, duplicated, reordered, overflowed."""
        assert self._child.process.stdin is not None
        self._child.process.stdin.close()
        output = self._child.finish(timeout=10)
        return list(json.loads(output.strip().splitlines()[-1]))

    def __enter__(self) -> "ImpairedWire":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.stop()


class Direction:
    """One direction inside the relay process: reads from `source`, writes to `sink`."""

    def __init__(self, source: int, sink: int, impairment: Impairment) -> None:
        self.source = source
        self.sink = sink
        self.impairment = impairment
        self.counts = dict.fromkeys(("passed", "lost", "duplicated", "reordered", "overflowed"), 0)
        self._paced = impairment.delay > 0 or impairment.rate > 0
        self._decisions = decisions(impairment)
        self._index = 0
        self._held: deque[list[object]] = deque()  # [frame, frames still to overtake it, time at which it goes anyway]
        self._line: deque[tuple[float, bytes]] = deque()  # (time of arrival, frame) under way
        self._free_at = 0.0  # when the last bit of the last frame has left

    def pump(self) -> bool:
        """Take up to a batch of frames and do with each what its number says; False when there was none."""
        source, choices, index, read = self.source, self._decisions, self._index, os.read
        fast = not self._held and not self._paced
        for count in range(BATCH):
            try:
                frame = read(source, FRAME)
            except BlockingIOError:
                self._index = index
                return count > 0
            choice = choices[index]
            index = (index + 1) % PERIOD
            if choice == PASS and fast:
                self._write(frame)
            else:
                self._decide(choice, frame)
                fast = not self._held and not self._paced
        self._index = index
        return True

    def _decide(self, choice: int, frame: bytes) -> None:
        if choice == DROP:
            self.counts["lost"] += 1
        elif choice == HOLD:
            self.counts["reordered"] += 1
            self._held.append([frame, HELD_FRAMES, time.monotonic() + HELD_FOR])
            return
        else:
            self._forward(frame)
            if choice == DUPLICATE:
                self.counts["duplicated"] += 1
                self._forward(frame)
        for entry in self._held:
            entry[1] -= 1  # type: ignore[operator]
        while self._held and self._held[0][1] <= 0:  # type: ignore[operator]
            self._forward(self._held.popleft()[0])  # type: ignore[arg-type]

    def _forward(self, frame: bytes) -> None:
        if not self._paced:
            self._write(frame)
            return
        self._free_at = max(self._free_at, time.monotonic())
        if self.impairment.rate:
            self._free_at += len(frame) * 8 / self.impairment.rate
        self._line.append((self._free_at + self.impairment.delay, frame))

    def _write(self, frame: bytes) -> None:
        try:
            os.write(self.sink, frame)
            self.counts["passed"] += 1
        except (BlockingIOError, OSError):  # the far side is full or down: a wire drops
            self.counts["overflowed"] += 1

    def expire(self, now: float) -> float | None:
        """Send what is due at `now`; returns the time of the next thing due, or None."""
        while self._held and self._held[0][2] <= now:  # type: ignore[operator]
            self._forward(self._held.popleft()[0])  # type: ignore[arg-type]
        while self._line and self._line[0][0] <= now:
            self._write(self._line.popleft()[1])
        due = [self._line[0][0]] if self._line else []
        if self._held:
            due.append(self._held[0][2])  # type: ignore[arg-type]
        return min(due, default=None)


def decisions(impairment: Impairment) -> bytes:
    """What happens to each of PERIOD frames, by the seed."""
    weights = [impairment.loss, impairment.duplication, impairment.reordering]
    return bytes(
        random.Random(impairment.seed).choices([PASS, DROP, DUPLICATE, HOLD], [1 - sum(weights), *weights], k=PERIOD)
    )


def relay(directions: Sequence[Direction], control: int) -> None:
    """Relay until `control` is readable (its other end closed)."""
    poller = select.epoll()
    poller.register(control, select.EPOLLIN)
    for direction in directions:
        poller.register(direction.source, select.EPOLLIN)
    by_fd = {direction.source: direction for direction in directions}
    while True:
        due = [when for direction in directions if (when := direction.expire(time.monotonic())) is not None]
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        for fd, _ in poller.poll(timeout):
            if fd == control:
                return
            by_fd[fd].pump()


def main(argv: Sequence[str]) -> None:
    """The relay process: descriptors a and b, the two impairments as JSON. Ends when stdin does; prints what it did."""
    a, b = int(argv[0]), int(argv[1])
    there, back = (Impairment(**fields) for fields in json.loads(argv[2]))
    directions = [Direction(a, b, there), Direction(b, a, back)]
    print("relaying", flush=True)
    relay(directions, sys.stdin.fileno())
    print(json.dumps([direction.counts for direction in directions]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
