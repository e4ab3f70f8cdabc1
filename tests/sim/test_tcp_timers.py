"""What TCP does when nothing comes: back-off, probes, delayed ACKs, keep-alive, the ends of FIN-WAIT-2 and TIME-WAIT.

Every time here is the virtual clock's; a segment is expected within a span, and silence before it is asserted too.
"""

from __future__ import annotations

import itertools
import socket

import pytest
from scapy.layers.inet import TCP

from tap_harness.diff import ANY
from tap_harness.lab import PORT, Lab, Situation
from tap_harness.packets import payload

SACK = [("MSS", 1460), ("SAckOK", b"")]
EPSILON = 0.002


def quiet_then(flow, at: float, flags: str, **fields):
    """Nothing until shortly before `at` seconds from now, then the segment."""
    flow.expect_nothing(at - EPSILON)
    return flow.expect(flags, 2 * EPSILON, **fields)


@pytest.mark.rfc("6298", "5.5")
@pytest.mark.rfc("9293", "MUST-19")
def test_retransmission_backs_off_exponentially(lab: Lab) -> None:
    """Without an answer the same segment comes after RTO, 2 RTO, 4 RTO...; the first RTO is SRTT + 200 ms (Linux's
    floor).
    """
    situation = lab.established()
    flow = situation.flow
    lab.write(situation.sock, b"lost")
    start = flow.rcv
    flow.expect("A", data=b"lost")
    wait = 0.2
    for _ in range(6):
        quiet_then(flow, wait, "A", seq=start, data=b"lost")
        wait *= 2


@pytest.mark.rfc("6298", "2.1")
def test_syn_is_sent_again_after_one_second(lab: Lab) -> None:
    situation = lab.connecting()
    syn = situation.flow.irs
    for wait in (1, 2, 4, 8, 16, 32):
        quiet_then(situation.flow, wait, "S", seq=syn)


@pytest.mark.rfc("9293", "MUST-22")
@pytest.mark.rfc("9293", "MUST-23")
def test_connect_gives_up_with_etimedout(lab: Lab) -> None:
    """tcp_syn_retries 7: 1 + 2 + … + 64 + 120 s, which is more than the three minutes that R2 for a SYN must be."""
    situation = lab.connecting()
    situation.flow.collect(246)
    assert situation.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    situation.flow.collect(2)
    with pytest.raises(TimeoutError):
        situation.sock.recv(1)
    assert lab.state_of(situation.flow) == "CLOSED"


@pytest.mark.rfc("9293", "MUST-20")
@pytest.mark.rfc("9293", "SHLD-11")
def test_a_vanished_peer_ends_in_timeout_and_memory_comes_back(lab: Lab) -> None:
    situation = lab.established()
    flow = situation.flow
    before = lab.stack.live()
    lab.write(situation.sock, bytes(100_000))
    flow.collect(99)
    assert lab.state_of(flow) == "ESTABLISHED"  # R2 is at least 100 s
    flow.collect(1200)
    assert lab.state_of(flow) == "CLOSED"
    with pytest.raises(TimeoutError):
        situation.sock.recv(1)
    situation.sock.close()
    lab.carrier.pump()
    after = lab.stack.live()
    assert after["buffers"] == before["buffers"]
    assert after["tcbs"] <= before["tcbs"]


@pytest.mark.rfc("9293", "MUST-21")
def test_user_timeout(lab: Lab) -> None:
    situation = lab.established()
    situation.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 3000)
    lab.write(situation.sock, b"x")
    situation.flow.collect(2.9)
    assert lab.state_of(situation.flow) == "ESTABLISHED"
    situation.flow.collect(5)
    assert lab.state_of(situation.flow) == "CLOSED"


@pytest.mark.rfc("6298", "3")
@pytest.mark.rfc("9293", "MUST-18")
def test_karn(lab: Lab) -> None:
    """The ACK of a retransmission gives no sample: the backed-off time-out stays for the next segment."""
    situation = lab.established()
    flow = situation.flow
    lab.write(situation.sock, b"one")
    flow.expect("A", data=b"one")
    flow.expect("A", 0.3, seq=flow.rcv - 3, data=b"one")
    flow.send("A")
    lab.write(situation.sock, b"two")
    flow.expect("A", data=b"two")
    quiet_then(flow, 0.4, "A", seq=flow.rcv - 3, data=b"two")


