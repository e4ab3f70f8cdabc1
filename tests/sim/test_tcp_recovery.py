"""Loss: what is sent again, when, and what it costs the window; segment by segment against a scripted peer."""

from __future__ import annotations

import socket

import pytest
from scapy.layers.inet import TCP

from tap_harness.diff import ANY
from tap_harness.flow import Flow
from tap_harness.lab import PORT, Lab, Situation
from tap_harness.packets import payload

MSS = 1460
SACK = [("MSS", MSS), ("SAckOK", b"")]
RTT = 0.05


def warmed(lab: Lab, options: list[tuple[str, object]]) -> Situation:
    """A connection that knows its RTT (50 ms) and has 10 segments to lose."""
    flow = lab.flow(PORT)
    flow.send("S", options=options)
    flow.expect("SA", seq=ANY)
    lab.carrier.advance(RTT)
    flow.send("A")
    situation = Situation("ESTABLISHED", flow, lab.accept())
    for _ in range(8):
        lab.write(situation.sock, b"rtt")
        lab.carrier.advance(RTT)
        situation.flow.collect(0)
        situation.flow.send("A")
    return situation


def burst(lab: Lab, situation: Situation, segments: int) -> list[int]:
    """Sends so many full segments; returns their sequence numbers."""
    lab.write(situation.sock, bytes(segments * MSS))
    return [packet[TCP].seq for packet in situation.flow.collect(0.001)]


def sacks(flow: Flow, una: int, *blocks: tuple[int, int]) -> None:
    edges = tuple(edge for block in blocks for edge in block)
    flow.inject("A", ack=una, options=[("NOP", None), ("NOP", None), ("SAck", edges)])


@pytest.mark.rfc("6675", "5")
@pytest.mark.rfc("8985", "6.2")
def test_three_sacked_segments_mean_loss(lab: Lab) -> None:
    situation = warmed(lab, SACK)
    flow = situation.flow
    seqs = burst(lab, situation, 8)
    lab.carrier.advance(RTT)
    sacks(flow, seqs[0], (seqs[1], seqs[2]))
    flow.expect_nothing(0)
    sacks(flow, seqs[0], (seqs[1], seqs[4]))
    again = flow.next(0)
    assert again is not None
    assert again[TCP].seq == seqs[0]
    assert len(payload(again)) == MSS
    flow.expect_nothing(0.01)


@pytest.mark.rfc("2018", "5")
def test_only_the_holes_are_sent_again(lab: Lab) -> None:
    situation = warmed(lab, SACK)
    flow = situation.flow
    seqs = burst(lab, situation, 10)
    end = seqs[-1] + MSS
    lab.carrier.advance(RTT)
    flow.collect(0)
    sacks(flow, seqs[0], (seqs[1], seqs[3]))
    sacks(flow, seqs[0], (seqs[4], end), (seqs[1], seqs[3]))
    first = flow.next(0)
    second = flow.next(0.001)
    assert [p[TCP].seq for p in (first, second) if p is not None] == [seqs[0], seqs[3]]
    flow.inject("A", ack=end)
    flow.expect_nothing(10)
    assert lab.stack.counters()["TcpRetransSegs"] == 2


@pytest.mark.rfc("8985", "6.3")
def test_reordering_is_given_a_quarter_of_the_round_trip(lab: Lab) -> None:
    """Two SACKed segments are no proof: the first is sent again only when min_RTT/4 more has passed."""
    situation = warmed(lab, SACK)
    flow = situation.flow
    seqs = burst(lab, situation, 4)
    lab.carrier.advance(RTT)
    flow.collect(0)
    sacks(flow, seqs[0], (seqs[1], seqs[2]))
    flow.expect_nothing(0.010)
    again = flow.next(0.005)
    assert again is not None
    assert again[TCP].seq == seqs[0]


@pytest.mark.rfc("8985", "6.2")
def test_a_lost_retransmission_is_found_without_a_time_out(lab: Lab) -> None:
    situation = warmed(lab, SACK)
    flow = situation.flow
    seqs = burst(lab, situation, 10)
    lab.carrier.advance(RTT)
    flow.collect(0)
    lab.write(situation.sock, bytes(4 * MSS))
    sacks(flow, seqs[0], (seqs[1], seqs[9]))
    sent = [packet[TCP].seq for packet in flow.collect(0)]
    assert sent[0] == seqs[0]
    assert len(sent) > 1
    lab.carrier.advance(RTT)
    flow.collect(0)
    sacks(flow, seqs[0], (seqs[1], sent[-1] + MSS))
    again = flow.next(0.02)
    assert again is not None
    assert again[TCP].seq == seqs[0]
    assert lab.stack.counters()["TCPTimeouts"] == 0


