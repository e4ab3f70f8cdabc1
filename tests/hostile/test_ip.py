"""IPv4 that lies: lengths, options, source routes, tunnels, martians, fragments, checksums, Ethernet oddities."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise, permutations, product
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.l2 import ARP, Dot1Q, Dot3, Ether
from scapy.packet import Packet, Raw
from scapy.utils import checksum

from tap_harness.lab import ECHO_PORT, Lab
from tap_harness.scapy_peer import BROADCAST
from tests.sim.net_helpers import (
    PEER_IP,
    PEER_MAC,
    STACK_IP,
    arp,
    counted,
    flood,
    fragments,
    heard,
    icmp_errors,
    ping_answered,
    received,
    sent,
    udp,
)

UDP_PORT = 7000
CLOSED = 7001
FRAGMENT_MEMORY = 4 << 20


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    assert made.health is not None  # the base is taken here
    yield made
    made.carrier.drain()
    heard(made, 5)  # the peer has answered the questions it left open
    made.health.check()
    made.health.check_returned(after=200)
    live = made.stack.live()
    assert (live["fragments"], live["neighbors"], live["buffers"]) == (0, 0, 0)
    made.close()


def frame(lab: Lab, packet: bytes) -> bytes:
    """An Ethernet frame with any bytes as IP packet."""
    return bytes(Ether(src=PEER_MAC, dst=lab.peer.target_mac, type=0x0800)) + packet


def with_checksum(header: bytes, hlen: int) -> bytes:
    """The packet with a right header checksum over the first hlen bytes (as far as there are any)."""
    if hlen < 20 or len(header) < hlen:
        hlen = min(len(header), 20)
    zeroed = header[:10] + b"\0\0" + header[12:]
    return header[:10] + checksum(zeroed[:hlen]).to_bytes(2, "big") + header[12:]


def echo_request(**fields: Any) -> Packet:
    return IP(**{"src": PEER_IP, "dst": STACK_IP, **fields}) / ICMP(type=8, id=1, seq=1) / Raw(b"echo" * 8)


def provocations(src: str = PEER_IP, dst: str = STACK_IP) -> list[Packet]:
    """What a stack answers: an echo request, a SYN to an open and to a closed port, UDP to a closed port, nonsense."""
    ip = IP(src=src, dst=dst)
    return [
        ip / ICMP(type=8, id=1, seq=1) / Raw(b"echo"),
        ip / TCP(sport=1234, dport=ECHO_PORT, flags="S"),
        ip / TCP(sport=1234, dport=9, flags="S"),
        ip / UDP(sport=1234, dport=CLOSED) / Raw(b"?"),
        IP(src=src, dst=dst, proto=253) / Raw(b"nobody speaks this"),
    ]


# -- headers


@pytest.mark.rfc("1122", "3.2.1.1 version", "3.2.1.2 checksum")
def test_lengths_that_lie(lab: Lab) -> None:
    """Every header length with every kind of total length: only what is consistent and captured is answered."""
    body = bytes(echo_request())
    answered = []
    for ihl, length in product(range(16), (0, 1, 19, 20, 21, 27, 28, 59, 60, 61, 1500, 65535)):
        packet = bytearray(body)
        packet[0] = 0x40 | ihl
        packet[2:4] = length.to_bytes(2, "big")
        lab.peer.send_bytes(frame(lab, with_checksum(bytes(packet), ihl * 4)))
        if any(ICMP in p and p[ICMP].type == 0 for p in sent(lab)):
            answered.append((ihl, length))
    assert answered == [(5, 60)]
    drops = lab.stack.counters()
    assert drops["DropIpHeader"] > 0
    assert drops["DropIpTruncated"] > 0


@pytest.mark.rfc("1122", "3.2.1.1 version")
@pytest.mark.parametrize("version", [v for v in range(16) if v != 4])
def test_other_versions(lab: Lab, version: int) -> None:
    packet = bytearray(bytes(echo_request()))
    packet[0] = version << 4 | 5
    with counted(lab) as grown:
        lab.peer.send_bytes(frame(lab, with_checksum(bytes(packet), 20)))
    assert sent(lab) == []
    assert grown["DropIpVersion"] == 1


def test_every_truncation(lab: Lab) -> None:
    """A frame cut anywhere is dropped: no answer, no read behind the end (the sanitizer build watches)."""
    for packet in provocations():
        whole = frame(lab, bytes(packet))
        for length in range(15, len(whole)):
            lab.peer.send_bytes(whole[:length])
            assert sent(lab) == [], f"{length} of {len(whole)} bytes of {packet.summary()}"


@pytest.mark.rfc("894", "padding")
def test_padding_is_not_data(lab: Lab) -> None:
    sock = udp(lab, UDP_PORT)
    packet = IP(src=PEER_IP, dst=STACK_IP) / UDP(sport=1, dport=UDP_PORT) / Raw(b"abc")
    lab.peer.send_bytes(frame(lab, bytes(packet)) + b"\xaa" * 40)
    assert [data for data, _ in received(sock)] == [b"abc"]


@pytest.mark.rfc("1122", "3.2.1.2 checksum")
def test_wrong_header_checksum(lab: Lab) -> None:
    for bit in range(16):
        packet = bytearray(bytes(echo_request()))
        packet[10 + bit // 8] ^= 1 << bit % 8
        lab.peer.send_bytes(frame(lab, bytes(packet)))
    assert sent(lab) == []
    assert lab.stack.counters()["DropIpChecksum"] == 16


@pytest.mark.rfc("1122", "3.2.1.7 TTL")
@pytest.mark.parametrize("ttl", [0, 1])
def test_time_to_live_at_its_end_is_accepted_by_the_destination(lab: Lab, ttl: int) -> None:
    assert ping_answered(lab, ttl=ttl)


def test_small_answers_leak_nothing(lab: Lab) -> None:
    """Etherleak: whatever is sent, a short frame ends where its packet ends, or in zeros."""
    lab.peer.send(IP(src=PEER_IP, dst=STACK_IP) / ICMP(type=8, id=1, seq=1))
    lab.peer.send(IP(src=PEER_IP, dst=STACK_IP) / TCP(sport=999, dport=9, flags="S"))
    lab.peer.send_ether(arp(1, psrc=PEER_IP, pdst=STACK_IP))
    frames = sent(lab)
    assert len(frames) == 3
    for packet in frames:
        raw = bytes(packet)
        length = 14 + (28 if ARP in packet else packet[IP].len)
        assert not raw[length:].strip(b"\0")


# -- options


@pytest.mark.rfc("1122", "3.2.1.8 options")
def test_good_options_are_passed_over(lab: Lab) -> None:
    for option in (
        b"\1" * 4,
        b"\0" * 4,
        b"\x94\x04\0\0",
        b"\x07\x07\x04\0\0\0\0\0",
        b"\x88\x04\0\1",
        b"\xde\x08abcdef",
    ):
        packet = echo_request(options=[IPOption(option)])
        lab.peer.send(packet)
        replies = sent(lab)
        assert [p[ICMP].type for p in replies] == [0], option
        assert replies[0][IP].ihl == 5, "options are not copied into answers"


@pytest.mark.rfc("1122", "3.2.1.8 options", "3.2.2.5 parameter problem")
def test_broken_options(lab: Lab) -> None:
    """Every (type, length, pointer) of the options that have been fatal elsewhere, where an echo would be."""
    kinds = (7, 68, 131, 137, 130, 133, 134, 136, 148, 222)
    lengths = (*range(12), 39, 40, 41, 128, 255)
    pointers = (0, 1, 3, 4, 5, 8, 9, 255)
    frames = []
    for kind, length, pointer in product(kinds, lengths, pointers):
        options = bytes((kind, length, pointer)) + b"\x0a\x09\x00\x01" * 2
        options += bytes(-len(options) % 4)
        header = bytearray(bytes(IP(src=PEER_IP, dst=STACK_IP, proto=1, ihl=5 + len(options) // 4)))[:20] + options
        data = bytes(ICMP(type=8, id=1, seq=1) / Raw(b"echo"))
        header[2:4] = (len(header) + len(data)).to_bytes(2, "big")
        frames.append(frame(lab, with_checksum(bytes(header), len(header)) + data))
    for start in range(0, len(frames), 100):
        lab.carrier.send_many(frames[start : start + 100])
        for reply in sent(lab):
            assert reply[IP].ihl == 5
            assert reply[ICMP].type in (0, 12)
        lab.carrier.advance(1)
    grown = lab.stack.counters()
    assert grown["DropIpOptions"] > 100
    assert grown["DropIpSourceRoute"] > 10


@pytest.mark.rfc("7126", "4.3", "4.4")
@pytest.mark.parametrize("kind", [131, 137])
def test_source_routes_are_refused(lab: Lab, kind: int) -> None:
    """Neither followed to a third host nor reversed in an answer nor answered at all."""
    route = bytes((kind, 7, 4)) + b"\x0a\x09\x00\x09" + b"\0"
    for packet in provocations():
        routed = packet.copy()
        routed[IP].options = [IPOption(route)]
        for field in ("ihl", "len", "chksum"):
            routed[IP].delfieldval(field)
        with counted(lab) as grown:
            lab.peer.send(routed)
        assert sent(lab, 3.5) == [], packet.summary()
        assert grown["DropIpSourceRoute"] == 1


# -- where from, where to


@pytest.mark.rfc("1122", "3.2.1.3 addressing")
@pytest.mark.parametrize(
    "source",
    ["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.254", "224.0.0.1", "239.255.255.250", "240.0.0.1",
     "255.255.255.255", "10.9.0.255", STACK_IP],
)  # fmt: skip
def test_sources_that_cannot_be(lab: Lab, source: str) -> None:
    """No answer and no question for the source's link address; LAND (source and destination the same) among them."""
    for packet in provocations(src=source):
        with counted(lab) as grown:
            lab.peer.send(packet)
        assert sent(lab, 1.1) == [], packet.summary()
        assert grown["DropIpMartianSource"] == 1, packet.summary()


