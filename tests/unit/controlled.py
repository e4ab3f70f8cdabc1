"""A stack that this process runs and tells of by a control socket, for tests of the verbs that find it there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import ustack
from ustack import control


@contextlib.contextmanager
def controlled(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ustack.Stack]:
    """10.9.0.2 on the interface net0, told of in `directory`."""
    monkeypatch.setenv("USTACK_RUNTIME_DIR", str(directory))
    end, _ = ustack.pipe()
    with ustack.Stack() as made:
        made.attach(end, addresses=["10.9.0.2/24"], gateway="10.9.0.1", name="net0")
        with control.publish(made, "net0", ["10.9.0.2/24"]) as path:
            assert path is not None
            yield made