@pytest.mark.rfc("6582", "3.2")
@pytest.mark.rfc("5681", "3.2")
def test_newreno_without_sack(lab: Lab) -> None:
    """Three duplicates bring a fast retransmit; a partial ACK the next hole, once each."""
    situation = warmed(lab, [("MSS", MSS)])
    flow = situation.flow
    seqs = burst(lab, situation, 10)
    end = seqs[-1] + MSS
    lab.carrier.advance(RTT)
    for _ in range(2):
        flow.inject("A", ack=seqs[0])
    flow.expect_nothing(0)
    flow.inject("A", ack=seqs[0])
    assert flow.next(0)[TCP].seq == seqs[0]
    lab.carrier.advance(RTT)
    flow.collect(0)
    flow.inject("A", ack=seqs[4])
    assert flow.next(0)[TCP].seq == seqs[4]
    lab.carrier.advance(RTT)
    flow.collect(0)
    flow.inject("A", ack=end)
    flow.expect_nothing(5)
    assert lab.stack.counters()["TcpRetransSegs"] == 2


@pytest.mark.rfc("5681", "3.1")
def test_fast_recovery_halves_and_a_time_out_collapses_the_window(lab: Lab) -> None:
    situation = warmed(lab, SACK)
    situation.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    flow = situation.flow
    seqs = burst(lab, situation, 10)
    lab.carrier.advance(RTT)
    flow.collect(0)
    sacks(flow, seqs[0], (seqs[1], seqs[10 - 1] + MSS))
    flow.collect(0)
    flow.inject("A", ack=seqs[-1] + MSS)
    record = next(c for c in lab.stack.connections() if c.state == "ESTABLISHED")
    assert record.ssthresh == 5 * MSS
    assert record.cwnd == 5 * MSS
    burst(lab, situation, 5)
    flow.collect(0.6)
    record = next(c for c in lab.stack.connections() if c.state == "ESTABLISHED")
    assert record.cwnd == MSS


@pytest.mark.rfc("2018", "8")
def test_a_receiver_may_renege(lab: Lab) -> None:
    """What was SACKed and then forgotten is sent again after the time-out; the data is complete."""
    situation = warmed(lab, SACK)
    flow = situation.flow
    data = bytes(range(256)) * 40
    lab.write(situation.sock, data)
    seqs = [packet[TCP].seq for packet in flow.collect(0.001)]
    lab.carrier.advance(RTT)
    flow.collect(0)
    sacks(flow, seqs[0], (seqs[1], seqs[-1]))
    flow.collect(0)
    flow.inject("A", ack=seqs[1])
    flow.collect(0)
    flow.rcv = seqs[1]
    rest = flow.read(len(data) - MSS, within=20)
    assert rest == data[MSS:]


@pytest.mark.rfc("2018", "4")
@pytest.mark.rfc("9293", "SHLD-31")
def test_sack_blocks_report_the_latest_first(lab: Lab) -> None:
    situation = lab.established(SACK)
    flow = situation.flow
    base = flow.snd
    for start, expected in (
        (2000, ((2000, 2100),)),
        (4000, ((4000, 4100), (2000, 2100))),
        (2100, ((2000, 2200), (4000, 4100))),
        (6000, ((6000, 6100), (2000, 2200), (4000, 4100))),
    ):
        flow.inject("A", bytes(100), seq=base + start)
        packet = flow.next(0)
        assert packet is not None
        assert packet[TCP].ack == base
        edges = dict(packet[TCP].options)["SAck"]
        assert tuple((a - base, b - base) for a, b in zip(edges[::2], edges[1::2], strict=True)) == expected
    flow.send("A", bytes(1000))
    flow.send("A", bytes(1000))
    assert flow.collect(0.1)[-1][TCP].ack == base + 2200


@pytest.mark.rfc("2883", "4")
def test_a_duplicate_is_reported_once(lab: Lab) -> None:
    situation = lab.established(SACK)
    flow = situation.flow
    flow.send("PA", b"abcd")
    flow.collect(0.3)
    flow.inject("PA", b"abcd", seq=flow.snd - 4)
    packet = flow.next(0.3)
    edges = dict(packet[TCP].options)["SAck"]
    assert edges == (flow.snd - 4, flow.snd)
    flow.send("PA", b"e")
    assert "SAck" not in dict(flow.next(0.3)[TCP].options)
