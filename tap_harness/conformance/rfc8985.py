"""RFC 8985, 6937, 9438, 3168: loss by time, tail probes, proportional reduction, CUBIC, ECN."""

from __future__ import annotations

import socket

from scapy.layers.inet import IP, TCP

from tap_harness.conformance.probe import Conn, Probe, Sock
from tap_harness.conformance.registry import MAY, MUST, SHOULD, document
from tap_harness.conformance.rfc2018 import SACK_OK, sack, under_way
from tap_harness.conformance.rfc5681 import MSS, busy, feed, starts
from tap_harness.diff import ANY
from tap_harness.packets import payload

R = document("8985", "The RACK-TLP Loss Detection Algorithm")
P = document("6937", "Proportional Rate Reduction")
C = document("9438", "CUBIC for Fast and Long-Distance Networks")
E = document("3168", "The Addition of Explicit Congestion Notification to IP")

# -- RACK-TLP


@R.check("§7.2", "the last segment of a flight that nobody acknowledges comes again after about two round trips", MUST)
def probe_time(p: Probe) -> None:
    conn, base = under_way(p, 4)
    begin = p.now()
    conn.data(2, seq=base + 3 * MSS)
    gap = p.now() - begin
    p.require(p.close_to(gap, 0.2, 0.3), f"the probe came after {gap:.3f} s, at a round trip of 0.1 s")


@R.check("§7.3", "a probe carries new data where there is some and the window has room", SHOULD)
def probe_new_data(p: Probe) -> None:
    conn, base, count = busy(p, SACK_OK)
    packet = conn.data(2, seq=ANY)
    p.require(packet[TCP].seq == base + count * MSS, f"segment {(packet[TCP].seq - base) // MSS} came, not {count}")


@R.check("§7.2", "one segment alone waits for a delayed acknowledgement, too", SHOULD)
def probe_single(p: Probe) -> None:
    conn, base = under_way(p, 1)
    begin = p.now()
    conn.data(2, seq=base)
    p.require(p.now() - begin >= 0.25, f"it came again after {p.now() - begin:.3f} s, at a round trip of 0.1 s")


@R.check("§7.2", "one probe for a flight: the timeout follows", MUST)
def probe_once(p: Probe) -> None:
    conn, base = under_way(p, 4)
    found = starts(p, conn, base, p.within(0.9))
    p.require(found.count(3) <= 2 and 0 in found, f"segments {found} came")
    p.require(found[:1] == [3], f"segments {found} came")


@R.check("§7.4", "a probe's acknowledgement that reports the rest repairs the tail without a timeout", MUST)
def tail_repaired(p: Probe) -> None:
    conn, base = under_way(p, 6)
    conn.flow.inject("A", ack=base + 4 * MSS)
    conn.data(2, seq=base + 5 * MSS)
    p.wait(0.1)
    conn.flow.inject("A", ack=base + 4 * MSS, options=sack(base + 5 * MSS, base + 6 * MSS))
    begin = p.now()
    conn.data(1, seq=base + 4 * MSS)
    p.require(p.now() - begin < 0.12 + p.target.slack, f"it took {p.now() - begin:.3f} s")


@R.check("§6.2", "a segment sent long enough before one that arrived is lost, without three duplicates", MUST)
def by_time(p: Probe) -> None:
    conn, base = under_way(p, 4)
    conn.flow.inject("A", ack=base, options=sack(base + 2 * MSS, base + 4 * MSS))
    p.require(0 in starts(p, conn, base, 0.15), "the first did not come again")
    conn.flow.inject("A", ack=base + MSS, options=sack(base + 2 * MSS, base + 4 * MSS))
    p.require(1 in starts(p, conn, base, 0.15), "the second did not come again")


@R.check("§6.2", "a little reordering is waited for", MUST)
def reordering_tolerated(p: Probe) -> None:
    conn, base = under_way(p, 4)
    conn.flow.inject("A", ack=base, options=sack(base + MSS, base + 2 * MSS))
    p.wait(0.005)
    conn.flow.inject("A", ack=base + 2 * MSS)
    found = starts(p, conn, base, 0.05)
    p.require(0 not in found, "a segment that was overtaken by one came again")


@R.check("§6.2", "a retransmission that is lost is found out without a timeout", MUST)
def retransmission_lost(p: Probe) -> None:
    conn, base, count = busy(p, SACK_OK)
    for last in range(2, count):
        conn.flow.inject("A", ack=base, options=sack(base + MSS, base + MSS * last))
    found = starts(p, conn, base, 0.02)
    p.require(0 in found, "the hole did not come again")
    top = max([count - 1, *found])
    p.wait(0.1)
    for last in range(count, top + 2):  # what was sent after the retransmission arrives
        conn.flow.inject("A", ack=base, options=sack(base + MSS, base + MSS * last))
    again = starts(p, conn, base, 0.12)
    p.require(0 in again, f"segments {again} came")