@pytest.mark.rfc("1122", "3.2.1.3 addressing")
@pytest.mark.parametrize(
    "destination", ["10.9.0.3", "192.0.2.1", "127.0.0.1", "0.0.0.0", "240.0.0.1", "224.0.0.251", "239.1.1.1"]
)
def test_destinations_that_are_not_ours(lab: Lab, destination: str) -> None:
    """With our link address on the frame: dropped and not forwarded."""
    for packet in provocations(dst=destination):
        with counted(lab) as grown:
            lab.peer.send(packet)
        assert sent(lab, 0.1) == [], packet.summary()
        assert grown["IpInAddrErrors"] == 1, packet.summary()


@pytest.mark.rfc("1122", "3.2.2 no errors about broadcasts", "3.2.2.6 echo to broadcast")
@pytest.mark.parametrize("destination", ["255.255.255.255", "10.9.0.255", "224.0.0.1"])
def test_groups_are_not_answered(lab: Lab, destination: str) -> None:
    """Smurf and Fraggle: neither echo nor errors nor RST for what was sent to all."""
    mac = "01:00:5e:00:00:01" if destination.startswith("224") else BROADCAST
    for packet in provocations(dst=destination):
        for link in (mac, lab.peer.target_mac):
            lab.peer.send_ether(Ether(src=PEER_MAC, dst=link) / packet)
            assert sent(lab, 1.1) == [], packet.summary()


