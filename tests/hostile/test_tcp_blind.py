"""What somebody who cannot see the connection may try: resets, SYNs, data, timestamps, ACK storms; and TIME-WAIT.

RFC 5961, 9293 §3.10.7.4, 7323 §5, 1337.
"""

from __future__ import annotations

import pytest
from scapy.layers.inet import TCP

from tap_harness.flow import Flow, Options
from tap_harness.lab import Lab, Situation
from tap_harness.segment import ACK, MODULUS, PSH, RST, SYN

WINDOW = 65536  # how far around RCV.NXT the sprays go


def spray(lab: Lab, flow: Flow, flags: int, offsets: range, data: bytes = b"") -> int:
    """Send a raw segment at each offset from RCV.NXT; returns how many answers this conversation got."""
    path = lab.path(flow)
    answers = 0
    batch: list[bytes] = []
    for offset in offsets:
        batch.append(path.frame(flow.snd + offset, flow.rcv if flags & ACK else 0, flags, data=data))
        if len(batch) == 1024 or offset == offsets[-1]:
            lab.carrier.send_many(batch)
            batch.clear()
            mine = [segment for segment in lab.segments() if segment.dport == flow.sport]
            assert all(segment.flags == ACK and segment.seq == flow.rcv and segment.ack == flow.snd for segment in mine)
            answers += len(mine)
    return answers


def still_works(lab: Lab, situation: Situation) -> None:
    situation.flow.send("PA", b"still")
    assert lab.read(situation.sock) == b"still"
    lab.write(situation.sock, b"here")
    situation.flow.collect(0.3)
    assert lab.state_of(situation.flow) == "ESTABLISHED"


@pytest.mark.rfc("5961", "3.2")
def test_blind_reset(lab: Lab) -> None:
    """65,535 resets over the window, none exactly in order: the connection lives, challenge ACKs are few."""
    situation = lab.established()
    answers = spray(lab, situation.flow, RST, range(1, WINDOW))
    answers += spray(lab, situation.flow, RST | ACK, range(-1000, 0))
    assert answers <= 2
    still_works(lab, situation)


@pytest.mark.rfc("5961", "3.2")
def test_reset_in_window_is_challenged(lab: Lab) -> None:
    situation = lab.established()
    situation.flow.inject("R", seq=situation.flow.snd + 1000)
    situation.flow.expect("A")
    assert lab.state_of(situation.flow) == "ESTABLISHED"


@pytest.mark.rfc("9293", "MUST-12")
@pytest.mark.parametrize("flags", ["R", "RA"])
def test_reset_exactly_in_order(lab: Lab, flags: str) -> None:
    situation = lab.established()
    situation.flow.inject(flags)
    situation.flow.expect_nothing(5)
    with pytest.raises(ConnectionResetError):
        situation.sock.recv(1)
    assert lab.state_of(situation.flow) == "CLOSED"


def test_reset_outside_the_window_is_ignored(lab: Lab) -> None:
    situation = lab.established()
    for offset in (-1, -2, -65536, 1 << 24, 1 << 31):
        situation.flow.inject("R", seq=situation.flow.snd + offset)
    situation.flow.expect_nothing(1)
    still_works(lab, situation)


@pytest.mark.rfc("9293", "SHLD-2")
def test_reset_with_data(lab: Lab) -> None:
    situation = lab.established()
    situation.flow.inject("R", b"because")
    with pytest.raises(ConnectionResetError):
        situation.sock.recv(1)


@pytest.mark.rfc("9293", "MUST-66")
def test_reset_with_our_window_closed(lab: Lab) -> None:
    """RST at RCV.NXT counts although no data would be accepted; an acknowledgement does too."""
    situation = lab.established()
    flow = situation.flow
    fill(lab, flow)
    lab.write(situation.sock, b"out")
    flow.expect("A", data=b"out", win=0)
    flow.send("A")
    flow.expect_nothing(5)  # acknowledged, hence not sent again
    flow.inject("R")
    assert lab.state_of(flow) == "CLOSED"


def fill(lab: Lab, flow: Flow) -> None:
    """Send until the stack's window is closed."""
    path = lab.path(flow)
    for _ in range(20000):
        lab.carrier.send(path.frame(flow.snd, flow.rcv, PSH | ACK, data=bytes(1000)))
        lab.carrier.advance(0.25)
        last = lab.segments()
        if last:
            flow.snd = last[-1].ack
            if last[-1].win == 0:
                return
    raise AssertionError("the window never closed")


