"""The walk over IPv4 options: bounds, source routes, and where a fault is, for the ICMP message that reports it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack_ext.wire.codec import check_ipv4_options

RR, TS, LSRR, SSRR = 7, 68, 131, 137
FIRST = 20       # offset of the first option in the header


def padded(options: bytes) -> bytes:
    return options.ljust(-(-len(options) // 4) * 4, b"\0")


@pytest.mark.parametrize("options", [
    b"", bytes(4), b"\x01" * 40, b"\x01\x00\xff\xff",          # EOL ends the walk: what follows is padding
    b"\x94\x04\x00\x00",                                       # router alert (RFC 2113)
    bytes([RR, 7, 4, 0, 0, 0, 0, 0]), bytes([RR, 39, 4]) + bytes(37),
    bytes([RR, 3, 4, 0]), bytes([RR, 7, 8, 0, 0, 0, 0, 0]),    # full
    bytes([TS, 8, 5, 0, 0, 0, 0, 0]), bytes([TS, 12, 5, 1]) + bytes(8), bytes([TS, 4, 5, 0xF0]),
    bytes([0x99, 2, 0, 0]), bytes([0x99, 40]) + bytes(38),     # unknown: skipped by its length
])
def test_good(options: bytes) -> None:
    assert check_ipv4_options(options) == (True, 0, False)


@pytest.mark.rfc("1122", "3.2.1.8")
@pytest.mark.parametrize(("options", "where"), [
    (bytes([1, 1, 1, RR]), FIRST + 3),                         # no room for a length
    (bytes([RR, 0, 0, 0]), FIRST), (bytes([RR, 1, 0, 0]), FIRST), (bytes([0x99, 5, 0, 0]), FIRST),
    (bytes([1, 0x99, 255, 0]), FIRST + 1),
    (bytes([RR, 2, 1, 1]), FIRST + 1), (bytes([TS, 3, 5, 1]), FIRST + 1),      # no room for the pointer or the flags
    (bytes([RR, 7, 3, 0, 0, 0, 0, 0]), FIRST + 2), (bytes([TS, 8, 4, 0, 0, 0, 0, 0]), FIRST + 2),
    (bytes([RR, 7, 5, 0, 0, 0, 0, 0]), FIRST + 2),             # some room, but not for an address
    (bytes([TS, 8, 5, 1, 0, 0, 0, 0]), FIRST + 2),             # nor for an address and a time
])
def test_faults(options: bytes, where: int) -> None:
    assert check_ipv4_options(options) == (False, where, False)


@pytest.mark.rfc("1122", "3.2.1.8(c)")
@pytest.mark.parametrize("kind", [LSRR, SSRR])
def test_source_routes(kind: int) -> None:
    route = bytes([kind, 7, 4, 10, 9, 0, 3])
    assert check_ipv4_options(padded(route)) == (True, 0, True)
    assert check_ipv4_options(padded(bytes([kind, 7, 8, 10, 9, 0, 3]))) == (True, 0, True)      # the route is done
    for second in (LSRR, SSRR):
        assert check_ipv4_options(padded(route + bytes([second, 7, 4, 10, 9, 0, 3]))) == (False, FIRST + 7, True)


def model(options: bytes) -> tuple[bool, bool]:
    """(well-formed, has a source route), written the other way round: cut off one option after the other."""
    routes = 0
    while options and options[0]:
        if options[0] == 1:
            options = options[1:]
            continue
        option = options[:options[1]] if len(options) > 1 else b""
        if len(option) < 2 or len(option) != options[1]:
            return False, routes > 0
        kind, options = option[0], options[len(option):]
        if kind in (LSRR, SSRR):
            if routes:
                return False, True
            routes += 1
        least = {RR: 3, LSRR: 3, SSRR: 3, TS: 4}.get(kind)
        if least is None:
            continue
        if len(option) < least:
            return False, routes > 0
        first, size = (4, 4) if kind != TS else (5, 8 if option[3] & 15 else 4)
        room = len(option) - option[2] + 1
        if option[2] < first or 0 < room < size:
            return False, routes > 0
    return True, routes > 0


def test_every_kind_length_and_pointer() -> None:
    """Some 20,000 options of hostile type, length and pointer."""
    lengths = (0, 1, 2, 3, 4, 7, 8, 11, 12, 36, 39, 40, 41, 255)
    for kind, length, pointer in itertools.product((RR, TS, LSRR, SSRR, 0x94, 0x99), lengths, range(256)):
        options = bytes([kind, length, pointer]).ljust(40, b"\0")
        ok, where, routed = check_ipv4_options(options)
        assert (ok, routed) == model(options), (kind, length, pointer)
        assert ok or FIRST <= where < FIRST + 40


telling = st.sampled_from([0, 1, RR, TS, LSRR, SSRR, 2, 3, 4, 5, 7, 8, 11])


@given(st.lists(st.one_of(telling, st.integers(0, 255)), max_size=40))
def test_random_options(octets: list[int]) -> None:
    options = bytes(octets)
    ok, where, routed = check_ipv4_options(options)
    assert (ok, routed) == model(options)
    assert (where == 0) if ok else (FIRST <= where < FIRST + 40)
