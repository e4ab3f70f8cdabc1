"""RFC 3042, 5682, 3522, 4015: limited transmit; time-outs that were spurious: found out (F-RTO, Eifel) and undone."""

from __future__ import annotations

from scapy.layers.inet import TCP

from tap_harness.conformance.probe import Conn, Probe
from tap_harness.conformance.registry import MUST, SHOULD, document
from tap_harness.conformance.rfc2018 import SACK_OK, sack, under_way
from tap_harness.conformance.rfc5681 import MSS, PLAIN, busy, duplicates, feed, starts
from tap_harness.conformance.rfc7323 import START, stamp, stamps
from tap_harness.conformance.rfc8985 import info
from tap_harness.flow import Options

L = document("3042", "Enhancing TCP's Loss Recovery Using Limited Transmit")
F = document("5682", "Forward RTO-Recovery (F-RTO)")
D = document("3522", "The Eifel Detection Algorithm for TCP")
E = document("4015", "The Eifel Response Algorithm for TCP")
STAMPED: Options = [("MSS", MSS + 12), ("NOP", None), ("NOP", None), ("SAckOK", b""), *stamp(START)]

# -- limited transmit


@L.check("§2", "each of the first two duplicate acknowledgements lets a new segment out", SHOULD)
def each_of_two(p: Probe) -> None:
    conn, base, count = busy(p)
    for number in range(2):
        duplicates(conn, base, 1)
        found = starts(p, conn, base)
        p.require(found == [count + number], f"segments {found} came with duplicate {number + 1}")


@L.check("§2", "no more than two segments above the congestion window are sent by it", MUST)
def two_above_window(p: Probe) -> None:
    conn, base, count = busy(p)
    duplicates(conn, base, 2)
    found = starts(p, conn, base)
    p.require(len(found) <= 2 and all(one >= count for one in found), f"segments {found} came")


@L.check("§2", "nothing is sent that the peer's window has no room for", MUST)
def within_peers_window(p: Probe) -> None:
    conn, base, count = busy(p, win=5 * MSS)
    p.require(count == 5, f"{count} segments came into a window of five")
    duplicates(conn, base, 2)
    found = starts(p, conn, base)
    p.require(not found, f"segments {found} came")


@L.check("§2", "the congestion window does not change", MUST)
def window_as_it_was(p: Probe) -> None:
    conn, base, _ = busy(p)
    before = info(conn, "snd_cwnd")
    duplicates(conn, base, 2)
    p.require(starts(p, conn, base), "nothing was sent")
    after = info(conn, "snd_cwnd")
    p.require(after == before, f"cwnd was {before} and is {after}")


@L.check("§2", "with SACK a duplicate that reports nothing new lets nothing out", MUST)
def nothing_reported(p: Probe) -> None:
    conn, base, _ = busy(p, SACK_OK)
    duplicates(conn, base, 2)
    found = starts(p, conn, base)
    p.require(not found, f"segments {found} came")


@L.check("§2", "with SACK one that reports a segment does", SHOULD)
def something_reported(p: Probe) -> None:
    conn, base, count = busy(p, SACK_OK)
    conn.flow.inject("A", ack=base, options=sack(base + MSS, base + 2 * MSS))
    found = starts(p, conn, base, min(p.soon, 0.02))
    p.require(found[:1] == [count], f"segments {found} came")


# -- F-RTO


def timed_out(p: Probe, options: Options = PLAIN, *, frto: bool = True, more: int = 4) -> tuple[Conn, int]:
    """Six segments under way, of which the first has just come again by the timer; `more` wait to be sent."""
    p.target.sysctl("net.ipv4.tcp_early_retrans", 0)  # no tail loss probe before
    if not frto:
        p.target.sysctl("net.ipv4.tcp_frto", 0)
    conn, base = under_way(p, 6, options)
    p.again(conn.flow, base)
    found = starts(p, conn, base)
    p.require(not found, f"segments {found} followed the first at once")
    feed(conn, more * MSS)
    return conn, base


