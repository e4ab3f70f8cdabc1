"""The Internet checksum against the plain definition of RFC 1071, and with pseudo headers against scapy."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from ustack_ext.wire.codec import checksum, transport_checksum


def plain_checksum(data: bytes) -> int:
    """RFC 1071 §1, word by word."""
    total = 0
    for i in range(0, len(data), 2):
        total += int.from_bytes(data[i:i + 2].ljust(2, b"\0"), "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@pytest.mark.rfc("1071", "3")
def test_numerical_example() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF


@given(st.binary(max_size=300))
@example(b"")
@example(b"\xff" * 300)
def test_same_as_definition(data: bytes) -> None:
    assert checksum(data) == plain_checksum(data)


@pytest.mark.parametrize("fill", [b"\x00", b"\xff", b"\x80", b"\x01\xfe\x7f"])
def test_every_length_and_alignment(fill: bytes) -> None:
    """All the tails of the short loop, and of the vector loop that takes over at 160 bytes."""
    for n in range(360):
        data = (fill * 360)[:n]
        assert checksum(data) == plain_checksum(data), n


def test_carries_of_a_superframe() -> None:
    """65,535 bytes of ones: the most carries there can be."""
    data = b"\xff" * 65535
    assert checksum(data) == plain_checksum(data)


@pytest.mark.rfc("1071", "2(B)")
@given(st.binary(max_size=200), st.integers(0, 200))
def test_split_at_any_offset(data: bytes, at: int) -> None:
    assert checksum(data, at) == plain_checksum(data)


@given(st.binary(max_size=200).filter(lambda data: any(data)))
def test_data_with_its_checksum_sums_to_zero(data: bytes) -> None:
    data = data.ljust(len(data) + len(data) % 2, b"\0")
    assert checksum(data + checksum(data).to_bytes(2, "big")) == 0


@given(st.binary(max_size=200), st.integers(0, 199), st.integers(1, 255))
def test_one_changed_byte_is_seen(data: bytes, at: int, flip: int) -> None:
    """A change of one byte never adds up to a multiple of 0xFFFF, so it always shows."""
    if at < len(data):
        changed = bytearray(data)
        changed[at] ^= flip
        assert checksum(bytes(changed)) != checksum(data)


packed4 = st.binary(min_size=4, max_size=4)
packed16 = st.binary(min_size=16, max_size=16).filter(lambda packed: packed[:12] != bytes(10) + b"\xff\xff")


def dotted(packed: bytes) -> str:
    return ".".join(str(byte) for byte in packed)


def colons(packed: bytes) -> str:
    return ":".join(packed[i:i + 2].hex() for i in range(0, 16, 2))


@pytest.mark.rfc("768", "-")
@pytest.mark.rfc("9293", "MUST-2", "MUST-3")
@given(packed4, packed4, st.binary(max_size=100))
def test_pseudo_header_ipv4(src: bytes, dst: bytes, payload: bytes) -> None:
    for layer, proto, at in ((TCP(sport=1, dport=2), 6, 16), (UDP(sport=1, dport=2), 17, 6)):
        segment = bytes(IP(src=dotted(src), dst=dotted(dst), proto=proto) / layer / Raw(payload))[20:]
        assert transport_checksum(src, dst, proto, segment) == 0
        blank = segment[:at] + b"\0\0" + segment[at + 2:]
        said = int.from_bytes(segment[at:at + 2], "big")
        assert transport_checksum(src, dst, proto, blank) in ({said, 0} if said == 0xFFFF else {said})


@pytest.mark.rfc("8200", "8.1")
@given(packed16, packed16, st.binary(max_size=100))
def test_pseudo_header_ipv6(src: bytes, dst: bytes, payload: bytes) -> None:
    # Bytes 2 and 3 of a link's own addresses are zero on the wire: inside they hold the zone, which no sum covers.
    src, dst = (one[:2] + bytes(2) + one[4:] if one[0] == 0xFF or one[:1] == b"\xfe" else one for one in (src, dst))
    segment = bytes(IPv6(src=colons(src), dst=colons(dst), nh=6) / TCP(sport=1, dport=2) / Raw(payload))[40:]
    assert transport_checksum(src, dst, 6, segment) == 0
