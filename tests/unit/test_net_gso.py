"""Software segmentation against scapy: every frame that a superframe is cut into, byte for byte."""

from __future__ import annotations

import errno
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from ustack_ext.net.testing import transmit

CSUM_WANTED = 1
TIMESTAMPS = [("NOP", None), ("NOP", None), ("Timestamp", (123456, 654321))]
LONGEST = [*TIMESTAMPS, ("NOP", None), ("NOP", None), ("SAck", (1, 2, 3, 4, 5, 6))]


def headers(flags: str = "PA", *, six: bool = False) -> Packet:
    """Everything in front of the payload, on an Ethernet."""
    ip: Packet = IP(src="10.9.0.2", dst="10.9.0.1", id=0, flags="DF", ttl=61, tos=0x28)
    if six:
        ip = IPv6(src="fd09::2", dst="fd09::1", hlim=61, tc=0x28, fl=0x54321)
    tcp = TCP(sport=4000, dport=80, seq=0xFFFFFF00, ack=77, window=500, flags=flags, options=TIMESTAMPS)
    return Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / ip / tcp


def spread(head: bytes, payload: bytes, cuts: list[int]) -> list[bytes]:
    """Headers and payload as pieces in memory: the payload cut at these offsets, or all in one after -1."""
    if cuts == [-1]:
        return [head + payload]
    edges = [0, *sorted(min(cut, len(payload)) for cut in cuts), len(payload)]
    return [head, *(payload[a:b] for a, b in pairwise(edges))]