@pytest.mark.rfc("1122", "3.3.6 broadcasts")
def test_unicast_packet_in_a_broadcast_frame(lab: Lab) -> None:
    for packet in provocations():
        lab.peer.send_ether(Ether(src=PEER_MAC, dst=BROADCAST) / packet)
        assert sent(lab, 1.1) == [], packet.summary()


# -- Ethernet


def test_frames_for_others_and_odd_frames(lab: Lab) -> None:
    packet = echo_request()
    mac = lab.peer.target_mac
    odd = {
        "another link address": Ether(src=PEER_MAC, dst="02:00:00:00:00:99") / packet,
        "a group nobody joined": Ether(src=PEER_MAC, dst="01:00:5e:00:00:fb") / packet,
        "from a group": Ether(src="03:00:00:00:00:01", dst=mac) / packet,
        "VLAN 0 twice": Ether(src=PEER_MAC, dst=mac) / Dot1Q(vlan=0) / Dot1Q(vlan=0) / packet,
        "VLAN 7": Ether(src=PEER_MAC, dst=mac) / Dot1Q(vlan=7) / packet,
        "802.3": Dot3(src=PEER_MAC, dst=mac, len=len(packet)) / Raw(bytes(packet)),
        "IPv6 type": Ether(src=PEER_MAC, dst=mac, type=0x86DD) / Raw(bytes(packet)),
        "ARP type": Ether(src=PEER_MAC, dst=mac, type=0x0806) / Raw(bytes(packet)),
        "unknown type": Ether(src=PEER_MAC, dst=mac, type=0x88B5) / Raw(bytes(packet)),
    }
    for what, strange in odd.items():
        with counted(lab) as grown:
            lab.peer.send_ether(strange)
        assert sent(lab) == [], what
        assert sum(count for name, count in grown.items() if name.startswith("Drop")) == 1, what


