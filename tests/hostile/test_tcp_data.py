"""Data that is old, early, overlapping, lying about urgency, wrongly summed; acknowledgements that lie.

Whatever is done, the stream that the application reads is the one that was sent, once and in order.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
import socket

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from tap_harness.checks import rss
from tap_harness.diff import ANY
from tap_harness.flow import Options
from tap_harness.lab import Lab
from tap_harness.packets import payload
from tap_harness.segment import ACK, MODULUS, PSH, seq_diff

SACK_PERMITTED: Options = [("MSS", 1460), ("NOP", None), ("NOP", None), ("SAckOK", b"")]


# -- sequence space


def test_old_duplicates_are_acknowledged_and_not_delivered(lab: Lab) -> None:
    situation = lab.established()
    flow = situation.flow
    flow.send("PA", b"abcdef")
    assert lab.read(situation.sock) == b"abcdef"
    flow.collect(0.5)
    for back, data in [(6, b"abcdef"), (6, b"ZZZZZZ"), (3, b"ZZZ"), (6, b"Z"), (1, b"Z"), (5000, b"Z" * 1000)]:
        lab.carrier.advance(1)
        flow.inject("PA", data, seq=flow.snd - back)
        flow.expect("A")
        assert lab.read(situation.sock) == b""
    flow.send("PA", b"ghi")
    assert lab.read(situation.sock) == b"ghi"


def test_segment_with_old_and_new_bytes(lab: Lab) -> None:
    """The old part is trimmed: received bytes win (RFC 9293 §3.10.7.4, first)."""
    situation = lab.established()
    flow = situation.flow
    flow.send("PA", b"abcdef")
    flow.send("PA", b"ZZZghi", seq=flow.snd - 3)
    flow.snd -= 3
    assert lab.read(situation.sock) == b"abcdefghi"


def test_segment_across_the_right_edge(lab: Lab) -> None:
    """Beyond the window is trimmed or dropped, never delivered out of turn, and the acknowledgement says how far."""
    situation = lab.established()
    flow = situation.flow
    flow.send("PA", b"x")
    window = int(flow.expect("A")[TCP].window)
    start = flow.snd + window - 700
    flow.inject("PA", b"y" * 1400, seq=start)
    flow.collect(0.5)
    assert lab.read(situation.sock) == b"x"
    lab.health.check(1 << 14)


@pytest.mark.rfc("9293", "SHLD-31", "MAY-13")
def test_out_of_order_is_put_in_order(lab: Lab) -> None:
    situation = lab.established()
    flow = situation.flow
    text = bytes(range(256)) * 40
    pieces = [(start, text[start : start + 100]) for start in range(0, len(text), 100)]
    random.Random(5).shuffle(pieces)
    for start, piece in pieces:
        flow.inject("PA", piece, seq=flow.snd + start)
    assert lab.read(situation.sock) == text


@pytest.mark.parametrize("seed", range(8))
def test_overlapping_retransmissions_are_consistent(lab: Lab, seed: int) -> None:
    """Pieces of random place and length, again and again: the hash is that of the text."""
    situation = lab.established(isn=(1 << 32) - 3000)
    flow = situation.flow
    source = random.Random(seed)
    text = source.randbytes(20000)
    got = bytearray()
    path = lab.path(flow)
    while len(got) < len(text):
        start = max(0, len(got) + source.randrange(-2000, 6000))
        piece = text[start : start + source.randrange(1, 1460)]
        if not piece:
            continue
        lab.carrier.send(path.frame(flow.snd + start, flow.rcv, PSH | ACK, data=piece))
        got += lab.read(situation.sock)
        if source.random() < 0.1:  # progress: what is missing comes
            lab.carrier.send(
                path.frame(flow.snd + len(got), flow.rcv, PSH | ACK, data=text[len(got) : len(got) + 1000])
            )
            got += lab.read(situation.sock)
    lab.segments()
    assert hashlib.sha256(got).digest() == hashlib.sha256(text).digest()


@pytest.mark.parametrize("first_is_early", [True, False])
def test_overlap_with_other_content(lab: Lab, first_is_early: bool) -> None:
    """An inconsistent retransmission: each byte is of one of the copies, delivered bytes never change."""
    situation = lab.established()
    flow = situation.flow
    early, whole = ("PA", b"B" * 100, 100), ("PA", b"A" * 200, 0)
    for flags, data, offset in (early, whole) if first_is_early else (whole, early):
        flow.inject(flags, data, seq=flow.snd + offset)
    got = lab.read(situation.sock)
    assert got[:100] == b"A" * 100
    assert got[100:] == b"A" * 100 if not first_is_early else got[100:] in (b"B" * 100, b"A" * 100)


def test_fin_before_its_data(lab: Lab) -> None:
    situation = lab.established()
    flow = situation.flow
    flow.inject("FA", seq=flow.snd + 5)
    assert lab.state_of(flow) == "ESTABLISHED"
    flow.send("PA", b"hello")
    assert lab.read(situation.sock) == b"hello"
    assert lab.state_of(flow) == "CLOSE-WAIT"
    assert situation.sock.recv(1) == b""


def test_fin_beyond_the_window_is_ignored(lab: Lab) -> None:
    situation = lab.established()
    situation.flow.inject("FA", seq=situation.flow.snd + (1 << 26))
    situation.flow.collect(0.5)
    assert lab.state_of(situation.flow) == "ESTABLISHED"


def test_data_after_the_fin_is_not_delivered(lab: Lab) -> None:
    situation = lab.established()
    flow = situation.flow
    flow.inject("PA", b"later", seq=flow.snd + 4)
    flow.send("FA", b"end")
    flow.inject("PA", b"more")
    lab.carrier.pump()
    assert lab.read(situation.sock) == b"end"
    assert lab.state_of(flow) == "CLOSE-WAIT"


def test_two_different_fins(lab: Lab) -> None:
    situation = lab.established()
    flow = situation.flow
    flow.send("FA", b"end")
    flow.inject("FA", b"another", seq=flow.snd - 1)
    flow.inject("FA", seq=flow.snd + 10)
    flow.collect(0.5)
    assert lab.read(situation.sock) == b"end"
    lab.health.check(1 << 14)


@pytest.mark.slow
def test_many_tiny_out_of_order_segments(lab: Lab) -> None:
    """SegmentSmack (CVE-2018-5390): 1-byte segments at every second place; memory stays bounded, the stream right."""
    situation = lab.established()
    flow = situation.flow
    path = lab.path(flow)
    text = random.Random(1).randbytes(30000)
    base = rss()
    odd = [path.frame(flow.snd + at, flow.rcv, PSH | ACK, data=text[at : at + 1]) for at in range(len(text) - 1, 0, -2)]
    for _ in range(3):  # and again: duplicates must not cost more
        lab.carrier.send_many(odd)
        lab.segments()
    assert rss() - base < 64 << 20
    got = bytearray()
    while len(got) < len(text):
        lab.carrier.send(path.frame(flow.snd + len(got), flow.rcv, PSH | ACK, data=text[len(got) : len(got) + 1000]))
        got += lab.read(situation.sock)
        lab.segments()
    assert got == text
    lab.health.check()


# -- urgent data


@pytest.mark.rfc("9293", "MUST-30", "MUST-31")
@pytest.mark.parametrize("flags", ["UA", "UPA", "UFA"])
@pytest.mark.parametrize("pointer", [0, 1, 5, 6, 100, 65535])
def test_urgent_pointer_games(lab: Lab, flags: str, pointer: int) -> None:
    """Every byte of the stream is read once, wherever the pointer points (urgent data in line)."""
    situation = lab.established()
    situation.sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    flow = situation.flow
    flow.send("PA", b"before")
    flow.send(flags, b"urgnt", urgent=pointer)
    if "F" not in flags:
        flow.send("UPA", b"again", urgent=pointer)
        flow.send("PA", b"after")
    want = b"beforeurgnt" + (b"" if "F" in flags else b"againafter")
    assert lab.read(situation.sock) == want
    lab.health.check(1 << 14)


@pytest.mark.parametrize("flags", ["UA", "UPA", "UFA"])
@pytest.mark.parametrize("pointer", [0, 1, 3, 5, 6, 100, 65535])
def test_urgent_octets_out_of_line(lab: Lab, flags: str, pointer: int) -> None:
    """One octet at most is taken out of the stream, the one that the pointer names; no other is lost or read twice."""
    situation = lab.established()
    flow = situation.flow
    flow.send("PA", b"before")
    start = flow.snd
    flow.send(flags, b"urgnt", urgent=pointer)
    flow.inject(flags, b"urgnt", seq=start, urgent=pointer)  # and again
    data, octet = bytearray(), b""
    for _ in range(8):
        with contextlib.suppress(OSError):
            octet += situation.sock.recv(1, socket.MSG_OOB)
        data += lab.read(situation.sock)
    at = len(b"before") + max(pointer, 1) - 1
    stream = b"beforeurgnt"
    if at < len(stream):
        assert octet == stream[at : at + 1]
        assert data == stream[:at] + stream[at + 1 :]
    else:
        assert (octet, data) == (b"", stream)
    lab.health.check(1 << 14)


def test_a_pointer_that_runs_ahead(lab: Lab) -> None:
    """URG in every segment, the pointer moving on, back and over the wrap, also into a hole and a closed window."""
    situation = lab.established()
    flow, chance = situation.flow, random.Random(6)
    situation.sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    stream, got = chance.randbytes(120_000), bytearray()
    flow.send("AU", urgent=65535)
    at = 0
    while at < len(stream):
        n = min(chance.choice([1, 7, 700, 1460]), len(stream) - at)
        start = flow.snd
        if chance.random() < 0.3:  # ahead of the hole that the next one fills
            flow.inject("PAU", stream[at + n : at + n + 100], seq=start + n, urgent=chance.choice([0, 50, 65535]))
        flow.send("PAU", stream[at : at + n], urgent=chance.randrange(65536))
        if chance.random() < 0.3:
            flow.inject("PAU", stream[at : at + n], seq=start, urgent=chance.randrange(65536))
        at += n
        if chance.random() < 0.2:
            got += lab.read(situation.sock)
            lab.segments()
    got += lab.read(situation.sock)
    assert got == stream
    lab.health.check(1 << 14)


@pytest.mark.parametrize("then", ["FA", "R", "close"])
def test_a_mark_that_never_comes(lab: Lab, then: str) -> None:
    """The connection ends with an urgent pointer to what was not sent: nothing is left of it."""
    situation = lab.established()
    flow, sock = situation.flow, situation.sock
    flow.send("PAU", b"x", urgent=1000)
    if then != "close":
        flow.send(then)
    assert lab.read(sock) == b"x" if then != "R" else True
    assert not sock.sockatmark()
    sock.close()
    lab.carrier.pump()
    lab.health.check(1 << 14)


@pytest.mark.parametrize("flags", ["SU", "SUF", "SUP"])
def test_urgent_syn(lab: Lab, flags: str) -> None:
    flow = lab.flow()
    flow.inject(flags, b"xx", urgent=65535)
    lab.peer.discard(0.1)
    flow.inject("R", seq=flow.snd + 1)
    lab.health.check(1 << 14)


# -- checksums


@pytest.mark.rfc("9293", "MUST-2", "MUST-3")
@pytest.mark.parametrize("size", [0, 1, 2, 3, 255, 256, 1459, 1460])
def test_wrong_checksums_deliver_nothing(lab: Lab, size: int) -> None:
    """One bit anywhere in the TCP header or data: no answer, no delivery."""
    situation = lab.established()
    flow = situation.flow
    good = lab.path(flow).frame(flow.snd, flow.rcv, PSH | ACK, data=b"q" * size)
    source = random.Random(size)
    bits = [source.randrange(34 * 8, len(good) * 8) for _ in range(100)] + list(range(50 * 8, 52 * 8))
    for bit in bits:
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        lab.carrier.send(bytes(bad))
    assert lab.read(situation.sock) == b""
    lab.peer.expect_nothing(1)
    lab.carrier.send(good)
    assert len(lab.read(situation.sock)) == size


def test_wrong_ip_checksum(lab: Lab) -> None:
    situation = lab.established()
    flow = situation.flow
    good = lab.path(flow).frame(flow.snd, flow.rcv, PSH | ACK, data=b"data")
    for bit in range(14 * 8, 34 * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        lab.carrier.send(bytes(bad))
    assert lab.read(situation.sock) == b""
    lab.peer.expect_nothing(1)


def test_checksum_of_the_wrong_pseudo_header(lab: Lab) -> None:
    """A segment summed for another address (a NAT's mistake)."""
    situation = lab.established()
    flow = situation.flow
    packet = Ether(bytes(Ether() / flow.build("PA", b"data")))
    chksum = packet[TCP].chksum
    flow.inject("PA", b"data", chksum=(chksum + 1) % 65536)
    flow.inject("PA", b"data", chksum=0)
    flow.inject("PA", b"data", chksum=0xFFFF)
    assert lab.read(situation.sock) == b""


def test_ethernet_padding_is_not_data(lab: Lab) -> None:
    situation = lab.established()
    flow = situation.flow
    frame = lab.path(flow).frame(flow.snd, flow.rcv, PSH | ACK, data=b"ab")
    lab.carrier.send(frame + b"PADDING!")
    assert lab.read(situation.sock) == b"ab"


@pytest.mark.parametrize("cut", [1, 2, 4, 20, 23])
def test_frame_shorter_than_it_says(lab: Lab, cut: int) -> None:
    situation = lab.established()
    flow = situation.flow
    frame = lab.path(flow).frame(flow.snd, flow.rcv, PSH | ACK, data=b"abcd")
    lab.carrier.send(frame[:-cut])
    assert lab.read(situation.sock) == b""
    lab.peer.expect_nothing(1)


@pytest.mark.parametrize("field", ["len", "ihl"])
def test_ip_lengths_lie(lab: Lab, field: str) -> None:
    situation = lab.established()
    flow = situation.flow
    for value in range(16) if field == "ihl" else (0, 19, 20, 39, 43, 45, 1500, 65535):
        packet = flow.build("PA", b"data")
        packet[IP].setfieldval(field, value)
        lab.peer.send(packet)
    got = lab.read(situation.sock)
    assert got in (b"", b"data")
    lab.health.check(1 << 14)


# -- lying acknowledgements


@pytest.mark.rfc("9293", "3.10.7.4")
@pytest.mark.parametrize("ahead", [1, 1460, 1 << 20, (1 << 31) - 1])
def test_optimistic_ack(lab: Lab, ahead: int) -> None:
    """An ACK of what was never sent gets an ACK and is otherwise ignored: nothing is sent faster, or skipped."""
    situation = lab.established()
    flow = situation.flow
    data = bytes(range(256)) * 400
    lab.write(situation.sock, data)
    flight = flow.collect(0.05)
    nxt = flow.rcv
    flow.inject("A", ack=nxt + ahead)
    assert [len(payload(packet)) for packet in flow.collect(0)] in ([], [0])
    flow.rcv = (flow.irs + 1) % MODULUS  # nothing was received: it all has to come again
    assert len(flight) <= 10
    assert flow.read(20000, within=10)[:20000] == data[:20000]


@pytest.mark.rfc("5681", "3.1")
def test_ack_division_does_not_speed_up(lab: Lab) -> None:
    """One segment acknowledged in 146 pieces opens the window by bytes, not by acknowledgements (RFC 3465)."""
    situation = lab.established()
    flow = situation.flow
    lab.write(situation.sock, bytes(400_000))
    assert len(flow.collect(0.02)) == 10
    una = (flow.irs + 1) % MODULUS
    sent = 0
    for _ in range(146):
        una += 10
        flow.inject("A", ack=una)
        sent += sum(bool(payload(packet)) for packet in flow.collect(0))
    assert sent <= 3


@pytest.mark.rfc("5681", "3.2")
def test_spoofed_duplicate_acks_inflate_no_more_than_the_flight(lab: Lab) -> None:
    situation = lab.established()
    flow = situation.flow
    lab.write(situation.sock, bytes(400_000))
    assert len(flow.collect(0.02)) == 10
    sent = 0
    for _ in range(1000):
        flow.inject("A", ack=flow.irs + 1)
        sent += sum(bool(payload(packet)) for packet in flow.collect(0))
    assert sent <= 20


def lies(una: int, nxt: int) -> list[list[tuple[int, int]]]:
    """SACK blocks that are not true."""
    return [
        [(una, una)],
        [(nxt, una)],
        [(una - 5000, una - 1000)],
        [(nxt + 1, nxt + 5000)],
        [(una, nxt + 1)],
        [(una - 10, nxt + 10)],
        [(una + 1460, nxt + (1 << 31))],
        [(0, 0xFFFFFFFF)],
        [(una + 1460, una + 2920)] * 4,
        [(una + 2920, una + 1461)],
        [(una + 1, una + 2), (una + 3, una + 4), (una + 5, una + 6), (una + 7, una + 8)],
        [(una + 1460, nxt)],
    ]


@pytest.mark.rfc("2018", "8")
def test_sack_lies(lab: Lab) -> None:
    """Whatever the SACK blocks say, all data comes (again): what was SACKed may be reneged upon."""
    situation = lab.established(SACK_PERMITTED)
    flow = situation.flow
    total = 0
    for number in range(len(lies(0, 0))):
        data = random.Random(number).randbytes(14600)
        lab.write(situation.sock, data)
        start = flow.rcv
        flow.collect(0.02)
        blocks = [(left % MODULUS, right % MODULUS) for left, right in lies(start, flow.rcv)[number]]
        flow.rcv = start
        for _ in range(4):
            flow.inject(
                "A", options=[("NOP", None), ("NOP", None), ("SAck", tuple(edge for block in blocks for edge in block))]
            )
        assert flow.read(len(data), within=120) == data, f"lie {number}"
        total += len(data)
    assert seq_diff(flow.rcv, flow.irs + 1) == total
    lab.health.check()


def test_sack_without_negotiation(lab: Lab) -> None:
    situation = lab.established()
    flow = situation.flow
    data = random.Random(9).randbytes(14600)
    lab.write(situation.sock, data)
    start = flow.rcv
    flow.collect(0.02)
    end, flow.rcv = flow.rcv, start
    for _ in range(4):
        flow.inject("A", options=[("NOP", None), ("NOP", None), ("SAck", (start + 1460, end))])
    assert flow.read(len(data), within=120) == data


def test_sack_block_of_every_bad_length(lab: Lab) -> None:
    situation = lab.established(SACK_PERMITTED)
    flow = situation.flow
    path = lab.path(flow)
    lab.write(situation.sock, bytes(14600))
    flow.collect(0.02)
    flow.rcv = (flow.irs + 1) % MODULUS
    for length in range(41):
        lab.carrier.send(
            path.frame(flow.snd, flow.rcv, ACK, options=bytes([5, length]) + b"\xaa" * max(0, min(38, length - 2)))
        )
    assert flow.read(14600, within=120) == bytes(14600)


# -- the window


@pytest.mark.rfc("9293", "MUST-35", "MUST-36", "MUST-37", "SHLD-30")
def test_zero_window_is_probed_for_long(lab: Lab) -> None:
    """The peer's window stays shut for an hour but its acknowledgements come: the connection lives, probes get rare."""
    situation = lab.established(win=0)
    flow = situation.flow
    flow.win = 0
    lab.write(situation.sock, b"waiting")
    times = []
    end = lab.carrier.now() + 3600
    while lab.carrier.now() < end:
        packet = flow.next(300)
        assert packet is not None, "no probe in five minutes"
        times.append(lab.carrier.now())
        flow.send("A", ack=flow.rcv)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps) <= 130
    assert all(later >= earlier * 0.99 for earlier, later in itertools.pairwise(gaps))
    flow.win = 65535
    flow.send("A")
    assert flow.read(7, within=130) == b"waiting"


