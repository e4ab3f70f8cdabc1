"""python -m bench.realwire: goodput and fairness next to the kernel's over the same troubled path, in real time.

Each cell is measured three ways over the same program (wire.c) between two TAPs: kernel to kernel, ustack to kernel,
kernel to ustack; the ratios are to the first. Then flows that share a path: ustack's own, and half of them the
kernel's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench import build, flows, machine
from tap_harness import need
from tap_harness.netns import Namespace
from tap_harness.process import Child
from tap_harness.tap import KernelTap
from tap_harness.wire import packet_socket

PAGE = Path(__file__).resolve().parents[1] / "docs" / "realwire.md"
BEGIN, END = "<!-- realwire:begin -->\n", "<!-- realwire:end -->\n"

KERNEL, USTACK = "kernel", "ustack"
WAYS = ((KERNEL, KERNEL), (USTACK, KERNEL), (KERNEL, USTACK))  # sender, receiver; what the ratios are to comes first
SINK, SOURCES = "10.9.0.2", {KERNEL: "10.9.0.1", USTACK: "10.9.0.3"}
FRAME = 1514
QUEUE_MIN = 10  # frames, as any real device has
PAYLOAD = 1448 / FRAME
QUEUES = (0.25, 1.0, 4.0)
BURST = 4  # frames of a burst of losses, on average
LEAST, MOST = 3, 9  # runs of a cell; more than the least where its ratios are not clear
CLEAR = 0.97  # a ratio above this needs no more runs
ATTEMPTS = 3  # of a run whose wire was late
START = 20.0  # seconds for the ends to be ready
LITTLE = 1e-9  # instead of nothing, where it is divided by or has a logarithm
FULL = 100  # per cent of the machine
FAIR = (2, 4, 8, 16)  # flows
FAIR_SKIP, FAIR_SECONDS = 5.0, 20.0
EVEN = 0.95  # Jain's index
EXIT_MISSING = 2


@dataclass(frozen=True)
class Cell:
    """A path and what is sent over it: rtt in s, rate in bit/s, queue in bandwidth-delay products; loss and reordering
    as parts of the frames.
    """

    rtt: float
    rate: float
    loss: float = 0.0
    bursts: bool = False
    reorder: float = 0.0
    queue: float = 1.0
    algorithm: str = "cubic"
    seconds: float = 5.0

    def trouble(self) -> str:
        if self.reorder:
            return f"{100 * self.reorder:g} % reordered"
        if not self.loss:
            return "no loss"
        return f"{100 * self.loss:g} % lost" + (f", bursts of {BURST}" if self.bursts else "")

    def path(self) -> str:
        return f"{1000 * self.rtt:g} ms, {self.rate / 1e6:g} Mbit/s, queue {self.queue:g} BDP"

    def wire(self, seed: int) -> list[str]:
        """The arguments of wire.c."""
        bdp = self.rate * self.rtt / 8
        limit = max(QUEUE_MIN * FRAME, int(self.queue * bdp))
        return [
            *(str(int(value)) for value in (self.rate, self.rtt / 2 * 1e9, limit)),
            *(str(value) for value in (self.loss, BURST if self.bursts else 1, self.reorder)),
            *(str(int(value)) for value in (self.rtt / 8 * 1e9, seed)),
        ]


def grid() -> Iterator[Cell]:
    """The cells, the fastest first."""
    yield Cell(0.02, 1e9, seconds=4.0)
    rate = 100e6
    yield Cell(0.001, rate, seconds=3.0)
    yield Cell(0.001, rate, 0.01, seconds=3.0)
    for queue in QUEUES:
        yield Cell(0.02, rate, queue=queue)
        yield Cell(0.1, rate, queue=queue, seconds=8.0)
    yield Cell(0.02, rate, 0.0001)
    yield Cell(0.02, rate, 0.001)
    yield Cell(0.02, rate, 0.001, bursts=True)
    yield Cell(0.02, rate, reorder=0.03)
    yield Cell(0.02, rate, algorithm="reno")
    yield Cell(0.02, rate, algorithm="bbr")
    yield Cell(0.1, rate, 0.0001, seconds=6.0)
    yield Cell(0.1, rate, 0.001, bursts=True)
    yield Cell(0.1, rate, reorder=0.01, seconds=6.0)
    rate = 10e6
    for rtt, seconds in ((0.001, 3.0), (0.02, 4.0), (0.1, 6.0)):
        for queue in QUEUES:
            yield Cell(rtt, rate, queue=queue, seconds=seconds)
        for loss in (0.001, 0.01, 0.03):
            yield Cell(rtt, rate, loss, seconds=seconds)
        for loss in (0.01, 0.03):
            yield Cell(rtt, rate, loss, bursts=True, seconds=seconds)
        yield Cell(rtt, rate, reorder=0.03, seconds=seconds)
    for algorithm in ("reno", "bbr"):
        yield Cell(0.02, rate, 0.01, algorithm=algorithm, seconds=4.0)
    yield Cell(0.3, rate, seconds=10.0)
    yield Cell(0.3, rate, 0.001, seconds=10.0)


def load_of(rate: float) -> int:
    """What a wire and its ends take of the machine, in per cent: something each, and more for the frames."""
    return min(FULL, round(5 + 0.4 * rate / 1e6))


class Machine:
    """How much of the machine wires may use at a time: who comes first is served first."""

    def __init__(self) -> None:
        self._free = FULL
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextlib.contextmanager
    def part(self, rate: float) -> Iterator[None]:
        load, me = load_of(rate), object()
        with self._changed:
            self._waiting.append(me)
            self._changed.wait_for(lambda: self._waiting[0] is me and self._free >= load)
            self._waiting.popleft()
            self._free -= load
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += load
                self._changed.notify_all()


class Rig:
    """A wire with ends of either kind at it, and the programs on them."""

    def __init__(self, cell: Cell, seed: int) -> None:
        self.cell, self.seed = cell, seed
        self._close = contextlib.ExitStack()
        self._ports: list[tuple[str, int]] = []
        self._ends: list[tuple[str, Namespace, int]] = []

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()

    def add(self, side: str, kind: str, address: str) -> Callable[..., Child]:
        """An end at side "a" or "b" -> what starts a program there: start(verb, *arguments)."""
        namespace = self._close.enter_context(Namespace())
        tap = self._close.enter_context(
            KernelTap(namespace, addresses=[f"{address}/24"] if kind == KERNEL else [], txqueuelen=20000)
        )
        if kind == KERNEL:
            namespace.sysctl("net.ipv4.tcp_rmem", flows.TCP_RMEM)
            namespace.sysctl("net.ipv4.tcp_wmem", flows.TCP_WMEM)
            self._ports.append((side, tap.fd))
            return lambda verb, *more: namespace.python("bench.flows", verb, KERNEL, address, *more)
        self._ports.append((side, self._close.enter_context(packet_socket(namespace, tap.name)).fileno()))
        return lambda verb, *more: namespace.python("bench.flows", verb, f"tap:{tap.fd}", address, *more, fds=[tap.fd])

    def start(self) -> Child:
        """The wire, running."""
        ports = [f"{side}:{fd}" for side, fd in self._ports]
        command = [build.program("wire.c"), *self.cell.wire(self.seed), *ports]
        child = self._close.enter_context(Child(command, fds=[fd for _, fd in self._ports], stdin=subprocess.PIPE))
        child.wait_line("^relaying$")
        return child


@dataclass
class Run:
    """Payload in bytes/s of each flow by its sender; what the wire says; whether it was in time."""

    rates: dict[str, list[float]]
    wire: dict[str, Any]
    seed: int
    late: float  # s; one frame of a hundred was later than this

    @property
    def total(self) -> float:
        return sum(sum(rates) for rates in self.rates.values())


def percentile_99(histogram: Sequence[int]) -> float:
    """From a histogram of powers of two of ns, in s."""
    left = sum(histogram) // 100
    for power in range(len(histogram) - 1, 0, -1):
        left -= histogram[power]
        if left < 0:
            return 1.5 * float(1 << power) / 1e9
    return 0.0


def transfer(cell: Cell, receiver: str, senders: Sequence[tuple[str, int]], seed: int, skip: float = 0.0) -> Run:
    """Flows from each of the senders (kind, how many) to one receiver, over one wire."""
    with Rig(cell, seed) as rig:
        sink_at = rig.add("b", receiver, SINK)
        sources_at = [(rig.add("a", kind, SOURCES[kind]), kind, count) for kind, count in senders]
        wire = rig.start()
        total = sum(count for _, count in senders)
        sink = sink_at("sink", str(total), str(skip), str(cell.seconds))
        sink.wait_line("^ready$", START)
        sources = [at("source", SINK, str(count), cell.algorithm) for at, _, count in sources_at]
        printed = sink.finish(skip + cell.seconds + 2 * START)
        for source in sources:
            source.stop()
        assert wire.process.stdin is not None
        wire.process.stdin.close()
        said = json.loads(wire.finish(10.0).splitlines()[-1])
    assert said["there"]["oversize"] == 0, f"a sender's superframes came to the wire whole: {said}"
    assert said["there"]["overflowed"] + said["back"]["overflowed"] == 0, f"an end did not take its frames: {said}"
    rates = json.loads(printed.splitlines()[-1])
    return Run({kind: rates[SOURCES[kind]] for kind, _ in senders}, said, seed, percentile_99(said["late_ns"]))


def in_time(cell: Cell, run: Run) -> bool:
    """A wire that is late is a longer path: it may be by a twentieth of the round trip, or a fifth of a millisecond."""
    return run.late <= max(0.0002, cell.rtt / 20)


def measured(cell: Cell, receiver: str, senders: Sequence[tuple[str, int]], seed: int, skip: float = 0.0) -> Run:
    """One run; again where the wire was late."""
    for _ in range(ATTEMPTS):
        run = transfer(cell, receiver, senders, seed, skip)
        if in_time(cell, run):
            break
    return run


@dataclass
class Outcome:
    """What a cell's runs brought: a list for each of WAYS."""

    cell: Cell
    runs: list[list[Run]] = field(default_factory=lambda: [[] for _ in WAYS])

    def used(self, way: int) -> float:
        """The median of the runs, as a part of what the path carries."""
        return 8 * median(run.total for run in self.runs[way]) / (self.cell.rate * PAYLOAD)

    def ratio(self, way: int) -> float:
        return self.used(way) / max(self.used(0), LITTLE)

    @property
    def worst(self) -> float:
        return min(self.ratio(1), self.ratio(2))

    @property
    def late(self) -> int:
        return sum(not in_time(self.cell, run) for runs in self.runs for run in runs)