def test_runts(lab: Lab) -> None:
    whole = frame(lab, bytes(echo_request()))
    for length in range(1, 15):
        lab.peer.send_bytes(whole[:length])
    assert sent(lab) == []
    assert lab.stack.counters()["DropEthTruncated"] == 13


def test_random_frames(lab: Lab) -> None:
    chance = random.Random(791)
    seeds = [frame(lab, bytes(packet)) for packet in provocations()]
    seeds += [frame(lab, bytes(piece)) for piece in fragments(echo_request(), [16])]

    def mutants() -> Iterator[bytes]:
        for _ in range(20000):
            made = bytearray(chance.choice(seeds))
            for _ in range(chance.randrange(1, 8)):
                made[chance.randrange(12, len(made))] = chance.choice((0, 1, 255, 127, 128, chance.randrange(256)))
            if chance.random() < 0.7:
                made[14:] = with_checksum(bytes(made[14:]), (made[14] & 15) * 4)
            yield bytes(made[: chance.choice((len(made), chance.randrange(1, len(made))))])

    flood(lab, mutants())


# -- tunnels


@pytest.mark.rfc("1122", "3.2.2.1 protocol unreachable")
def test_nested_packets_are_not_unwrapped(lab: Lab) -> None:
    for depth in (1, 2, 10, 50):
        packet: Packet = echo_request()
        for _ in range(depth):
            packet = IP(src=PEER_IP, dst=STACK_IP, proto=4) / packet
        lab.peer.send(packet)
        replies = sent(lab)
        assert [(p[ICMP].type, p[ICMP].code) for p in replies] == [(3, 2)], depth
        lab.carrier.advance(2)
    for piece in fragments(IP(src=PEER_IP, dst=STACK_IP, proto=4, id=9) / echo_request(), [16, 32]):
        lab.peer.send(piece)
    assert icmp_errors(sent(lab)) == [(3, 2)]


# -- the identification


@pytest.mark.rfc("6864", "4.1")
def test_atomic_packets_have_no_identification(lab: Lab) -> None:
    lab.peer.send(IP(src=PEER_IP, dst=STACK_IP) / TCP(sport=1234, dport=ECHO_PORT, flags="S"))
    (reply,) = sent(lab)
    assert (reply[IP].flags, reply[IP].id) == ("DF", 0)
    lab.peer.send(IP(src=PEER_IP, dst=STACK_IP) / TCP(sport=1234, dport=ECHO_PORT, flags="R", seq=1))