@pytest.mark.rfc("8985", "7.2")
@pytest.mark.rfc("8985", "7.3")
def test_tail_loss_probe_comes_before_the_time_out(lab: Lab) -> None:
    """With an RTT of 50 ms and several segments out, the last one is probed after about 2 SRTT."""
    situation = lab.established(SACK)
    flow = situation.flow
    for _ in range(4):
        lab.write(situation.sock, bytes(1460))
        flow.expect("A", data=ANY)
        lab.carrier.advance(0.05)
        flow.send("A")
    lab.write(situation.sock, bytes(4380))
    segments = flow.collect(0.01)
    assert len(segments) == 3
    flow.expect_nothing(0.03)
    probe = flow.expect("A", 0.15, seq=segments[-1][TCP].seq, data=ANY)
    assert len(payload(probe)) == 1460


def known_path(lab: Lab, rtt: float) -> Situation:
    """A connection whose round trips were all the same."""
    flow = lab.flow(PORT)
    flow.send("S", options=SACK)
    flow.expect("SA", seq=ANY)
    lab.carrier.advance(rtt)
    flow.send("A")
    situation = Situation("ESTABLISHED", flow, lab.accept())
    for _ in range(12):
        lab.write(situation.sock, b"rtt")
        lab.carrier.advance(rtt)
        situation.flow.collect(0)
        situation.flow.send("A")
    return situation


@pytest.mark.rfc("8985", "7.2")
def test_a_segment_that_acks_left_over_is_probed_two_round_trips_after_it_was_sent(
    lab: Lab,
) -> None:
    """... and the delay of an ACK in a stream later, 40 ms; not before, and not two round trips after the last ACK."""
    situation = known_path(lab, 0.05)
    flow = situation.flow
    lab.write(situation.sock, bytes(3 * 1460))
    segments = flow.collect(0)
    assert len(segments) == 3
    lab.carrier.advance(0.05)
    flow.send("A", ack=segments[-1][TCP].seq)
    quiet_then(flow, 2 * 0.05 + 0.002 + 0.04 - 0.05, "A", seq=segments[-1][TCP].seq, data=ANY)


@pytest.mark.rfc("8985", "7.2")
def test_a_probe_comes_when_the_time_out_would(lab: Lab) -> None:
    """Where two round trips and an ACK's delay are longer than that; the time-out itself is one more away."""
    situation = known_path(lab, 0.4)
    flow = situation.flow
    before = lab.stack.counters()
    lab.write(situation.sock, b"alone")
    sent = flow.collect(0)[0]
    again = flow.next(1)
    assert again is not None
    assert again[TCP].seq == sent[TCP].seq
    counters = lab.stack.counters()
    assert counters["TCPLossProbes"] - before["TCPLossProbes"] == 1
    assert counters["TCPTimeouts"] == before["TCPTimeouts"]
    first = lab.carrier.now()
    assert flow.next(2) is not None
    assert lab.carrier.now() - first >= 0.5
    assert lab.stack.counters()["TCPTimeouts"] - before["TCPTimeouts"] == 1


@pytest.mark.rfc("9293", "MUST-36")
@pytest.mark.rfc("9293", "SHLD-29")
@pytest.mark.rfc("9293", "SHLD-30")
@pytest.mark.rfc("9293", "MUST-37")
def test_zero_window_is_probed_for_ever_at_growing_intervals(lab: Lab) -> None:
    situation = lab.established()
    flow = situation.flow
    lab.write(situation.sock, b"x" * 1000)
    flow.expect("A", data=ANY)
    flow.send("A", win=0)
    lab.write(situation.sock, b"waits")
    gaps, last = [], lab.carrier.now()
    while lab.carrier.now() < 3600:
        probe = flow.next(130)
        assert probe is not None, "the probes stopped"
        gaps.append(lab.carrier.now() - last)
        last = lab.carrier.now()
        flow.send("A", win=0)
    assert gaps[0] < 0.5
    assert all(b >= a * 0.99 for a, b in itertools.pairwise(gaps))
    assert max(gaps) <= 121
    flow.send("A", win=1000)
    flow.expect("A", data=b"waits")


