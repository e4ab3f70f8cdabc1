"""CUBIC's integer arithmetic against RFC 9438's formulas in floating point."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack_ext.tcp.testing import cubic_curve, cubic_root, sizes

C, BETA = 0.4, 0.7
SECOND = 1024  # ticks


@given(st.integers(0, 2**63 - 1))
def test_cube_root(x: int) -> None:
    root = cubic_root(x)
    assert root**3 <= x < (root + 1) ** 3


@pytest.mark.rfc("9438", "4.2")
@given(
    w_max=st.integers(10, 500_000),
    mss=st.sampled_from([536, 1448, 8948]),
    seconds=st.lists(st.floats(0, 120), min_size=1, max_size=20),
)
def test_curve(w_max: int, mss: int, seconds: list[float]) -> None:
    """W_cubic(t) = C (t - K)**3 + W_max, K = cbrt((W_max - cwnd_epoch) / C); windows in segments."""
    w_max = min(w_max, (1 << 30) // mss)
    cwnd = int(w_max * mss * BETA)
    k, windows = cubic_curve(w_max * mss, cwnd, mss, [int(t * SECOND) for t in seconds])
    exact_k = ((w_max - cwnd / mss) / C) ** (1 / 3)
    assert k / SECOND == pytest.approx(exact_k, abs=2 / SECOND)
    for t, window in zip(seconds, windows, strict=True):
        expected = min(C * (int(t * SECOND) / SECOND - k / SECOND) ** 3 + w_max, (1 << 30) / mss)
        assert window / mss == pytest.approx(max(expected, 0), rel=0.005, abs=0.01)


def test_the_curve_begins_where_the_window_is() -> None:
    k, (first, plateau) = cubic_curve(1_448_000, 1_013_600, 1448, [0, 0])
    assert first == plateau == pytest.approx(1_013_600, rel=0.002)
    _, (at_k,) = cubic_curve(1_448_000, 1_013_600, 1448, [k])
    assert at_k == 1_448_000


def test_the_state_of_an_algorithm_is_small() -> None:
    assert sizes()["Cc"] <= 288