@pytest.mark.rfc("9293", "MUST-20", "SHLD-10", "SHLD-11")
def test_peer_vanishes(lab: Lab) -> None:
    """Retransmissions back off, then the application is told and the memory returns."""
    situation = lab.established()
    flow = situation.flow
    lab.write(situation.sock, b"anybody?")
    times = []
    while (packet := flow.next(200)) is not None:
        assert payload(packet) == b"anybody?"
        times.append(lab.carrier.now())
    assert len(times) >= 4
    assert times[-1] - times[0] >= 100
    with pytest.raises(TimeoutError):
        situation.sock.recv(1)
    assert lab.state_of(flow) == "CLOSED"


@pytest.mark.rfc("9293", "SHLD-14")
def test_our_window_never_shrinks(lab: Lab) -> None:
    """Nobody reads: the right edge that was promised stays promised, and the window closes by being used up."""
    situation = lab.established()
    flow = situation.flow
    path = lab.path(flow)
    edge = None
    for _ in range(3000):
        lab.carrier.send(path.frame(flow.snd, flow.rcv, PSH | ACK, data=bytes(536)))
        lab.carrier.advance(0.3)
        for packet in flow.collect(0):
            promised = packet[TCP].ack + packet[TCP].window
            assert edge is None or seq_diff(promised, edge) >= 0
            edge = promised
            flow.snd = packet[TCP].ack
        if edge is not None and seq_diff(edge, flow.snd) < 536:
            break
    else:
        raise AssertionError("the window never closed")
    assert len(lab.read(situation.sock)) == seq_diff(flow.snd, flow.isn + 1)


# -- what is left of those who go half-way


@pytest.mark.parametrize("state", ["FIN-WAIT-1", "FIN-WAIT-2", "CLOSING", "LAST-ACK", "TIME-WAIT"])
def test_abandoned_while_closing(lab: Lab, state: str) -> None:
    """The application has closed, the peer says nothing any more: the connection ends by itself (no leak)."""
    situation = lab.reach(state)
    situation.sock.close()
    lab.carrier.advance(3000)
    lab.peer.discard()
    assert lab.state_of(situation.flow) == "CLOSED"


def test_peer_identity(lab: Lab) -> None:
    """The test's own tool: ANY really matches anything (the expectations above rely on it)."""
    flow = lab.flow()
    flow.send("S")
    assert flow.expect("SA", seq=ANY)[TCP].ack == flow.snd