@pytest.mark.rfc("5961", "4.2")
def test_blind_syn(lab: Lab) -> None:
    """A SYN in a synchronized state, wherever it points, is challenged and nothing more."""
    situation = lab.established()
    answers = spray(lab, situation.flow, SYN, range(-2000, WINDOW, 7))
    assert 1 <= answers <= 2
    still_works(lab, situation)


@pytest.mark.rfc("5961", "5.2")
@pytest.mark.parametrize("ack_offset", [1, 1000, 1 << 20, -(1 << 20), 1 << 31, -(1 << 30)])
def test_blind_data(lab: Lab, ack_offset: int) -> None:
    """Data whose ACK lies outside [SND.UNA - MAX.SND.WND, SND.NXT] is never delivered, it gets an ACK."""
    situation = lab.established()
    flow = situation.flow
    for offset in (0, 1, 10):
        lab.carrier.advance(1)
        flow.inject("PA", b"forged", seq=flow.snd + offset, ack=flow.rcv + ack_offset)
        flow.expect("A")
    assert lab.read(situation.sock) == b""
    flow.send("PA", b"genuine text")
    assert lab.read(situation.sock) == b"genuine text"


@pytest.mark.rfc("9293", "3.10.7.4")
def test_data_without_ack_is_dropped(lab: Lab) -> None:
    situation = lab.established()
    for flags in ("", "P", "F", "PF", "U"):
        situation.flow.inject(flags, b"no ack bit")
    assert lab.read(situation.sock) == b""
    assert lab.state_of(situation.flow) == "ESTABLISHED"


def test_out_of_window_acks_are_rate_limited(lab: Lab) -> None:
    """Two ends out of step would acknowledge each other for ever (ACK storm): at most two answers a second."""
    situation = lab.established()
    flow = situation.flow
    answers = 0
    for _ in range(300):
        flow.inject("A", seq=flow.snd - 20000)
        answers += len(flow.collect(0.01))
    assert 1 <= answers <= 8  # in three seconds
    still_works(lab, situation)


@pytest.mark.rfc("5961", "7")
def test_challenges_are_limited_per_connection(lab: Lab) -> None:
    """An off-path attacker must not learn about one connection from the challenges on another (CVE-2016-5696)."""
    victim, own = lab.established(), lab.established()
    spray(lab, victim.flow, RST, range(1, 2000))
    own.flow.inject("R", seq=own.flow.snd + 10)
    own.flow.expect("A")


@pytest.mark.rfc("5961", "7")
def test_challenges_of_all_connections_are_limited(lab: Lab) -> None:
    """In every second by another number, between half of the knob and one and a half times it (CVE-2016-5696)."""
    lab.stack.sysctl["net.ipv4.tcp_challenge_ack_limit"] = 100
    lab.stack.sysctl["net.ipv4.tcp_invalid_ratelimit"] = 0
    flows = [lab.established().flow, lab.established().flow]
    sent = []
    for _ in range(8):
        lab.carrier.advance(1.0)
        before = lab.stack.counters()["TCPChallengeACK"]
        for flow in flows:
            lab.carrier.send_many([lab.path(flow).frame(flow.snd + 1 + k, 0, RST) for k in range(200)])
        lab.carrier.drain()
        sent.append(lab.stack.counters()["TCPChallengeACK"] - before)
    assert all(50 <= number < 150 for number in sent), sent
    assert len(set(sent)) > 4, sent


# -- timestamps


def stamped(value: int, echo: int) -> Options:
    return [("NOP", None), ("NOP", None), ("Timestamp", (value, echo))]


@pytest.fixture
def with_timestamps(lab: Lab) -> Situation:
    """A connection with timestamps; the peer's clock stands at 1000."""
    flow = lab.flow(81)
    flow.send("S", options=[("MSS", 1460), ("NOP", None), ("NOP", None), ("Timestamp", (1000, 0))])
    answer = flow.expect("SA", seq=lambda value: True)
    theirs, echoed = dict(answer[TCP].options)["Timestamp"]
    assert echoed == 1000
    flow.options = stamped(1000, theirs)
    flow.send("A")
    return Situation("ESTABLISHED", flow, lab.accept())


def echo_of(situation: Situation) -> int:
    """The peer's timestamp that the stack echoes now (TS.Recent)."""
    packet = situation.flow.next(1)
    assert packet is not None
    return int(dict(packet[TCP].options)["Timestamp"][1])


@pytest.mark.rfc("7323", "5.3")
def test_old_timestamp_is_dropped(lab: Lab, with_timestamps: Situation) -> None:
    flow = with_timestamps.flow
    theirs = flow.options[2][1][1]  # type: ignore[index]
    flow.inject("PA", b"stale", options=stamped(900, theirs))
    flow.expect("A")
    assert lab.read(with_timestamps.sock) == b""
    flow.send("PA", b"fresh", options=stamped(1001, theirs))
    assert lab.read(with_timestamps.sock) == b"fresh"
    assert echo_of(with_timestamps) == 1001


