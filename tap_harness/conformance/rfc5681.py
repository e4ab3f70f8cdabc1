"""RFC 5681, 6582, 6928, 6675: congestion control without its algorithm: start, fast retransmit, recovery, timeout."""

from __future__ import annotations

from scapy.layers.inet import TCP

from tap_harness.conformance.probe import Conn, Probe
from tap_harness.conformance.registry import MAY, MUST, SHOULD, document
from tap_harness.conformance.rfc2018 import sack, under_way
from tap_harness.diff import ANY
from tap_harness.flow import Options

R = document("5681", "TCP Congestion Control")
N = document("6582", "The NewReno Modification to TCP's Fast Recovery")
W = document("6928", "Increasing TCP's Initial Window")
S = document("6675", "A Conservative Loss Recovery Algorithm Based on SACK")
PLAIN: Options = [("MSS", 1000)]
MSS = 1000


def starts(p: Probe, conn: Conn, base: int, within: float | None = None) -> list[int]:
    """Where the segments with data that come now begin, in segments after base."""
    return [(packet[TCP].seq - base) % (1 << 32) // MSS for packet in p.burst(conn.flow, within)]


def feed(conn: Conn, size: int) -> None:
    """Let the application send as much of it as the socket takes."""
    left = size
    while left > 0:
        try:
            left -= conn.sock.send(bytes(left))
        except BlockingIOError:
            return


def busy(p: Probe, options: Options | None = None, segments: int = 40, win: int = 60000) -> tuple[Conn, int, int]:
    """A connection with much to send -> (it, where its data begins, how many segments are under way)."""
    conn = p.established(PLAIN if options is None else options, win=win, rtt=0.1)
    feed(conn, MSS * segments)
    found = p.burst(conn.flow)
    p.require(found, "no data came")
    return conn, found[0][TCP].seq, len(found)


def duplicates(conn: Conn, base: int, count: int) -> None:
    """Duplicate acknowledgements of base."""
    for _ in range(count):
        conn.flow.inject("A", ack=base)


# -- start


@W.check("§2", "the initial window is at most ten segments", MUST)
def initial_window(p: Probe) -> None:
    _, _, count = busy(p)
    p.require(count <= 10, f"it is {count}")


@W.check("§2", "the initial window is ten segments", SHOULD)
def initial_window_ten(p: Probe) -> None:
    _, _, count = busy(p)
    p.require(count == 10, f"it is {count}")


@W.check("§2", "it is ten segments also where they are small: 14600 bytes is a bound, no aim", MUST)
def initial_window_small(p: Probe) -> None:
    _, _, count = busy(p, [("MSS", 536)])
    p.require(count <= 10, f"it is {count} segments of 536 bytes")


@W.check("§2", "a connection that the target opened begins with the same window", SHOULD)
def initial_window_active(p: Probe) -> None:
    conn, _ = p.connecting()
    conn.flow.send("SA", options=PLAIN, win=60000)
    conn.flow.expect("A")
    feed(conn, 40000)
    count = len(p.burst(conn.flow))
    p.require(count == 10, f"it is {count} segments")


@R.check(
    "§3.1", "after a lost SYN the window begins with one segment", MUST, because={"kernel": "from the second loss on"}
)
def initial_window_lost(p: Probe) -> None:
    conn, syn = p.connecting()
    conn.flow.expect("S", p.within(1.5), seq=syn[TCP].seq, ack=ANY)
    conn.flow.expect("S", p.within(3), seq=syn[TCP].seq, ack=ANY)
    conn.flow.send("SA", options=PLAIN, win=60000)
    conn.flow.expect("A")
    feed(conn, 20000)
    count = len(p.burst(conn.flow))
    p.require(count == 1, f"it is {count} segments")


@R.check("§3.1", "slow start: the window grows by at most what is acknowledged", MUST)
def slow_start(p: Probe) -> None:
    conn, base, first = busy(p)
    for number in range(1, first + 1):
        conn.flow.inject("A", ack=base + MSS * number)
    second = len(starts(p, conn, base))
    p.require(first <= second <= 2 * first, f"{first} segments, then {second}")


@R.check("§3.1", "an acknowledgement cut into pieces does not make the window grow faster (ACK division)", SHOULD)
def ack_division(p: Probe) -> None:
    conn, base, first = busy(p)
    for piece in range(100, first * MSS + 1, 100):
        conn.flow.inject("A", ack=base + piece)
    second = len(starts(p, conn, base))
    p.require(second <= 2 * first + 1, f"{first} segments, then {second}")


@R.check("§4.1", "after an idle time the window is no larger than the initial one", SHOULD)
def restart_window(p: Probe) -> None:
    conn, base, count = busy(p, segments=30)
    total = count
    while total < 30:
        conn.flow.inject("A", ack=base + MSS * total)
        total += len(starts(p, conn, base, 0.05))
    conn.flow.rcv = base + MSS * 30
    conn.flow.inject("A", ack=base + MSS * 30)
    p.wait(6)
    feed(conn, 60000)
    after = len(p.burst(conn.flow))
    p.require(after <= 10, f"after 6 s {after} segments come at once")


# -- fast retransmit and recovery


@R.check("§3.2", "the third duplicate acknowledgement brings the segment again, before the timer", SHOULD)
def fast_retransmit(p: Probe) -> None:
    conn, base, _ = busy(p, segments=10)
    duplicates(conn, base, 3)
    found = starts(p, conn, base, 0.05)
    p.require(found[:1] == [0], f"segments {found} came")


@R.check("§3.2", "two duplicate acknowledgements do not", SHOULD)
def two_duplicates(p: Probe) -> None:
    conn, base, _ = busy(p, segments=10)
    duplicates(conn, base, 2)
    found = starts(p, conn, base)
    p.require(0 not in found, f"segments {found} came")


@R.check("§3.2", "limited transmit: the first two duplicate acknowledgements let new data out (RFC 3042)", SHOULD)
def limited_transmit(p: Probe) -> None:
    conn, base, count = busy(p)
    duplicates(conn, base, 1)
    first = starts(p, conn, base)
    duplicates(conn, base, 1)
    second = starts(p, conn, base)
    p.require(first == [count] and second == [count + 1], f"segments {first} and {second} came")


@R.check("§3.2", "the congestion window is reduced by a loss", MUST)
def reduced(p: Probe) -> None:
    conn, base, count = _grown(p)
    duplicates(conn, base, 3)
    out = len(starts(p, conn, base, 0.05))
    conn.flow.inject("A", ack=base + MSS * (count + out))
    after = len(starts(p, conn, base, 0.05))
    p.require(after <= 0.85 * count, f"{count} segments before the loss, {after} after it")


def _grown(p: Probe) -> tuple[Conn, int, int]:
    conn, base, count = busy(p, segments=200)
    conn.flow.inject("A", ack=base + MSS * count)
    more = len(starts(p, conn, base))
    feed(conn, 60000)
    more += len(starts(p, conn, base))
    return conn, base + MSS * count, more


@R.check("§3.2", "an acknowledgement with data, or another window, is no duplicate", MUST)
def no_duplicate(p: Probe) -> None:
    conn, base, _ = busy(p, segments=10)
    for number in range(3):
        conn.flow.inject("A", ack=base, win=61000 + number)
    p.require(0 not in starts(p, conn, base), "window updates brought a retransmission")
    for _ in range(3):
        conn.flow.send("PA", b"data", ack=base, win=61002)
    p.require(0 not in starts(p, conn, base), "data brought a retransmission")


@R.check("§3.1", "after a timeout the window is one segment, and slow start follows", MUST)
def loss_window(p: Probe) -> None:
    conn, base, _ = busy(p, segments=10)
    conn.data(3, seq=base)
    found = starts(p, conn, base)
    p.require(not found, f"segments {found} follow the first at once")
    conn.flow.inject("A", ack=base + MSS)
    p.require(len(starts(p, conn, base)) <= 2, "more than two segments follow on the first acknowledgement")


@R.check("§4.2", "a receiver acknowledges a segment out of order, and one that fills a hole, at once", SHOULD)
def receiver_at_once(p: Probe) -> None:
    conn = p.established()
    flow = conn.flow
    for offset in (1000, 2000, 0):
        flow.inject("A", bytes(1000), seq=flow.snd + offset)
        if flow.next(p.soon) is None:
            raise p.wrong("an acknowledgement at once")


@N.check("§3.2", "a partial acknowledgement brings the next missing segment at once", MUST)
def partial(p: Probe) -> None:
    conn, base, count = busy(p, segments=10)
    duplicates(conn, base, 5)
    starts(p, conn, base, 0.02)
    for lost in (3, 6):
        conn.flow.inject("A", ack=base + MSS * lost)
        found = starts(p, conn, base, 0.02)
        p.require(lost in found, f"after an acknowledgement up to {lost} segments {found} came")
    conn.flow.inject("A", ack=base + MSS * count)
    p.require(not starts(p, conn, base, 0.3), "after a full acknowledgement something came again")


@N.check("§3.2", "recovery ends with an acknowledgement of all that was sent when it began", MUST)
def full(p: Probe) -> None:
    conn, base, count = busy(p)
    duplicates(conn, base, 3)
    out = starts(p, conn, base, 0.02)
    conn.flow.inject("A", ack=base + MSS * (count + len([one for one in out if one >= count])))
    found = starts(p, conn, base, 0.02)
    p.require(found and min(found) >= count, f"segments {found} came")
    duplicates(conn, base + MSS * min(found), 1)


@N.check("§4", "duplicates of what was sent again after a timeout do not bring a fast retransmit", MUST)
def after_timeout(p: Probe) -> None:
    conn, base, count = busy(p, segments=10)
    conn.data(3, seq=base)
    conn.flow.inject("A", ack=base + MSS)
    starts(p, conn, base, 0.02)
    duplicates(conn, base + MSS, 3)  # of segments that went out twice
    found = starts(p, conn, base, 0.02)
    p.require(found.count(1) <= 1, f"segments {found} came")
    conn.flow.inject("A", ack=base + MSS * count)


# -- SACK


@S.check("§5", "three segments reported above a hole bring the hole again", MUST)
def sack_retransmit(p: Probe) -> None:
    conn, base = under_way(p)
    for last in (2, 3, 4):
        conn.flow.inject("A", ack=base, options=sack(base + MSS, base + MSS * last))
    p.require(0 in starts(p, conn, base, 0.05), "it did not come")


@S.check("§5", "several holes are repaired in one round trip", SHOULD)
def sack_several(p: Probe) -> None:
    conn, base = under_way(p, 10)
    lost = (0, 2, 4)
    for edges in (
        [(1, 2)],
        [(3, 4), (1, 2)],
        [(5, 6), (3, 4), (1, 2)],
        [(5, 7), (3, 4), (1, 2)],
        [(5, 8), (3, 4), (1, 2)],
        [(5, 9), (3, 4), (1, 2)],
        [(5, 10), (3, 4), (1, 2)],
    ):
        conn.flow.inject("A", ack=base, options=sack(*(base + MSS * edge for pair in edges for edge in pair)))
    found = starts(p, conn, base, 0.09)
    p.require(set(lost) <= set(found), f"of {lost} came {found}")
    p.require(set(found) <= {*lost, *range(10, 20)}, f"segments {found} came")


@S.check("§5", "a second loss event in the same window does not reduce the window again", MUST)
def sack_once(p: Probe) -> None:
    conn, base = under_way(p, 10)
    for last in range(2, 11):
        conn.flow.inject("A", ack=base, options=sack(base + MSS, base + MSS * last))
    p.require(0 in starts(p, conn, base, 0.02), "the hole did not come again")
    conn.flow.inject("A", ack=base + MSS * 10)
    conn.flow.rcv = base + MSS * 10
    feed(conn, 40000)
    count = len(starts(p, conn, base, 0.05))
    p.require(count >= 4, f"after recovery the window is {count} segments")


@S.check("§5.1", "after a timeout the reports are used with care: the first hole comes first", SHOULD)
def sack_timeout(p: Probe) -> None:
    conn, base = under_way(p)
    conn.flow.inject("A", ack=base, options=sack(base + MSS * 7, base + MSS * 8))
    found = starts(p, conn, base, p.within(1.5))
    p.require(found and 0 in found[:2], f"segments {found} came")
    p.require(7 not in found, "what was reported came again")


R.not_applicable(
    "§3.1", "a window of more than the initial one may be used where it was known before", "not visible", MAY
)
