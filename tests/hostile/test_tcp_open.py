"""Odd ways to open a connection: both at once, split, data on the SYN, forged and impossible sources, silence."""

from __future__ import annotations

import itertools

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tap_harness.diff import ANY
from tap_harness.lab import ECHO_PORT, PORT, Lab
from tap_harness.packets import payload

IMPOSSIBLE_SOURCES = [
    "0.0.0.0",
    "127.0.0.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "10.9.0.255",
    "10.9.0.2",
]


@pytest.mark.rfc("9293", "MUST-10")
def test_simultaneous_open(lab: Lab) -> None:
    """RFC 9293 figure 8: one connection results."""
    situation = lab.connecting()
    flow, sock = situation.flow, situation.sock
    flow.send("S", options=[("MSS", 1460)])
    flow.expect("SA", seq=flow.irs)
    assert lab.state_of(flow) == "SYN-RECEIVED"
    flow.inject("SA", seq=flow.isn, ack=flow.rcv)
    flow.collect(0.2)
    flow.send("A")
    assert lab.state_of(flow) == "ESTABLISHED"
    assert len([r for r in lab.stack.connections() if str(flow.sport) in str(r)]) == 1
    lab.write(sock, b"from us")
    flow.expect("PA", data=b"from us")
    flow.send("PA", b"from them")
    assert lab.read(sock) == b"from them"
    lab.health.check(1 << 16)


@pytest.mark.rfc("9293", "MUST-11")
def test_reset_in_a_simultaneous_open_ends_the_attempt(lab: Lab) -> None:
    """The origin of SYN-RECEIVED is remembered: an active open is refused, it does not become a listener."""
    situation = lab.connecting()
    situation.flow.send("S")
    situation.flow.expect("SA", seq=situation.flow.irs)
    situation.flow.inject("R")
    with pytest.raises((ConnectionRefusedError, ConnectionResetError)):  # the RFC says the one, Linux the other
        situation.sock.recv(1)
    assert lab.state_of(situation.flow) == "CLOSED"


def test_split_handshake(lab: Lab) -> None:
    """The SYN-ACK comes in two: ACK (ignored), then SYN (a simultaneous open)."""
    situation = lab.connecting()
    flow = situation.flow
    flow.inject("A", ack=flow.rcv)
    flow.expect_nothing()
    assert lab.state_of(flow) == "SYN-SENT"
    flow.send("S", options=[("MSS", 1460)])
    flow.expect("SA", seq=flow.irs)
    flow.send("A")
    assert lab.state_of(flow) == "ESTABLISHED"
    lab.write(situation.sock, b"alive")
    flow.expect("A", data=b"alive")


@pytest.mark.parametrize("flags", ["S", "SP", "SU", "SPU", "SEC"])
def test_syn_with_company(lab: Lab, flags: str) -> None:
    """PSH, URG and ECN bits on a SYN change nothing."""
    flow = lab.flow()
    flow.send(flags, options=[("MSS", 1460)])
    answer = flow.next()
    assert answer is not None
    assert set(str(answer[TCP].flags)) - {"E"} == {"S", "A"}


def test_data_on_the_syn(lab: Lab) -> None:
    """Data on a SYN is kept or left to be sent again, and delivered exactly once (RFC 9293 §3.4)."""
    flow = lab.flow(PORT)
    flow.inject("S", b"hello", options=[("MSS", 1460)])
    answer = flow.expect("SA", seq=ANY, ack={flow.snd + 1, flow.snd + 6})
    taken = answer[TCP].ack - flow.snd - 1
    flow.snd = answer[TCP].ack
    flow.send("PA", b"hello world"[taken:])
    assert lab.read(lab.accept()) == b"hello world"


def test_data_with_the_last_ack_of_the_handshake(lab: Lab) -> None:
    flow = lab.flow()
    flow.send("S")
    flow.expect("SA", seq=ANY)
    flow.send("PA", b"early")
    assert flow.read(5) == b"early"


def test_data_before_the_last_ack_is_delivered(lab: Lab) -> None:
    """The third segment got lost, the next one carries the acknowledgement."""
    flow = lab.flow()
    flow.send("S")
    flow.expect("SA", seq=ANY)
    flow.inject("PA", b"later", seq=flow.snd + 6)
    flow.send("PA", b"first ")
    flow.snd += 5
    assert flow.read(11) == b"first later"


def test_fin_with_the_last_ack(lab: Lab) -> None:
    flow = lab.flow()
    flow.send("S")
    flow.expect("SA", seq=ANY)
    flow.send("FPA", b"all")
    assert flow.read(3) == b"all"
    flow.collect(1)
    assert lab.state_of(flow) in ("LAST-ACK", "CLOSED")


