"""MD5 against RFC 1321's vectors and the standard library's."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack_ext.base.testing import md5

VECTORS = {  # RFC 1321, A.5
    b"": "d41d8cd98f00b204e9800998ecf8427e",
    b"a": "0cc175b9c0f1b6a831c399e269772661",
    b"abc": "900150983cd24fb0d6963f7d28e17f72",
    b"message digest": "f96b697d7cb7938d525a2f31aaf161d0",
    b"abcdefghijklmnopqrstuvwxyz": "c3fcd3d76192e4007dfb496cca67e13b",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789": "d174ab98d277d9f5a5611c2c9f419d9f",
    b"1234567890" * 8: "57edf4a22be3c955ac49da2e2107b67a",
}


@pytest.mark.rfc("1321", "A.5")
@pytest.mark.parametrize(("text", "digest"), VECTORS.items())
def test_vectors(text: bytes, digest: str) -> None:
    assert md5([text]).hex() == digest


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_in_pieces(pieces: list[bytes]) -> None:
    assert md5(pieces) == hashlib.md5(b"".join(pieces)).digest()


@pytest.mark.parametrize("n", [55, 56, 57, 63, 64, 65, 119, 120, 128])
def test_around_a_block(n: int) -> None:
    assert md5([b"x" * n]) == hashlib.md5(b"x" * n).digest()
