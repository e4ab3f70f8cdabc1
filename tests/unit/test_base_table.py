"""Hash tables against a dict, and the keyed hashes against a plain SipHash."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ustack_ext.base.testing import HashTable, hash_words, siphash24

ENTRIES = 600
MASK = (1 << 64) - 1


class TableMachine(RuleBasedStateMachine):
    """Insert and remove in any order, with many equal hashes and equal low bits."""

    @initialize(buckets=st.sampled_from([0, 1, 16, 17, 256]))
    def begin(self, buckets: int) -> None:
        self.table = HashTable(buckets, ENTRIES)
        self.hashes: dict[int, int] = {}

    @rule(i=st.integers(0, ENTRIES - 1), hash=st.one_of(st.integers(0, 3), st.integers(0, 0xFFFFFFFF)))
    def insert(self, i: int, hash: int) -> None:
        if i not in self.hashes:
            self.table.insert(i, hash)
            self.hashes[i] = hash

    @rule(
        first=st.integers(0, ENTRIES - 1),
        n=st.integers(1, ENTRIES),
        step=st.sampled_from([0, 1, 16, 65536, 2654435761]),
    )
    def insert_many(self, first: int, n: int, step: int) -> None:
        for i in range(first, min(first + n, ENTRIES)):
            self.insert(i, i * step & 0xFFFFFFFF)

    @rule(i=st.integers(0, ENTRIES - 1))
    def remove(self, i: int) -> None:
        self.table.remove(i)
        self.hashes.pop(i, None)

    @rule(first=st.integers(0, ENTRIES - 1), n=st.integers(1, ENTRIES))
    def remove_many(self, first: int, n: int) -> None:
        for i in range(first, min(first + n, ENTRIES)):
            self.remove(i)

    @rule()
    def remove_all_while_walking(self) -> None:
        assert sorted(self.table.walk(remove=True)) == sorted(self.hashes)
        self.hashes.clear()

    @invariant()
    def agree(self) -> None:
        assert self.table.count == len(self.hashes)
        assert sorted(self.table.walk()) == sorted(self.hashes)
        wanted: dict[int, set[int]] = {1: set(), 0xFFFFFFFF: set()}
        for i, hash in self.hashes.items():
            wanted.setdefault(hash, set()).add(i)
        for hash, entries in wanted.items():
            assert self.table.find(hash) == entries


TestTableMachine = TableMachine.TestCase
TestTableMachine.settings = settings(max_examples=150, stateful_step_count=30)


def test_grows_and_shrinks_by_a_few_buckets_with_each_entry() -> None:
    """A bucket an entry, one more at a time; taken back, while entries come, when there are eight times too many."""
    table = HashTable(0, 6000)
    for i in range(5000):
        table.insert(i, i * 2654435761 & 0xFFFFFFFF)
        assert table.buckets == max(16, i + 1)
    for i in range(5000):
        table.remove(i)
    assert table.buckets == 5000                # a walk that removes must not see buckets move
    for i in range(5000, 6000):
        before = table.buckets
        table.insert(i, i * 2654435761 & 0xFFFFFFFF)
        assert before - 16 <= table.buckets <= before + 1
        for old in range(5000, i + 1):
            if old % 97 == 0:
                assert table.find(old * 2654435761 & 0xFFFFFFFF) == {old}
    assert table.count == 1000
    assert 1000 <= table.buckets <= 8000


@pytest.mark.parametrize("buckets", [0, 1, 16, 17, 1000, 4096])
def test_begins_with_what_was_asked_for(buckets: int) -> None:
    made = HashTable(buckets, 1).buckets
    assert max(16, buckets) <= made <= max(16, 2 * buckets - 1)


# -- hashes


def rotl(x: int, bits: int) -> int:
    return (x << bits | x >> 64 - bits) & MASK


def plain_siphash(c: int, d: int, key: bytes, data: bytes) -> int:
    """SipHash-c-d as the paper's figure has it."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rounds(n: int) -> None:
        for _ in range(n):
            v[0] = (v[0] + v[1]) & MASK
            v[1] = rotl(v[1], 13) ^ v[0]
            v[0] = rotl(v[0], 32)
            v[2] = (v[2] + v[3]) & MASK
            v[3] = rotl(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & MASK
            v[3] = rotl(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & MASK
            v[1] = rotl(v[1], 17) ^ v[2]
            v[2] = rotl(v[2], 32)

    message = data + bytes(7 - len(data) % 8) + bytes([len(data) & 255])
    for i in range(0, len(message), 8):
        m = int.from_bytes(message[i:i + 8], "little")
        v[3] ^= m
        rounds(c)
        v[0] ^= m
    v[2] ^= 0xFF
    rounds(d)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_siphash_vector_of_the_paper() -> None:
    """Appendix A: key 00 01 … 0f, message 00 01 … 0e."""
    assert siphash24(bytes(range(16)), bytes(range(15))) == 0xA129CA6149BE45E5


@given(st.binary(min_size=16, max_size=16), st.binary(max_size=70))
def test_siphash(key: bytes, data: bytes) -> None:
    assert siphash24(key, data) == plain_siphash(2, 4, key, data)


@given(st.binary(min_size=16, max_size=16), st.lists(st.integers(0, MASK), min_size=5, max_size=5))
def test_table_hash(key: bytes, words: list[int]) -> None:
    full = plain_siphash(1, 3, key, b"".join(word.to_bytes(8, "little") for word in words))
    assert hash_words(key, words) == (full ^ full >> 32) & 0xFFFFFFFF
