"""Fixtures for tests with real programs: a directory of files, served on the stack by `ustack serve`, and nginx."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tap_harness import payload
from tap_harness.ends import FOUR, Ends
from tap_harness.fixtures import by_family as pytest_generate_tests
from tap_harness.fixtures import ends, full, impaired, net, ns, privileged, six
from tap_harness.kernel_peer import start_nginx
from tap_harness.need import missing_program
from tap_harness.netns import Namespace
from tap_harness.process import Child

__all__ = ["ends", "full", "impaired", "net", "ns", "privileged", "pytest_generate_tests", "six"]

MIB = 1 << 20


def _program(name: str) -> None:
    if reason := missing_program(name):
        pytest.skip(reason)


@pytest.fixture
def curl() -> None:
    """Skips without curl."""
    _program("curl")


@pytest.fixture
def ab() -> None:
    """Skips without ab."""
    _program("ab")


@pytest.fixture
def wrk() -> None:
    """Skips without wrk."""
    _program("wrk")


@pytest.fixture
def iperf3() -> None:
    """Skips without iperf3."""
    _program("iperf3")


@pytest.fixture
def nmap() -> None:
    """Skips without nmap."""
    _program("nmap")


@dataclass
class Site:
    """A directory of files and where it is served: `big` and `small` are in it."""

    ns: Namespace
    root: Path
    url: str
    server: Child
    big_size: int
    host: str = FOUR.stack
    options: tuple[str, ...] = ()  # for a verb of ustack that is to reach it

    @property
    def big_sha256(self) -> str:
        """The SHA-256 of the file `big`."""
        return payload.digest(1, self.big_size)


def make_files(root: Path, big_size: int) -> None:
    """The files of a site."""
    root.mkdir()
    with (root / "big").open("wb") as file:
        for block in payload.blocks(1, big_size):
            file.write(block)
    (root / "small").write_bytes(b"hello from the site\n")
    (root / "empty").write_bytes(b"")


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        state = hashlib.sha256()
        while block := file.read(MIB):
            state.update(block)
    return state.hexdigest()


def size_of(full: bool, ends: Ends) -> int:
    """Bytes of `big`."""
    return 256 * MIB if full else ends.amount(32 * MIB)


@pytest.fixture
def site(ns: Namespace, tmp_path: Path, full: bool, ends: Ends) -> Iterator[Site]:
    """A site on the stack, by `ustack serve`; the namespace's kernel reaches it, over IPv4 or IPv6."""
    root = tmp_path / "site"
    make_files(root, size_of(full, ends))
    server = ns.python("ustack", "serve", str(root), "--port", "80", "--upload", "--quiet", *ends.options)
    server.wait_line("^Serving ", timeout=20)
    if ends.six:
        ns.wait_accepting((ends.stack, 80), child=server)  # the kernel looks at its own addresses first
    yield Site(ns, root, f"http://{ends.quoted(ends.stack)}", server, size_of(full, ends), ends.stack)
    server.stop()


@pytest.fixture
def nginx(ns: Namespace, tmp_path: Path, full: bool, ends: Ends) -> Iterator[Site]:
    """A site on the kernel's side, by nginx, on the device that a `ustack` verb will take over by name."""
    _program("nginx")
    root = tmp_path / "site"
    make_files(root, size_of(full, ends))
    root.chmod(0o777)
    ends.device(ns)
    server = start_nginx(ns, root, ends.kernel)
    options = ("--address", ends.stack_net) if ends.six else ()
    yield Site(ns, root, ends.url(ends.kernel, 8000), server, size_of(full, ends), ends.kernel, options)
    server.stop()
