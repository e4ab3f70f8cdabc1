"""`ustack demo` where it may run: as root, without root in a user namespace, and where nothing is allowed at all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tap_harness.ends import FOUR, Ends
from tap_harness.need import missing_program

ROOT = Path(__file__).parents[2]
SIZE = 8 << 20


def as_plain_user(user_namespaces: bool) -> list[str]:
    """The start of a command line without privilege.

    Root loses its capabilities, but for the one that its mapping to itself in a user namespace wants
    (user_namespaces(7)).
    """
    if os.geteuid() != 0:
        return []
    keep = ",+setfcap" if user_namespaces else ""
    return ["setpriv", "--inh-caps=-all", f"--bounding-set=-all{keep}", "--"]


def demo(*arguments: str, ends: Ends, prefix: list[str] | None = None) -> tuple[int, str]:
    family = ["--ipv6"] if ends.six else []
    command = [*(prefix or []), sys.executable, "-m", "ustack", "demo", "--size", str(SIZE), *family, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=170
    )
    return done.returncode, done.stdout.decode()


def assert_good(output: str, transfers: int, link: str) -> None:
    assert output.rstrip().endswith(f"OK: {transfers} transfers over {link}, every checksum equal.")
    figures = re.findall(r"8\.0 MiB in [\d.]+ s = [\d.]+ [GM]bit/s; the stack sent [\d,]+ segments", output)
    assert len(figures) == transfers
    assert "\x1b" not in output


@pytest.mark.usefixtures("privileged")
def test_over_a_tap(ends: Ends) -> None:
    code, output = demo("--link", "tap", ends=ends)
    assert code == 0, output
    assert_good(output, 3, "a TAP")
    assert f"between the kernel ({ends.kernel}) and the stack ({ends.stack})" in output
    assert "$ curl " in output
    assert "< HTTP/1.1 200 OK" in output
    assert "$ ustack curl " in output


def user_namespaces_refused() -> str | None:
    probe = "from ustack.namespace import probe_tap; probe_tap('user')"
    prefix = as_plain_user(user_namespaces=True)
    done = subprocess.run([*prefix, sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else None


def test_without_root_in_a_user_namespace(ends: Ends) -> None:
    if reason := missing_program("setpriv") or user_namespaces_refused():
        pytest.skip(f"user namespaces: {reason}")
    code, output = demo("--link", "tap", ends=ends, prefix=as_plain_user(user_namespaces=True))
    assert code == 0, output
    assert "a user and network namespace of its own (not root)" in output
    assert_good(output, 3, "a TAP")


@pytest.mark.skipif(os.geteuid() != 0, reason="optional: only root can take everything away from a process")
def test_where_nothing_is_allowed_it_says_so_and_uses_a_pipe(ends: Ends) -> None:
    prefix = as_plain_user(user_namespaces=False)
    code, output = demo(ends=ends, prefix=prefix)
    assert code == 0, output
    assert "No TAP device can be made here:" in output
    assert "CAP_NET_ADMIN" in output
    assert "over an in-memory pipe" in output
    assert_good(output, 2, "the in-memory pipe")
    code, output = demo("--link", "tap", ends=ends, prefix=prefix)
    assert code == 1
    assert "CAP_NET_ADMIN" in output
    assert "Traceback" not in output


def test_over_a_pipe(ends: Ends) -> None:
    code, output = demo("--link", "pipe", ends=ends)
    assert code == 0, output
    assert_good(output, 2, "the in-memory pipe")


@pytest.mark.ipv4("nothing is transferred")
def test_too_large_for_the_disk_is_one_sentence(tmp_path: Path) -> None:
    code, output = demo("--link", "pipe", "--size", "512G", ends=FOUR)
    assert code == 1
    assert "ustack demo: " in output
    assert "set TMPDIR to a larger place" in output
