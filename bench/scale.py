"""Many connections: what each costs in memory, and what their number does to a packet.

    python -m bench.scale engine COUNT         an engine and clients that are hardly there, in virtual time (crowd.pyx)
    python -m bench.scale instructions COUNT   the same counted by callgrind
    python -m bench.scale sockets COUNT        accepted connections that a program holds as ustack sockets
    python -m bench.scale tap COUNT            kernel clients on a TAP; ping with their connections idle, and without
    python -m bench.scale flood SECONDS        bulk over a TAP, with and without a flood of SYNs
    python -m bench.scale all                  each of them once: about three minutes

Prints a JSON object each. tap and flood need root.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import build
from tap_harness.netns import ROOT, Namespace
from tap_harness.process import Child
from tap_harness.tap import KernelTap

PAGE = 4096
EXCHANGES = 200_000  # requests with echo and acknowledgement, timed at a time
WARM = 17  # exchanges of each connection before: the first sixteen segments are acknowledged at once
ROUNDS = 5
COUNTED = 20_000  # exchanges under callgrind
SERVER, PREFIX, PORT = "10.9.0.2", "/24", 7000
HOSTS = ("10.9.0.1", "10.9.0.3", "10.9.0.4", "10.9.0.5")
PINGS = 3000
SAMPLE = 1000  # connections of each program that are asked for an echo
OWN_FILES = 100  # descriptors of a program that are no connections


def resident(pid: int | str = "self") -> int:
    """Bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE


# -- in virtual time


def engine(count: int) -> dict[str, float]:
    """Memory and CPU time. A packet is one in or out; each exchange has three, on a connection of a scattered order."""
    module = build.crowd()
    crowd = module.Crowd(count)
    crowd.touch()
    before, start = resident(), time.thread_time()
    opened = crowd.open(count)
    took, grown = time.thread_time() - start, resident() - before
    if opened != count or crowd.accept() != count:
        raise AssertionError(f"{opened} of {count} connections were opened")
    first = max(WARM * count, EXCHANGES)
    crowd.exchange(0, first)
    each = []
    for number in range(ROUNDS):
        start = time.thread_time()
        packets = crowd.exchange(first + number * EXCHANGES, EXCHANGES)
        each.append((time.thread_time() - start) / packets * 1e9)
    return {
        "count": count,
        "bytes": grown / count,
        "resident": resident() - before,
        "open_us": took / count * 1e6,
        "packet_ns": statistics.median(each),
    }


def instructions(count: int) -> dict[str, float]:
    """Instructions a packet, the clients' own (about a third) included. Raises CannotBuild without valgrind."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise build.CannotBuild("no valgrind: apt-get install valgrind")
    build.crowd()
    with tempfile.TemporaryDirectory(prefix="bench.") as directory:
        out = Path(directory, "callgrind.out")
        command = [valgrind, "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
        command += [sys.executable, "-m", "bench.scale", "--counted", str(count)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False)
        if done.returncode != 0:
            raise AssertionError(f"exit code {done.returncode} from {' '.join(command)}: {done.stderr}")
        total = re.search(r"^totals: (\d+)", out.read_text(encoding="utf-8"), re.MULTILINE)
        assert total is not None
        return {"count": count, "packet_instructions": int(total[1]) / json.loads(done.stdout)["packets"]}


def counted(count: int) -> dict[str, float]:
    """What runs under callgrind: the connections of the counted exchanges are warmed up, not all."""
    module = build.crowd()
    crowd = module.Crowd(count)
    crowd.open(count)
    crowd.accept()
    for _ in range(WARM):
        crowd.exchange(0, COUNTED)
    module.instrument(True)
    packets = crowd.exchange(0, COUNTED)
    module.instrument(False)
    return {"packets": packets}


class Clients:
    """Frames of clients for a stack on a Callback link, made in Python."""

    def __init__(self) -> None:
        self.answers: dict[tuple[bytes, bytes], int] = {}

    def take(self, frame: bytes) -> None:
        """What the stack sent: a SYN-ACK's number is kept until its ACK is made."""
        if frame[9] == 6 and frame[33] & 0x12 == 0x12:
            self.answers[frame[16:20], frame[22:24]] = int.from_bytes(frame[24:28], "big")

    @staticmethod
    def frame(number: int, seq: int, ack: int, flags: int) -> bytes:
        source = (0x0A400000 + number // 60000).to_bytes(4, "big")
        port = 1024 + number % 60000
        options = b"\2\4\5\xb4\1\3\3\7\1\1\4\2" if flags & 2 else b""
        words = struct.pack(">HHIIBBHHH", port, PORT, seq, ack, (20 + len(options)) << 2, flags, 65535, 0, 0) + options
        over = source + socket.inet_aton("10.0.0.1") + struct.pack(">HH", 6, len(words))
        words = words[:16] + checksum(over + words) + words[18:]
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(words), 0, 0x4000, 64, 6, 0) + over[:8]
        return head[:10] + checksum(head) + head[12:] + words


def checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return (~(total + (total >> 16)) & 0xFFFF).to_bytes(2, "big")


def sockets(count: int) -> dict[str, float]:
    """What an accepted connection that a program holds costs, its Python object and its place in a list included."""
    import ustack

    clients = Clients()
    held: list[Any] = [None] * count
    with ustack.Stack(driver="manual") as stack:
        link = ustack.Callback(send=clients.take, medium="ip", mtu=1500)
        stack.attach(link, addresses=["10.0.0.1/8"])
        listener = stack.create_server(("", PORT), backlog=128)
        listener.setblocking(False)
        now = 0

        def opened(first: int, last: int) -> None:
            nonlocal now
            for flags in (2, 16):
                for number in range(first, last):
                    ours = clients.frame(number, 0, 0, 2)
                    ack = clients.answers.pop((ours[12:16], ours[20:22]), 0) + 1 if flags == 16 else 0
                    link.receive(clients.frame(number, flags >> 4, ack, flags))
                now += 1_000_000
                stack.poll(now)
            for number in range(first, last):
                held[number] = listener.accept()[0]

        opened(0, 100)
        before = resident()
        for first in range(100, count, 100):
            opened(first, min(first + 100, count))
        grown = resident() - before
        held.clear()
    return {"count": count, "bytes": grown / (count - 100)}


# -- over a TAP


def serve(fd: int) -> None:
    """ustack with services of its own on a TAP; runs until it is killed."""
    import signal

    import ustack

    stack = ustack.Stack()
    stack.attach(ustack.Tap(fd=fd, offload=False), addresses=[SERVER + PREFIX], gateway=HOSTS[0])
    stack.start_service((SERVER, PORT), "echo", backlog=4096)
    stack.start_service((SERVER, PORT + 1), "discard", backlog=128, report=True)
    print("ready", flush=True)
    signal.pause()


@contextlib.contextmanager
def on_tap() -> Iterator[tuple[Namespace, Child]]:
    with Namespace() as namespace:
        namespace.sysctl("net.ipv4.ip_local_port_range", "1024 65535")
        with KernelTap(namespace, addresses=[host + PREFIX for host in HOSTS]) as tap:
            server = namespace.python("bench.scale", "--serve", str(tap.fd), fds=[tap.fd])
            server.wait_line("^ready$", 20)
            yield namespace, server


def stay_on(cores: set[int], pid: int) -> None:
    """Bind every thread of a process to cores; its children to come inherit it."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), cores)


def client(namespace: Namespace, *arguments: object) -> dict[str, Any]:
    command = [build.program("hold.c"), *(str(word) for word in arguments)]
    done = namespace.run(command, timeout=120)
    if done.returncode != 0:
        raise AssertionError(f"exit code {done.returncode} from {' '.join(command)}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def tap(count: int) -> dict[str, float]:
    """Connections of the kernel's to ustack, all open at a time; round trips of ping in turns, without and with."""
    with on_tap() as (namespace, server), on_tap() as (empty, idle):
        before = resident(server.pid)
        holders, seconds = [], 0.0
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - OWN_FILES
        for first in range(0, count, most):
            part = min(most, count - first)
            numbers = [str(number) for number in (PORT, part, SAMPLE, first)]
            command = [build.program("hold.c"), "hold", SERVER, *numbers, *HOSTS]
            holders.append(namespace.popen(command, stdin=subprocess.PIPE))
            found = json.loads(holders[-1].wait_line(r"^\{.*\}$", 60 + part / 1000)[0])
            if found["open"] != part or found["echoed"] != SAMPLE:
                raise AssertionError(f"{found} of {part}, after {first}")
            seconds += found["seconds"]
        grown = resident(server.pid) - before
        without, having = [], []
        # All on one core: on two, what a wake-up costs is the scheduler's affair, and all there is to be seen.
        allowed = os.sched_getaffinity(0)
        for pid in (server.pid, idle.pid, os.getpid()):
            stay_on({min(allowed)}, pid)
        for _ in range(ROUNDS):
            without.append(client(empty, "ping", SERVER, PINGS)["median_us"])
            having.append(client(namespace, "ping", SERVER, PINGS)["median_us"])
        stay_on(allowed, os.getpid())
        for holder in holders:
            holder.stop()
    return {
        "count": count,
        "bytes": grown / count,
        "rate": count / seconds,
        "ping_us": statistics.median(having),
        "ping_none_us": statistics.median(without),
        "ping_ratio": statistics.median(having) / statistics.median(without),
    }