@F.check("§2.1", "1: the time-out brings the first segment again, and no other", MUST)
def first_again(p: Probe) -> None:
    conn, base = timed_out(p)
    found = starts(p, conn, base)
    p.require(not found, f"segments {found} came, too")


@F.check("§2.1", "2b: an acknowledgement that advances then lets two segments of new data out", MUST)
def two_new(p: Probe) -> None:
    conn, base = timed_out(p)
    conn.flow.inject("A", ack=base + MSS)
    found = starts(p, conn, base)
    p.require(found == [6, 7], f"segments {found} came")


@F.check("§2.1", "3b: a second one that advances shows that the time-out was spurious: nothing else comes again", MUST)
def spurious(p: Probe) -> None:
    conn, base = timed_out(p)
    for number in (1, 2, 3):
        conn.flow.inject("A", ack=base + number * MSS)
        found = starts(p, conn, base)
        p.require(all(one >= 6 for one in found), f"segments {found} came")
    conn.flow.inject("A", ack=base + 6 * MSS)
    p.require(info(conn, "snd_cwnd") >= 10, f"cwnd has stayed {info(conn, 'snd_cwnd')}")


@F.check("§2.1", "3a: a duplicate instead shows that it was not: what was lost comes again", MUST)
def genuine(p: Probe) -> None:
    conn, base = timed_out(p)
    conn.flow.inject("A", ack=base + MSS)
    starts(p, conn, base)
    conn.flow.inject("A", ack=base + MSS)
    found = starts(p, conn, base)
    p.require(1 in found, f"segments {found} came")
    p.require(info(conn, "snd_cwnd") <= 3, f"cwnd is {info(conn, 'snd_cwnd')}")


@F.check(
    "§2.1",
    "2a: a duplicate first, and the time-out is taken for a real one",
    MUST,
    because={"kernel": "a duplicate before any new data was sent is passed over"},
)
def duplicate_first(p: Probe) -> None:
    conn, base = timed_out(p)
    conn.flow.inject("A", ack=base)
    found = starts(p, conn, base)
    conn.flow.inject("A", ack=base + MSS)
    found += starts(p, conn, base)
    p.require(1 in found, f"segments {found} came")


@F.check("§2.1", "with no new data to send the recovery is the usual one", SHOULD)
def nothing_new(p: Probe) -> None:
    conn, base = timed_out(p, more=0)
    conn.flow.inject("A", ack=base + MSS)
    found = starts(p, conn, base)
    p.require(1 in found, f"segments {found} came")


@F.check("§2.1", "where the peer's window has no room for new data it is, too", SHOULD)
def no_room(p: Probe) -> None:
    conn, base = timed_out(p)
    conn.flow.inject("A", ack=base + MSS, win=5 * MSS)
    found = starts(p, conn, base)
    p.require(1 in found, f"segments {found} came")


@F.check("§3.1", "with SACK: a report of new data alone, and what was lost comes again", MUST)
def genuine_sack(p: Probe) -> None:
    conn, base = timed_out(p, SACK_OK)
    conn.flow.inject("A", ack=base + MSS)
    starts(p, conn, base)
    for last in (7, 8):
        conn.flow.inject("A", ack=base + MSS, options=sack(base + 6 * MSS, base + last * MSS))
    found = starts(p, conn, base)
    p.require(1 in found, f"segments {found} came")


# -- Eifel


def echoes(p: Probe) -> tuple[Conn, int, int, int]:
    """A connection with timestamps, timed out -> (it, its first number, both TSvals)."""
    p.target.sysctl("net.ipv4.tcp_early_retrans", 0)
    p.target.sysctl("net.ipv4.tcp_frto", 0)
    conn = p.established(STAMPED, win=60000)
    p.wait(0.1)
    conn.flow.options = stamp(START)
    conn.send(bytes(6 * MSS))
    first = p.burst(conn.flow)
    p.require(len(first) == 6, f"{len(first)} segments came, not 6")
    base = first[0][TCP].seq
    again = p.again(conn.flow, base)
    return conn, base, stamps(p, first[0])[0], stamps(p, again)[0]


