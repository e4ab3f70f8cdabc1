"""RFC 9406, 7661: leaving slow start before the queue overflows, and windows that nobody has used."""

from __future__ import annotations

import socket

from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether

from tap_harness.conformance.probe import Conn, Probe
from tap_harness.conformance.registry import MUST, SHOULD, document
from tap_harness.conformance.rfc5681 import MSS, feed
from tap_harness.conformance.rfc8985 import info
from tap_harness.flow import Options
from tap_harness.packets import payload

H = document("9406", "HyStart++: Modified Slow Start for TCP")
V = document("7661", "Updating TCP to Support Rate-Limited Traffic")
WIDE: Options = [("MSS", MSS), ("NOP", None), ("WScale", 5)]
UNKNOWN = 1 << 20  # segments of ssthresh that no connection here has: it was never set
KERNEL = {"kernel": "its HyStart is the older one: it ends slow start at once, and never takes it up again"}


class Rounds:
    """A connection whose application always has data, acknowledged segment by segment, a round trip at a time."""

    def __init__(self, p: Probe) -> None:
        self.p = p
        self.conn = p.established(WIDE, win=30000, rtt=0.1)
        self.conn.sock.option(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.begin = 0.0  # of the round, in the target's time

    def run(self, rtt: float, *, size: int = 1 << 20, acks: int = 1 << 20) -> int:
        """One round trip: `size` bytes more to send, all of it acknowledged in at most so many pieces -> segments.

        Acknowledgements are made while the round trip lasts and sent at once: in real time nothing else adds to it.
        """
        p, flow = self.p, self.conn.flow
        deadline = (self.begin or p.now()) + rtt
        feed(self.conn, size)
        frames: dict[int, bytes] = {}
        while (packet := flow.next(max(0.0, deadline - p.now()))) is not None:
            if payload(packet):
                end = packet[TCP].seq + len(payload(packet))
                frames[end] = bytes(Ether(src=p.peer.mac, dst=p.peer.target_mac) / flow.build("A", ack=end))
        ends = sorted(frames)
        step = max(1, -(-len(ends) // acks))
        self.begin = p.now()
        for end in dict.fromkeys([*ends[step - 1 :: step], *ends[-1:]]):
            p.peer.send_bytes(frames[end])
        return len(ends)

    @property
    def cwnd(self) -> int:
        """TCP_INFO's, in segments."""
        self.p.target.pump()
        return info(self.conn, "snd_cwnd")

    @property
    def threshold(self) -> int:
        """TCP_INFO's ssthresh."""
        return info(self.conn, "snd_ssthresh")


def slowing(p: Probe) -> Rounds:
    """A connection in slow start whose round trip has just grown from 0.1 to 0.14 s, and shown it."""
    rounds = Rounds(p)
    rounds.run(0.1)
    rounds.run(0.1)
    rounds.run(0.14)
    return rounds


@H.check("§4.2", "with a steady round trip slow start goes on: the window doubles", SHOULD)
def steady(p: Probe) -> None:
    rounds = Rounds(p)
    for _ in range(3):
        before = rounds.cwnd
        rounds.run(0.1)
        p.require(rounds.cwnd >= 1.8 * before, f"cwnd was {before} and is {rounds.cwnd}")


@H.check("§4.2", "a round trip that grows by an eighth ends the doubling", SHOULD)
def grows_slower(p: Probe) -> None:
    rounds = slowing(p)
    before = rounds.cwnd
    rounds.run(0.14)
    p.require(rounds.cwnd <= 1.5 * before, f"cwnd was {before} and is {rounds.cwnd}")


@H.check("§4.2", "growth goes on at a quarter of the rate (CSS), slow start is not over", SHOULD, because=KERNEL)
def conservative(p: Probe) -> None:
    rounds = Rounds(p)
    for rtt in (0.1, 0.1, 0.115):
        rounds.run(rtt)
    before = rounds.cwnd
    rounds.run(0.115)
    p.require(1.1 * before <= rounds.cwnd <= 1.35 * before, f"cwnd was {before} and is {rounds.cwnd}")
    p.require(rounds.threshold >= UNKNOWN, f"ssthresh is {rounds.threshold}")


@H.check("§4.2", "if the round trip falls again, slow start is taken up again", SHOULD, because=KERNEL)
def jitter(p: Probe) -> None:
    rounds = Rounds(p)
    for rtt in (0.1, 0.1, 0.115, 0.1):
        rounds.run(rtt)
    before = rounds.cwnd
    rounds.run(0.1)
    p.require(rounds.cwnd >= 1.7 * before, f"cwnd was {before} and is {rounds.cwnd}")


@H.check("§4.2", "if it does not fall for five rounds, slow start is over", SHOULD)
def over(p: Probe) -> None:
    rounds = slowing(p)
    for _ in range(6):
        rounds.run(0.14, size=1 << 16)
    p.require(rounds.threshold < UNKNOWN, "ssthresh is not set")


@H.check("§4.2", "a round with fewer than eight samples tells nothing", SHOULD)
def few_samples(p: Probe) -> None:
    rounds = Rounds(p)
    for rtt in (0.1, 0.1, 0.14):
        rounds.run(rtt, acks=4)
    before = rounds.cwnd
    rounds.run(0.14, acks=4)
    p.require(rounds.cwnd >= 1.7 * before, f"cwnd was {before} and is {rounds.cwnd}")


# -- congestion window validation


def grown(p: Probe) -> tuple[Rounds, int]:
    """A connection that has used a window of some forty segments, with nothing under way -> (it, its cwnd)."""
    rounds = Rounds(p)
    for size in (10, 20, 40):
        rounds.run(0.1, size=size * MSS)
    return rounds, rounds.cwnd


def seldom(rounds: Rounds, count: int) -> Conn:
    """The application sends two segments a round trip."""
    for _ in range(count):
        rounds.run(0.1, size=2 * MSS)
    return rounds.conn


@V.check("§4.3", "a window that is used grows", SHOULD)
def validated(p: Probe) -> None:
    rounds, before = grown(p)
    rounds.run(0.1)
    rounds.run(0.1)
    p.require(rounds.cwnd > before, f"cwnd was {before} and is {rounds.cwnd}")


@V.check("§4.4", "a window less than half of which is used does not grow", MUST)
def not_validated(p: Probe) -> None:
    rounds, before = grown(p)
    seldom(rounds, 10)
    p.require(rounds.cwnd <= before, f"cwnd was {before} and is {rounds.cwnd}")


@V.check(
    "§4.4.1",
    "a loss while it is not used: what was used is reduced, not the window",
    MUST,
    because={"kernel": "it reduces the window"},
)
def lost_unused(p: Probe) -> None:
    rounds, before = grown(p)
    flow = seldom(rounds, 15).flow
    feed(rounds.conn, 4 * MSS)
    first, *rest = [packet for packet in p.burst(flow) if payload(packet)]
    p.require(len(rest) == 3, f"{1 + len(rest)} segments came")
    start = first[TCP].seq
    for _ in rest:
        flow.inject("A", ack=start)
    p.require(p.burst(flow)[0][TCP].seq == start, "the first is not sent again")
    p.require(rounds.threshold <= before // 4, f"{before} were allowed, 4 were used, ssthresh is {rounds.threshold}")


@V.check("§4.4", "data after a pause shorter than the timer may use the whole of it", SHOULD)
def kept(p: Probe) -> None:
    rounds, before = grown(p)
    p.wait(0.1)
    feed(rounds.conn, before * MSS)
    found = len(p.burst(rounds.conn.flow))
    p.require(found >= before // 2, f"cwnd is {before}, {found} segments came")


@V.check("§4.4.3", "after five minutes without use at least half of it is gone", MUST, takes=320)
def expired(p: Probe) -> None:
    rounds, before = grown(p)
    p.wait(310)
    feed(rounds.conn, before * MSS)
    p.burst(rounds.conn.flow)
    after = rounds.cwnd
    p.require(after <= max(before // 2, 10), f"cwnd was {before} and is {after}")
