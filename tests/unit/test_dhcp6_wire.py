"""DHCPv6 messages: round trips, hostile bytes, another implementation's opinion (RFC 8415 §21)."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack import dhcp6_wire as wire
from ustack.dhcp6_wire import IA_NA, IA_PD, Association, Binding, Dhcp6Error, Message

lifetimes = st.tuples(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF)).map(sorted)
addresses = st.builds(lambda n, t: Binding(str(IPv6Address(n)), *t), st.integers(0, 2**128 - 1), lifetimes)
prefixes = st.builds(
    lambda n, k, t: Binding(str(IPv6Network((n, k), strict=False)), *t),
    st.integers(0, 2**128 - 1), st.integers(1, 128), lifetimes,
)  # fmt: skip
numbers = st.integers(0, 0xFFFFFFFF)


def associations(kind: int, bindings: st.SearchStrategy[Binding]) -> st.SearchStrategy[Association]:
    listed = st.lists(bindings, max_size=4).map(tuple)
    return st.builds(Association, st.just(kind), numbers, listed, numbers, numbers, st.sampled_from([0, 2, 3]))


messages = st.builds(
    Message,
    st.integers(0, 255),
    st.integers(0, 0xFFFFFF),
    st.dictionaries(st.sampled_from([1, 2, 6, 7, 8, 13, 14, 23, 24, 39, 82, 500]), st.binary(max_size=40), max_size=6),
    st.lists(associations(IA_NA, addresses) | associations(IA_PD, prefixes), max_size=3).map(tuple),
)


@given(messages)
def test_round_trip(message: Message) -> None:
    assert wire.parse(wire.build(message)) == message


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    try:
        message = wire.parse(data)
    except Dhcp6Error:
        return
    assert message.search() is not None
    assert message.addresses(wire.DNS_SERVERS) is not None


@given(messages, st.data())
def test_a_message_cut_short_or_bent(message: Message, data: st.DataObject) -> None:
    raw = bytearray(wire.build(message))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    for text in (bytes(raw), bytes(raw[:at])):
        try:
            wire.parse(text)
        except Dhcp6Error:
            pass


def test_nesting_and_repetition_are_bounded() -> None:
    inner = b""
    for _ in range(1000):
        inner = wire.option(IA_NA, bytes(12) + inner)[:60000]
    with pytest.raises(Dhcp6Error):
        wire.parse(b"\7\0\0\0" + inner + wire.option(IA_NA, b"short"))
    many = wire.option(IA_NA, bytes(12) + wire.option(5, IPv6Address("fd00::1").packed + b"\0\0\0\1\0\0\0\2") * 100)
    assert len(wire.parse(b"\7\0\0\0" + many).associations[0].bindings) == 16
    with pytest.raises(Dhcp6Error):
        wire.parse(b"\7\0\0\0" + b"\0\x0e\0\0" * 200)


@pytest.mark.parametrize(
    "body",
    [
        b"\0", b"\0\1\0", b"\0\1\0\5\0", wire.option(3, bytes(11)), wire.option(3, bytes(12) + b"\0\5\0\x18"),
        wire.option(3, bytes(12) + wire.option(5, bytes(23))), wire.option(25, bytes(12) + wire.option(26, bytes(24))),
        wire.option(25, bytes(12) + wire.option(26, bytes(8) + b"\x81" + bytes(16))),
        wire.option(3, bytes(12) + wire.option(5, bytes(24) + b"\0\x0d\0\3\0")),
    ],
)  # fmt: skip
def test_what_goes_beyond_is_refused(body: bytes) -> None:
    with pytest.raises(Dhcp6Error):
        wire.parse(b"\7\0\0\0" + body)


def test_what_a_server_takes_back_is_no_address() -> None:
    refused = IPv6Address("fd00::1").packed + b"\0\0\0\1\0\0\0\2" + wire.option(wire.STATUS, b"\0\4no")
    upside_down = IPv6Address("fd00::2").packed + b"\0\0\0\2\0\0\0\1"
    body = wire.option(3, bytes(12) + wire.option(5, refused) + wire.option(5, upside_down))
    assert wire.parse(b"\7\0\0\0" + body).associations[0].bindings == ()


def test_search_lists() -> None:
    good = b"\4corp\4test\0\3lab\0"
    assert Message(7, 0, {24: good}).search() == ("corp.test", "lab")
    assert Message(7, 0, {24: good + b"\xc0\0"}).search() == ("corp.test", "lab")  # no pointers here
    assert Message(7, 0, {24: b"\4corp"}).search() == ()


def test_as_scapy_reads_it() -> None:
    dhcp6 = pytest.importorskip("scapy.layers.dhcp6")
    options = {1: wire.duid_ll(b"\2\0\0\0\0\1"), 2: b"\0\3\0\1\2\0\0\0\0\2", 6: wire.numbers((23, 24))}
    made = Message(
        wire.REQUEST, 0x123456, options,
        (Association(IA_NA, 7, (Binding("fd00::5", 10, 20),)), Association(IA_PD, 7, (Binding("fd00::/56", 30, 40),))),
    )  # fmt: skip
    read = dhcp6.DHCP6_Request(wire.build(made))
    assert (read.msgtype, read.trid) == (3, 0x123456)
    assert read[dhcp6.DHCP6OptClientId].duid.lladdr == "02:00:00:00:00:01"
    assert read[dhcp6.DHCP6OptOptReq].reqopts == [23, 24]
    assert read[dhcp6.DHCP6OptIAAddress].addr == "fd00::5"
    assert (read[dhcp6.DHCP6OptIAPrefix].prefix, read[dhcp6.DHCP6OptIAPrefix].plen) == ("fd00::", 56)
    assert read[dhcp6.DHCP6OptIAPrefix].validlft == 40
