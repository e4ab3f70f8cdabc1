"""Random numbers: the same for the same seed, without bias; and the token bucket against exact fractions."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack_ext.base.testing import Random, TokenBucket, siphash24

SECOND = 1_000_000_000
SEED = bytes(range(32))


@given(st.binary(min_size=32, max_size=32))
def test_numbers_are_siphash_of_a_counter(seed: bytes) -> None:
    """Written down, so that a recorded run can be repeated by a later version."""
    key = b"".join(siphash24(seed[:16], seed[16:] + bytes([i])).to_bytes(8, "little") for i in range(2))
    rng = Random(seed)
    assert [rng.u64() for _ in range(5)] == [siphash24(key, i.to_bytes(8, "little")) for i in range(5)]


@pytest.mark.parametrize("bit", range(256))
def test_every_bit_of_the_seed_matters(bit: int) -> None:
    other = bytearray(SEED)
    other[bit // 8] ^= 1 << bit % 8
    assert Random(bytes(other)).u64() != Random(SEED).u64()


@given(st.integers(0, 0xFFFFFFFF))
def test_below_its_bound(bound: int) -> None:
    rng = Random(SEED)
    for _ in range(20):
        assert 0 <= rng.below(bound) < max(bound, 1)


@pytest.mark.parametrize("bound", [1, 2, 3, 7, 100])
def test_below_is_uniform(bound: int) -> None:
    """Chi-square with a fixed seed: what passes once passes always."""
    rng, draws = Random(SEED), 20_000
    seen = Counter(rng.below(bound) for _ in range(draws))
    chi = sum((seen[i] - draws / bound) ** 2 * bound / draws for i in range(bound))
    assert chi < bound + 5 * (2 * bound) ** 0.5


def test_below_without_modulo_bias() -> None:
    """A bound of 3/4 of 2**32 shows bias best: half of the draws in the lower third (by remainder), or at multiples
    of three (by multiplication without drawing again), instead of a third.
    """
    rng, bound, draws = Random(SEED), 3 << 30, 30_000
    numbers = [rng.below(bound) for _ in range(draws)]
    for share in (sum(n < bound // 3 for n in numbers), sum(n % 3 == 0 for n in numbers)):
        assert abs(share - draws / 3) < draws / 50


def test_keys_differ() -> None:
    rng = Random(SEED)
    keys = [rng.key() for _ in range(100)]
    assert len({word for key in keys for word in key}) == 200


@given(st.integers(1, 100_000), st.integers(1, 5), st.lists(st.one_of(st.just(0), st.integers(0, 70)), max_size=60))
def test_bucket_against_exact_fractions(rate: int, burst: int, steps: list[int]) -> None:
    """A token costs a whole number of ns (rounded down), the rest is exact. Steps are tenths of a token."""
    bucket, now = TokenBucket(rate, burst, 7), 7
    period = SECOND // rate
    tokens = Fraction(burst)
    for tenths in steps:
        step = tenths * period // 10
        now += step
        tokens = min(Fraction(burst), tokens + Fraction(step, period))
        allowed = tokens >= 1
        assert bucket.take(now) == allowed
        tokens -= allowed


def test_bucket_does_not_overflow_in_small_steps() -> None:
    bucket = TokenBucket(10, 4)
    assert bucket.take(2 * SECOND // 10)         # full again, and half of it on top
    assert [bucket.take(2 * SECOND // 10) for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize(("rate", "burst"), [(0, 5), (5, 0), (0, 0)])
def test_bucket_that_never_gives(rate: int, burst: int) -> None:
    bucket = TokenBucket(rate, burst)
    assert not any(bucket.take(now * SECOND) for now in range(10))


def test_bucket_after_years_and_backwards() -> None:
    bucket = TokenBucket(0xFFFFFFFF, 3)
    assert bucket.take((1 << 64) - 1)
    bucket = TokenBucket(1, 0xFFFFFFFF)
    assert bucket.take((1 << 64) - 1)
    bucket = TokenBucket(1, 1, 100 * SECOND)
    assert bucket.take(50 * SECOND)
    assert not bucket.take(100 * SECOND)
    assert bucket.take(101 * SECOND)
