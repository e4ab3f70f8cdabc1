"""python -m bench.goodput: goodput over paths of all kinds in virtual time, as a table; fails if a transfer stalls.

One bulk transfer a cell, stack to stack over a simulated wire: the same seed gives the same table on every machine.
While data waits, the sender may be silent for a retransmission time-out (RFC 6298, with its back-off) and no longer.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path
from typing import Any

from ustack import sim

PAGE = Path(__file__).resolve().parents[1] / "docs" / "goodput.md"
BEGIN, END = "<!-- goodput:begin -->\n", "<!-- goodput:end -->\n"

RTTS = (0.001, 0.02, 0.1, 0.3)
RATES = (10e6, 100e6, 1e9)
LOSSES = (0.0, 0.0001, 0.001, 0.01, 0.03)
REORDERINGS = (0.003, 0.01, 0.03)
QUEUES = (0.25, 1.0, 4.0)
BURST = 4  # frames of a burst of losses, on average
FRAME = 1514
QUEUE_MIN = 10  # frames, as any real device has
SECONDS, ROUND_TRIPS = 3.0, 30  # of virtual time a cell: whichever is longer
WATCH = 0.005  # s between looks at the sender
PAYLOAD = 1448 / FRAME  # of a frame


@dataclass(frozen=True)
class Cell:
    """A path: rtt in s, rate in bit/s, queue in bandwidth-delay products; loss, reordering as parts of the frames."""

    rtt: float
    rate: float
    loss: float
    bursts: bool
    reorder: float
    queue: float

    @property
    def seconds(self) -> float:
        return max(SECONDS, ROUND_TRIPS * self.rtt)

    def row(self) -> str:
        if self.reorder:
            return f"{100 * self.reorder:g} % reordered"
        if not self.loss:
            return "no loss"
        return f"{100 * self.loss:g} % lost" + (f", bursts of {BURST}" if self.bursts else "")

    def column(self) -> str:
        return f"{1000 * self.rtt:g} ms, {self.rate / 1e6:g} Mbit/s"


@dataclass(frozen=True)
class Outcome:
    """Bytes of payload a second at the receiver as a part of what the path carries; the longest silence and what it
    may be at most, in s; segments sent, sent again, and recoveries taken back.
    """

    cell: Cell
    used: float
    silent: float
    allowed: float
    sent: int
    resent: int
    undone: int

    @property
    def stalled(self) -> bool:
        return self.silent > self.allowed


def grid(queues: Sequence[float] = QUEUES) -> Iterator[Cell]:
    """All cells, the fastest first, for they take longest."""
    for queue in queues:
        for rate in sorted(RATES, reverse=True):
            for rtt in sorted(RTTS, reverse=True):
                yield Cell(rtt, rate, 0, False, 0, queue)
                for loss in LOSSES[1:]:
                    yield Cell(rtt, rate, loss, False, 0, queue)
                    yield Cell(rtt, rate, loss, True, 0, queue)
                for reorder in REORDERINGS:
                    yield Cell(rtt, rate, 0, False, reorder, queue)


def bursty(cell: Cell, chance: random.Random) -> Callable[[bytes, int], bytes | None]:
    """A wire's filter: two states, as Gilbert had it; in the bad one every frame is lost."""
    leave = 1 / BURST
    enter = cell.loss * leave / (1 - cell.loss)
    bad = False

    def pass_or_lose(frame: bytes, number: int) -> bytes | None:
        nonlocal bad
        bad = chance.random() >= leave if bad else chance.random() < enter
        return None if bad else frame

    return pass_or_lose


class Watch:
    """Looks every few milliseconds: how long did nothing go out or come in, and how long may that last?"""

    def __init__(self, net: sim.Network, wire: Any, stack: Any) -> None:
        self.net, self.wire, self.stack = net, wire, stack
        self.heard = 0
        self.since = 0.0
        self.may_be = 1.0
        self.silent = self.allowed = 0.0
        self.look()

    def look(self) -> None:
        now = self.net.now / 1e9
        stats = self.wire.stats
        heard = stats["b_to_a"]["sent"] + stats["a_to_b"]["delivered"]  # an ACK of new data starts the timer anew
        (flow,) = (c for c in self.stack.connections() if c.state == "ESTABLISHED")
        if heard != self.heard:
            self.heard, self.since, self.may_be = heard, now, 0.0
        self.may_be = max(self.may_be, flow.rto / 1e6)
        if now - self.since - self.may_be > self.silent - self.allowed or not self.allowed:
            self.silent, self.allowed = now - self.since, self.may_be + 2 * WATCH
        self.net.call_later(WATCH, self.look)


