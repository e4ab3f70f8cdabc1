"""Memory at its limits: what one peer can make a connection hold, and a stack whose whole budget is used up.

What is held is bounded by what was offered; at the budget the least valuable is refused first, connections whose
application keeps up go on, and all of it comes back.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tap_harness.lab import PORT, Lab, RawEnd
from tap_harness.segment import ACK, MODULUS, PSH

KIB = 1 << 10
WINDOW = 65535  # what a new connection offers at first
SCALED = b"\x02\x04\x05\xb4\x01\x03\x03\x07"  # MSS 1460, window scale 7


@contextlib.contextmanager
def small_lab(memory: int | None = None) -> Iterator[Lab]:
    lab = Lab(memory=memory)
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    with small_lab() as made:
        yield made


def connect(lab: Lab, sport: int, options: bytes = SCALED) -> tuple[RawEnd, Any]:
    end = lab.open_raw(sport, PORT, options=options)
    return end, lab.accept()


def acked(lab: Lab, end: RawEnd) -> int:
    """How far the stack has acknowledged, from what it last said; nothing new: where the peer stands."""
    mine = [s.ack for s in lab.segments() if s.dport == end.path.sport]
    return mine[-1] if mine else end.snd


# ---- one connection


@pytest.mark.rfc("9293", "3.8.6.2.2")
@pytest.mark.parametrize("size", [1, 127, 128, 513, 1460])
def test_receive_queue_stays_within_its_window(lab: Lab, size: int) -> None:
    """Nobody reads, and every piece is sent twice to draw an ACK each time: rounding the window up must not add up."""
    end, sock = connect(lab, 40000)
    sent = 0
    for _ in range(3 * WINDOW // max(size, 64)):
        piece = end.frame(ACK | PSH, bytes(size))
        lab.carrier.send_many([piece, piece])
        end.snd = acked(lab, end)
    sent = max(c.recv_q for c in lab.stack.connections() if c.peer and c.peer[1] == 40000)
    assert sent <= WINDOW + WINDOW // 8 + 128
    assert lab.stack.live()["buffer_bytes"] <= 5 * WINDOW
    total = 0
    while total < sent:
        total += len(lab.read(sock))
    assert total == sent


def test_small_receive_buffer(lab: Lab) -> None:
    """SO_RCVBUF bounds what a connection holds, also when it is made smaller later."""
    end, sock = connect(lab, 40001)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(200):
        piece = end.frame(ACK | PSH, bytes(1000))
        lab.carrier.send_many([piece, piece])
        end.snd = acked(lab, end)
    assert lab.stack.live()["buffer_bytes"] <= 3 * WINDOW


def test_tiny_segments_out_of_order(lab: Lab) -> None:
    """CVE-2018-5390: single bytes at every second place, in every order; memory is bounded, the stream is right."""
    end, sock = connect(lab, 40002)
    places = list(range(1, WINDOW - 1, 2))
    random.Random(5).shuffle(places)
    for start in range(0, len(places), 512):
        lab.carrier.send_many(
            [
                end.path.frame(end.snd + at, end.rcv, ACK | PSH, data=bytes([at % 251]))
                for at in places[start : start + 512]
            ]
        )
        assert lab.stack.live()["buffer_bytes"] <= 4 * WINDOW
    lab.segments()
    stream = bytes(at % 251 for at in range(20000))
    received = b""
    for start in range(0, len(stream), 1000):
        lab.carrier.send(end.frame(ACK | PSH, stream[start : start + 1000]))
        end.snd = (end.snd + 1000) % MODULUS
        received += lab.read(sock)
    assert received[:20000] == stream
    lab.health.check(50000)


def test_fin_before_the_data_behind_it(lab: Lab) -> None:
    """Data beyond a FIN is nobody's: it goes when the FIN is taken, and does not wait for the connection's end."""
    end, sock = connect(lab, 40003)
    lab.carrier.send(end.path.frame(end.snd + 500, end.rcv, ACK | PSH, data=bytes(500)))
    assert lab.stack.live()["reassemblies"] == 1
    lab.carrier.send(end.path.frame(end.snd, end.rcv, ACK | PSH | 1, data=bytes(100)))
    assert lab.stack.live()["reassemblies"] == 0
    assert lab.read(sock) == bytes(100)
    assert sock.recv(1) == b""


# ---- the whole budget


def fragment(lab: Lab, ident: int, offset: int, size: int) -> bytes:
    """A UDP fragment that is never the last."""
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + size,
        ident,
        0x2000 | offset // 8,
        64,
        17,
        0,
        socket.inet_aton(lab.peer.ip),
        socket.inet_aton(lab.peer.target),
    )
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + header[12:]
    macs = bytes.fromhex((lab.peer.target_mac + lab.peer.mac).replace(":", ""))
    return macs + b"\x08\x00" + header + bytes(size)


def datagram(lab: Lab, port: int, size: int) -> bytes:
    frame = bytearray(fragment(lab, 1, 0, 8 + size))
    frame[20:22] = b"\0\0"
    frame[24:26] = b"\0\0"
    words = struct.unpack("!10H", bytes(frame[14:34]))
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    frame[24:26] = struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)
    frame[34:42] = struct.pack("!HHHH", 9, port, 8 + size, 0)
    return bytes(frame)


def fill_unread(lab: Lab, ports: range) -> list[Any]:
    """Connections whose data nobody reads."""
    held = []
    for sport in ports:
        end, sock = connect(lab, sport)
        held.append(sock)
        for at in range(0, 60000, 1400):
            lab.carrier.send(end.path.frame(end.snd + at, end.rcv, ACK | PSH, data=bytes(1400)))
    return held


def fill_out_of_order(lab: Lab, ports: range) -> list[Any]:
    """Connections that miss their first byte."""
    held = []
    for sport in ports:
        end, sock = connect(lab, sport)
        held.append(sock)
        for at in range(1, 60000, 1400):
            lab.carrier.send(end.path.frame(end.snd + at, end.rcv, ACK | PSH, data=bytes(1400)))
    return held


def fill_unsent(lab: Lab, ports: range) -> list[Any]:
    """Connections that write to a peer whose window stays shut."""
    held = []
    for sport in ports:
        end, sock = connect(lab, sport)
        held.append(sock)
        lab.carrier.send(end.frame(ACK, win=0))
        with contextlib.suppress(BlockingIOError, OSError):
            for _ in range(20):
                sock.send(bytes(10000))
    return held


def fill_fragments(lab: Lab, idents: range) -> list[Any]:
    for ident in idents:
        lab.carrier.send_many([fragment(lab, ident, at, 1400) for at in range(0, 14000, 1400)])
    return []


def fill_datagrams(lab: Lab, ports: range) -> list[Any]:
    """Sockets that nobody reads."""
    held = []
    for port in ports[:20]:
        sock = lab.stack.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind(("", port))
        held.append(sock)
        lab.carrier.send_many([datagram(lab, port, 1000)] * 120)
    return held


def converse(lab: Lab, end: RawEnd, sock: Any) -> None:
    """Fifty questions, each with its answer."""
    for _ in range(50):
        lab.carrier.send(end.frame(ACK | PSH, b"still" * 200))
        end.snd = (end.snd + 1000) % MODULUS
        assert lab.read(sock) == b"still" * 200
        assert sock.send(b"here" * 300) == 1200
        lab.carrier.pump()
        end.rcv = (end.rcv + 1200) % MODULUS
    lab.carrier.send(end.frame(ACK))
    lab.segments()


FILLS = {
    "unread": fill_unread,
    "out of order": fill_out_of_order,
    "unsent": fill_unsent,
    "fragments": fill_fragments,
    "datagrams": fill_datagrams,
}


@pytest.mark.parametrize("kind", [*FILLS, "all"])
def test_budget_used_up(kind: str) -> None:
    """2 MiB, and somebody who takes it all: established traffic and new clients go on, and all of it comes back."""
    with small_lab(2048 * KIB) as lab:
        health = lab.health
        base = lab.stack.live()
        talking, mine = connect(lab, 50000)
        held: list[Any] = []
        for number, (name, fill) in enumerate(FILLS.items()):
            if kind in (name, "all"):
                held += fill(lab, range(20000 + 1000 * number, 20060 + 1000 * number))
        used = lab.stack.live()["buffer_bytes"]
        least = 256 if kind in ("fragments", "datagrams") else 1024  # these have limits of their own
        assert used > least * KIB, "nothing is short: the test tests nothing"
        assert used <= 2048 * KIB + 256 * KIB
        lab.segments()
        converse(lab, talking, mine)
        new, its = connect(lab, 50001)
        converse(lab, new, its)
        for sock in [*held, mine, its]:
            if sock.type == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        lab.carrier.advance(120)
        left = lab.stack.live()
        assert left["buffers"] == base["buffers"], left
        assert left["tcbs"] == base["tcbs"]
        assert left["fragments"] == 0
        health.check(50000)


@pytest.mark.parametrize("memory", [8 * KIB, 64 * KIB, 128 * KIB, 512 * KIB])
def test_tiny_budget(memory: int) -> None:
    """However little there is, nothing breaks; with 512 KiB a transfer works."""
    with small_lab(memory) as lab:
        for port in itertools.islice(itertools.count(30000), 20):
            with contextlib.suppress(AssertionError, OSError):
                end, _ = connect(lab, port)
                lab.carrier.send(end.frame(ACK | PSH, bytes(1400)))
                lab.carrier.send(end.path.frame(end.snd + 5000, end.rcv, ACK | PSH, data=bytes(1400)))
        lab.carrier.send_many([fragment(lab, 7, at, 1400) for at in range(0, 14000, 1400)])
        assert lab.stack.live()["buffer_bytes"] <= memory + 256 * KIB
        lab.carrier.advance(60)
        if memory == 512 * KIB:
            lab.health.echo(100 * 1000)