@pytest.mark.rfc("7323", "5.3")
@pytest.mark.parametrize("forgery", ["ack too high", "old sequence", "ahead of the window"])
def test_timestamp_is_not_poisoned(lab: Lab, with_timestamps: Situation, forgery: str) -> None:
    """A huge TSval in a segment that is not acceptable must not become TS.Recent (CVE-2005-0356)."""
    flow = with_timestamps.flow
    theirs = flow.options[2][1][1]  # type: ignore[index]
    where = {
        "ack too high": {"ack": flow.rcv + 100_000},
        "old sequence": {"seq": flow.snd - 5000},
        "ahead of the window": {"seq": flow.snd + (1 << 28)},
    }[forgery]
    flow.inject("PA", b"forged", options=stamped(1000 + (1 << 31) - 1, theirs), **where)
    flow.collect(1)
    flow.send("PA", b"goes on", options=stamped(1002, theirs))
    assert lab.read(with_timestamps.sock) == b"goes on"
    assert echo_of(with_timestamps) == 1002


@pytest.mark.rfc("7323", "5.2")
def test_reset_needs_no_timestamp(lab: Lab, with_timestamps: Situation) -> None:
    with_timestamps.flow.inject("R", options=[])
    assert lab.state_of(with_timestamps.flow) == "CLOSED"


@pytest.mark.rfc("7323", "3.2")
def test_segment_without_timestamp_does_no_harm(lab: Lab, with_timestamps: Situation) -> None:
    """Once negotiated a segment without it SHOULD be dropped; Linux takes it. Either way the stream stays whole."""
    flow = with_timestamps.flow
    flow.inject("PA", b"plain", options=[])
    flow.collect(0.5)
    first = lab.read(with_timestamps.sock)
    flow.send("PA", b"plain")
    assert first + lab.read(with_timestamps.sock) == b"plain"


# -- TIME-WAIT


@pytest.mark.rfc("1337", "3")
def test_time_wait_is_not_assassinated(lab: Lab) -> None:
    """Old duplicates get an ACK at most, resets nothing; the state stays its time."""
    situation = lab.reach("TIME-WAIT")
    flow = situation.flow
    for flags, offset, data in [
        ("R", 0, b""),
        ("RA", 0, b""),
        ("R", 5, b""),
        ("R", -5, b""),
        ("PA", -100, b"old data"),
        ("A", -100, b""),
        ("PA", 0, b"new data"),
        ("SA", -1000, b""),
        ("FA", -1, b""),
    ]:
        lab.carrier.advance(1)
        flow.inject(flags, data, seq=flow.snd + offset)
        answers = flow.collect(0)
        assert [str(packet[TCP].flags) for packet in answers] in ([], ["A"]), f"{flags} {offset}"
        assert "R" not in flags or not answers
        assert lab.state_of(flow) == "TIME-WAIT", f"{flags} {offset}"


@pytest.mark.rfc("9293", "MUST-13")
def test_time_wait_ends(lab: Lab) -> None:
    situation = lab.reach("TIME-WAIT")
    situation.sock.close()
    lab.carrier.advance(30)
    assert lab.state_of(situation.flow) == "TIME-WAIT"
    lab.carrier.advance(240)
    assert lab.state_of(situation.flow) == "CLOSED"


@pytest.mark.rfc("9293", "3.10.7.4")
def test_fin_again_restarts_time_wait(lab: Lab) -> None:
    """The ACK of their FIN was lost: it comes again, is acknowledged again, and 2 MSL begin anew."""
    situation = lab.reach("TIME-WAIT")
    flow = situation.flow
    lab.carrier.advance(50)
    flow.inject("FA", seq=flow.snd - 1)
    flow.expect("A")
    lab.carrier.advance(50)
    assert lab.state_of(flow) == "TIME-WAIT"


@pytest.mark.rfc("9293", "MAY-2")
def test_time_wait_gives_way_to_a_later_syn(lab: Lab) -> None:
    situation = lab.reach("TIME-WAIT")
    flow = situation.flow
    again = lab.flow(flow.dport, sport=flow.sport, isn=(flow.snd + 100_000) % MODULUS)
    again.handshake()
    assert lab.state_of(again) == "ESTABLISHED"
    lab.write(lab.accept(), b"reborn")
    assert again.read(6) == b"reborn"
