"""The DNS codec: names and messages, and what is none (RFC 1035 §3.1, §4.1; attacks on compression)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack import dns

HEAD = struct.pack("!6H", 7, 0x8180, 1, 1, 0, 0)
QUESTION = dns.encode_name("www.test") + struct.pack("!HH", 1, 1)
label = st.binary(min_size=1, max_size=63)


@given(st.lists(label, max_size=4))
def test_names_survive(labels: list[bytes]) -> None:
    wire = b"".join(bytes([len(one)]) + one for one in labels) + b"\0"
    if len(wire) > dns.MAX_NAME:
        with pytest.raises(dns.DnsError):
            dns.decode_name(wire, 0)
        return
    name, end = dns.decode_name(wire, 0)
    assert end == len(wire)
    assert dns.encode_name(name) == wire
    assert name.isascii()
    assert name.isprintable()


@pytest.mark.parametrize("name", ["a..b", ".a", "x" * 64, ".".join(["x" * 63] * 4), "ü.test", "a\\", "a\\999"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(dns.DnsError):
        dns.encode_name(name)


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"\x03ab",
        b"\xc0",
        b"\xc0\x00",  # to itself
        b"\x01a\xc0\x00",  # round and round
        b"\xc0\x02\xc0\x00",
        b"\xc0\x05\x00",  # forwards
        b"\x40a\x00",
        b"\x80a\x00",
        b"\x3f" + b"a" * 63 + b"\x3f" + b"b" * 63 + b"\x3f" + b"c" * 63 + b"\x3f" + b"d" * 63 + b"\x00",
    ],
)
def test_wires_that_are_no_names(wire: bytes) -> None:
    with pytest.raises(dns.DnsError):
        dns.decode_name(wire, 0)


def test_a_chain_of_pointers_backwards_ends() -> None:
    wire = b"\x01a\x00\xc0\x00" + b"".join(struct.pack("!H", 0xC000 | 3 + 2 * i) for i in range(1000))
    assert dns.decode_name(wire, len(wire) - 2) == ("a", len(wire))


def test_a_query() -> None:
    raw = dns.make_query(7, "www.test", dns.AAAA, 1232)
    message = dns.parse(raw)
    assert (message.id, message.flags, message.questions) == (7, dns.RD, (("www.test", dns.AAAA, dns.IN),))
    assert [(one.type, one.data) for one in message.additional] == [(dns.OPT, 1232)]
    assert not message.is_response


def test_an_answer_with_compression() -> None:
    record = b"\xc0\x0c" + struct.pack("!HHIH", dns.CNAME, 1, 60, 6) + b"\x03far\xc0\x10"
    message = dns.parse(HEAD + QUESTION + record)
    assert message.answers == (dns.Record("www.test", dns.CNAME, 60, "far.test"),)


@pytest.mark.parametrize(
    "record",
    [
        b"\xc0\x0c" + struct.pack("!HHIH", dns.A, 1, 60, 5) + bytes(5),
        b"\xc0\x0c" + struct.pack("!HHIH", dns.A, 1, 60, 400) + bytes(4),
        b"\xc0\x0c" + struct.pack("!HHIH", dns.CNAME, 1, 60, 9) + b"\x03far\xc0\x10" + bytes(3),
        b"\xc0\x0c" + struct.pack("!HHIH", dns.SOA, 1, 60, 6) + b"\x03far\xc0\x10",
        b"\xc0\x0c" + struct.pack("!HH", dns.A, 1),
        b"",
    ],
)
def test_records_that_lie(record: bytes) -> None:
    with pytest.raises(dns.DnsError):
        dns.parse(HEAD + QUESTION + record)


def test_a_ttl_with_the_uppermost_bit_is_nothing() -> None:
    record = b"\xc0\x0c" + struct.pack("!HHIH", dns.A, 1, 1 << 31, 4) + bytes(4)
    assert dns.parse(HEAD + QUESTION + record).answers[0].ttl == 0  # RFC 2181 §8


@given(st.binary(max_size=300))
def test_rubbish_is_refused_or_read(data: bytes) -> None:
    for raw in (data, HEAD + data, HEAD + QUESTION + data, struct.pack("!6H", 1, 0x8180, *[65535] * 4) + data):
        try:
            message = dns.parse(raw)
        except dns.DnsError:
            continue
        assert len(message.answers) <= len(raw)


@given(st.data())
def test_a_good_answer_with_a_byte_changed(data: st.DataObject) -> None:
    record = b"\xc0\x0c" + struct.pack("!HHIH", dns.CNAME, 1, 60, 6) + b"\x03far\xc0\x10"
    raw = bytearray(HEAD + QUESTION + record)
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    try:
        dns.parse(bytes(raw[:cut]))
    except dns.DnsError:
        pass
