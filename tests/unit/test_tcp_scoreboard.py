"""The records of what was sent, and the index over them: against a model that looks through a list, and for what an ACK
may cost.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ustack_ext.tcp.testing import SendSide

MSS = 1460
WRAP = 2**32
WINDOW = 6 << 20
INDEX_FROM = 32
PARTS = 10_000


@dataclass
class Record:
    """Sequence numbers here do not wrap."""

    seq: int
    end: int
    sacked: bool = False
    lost: bool = False
    retrans: bool = False
    sent: int = 0

    def is_lost(self) -> bool:
        return self.lost and not self.retrans and not self.sacked


@dataclass
class Model:
    """The scoreboard, as RFC 2018 and tcp/scoreboard's own words have it: every question is a walk."""

    una: int
    mss: int
    now: int = 0
    records: list[Record] = field(default_factory=list)

    @property
    def nxt(self) -> int:
        return self.records[-1].end if self.records else self.una

    def send(self, n: int) -> None:
        self.records.append(Record(self.nxt, self.nxt + n, sent=self.now))

    def cut(self, r: Record, at: int) -> None:
        where = self.records.index(r)
        self.records.insert(where + 1, Record(at, r.end, r.sacked, r.lost, r.retrans, r.sent))
        r.end = at

    def sack(self, left: int, right: int) -> None:
        """Whole segments of a record count, from its beginning; its last may be shorter."""
        for r in list(self.records):
            if r.sacked or r.end <= left or r.seq >= right:
                continue
            piece = r
            if r.seq < left:
                keep = math.ceil((left - r.seq) / self.mss) * self.mss
                if r.seq + keep >= r.end:
                    continue
                self.cut(r, r.seq + keep)
                piece = self.records[self.records.index(r) + 1]
            if piece.end > right:
                keep = max(right - piece.seq, 0) // self.mss * self.mss
                if keep == 0:
                    continue
                self.cut(piece, piece.seq + keep)
            piece.sacked, piece.lost, piece.retrans = True, False, False

    def ack(self, ack: int, blocks: list[tuple[int, int]]) -> None:
        for i, (left, right) in enumerate(blocks):
            covered = len(blocks) > 1 and left >= blocks[1][0] and right <= blocks[1][1]
            if i == 0 and (right <= ack if left < ack else covered):  # RFC 2883
                continue
            if ack <= left < right <= self.nxt:
                self.sack(left, right)
        self.una = ack
        self.records = [r for r in self.records if r.end > ack]
        if self.records:
            self.records[0].seq = max(self.records[0].seq, ack)

    def resend(self, most: int) -> list[tuple[int, int]]:
        sent = []
        while len(sent) < most:
            r = next((r for r in self.records if r.is_lost()), None)
            if r is None:
                break
            if r.end - r.seq > self.mss:
                self.cut(r, r.seq + self.mss)
            r.retrans = True
            r.sent = self.now
            sent.append((r.seq % WRAP, r.end % WRAP))
        return sent

    def lose(self, n: int) -> None:
        r = self.records[n] if n < len(self.records) else None
        if r is not None and not r.sacked:
            r.lost, r.retrans = True, False

    def unlose(self) -> None:
        for r in self.records:
            if r.is_lost():
                r.lost = False

    def forget_sacks(self) -> None:
        for r in self.records:
            r.sacked = False

    def as_told(self) -> list[tuple[int, int, bool, bool, bool]]:
        return [(r.seq % WRAP, r.end % WRAP, r.sacked, r.lost, r.retrans) for r in self.records]

    def sizes(self, chosen: Callable[[Record], bool]) -> int:
        return sum(r.end - r.seq for r in self.records if chosen(r))

    def counted(self) -> tuple[int, int, int, int]:
        return (
            self.sizes(lambda r: not r.sacked and not r.is_lost()),
            self.sizes(lambda r: r.sacked),
            self.sizes(Record.is_lost),
            self.sizes(lambda r: r.retrans and not r.sacked),
        )


places = st.integers(0, PARTS)
operations = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 60), st.integers(1, 4 * 100)),
    st.tuples(st.just("ack"), places, st.lists(st.tuples(places, places), max_size=4)),
    st.tuples(st.just("sack"), st.just(0), st.lists(st.tuples(places, st.integers(0, 600)), max_size=4)),
    st.tuples(st.just("lose"), st.integers(0, 200), st.integers(1, 30)),
    st.tuples(st.just("resend"), st.integers(1, 20), st.none()),
    st.tuples(st.just("unlose"), st.none(), st.none()),
    st.tuples(st.just("forget"), st.none(), st.none()),
)