def flood(seconds: float) -> dict[str, float]:
    """One stream into ustack, with and without SYNs from everywhere as fast as a raw socket sends them.

    The flood takes a core and its place in the device's queue in any case; what is the stack's is the difference to a
    flood of as many segments that it can only drop.
    """
    load = build.program("load.c")
    goodput: dict[str, list[float]] = {"none": [], "junk": [], "syn": []}
    sent: dict[str, list[float]] = {"junk": [], "syn": []}
    with on_tap() as (namespace, _):
        bulk = [load, "send", SERVER, str(PORT + 1), str(seconds), "0", *HOSTS]
        storm = [build.program("hold.c"), "flood", SERVER, str(PORT), str(seconds + 1)]

        def gbit() -> float:
            done = namespace.run(bulk, timeout=seconds + 90)
            if done.returncode != 0:
                raise AssertionError(f"{' '.join(bulk)}: {done.stderr}")
            found = json.loads(done.stdout)
            return float(found["bytes"] * 8 / found["seconds"] / 1e9)

        for _ in range(ROUNDS):
            goodput["none"].append(gbit())
            for kind, more in (("junk", ["junk"]), ("syn", [])):
                flooder = namespace.popen([*storm, *more])
                time.sleep(0.2)
                goodput[kind].append(gbit())
                report = json.loads(flooder.finish(seconds + 30))
                sent[kind].append(report["sent"] / report["seconds"])
    found = {f"gbit_{kind}": statistics.median(values) for kind, values in goodput.items()}
    found |= {f"{kind}_per_second": statistics.median(values) for kind, values in sent.items()}
    return {**found, "share": found["gbit_syn"] / found["gbit_junk"]}


def missing(kind: str) -> str | None:
    """Why a kind that needs no privilege cannot be measured; None where it can."""
    try:
        if kind != "sockets":
            build.crowd()
    except build.CannotBuild as error:
        return str(error)
    return "no valgrind: apt-get install valgrind" if kind == "instructions" and not shutil.which("valgrind") else None


KINDS: dict[str, Callable[[int], dict[str, float]]] = {
    "engine": engine,
    "instructions": instructions,
    "sockets": sockets,
    "tap": tap,
    "flood": flood,
}
ALL = (
    *(("engine", count) for count in (10, 1000, 100_000, 1_000_000)),
    *(("instructions", count) for count in (10, 1000, 1_000_000)),
    ("sockets", 100_000),
    ("tap", 10_000),
    ("tap", 200_000),
    ("flood", 3),
)


def apart(kind: str, number: int) -> dict[str, float]:
    """One measurement in a process of its own, so that none inherits another's memory."""
    command = [sys.executable, "-m", "bench.scale", kind, str(number)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode != 0:
        raise AssertionError(f"exit code {done.returncode} from {' '.join(command)}: {done.stderr}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main(kind: str, number: str = "") -> None:
    if kind == "--serve":
        serve(int(number))
    elif kind == "--counted":
        print(json.dumps(counted(int(number))))
    elif kind == "all":
        for one, count in ALL:
            print(json.dumps({"kind": one, **apart(one, count)}), flush=True)
    else:
        print(json.dumps(KINDS[kind](int(number))))


if __name__ == "__main__":
    main(*sys.argv[1:])
