"""pytest fixtures for tests against the kernel or a scripted neighbour; a conftest.py imports the ones it wants.

What cannot run on this machine is skipped with the reason. USTACK_FULL=1 makes everything as large as the acceptance
criteria say.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest

from tap_harness.lab import Lab
from tap_harness.need import missing_privilege
from tap_harness.net import Net, direct, over_wire
from tap_harness.netns import Namespace
from tap_harness.wire import Impairment


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether to run everything at the size of the acceptance criteria (USTACK_FULL=1)."""
    return os.environ.get("USTACK_FULL") == "1"


@pytest.fixture(scope="session")
def privileged() -> None:
    """Skips where namespaces and TAPs cannot be made."""
    if reason := missing_privilege():
        pytest.skip(reason)


@pytest.fixture
def ns(privileged: None) -> Iterator[Namespace]:
    """A fresh network namespace."""
    with Namespace() as namespace:
        yield namespace


@pytest.fixture(params=["plain", "offload"])
def net(ns: Namespace, request: pytest.FixtureRequest) -> Iterator[Net]:
    """The stack behind a TAP, the kernel on the other side of it; as it is, and with checksums and segmentation left
    to the kernel."""
    with direct(ns, offload=request.param == "offload") as made:
        yield made


@pytest.fixture
def impaired(ns: Namespace) -> Iterator[Callable[[Impairment], Net]]:
    """A function that makes a Net whose wire is as bad as the Impairment it is given (both directions alike)."""
    with contextlib.ExitStack() as cleanup:
        yield lambda impairment: cleanup.enter_context(over_wire(ns, impairment))


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A stack on the manual driver with a scripted neighbour, in memory."""
    made = Lab()
    yield made
    made.close()
