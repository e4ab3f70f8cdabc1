"""Attempts to use the stack up: floods of SYNs and ACKs, connections that never end, holes without number,
amplification.

Service goes on meanwhile, memory is bounded, and everything comes back when the attack is over.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tap_harness.checks import rss
from tap_harness.lab import ECHO_PORT, PORT, Lab, RawEnd
from tap_harness.segment import ACK, FIN, MODULUS, RST, SYN, Path, seq_diff

MANY = 2000
MIB = 1 << 20


@pytest.fixture
def lab() -> Iterator[Lab]:
    """The peer is also the router to everywhere: answers to forged sources go to it."""
    made = Lab(gateway="10.9.0.1")
    yield made
    made.close()


def strangers(lab: Lab, seed: int) -> Iterator[Path]:
    """Ways to the echo port from random far addresses and ports."""
    source = random.Random(seed)
    peer = lab.peer
    while True:
        address = (
            f"{source.randrange(11, 100)}.{source.randrange(256)}.{source.randrange(256)}.{source.randrange(1, 255)}"
        )
        yield Path(peer.mac, peer.target_mac, address, peer.target, source.randrange(1024, 65536), ECHO_PORT)


@pytest.mark.slow
@pytest.mark.rfc("4987", "3.3")
def test_syn_flood(lab: Lab) -> None:
    """30,000 SYNs from everywhere; a real client is served all along, and the half-open ones end."""
    health = lab.health
    base, connections = rss(), len(lab.stack.connections())
    paths = strangers(lab, 1)
    for _ in range(60):
        lab.carrier.send_many([next(paths).frame(7, 0, SYN) for _ in range(500)])
        lab.segments()
        lab.carrier.advance(0.01)
        health.echo(5000)
    assert rss() - base < 32 * MIB
    assert len(lab.stack.connections()) - connections < 2000
    lab.carrier.advance(300)
    lab.segments()
    assert len(lab.stack.connections()) <= connections + 1
    health.check()


@pytest.mark.rfc("9293", "3.10.7.2")
def test_ack_flood(lab: Lab) -> None:
    """Bare ACKs that guess: none becomes a connection, each gets at most one RST with the right number."""
    health = lab.health
    connections = len(lab.stack.connections())
    paths = strangers(lab, 2)
    guesses = random.Random(3)
    for _ in range(10):
        sent = [(next(paths), guesses.randrange(MODULUS)) for _ in range(500)]
        lab.carrier.send_many([path.frame(guesses.randrange(MODULUS), ack, ACK) for path, ack in sent])
        answers = lab.segments()
        assert len(answers) <= len(sent)
        expected = {(path.sport, ack) for path, ack in sent}
        assert all(answer.flags == RST and (answer.dport, answer.seq) in expected for answer in answers)
    assert len(lab.stack.connections()) == connections
    assert lab.echo.connections == {}
    health.check()


def test_handshake_amplifies_little(lab: Lab) -> None:
    """A forged SYN makes the stack send six SYN-ACKs at most; data for a closed port one RST of 40 bytes."""
    path = next(strangers(lab, 4))
    lab.carrier.send(path.frame(1, 0, SYN))
    answers = 0
    for _ in range(300):
        lab.carrier.advance(1)
        answers += sum(segment.dport == path.sport for segment in lab.segments())
    assert 1 <= answers <= 6
    path.dport = 9
    lab.carrier.send(path.frame(1, 0, SYN, data=bytes(1400)))
    replies = lab.segments()
    assert len(replies) == 1
    assert replies[0].data == replies[0].options == b""


def crowd(lab: Lab, **options: int) -> Iterator[tuple[RawEnd, Any]]:
    """MANY connections to PORT, each as the peer's end and the stack's socket."""
    for number in range(MANY):
        end = lab.open_raw(1024 + number, PORT, **options)
        yield end, lab.accept()


@pytest.mark.slow
def test_zero_window_crowd(lab: Lab) -> None:
    """Sockstress: clients that open, shut their window and stay. A new one is served; orphans end by themselves."""
    health = lab.health
    base, connections = rss(), len(lab.stack.connections())
    socks = []
    for _, sock in crowd(lab, win=0):
        sock.send(b"x" * 5000)
        socks.append(sock)
    lab.segments()
    assert rss() - base < MANY * 20 * 1024
    health.echo(100_000)
    for sock in socks:
        sock.close()
    lab.carrier.advance(4000)
    lab.segments()
    assert len(lab.stack.connections()) <= connections + 1
    health.check(rss_slack=48 * MIB)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["stack", "peer"])
def test_half_closed_crowd(lab: Lab, first: str) -> None:
    """One side closes, the other never finishes: FIN-WAIT-2 or LAST-ACK, and nothing is left in the end."""
    health = lab.health
    connections = len(lab.stack.connections())
    for end, sock in crowd(lab):
        if first == "peer":
            lab.carrier.send(end.frame(FIN | ACK))
            sock.close()  # its FIN is never acknowledged
        else:
            sock.close()
            lab.carrier.pump()
            end.rcv += 1
            lab.carrier.send(end.frame(ACK))
    lab.segments()
    health.echo(10_000)
    lab.carrier.advance(2000)
    lab.segments()
    assert len(lab.stack.connections()) <= connections + 1
    health.check()


def test_the_oldest_time_wait_gives_way(lab: Lab) -> None:
    """net.ipv4.tcp_max_tw_buckets is the most there are; who closes then loses nothing but the oldest one."""
    lab.stack.sysctl["net.ipv4.tcp_max_tw_buckets"] = 3
    before = lab.stack.counters()["TCPTimeWaitOverflow"]
    closed = [lab.reach("TIME-WAIT") for _ in range(5)]
    assert lab.stack.live()["timewaits"] == 3
    assert lab.stack.counters()["TCPTimeWaitOverflow"] - before == 2
    assert [lab.state_of(one.flow) for one in closed] == ["CLOSED"] * 2 + ["TIME-WAIT"] * 3


def test_orphans_have_a_limit(lab: Lab) -> None:
    """net.ipv4.tcp_max_orphans: who closes beyond it ends his connection at once, with a reset."""
    lab.stack.sysctl["net.ipv4.tcp_max_orphans"] = 2
    before = lab.stack.counters()["TCPAbortOnMemory"]
    held = [lab.established() for _ in range(5)]
    for one in held:
        one.sock.close()
        lab.carrier.pump()
    for number, one in enumerate(held):
        one.flow.expect("FA" if number < 2 else "RA")
    assert lab.stack.counters()["TCPAbortOnMemory"] - before == 3


@pytest.mark.slow
def test_time_wait_crowd(lab: Lab) -> None:
    """Thousands of TIME-WAITs are small and end after their time."""
    health = lab.health
    base, connections = rss(), len(lab.stack.connections())
    for end, sock in crowd(lab):
        sock.close()
        lab.carrier.pump()
        end.rcv += 1
        lab.carrier.send(end.frame(FIN | ACK))
    lab.segments()
    assert len(lab.stack.connections()) - connections == MANY
    assert rss() - base < 8 * MIB
    lab.carrier.advance(300)
    lab.segments()
    assert len(lab.stack.connections()) <= connections + 1
    health.check()


@pytest.mark.slow
def test_opened_and_closed_for_long(lab: Lab) -> None:
    """5000 connections one after the other, every tenth aborted: tables and memory are where they were."""
    health = lab.health
    connections = len(lab.stack.connections())

    def cycle(count: int) -> None:
        for number in range(count):
            end = lab.open_raw(1024 + number)
            lab.carrier.send(end.frame(RST if number % 10 == 0 else FIN | ACK))
            if number % 10:
                end.snd += 1
                end.rcv += 1
                lab.carrier.send(end.frame(ACK))
            lab.segments()

    cycle(500)
    lab.carrier.advance(300)
    base = rss()
    cycle(5000)
    lab.carrier.advance(300)
    lab.segments()
    assert len(lab.stack.connections()) <= connections + 1
    assert rss() - base < 4 * MIB
    health.check()


def test_reset_in_the_accept_queue(lab: Lab) -> None:
    """Connect and reset before anybody accepts, over and over: the backlog recovers."""
    for number in range(1000):
        end = lab.open_raw(1024 + number, PORT)
        lab.carrier.send(end.frame(RST))
    lab.segments()
    while True:
        try:
            lab.accept().close()
        except BlockingIOError:
            break
        except ConnectionAbortedError:
            continue
    situation = lab.established()
    lab.write(situation.sock, b"fine")
    assert situation.flow.read(4) == b"fine"


def test_accept_queue_is_bounded(lab: Lab) -> None:
    """More connections than the backlog and nobody accepts: the rest stay out, and come in when there is room."""
    listener = lab.stack.create_server(("", 82), backlog=4)
    listener.setblocking(False)
    answered = []
    for number in range(50):
        path = Path(lab.peer.mac, lab.peer.target_mac, lab.peer.ip, lab.peer.target, 2000 + number, 82)
        lab.carrier.send(path.frame(1, 0, SYN))
        for segment in lab.segments():
            if segment.flags == SYN | ACK and segment.dport == path.sport:
                answered.append(path.sport)
                lab.carrier.send(path.frame(2, segment.seq + 1, ACK))
    accepted = 0
    while True:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            break
        sock.close()
        accepted += 1
    assert 1 <= accepted <= 6
    lab.segments()
    lab.open_raw(3000, 82)
    assert listener.accept()[1] == (lab.peer.ip, 3000)


# -- acknowledgements that cost


def sack(*blocks: tuple[int, int]) -> bytes:
    """A SACK option."""
    edges = b"".join((edge % MODULUS).to_bytes(4, "big") for block in blocks for edge in block)
    return b"\1\1\5" + bytes([2 + len(edges)]) + edges


def grow(lab: Lab, end: RawEnd, sock: object, data: bytes, flight: int) -> int:
    """Feed `data` and acknowledge until so many segments are under way; returns the bytes acknowledged."""
    start, queued, under_way = end.rcv, 0, [0]
    while under_way[0] < flight:
        try:
            queued += lab.write(sock, data[queued : queued + MIB])
        except BlockingIOError:
            pass
        segments = [segment for segment in lab.segments() if segment.dport == end.path.sport and segment.data]
        assert segments, "the stack has stopped sending"
        under_way[0] = len(segments)
        if under_way[0] < flight:
            end.rcv = (segments[-1].seq + len(segments[-1].data)) % MODULUS
            lab.carrier.send(end.frame(ACK))
    return seq_diff(end.rcv, start)


@pytest.mark.slow
@pytest.mark.parametrize("mss", [48, 1460], ids=["sack-panic", "many-holes"])
def test_thousands_of_sack_holes(lab: Lab, mss: int) -> None:
    """CVE-2019-11477/11478: every second of very many segments SACKed, one by one, then the rest; the data is right."""
    data = random.Random(mss).randbytes(2 * MIB)
    options = b"\2\4" + mss.to_bytes(2, "big") + b"\1\1\4\2\1\3\3\10"
    end = lab.open_raw(5000, PORT, options=options)
    sock = lab.accept()
    flight = 1200 if mss == 48 else 300
    at = grow(lab, end, sock, data, flight)
    una = end.rcv
    blocks: list[tuple[int, int]] = []
    for number in range(1, flight, 2):
        blocks.insert(0, (una + number * mss, una + (number + 1) * mss))
        lab.carrier.send(end.frame(ACK, options=sack(*blocks[:4])))
        lab.segments()
    lab.carrier.send(end.frame(ACK, options=sack((una + mss, una + flight * mss))))
    got = bytearray(data[:at])
    total = at + flight * mss
    for _ in range(200_000):
        if len(got) >= total:
            break
        segments = [segment for segment in lab.segments() if segment.dport == end.path.sport and segment.data]
        if not segments:
            lab.carrier.advance(0.3)
        for segment in segments:
            skip = seq_diff(end.rcv, segment.seq)
            if 0 <= skip < len(segment.data):
                got += segment.data[skip:]
                end.rcv = (segment.seq + len(segment.data)) % MODULUS
        lab.carrier.send(end.frame(ACK))
    assert len(got) >= total
    assert got == data[: len(got)]
    lab.health.check(rss_slack=64 * MIB)


# -- what must not be predictable


@pytest.mark.rfc("9293", "MUST-8", "MUST-9")
@pytest.mark.rfc("6528", "3")
def test_initial_sequence_numbers() -> None:
    """Of many four-tuples: spread over the whole space, no step that repeats, another secret in another stack."""
    seen = []
    for seed in (bytes(32), b"another stack's seed of 32 bytes"):
        lab = Lab(seed=seed)
        seen.append([lab.open_raw(1024 + number).rcv for number in range(500)])
        lab.close()
    for numbers in seen:
        steps = {seq_diff(later, earlier) for earlier, later in itertools.pairwise(numbers)}
        assert len(steps) == len(numbers) - 1
        buckets = [sum(number >> 28 == bucket for number in numbers) for bucket in range(16)]
        assert min(buckets) > 5
        assert max(buckets) < 80
    assert not set(seen[0]) & set(seen[1])


@pytest.mark.rfc("6528", "3")
def test_initial_sequence_number_of_one_tuple_follows_the_clock(lab: Lab) -> None:
    """The same four-tuple again 10 s later: ahead by 250,000 a second, so that old segments are out of the window."""
    first = lab.open_raw(5000)
    lab.carrier.send(first.frame(RST))
    lab.carrier.advance(10)
    lab.segments()
    second = lab.open_raw(5000)
    assert 2_000_000 < seq_diff(second.rcv, first.rcv) < 3_000_000


@pytest.mark.rfc("6056", "3.3")
def test_source_ports_are_not_consecutive(lab: Lab) -> None:
    ports = []
    for number in range(200):
        sock = lab.stack.socket()
        sock.setblocking(False)
        sock.connect_ex((lab.peer.ip, 1000 + number))
        ports.append(sock.getsockname()[1])
        sock.close()
    assert len(set(ports)) > 190
    near = sum(abs(later - earlier) <= 8 for earlier, later in itertools.pairwise(ports))
    assert near < 10