def geometric(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(max(value, LITTLE)) for value in values) / len(values))


def measure(use: Machine, cell: Cell, first_seed: int, until: float, least: int = LEAST, most: int = MOST) -> Outcome:
    """All three ways with the same seed, who is first rotates; again with the next seed until it is clear, or the time
    (time.monotonic()) is over.
    """
    outcome = Outcome(cell)
    for n in range(most):
        if n >= least and (outcome.worst >= CLEAR or time.monotonic() > until):
            break
        with use.part(cell.rate):
            for way in sorted(range(len(WAYS)), key=lambda way: (way + n) % len(WAYS)):
                sender, receiver = WAYS[way]
                outcome.runs[way].append(measured(cell, receiver, [(sender, 1)], first_seed + n))
        print(row(outcome), file=sys.stderr, flush=True)
    return outcome


@dataclass(frozen=True)
class Fair:
    """Flows that shared a path: payload in bytes/s of each by its sender, in one run or the middle one of several."""

    cell: Cell
    rates: dict[str, list[float]]
    runs: int = 1

    @property
    def jain(self) -> float:
        """1: all the same; 1/n: one has all (Jain, Chiu and Hawe, DEC-TR-301)."""
        return jain([rate for rates in self.rates.values() for rate in rates])

    @property
    def used(self) -> float:
        return 8 * sum(sum(rates) for rates in self.rates.values()) / (self.cell.rate * PAYLOAD)


