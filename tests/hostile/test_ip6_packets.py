"""IPv6 packets that lie: headers, extension headers, fragments, Neighbor Discovery. RFC 8200, 4443, 4861, 5722."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.utils import checksum

import ustack

STACK, PEER = "fd09::2", "fd09::1"
MAC, PEER_MAC = bytes.fromhex("020000000002"), bytes.fromhex("020000000001")


class Wire:
    """A stack on the manual driver, and its neighbour made of bytes."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.now = 10**9
        self.stack = ustack.Stack(driver="manual", seed=bytes(32))
        self.link = ustack.Callback(self.out.append, medium="ethernet", mac=MAC)
        self.stack.attach(self.link, addresses=[f"{STACK}/64"], name="net0")
        self.stack.add_neighbor("net0", PEER, PEER_MAC)
        self.settle(3)

    def settle(self, seconds: float = 0.0) -> list[bytes]:
        """What the stack has sent once so much time has passed."""
        until = self.now + int(seconds * 1e9)
        while True:
            self.stack.poll(self.now)
            if self.now >= until:
                break
            self.now = min(until, max(self.now + 1, self.stack.next_deadline() or until))
        sent, self.out[:] = list(self.out), []
        return sent

    def give(self, packet: bytes, seconds: float = 0.0, to: bytes = MAC) -> list[bytes]:
        self.link.receive(to + PEER_MAC + b"\x86\xdd" + packet)
        return self.settle(seconds)


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.settle(200)
    assert alive(made)
    live = made.stack.live()
    assert (live["fragments"], live["buffers"]) == (0, 0)
    made.stack.close()


def addr(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, text)


def header(proto: int, payload: bytes, src: str = PEER, dst: str = STACK, hop: int = 64, length: int = -1) -> bytes:
    size = len(payload) if length < 0 else length
    return struct.pack(">IHBB", 6 << 28, size, proto, hop) + addr(src) + addr(dst) + payload


def icmp(kind: int, code: int, body: bytes, src: str = PEER, dst: str = STACK) -> bytes:
    raw = bytes([kind, code, 0, 0]) + body
    pseudo = addr(src) + addr(dst) + struct.pack(">II", len(raw), 58)
    return raw[:2] + checksum(pseudo + raw).to_bytes(2, "big") + raw[4:]


def echo(data: bytes = b"", src: str = PEER) -> bytes:
    return icmp(128, 0, b"\0\1\0\2" + data, src=src)


def kinds(sent: list[bytes]) -> list[tuple[int, int]]:
    """(type, code) of the ICMPv6 messages among frames."""
    return [(f[54], f[55]) for f in sent if f[12:14] == b"\x86\xdd" and f[20] == 58]


def alive(wire: Wire) -> bool:
    wire.stack.add_neighbor("net0", PEER, PEER_MAC)
    return (129, 0) in kinds(wire.give(header(58, echo(b"alive"))))


def problem(sent: list[bytes]) -> tuple[int, int] | None:
    """(code, pointer) of the one parameter problem among frames."""
    found = [(f[55], int.from_bytes(f[58:62], "big")) for f in sent if f[20] == 58 and f[54] == 4]
    return found[0] if found else None


def test_what_is_cut_short(wire: Wire) -> None:
    whole = header(58, echo(b"x" * 100))
    for length in range(len(whole)):
        assert wire.give(whole[:length]) == []
    assert wire.stack.counters()["DropIpTruncated"] == len(whole)


@pytest.mark.rfc("4291", "2.5")
@pytest.mark.parametrize("src", ["::", "::1", "ff02::1", "::ffff:10.9.0.1", "fe80:1::1", STACK])
def test_sources_that_are_no_host(wire: Wire, src: str) -> None:
    assert wire.give(header(58, echo(src=src), src=src)) == []


