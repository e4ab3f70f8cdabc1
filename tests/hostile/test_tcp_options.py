"""Malformed and lying TCP options and header fields: bounded walk, sane floors and ceilings, no harm."""

from __future__ import annotations

import pytest
from scapy.layers.inet import TCP

from tap_harness.flow import Options
from tap_harness.lab import ECHO_PORT, Lab
from tap_harness.packets import payload
from tap_harness.segment import ACK, MODULUS, PSH, RST, SYN, Path, seq_diff

KNOWN = [0, 1, 2, 3, 4, 5, 8, 19, 29, 30, 34]
UNKNOWN = [6, 7, 69, 100, 253, 254, 255]


def exchange(lab: Lab, path: Path, **segment: object) -> list[int]:
    """Send one raw segment; the flags of every TCP answer."""
    lab.carrier.send(path.frame(**segment))  # type: ignore[arg-type]
    return [answer.flags for answer in lab.segments() if answer.dport == path.sport]


@pytest.mark.rfc("9293", "MUST-5", "MUST-6", "MUST-7", "MUST-64", "MUST-68")
@pytest.mark.parametrize("lead", [b"", b"\1", b"\1\1\1"], ids=["aligned", "nop", "nops"])
def test_every_kind_and_length_on_a_syn(lab: Lab, lead: bytes) -> None:
    """An unknown option with an honest length is skipped; a dishonest one is ignored, dropped or reset, at once."""
    health = lab.health
    path = lab.path(lab.flow())
    port = 1024
    for kind in range(256):
        for length in range(41):
            port = 1024 + (port - 1023) % 60000
            path.sport = port
            options = lead + bytes([kind, length]) + bytes(max(0, min(length, 40 - len(lead)) - 2))
            answers = exchange(lab, path, seq=1, ack=0, flags=SYN, options=options)
            assert all(flags in (SYN | ACK, RST | ACK, RST) for flags in answers)
            honest = kind == 0 or (kind == 1 and length < 2) or (kind in UNKNOWN and 2 <= length <= 40 - len(lead))
            if honest:
                assert answers == [SYN | ACK], f"kind {kind} length {length}: {answers}"
            exchange(lab, path, seq=2, ack=0, flags=RST)
    health.check()


@pytest.mark.rfc("9293", "MUST-5", "MUST-6", "MUST-7", "MUST-65")
def test_every_length_on_data(lab: Lab) -> None:
    """Options on data segments: with an honest unknown one the data counts; after any of them the stream goes on."""
    situation = lab.established()
    flow = situation.flow
    path = lab.path(flow)
    sent = bytearray()
    for kind in KNOWN + UNKNOWN:
        for length in range(41):
            options = bytes([kind, length]) + bytes(max(0, length - 2))
            byte = bytes([len(sent) % 251])
            frame = path.frame(flow.snd, flow.rcv, PSH | ACK, data=byte, options=options)
            lab.carrier.send(frame)
            if kind == 0 or (kind == 1 and length < 2) or (kind in UNKNOWN and 2 <= length <= 40):
                assert len(lab.read(situation.sock)) == 1, f"kind {kind} length {length} swallowed the data"
            else:
                lab.carrier.send(path.frame(flow.snd, flow.rcv, PSH | ACK, data=byte))
                assert lab.read(situation.sock) == byte
            flow.snd = (flow.snd + 1) % MODULUS
            sent += byte
    assert lab.state_of(flow) == "ESTABLISHED"
    lab.health.check()


def test_dozens_of_the_same(lab: Lab) -> None:
    for options in (
        b"\2\4\5\xb4" * 10,
        b"\3\3\7" * 13,
        b"\4\2" * 20,
        b"\1" * 40,
        b"\0" * 40,
        b"\1" * 39 + b"\2",
        b"\x08\x0a" * 20,
    ):
        path = lab.path(lab.flow())
        assert exchange(lab, path, seq=1, ack=0, flags=SYN, options=options) in ([SYN | ACK], [])
    lab.health.check(1 << 16)


@pytest.mark.parametrize("dataofs", range(16))
@pytest.mark.parametrize("size", [0, 4, 12])
def test_data_offset_lies(lab: Lab, dataofs: int, size: int) -> None:
    """An offset below 5 or beyond the segment: dropped. Otherwise what follows the header is options."""
    flow = lab.flow()
    flow.inject("S", b"\1" * size, dataofs=dataofs)
    if dataofs < 5 or dataofs * 4 > 20 + size:
        flow.expect_nothing(1)
    else:
        answer = flow.next()
        assert answer is not None
        assert str(answer[TCP].flags) == "SA"
        flow.inject("R", seq=flow.snd + 1)
    lab.health.check(1 << 14)


