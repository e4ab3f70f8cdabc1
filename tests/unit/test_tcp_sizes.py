"""What a connection costs while it does nothing: the sizes that the promise of 512 bytes, all in, rests on."""

from __future__ import annotations

from ustack_ext.tcp.testing import sizes, tally_lines, tcb_lines

CACHE_LINE = 64


def test_an_idle_connection_is_five_cache_lines() -> None:
    assert sizes()["Tcb"] == 5 * CACHE_LINE


def test_hot_fields_lie_on_the_lines_they_are_said_to() -> None:
    assert tcb_lines() == dict.fromkeys(range(5), 0)


def test_what_a_handshake_and_a_close_leave_is_small() -> None:
    assert sizes()["SynReq"] <= 128
    assert sizes()["TimeWait"] <= 128


def test_what_data_in_flight_costs() -> None:
    assert sizes()["Seg"] <= 80
    assert sizes()["Tx"] <= 6 * CACHE_LINE


def test_what_an_exchange_counts_lies_on_one_line() -> None:
    assert tally_lines() == {0: 0, 1: 0}
    assert sizes()["Tally"] <= 2 * CACHE_LINE