@pytest.mark.rfc("8200", "4.1")
def test_extension_headers(wire: Wire) -> None:
    pad = b"\x01\x04\0\0\0\0"
    fine = bytes([60, 0]) + pad + bytes([43, 0]) + pad + bytes([58, 0, 0, 0, 0, 0, 0, 0]) + echo()
    assert kinds(wire.give(header(0, fine))) == [(129, 0)]
    late = bytes([0, 0]) + pad + bytes([58, 0]) + pad + echo()
    assert problem(wire.give(header(60, late), 2)) == (1, 40), "hop-by-hop options come first"
    route = bytes([58, 2, 0, 1, 0, 0, 0, 0]) + addr("fd09::77") + echo()
    assert problem(wire.give(header(43, route), 2)) == (0, 42), "RFC 5095"
    endless = b"".join(bytes([60, 0]) + pad for _ in range(100)) + echo()
    assert wire.give(header(60, endless), 2) == []
    assert problem(wire.give(header(99, bytes(20)), 2)) == (1, 6), "nobody speaks it"
    assert wire.give(header(59, bytes(20)), 2) == []


@pytest.mark.rfc("8200", "4.2")
@pytest.mark.parametrize(("kind", "answer"), [(0x1E, "go on"), (0x5E, None), (0x9E, (2, 42)), (0xDE, (2, 42))])
def test_unknown_options(wire: Wire, kind: int, answer: Any) -> None:
    packet = header(60, bytes([58, 0, kind, 4, 0, 0, 0, 0]) + echo())
    sent = wire.give(packet, 2)
    if answer == "go on":
        assert kinds(sent) == [(129, 0)]
    else:
        assert problem(sent) == answer


def piece(ident: int, offset: int, more: bool, data: bytes, proto: int = 58) -> bytes:
    return header(44, struct.pack(">BBHI", proto, 0, offset | more, ident) + data)


@pytest.mark.rfc("5722")
@pytest.mark.rfc("6946")
def test_fragments(wire: Wire) -> None:
    whole = echo(b"f" * 100)
    cut = [(0, True, whole[:48]), (48, True, whole[48:96]), (96, False, whole[96:])]
    for order in ([0, 1, 2], [2, 1, 0], [1, 1, 0, 2]):
        sent = [frame for k in order for frame in wire.give(piece(sum(order) + 100 * len(order), *cut[k]))]
        assert kinds(sent) == [(129, 0)]
    assert wire.give(piece(7, 0, True, whole[:48])) == []
    assert wire.give(piece(7, 40, True, bytes(56))) == []
    assert wire.give(piece(7, 48, False, whole[48:])) == [], "an overlap drops all of it"
    assert kinds(wire.give(piece(7, 0, False, whole))) == [(129, 0)], "an atomic one meets nobody"
    assert problem(wire.give(piece(8, 0, True, whole[:50]), 2)) == (0, 4), "no multiple of eight"
    assert problem(wire.give(piece(9, 65528, False, bytes(64), proto=17), 2)) == (0, 42), "longer than a packet can be"
    assert problem(wire.give(piece(10, 0, True, whole[:8] + bytes(8), proto=6), 2)) == (3, 0), "RFC 7112"
    assert kinds(wire.give(piece(11, 0, True, whole[:48]), 61)) == [(3, 1)], "a minute is enough"


def test_a_flood_of_fragments_stays_in_its_budget(wire: Wire) -> None:
    wire.stack.sysctl["net.ipv4.ipfrag_high_thresh"] = 200_000
    for ident in range(3000):
        wire.give(piece(ident, 8 * (ident % 3) + 8, True, bytes(1000)))
    assert wire.stack.live()["buffer_bytes"] < 400_000