def measure(cell: Cell, seed: int = 1) -> Outcome:
    """One bulk transfer over the path."""
    with sim.Network(seed=seed) as net:
        receiver, sender = net.stack("receiver"), net.stack("sender")
        wire = net.wire(receiver, sender, addresses=("10.0.0.1/24", "10.0.0.2/24"), rate=cell.rate, delay=cell.rtt / 2)
        with receiver.create_server(("", 80)) as listener:
            client = sender.create_connection(("10.0.0.1", 80))
            server, _ = listener.accept()
        wire.b_to_a.queue_bytes = max(QUEUE_MIN * FRAME, int(cell.queue * cell.rate * cell.rtt / 8))
        wire.b_to_a.reorder, wire.b_to_a.reorder_delay = cell.reorder, cell.rtt / 8
        if cell.bursts:
            wire.b_to_a.filter = bursty(cell, random.Random(seed))
        else:
            wire.b_to_a.loss = cell.loss
        with client, server:
            watch = Watch(net, wire, sender)
            net.spawn(pour, client)
            start = net.now
            end = start + int(cell.seconds * 1e9)
            got = 0
            while net.now < end:
                got += len(server.recv(1 << 20))
            elapsed = (net.now - start) / 1e9
            counters = sender.counters()
            undone = sum(counters[f"TCP{kind}Undo"] for kind in ("Full", "Partial", "DSACK", "Loss"))
            used = 8 * got / elapsed / (cell.rate * PAYLOAD)
            resent = counters["TcpRetransSegs"]
            return Outcome(cell, used, watch.silent, watch.allowed, counters["TcpOutSegs"], resent, undone)


def pour(sock: Any) -> None:
    """Sends until the connection ends."""
    block = bytes(1 << 20)
    try:
        while True:
            sock.sendall(block)
    except OSError:
        return


def tables(outcomes: Sequence[Outcome]) -> str:
    """A table a queue: a row a kind of trouble, a column a path; goodput in per cent of what the path carries."""
    text = []
    for queue in sorted({o.cell.queue for o in outcomes}):
        here = [o for o in outcomes if o.cell.queue == queue]
        cells = {(o.cell.row(), o.cell.column()): o for o in here}
        rows = list(dict.fromkeys(o.cell.row() for o in here))
        columns = [c.column() for c in sorted({o.cell for o in here}, key=lambda c: (c.rtt, c.rate))]
        columns = list(dict.fromkeys(columns))
        text.append(f"**Queue of {queue:g} BDP**\n")
        text.append("| | " + " | ".join(columns) + " |")
        text.append("| --- |" + " ---: |" * len(columns))
        for row in rows:
            found = [cells.get((row, column)) for column in columns]
            text.append(f"| {row} | " + " | ".join(f"{100 * o.used:.1f}" if o else "" for o in found) + " |")
        text.append("")
    worst = max(outcomes, key=lambda o: o.silent - o.allowed)
    text.append(
        f"{len(outcomes)} cells, {sum(o.stalled for o in outcomes)} with a silence longer than the retransmission"
        f" time-out. The longest for its time-out: {1000 * worst.silent:.0f} ms where {1000 * worst.allowed:.0f} ms may"
        f" be ({worst.cell.row()}; {worst.cell.column()}; queue {worst.cell.queue:g} BDP)."
    )
    late = [o for o in outcomes if o.cell.reorder]
    if late:
        most = max(late, key=lambda o: o.resent / o.sent)
        text.append(
            f"With reordering at most {100 * most.resent / most.sent:.2f} % of the segments were sent again"
            f" ({most.cell.row()}; {most.cell.column()}; queue {most.cell.queue:g} BDP), what full queues dropped"
            " included."
        )
    return "\n".join(text) + "\n"


def put_into_page(text: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(before + BEGIN + "\n" + text + "\n" + END + after, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.goodput", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--queue", type=float, action="append", metavar="BDP", help="only queues of this size")
    parser.add_argument("--seed", type=int, default=1, help="of all chance (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (%(default)s)")
    parser.add_argument("--docs", action="store_true", help="put the tables into docs/goodput.md")
    chosen = parser.parse_args(argv)
    cells = [(cell, chosen.seed) for cell in grid(chosen.queue or QUEUES)]
    with Pool(chosen.jobs) as pool:
        outcomes = []
        for outcome in pool.starmap(measure, cells, chunksize=1):
            outcomes.append(outcome)
    text = tables(outcomes)
    print(text)
    if chosen.docs:
        put_into_page(text)
    for outcome in outcomes:
        if outcome.stalled:
            print(f"stalled: {outcome}", file=sys.stderr)
    return int(any(outcome.stalled for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