@pytest.mark.rfc("6864", "4.3")
def test_identification_tells_nothing(lab: Lab) -> None:
    """10,000 echo replies: no value twice (within the 65,536 there are), no common step, nothing global to watch."""
    request = frame(lab, bytes(echo_request()))
    idents = []
    for _ in range(100):
        lab.carrier.send_many([request] * 100)
        idents += [int.from_bytes(reply[18:20], "big") for reply in lab.carrier.drain()]
    assert len(set(idents)) == len(idents) == 10000
    steps = Counter((later - earlier) % 65536 for earlier, later in pairwise(idents))
    assert max(steps.values()) < 50, "a step that many replies have in common"
    near = sum(1 for earlier, later in pairwise(idents) if (later - earlier) % 65536 < 256)
    assert near < 200, "replies come close after one another"


# -- fragments


def overlaps() -> list[tuple[str, list[tuple[int, int, bool]]]]:
    """Three pieces of a 48-byte payload of which two overlap: (start, end, more), every order."""
    base = [(0, 24, True), (24, 48, False)]
    liars = [
        (8, 16, True),
        (16, 32, True),
        (0, 48, False),
        (0, 8, True),
        (40, 48, False),
        (24, 32, True),
        (24, 56, False),
    ]
    found = []
    for liar in liars:
        for order in permutations([*base, liar]):
            found.append((f"{order}", list(order)))
    return found