def jain(rates: Sequence[float]) -> float:
    return sum(rates) ** 2 / (len(rates) * sum(rate * rate for rate in rates))


def share(use: Machine, cell: Cell, count: int, mixed: bool, seed: int, skip: float = FAIR_SKIP) -> Fair:
    """count flows over one path: all ustack's, at both ends, or half of them the kernel's, whose end they come to.

    Once; where that is not even, LEAST times.
    """
    ends = [(USTACK, count // 2), (KERNEL, count - count // 2)] if mixed else [(USTACK, count)]
    found: list[Fair] = []
    while not found or (found[0].jain < EVEN and len(found) < LEAST):
        with use.part(cell.rate):
            run = measured(cell, KERNEL if mixed else USTACK, ends, seed + len(found), skip)
        found.append(Fair(cell, run.rates))
    middle = sorted(found, key=lambda fair: fair.jain)[len(found) // 2]
    return Fair(cell, middle.rates, len(found))


# ---- what is printed


def row(outcome: Outcome) -> str:
    cell = outcome.cell
    means = " | ".join(f"{100 * outcome.used(way):.1f}" for way in range(len(WAYS)))
    ratios = " | ".join(f"{outcome.ratio(way):.3f}" for way in (1, 2))
    late = f" ({outcome.late} late)" if outcome.late else ""
    return (
        f"| {cell.path()} | {cell.trouble()} | {cell.algorithm} | {means} | {ratios} | {len(outcome.runs[0])}{late} |"
    )


def rows(outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield "| path | trouble | | kernel → kernel | ustack → kernel | kernel → ustack | ratio | ratio | runs |"
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for o in sorted(outcomes, key=lambda o: (o.cell.algorithm != "cubic", o.cell.rtt, o.cell.rate, o.cell.queue)):
        yield row(o)


def summary(outcomes: Sequence[Outcome]) -> Iterator[str]:
    for way in (1, 2):
        sender, receiver = WAYS[way]
        ratios = [o.ratio(way) for o in outcomes]
        worst = min(outcomes, key=lambda o: o.ratio(way))
        yield (
            f"{sender} → {receiver}: geometric mean of {len(ratios)} ratios {geometric(ratios):.3f},"
            f" {sum(ratio < 0.9 for ratio in ratios)} below 0.9; the lowest {worst.ratio(way):.3f}"
            f" ({worst.cell.trouble()}; {worst.cell.path()}; {worst.cell.algorithm})."
        )


def fair_rows(found: Sequence[Fair]) -> Iterator[str]:
    yield "| flows | Jain's index | used, % | ustack's, Mbit/s | the kernel's, Mbit/s | runs |"
    yield "| --- | ---: | ---: | --- | --- | ---: |"
    for fair in found:
        count = sum(len(rates) for rates in fair.rates.values())
        kind = "half the kernel's" if KERNEL in fair.rates else "all ustack's"
        each = " | ".join(
            ", ".join(f"{8 * rate / 1e6:.1f}" for rate in sorted(fair.rates.get(who, ()))) for who in (USTACK, KERNEL)
        )
        name = f"{count}, {kind}, {fair.cell.path()}"
        yield f"| {name} | {fair.jain:.3f} | {100 * fair.used:.1f} | {each} | {fair.runs} |"


def text(outcomes: Sequence[Outcome], fair: Sequence[Fair], head: str) -> str:
    parts = [head, ""]
    if outcomes:
        parts += [*rows(outcomes), "", *(line + "\n" for line in summary(outcomes))]
    if fair:
        parts += [*fair_rows(fair), ""]
        parts.append(f"The lowest of Jain's indices: {min(one.jain for one in fair):.3f}.")
    return "\n".join(parts) + "\n"


def put_into_page(made: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(before + BEGIN + "\n" + made + "\n" + END + after, encoding="utf-8")


def missing() -> str | None:
    """Why nothing can be measured here; None where it can."""
    try:
        build.program("wire.c")
    except build.CannotBuild as error:
        return str(error)
    return need.missing_privilege()


def run(cells: Sequence[Cell], counts: Sequence[int], chosen: argparse.Namespace) -> tuple[list[Outcome], list[Fair]]:
    use = Machine()
    until = time.monotonic() + 60 * chosen.minutes
    fair_cell = Cell(0.02, 100e6, seconds=FAIR_SECONDS)

    with ThreadPoolExecutor(len(cells) + 2 * len(counts)) as pool:
        outcomes = [pool.submit(measure, use, cell, chosen.seed, until, min(chosen.runs, MOST)) for cell in cells]
        fair = [
            pool.submit(share, use, fair_cell, count, mixed, chosen.seed) for count in counts for mixed in (False, True)
        ]
        return [future.result() for future in outcomes], [future.result() for future in fair]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.realwire", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="of the wires' chance, of the first run (%(default)s)")
    parser.add_argument("--runs", type=int, default=LEAST, help="of a cell, at least (%(default)s)")
    parser.add_argument("--minutes", type=float, default=10.0, help="after these only what must be (%(default)s)")
    parser.add_argument("--only", metavar="TEXT", help="cells whose row has this in it; no fairness")
    parser.add_argument("--no-fairness", action="store_true", help="only the cells")
    parser.add_argument("--fairness", action="store_true", help="only the fairness")
    parser.add_argument("--docs", action="store_true", help="put the tables into docs/realwire.md")
    chosen = parser.parse_args(argv)
    if reason := missing():
        print(f"nothing can be measured here: {reason}", file=sys.stderr)
        return EXIT_MISSING
    head = f"{time.strftime('%Y-%m-%d')}, {machine.sentence(machine.describe())}."
    cells = [c for c in grid() if not chosen.only or chosen.only in f"{c.path()}, {c.trouble()}, {c.algorithm}"]
    outcomes, fair = run([] if chosen.fairness else cells, () if chosen.only or chosen.no_fairness else FAIR, chosen)
    made = text(outcomes, fair, head)
    print(made)
    if chosen.docs:
        put_into_page(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
