"""Raw and packet sockets, filters and IPv6's caches under frames of nobody's: budgets hold, all is given back."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ustack

MAC, PEER_MAC = bytes.fromhex("020000000002"), bytes.fromhex("020000000001")
BUDGET = 4 << 20
KEEP_ALL = struct.pack("HBBI", 6, 0, 0, 0xFFFFFFFF)
SO_ATTACH_FILTER = 26


class Watched:
    """A stack with sockets that see everything, on the manual driver."""

    def __init__(self, memory: int = BUDGET) -> None:
        self.now = 10**9
        self.stack = ustack.Stack(driver="manual", seed=bytes(32), memory=memory)
        self.link = ustack.Callback(lambda frame: None, medium="ethernet", mac=MAC)
        self.stack.attach(self.link, addresses=["10.9.0.2/24", "fd09::2/64"], name="net0")
        self.turn(3)
        self.socks: list[Any] = []
        for family, kind, proto in (
            (socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)),
            (socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x86DD)),
            (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP),
            (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
            (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
            (socket.AF_INET6, socket.SOCK_RAW, 253),
        ):
            sock = self.stack.socket(family, kind, proto)
            sock.setblocking(False)
            self.socks.append(sock)
        self.socks[0].setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, KEEP_ALL)

    def turn(self, seconds: float = 0.0) -> None:
        until = self.now + int(seconds * 1e9)
        while self.now <= until:
            self.stack.poll(self.now)
            if self.now == until:
                break
            self.now = min(until, max(self.now + 1, self.stack.next_deadline() or until))

    def give(self, frames: list[bytes]) -> None:
        for frame in frames:
            self.link.receive(frame)
        self.turn()

    def drain(self) -> int:
        """How many datagrams there were."""
        found = 0
        for sock in self.socks:
            try:
                while True:
                    sock.recvfrom(70000)
                    found += 1
            except BlockingIOError:
                pass
        return found

    def close(self) -> None:
        for sock in self.socks:
            sock.close()
        self.turn(200)
        live = self.stack.live()
        assert (live["fragments"], live["buffers"]) == (0, 0)
        self.stack.close()


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched()
    yield made
    made.close()


def six(src: bytes, dst: bytes, proto: int, payload: bytes, hops: int = 255) -> bytes:
    head = struct.pack(">IHBB", 6 << 28, len(payload), proto, hops)
    return MAC + PEER_MAC + b"\x86\xdd" + head + src + dst + payload


def address(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, text)


def test_queues_that_nobody_reads_stay_in_the_budget(watched: Watched) -> None:
    payload = bytes(1400)
    frame = six(address("fd09::1"), address("fd09::2"), 253, payload)
    for _ in range(40):
        watched.give([frame] * 100)
    counters = watched.stack.counters()
    assert counters["DropPacketQueueFull"] > 1000
    assert counters["DropRawQueueFull"] > 1000
    assert watched.stack.live()["buffer_bytes"] <= BUDGET
    assert 0 < watched.drain() < 1000
    watched.give([frame])
    assert watched.drain() == 3  # room again


@pytest.mark.parametrize("seed", range(4))
def test_frames_of_nobody(watched: Watched, seed: int) -> None:
    r = random.Random(seed)
    sources = [address(a) for a in ("fd09::1", "fe80::1", "::", "ff02::5", "::ffff:1.2.3.4")]
    targets = [address(a) for a in ("fd09::2", "ff02::1", "ff02::1:ff00:2", "::")]
    for _ in range(40):
        frames = []
        for _ in range(25):
            body = r.randbytes(r.choice([0, 1, 7, 8, 40, 200]))
            kind = r.randrange(4)
            if kind == 0:
                frames.append(r.randbytes(r.randrange(1, 80)))
            elif kind == 1:
                first, cut = 0x40 | r.randrange(16), r.choice([0, 0x2000])
                proto = r.choice([1, 6, 17, 253])
                head = struct.pack(">BBHHHBBH", first, 0, r.randrange(300), 1, cut, 9, proto, 0)
                frames.append(MAC + PEER_MAC + b"\x08\0" + head + b"\x0a\x09\0\1\x0a\x09\0\2" + body)
            else:
                proto = r.choice([0, 6, 17, 43, 44, 58, 59, 60, 253])
                frames.append(six(r.choice(sources), r.choice(targets), proto, body, r.choice([1, 64, 255])))
        watched.give(frames)
        watched.drain()


def test_neighbours_and_fragments_that_never_end(watched: Watched) -> None:
    """RFC 6583: as many hosts as a prefix has, each asked for; and first fragments without their rest."""
    with watched.stack.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        for k in range(3000):
            sock.sendto(b"anybody?", (f"fd09::1:{k:x}", 9))
            if k % 100 == 0:
                watched.turn()
        head = b"\x3a\0\0\1"
        for k in range(3000):
            piece = head + k.to_bytes(4, "big") + bytes(1000)
            watched.give([six(address("fd09::1"), address("fd09::2"), 44, piece)])
    live = watched.stack.live()
    assert live["neighbors"] <= 1024
    assert live["fragments"] * 2048 <= BUDGET
    watched.turn(70)
    assert watched.stack.live()["fragments"] == 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 255), st.binary(max_size=120), st.sampled_from(["fe80::1", "fd09::1", "::"]))
def test_icmpv6_of_any_kind(watched: Watched, kind: int, body: bytes, src: str) -> None:
    """Neighbor Discovery, MLD, errors: whatever a good checksum vouches for."""
    raw = bytes([kind, 0, 0, 0]) + body
    dst = address("fd09::2")
    pseudo = address(src) + dst + struct.pack(">II", len(raw), 58) + raw + bytes(len(raw) % 2)
    total = sum(struct.unpack(f">{len(pseudo) // 2}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    watched.give([six(address(src), dst, 58, raw[:2] + (total ^ 0xFFFF).to_bytes(2, "big") + raw[4:])])
    watched.turn(1)
    watched.drain()
