"""A laboratory for each scripted test in virtual time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tap_harness.lab import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A stack on the manual driver with a scripted neighbour."""
    made = Lab()
    yield made
    made.close()