@pytest.mark.rfc("4861", "7.1")
def test_neighbor_discovery_from_elsewhere_or_without_end(wire: Wire) -> None:
    link = b"\1\1" + PEER_MAC

    def solicit(options: bytes = link, code: int = 0, target: str = STACK) -> bytes:
        return icmp(135, code, bytes(4) + addr(target) + options)

    assert kinds(wire.give(header(58, solicit(), hop=255))) == [(136, 0)]
    assert wire.give(header(58, solicit(), hop=254)) == []
    assert wire.give(header(58, solicit(code=1), hop=255)) == []
    assert wire.give(header(58, solicit(target="ff02::1"), hop=255)) == []
    for options in (b"\1\0" + PEER_MAC, b"\1\2" + PEER_MAC, b"\1", b"\xff\xff" + bytes(6)):
        assert wire.give(header(58, solicit(options), hop=255)) == []
    for length in range(24):
        assert wire.give(header(58, icmp(135, 0, bytes(length)), hop=255)) == []


@pytest.mark.rfc("6980", "5")
@pytest.mark.parametrize("cut", [0, 16], ids=["atomic", "in two"])
def test_neighbor_discovery_in_fragments_is_ignored(wire: Wire, cut: int) -> None:
    body = icmp(135, 0, bytes(4) + addr(STACK) + b"\1\1" + PEER_MAC)

    def fragment(offset: int, more: bool, data: bytes, proto: int = 58) -> bytes:
        return header(44, struct.pack(">BBHI", proto, 0, offset | more, 7 + cut) + data, hop=255)

    pieces = [fragment(0, True, body[:cut]), fragment(cut, False, body[cut:])] if cut else [fragment(0, False, body)]
    for piece_ in pieces:
        assert wire.give(piece_) == []
    assert wire.stack.counters()["DropNdMalformed"] == 1
    assert kinds(wire.give(header(58, body, hop=255))) == [(136, 0)]
    assert kinds(wire.give(fragment(0, False, echo(b"x")))) == [(129, 0)], "other messages may come so"


def test_a_flood_of_solicitations_stays_in_its_budget(wire: Wire) -> None:
    for number in range(5000):
        src = f"fd09::{number + 16:x}"
        body = icmp(135, 0, bytes(4) + addr(STACK) + b"\1\1" + PEER_MAC, src=src)
        wire.give(header(58, body, src=src, hop=255))
    assert wire.stack.live()["neighbors"] <= 1024


def test_routers_are_not_listened_to_unasked(wire: Wire) -> None:
    prefix = struct.pack(">BBBBIII", 3, 4, 64, 0xC0, 10000, 10000, 0) + addr("fd66::")
    body = icmp(134, 0, struct.pack(">BBHII", 64, 0, 1800, 0, 0) + prefix, src="fe80::66", dst="ff02::1")
    before = wire.stack.routes()
    wire.give(header(58, body, src="fe80::66", dst="ff02::1", hop=255), 3, to=bytes.fromhex("333300000001"))
    assert wire.stack.routes() == before


def test_random_packets(wire: Wire) -> None:
    chance = random.Random(8200)
    seeds = [
        header(58, echo(b"seed")),
        header(0, bytes([60, 0, 1, 4, 0, 0, 0, 0, 58, 0, 5, 2, 0, 0, 1, 0]) + echo()),
        header(43, bytes([58, 2, 0, 0, 0, 0, 0, 0]) + bytes(16) + echo()),
        piece(1, 0, True, echo(b"f" * 44)),
        header(58, icmp(135, 0, bytes(4) + addr(STACK) + b"\1\1" + PEER_MAC), hop=255),
        header(58, icmp(136, 0, b"\x60\0\0\0" + addr(PEER) + b"\2\1" + PEER_MAC), hop=255),
        header(58, icmp(2, 0, struct.pack(">I", 1280) + header(17, bytes(64), src=STACK, dst=PEER))),
        header(17, bytes(8) + bytes(20)),
        header(6, bytes(40)),
    ]
    for _ in range(20000):
        made = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 5)):
            made[chance.randrange(len(made))] = chance.choice((0, 1, 255, 58, 44, 60, 43, chance.randrange(256)))
        if chance.random() < 0.2:
            del made[chance.randrange(len(made)) :]
        wire.give(bytes(made))