def piece_of(payload: bytes, start: int, end: int, more: bool, ident: int, proto: int = 1) -> Packet:
    body = payload[start:end].ljust(end - start, b"!")
    return IP(src=PEER_IP, dst=STACK_IP, id=ident, proto=proto, flags="MF" if more else 0, frag=start // 8) / Raw(body)


@pytest.mark.rfc("5722", "4")
def test_overlaps_drop_the_datagram(lab: Lab) -> None:
    """Teardrop and its kin: whatever overlaps, with other bytes or another extent, takes the datagram with it, unless
    that was complete before."""
    payload = bytes(ICMP(type=8, id=1, seq=1) / Raw(b"0123456789abcdef0123456789abcdef01234567"))
    assert len(payload) == 48
    for number, (what, order) in enumerate(overlaps()):
        cut = [piece for piece in order if piece != (0, 48, False)]  # that one is a whole packet, no fragment
        complete = {(0, 24, True), (24, 48, False)} <= set(cut[:2])
        for start, end, more in order:
            lab.peer.send(piece_of(payload, start, end, more, 1000 + number))
        answers = len([p for p in sent(lab) if ICMP in p and p[ICMP].type == 0])
        assert answers == complete + len(order) - len(cut), what


@pytest.mark.rfc("8200", "4.5 exact duplicates")
def test_exact_duplicates_are_ignored(lab: Lab) -> None:
    packet = echo_request(id=77)
    first, second, third = fragments(packet, [8, 24])
    for piece in (first, first, third, third, first):
        lab.peer.send(piece)
    assert sent(lab) == []
    lab.peer.send(second)
    assert [p[ICMP].type for p in sent(lab)] == [0]


def test_duplicate_with_other_bytes_poisons(lab: Lab) -> None:
    packet = echo_request(id=78)
    first, second = fragments(packet, [16])
    lie = first.copy()
    lie[Raw].load = b"x" * 16
    with counted(lab) as grown:
        for piece in (first, lie, second, first, second):
            lab.peer.send(piece)
    assert sent(lab) == []
    assert grown["DropFragOverlap"] >= 3
    lab.carrier.advance(31)
    for piece in (first, second):
        lab.peer.send(piece)
    assert [p[ICMP].type for p in sent(lab)] == [0], "the poison ends with the timer"


def test_two_ends(lab: Lab) -> None:
    payload = bytes(echo_request()[ICMP])
    for number, ends in enumerate([(24, 32), (32, 24)]):
        lab.peer.send(piece_of(payload, 0, 16, True, 300 + number))
        for end in ends:
            lab.peer.send(piece_of(payload, 16, end, False, 300 + number))
        lab.peer.send(piece_of(payload, 16, 24, True, 300 + number))
    answers = [p for p in sent(lab) if ICMP in p and p[ICMP].type == 0]
    assert answers == []  # the checksum covers 40 bytes: what was complete at 24 or 32 was no valid echo


@pytest.mark.rfc("791", "3.2 reassembly")
def test_ping_of_death(lab: Lab) -> None:
    with counted(lab) as grown:
        for offset, length in ((8189, 1000), (8191, 8), (8190, 16), (8184, 64)):
            lab.peer.send(IP(src=PEER_IP, dst=STACK_IP, id=5, proto=1, frag=offset, flags=0) / Raw(b"x" * length))
    assert grown["DropFragTooBig"] == 4
    assert sent(lab) == []


@pytest.mark.rfc("1858", "3", "4")
def test_fragments_that_hide_or_say_nothing(lab: Lab) -> None:
    tcp = bytes(TCP(sport=1234, dport=ECHO_PORT, flags="S"))
    cases = [
        ("first of 8 bytes of TCP", [(6, 0, True, tcp[:8]), (6, 8, False, tcp[8:])]),
        ("first of 16 bytes of TCP", [(6, 0, True, tcp[:16]), (6, 16, False, tcp[16:])]),
        ("TCP at offset 8", [(6, 0, True, tcp + bytes(4)), (6, 8, True, bytes(8))]),
        ("length no multiple of 8", [(1, 0, True, bytes(15))]),
        ("length 1 with more", [(1, 0, True, bytes(1))]),
        ("nothing in the first", [(1, 0, True, b"")]),
        ("nothing in the middle", [(1, 16, True, b"")]),
        ("nothing in the last", [(1, 16, False, b"")]),
    ]
    for number, (what, pieces) in enumerate(cases):
        with counted(lab) as grown:
            for proto, offset, more, data in pieces:
                lab.peer.send(
                    IP(
                        src=PEER_IP,
                        dst=STACK_IP,
                        id=40 + number,
                        proto=proto,
                        frag=offset // 8,
                        flags="MF" if more else 0,
                    )
                    / Raw(data)
                )
        assert grown["DropFragMalformed"] >= 1, what
        assert sent(lab) == [], what


def test_fragment_flood_is_bounded(lab: Lab) -> None:
    """FragmentSmack: 100,000 fragments of 20,000 datagrams that never end. Memory stays below the threshold, the timers
    are gone after 30 s, and a fragmented ping still gets through in the middle of it."""

    def incomplete(first: int, last: int) -> Iterator[bytes]:
        template = bytearray(frame(lab, bytes(piece_of(bytes(64), 8, 72, True, 0))))
        for ident in range(first, last):
            template[18:20] = ident.to_bytes(2, "big")
            for offset in (1, 10, 20, 30, 40):
                template[20:22] = (0x2000 | offset).to_bytes(2, "big")
                yield bytes(template[:14]) + with_checksum(bytes(template[14:]), 20)

    for start in range(0, 20000, 4000):
        flood(lab, incomplete(start, start + 4000))
        assert lab.stack.live()["buffer_bytes"] <= FRAGMENT_MEMORY
        for piece in fragments(echo_request(id=65000), [16]):
            lab.peer.send(piece)
        assert [p[ICMP].type for p in sent(lab)] == [0]
    grown = lab.stack.counters()
    assert grown["DropFragMemory"] > 10000
    assert lab.stack.live()["fragments"] > 0
    lab.carrier.advance(31)
    assert lab.stack.live()["fragments"] == 0
    lab.carrier.drain()


def test_pieces_of_one_datagram_are_bounded(lab: Lab) -> None:
    payload = bytes(8 * 200)
    with counted(lab) as grown:
        for n in range(200):
            lab.peer.send(piece_of(payload, n * 16, n * 16 + 8, True, 600))
    assert grown["DropFragTooMany"] == 1
    assert lab.stack.live()["buffers"] == 0
