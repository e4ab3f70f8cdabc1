"""What is done for the ordinary case: header prediction, timers that are put off, ACKs that wait for an answer."""

from __future__ import annotations

from tap_harness.lab import Lab


def rise(lab: Lab, name: str, before: dict[str, int]) -> int:
    return lab.stack.counters()[name] - before[name]


def test_ordinary_segments_are_predicted_and_odd_ones_are_not(lab: Lab) -> None:
    situation = lab.established()
    flow, before = situation.flow, lab.stack.counters()
    flow.send("A", bytes(1000))
    flow.send("PA", bytes(1000))
    lab.write(situation.sock, b"answer")
    flow.collect(0.1)
    flow.send("A")
    assert rise(lab, "TCPHPHits", before) == 3
    assert rise(lab, "TCPPureAcks", before) == 1
    flow.send("A")  # a duplicate
    flow.send("A", bytes(10), seq=flow.snd + 100)  # out of order
    assert rise(lab, "TCPHPHits", before) == 3
    assert len(lab.read(situation.sock)) == 2000


def test_an_answer_carries_the_ack_of_the_request(lab: Lab) -> None:
    """Young connections acknowledge quickly, but not faster than an answer that comes at once."""
    situation = lab.established()
    situation.flow.send("PA", b"request")
    situation.flow.expect_nothing()
    lab.write(situation.sock, b"answer")
    situation.flow.expect("PA", data=b"answer")
    situation.flow.expect_nothing(0.03)


def test_a_request_without_an_answer_is_acknowledged_soon(lab: Lab) -> None:
    situation = lab.established()
    situation.flow.send("PA", b"request")
    situation.flow.expect("A", 0.002)


def test_who_waits_for_acks_is_not_kept_waiting(lab: Lab) -> None:
    """Nagle's algorithm keeps the end of an answer back until its beginning is acknowledged. In an exchange that is
    late once, by a moment, and then no more."""
    situation = lab.established()
    late = []
    for _ in range(30):
        lab.write(situation.sock, b"request")
        situation.flow.expect("PA", data=b"request")
        situation.flow.send("PA", b"head")
        begin = lab.carrier.now()
        situation.flow.expect("A", 0.002)
        late.append(lab.carrier.now() - begin)
        situation.flow.send("PA", b"the rest")
        situation.flow.expect("A", 0)
        assert len(lab.read(situation.sock)) == 12
        lab.carrier.advance(0.01)
    assert 0.0009 < late[0] < 0.002
    assert max(late[1:]) == 0


def test_who_does_not_wait_is_acknowledged_as_ever(lab: Lab) -> None:
    """What comes long after an ACK did not wait for it."""
    situation = lab.established()
    lab.write(situation.sock, b"x")
    situation.flow.expect("PA", data=b"x")
    for _ in range(5):
        situation.flow.send("PA", b"now and then")
        situation.flow.expect_nothing(0.0009)
        situation.flow.expect("A", 0.001)
        lab.carrier.advance(0.3)


def test_a_bulk_sender_is_acknowledged_at_once(lab: Lab) -> None:
    """What slow start lives on."""
    situation = lab.established()
    situation.flow.send("PA", bytes(1460))
    situation.flow.expect("A")


def test_a_deadline_that_moved_away_is_not_reported(lab: Lab) -> None:
    """The wheel may still hold the earlier moment; whoever asks learns the true one."""
    situation = lab.established()
    lab.carrier.advance(3600)
    lab.write(situation.sock, b"x")
    first = lab.stack.next_deadline()
    assert first is not None
    situation.flow.expect("PA", data=b"x")
    situation.flow.send("A")
    later = lab.stack.next_deadline()  # at most the neighbour's
    assert later is None or later > first
