"""128-bit addresses with IPv4 inside, against the standard library's ipaddress."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack_ext.wire.codec import classify_address, in_prefix, mask_address

MAPPED = bytes(10) + b"\xff\xff"

SPECIAL4 = [bytes(4), b"\xff" * 4, b"\x7f\0\0\1", b"\xe0\0\0\1", b"\xef\xff\xff\xff"]
SPECIAL6 = [bytes(16), bytes(15) + b"\1", b"\xff\2" + bytes(13) + b"\1"]
v4 = st.one_of(st.binary(min_size=4, max_size=4), st.sampled_from(SPECIAL4))
v6 = st.one_of(st.binary(min_size=16, max_size=16), st.sampled_from(SPECIAL6))


def expected(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> set[str]:
    said = {"v4": address.version == 4, "any": address.is_unspecified, "loopback": address.is_loopback,
            "multicast": address.is_multicast, "broadcast": address == ipaddress.IPv4Address("255.255.255.255")}
    return {name for name, true in said.items() if true}


@given(v4)
def test_v4(packed: bytes) -> None:
    assert classify_address(packed) == expected(ipaddress.IPv4Address(packed))
    assert classify_address(MAPPED + packed) == classify_address(packed)


@given(v6)
def test_v6(packed: bytes) -> None:
    if packed[:12] != MAPPED:
        assert classify_address(packed) == expected(ipaddress.IPv6Address(packed))


@given(v6, st.integers(0, 128))
def test_mask(packed: bytes, plen: int) -> None:
    network = ipaddress.IPv6Network((packed, plen), strict=False)
    assert mask_address(packed, plen) == network.network_address.packed


@given(v6, st.integers(0, 127), st.integers(0, 128))
def test_prefix(packed: bytes, flip: int, plen: int) -> None:
    """An address with one bit changed is in the prefix exactly if the bit is behind it."""
    other = (int.from_bytes(packed, "big") ^ (1 << (127 - flip))).to_bytes(16, "big")
    assert in_prefix(packed, packed, plen)
    assert in_prefix(other, packed, plen) == (flip >= plen)


@pytest.mark.parametrize("plen", [96, 104, 120, 127, 128])
def test_v4_prefix_counts_in_128_bits(plen: int) -> None:
    network = ipaddress.IPv4Network(("10.9.0.2", plen - 96), strict=False)
    assert in_prefix(network.broadcast_address.packed, b"\x0a\x09\0\2", plen)
    assert not in_prefix(bytes(12) + b"\x0a\x09\0\2", b"\x0a\x09\0\2", plen)
