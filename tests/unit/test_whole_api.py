"""Whoever writes a typed program on ustack can: one that uses all of the public interface passes mypy --strict."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest

import ustack
from ustack import conf, sim
from ustack.aio import Aio

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "data" / "whole_api.py"
# What is public to others of the same house only, and what asyncio has already.
INTERNAL = {"check_length", "open_driver", "deliver"}
NOT_OURS = (ustack.EventLoop, ustack.EventLoopPolicy)


def members(kind: Any) -> set[str]:
    """The public attributes and methods of a class."""
    names = set(vars(kind)) if kind in NOT_OURS else set(dir(kind))
    if dataclasses.is_dataclass(kind):
        names |= {one.name for one in dataclasses.fields(kind)}
    return {name for name in names if not name.startswith("_")} - INTERNAL - loop_methods(kind)


def loop_methods(kind: Any) -> set[str]:
    """Of the event loop, those that asyncio's own has."""
    return {name for base in kind.__mro__[1:] for name in vars(base)} if kind in NOT_OURS else set()


def test_nothing_is_left_out() -> None:
    tree = ast.parse(PROGRAM.read_text())
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    values = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    public = [*ustack.__all__, *conf.__all__, *sim.__all__]
    assert {name for name in public if name not in attributes} - set(ustack._MODULES) == set()
    classes = {name: getattr(ustack, name) for name in ustack._OWN if inspect.isclass(getattr(ustack, name))}
    classes["Stack.aio"] = Aio
    missing = {f"{name}.{one}" for name, kind in classes.items() for one in members(kind) if one not in attributes}
    assert missing == set()
    assert "manual" in values, "the parser sees the program"


def test_it_passes_mypy() -> None:
    mypy = pytest.importorskip("mypy.api")
    report, errors, status = mypy.run(
        ["--strict", "--follow-imports=silent", f"--config-file={ROOT / 'pyproject.toml'}", str(PROGRAM)]
    )
    assert status == 0, report + errors