@pytest.mark.rfc("9293", "MUST-40")
def test_ack_is_delayed_but_less_than_half_a_second(lab: Lab) -> None:
    situation = lab.established()
    flow = situation.flow
    for _ in range(20):  # past the quick ACKs of a young connection
        flow.send("PA", b"x" * 100)
        flow.collect(0.1)
    flow.send("PA", b"y")
    quiet = 0.039
    flow.expect_nothing(quiet)
    flow.expect("A", 0.5 - quiet)


@pytest.mark.rfc("9293", "SHLD-19")
def test_every_second_full_segment_is_acknowledged_at_once(lab: Lab) -> None:
    situation = lab.established()
    flow = situation.flow
    for _ in range(20):
        flow.send("PA", bytes(1460))
        flow.collect(0.1)
    flow.send("A", bytes(1460))
    flow.expect_nothing(0.001)
    flow.send("A", bytes(1460))
    flow.expect("A", 0.001)


@pytest.mark.rfc("9293", "MUST-25")
def test_keepalive_is_off_by_default(lab: Lab) -> None:
    situation = lab.established()
    situation.flow.expect_nothing(3 * 7200)


@pytest.mark.rfc("9293", "MUST-24")
@pytest.mark.rfc("9293", "MUST-27")
@pytest.mark.rfc("9293", "MUST-29")
@pytest.mark.rfc("9293", "SHLD-12")
def test_keepalive(lab: Lab) -> None:
    """Probes carry no data, several may be lost; an answer ends the series, silence the connection."""
    situation = lab.established()
    flow, sock = situation.flow, situation.sock
    for name, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
        sock.setsockopt(socket.IPPROTO_TCP, name, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    quiet_then(flow, 30, "A", seq=flow.rcv - 1)
    quiet_then(flow, 5, "A", seq=flow.rcv - 1)
    flow.inject("A")
    quiet_then(flow, 30, "A", seq=flow.rcv - 1)
    for _ in range(2):
        quiet_then(flow, 5, "A", seq=flow.rcv - 1)
    flow.expect("RA", 5.1)
    assert lab.state_of(flow) == "CLOSED"
    with pytest.raises(TimeoutError):
        sock.recv(1)


@pytest.mark.rfc("9293", "MUST-13")
def test_time_wait_lasts_sixty_seconds_and_answers_a_lost_ack(lab: Lab) -> None:
    situation = lab.reach("TIME-WAIT")
    flow = situation.flow
    lab.carrier.advance(50)
    flow.inject("FA", seq=flow.snd - 1)
    flow.expect("A")
    lab.carrier.advance(59)
    assert lab.stack.live()["timewaits"] == 1
    lab.carrier.advance(2)
    assert lab.stack.live()["timewaits"] == 0


def test_an_orphan_in_fin_wait_2_does_not_stay(lab: Lab) -> None:
    """tcp_fin_timeout: 60 s."""
    situation = lab.reach("FIN-WAIT-2")
    situation.sock.close()
    lab.carrier.advance(58)
    assert lab.state_of(situation.flow) == "FIN-WAIT-2"
    lab.carrier.advance(4)
    assert lab.state_of(situation.flow) == "CLOSED"


def test_syn_received_gives_up_after_its_retries(lab: Lab) -> None:
    """tcp_synack_retries 5: 63 s; nothing is left."""
    flow = lab.flow(PORT)
    flow.send("S", options=[("MSS", 1460)])
    flow.expect("SA", seq=ANY)
    for wait in (1, 2, 4, 8, 16):
        quiet_then(flow, wait, "SA", seq=ANY)
    lab.carrier.advance(33)
    assert lab.stack.live()["synreqs"] == 0


def test_deadlines_are_exact(lab: Lab) -> None:
    """next_deadline() is the earliest pending timer, to the nanosecond, and None when there is none."""
    situation = lab.established()
    lab.carrier.advance(3600)
    lab.write(situation.sock, b"x")
    deadline = lab.stack.next_deadline()
    assert deadline is not None
    lab.stack.poll(deadline - 1)
    sent = lab.stack.counters()["TcpRetransSegs"]
    lab.stack.poll(deadline)
    assert lab.stack.counters()["TcpRetransSegs"] == sent + 1
