"""Very many connections of kernel clients at a time: 5,000 by default, 200,000 with USTACK_FULL=1."""

from __future__ import annotations

import os

import pytest

from bench import scale

COUNT = 200_000 if os.environ.get("USTACK_FULL") else 5_000


@pytest.mark.ipv4("it is about the measurement; test_tcp_many is over both")
@pytest.mark.slow
def test_every_connection_is_accepted_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are opened, a thousand of each client's have their echo, ping is answered meanwhile."""
    monkeypatch.setattr(scale, "PINGS", 20)
    monkeypatch.setattr(scale, "ROUNDS", 1)
    found = scale.tap(COUNT)
    assert found["count"] == COUNT
    assert found["bytes"] <= 512 + 4_000_000 / COUNT          # ... and what the program's first connections bring in