def expected(packet: Packet, payload: bytes, size: int) -> list[bytes]:
    """What scapy makes of the pieces of the packet, checksums included."""
    frames = []
    for at in range(0, len(payload), size):
        piece: Any = packet.copy()
        gone = ("" if at == 0 else "C") + ("" if at + size >= len(payload) else "FP")
        piece[TCP].seq = (packet[TCP].seq + at) & 0xFFFFFFFF
        piece[TCP].flags = "".join(flag for flag in str(packet[TCP].flags) if flag not in gone)
        if IP in packet and not packet[IP].flags.DF:
            piece[IP].id = (packet[IP].id + at // size) & 0xFFFF
        frames.append(bytes(piece / Raw(payload[at : at + size])))
    return frames


def cut(packet: Packet, payload: bytes, size: int, cuts: list[int] | None = None, **more: Any) -> Any:
    """transmit() of the superframe."""
    head = bytes(packet)
    start = head.index(bytes(packet[TCP])[:12])
    offload = {"gso_size": size, "hdr_len": len(head), "csum_start": start, "six": IPv6 in packet, **more}
    return transmit(spread(head, payload, cuts or []), **offload)


@given(
    data=st.integers(2, 20000),
    size=st.integers(1, 9000),
    cuts=st.one_of(st.just([-1]), st.lists(st.integers(0, 20000), max_size=12)),
    flags=st.sets(st.sampled_from("FPCEU")),
    options=st.sampled_from([[], TIMESTAMPS, LONGEST]),
    fragmentable=st.booleans(),
    ident=st.integers(0, 0xFFFF),
    ethernet=st.booleans(),
    six=st.booleans(),
    seed=st.integers(0, 255),
)
@settings(max_examples=200)
def test_every_frame_is_what_scapy_would_send(**drawn: Any) -> None:
    data, size, cuts, flags, options, fragmentable, ident, ethernet, six, seed = drawn.values()
    size = max(size, data // 64)
    packet = headers("A" + "".join(sorted(flags)), six=six)
    if not six:
        packet[IP].id = ident
        packet[IP].flags = 0 if fragmentable else "DF"
    packet[TCP].options = options
    if not ethernet:
        packet = packet[1]
    payload = bytes((i * 7 + seed) & 0xFF for i in range(data))
    status, frames, counters = cut(packet, payload, size, cuts, medium="ethernet" if ethernet else "ip")
    wanted = expected(packet, payload, size)
    assert status == 0
    assert [frame for frame, *_ in frames] == wanted
    head = len(bytes(packet))
    assert {tuple(offload) for _, *offload in frames} == {(0, 0, head, head - len(bytes(packet[TCP])), 16)}
    assert counters == {"tx_packets": len(wanted), "tx_bytes": sum(map(len, wanted)), "tx_dropped": 0}


@given(
    data=st.integers(2, 20000),
    size=st.integers(1, 9000),
    cuts=st.one_of(st.just([-1]), st.lists(st.integers(0, 20000), max_size=12)),
    six=st.booleans(),
    tag=st.booleans(),
    by_link=st.booleans(),
)
@settings(max_examples=100)
def test_datagrams_and_frames_with_a_tag(**drawn: Any) -> None:
    """A UDP superframe is as many datagrams; a tag is in each piece."""
    data, size, cuts, six, tag, by_link = drawn.values()
    size = max(size, data // 64)
    packet = headers(six=six)
    payload = bytes((i * 5) & 0xFF for i in range(data))
    if tag:
        packet = packet[Ether].copy()
        inner = packet.payload
        packet.remove_payload()
        packet = packet / Dot1Q(vlan=5, prio=3) / inner
        status, frames, _ = cut(packet, payload, size, cuts)
        assert (status, [frame for frame, *_ in frames]) == (0, expected(packet, payload, size))
    packet = packet.copy()
    packet[IPv6 if six else IP].remove_payload()
    packet = packet / UDP(sport=5000, dport=6000)
    head = bytes(packet)
    start = len(head) - 8
    status, frames, _ = transmit(
        spread(head, payload, cuts), gso_size=size, hdr_len=len(head), csum_start=start, six=six, udp=True,
        can_checksum=by_link,
    )  # fmt: skip
    wanted = [bytes(packet / Raw(payload[at : at + size])) for at in range(0, data, size)]
    assert status == 0
    if by_link:
        assert [frame[: start + 6] + frame[start + 8 :] for frame, *_ in frames] == [
            frame[: start + 6] + frame[start + 8 :] for frame in wanted
        ]
        assert {tuple(rest) for _, *rest in frames} == {(CSUM_WANTED, 0, len(head), start, 6)}
    else:
        assert [frame for frame, *_ in frames] == wanted


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_the_checksum_is_left_to_a_link_that_does_it(six: bool) -> None:
    """The field holds the pseudo header's sum, as the link wants it, with the length of the piece."""
    packet = headers(six=six)
    tcp, addresses = (54, 22) if six else (34, 26)
    status, frames, _ = cut(packet, bytes(range(250)) * 10, 1000, can_checksum=True)
    assert status == 0
    for (frame, flags, gso_size, _, start, offset), whole in zip(
        frames, expected(packet, bytes(range(250)) * 10, 1000), strict=True
    ):
        assert (flags, gso_size, start, offset) == (CSUM_WANTED, 0, tcp, 16)
        assert (frame[: tcp + 16], frame[tcp + 18 :]) == (whole[: tcp + 16], whole[tcp + 18 :])
        pseudo = whole[addresses:tcp] + b"\0\6" + (len(whole) - tcp).to_bytes(2, "big")
        total = sum(int.from_bytes(pseudo[i : i + 2], "big") for i in range(0, len(pseudo), 2))
        assert int.from_bytes(frame[tcp + 16 : tcp + 18], "big") == total % 0xFFFF


@pytest.mark.parametrize(("six", "flag", "tcp"), [(False, 4, 34), (True, 8, 54)], ids=["IPv4", "IPv6"])
def test_a_superframe_goes_whole_to_a_link_that_cuts_it(six: bool, flag: int, tcp: int) -> None:
    packet = headers(six=six)
    head, payload = bytes(packet), bytes(5000)
    status, frames, counters = cut(packet, payload, 1448, can_checksum=True, can_segment=True)
    assert (status, counters["tx_packets"]) == (0, 1)
    assert frames == [(head + payload, CSUM_WANTED | flag, 1448, len(head), tcp, 16)]


@pytest.mark.parametrize(("room", "sent"), [(0, 0), (1, 1), (3, 3)])
def test_behind_a_refused_frame_nothing_is_sent(room: int, sent: int) -> None:
    status, frames, counters = cut(headers(), bytes(7000), 1000, room=room)
    assert (status, len(frames)) == (-errno.ENOBUFS, sent)
    assert counters["DropTxQueueFull"] == counters["tx_dropped"] == 7 - sent
    assert counters["tx_packets"] == sent


@pytest.mark.parametrize(
    "lie",
    [
        {"hdr_len": 67},  # longer than the first piece
        {"hdr_len": 65},  # not where TCP says its header ends
        {"hdr_len": 0},
        {"hdr_len": 2000},  # more than there is
        {"hdr_len": 0xFFFF},
        {"csum_start": 0},
        {"csum_start": 30},
        {"csum_start": 50},  # no room for a TCP header
        {"csum_start": 0xFFFF},
        {"medium": "ip"},  # an Ethernet header where IP should be
    ],
)
def test_headers_that_do_not_hold_together_are_not_cut(lie: dict[str, Any]) -> None:
    packet = headers()
    status, frames, counters = cut(packet, bytes(5000), 1448, **lie)
    assert (status, frames) == (-errno.EMSGSIZE, [])
    assert counters["DropTxTooBig"] == counters["tx_dropped"] == 1


@pytest.mark.parametrize(
    ("at", "value"),
    [(14, 0x65), (14, 0x46), (14, 0x40), (23, 17), (46, 0x00), (46, 0xF0)],
    ids=["version 6", "IP options", "no IP header", "UDP", "no TCP header", "a long TCP header"],
)
def test_only_tcp_over_ip_is_cut(at: int, value: int) -> None:
    head = bytearray(bytes(headers()))
    head[at] = value
    status, frames, _ = transmit([bytes(head), bytes(5000)], gso_size=1448, hdr_len=len(head), csum_start=34)
    assert (status, frames) == (-errno.EMSGSIZE, [])


@pytest.mark.parametrize(
    ("at", "value"),
    [(14, 0x45), (20, 60), (20, 17), (66, 0x00), (66, 0xF0)],
    ids=["version 4", "an extension header", "UDP", "no TCP header", "a long TCP header"],
)
def test_nor_is_anything_else_over_ipv6(at: int, value: int) -> None:
    head = bytearray(bytes(headers(six=True)))
    head[at] = value
    status, frames, _ = transmit([bytes(head), bytes(5000)], gso_size=1448, hdr_len=len(head), csum_start=54, six=True)
    assert (status, frames) == (-errno.EMSGSIZE, [])


def test_the_headers_lie_in_one_piece() -> None:
    head = bytes(headers())
    offload: dict[str, Any] = {"gso_size": 1448, "hdr_len": len(head), "csum_start": 34}
    assert transmit([head[:60], head[60:] + bytes(5000)], **offload)[:2] == (-errno.EMSGSIZE, [])


def test_a_full_vector_leaves_no_room_for_headers_in_the_first_piece() -> None:
    head = bytes(headers())
    most = [head, *(bytes(100) for _ in range(71))]
    offload: dict[str, Any] = {"hdr_len": len(head), "csum_start": 34}
    assert transmit(most, gso_size=7000, **offload)[0] == 0
    most[0] += b"x"
    assert transmit(most, gso_size=7000, **offload)[0] == -errno.EMSGSIZE