@pytest.mark.parametrize("mss", [0, 1, 8, 47, 48])
def test_tiny_mss(lab: Lab, mss: int) -> None:
    """No division by zero, and no more than a bounded number of segments: nothing smaller than 48 bytes is sent."""
    situation = lab.established([("MSS", mss)])
    data = bytes(range(256)) * 80
    lab.write(situation.sock, data)
    flow = situation.flow
    got = bytearray()
    sizes = []
    while len(got) < len(data):
        packet = flow.next(5)
        assert packet is not None
        sizes.append(len(payload(packet)))
        if packet[TCP].seq == flow.rcv:
            got += payload(packet)
            flow.rcv = (flow.rcv + sizes[-1]) % MODULUS
            flow.send("A")
    assert got == data
    assert min(sizes[:-1]) >= 48
    lab.tidy(situation)
    lab.health.check(1 << 16)


@pytest.mark.parametrize("mss", [65535, 1461])
def test_mss_above_the_mtu(lab: Lab, mss: int) -> None:
    situation = lab.established([("MSS", mss)])
    lab.write(situation.sock, bytes(20000))
    sizes = [len(payload(packet)) for packet in situation.flow.collect(0.1)]
    assert max(sizes) == 1460


@pytest.mark.rfc("9293", "MUST-65")
def test_mss_on_an_ordinary_segment_is_ignored(lab: Lab) -> None:
    situation = lab.established()
    situation.flow.send("A", options=[("MSS", 100)])
    lab.write(situation.sock, bytes(3000))
    packet = situation.flow.next()
    assert packet is not None
    assert len(payload(packet)) == 1460


@pytest.mark.rfc("7323", "2.3")
@pytest.mark.parametrize("shift", [15, 31, 32, 255])
def test_window_scale_above_14(lab: Lab, shift: int) -> None:
    """Taken as 14: with a window field of 1 up to 16384 bytes may be under way, never more."""
    options: Options = [("MSS", 1460), ("NOP", None), ("WScale", shift)]
    situation = lab.established(options, win=1)
    flow = situation.flow
    flow.win = 1
    lab.write(situation.sock, bytes(60000))
    most = got = 0
    while got < 60000:
        packets = flow.collect(0.3)
        under_way = (flow.rcv - flow.irs - 1) - got
        assert 0 < under_way <= 16384, f"{len(packets)} packets"
        most = max(most, under_way)
        got += under_way
        flow.send("A")
    assert most > 1460
    lab.tidy(situation)


@pytest.mark.rfc("7323", "2.2")
def test_window_scale_on_an_ordinary_segment_is_ignored(lab: Lab) -> None:
    situation = lab.established(win=2920)
    situation.flow.send("A", options=[("WScale", 14)], win=2920)
    lab.write(situation.sock, bytes(20000))
    assert sum(len(payload(packet)) for packet in situation.flow.collect(0.1)) == 2920


@pytest.mark.rfc("7323", "2.2")
def test_no_scaling_unless_both_agree(lab: Lab) -> None:
    """A SYN without the option: the SYN-ACK has none either, nor timestamps or SACK."""
    flow = lab.flow()
    answer = flow.handshake([("MSS", 1460)])
    assert {name for name, _ in answer[TCP].options} <= {"MSS", "NOP", "EOL"}


@pytest.mark.rfc("9293", "MUST-34", "SHLD-15", "SHLD-16")
def test_window_shrinks_below_what_was_sent(lab: Lab) -> None:
    situation = lab.established()
    flow = situation.flow
    data = bytes(range(256)) * 100
    lab.write(situation.sock, data)
    flow.collect(0.05)
    first = flow.rcv
    kept = (flow.irs + 1 + 1460) % MODULUS
    flow.rcv = kept
    flow.send("A", win=100)  # the right edge moves far to the left
    for packet in flow.collect(0.5):
        assert seq_diff(packet[TCP].seq, first) < 0, "new data was sent beyond a shrunken window"
    flow.rcv = kept  # all but the first segment counts as lost
    flow.send("A", win=65535)
    assert flow.read(len(data) - 1460, within=10) == data[1460:]


def test_sanity_of_the_echo_port(lab: Lab) -> None:
    """The port that all of this was aimed at still echoes."""
    flow = lab.flow(ECHO_PORT)
    flow.handshake()
    flow.send("PA", b"still here")
    assert flow.read(10) == b"still here"