@R.check("§6.2", "after a timeout segments that are not old enough are not taken for lost", MUST)
def timeout_marks_by_time(p: Probe) -> None:
    conn, base = under_way(p, 4)
    conn.flow.collect(0.25)  # the tail loss probe
    feed(conn, 2 * MSS)
    starts(p, conn, base, 0.02)
    p.again(conn.flow, base)
    found = starts(p, conn, base, 0.02)
    p.require(not {4, 5} & set(found), f"segments {found} came with the timeout")


# -- PRR


@P.check("§3", "in recovery no more is sent than was delivered", MUST)
def prr_bound(p: Probe) -> None:
    conn, base, count = busy(p, SACK_OK)
    sent = 0
    for last in range(2, count + 1):
        conn.flow.inject("A", ack=base, options=sack(base + MSS, base + MSS * last))
        sent += len(starts(p, conn, base))
        p.require(sent <= last - 1 + 1, f"{last - 1} segments delivered, {sent} sent")
    p.require(sent >= (count - 1) // 2, f"{count - 1} segments delivered, {sent} sent")


@P.check("§3", "the reduction is spread over the round trip: sending goes on, in proportion", SHOULD)
def prr_proportional(p: Probe) -> None:
    conn, base, count = busy(p, SACK_OK)
    half = 0
    for last in range(2, count + 1):
        conn.flow.inject("A", ack=base, options=sack(base + MSS, base + MSS * last))
        sent = len(starts(p, conn, base))
        if 4 <= last <= 2 + count // 2:
            half += sent
    p.require(half >= 1, "nothing was sent during the first half of the recovery's round trip")


@P.check("§3.1", "with less in flight than ssthresh one segment more than was delivered is sent, at most (SSRB)", MUST)
def prr_slow_start_bound(p: Probe) -> None:
    conn, base, count = busy(p, SACK_OK)
    lost, total, top = count - 4, 0, count
    for last in range(lost + 1, count + 1):
        conn.flow.inject("A", ack=base, options=sack(base + MSS * lost, base + MSS * last))
        found = starts(p, conn, base)
        total += len(found)
        top = max([top, *(number + 1 for number in found)])
        p.require(len(found) <= 2, f"{len(found)} segments were sent for one that was delivered")
    p.require(total >= 1, "nothing was sent")


@P.check("§3", "when recovery ends the window is ssthresh", MUST)
def prr_end(p: Probe) -> None:
    conn, base, count = busy(p, SACK_OK)
    p.needs_sockets()
    top = count
    for last in range(2, count + 1):
        conn.flow.inject("A", ack=base, options=sack(base + MSS, base + MSS * last))
        top = max([top, *(number + 1 for number in starts(p, conn, base))])
    conn.flow.inject("A", ack=base + MSS * top)
    p.target.pump()
    cwnd, ssthresh = info(conn, "snd_cwnd"), info(conn, "snd_ssthresh")
    p.require(ssthresh <= cwnd <= ssthresh + 1, f"ssthresh {ssthresh}, cwnd {cwnd}")


# -- CUBIC


def _algorithm(p: Probe) -> None:
    from tap_harness.conformance.registry import NotApplicable

    p.needs_sockets()
    names = p.target.sysctl("net.ipv4.tcp_available_congestion_control")
    if "cubic" not in (names.split() if isinstance(names, str) else names):
        raise NotApplicable("the target has no CUBIC")


def cubic(sock: Sock) -> None:
    """Choose it for a socket."""
    sock.raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, "TCP_CONGESTION", 13), b"cubic")


def info(conn: Conn, name: str) -> int:
    """A figure of TCP_INFO, by its place in Linux's struct."""
    raw = conn.sock.raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    at = {"snd_ssthresh": 76, "snd_cwnd": 80}[name]
    return int.from_bytes(raw[at : at + 4], "little")


@C.check("§4.6", "a loss multiplies the window by 0.7", SHOULD)
def cubic_beta(p: Probe) -> None:
    _algorithm(p)
    conn, base, count = busy(p, SACK_OK)
    cubic(conn.sock)
    before = info(conn, "snd_cwnd")
    for last in (2, 3, 4, 5):
        conn.flow.inject("A", ack=base, options=sack(base + MSS, base + MSS * last))
    p.require(0 in starts(p, conn, base, 0.02), "the hole did not come again")
    after = info(conn, "snd_ssthresh")
    p.require(0.6 <= after / before <= 0.8, f"cwnd {before}, ssthresh {after}")
    p.require(count >= 4, "too few segments")


