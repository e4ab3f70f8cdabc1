"""`ustack doctor`: every machine it may meet, with what to do; and its exit code."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from ustack import namespace, osutil
from ustack.cli import doctor, main


def machine(monkeypatch: pytest.MonkeyPatch, allowed: set[str], capabilities: set[int]) -> None:
    """A machine where a TAP can be made in these places (see namespace.probe_tap), with these capabilities."""

    def probe(place: str) -> None:
        if place not in allowed:
            raise PermissionError(errno.EPERM, "unshare: Operation not permitted")

    def probe_link(place: str) -> dict[str, object]:
        refused = ["TUNSETOFFLOAD csum+tso4+uso4: Invalid argument", "2 queues: bpf: Operation not permitted"]
        return {"offloads": ["csum", "tso4"], "refused": refused, "queues": False}

    monkeypatch.setattr(namespace, "probe_tap", probe)
    monkeypatch.setattr(namespace, "probe_link", probe_link)
    monkeypatch.setattr(osutil, "has_capability", lambda number: number in capabilities)
    monkeypatch.setattr(namespace, "tun_features", lambda: {"vnet_hdr": True, "multi_queue": False, "napi": False})
    monkeypatch.setattr(doctor, "_extensions", lambda: [doctor.Check("extension modules", "ok", "")])


def document(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, object], dict[str, dict[str, str]]]:
    answer = json.loads(capsys.readouterr().out)
    return answer, {check["name"]: check for check in answer["checks"]}


def test_root(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    machine(monkeypatch, {"net", "user", "here"}, {osutil.CAP_NET_ADMIN, osutil.CAP_SYS_ADMIN})
    assert main(["doctor", "--json"]) == 0
    answer, checks = document(capsys)
    assert (answer["tap"], answer["place"]) == (True, "net")
    assert {checks[name]["state"] for name in ("CAP_NET_ADMIN", "network namespace", "user namespace")} == {"ok"}


def test_plain_user_with_user_namespaces(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    machine(monkeypatch, {"user"}, set())
    monkeypatch.setattr(namespace, "TUN_DEVICE", str(tmp_path))
    assert main(["doctor", "--json"]) == 0
    answer, checks = document(capsys)
    assert (answer["tap"], answer["place"]) == (True, "user")
    assert checks["CAP_NET_ADMIN"]["state"] == "note"
    assert "sudo ip tuntap add" in checks["CAP_NET_ADMIN"]["fix"]
    assert checks["user namespace"]["state"] == "ok"
    assert checks["TAP offloads"]["state"] == "ok"
    detail = "checksums, TCP segmentation; refused: TUNSETOFFLOAD csum+tso4+uso4: Invalid argument"
    assert checks["TAP offloads"]["detail"] == detail
    assert checks["TAP queues"]["state"] == "note"
    assert checks["TAP queues"]["detail"] == "one: 2 queues: bpf: Operation not permitted"


def test_container_that_may_make_devices_only_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(monkeypatch, {"here"}, {osutil.CAP_NET_ADMIN})
    assert main(["doctor", "--json"]) == 0
    answer, checks = document(capsys)
    assert answer["place"] == "here"
    assert checks["network namespace"]["state"] == "note"
    assert checks["network namespace"]["fix"]


def test_nothing_is_allowed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    machine(monkeypatch, set(), set())
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "No TAP device can be made here: `ustack demo` would use an in-memory pipe." in out
    assert "-> sudo sysctl -w " in out


def test_no_tun_device(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    machine(monkeypatch, set(), {osutil.CAP_NET_ADMIN})
    monkeypatch.setattr(namespace, "TUN_DEVICE", str(tmp_path / "tun"))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "MISSING" in out
    assert "-> sudo modprobe tun" in out


def test_tun_device_that_may_not_be_opened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refused() -> dict[str, bool]:
        raise PermissionError(errno.EACCES, "Permission denied")

    machine(monkeypatch, set(), set())
    monkeypatch.setattr(namespace, "tun_features", refused)
    monkeypatch.setattr(namespace, "TUN_DEVICE", str(tmp_path))
    assert main(["doctor"]) == 1
    assert f"-> sudo chmod 666 {tmp_path}" in capsys.readouterr().out


def test_extension_modules_that_do_not_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(monkeypatch, {"net"}, {osutil.CAP_NET_ADMIN})
    monkeypatch.setattr(
        doctor, "_extensions", lambda: [doctor.Check("extension modules", "missing", "none is built", "pip install")]
    )
    assert main(["doctor"]) == 1
    assert "The extension modules do not load" in capsys.readouterr().out


def test_programs_in_system_directories_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.find_program("no-such-program") is None
    (tmp_path / "here").write_text("#!/bin/sh\n")
    (tmp_path / "here").chmod(0o755)
    assert doctor.find_program("here") == str(tmp_path / "here")


def test_a_probe_reports_what_the_kernel_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(namespace, "TUN_DEVICE", str(tmp_path / "tun"))
    with pytest.raises(FileNotFoundError) as caught:
        namespace.probe_tap("here")
    assert caught.value.filename == str(tmp_path / "tun")
