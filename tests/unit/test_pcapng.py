"""pcapng, written and read: round trips, other writers' byte order, and what is no pcapng."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import RawPcapNgReader

from ustack import pcapng
from ustack.pcapng import INBOUND, OUTBOUND, Packet
from ustack_ext.wire.pcapng import interface, packet, section

PACKETS = st.builds(
    Packet,
    interface=st.just("net0"),
    linktype=st.just(pcapng.ETHERNET),
    ns=st.integers(0, 2**62),
    data=st.binary(max_size=70),
    length=st.integers(0, 2**32 - 1),
    direction=st.sampled_from([INBOUND, OUTBOUND]),
    comments=st.one_of(st.just(()), st.tuples(st.text(st.characters(codec="ascii"), min_size=1, max_size=9))),
)


def block_of(one: Packet) -> bytes:
    return packet(0, one.ns, one.data, one.direction, one.length, "".join(one.comments).encode())


@given(st.lists(PACKETS, max_size=5), st.text(st.characters(codec="utf-8"), max_size=20))
def test_what_is_written_is_read(packets: list[Packet], comment: str) -> None:
    data = section(b"ustack", comment.encode()) + interface(1, 0, b"net0", bytes(6))
    data += b"".join(block_of(one) for one in packets)
    assert list(pcapng.read(io.BytesIO(data))) == packets


def test_scapy_reads_it(tmp_path: Path) -> None:
    pcapng.write(tmp_path / "f", [(1.5, INBOUND, b"one"), (2.25, OUTBOUND, b"second")], "target", "why")
    read = list(RawPcapNgReader(str(tmp_path / "f")))
    assert [data for data, _ in read] == [b"one", b"second"]
    assert [(m.tshigh << 32 | m.tslow, m.ifname, m.direction) for _, m in read] == [
        (1500000000, b"target", 1),
        (2250000000, b"target", 2),
    ]


def test_the_other_byte_order_and_resolution() -> None:
    def block(kind: int, body: bytes) -> bytes:
        return struct.pack(">II", kind, len(body) + 12) + body + struct.pack(">I", len(body) + 12)

    head = block(0x0A0D0D0A, struct.pack(">IHHq", 0x1A2B3C4D, 1, 0, -1)) + block(1, struct.pack(">HHI", 101, 0, 0))
    unknown = block(77, b"????")
    data = head + unknown + block(6, struct.pack(">IIIII", 0, 0, 1000, 2, 9) + b"ab\0\0")
    assert list(pcapng.read(io.BytesIO(data))) == [Packet("", 101, 1000 * 1000, b"ab", 9)]


@given(st.binary(max_size=60))
def test_anything_else_is_refused_or_ends(data: bytes) -> None:
    begin = section() + interface(1, 0, b"x")
    for made in (data, begin + data):
        try:
            list(pcapng.read(io.BytesIO(made)))
        except ValueError:
            continue


def test_a_file_that_breaks_off_is_read_as_far_as_it_goes() -> None:
    data = section() + interface(1, 0, b"x") + packet(0, 1, b"whole", INBOUND) + packet(0, 2, b"half", INBOUND)[:-6]
    assert [one.data for one in pcapng.read(io.BytesIO(data))] == [b"whole"]


@pytest.mark.parametrize("data", [b"GIF89a..", struct.pack("=IIII", 0x0A0D0D0A, 28, 5, 5)])
def test_no_pcapng(data: bytes) -> None:
    with pytest.raises(ValueError, match="no pcapng"):
        list(pcapng.read(io.BytesIO(data)))