@C.check("§4.2", "in congestion avoidance the window grows faster the longer the loss is ago", SHOULD)
def cubic_growth(p: Probe) -> None:
    _algorithm(p)
    conn, base, count = busy(p, SACK_OK)
    cubic(conn.sock)
    for last in (2, 3, 4, 5):
        conn.flow.inject("A", ack=base, options=sack(base + MSS, base + MSS * last))
    top = max([count, *(number + 1 for number in starts(p, conn, base, 0.02))])
    begin = info(conn, "snd_ssthresh")
    _run(p, conn, base + MSS * top, 25)
    grown = info(conn, "snd_cwnd")
    p.require(grown > begin, f"ssthresh {begin}, after 25 round trips cwnd {grown}")
    p.require(grown < 40 * begin, f"ssthresh {begin}, after 25 round trips cwnd {grown}")
    p.require(count > 0, "no data")


@C.check("§4.3", "with a small window it grows no slower than Reno with the same reduction would", SHOULD)
def cubic_friendly(p: Probe) -> None:
    _algorithm(p)
    conn, base, count = busy(p, SACK_OK)
    cubic(conn.sock)
    for last in (2, 3, 4, 5):
        conn.flow.inject("A", ack=base, options=sack(base + MSS, base + MSS * last))
    top = max([count, *(number + 1 for number in starts(p, conn, base, 0.02))])
    begin = info(conn, "snd_ssthresh")
    _run(p, conn, base + MSS * top, 20)
    # 3 * (1 - 0.7) / (1 + 0.7) of a segment in a round trip, and the first two are the recovery's
    least = begin + 18 * 0.53 - 2
    found = info(conn, "snd_cwnd")
    p.require(found >= least, f"ssthresh {begin}, after 20 round trips cwnd {found} of {least:.0f}")
    p.require(count > 0, "no data")


@C.check("§4.2", "time in which nothing is sent does not make the window larger", MUST)
def cubic_idle(p: Probe) -> None:
    _algorithm(p)
    conn, base = under_way(p, 8)
    cubic(conn.sock)
    conn.flow.inject("A", ack=base, options=sack(base + MSS, base + MSS * 8))
    starts(p, conn, base, 0.02)
    conn.flow.inject("A", ack=base + MSS * 8)
    before = info(conn, "snd_cwnd")
    p.wait(5)
    feed(conn, 2 * MSS)
    p.burst(conn.flow)
    conn.flow.inject("A", ack=base + MSS * 10)
    p.target.pump()
    after = info(conn, "snd_cwnd")
    p.require(after <= max(before, 10) + 1, f"cwnd {before}, after 5 s of silence {after}")


def _run(p: Probe, conn: Conn, top: int, rounds: int) -> None:
    """Acknowledge all that came, which ends at `top`, and then what comes, a round trip of 0.05 s."""
    conn.flow.inject("A", ack=top, win=60000)
    for _ in range(rounds):
        feed(conn, 30000)
        for packet in conn.flow.collect(0.05):
            if payload(packet):
                top = max(top, packet[TCP].seq + len(payload(packet)))
        conn.flow.inject("A", ack=top, win=60000)


@C.check("§4.8", "a timeout sets ssthresh by the same factor, and slow start follows", SHOULD)
def cubic_timeout(p: Probe) -> None:
    _algorithm(p)
    conn, base = under_way(p, 8)
    cubic(conn.sock)
    p.again(conn.flow, base)
    found = info(conn, "snd_ssthresh")
    p.require(found <= 8, f"ssthresh is {found}")
    p.require(info(conn, "snd_cwnd") <= 2, f"cwnd is {info(conn, 'snd_cwnd')}")


R.not_applicable("§3.3.2", "minimum RTT and reordering window", "they show in §6.2 only", MAY)


# -- ECN


def ecn(p: Probe) -> Conn:
    """A connection that has agreed upon ECN."""
    flow = p.flow()
    flow.win = 60000
    flow.send("SEC", options=[("MSS", MSS)])
    flow.expect("SAE", p.within(0.1), seq=ANY)
    p.wait(0.1)
    flow.send("A")
    p.needs_sockets()
    return Conn(p, flow, p.accept())


def codepoint(packet: object) -> int:
    """The ECN field of a packet: 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE."""
    return int(packet[IP].tos & 3)  # type: ignore[index]


