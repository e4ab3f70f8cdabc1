"""The kernel's curl against `ustack serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tap_harness import payload

pytestmark = pytest.mark.usefixtures("curl")


def test_get(site: Any) -> None:
    assert site.ns.sh(f"curl -sS --max-time 20 {site.url}/small") == "hello from the site\n"
    assert site.ns.sh(f"curl -sS --max-time 20 {site.url}/empty") == ""


@pytest.mark.timeout(300)
def test_get_big(site: Any, tmp_path: Path) -> None:
    seen = site.ns.sh(f"curl -sS --max-time 250 {site.url}/big | sha256sum", timeout=260)
    assert seen.split()[0] == site.big_sha256


@pytest.mark.timeout(300)
def test_put_big(site: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        for block in payload.blocks(2, site.big_size):
            file.write(block)
    site.ns.sh(f"curl -sS --fail --max-time 250 -T {source} {site.url}/uploaded", timeout=260)
    assert (site.root / "uploaded").read_bytes() == source.read_bytes()


def test_head_and_missing(site: Any) -> None:
    assert f"Content-Length: {site.big_size}" in site.ns.sh(f"curl -sSI --max-time 20 {site.url}/big")
    assert site.ns.sh(f"curl -s -o /dev/null -w '%{{http_code}}' {site.url}/nothing") == "404"


def test_keeps_the_connection(site: Any) -> None:
    """Several requests on one connection."""
    urls = " ".join(f"{site.url}/small" for _ in range(20))
    seen = site.ns.sh(f"curl -sS --max-time 20 -w '%{{num_connects}}' {urls}")
    assert seen.count("hello from the site") == 20
    assert sum(int(digit) for digit in seen if digit.isdigit()) == 1


def test_abandoned_download(site: Any) -> None:
    """curl gives up in the middle; the next one is served."""
    site.ns.run(["curl", "-s", "--max-filesize", "1000", "-o", "/dev/null", f"{site.url}/big"])
    site.ns.sh(f"curl -s --max-time 20 {site.url}/big | head -c 1000 | wc -c")
    assert site.ns.sh(f"curl -sS --max-time 20 {site.url}/small") == "hello from the site\n"


@pytest.mark.timeout(300)
def test_five_hundred_at_once(site: Any) -> None:
    """Every one of 500 concurrent curls gets its file."""
    one = f"curl -sS --max-time 120 -o /dev/null -w '%{{http_code}} %{{size_download}}\\n' {site.url}/small"
    seen = site.ns.sh(f"seq 500 | xargs -P 500 -I@ {one}", timeout=280)
    assert seen.splitlines() == ["200 20"] * 500


def test_parallel_in_one_curl(site: Any) -> None:
    seen = site.ns.sh(
        f"curl -sS --max-time 60 -Z --parallel-max 50 -w '%{{http_code}}\\n' -o /dev/null '{site.url}/small?[1-200]'",
        timeout=90,
    )
    assert seen.count("200") == 200
