"""Load generators against `ustack serve`: not one failed request. 2 s by default, 30 s with USTACK_FULL=1."""

from __future__ import annotations

import re
from typing import Any

import pytest

CONNECTIONS = 64


@pytest.mark.usefixtures("ab")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("keepalive", ["", "-k"], ids=["close", "keepalive"])
def test_ab(site: Any, full: bool, keepalive: str) -> None:
    much = "-t 30 -n 10000000" if full else "-n 2000"
    seen = site.ns.sh(f"ab -q -s 60 {keepalive} -c {CONNECTIONS} {much} {site.url}/small", timeout=280)
    assert re.search(r"^Failed requests: +0$", seen, re.MULTILINE), seen
    assert "Non-2xx" not in seen
    complete = re.search(r"^Complete requests: +(\d+)$", seen, re.MULTILINE)
    assert complete is not None
    assert int(complete.group(1)) >= (100 if full else 2000)


@pytest.mark.usefixtures("wrk")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("header", ["Connection: keep-alive", "Connection: close"])
def test_wrk(site: Any, full: bool, header: str) -> None:
    seconds = 30 if full else 2
    seen = site.ns.sh(
        f"wrk -t 2 -c {CONNECTIONS} -d {seconds}s --timeout 20s -H '{header}' {site.url}/small", timeout=280
    )
    assert "Socket errors" not in seen
    assert "Non-2xx" not in seen
    found = re.search(r"(\d+) requests in", seen)
    assert found is not None
    assert int(found.group(1)) > CONNECTIONS
