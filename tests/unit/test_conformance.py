"""`ustack conformance`: no failed MUST on the stack, failures that are seen, reports, and the list of RFC 9293."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tap_harness import segment
from tap_harness.conformance import __main__ as program
from tap_harness.conformance.registry import MUST, checks
from tap_harness.conformance.run import FAIL, PASS, run_all, run_one
from tap_harness.conformance.target import StackTarget


def test_no_failed_must() -> None:
    failed = [one for one in run_all(checks(), StackTarget) if one.outcome == FAIL]
    musts = {one.check.name: one.reason for one in failed if one.check.level == MUST}
    assert musts == {}
    assert {one.check.name: one.reason for one in failed if not one.because} == {}


def test_all_of_rfc_9293s_numbered_requirements_are_there() -> None:
    wanted = {
        f"{kind}-{n}"
        for kind, last in (("MUST", 69), ("SHLD", 31), ("MAY", 18), ("REC", 1))
        for n in range(1, last + 1)
    }
    assert wanted - {one.ident for one in checks(["9293"])} == set()


def test_names_are_unique() -> None:
    names = [one.name for one in checks() if one.scenario is not None]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def one_of(ident: str, function: str, rfc: str = "9293") -> object:
    return next(one for one in checks([rfc], [ident]) if getattr(one.scenario, "__name__", "") == function)


def mend_checksum(from_stack: bool, frame: bytes) -> bytes:
    """A wire behind which every checksum is right: the stack takes what it should not."""
    if from_stack or frame[12:14] != b"\x08\x00" or frame[23] != 6:
        return frame
    ip = frame[14:34]
    tcp = frame[34 : 14 + int.from_bytes(ip[2:4], "big")]
    tcp = tcp[:16] + b"\0\0" + tcp[18:]
    value = segment.checksum(ip[12:20] + b"\0\x06" + len(tcp).to_bytes(2, "big") + tcp)
    return frame[:34] + tcp[:16] + value.to_bytes(2, "big") + tcp[18:]


def lose_resets(from_stack: bool, frame: bytes) -> bytes | None:
    """A wire without RSTs towards the stack."""
    segment_ = segment.parse(frame)
    return None if not from_stack and segment_ is not None and segment_.flags & segment.RST else frame


@pytest.mark.parametrize(
    ("ident", "function", "mangle"),
    [("MUST-3", "checksum_verified", mend_checksum), ("MUST-11", "origin_remembered", lose_resets)],
)
def test_a_broken_target_fails(ident: str, function: str, mangle: object) -> None:
    check = one_of(ident, function)
    assert run_one(check, StackTarget).outcome == PASS  # type: ignore[arg-type]
    broken = run_one(check, lambda: StackTarget(mangle))  # type: ignore[arg-type]
    assert broken.outcome == FAIL
    assert broken.frames
    assert broken.reason


@pytest.mark.parametrize(
    ("rfc", "function", "knob", "value"),
    [
        ("5682", "spurious", "net.ipv4.tcp_frto", 0),
        ("3522", "echo_of_original", "net.ipv4.tcp_timestamps", 0),
        ("9406", "grows_slower", "net.ipv4.tcp_congestion_control", "reno"),
        ("7661", "expired", "net.ipv4.tcp_slow_start_after_idle", 0),
        ("1191", "lowered", "net.ipv4.ip_no_pmtu_disc", 2),
        ("1337", "reset_ignored", "net.ipv4.tcp_rfc1337", 0),
        ("6191", "later", "net.ipv4.tcp_timestamps", 0),
    ],
)
def test_a_target_with_a_knob_turned_off_fails(rfc: str, function: str, knob: str, value: object) -> None:
    check = next(one for one in checks([rfc]) if getattr(one.scenario, "__name__", "") == function)

    def broken() -> StackTarget:
        target = StackTarget()
        target.sysctl(knob, value)
        return target

    assert run_one(check, StackTarget).outcome == PASS
    assert run_one(check, broken).outcome == FAIL


def test_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(program, "StackTarget", lambda: StackTarget(mend_checksum))
    report = tmp_path / "report.html"
    assert program.main(["--rfc", "9293", "--only", "MUST-3", "--json", "--html", str(report)]) == program.FAILED
    told = json.loads(capsys.readouterr().out)
    assert [row["result"] for row in told["results"]] == [FAIL]
    text = report.read_text()
    assert "<script" not in text
    assert "MUST-3" in text
    trace = tmp_path / "report" / f"{told['results'][0]['check']}.pcapng"
    assert trace.read_bytes()[:4] == b"\x0a\x0d\x0d\x0a"
    assert f"report/{trace.name}" in text


def test_what_cannot_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--rfc", "1"]) == program.CANNOT
    assert "there are checks of " in capsys.readouterr().err
    assert program.main(["--target", "nowhere:10.0.0.1"]) == program.CANNOT
    assert "an interface of this machine" in capsys.readouterr().err
    assert program.main(["--target", "lo:127.0.0.1"]) == program.CANNOT
    assert "--source" in capsys.readouterr().err
