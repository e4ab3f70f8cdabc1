"""RFC 6298: the retransmission timer."""

from __future__ import annotations

import itertools

from scapy.layers.inet import TCP

from tap_harness.conformance.probe import Conn, Probe
from tap_harness.conformance.registry import MAY, MUST, SHOULD, document
from tap_harness.conformance.rfc2018 import under_way
from tap_harness.conformance.rfc9293_send import unanswered
from tap_harness.diff import ANY
from tap_harness.packets import payload

R = document("6298", "Computing TCP's Retransmission Timer")


def exchange(p: Probe, conn: Conn, rtt: float, count: int = 8) -> None:
    """Let the target measure a round trip of so many seconds."""
    for _ in range(count):
        conn.send(b"r")
        conn.data()
        p.wait(rtt)
        conn.flow.collect(0)
        conn.flow.send("A")


def timeout(p: Probe, conn: Conn) -> float:
    """Seconds from a transmission to its last resort: the second time the segment comes again, minus probes."""
    conn.send(b"lost")
    first = conn.data()
    begin = p.now()
    conn.data(10, seq=first[TCP].seq)
    return p.now() - begin


@R.check("§2.1", "without a sample the timeout is one second", SHOULD)
def initial(p: Probe) -> None:
    conn, syn = p.connecting()
    begin = p.now()
    conn.flow.expect("S", p.within(1.5), seq=syn[TCP].seq, ack=ANY)
    p.require(p.close_to(p.now() - begin, 1.0), f"the SYN came again after {p.now() - begin:.2f} s")


@R.check("§2.1", "for a SYN-ACK, too", SHOULD)
def initial_passive(p: Probe) -> None:
    flow = p.flow()
    flow.send("S")
    first = flow.expect("SA", seq=ANY)
    begin = p.now()
    flow.expect("SA", p.within(1.5), seq=first[TCP].seq)
    p.require(p.close_to(p.now() - begin, 1.0), f"it came again after {p.now() - begin:.2f} s")


@R.check("§2.2", "the timeout follows the round trip that was measured", MUST)
def follows(p: Probe) -> None:
    short, long = p.established(), p.established()
    exchange(p, short, 0.01)
    exchange(p, long, 0.4)
    low, high = timeout(p, short), timeout(p, long)
    p.require(high > low + 0.2, f"{low:.2f} s at 10 ms of round trip, {high:.2f} s at 400 ms")
    p.require(high >= 0.4, f"{high:.2f} s is less than the round trip of 0.4 s")


@R.check(
    "§2.4",
    "the timeout is at least one second",
    SHOULD,
    because={
        "stack": "net.ipv4.tcp_rto_min_us is Linux's 200 ms: with a delayed ACK of 40 ms a whole second only "
        "stalls a connection",
        "kernel": "its least is 200 ms",
    },
)
def least(p: Probe) -> None:
    conn = p.established()
    exchange(p, conn, 0.01)
    found = unanswered_on(p, conn)
    p.require(found[1] >= 1, f"it is {found[0]:.2f} s")


def unanswered_on(p: Probe, conn: Conn) -> list[float]:
    """The gaps between the first three transmissions of a segment."""
    conn.send(b"lost")
    first = conn.data()
    times = [p.now()]
    for _ in range(2):
        conn.data(10, seq=first[TCP].seq)
        times.append(p.now())
    return [b - a for a, b in itertools.pairwise(times)]


@R.check("§2.5", "if the timeout has a limit, it is at least 60 s", MAY, takes=400)
def most(p: Probe) -> None:
    found = unanswered(p, 12)
    p.require(max(found) >= 60, f"the longest gap is {max(found):.0f} s")


@R.check("§5.5", "the timeout is doubled when it has come", MUST)
def doubled(p: Probe) -> None:
    found = unanswered(p, 7 if p.target.virtual else 4)
    for before, after in itertools.pairwise(found[1:]):
        p.require(1.8 < after / before < 2.3, f"the gaps are {[round(gap, 2) for gap in found]}")


@R.check("§5.4", "when it comes, the earliest segment is sent again, and one at first", MUST)
def earliest(p: Probe) -> None:
    conn, base = under_way(p, 4, [("MSS", 1000)])
    packet = conn.data(3, seq=ANY)
    while packet[TCP].seq == base + 3000:  # a tail loss probe is no timeout
        packet = conn.data(3, seq=ANY)
    p.require(packet[TCP].seq == base, f"what came again begins at {packet[TCP].seq - base}")
    more = [one[TCP].seq - base for one in p.burst(conn.flow)]
    p.require(not more, f"more came at once: {more}")


@R.check("§5.2", "the timer is off when everything is acknowledged", MUST)
def off(p: Probe) -> None:
    conn = p.established(talks=True)
    conn.send(b"x")
    conn.data()
    conn.flow.send("A")
    p.silent(conn.flow, 3)


@R.check("§5.3", "an acknowledgement of new data starts the timer anew", MUST)
def restarted(p: Probe) -> None:
    conn, base = under_way(p, 4, [("MSS", 1000)])
    for number in (1, 2, 3):
        p.wait(0.12)
        conn.flow.inject("A", ack=base + 1000 * number)
    found = [packet[TCP].seq - base for packet in p.burst(conn.flow, 0.1)]
    p.require(0 not in found and 1000 not in found, f"what came again begins at {found}")
    packet = conn.data(3, seq=ANY)
    p.require(packet[TCP].seq - base == 3000, "another segment than the earliest came again")


@R.check(
    "§5.7",
    "after a SYN was lost, the timeout for data is three seconds until there is a sample",
    MUST,
    because={"kernel": "it measures the handshake by timestamps or takes one second"},
)
def after_lost_syn(p: Probe) -> None:
    conn, syn = p.connecting()
    conn.flow.expect("S", p.within(1.5), seq=syn[TCP].seq, ack=ANY)
    conn.flow.send("SA", options=[("MSS", 1000)])
    conn.flow.expect("A")
    gap = timeout(p, conn)
    p.require(p.close_to(gap, 3.0), f"data came again after {gap:.2f} s")


@R.check("§3", "Karn: without timestamps a retransmitted segment gives no sample", MUST)
def karn(p: Probe) -> None:
    conn = p.established([("MSS", 1000)])
    exchange(p, conn, 0.01)
    conn.send(b"late")
    first = conn.data()
    conn.data(3, seq=first[TCP].seq)
    conn.data(3, seq=first[TCP].seq)
    p.wait(0.3)
    conn.flow.collect(0)
    conn.flow.send("A")
    exchange(p, conn, 0.01, 4)
    found = timeout(p, conn)
    p.require(found < 0.8 + p.target.slack, f"the timeout has become {found:.2f} s")


@R.check("§3", "with timestamps it does", MAY)
def timestamps_sample(p: Probe) -> None:
    from tap_harness.conformance.rfc7323 import stamp, stamps

    conn = p.established([("MSS", 1000), *stamp(5)])
    conn.flow.options = stamp(5)
    conn.send(b"late")
    first = conn.data()
    again = conn.data(3, seq=first[TCP].seq)
    value, _ = stamps(p, again)
    p.require(value != stamps(p, first)[0], "the retransmission has the first one's timestamp")
    p.require(len(payload(again)) == 4, "it has other data")
