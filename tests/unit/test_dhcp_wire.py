"""The DHCPv4 codec and what it makes of hostile messages (RFC 2131 §4.1, 2132, 3396, 3397, 3442)."""

from __future__ import annotations

import random
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack import dhcp_wire as wire
from ustack.dhcp_machine import Machine
from ustack.dhcp_wire import Message

MAC = b"\2\0\0\0\0\1"
HEAD = wire.build(Message(wire.BOOTREPLY, 7, MAC, {}, yiaddr=IPv4Address("10.0.0.5")))[:240]
option = st.integers(1, 254).filter(lambda n: n != wire.OVERLOAD)


@given(st.dictionaries(option, st.binary(max_size=255), max_size=8), st.integers(0, 2**32 - 1))
def test_messages_survive(options: dict[int, bytes], xid: int) -> None:
    message = Message(wire.BOOTREQUEST, xid, MAC, options, 3, wire.BROADCAST_FLAG, IPv4Address("10.0.0.1"))
    raw = wire.build(message)
    assert len(raw) >= 300
    assert wire.parse(raw) == message


def test_long_options_are_put_together() -> None:
    raw = HEAD + bytes([121, 3, 24, 192, 168, 53, 1, 5, 121, 5, 7, 10, 0, 0, 9, 255])
    message = wire.parse(raw)
    assert message.type == 5
    assert [(str(a), str(b)) for a, b in message.routes() or ()] == [("192.168.7.0/24", "10.0.0.9")]


def test_overload() -> None:
    raw = bytearray(HEAD + bytes([52, 1, 3, 255]))
    raw[108:113] = [51, 4, 0, 0, 1]  # file: its length goes on in the next byte
    raw[113:115] = [0, 255]
    raw[44:48] = [53, 1, 5, 255]  # sname
    message = wire.parse(bytes(raw))
    assert message.number(wire.LEASE_TIME) == 256
    assert message.type == wire.ACK


@pytest.mark.parametrize(
    "tail", [[53], [53, 5, 1], [53, 255, 1], [52, 1, 1, 53, 9], [0, 0, 53, 1]], ids=lambda tail: str(tail)
)
def test_options_that_lie(tail: list[int]) -> None:
    with pytest.raises(wire.DhcpError):
        wire.parse(HEAD + bytes(tail))


def test_other_messages() -> None:
    for raw in (b"", HEAD[:239], HEAD[:236] + b"\0\0\0\0", HEAD[:2] + b"\xff" + HEAD[3:]):
        with pytest.raises(wire.DhcpError):
            wire.parse(raw)


@pytest.mark.parametrize("value", [b"\x21\1\2\3\4\5\6\7\x08\x09", b"\x18\1\2", b"\0\1\2", b"\x08\1\2\3"])
def test_routes_that_are_none(value: bytes) -> None:
    assert Message(2, 0, MAC, {wire.ROUTES: value}).routes() is None


def test_search_lists_end() -> None:
    for value, wanted in (
        (b"\3eng\4test\0\x09marketing\xc0\4", ("eng.test", "marketing.test")),
        (b"\xc0\0", ()),
        (b"\1a\0\xc0\3", ("a",)),
        (b"\3en", ()),
    ):
        assert Message(2, 0, MAC, {wire.SEARCH: value}).search() == wanted


@pytest.mark.parametrize(("mask", "length"), [("255.255.255.0", 24), ("255.0.255.0", None), ("0.0.0.0", None)])
def test_masks(mask: str, length: int | None) -> None:
    assert Message(2, 0, MAC, {wire.SUBNET_MASK: IPv4Address(mask).packed}).prefix_length() == length


@given(st.binary(max_size=400), st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=12))
def test_no_message_hurts_the_machine(tail: bytes, options: list[tuple[int, bytes]]) -> None:
    """Whatever comes in whatever state: no exception but DhcpError, and the machine goes on."""
    machine = Machine(MAC, random.Random(1))
    machine.start(0.0)
    machine.timer(2.0)
    listed = b"".join(bytes([n, len(value)]) + value for n, value in options)
    for kind in (wire.OFFER, wire.ACK, wire.NAK):
        for rest in (tail, listed, listed + tail):
            good = bytes([53, 1, kind, 54, 4, 10, 0, 0, 1, 51, 4, 0, 0, 14, 16])
            raw = HEAD[:4] + machine._xid.to_bytes(4, "big") + HEAD[8:] + good + rest
            try:
                message = wire.parse(raw)
            except wire.DhcpError:
                continue
            machine.receive(message, 3.0)
            machine.checked(True, 4.0)
    assert machine.deadline is not None
    machine.timer(machine.deadline)
