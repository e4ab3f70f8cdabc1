"""`ustack packetdrill`: the harness's runner as a program of its own, and what is said where it is not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from ustack.cli import main

SCRIPT = "0 < S 0:0(0) win 1000\n+0 > R. 0:0(0) ack 1 win 0\n"


def test_exit_codes_and_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good, bad, broken = (tmp_path / name for name in ("good.pkt", "bad.pkt", "broken.pkt"))
    good.write_text(SCRIPT)
    bad.write_text(SCRIPT.replace("ack 1", "ack 2"))
    broken.write_text("0 nothing")
    assert main(["packetdrill", str(good)]) == 0
    assert capfd.readouterr().out == f"{good}: pass\n"
    assert main(["packetdrill", "-q", str(good), str(bad)]) == 1
    assert "differs   ack: 2 expected, 1 got" in capfd.readouterr().out
    assert main(["packetdrill", str(broken)]) == 2
    assert capfd.readouterr().err.startswith(f"{broken}:1:3: ")


def test_without_the_harness(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["packetdrill", "some.pkt"]) == 1
    assert "tap_harness is not installed: run `pip install -e .`" in capsys.readouterr().err
