"""What the fuzzer found, told again as conversations that a person can read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.layers.inet import TCP

from tap_harness.lab import Lab

MSS = [("MSS", 1460)]


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.close()


def test_close_in_a_simultaneous_open(lab: Lab) -> None:
    """RFC 9293 §3.10.4: FIN-WAIT-1 with the SYN in flight. Duplicate ACKs must not draw data that is not there."""
    situation = lab.connecting()
    flow, sock = situation.flow, situation.sock
    flow.send("S", options=MSS)
    flow.expect("SA", seq=flow.irs)
    sock.close()
    lab.carrier.pump()
    for _ in range(6):
        flow.inject("A", ack=flow.irs)
    sent = flow.collect(2)
    assert sent
    assert all(len(bytes(packet[TCP].payload)) == 0 for packet in sent)
    assert all(packet[TCP].flags.A for packet in sent)
    flow.inject("A", ack=flow.irs + 2)
    lab.carrier.advance(130)
    assert lab.state_of(flow) == "CLOSED"


def test_simultaneous_open_after_a_time_out(lab: Lab) -> None:
    """The SYN was resent, and is resent as SYN-ACK while that is in flight; the connection must send afterwards."""
    situation = lab.connecting()
    flow, sock = situation.flow, situation.sock
    flow.expect("S", within=3, seq=flow.irs)
    flow.send("S", options=MSS)
    flow.expect("SA", seq=flow.irs)
    flow.send("A")
    assert lab.state_of(flow) == "ESTABLISHED"
    for text in (b"one", b"two", b"three"):
        lab.write(sock, text)
        flow.expect("PA", data=text)
        flow.send("A")
