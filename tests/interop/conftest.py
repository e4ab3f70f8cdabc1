"""Fixtures for tests with real programs: a directory of files, served on the stack by `ustack serve`, and nginx."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tap_harness import payload
from tap_harness.fixtures import by_family as pytest_generate_tests
from tap_harness.fixtures import full, impaired, net, ns, privileged, six
from tap_harness.kernel_peer import start_nginx
from tap_harness.need import missing_program
from tap_harness.net import KERNEL, KERNEL6, STACK, STACK6
from tap_harness.netns import Namespace
from tap_harness.process import Child

__all__ = ["full", "impaired", "net", "ns", "privileged", "pytest_generate_tests", "six"]

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
    host: str = STACK
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


@pytest.fixture
def site(ns: Namespace, tmp_path: Path, full: bool, six: bool) -> Iterator[Site]:
    """A site on the stack, by `ustack serve`; the namespace's kernel reaches it, over IPv4 or IPv6."""
    size = 256 * MIB if full else 8 * MIB if six else 32 * MIB
    root = tmp_path / "site"
    make_files(root, size)
    words = ["--address", f"{STACK6}/64", "--host-address", f"{KERNEL6}/64"] if six else []
    server = ns.python("ustack", "serve", str(root), "--port", "80", "--upload", "--quiet", *words)
    server.wait_line("^Serving ", timeout=20)
    host = STACK6 if six else STACK
    if six:
        ns.wait_accepting((host, 80), child=server)  # the kernel's side has an address of its own to look at first
    yield Site(ns, root, f"http://[{host}]" if six else f"http://{host}", server, size, host)
    server.stop()


@pytest.fixture
def nginx(ns: Namespace, tmp_path: Path, full: bool, six: bool) -> Iterator[Site]:
    """A site on the kernel's side, by nginx, on the device that a `ustack` verb will take over by name."""
    _program("nginx")
    size = 256 * MIB if full else 8 * MIB if six else 32 * MIB
    root = tmp_path / "site"
    make_files(root, size)
    root.chmod(0o777)
    host, address = (KERNEL6, f"-6 addr add {KERNEL6}/64 nodad") if six else (KERNEL, f"addr add {KERNEL}/24")
    ns.sh(f"ip tuntap add dev ust0 mode tap && ip {address} dev ust0 && ip link set ust0 up")
    server = start_nginx(ns, root, host)
    url = f"http://[{host}]:8000" if six else f"http://{host}:8000"
    yield Site(ns, root, url, server, size, host, ("--address", f"{STACK6}/64") if six else ())
    server.stop()
