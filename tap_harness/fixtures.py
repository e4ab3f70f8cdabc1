"""pytest fixtures for tests against the kernel or a scripted neighbour; a conftest.py imports the ones it wants.

What cannot run on this machine is skipped with the reason. USTACK_FULL=1 makes everything as large as the acceptance
criteria say.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest

from tap_harness.ends import FOUR, SIX, Ends
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


def by_family(metafunc: pytest.Metafunc) -> None:
    """A conftest's pytest_generate_tests: what uses one of FAMILIES' fixtures runs over IPv4 and IPv6 from the same
    code, except what `@pytest.mark.ipv4(reason)` says is about IPv4 itself."""
    only4 = metafunc.definition.get_closest_marker("ipv4") is not None
    chosen = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}  # by the test itself
    for name, ways in FAMILIES.items():
        if name in metafunc.fixturenames and name not in chosen:
            metafunc.parametrize(name, [way for way in ways if not (only4 and way.endswith("IPv6"))], indirect=True)


FAMILIES = {
    "net": ("plain", "offload", "plain-IPv6", "offload-IPv6"),
    "impaired": ("IPv4", "IPv6"),
    "six": ("IPv4", "IPv6"),
    "ends": ("IPv4", "IPv6"),
}


@pytest.fixture
def net(ns: Namespace, request: pytest.FixtureRequest) -> Iterator[Net]:
    """The stack behind a TAP, the kernel on the other side of it; as it is, and with checksums and segmentation left
    to the kernel; over IPv4 and over IPv6 (by_family)."""
    with direct(ns, offload="offload" in request.param, six=request.param.endswith("IPv6")) as made:
        yield made


@pytest.fixture
def impaired(ns: Namespace, request: pytest.FixtureRequest) -> Iterator[Callable[[Impairment], Net]]:
    """A function that makes a Net whose wire is as bad as the Impairment it is given (both directions alike)."""
    with contextlib.ExitStack() as cleanup:
        yield lambda impairment: cleanup.enter_context(over_wire(ns, impairment, six=request.param == "IPv6"))


@pytest.fixture
def six(request: pytest.FixtureRequest) -> bool:
    """Whether it is IPv6, for tests that set everything up themselves; both (by_family)."""
    return bool(request.param == "IPv6")


@pytest.fixture
def ends(request: pytest.FixtureRequest) -> Ends:
    """The same, as addresses and what depends on them."""
    return SIX if request.param == "IPv6" else FOUR


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A stack on the manual driver with a scripted neighbour, in memory."""
    made = Lab()
    yield made
    made.close()
