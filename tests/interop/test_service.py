"""The services of `ustack up --service` with the kernel's programs: curl, wrk, nc."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tap_harness.ends import Ends
from tap_harness.process import Child

HELLO = "Hello from the data plane."


@pytest.fixture
def up(ns: Any, ends: Ends) -> Iterator[Child]:
    services = ["echo:7", "discard:9", "chargen:19", f"http:80={HELLO}", "answer:13=now"]
    words = [word for service in services for word in ("--service", service)]
    child: Child = ns.python("ustack", "up", "ust0", "--json", "--offload", *ends.options, *words)
    line = child.wait_line("^{.*}$", timeout=20)
    assert json.loads(line[0])["services"] == ["echo:7", "discard:9", "chargen:19", "http:80", "answer:13"]
    yield child
    child.stop()


@pytest.mark.usefixtures("curl", "up")
def test_curl(ns: Any, ends: Ends) -> None:
    urls = " ".join([ends.url(ends.stack) + "/"] * 20)
    seen = ns.sh(f"curl -gsS --fail -v {urls} 2>&1", timeout=60)
    assert seen.count(HELLO) == 20
    assert seen.count("Re-using existing connection") == 19  # keep-alive


@pytest.mark.usefixtures("wrk", "up")
def test_wrk(ns: Any, ends: Ends) -> None:
    seen = ns.sh(f"wrk -t 2 -c 64 -d 1s --timeout 20s {ends.url(ends.stack)}/", timeout=60)
    assert "Socket errors" not in seen
    assert "Non-2xx" not in seen
    found = re.search(r"(\d+) requests in", seen)
    assert found is not None
    assert int(found.group(1)) > 64


@pytest.mark.usefixtures("up")
def test_nc(ns: Any, ends: Ends, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    sent.write_bytes(random.Random(1).randbytes(3_000_000))
    assert ns.sh(f"nc -N {ends.stack} 7 < {sent} | cmp - {sent}") == ""
    assert ns.sh(f"echo | nc {ends.stack} 13") == "now\n"
    assert ns.sh(f"echo discarded | nc -N {ends.stack} 9") == ""
    assert ns.sh(f"nc {ends.stack} 19 < /dev/null | head -c 72") == bytes(range(32, 104)).decode()


@pytest.mark.ipv4("a port is taken in both families")
def test_a_port_that_is_taken_is_one_sentence(ns: Any) -> None:
    child = ns.python("ustack", "up", "ust0", "--service", "echo:7", "--service", "discard:7")
    assert child.wait(20) == 1
    assert child.output() == "ustack up: the service discard:7 cannot be had: [Errno 98] Address already in use\n"