def acknowledge(conn: Conn, ack: int, echo: int) -> None:
    """An acknowledgement that echoes one of the target's timestamps."""
    conn.flow.inject("A", ack=ack, options=stamp(START + 1, echo))


@D.check("§3.2", "5: an acknowledgement that echoes the original shows that the time-out was spurious", MUST)
def echo_of_original(p: Probe) -> None:
    conn, base, original, _ = echoes(p)
    acknowledge(conn, base + MSS, original)
    found = starts(p, conn, base)
    p.require(not found, f"segments {found} came again")


@D.check("§3.2", "5: one that echoes the retransmission does not: the rest comes again", MUST)
def echo_of_second(p: Probe) -> None:
    conn, base, original, second = echoes(p)
    p.require(original != second, "the retransmission has the original's timestamp")
    acknowledge(conn, base + MSS, second)
    found = starts(p, conn, base)
    p.require(1 in found, f"segments {found} came")


@D.check("§3.2", "1: without timestamps nothing is found out this way", MUST)
def no_stamps(p: Probe) -> None:
    conn, base = timed_out(p, frto=False)
    conn.flow.inject("A", ack=base + MSS)
    found = starts(p, conn, base)
    p.require(1 in found, f"segments {found} came")


@D.check("§3.2", "a fast retransmit is found out, too", SHOULD)
def fast_retransmit(p: Probe) -> None:
    conn = p.established(STAMPED, win=60000)
    p.wait(0.1)
    conn.flow.options = stamp(START)
    conn.send(bytes(8 * MSS))
    first = p.burst(conn.flow)
    base, value = first[0][TCP].seq, stamps(p, first[0])[0]
    before = info(conn, "snd_cwnd")
    p.wait(0.02)
    for last in (2, 3, 4, 5):
        report = [*stamp(START + 1, value), ("NOP", None), ("NOP", None), ("SAck", (base + MSS, base + last * MSS))]
        conn.flow.inject("A", ack=base, options=report)
    p.require(0 in starts(p, conn, base), "the hole did not come again")
    acknowledge(conn, base + 8 * MSS, value)
    p.target.pump()
    after = info(conn, "snd_cwnd")
    p.require(after >= before, f"cwnd was {before} and is {after}")


@E.check("§3.2", "8: sending goes on with what was not sent before", MUST)
def on_with_new_data(p: Probe) -> None:
    conn, base, original, _ = echoes(p)
    feed(conn, 4 * MSS)
    acknowledge(conn, base + 3 * MSS, original)
    found = starts(p, conn, base)
    p.require(found and min(found) == 6, f"segments {found} came")


@E.check("§3.2", "9: no burst follows: at most an initial window is sent at once", MUST)
def no_burst(p: Probe) -> None:
    conn, base, original, _ = echoes(p)
    feed(conn, 40 * MSS)
    acknowledge(conn, base + 3 * MSS, original)
    found = starts(p, conn, base, min(p.soon, 0.02))
    p.require(len(found) <= 10, f"{len(found)} segments came at once")


@E.check("§3.2", "9: ssthresh is no lower than what was under way before", MUST)
def threshold_restored(p: Probe) -> None:
    conn, base, original, _ = echoes(p)
    p.require(info(conn, "snd_ssthresh") < 1 << 20, "the time-out did not lower it")
    acknowledge(conn, base + 3 * MSS, original)
    p.target.pump()
    found = info(conn, "snd_ssthresh")
    p.require(found >= 6, f"it is {found}")


@E.check("§3.2", "10: the timer gives the next segment as long as the round trip that was too long for it", SHOULD)
def timer_adapted(p: Probe) -> None:
    conn, base, original, _ = echoes(p)
    p.wait(0.5)
    acknowledge(conn, base + 6 * MSS, original)
    conn.flow.collect(0)
    conn.send(bytes(MSS))
    starts(p, conn, base)
    found = starts(p, conn, base, 0.4)
    p.require(not found, f"segments {found} came again within the round trip")
