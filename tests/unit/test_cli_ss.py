"""`ustack ss` and the control socket it asks: what is printed, who may ask, and what a dead process leaves."""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.unit.cli_fakes import FakeStack
from ustack import control
from ustack.cli import main

RECORDS: list[dict[str, Any]] = [
    {"protocol": "tcp", "state": "LISTEN", "local": ("0.0.0.0", 80), "peer": None, "recv_q": 0, "send_q": 128},
    {"protocol": "tcp", "state": "ESTABLISHED", "local": ("10.9.0.2", 80), "peer": ("10.9.0.1", 40000), "recv_q": 5,
     "send_q": 70000, "mss": 1448, "cwnd": 14480, "ssthresh": 0x7FFFFFFF, "rto": 214494, "rtt": 14494, "rttvar": 20500,
     "details": {"snd_wscale": 7, "rcv_wscale": 10, "unacked": 3, "lost": 0}},
    {"protocol": "tcp", "state": "TIME_WAIT", "local": ("10.9.0.2", 80), "peer": ("10.9.0.1", 40002)},
    {"protocol": "udp", "state": "CLOSED", "local": ("0.0.0.0", 53), "peer": None},
]  # fmt: skip


@pytest.fixture(autouse=True)
def runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "run"
    monkeypatch.setenv("USTACK_RUNTIME_DIR", str(directory))
    return directory


@pytest.fixture
def stack(runtime_directory: Path) -> Iterator[Path]:
    with control.publish(FakeStack(RECORDS), "ust0", ["10.9.0.2/24"]) as path:
        assert path is not None
        yield path


def lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return capfd.readouterr().out.splitlines()


def test_connections_as_ss_prints_them(stack: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ss", "-t"]) == 0
    process = f'users:(("ust0",pid={os.getpid()}))'
    assert lines(capfd) == [
        "State     Recv-Q Send-Q Local Address:Port Peer Address:Port  Process",
        f"ESTAB     5      70000       10.9.0.2:80       10.9.0.1:40000 {process}",
        f"TIME-WAIT 0      0           10.9.0.2:80       10.9.0.1:40002 {process}",
    ]


def test_which_sockets_are_shown(stack: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for options, states in (
        (["-H"], ["tcp ESTAB", "tcp TIME-WAIT"]),
        (["-Ha"], ["tcp LISTEN", "tcp ESTAB", "tcp TIME-WAIT", "udp UNCONN"]),
        (["-Hl"], ["tcp LISTEN", "udp UNCONN"]),
        (["-Hltu"], ["tcp LISTEN", "udp UNCONN"]),
    ):
        assert main(["ss", *options]) == 0
        assert [" ".join(line.split()[:2]) for line in lines(capfd)] == states
    assert main(["ss", "-Htl"]) == 0
    assert [line.split()[0] for line in lines(capfd)] == ["LISTEN"]
    assert main(["ss", "-Hul"]) == 0
    assert lines(capfd)[0].split()[:4] == ["UNCONN", "0", "0", "0.0.0.0:53"]


def test_information_and_summary(stack: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ss", "-Hti"]) == 0
    assert lines(capfd)[1] == "\t wscale:7,10 rto:214.494 rtt:14.494/20.5 mss:1448 cwnd:10 unacked:3"
    assert main(["ss", "-s"]) == 0
    assert lines(capfd) == ["Total: 4", "TCP:   3 (estab 1, listen 1, timewait 1)", "UDP:   1"]


def test_json_lines(stack: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ss", "-a", "--json"]) == 0
    rows = [json.loads(line) for line in lines(capfd)]
    assert [(row["netid"], row["state"]) for row in rows][1] == ("tcp", "ESTAB")
    assert rows[1]["peer"] == ["10.9.0.1", "40000"]
    assert {row["stack"] for row in rows} == {"ust0"}


def test_choosing_a_stack(stack: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ss", "--stack", "ust0"]) == 0
    assert main(["ss", "--stack", str(os.getpid())]) == 0
    assert main(["ss", "--stack", "ust7"]) == 1
    assert "no running stack ust7" in capfd.readouterr().err


def test_no_stack_is_a_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ss"]) == 1
    err = capfd.readouterr().err
    assert err.startswith("ustack ss: no running stack has a control socket")
    assert "`ustack up ust0`" in err


def test_the_socket_is_this_users_alone(stack: Path) -> None:
    assert stat.S_IMODE(stack.stat().st_mode) == 0o600
    assert stat.S_IMODE(stack.parent.stat().st_mode) == 0o700


def test_another_user_gets_nothing(stack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Credentials:
        def __init__(self, uid: int) -> None:
            self.uid = uid

        def getsockopt(self, *arguments: int) -> bytes:
            return struct.pack("iII", 1, self.uid, 0)

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert [uid for uid in (0, 1, 999, 1000, 1001, 65534) if control._is_allowed(Credentials(uid))] == [0, 1000]
    monkeypatch.setattr(control, "_is_allowed", lambda client: False)
    with pytest.raises(PermissionError):
        control.ask(stack, "connections")


def test_nonsense_gets_an_error_and_the_next_client_an_answer(stack: Path) -> None:
    for question in (b"\n", b"[]\n", b'{"ask": 1}\n', b"\xff\xfe\n", b"x" * 10000, b"[" * 4000 + b"\n", b""):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(stack))
            client.sendall(question)
            client.shutdown(socket.SHUT_WR)
            with client.makefile("rb") as answer:
                try:
                    assert json.loads(answer.read())["error"].startswith("ask for one of ")
                except ConnectionResetError:
                    assert len(question) > 4096
    assert control.ask(stack, "counters")[1] == {"TcpInSegs": 1, "TcpOutSegs": 2, "TcpRetransSegs": 0}


def test_the_socket_goes_with_the_stack(runtime_directory: Path) -> None:
    with control.publish(FakeStack(), "ust0", []) as path:
        assert path is not None
        assert path.exists()
    assert not path.exists()


def test_what_a_killed_process_left_is_removed(runtime_directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runtime_directory.mkdir(mode=0o700)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = runtime_directory / f"ust0-{gone.pid}.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left))
    assert main(["ss"]) == 1
    assert not left.exists()


def test_a_directory_others_can_write_is_not_used(runtime_directory: Path) -> None:
    runtime_directory.mkdir()
    runtime_directory.chmod(0o777)
    with control.publish(FakeStack(), "ust0", []) as path:
        assert path is None
    assert list(runtime_directory.iterdir()) == []


class Tuple(NamedTuple):
    state: str


def test_plain_takes_every_kind_of_record() -> None:
    class Object:
        def __init__(self) -> None:
            self.state = "LISTEN"

    for record in ({"state": "LISTEN"}, Tuple("LISTEN"), Object()):
        assert control.plain(record) == {"state": "LISTEN"}
