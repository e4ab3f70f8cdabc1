"""Everything the fuzzer ever found, and its seeds, against the normal build: no invariant breaks.

The harness is compiled when first needed, with Python's own compiler, against the modules in place.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.fuzz import build, corpus

REGRESSIONS = sorted((Path(__file__).parent / "regressions").glob("*-*"))


@pytest.fixture(scope="module")
def target() -> Any:
    lib = str(build.build_replay())
    sys.path.insert(0, lib)
    try:
        return importlib.import_module("fz_target")
    finally:
        sys.path.remove(lib)


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.name)
def test_regression(target: Any, path: Path) -> None:
    medium = corpus.MEDIA.index(path.name.split("-")[0])
    assert target.replay(medium, path.read_bytes()) is None


@pytest.mark.parametrize("medium", corpus.MEDIA)
def test_seeds(target: Any, medium: str, tmp_path: Path) -> None:
    """Every hand-made program and recorded exchange, with plenty of memory and with little, with offloads or not."""
    count = corpus.write(tmp_path, medium)
    broken = {}
    for path in sorted(tmp_path.iterdir()):
        found = target.replay(corpus.MEDIA.index(medium), path.read_bytes())
        if found:
            broken[path.name] = found
    assert broken == {}
    assert count > 100


def test_a_broken_invariant_is_seen(target: Any) -> None:
    """The checks can fail: a world with one counter changed behind its back."""
    assert target.self_check() == target.SELF_CHECKS
