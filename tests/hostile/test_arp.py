"""ARP that lies, floods and impersonates: poisoning, gratuitous floods, broken packets, sweeps of absent addresses."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator
from itertools import pairwise

import pytest
from scapy.layers.inet import UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from tap_harness.lab import Lab
from tap_harness.scapy_peer import BROADCAST
from tests.sim.net_helpers import (
    OTHER_MAC,
    PEER_IP,
    PEER_MAC,
    STACK_IP,
    answer,
    arp,
    counted,
    flood,
    heard,
    mac_of,
    neighbour,
    requests,
    send,
    sent,
    state,
    udp,
)

LIMIT = 1024  # gc_thresh3


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab(address="10.9.0.2/16")
    assert made.health is not None  # the base is taken here
    yield made
    made.carrier.drain()
    heard(made, 5)  # the peer has answered the questions it left open
    made.health.check()
    made.health.check_returned(after=200)
    assert made.stack.live()["neighbors"] == 0
    assert made.stack.live()["buffers"] == 0
    made.close()


def forgeries(lab: Lab) -> list[Packet]:
    """Every way to tell the stack that the peer's address has moved to OTHER_MAC."""
    mac = lab.peer.target_mac
    return [
        arp(2, psrc=PEER_IP, pdst=STACK_IP, hwsrc=OTHER_MAC, hwdst=mac, to=mac),
        arp(2, psrc=PEER_IP, pdst=PEER_IP, hwsrc=OTHER_MAC),
        arp(2, psrc=PEER_IP, pdst=STACK_IP, hwsrc=OTHER_MAC),
        arp(1, psrc=PEER_IP, pdst=PEER_IP, hwsrc=OTHER_MAC),
        arp(1, psrc=PEER_IP, pdst=STACK_IP, hwsrc=OTHER_MAC),
        arp(1, psrc=PEER_IP, pdst="10.9.0.77", hwsrc=OTHER_MAC),
    ]


@pytest.mark.parametrize("which", range(6))
def test_poisoning_of_a_known_neighbour(lab: Lab, which: int) -> None:
    """The peer lives and answers the doubt: its link address stays, however often and whenever the forgery comes."""
    for _ in range(40):
        lab.peer.send_ether(forgeries(lab)[which])
        assert mac_of(lab, PEER_IP) in (PEER_MAC, None)
        lab.peer.discard(0.7)  # answers what it is asked
    lab.peer.ping()
    assert mac_of(lab, PEER_IP) == PEER_MAC


def test_doubt_is_no_amplifier(lab: Lab) -> None:
    """Thousands of forgeries cause a handful of questions."""
    lab.peer.ping()
    sent(lab)
    forged = [bytes(forgeries(lab)[which]) for which in (0, 1, 2, 3, 5)] * 400
    lab.carrier.send_many(forged)
    assert len(requests(sent(lab, 0.9), PEER_IP)) <= 1


@pytest.mark.rfc("826", "merge")
@pytest.mark.parametrize("op", [1, 2])
def test_gratuitous_flood_creates_nothing(lab: Lab, op: int) -> None:
    base = len(lab.stack.neighbors())
    frame = bytes(arp(op, psrc="10.9.0.0", pdst="10.9.0.0", hwsrc=OTHER_MAC))

    def gratuitous(n: int) -> bytes:
        address = n.to_bytes(2, "big")
        return frame[:30] + address + frame[32:40] + address

    assert flood(lab, (gratuitous(n) for n in range(512, 6000))) == 0
    assert len(lab.stack.neighbors()) == base


@pytest.mark.rfc("826", "merge")
def test_unsolicited_replies_to_us_create_nothing(lab: Lab) -> None:
    mac = lab.peer.target_mac
    with counted(lab) as grown:
        for n in range(200):
            lab.peer.send_ether(arp(2, psrc=f"10.9.7.{n}", pdst=STACK_IP, hwsrc=OTHER_MAC, hwdst=mac, to=mac))
    assert grown["DropArpNotOurs"] == 200
    assert neighbour(lab, "10.9.7.9") is None


def test_request_flood_is_bounded(lab: Lab) -> None:
    """Requests for our address create entries, as RFC 826 has it: never more than the table holds."""
    frame = bytearray(bytes(arp(1, psrc="10.9.0.0", pdst=STACK_IP, hwsrc=OTHER_MAC)))
    answers = flood(lab, (bytes(frame[:30]) + n.to_bytes(2, "big") + bytes(frame[32:]) for n in range(512, 20000)))
    assert answers == 20000 - 512
    assert len(lab.stack.neighbors()) <= LIMIT
    assert lab.stack.live()["neighbors"] <= LIMIT