@E.check("§6.1.1", "an ECN-setup SYN is answered with an ECN-setup SYN-ACK: ECE and not CWR", MUST)
def ecn_setup(p: Probe) -> None:
    flow = p.flow()
    flow.send("SEC")
    packet = flow.next(p.within(0.1))
    p.require(packet is not None and "".join(sorted(str(packet[TCP].flags))) == "AES", "it is not")


@E.check("§6.1.1", "a SYN with ECE or CWR alone is none, and its answer has neither", MUST)
def ecn_no_setup(p: Probe) -> None:
    for flags in ("SE", "SC", "S"):
        flow = p.flow()
        flow.send(flags)
        flow.expect("SA", p.within(0.1), seq=ANY)


@E.check("§6.1.1", "a SYN that offers more, AccECN (RFC 9768), is answered as one that offers ECN", SHOULD)
def ecn_accurate(p: Probe) -> None:
    flow = p.flow()
    flow.send("SECN")
    packet = flow.next(p.within(0.1))
    p.require(packet is not None and "".join(sorted(str(packet[TCP].flags))) == "AES", "it is not")


@E.check("§6.1.1", "SYN and SYN-ACK are not ECN-capable packets", MUST)
def ecn_syn_not_ect(p: Probe) -> None:
    flow = p.flow()
    flow.send("SEC")
    packet = flow.next(p.within(0.1))
    p.require(packet is not None and codepoint(packet) == 0, "the SYN-ACK has ECT")


@E.check("§6.1.2", "data is ECN-capable", SHOULD)
def ecn_data(p: Probe) -> None:
    conn = ecn(p)
    conn.send(b"x")
    packet = conn.data()
    p.require(codepoint(packet) == 2, f"its codepoint is {codepoint(packet)}")


@E.check("§6.1.4", "pure acknowledgements are not", MUST)
def ecn_ack(p: Probe) -> None:
    conn = ecn(p)
    conn.flow.send("PA", b"x")
    packet = conn.flow.next(p.within(0.3))
    p.require(packet is not None and codepoint(packet) == 0, "an acknowledgement has ECT")


@E.check("§6.1.5", "retransmissions are not", MUST)
def ecn_retransmission(p: Probe) -> None:
    conn = ecn(p)
    conn.send(b"x")
    first = conn.data()
    again = conn.data(3, seq=first[TCP].seq)
    p.require(codepoint(again) == 0, "a retransmission has ECT")


@E.check("§6.1.3", "CE brings ECE in every acknowledgement until CWR comes", MUST)
def ecn_echo(p: Probe) -> None:
    conn = ecn(p)
    flow = conn.flow

    def say(flags: str, tos: int) -> str:
        packet = flow.build(flags, b"x")
        packet[IP].tos = tos
        p.peer.send(packet)
        flow.snd += 1
        found = flow.collect(p.within(0.25))
        p.require(found, "no acknowledgement")
        return str(found[-1][TCP].flags)

    p.require("E" not in say("PA", 2), "ECE without CE")
    p.require("E" in say("PA", 3), "no ECE after CE")
    p.require("E" in say("PA", 2), "ECE ends before CWR")
    p.require("E" not in say("PAC", 2), "ECE goes on after CWR")


@E.check("§6.1.2", "ECE reduces the window once in a round trip, and CWR tells so with the next data", MUST)
def ecn_reduce(p: Probe) -> None:
    conn = ecn(p)
    feed(conn, 60000)
    first = p.burst(conn.flow)
    base = first[0][TCP].seq
    conn.flow.inject("AE", ack=base + MSS * len(first))
    second = p.burst(conn.flow, 0.05)
    p.require(second and "C" in str(second[0][TCP].flags), "the next data has no CWR")
    p.require(len(second) < len(first), f"{len(first)} segments, then {len(second)}")
    p.require(all("C" not in str(packet[TCP].flags) for packet in second[1:]), "CWR comes more than once")


@E.check("§5.3", "a datagram any fragment of which has CE has CE", MUST)
def ecn_fragments(p: Probe) -> None:
    from scapy.layers.inet import fragment

    conn = ecn(p)
    packet = conn.flow.build("PA", b"f" * 64)
    packet[IP].flags = 0
    packet[IP].id = 7777
    pieces = fragment(packet, fragsize=48)
    for number, piece in enumerate(pieces):
        piece[IP].tos = 3 if number == 1 else 2
        p.peer.send(piece)
    conn.flow.snd += 64
    found = conn.flow.collect(p.within(0.3))
    p.require(found and "E" in str(found[-1][TCP].flags), "the mark of a fragment is lost")
