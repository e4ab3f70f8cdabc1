"""Headers that lie: every parser with every prefix of a good packet, random bytes, and lengths that contradict.

The codec hands the parsers blocks of exactly the given length, so that a sanitizer build sees a read one byte too far.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from ustack_ext.wire import codec

Parser = Callable[[bytes], dict]

GOOD: list[tuple[Parser, bytes, int]] = [      # parser, a packet it accepts, the fewest bytes it may accept
    (codec.parse_ethernet, bytes(Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02", type=0x800)), 14),
    (codec.parse_arp, bytes(ARP(hwsrc="02:00:00:00:00:01", psrc="1.2.3.4", hwdst="0:0:0:0:0:0", pdst="5.6.7.8")), 28),
    (codec.parse_ipv4, bytes(IP(src="10.9.0.1", dst="10.9.0.2", options=b"\x01" * 40) / Raw(b"payload")), 67),
    (codec.parse_icmp, bytes(ICMP(type=8) / Raw(b"payload")), 15),
    (codec.parse_udp, bytes(UDP(sport=1, dport=2, len=15, chksum=0) / Raw(b"payload")), 15),
    (codec.parse_tcp, bytes(TCP(sport=1, dport=2, options=[("Timestamp", (1, 2))])), 32),
]
NAMES = [parser.__name__ for parser, _, _ in GOOD]


def reason(parser: Parser, data: bytes) -> str:
    """Why `parser` refuses `data`; empty if it does not."""
    try:
        parser(data)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("parser", "packet", "need"), GOOD, ids=NAMES)
def test_every_prefix(parser: Parser, packet: bytes, need: int) -> None:
    for n in range(len(packet) + 1):
        refused = reason(parser, packet[:n])
        assert bool(refused) == (n < need), n
        assert refused in ("", "truncated") or (parser is codec.parse_icmp and n >= 8 and refused == "checksum")


@pytest.mark.parametrize("parser", [parser for parser, _, _ in GOOD], ids=NAMES)
@given(data=st.binary(max_size=128))
def test_random_bytes(parser: Parser, data: bytes) -> None:
    """A dict or a reason, nothing else; and what is accepted keeps its own promises (headers.pxd)."""
    refused = reason(parser, data)
    assert refused in ("", *codec.REASONS.values())
    fields = {} if refused else parser(data)
    for name in ("hlen", "length", "total_len"):
        assert fields.get(name, 0) <= len(data)
    if "total_len" in fields:
        assert 20 <= fields["hlen"] <= fields["total_len"]


@pytest.mark.parametrize("parser", [parser for parser, _, _ in GOOD], ids=NAMES)
@given(data=st.data())
def test_damaged_good_packets(parser: Parser, data: st.DataObject) -> None:
    """One byte changed and the end cut off: deeper into the parser than random bytes come."""
    packet = bytearray(next(packet for p, packet, _ in GOOD if p is parser))
    packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    if parser is codec.parse_ipv4:
        hlen = min(max(packet[0] & 15, 5) * 4, 60)
        packet[10:12] = bytes(2)
        packet[10:12] = codec.checksum(bytes(packet[:hlen])).to_bytes(2, "big")
    cut = bytes(packet[:data.draw(st.integers(0, len(packet)))])
    try:
        fields = parser(cut)
    except ValueError:
        return
    assert all(fields.get(name, 0) <= len(cut) for name in ("hlen", "length", "total_len"))


def ipv4_with(ihl: int, total: int, captured: int) -> bytes:
    """A header that claims these, with a right checksum over what it claims to be, in a frame of `captured` bytes."""
    packet = bytearray(bytes(IP(src="10.9.0.1", dst="10.9.0.2", ihl=5, len=total, chksum=0))) + bytearray(captured)
    packet = packet[:captured]
    packet[0] = 0x40 | ihl
    packet[10:12] = codec.checksum(bytes(packet[:max(ihl * 4, 20)])).to_bytes(2, "big")
    return bytes(packet)


@pytest.mark.rfc("791", "3.1")
@pytest.mark.parametrize("captured", [20, 28, 46, 60, 64, 1500])
def test_every_header_length_with_total_lengths(captured: int) -> None:
    for ihl, total in itertools.product(range(16), [0, 1, 19, 20, 21, 28, 59, 60, 61, 64, 1499, 1500, 1501, 65535]):
        refused = reason(codec.parse_ipv4, ipv4_with(ihl, total, captured))
        if ihl < 5 or total < ihl * 4:
            assert refused == "length", (ihl, total)
        elif total > captured:
            assert refused == "truncated", (ihl, total)
        else:
            assert not refused, (ihl, total)


@pytest.mark.rfc("1122", "3.2.1.1")
@pytest.mark.parametrize("version", [version for version in range(16) if version != 4])
def test_other_ip_versions(version: int) -> None:
    packet = bytearray(ipv4_with(5, 20, 20))
    packet[0] = version << 4 | 5
    assert reason(codec.parse_ipv4, bytes(packet)) == "version"


@pytest.mark.rfc("1122", "3.2.1.2")
def test_ipv4_checksum_is_verified_bit_by_bit() -> None:
    packet = bytes(IP(src="10.9.0.1", dst="10.9.0.2", options=b"\x01" * 4))
    for bit in range(len(packet) * 8):
        damaged = bytearray(packet)
        damaged[bit // 8] ^= 0x80 >> bit % 8
        assert reason(codec.parse_ipv4, bytes(damaged)), bit


@pytest.mark.rfc("1122", "3.2.2")
def test_icmp_checksum() -> None:
    packet = bytearray(bytes(ICMP(type=8) / Raw(b"odd")))
    packet[-1] ^= 1
    assert reason(codec.parse_icmp, bytes(packet)) == "checksum"
    assert codec.parse_icmp(bytes(packet), csum_ok=True)["type"] == 8


@pytest.mark.rfc("768", "-")
@pytest.mark.parametrize("captured", [8, 9, 20, 1472])
def test_udp_lengths(captured: int) -> None:
    for length in [*range(32), captured - 1, captured, captured + 1, 65535]:
        refused = reason(codec.parse_udp, codec.emit_udp(1, 2, length).ljust(captured, b"x"))
        expected = "length" if length < 8 else "truncated" if length > captured else ""
        assert refused == expected, length


@pytest.mark.rfc("9293", "3.1")
@pytest.mark.parametrize("captured", range(20, 65))
def test_tcp_data_offsets(captured: int) -> None:
    for words in range(16):
        refused = reason(codec.parse_tcp, codec.emit_tcp(1, 2, 3, 4, 0x10, 5, hlen=4 * words).ljust(captured, b"\0"))
        expected = "length" if words < 5 else "truncated" if 4 * words > captured else ""
        assert refused == expected, words


@pytest.mark.rfc("826", "-")
@pytest.mark.parametrize(("at", "value"), [
    (0, 6), (2, 0x86DD), (4, 0x0804), (4, 0x0610), (4, 0), (6, 0), (6, 3), (6, 8), (6, 65535)])
def test_arp_of_another_kind(at: int, value: int) -> None:
    packet = bytearray(codec.emit_arp(1, b"\2" * 6, 1, bytes(6), 2))
    packet[at:at + 2] = value.to_bytes(2, "big")
    assert reason(codec.parse_arp, bytes(packet)) == "version"