def broken_packets(mac: str) -> list[tuple[str, bytes]]:
    """ARP packets that contradict themselves, with a name."""
    good = bytes(arp(1, psrc="10.9.3.3", pdst=STACK_IP, hwsrc=OTHER_MAC))
    body = good[14:]

    def patched(at: int, value: bytes) -> bytes:
        return good[:14] + body[:at] + value + body[at + len(value) :]

    cases = [
        ("hardware type", patched(0, b"\0\7")),
        ("protocol type", patched(2, b"\x86\xdd")),
        ("hardware length 0", patched(4, b"\0")),
        ("hardware length 255", patched(4, b"\xff")),
        ("protocol length 0", patched(5, b"\0")),
        ("protocol length 16", patched(5, b"\x10")),
        *[(f"operation {op}", patched(6, op.to_bytes(2, "big"))) for op in (0, 3, 4, 8, 9, 255, 65535)],
        ("sender link address broadcast", patched(8, b"\xff" * 6)),
        ("sender link address multicast", patched(8, b"\x01\0\x5e\0\0\1")),
        ("sender link address zero", patched(8, bytes(6))),
        *[
            (f"sender {text}", patched(14, ipaddress.ip_address(text).packed))
            for text in ("127.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "0.0.0.1", "192.0.2.1")
        ],
    ]
    cases += [(f"{length} bytes", good[: 14 + length]) for length in range(28)]
    return cases


def test_broken_packets_are_dropped(lab: Lab) -> None:
    before = {entry.address for entry in lab.stack.neighbors()}
    for what, frame in broken_packets(lab.peer.target_mac):
        with counted(lab) as grown:
            lab.peer.send_bytes(frame)
        drops = grown.get("DropArpMalformed", 0) + grown.get("DropArpNotOurs", 0) + grown.get("ArpConflicts", 0)
        assert drops == 1, what
        assert sent(lab) == [], what
    assert {entry.address for entry in lab.stack.neighbors()} <= before


def test_random_packets_do_no_harm(lab: Lab) -> None:
    chance = random.Random(826)
    template = bytes(arp(1, psrc="10.9.3.3", pdst=STACK_IP, hwsrc=OTHER_MAC))
    frames = []
    for _ in range(5000):
        frame = bytearray(template)
        for _ in range(chance.randrange(1, 6)):
            frame[chance.randrange(14, len(frame))] = chance.randrange(256)
        frames.append(bytes(frame[: chance.choice((len(frame), chance.randrange(15, len(frame))))]))
    lab.carrier.send_many(frames)
    assert lab.stack.live()["neighbors"] <= LIMIT
    lab.carrier.advance(30)
    sent(lab)


def test_conflict_storm(lab: Lab) -> None:
    """Somebody claims our address 10,000 times in a second: one answer (RFC 5227 §2.4 (c))."""
    frames = [bytes(arp(op, psrc=STACK_IP, pdst=STACK_IP, hwsrc=OTHER_MAC)) for op in (1, 2)] * 500
    with counted(lab) as grown:
        for _ in range(10):
            lab.carrier.send_many(frames)
            lab.carrier.advance(0.1)
    assert grown["ArpConflicts"] == 10000
    assert len(requests(sent(lab), STACK_IP)) == 1


@pytest.mark.rfc("6583", "6")
def test_sweep_of_unresolved_addresses(lab: Lab) -> None:
    """Traffic to 65,000 addresses that do not exist: the table and memory stay bounded, nobody is asked twice a second,
    and a neighbour that does exist is found in the middle of it."""
    sock = udp(lab)
    asked: dict[str, list[float]] = {}
    for n in range(512, 65000):
        sock.sendto(b"x" * 64, (f"10.9.{n >> 8}.{n & 255}", 9))
        if n % 500 == 0:
            lab.carrier.advance(0.05)
            for frame in lab.carrier.drain():
                asked.setdefault(str(ipaddress.ip_address(frame[38:42])), []).append(lab.carrier.now())
            assert lab.stack.live()["neighbors"] <= LIMIT
            assert lab.stack.live()["buffer_bytes"] <= 8 << 20
    assert len(asked) > 60000
    assert all(later - earlier >= 0.95 for times in asked.values() for earlier, later in pairwise(times))
    send(lab, sock, b"found", ("10.9.255.7", 9))
    answer(lab, "10.9.255.7", OTHER_MAC)
    assert [bytes(packet[UDP].payload) for packet in sent(lab) if UDP in packet] == [b"found"]
    lab.carrier.advance(10)
    lab.carrier.drain()


@pytest.mark.rfc("6583", "6")
def test_sweep_spares_the_neighbours_in_use(lab: Lab) -> None:
    lab.peer.ping()
    lab.peer.discard(10)  # the entry has been proved
    assert state(lab, PEER_IP) == "REACHABLE"
    sock = udp(lab)
    for n in range(512, 5000):
        sock.sendto(b"x", (f"10.9.{n >> 8}.{n & 255}", 9))
    lab.carrier.pump()
    lab.carrier.drain()
    assert state(lab, PEER_IP) == "REACHABLE"


@pytest.mark.parametrize("source", ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01"])
def test_frames_from_a_group(lab: Lab, source: str) -> None:
    frame = Ether(src=source, dst=BROADCAST) / ARP(op=1, hwsrc=OTHER_MAC, psrc="10.9.4.4", pdst=STACK_IP)
    with counted(lab) as grown:
        lab.peer.send_ether(frame)
    assert grown["DropEthSource"] == 1
    assert sent(lab) == []