def test_syn_again_is_answered_again(lab: Lab) -> None:
    """A SYN retransmission gets the same SYN-ACK again; no second connection."""
    flow = lab.flow()
    flow.send("S")
    first = flow.expect("SA", seq=ANY)
    lab.carrier.advance(0.6)
    flow.inject("S", seq=flow.isn)
    again = flow.expect("SA", seq=first[TCP].seq)
    assert again[TCP].ack == first[TCP].ack
    flow.send("A")
    assert lab.state_of(flow) == "ESTABLISHED"


def test_new_syn_while_syn_received(lab: Lab) -> None:
    """A SYN with another number for a half-open connection does not create a mess: one connection can be made."""
    flow = lab.flow()
    flow.send("S")
    flow.expect("SA", seq=ANY)
    flow.inject("S", seq=flow.isn + 100_000)
    lab.peer.discard(0.1)
    flow.send("A")
    flow.send("PA", b"ping")
    assert flow.read(4) == b"ping"


@pytest.mark.rfc("9293", "MUST-15")
def test_no_mss_option_means_536(lab: Lab) -> None:
    situation = lab.established(options=[])
    lab.write(situation.sock, bytes(3000))
    sizes = [len(payload(packet)) for packet in situation.flow.collect(0.1)]
    assert max(sizes) == 536


@pytest.mark.rfc("9293", "MUST-14", "MUST-67")
def test_mss_is_announced(lab: Lab) -> None:
    flow = lab.flow()
    answer = flow.handshake()
    assert dict(answer[TCP].options)["MSS"] == 1460


@pytest.mark.parametrize("source", IMPOSSIBLE_SOURCES)
@pytest.mark.rfc("9293", "MUST-63")
def test_impossible_sources(lab: Lab, source: str) -> None:
    """No answer and no ARP for it: SYN, echo request and UDP to a closed port. The own address is LAND."""
    for above in (
        TCP(sport=ECHO_PORT, dport=ECHO_PORT, flags="S"),
        TCP(sport=5, dport=9, flags="S"),
        ICMP(type=8),
        UDP(sport=7, dport=9),
    ):
        lab.peer.send(IP(src=source, dst="10.9.0.2") / above / Raw(b"x"))
        lab.peer.expect_nothing(5)
    lab.health.check(1 << 16)
    assert all(source != str(getattr(record, "peer", "")) for record in lab.stack.connections())


@pytest.mark.parametrize("target", ["10.9.0.255", "255.255.255.255", "224.0.0.1"])
@pytest.mark.rfc("9293", "MUST-57")
def test_syn_to_many(lab: Lab, target: str) -> None:
    """Segments to broadcast and multicast addresses are dropped without a word, whatever the frame's address."""
    for mac in ("ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", lab.peer.target_mac):
        for flags in ("S", "A", "SA", "F"):
            frame = (
                Ether(src=lab.peer.mac, dst=mac)
                / IP(src=lab.peer.ip, dst=target)
                / TCP(sport=4000, dport=ECHO_PORT, flags=flags)
            )
            lab.peer.send_ether(frame)
    lab.peer.expect_nothing(3)


@pytest.mark.parametrize("mac", ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "02:00:00:00:77:77"])
def test_own_address_in_somebody_elses_frame(lab: Lab, mac: str) -> None:
    """The right IP address in a broadcast frame or in one for another station (RFC 1122 §3.3.6)."""
    frame = (
        Ether(src=lab.peer.mac, dst=mac)
        / IP(src=lab.peer.ip, dst="10.9.0.2")
        / TCP(sport=4000, dport=ECHO_PORT, flags="S")
    )
    lab.peer.send_ether(frame)
    lab.peer.expect_nothing(3)


def test_half_open_connections_end(lab: Lab) -> None:
    """Without the third segment: the SYN-ACK five times more, ever rarer, then nothing is left (no amplifier)."""
    base = len(lab.stack.connections())
    flow = lab.flow()
    flow.send("S")
    times = []
    while (packet := flow.next(200)) is not None:
        assert str(packet[TCP].flags) == "SA"
        times.append(lab.carrier.now())
    assert 2 <= len(times) <= 6
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(later >= earlier * 1.5 for earlier, later in itertools.pairwise(gaps)), gaps
    assert len(lab.stack.connections()) == base


def test_peer_that_never_answers_our_syn(lab: Lab) -> None:
    situation = lab.connecting()
    times = [lab.carrier.now()]
    while (packet := situation.flow.next(300)) is not None:
        assert str(packet[TCP].flags) == "S"
        times.append(lab.carrier.now())
    assert len(times) == 8  # tcp_syn_retries 7
    with pytest.raises(TimeoutError):
        situation.sock.recv(1)
    assert lab.state_of(situation.flow) == "CLOSED"


@pytest.mark.parametrize("isn", [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFF000])
@pytest.mark.rfc("9293", "3.4")
def test_sequence_numbers_wrap(lab: Lab, isn: int) -> None:
    flow = lab.flow(isn=isn)
    flow.handshake()
    for number in range(20):
        data = bytes([number]) * 1000
        flow.send("PA", data)
        assert flow.read(1000) == data
    flow.close()
