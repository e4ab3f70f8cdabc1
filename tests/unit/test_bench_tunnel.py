"""bench.tunnel: its ends work, many at once too, and its tables say what was measured."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench import tunnel


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return tunnel.make_certificate(str(tmp_path_factory.mktemp("tunnel")))


def test_tunnels_at_once(certificate: str) -> None:
    with tunnel.device(1500, certificate) as port:
        for direction in tunnel.DIRECTIONS:
            got = tunnel.host(tunnel.OWN, port, 1500, direction, 0.1, 3)
            assert got["bytes"] >= 3 * got["least"] > 0
        assert len(tunnel.host(tunnel.OWN, port, 1500, "rpc", 5)["took"]) == 5


def test_tables() -> None:
    found = tunnel.Found(missing="")
    for mtu in tunnel.MTUS:
        for direction in tunnel.DIRECTIONS:
            found.rates[tunnel.OWN, mtu, direction] = [90.0, 100.0, 400.0]
            found.rates[tunnel.PEER, mtu, direction] = [4.0, 5.0 if mtu == 1500 else 25.0, 30.0]
            found.many[mtu, direction] = [50.0]
            found.least[mtu, direction] = [0.4]
        for kind in ("echo", "rpc"):
            found.took[tunnel.OWN, mtu, kind] = [100.0, 200.0, 300.0]
    text = tunnel.table(found)
    assert "| MTU 1,500, host → device | 100 | 5.00 | 20.0 × | ≥ 20 × | met | 50.0 | 0.4 |" in text
    assert "| MTU 16,000, device → host | 100 | 25.00 | 4.0 × | ≥ 10 × | missed | 50.0 | 0.4 |" in text
    assert "| MTU 1,500 | ustack | 200 | 300 | 300 | 200 |" in text


def test_without_the_peer_it_says_so() -> None:
    found = tunnel.Found(missing="pip cannot install it")
    for mtu in tunnel.MTUS:
        for direction in tunnel.DIRECTIONS:
            found.rates[tunnel.OWN, mtu, direction] = [100.0]
    text = tunnel.table(found)
    assert "| MTU 1,500, host → device | 100 | – | – | ≥ 20 × | – | – | – |" in text
    assert text.endswith("pmd-pytcp was not measured: pip cannot install it.\n")


def test_the_page_has_a_place_for_them() -> None:
    page = Path(tunnel.PAGE).read_text()
    assert f"<!-- {tunnel.MARK}:begin -->" in page