def apply(model: Model, side: SendSide, operation: tuple) -> None:
    what, first, second = operation
    out = model.nxt - model.una
    model.now += 1000
    side.advance(1000)
    if what == "send":
        for _ in range(first):
            model.send(second)
            side.send(second)
    elif what in ("ack", "sack"):
        ack = model.una + (out * first // PARTS if what == "ack" else 0)
        edges = [(model.una + out * a // PARTS, model.una + out * b // PARTS) for a, b in second]
        if what == "sack":
            edges = [(left, left + n) for (left, _), (_, n) in zip(edges, second, strict=True)]
        model.ack(ack, edges)
        side.board(ack % WRAP, [(left % WRAP, right % WRAP) for left, right in edges])
    elif what == "lose":
        for n in range(first, first + second):
            model.lose(n)
            side.lose(n)
    elif what == "resend":
        assert side.resend(first)[0] == model.resend(first)
    elif what == "unlose":
        model.unlose()
        side.unlose()
    else:
        model.forget_sacks()
        side.forget_sacks()


def compare(model: Model, side: SendSide) -> None:
    assert side.records() == model.as_told()
    assert side.counted() == model.counted()
    times = [ns for ns, _ in side.by_time()]
    assert times == sorted(times)
    assert (side.indexed() > 0) >= (len(model.records) > INDEX_FROM)
    if not side.indexed():
        return
    for at in range(model.una, model.nxt + 1, max((model.nxt - model.una) // 7, 1)):
        behind = [r for r in model.records if r.end > at]
        firsts = (
            next(iter(behind), None),
            next((r for r in behind if not r.sacked), None),
            next((r for r in behind if r.is_lost()), None),
        )
        assert side.find(at % WRAP) == tuple(r.seq % WRAP if r else None for r in firsts)


@pytest.mark.rfc("2018", "5")
@settings(max_examples=120, deadline=None)
@given(iss=st.sampled_from([0, WRAP - 7_000, 2**31 - 3]), steps=st.lists(operations, max_size=40))
def test_it_is_what_a_list_would_be(iss: int, steps: list[tuple]) -> None:
    model, side = Model(iss, 100), SendSide(iss, 100)
    for step in steps:
        apply(model, side, step)
        compare(model, side)
    model.ack(model.nxt, [])
    side.board(model.nxt % WRAP)
    compare(model, side)
    assert side.indexed() == 0


@pytest.mark.rfc("8985", "6.2")
@settings(max_examples=60, deadline=None)
@given(steps=st.lists(operations, max_size=30))
def test_what_is_in_flight_is_in_the_order_of_its_transmission(steps: list[tuple]) -> None:
    """Everything in flight and nothing else, at least where no SACK was taken back (RFC 2018 §8 ends in a time-out)."""
    model, side = Model(0, 100), SendSide(0, 100)
    for step in steps:
        if step[0] != "forget":
            apply(model, side, step)
    expected = sorted((r.sent, r.seq) for r in model.records if not r.sacked and not r.is_lost())
    assert sorted(side.by_time()) == expected


# ---- what an ACK costs ----


def full_window(window: int = WINDOW) -> tuple[SendSide, int]:
    """As many records of a segment each as the window holds; how many."""
    side = SendSide(0, MSS)
    n = window // MSS
    for _ in range(n):
        side.send(MSS)
        side.advance(1000)
    return side, n


def moved(before: tuple[int, ...], after: tuple[int, ...]) -> int:
    """Segments that changed their state, at least."""
    return sum(abs(a - b) for a, b in zip(before, after, strict=True)) // MSS


def allowed(n: int, changed: int) -> float:
    """Four blocks, each with two edges to find and to cut at, and a constant for what changed."""
    return 4 * 10 * math.log2(n) + 12 * changed


class Hostile:
    """A peer that chooses its ACKs so that they cost as much as they can."""

    def __init__(self, seed: int, n: int) -> None:
        self.random = random.Random(seed)
        self.n = n
        self.una = 0

    def edge(self) -> int:
        return self.random.randrange(self.una, self.n * MSS)

    def blocks(self) -> list[tuple[int, int]]:
        kind = self.random.randrange(6)
        last = self.n * MSS
        if kind == 0:  # edges anywhere
            return [tuple(sorted((self.edge(), self.edge()))) for _ in range(4)]  # type: ignore[misc]
        if kind == 1:  # single segments, by turns at both ends
            near, far = self.una + self.random.randrange(1, 20) * MSS, last - self.random.randrange(1, 20) * MSS
            starts = (far, near, far - 4 * MSS, near + 3 * MSS)
            return [(at - MSS, at) for at in starts]
        if kind == 2:  # a D-SACK, then all that may be SACKed already
            at = self.edge()
            return [(at, at + 1), (self.una + MSS, last)]
        if kind == 3:  # blocks that shrink
            at = self.edge() // MSS * MSS
            return [(at, min(at + k * MSS, last)) for k in (64, 16, 4, 1)]
        if kind == 4:  # below what is acknowledged, and beyond what was sent
            return [((self.una - 1000) % WRAP, (self.una - 1) % WRAP), (last, last + MSS), (self.edge(), last)]
        return []  # the receiver has forgotten


@pytest.mark.rfc("2018", "8")
@pytest.mark.parametrize("seed", range(4))
def test_no_ack_costs_a_walk_over_the_window(seed: int) -> None:
    side, n = full_window()
    peer = Hostile(seed, n)
    most = 0
    for turn in range(1500):
        side.advance(peer.random.choice([0, 1000, 40_000_000]))
        if peer.random.random() < 0.3:
            peer.una = min(peer.una + peer.random.randrange(3 * MSS), (n - 100) * MSS)
        before = side.counted()
        steps = side.ack(peer.una, peer.blocks())
        changed = moved(before, side.counted())
        assert steps <= allowed(n, changed), turn
        if changed < 10:
            most = max(most, steps)
        sent, looked = side.resend(peer.random.choice([0, 1, 10]))
        assert looked <= 12 * (len(sent) + 1) + math.log2(n)
        if turn % 200 == 199:
            side.timeout()
            assert side.resend(10)[1] <= 12 * 11 + math.log2(n)
    assert 0 < most < n // 8


def test_a_hundred_times_the_window_is_one_more_level() -> None:
    """The same ACKs over 1,000 and over 100,000 records."""
    cost = []
    for n in (1_000, 100_000):
        side, _ = full_window(n * MSS)
        side.ack(0, [(10 * MSS, n * MSS)])
        cost.append(max(side.ack(0, [(at * MSS, (at + 1) * MSS) for at in (20, n - 2, 30, n - 9)]) for _ in range(5)))
    assert cost[1] <= cost[0] * 2


def test_few_records_have_no_index() -> None:
    side = SendSide(0, MSS)
    for _ in range(INDEX_FROM):
        side.send(45 * MSS)
    assert side.indexed() == 0
    assert side.ack(0, [(20 * 45 * MSS, 21 * 45 * MSS)]) <= 3 * INDEX_FROM


@pytest.mark.rfc("4015", "3.2")
def test_an_undo_costs_what_it_undoes() -> None:
    """All of a window is lost twice, some of it sent again in between in no good order, and then nothing was lost."""
    side, n = full_window()
    side.timeout()
    rng = random.Random(7)
    una = 0
    for _ in range(100):
        side.advance(1_000_000)
        side.resend(rng.randrange(30))
        at = rng.randrange(n)
        side.board(una, [(at * MSS, min(at + rng.randrange(1, 9), n) * MSS)])
    side.timeout()
    lost = side.counted()[2] // MSS
    assert lost > n // 2
    assert side.unlose() <= 12 * lost
    times = [ns for ns, _ in side.by_time()]
    assert times == sorted(times)
    assert len(times) >= lost


def test_a_segment_is_not_cut() -> None:
    """Nor is a burst cut but between its segments: else every byte could be made a record of its own."""
    side = SendSide(0, MSS)
    side.send(10 * MSS)
    side.send(MSS)
    for at in range(0, 11 * MSS, 7):
        side.board(0, [(at, at + 3)])
    assert len(side.records()) <= 11
    assert side.counted()[1] == 0
    side.board(0, [(MSS // 2, 3 * MSS + 5)])
    assert side.counted()[1] == 2 * MSS
