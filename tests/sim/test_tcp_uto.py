"""The TCP user timeout option (RFC 5482): told, taken, kept within limits; and ignored by who has not asked for it."""

from __future__ import annotations

import contextlib
import socket

import pytest
from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether

import ustack
from tap_harness.diff import ANY
from tap_harness.lab import Lab, Situation
from tap_harness.packets import payload
from ustack import sim

SYN = [("MSS", 1460), ("SAckOK", b"")]
MINUTES = 0x8000


def uto(packet) -> int | None:
    """The option of a segment as it is on the wire."""
    return dict(option[:2] for option in packet[TCP].options).get("UTO")


def all_of(syn) -> int:
    """What acknowledges the SYN and its data."""
    return (syn[TCP].seq + 1 + len(payload(syn))) % 2**32


def in_force(sock) -> int:
    """The user timeout in ms."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


def with_option(lab: Lab, mine: int, *theirs: int) -> Situation:
    """A connection whose socket advertises `mine` seconds; then a segment with each of `theirs`, as on the wire."""
    situation = lab.established(SYN)
    situation.sock.setsockopt(socket.IPPROTO_TCP, ustack.TCP_UTO, mine)
    for wire in theirs:
        situation.flow.options = [("UTO", wire)]
        situation.flow.send("A")
    situation.flow.options = []
    return situation


@pytest.mark.rfc("5482", "3.1")
def test_syn_and_the_first_segment_after_it_tell_it_and_no_other() -> None:
    seen: dict[str, list[int | None]] = {"client": [], "server": []}
    with sim.Network(seed=1) as net:
        client, server = net.stack("client"), net.stack("server")
        wire = net.wire(client, server, addresses=("10.0.0.1/24", "10.0.0.2/24"), delay=0.01)

        def watch(who: str):
            def look(frame: bytes, number: int) -> bytes:
                packet = Ether(frame)
                assert len(frame) <= 1514
                seen[who].append(uto(packet) if TCP in packet else None)
                return frame

            return look

        wire.a_to_b.filter, wire.b_to_a.filter = watch("client"), watch("server")
        with server.socket() as listener, client.socket() as mine:
            listener.setsockopt(socket.IPPROTO_TCP, ustack.TCP_UTO, 40_000)
            listener.bind(("", 80))
            listener.listen()
            mine.setsockopt(socket.IPPROTO_TCP, ustack.TCP_UTO, 300)
            mine.connect(("10.0.0.2", 80))
            theirs, _ = listener.accept()
            net.spawn(theirs.sendall, bytes(20_000))
            got = 0
            while got < 20_000:
                got += len(mine.recv(65536))
            assert in_force(mine) == 3_600_000  # theirs was longer than anybody is kept
            assert in_force(theirs) == 3_600_000
            told = [[value for value in seen[who] if value is not None] for who in ("client", "server")]
            assert told == [[300, 300], [MINUTES | 667] * 2]
            mine.setsockopt(socket.IPPROTO_TCP, ustack.TCP_UTO, 301)
            mine.sendall(b"x" * 1448)
            assert theirs.recv(2000)
            assert [value for value in seen["client"] if value is not None] == [300, 300, 301]
            theirs.close()


@pytest.mark.rfc("5482", "3.1")
@pytest.mark.parametrize(
    ("mine", "theirs", "adopted"),
    [
        (150, 200, 200),
        (150, 120, 150),
        (1, 2, 100),  # L_LIMIT
        (150, MINUTES | 5, 300),
        (150, MINUTES | 0x7FFF, 3600),  # U_LIMIT
        (32_767 * 60, 1, 3600),
    ],
)
def test_the_longer_of_both_is_adopted_within_limits(lab: Lab, mine: int, theirs: int, adopted: int) -> None:
    assert in_force(with_option(lab, mine, theirs).sock) == adopted * 1000


@pytest.mark.rfc("5482", "3.2")
@pytest.mark.parametrize("theirs", [0, MINUTES])
def test_no_time_at_all_is_reserved_and_ignored(lab: Lab, theirs: int) -> None:
    assert in_force(with_option(lab, 150, theirs).sock) == 0
    assert in_force(with_option(lab, 150, 200, theirs).sock) == 200_000


@pytest.mark.rfc("5482", "3.1")
def test_who_has_not_asked_neither_tells_nor_takes(lab: Lab) -> None:
    flow = lab.flow()
    flow.send("S", options=[*SYN, ("UTO", 500)])
    assert uto(flow.expect("SA", seq=ANY)) is None
    situation = with_option(lab, 0, 500)
    assert in_force(situation.sock) == 0
    lab.write(situation.sock, b"x")
    assert uto(situation.flow.expect("A", data=b"x")) is None


@pytest.mark.rfc("5482", "3.1")
def test_what_the_application_says_is_not_changed(lab: Lab) -> None:
    """CHANGEABLE."""
    situation = with_option(lab, 150, 200)
    situation.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 5000)
    situation.flow.options = [("UTO", 900)]
    situation.flow.send("A")
    assert in_force(situation.sock) == 5000
    situation.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)
    assert in_force(situation.sock) == 900_000


@pytest.mark.rfc("5482", "3")
@pytest.mark.parametrize(("theirs", "alive", "dead"), [(150, 149, 300), (3000, 2990, 3200)])
def test_data_that_nobody_acknowledges_ends_it_when_agreed(lab: Lab, theirs: int, alive: int, dead: int) -> None:
    """By itself it would end after some 925 s."""
    situation = with_option(lab, 100, theirs)
    lab.write(situation.sock, b"x")
    situation.flow.collect(alive)
    assert lab.state_of(situation.flow) == "ESTABLISHED"
    situation.flow.collect(dead - alive)
    assert lab.state_of(situation.flow) == "CLOSED"


@pytest.mark.rfc("5482", "4.2")
def test_keep_alives_wait_longer_than_what_is_agreed(lab: Lab) -> None:
    situation = with_option(lab, 100, 200)
    situation.flow.collect(0.5)  # what told it
    situation.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    situation.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    situation.flow.expect_nothing(199)
    assert not payload(situation.flow.expect("A", 2, seq=situation.flow.rcv - 1))


def test_what_cannot_be_said_is_refused(lab: Lab) -> None:
    sock = lab.established().sock
    for seconds in (-1, 32_767 * 60 + 1):
        with pytest.raises(OSError, match="Invalid argument"):
            sock.setsockopt(socket.IPPROTO_TCP, ustack.TCP_UTO, seconds)
    sock.setsockopt(socket.IPPROTO_TCP, ustack.TCP_UTO, 32_767 * 60)
    assert sock.getsockopt(socket.IPPROTO_TCP, ustack.TCP_UTO) == 32_767 * 60


def open_fast(lab: Lab) -> TCP:
    """A connection that is opened with data, answered with a long cookie, and reset -> its SYN."""
    flow = lab.peer.flow(0, sport=443, isn=70000)
    with lab.stack.socket(lab.ends.family) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, ustack.TCP_UTO, 300)
        with contextlib.suppress(BlockingIOError):
            sock.sendto(b"hello", socket.MSG_FASTOPEN, (lab.peer.ip, 443))
        lab.carrier.pump()
        syn = flow.expect("S", seq=ANY, ack=ANY, data=ANY)
        flow.send("SA", ack=all_of(syn), options=[*SYN, ("Timestamp", (1, 0)), ("WScale", 7), (34, bytes(range(16)))])
        flow.options = [("NOP", None), ("NOP", None), ("Timestamp", (2, 0))]
        assert 300 in [uto(packet) for packet in flow.collect(0.01)], "the segment after the SYN tells"
        flow.reset()
    return syn


@pytest.mark.rfc("7413", "4.1.3")
def test_a_syn_that_a_long_cookie_fills_goes_without() -> None:
    with contextlib.closing(Lab()) as lab:  # of its own: a cookie is kept for as long as the stack
        lab.stack.sysctl["net.ipv4.tcp_fastopen"] = 1
        asks, brings = open_fast(lab), open_fast(lab)
    assert (uto(asks), asks[TCP].dataofs) == (300, 12)
    assert (uto(brings), brings[TCP].dataofs) == (None, 15)
