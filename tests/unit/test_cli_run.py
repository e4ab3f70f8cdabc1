"""`ustack run`: a program's sockets are the stack's, its arguments and exit code its own; the configuration file."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ustack
from ustack.cli import main, run
from ustack.cli.session import Session


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments that the session is opened with; the stack has nothing but its loopback."""
    found: list[Any] = []

    @contextlib.contextmanager
    def session(args: Any) -> Iterator[Session]:
        found.append(args)
        with ustack.Stack() as stack:
            yield Session(stack, "none", ["127.0.0.1/8"], [], None, "")

    monkeypatch.setattr(run, "open_session", session)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return found


PROGRAM = """\
import socket, sys, threading
server = socket.create_server(("127.0.0.1", 80))
client = socket.create_connection(("box.test", 80))
print(type(server).__module__, client.getpeername(), __name__, *sys.argv[1:])
client.close(), server.close()
sys.exit(7)
"""


def test_a_file(seen: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with pytest.raises(SystemExit) as end:
        main(["run", "--host", "box.test=127.0.0.1", str(program), "--tap", "mine"])
    assert end.value.code == 7
    assert capsys.readouterr().out == "ustack.socket ('127.0.0.1', 80) __main__ --tap mine\n"
    assert seen[0].device == "ust0", "what follows the program is the program's"
    assert socket.socket.__module__ == "socket"
    with socket.socket() as sock:
        assert not isinstance(sock, ustack.Socket)


def test_a_module(seen: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    (tmp_path / "some_module.py").write_text("import sys\nprint(sys.argv[1:])\n")
    monkeypatch.chdir(tmp_path)
    assert main(["run", "-m", "some_module", "-x", "1"]) == 0
    assert capsys.readouterr().out == "['-x', '1']\n"


def test_an_exception_is_shown_as_python_shows_it(
    seen: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "program.py"
    program.write_text("import socket\nsocket.create_connection(('192.0.2.1', 80))\n")
    assert main(["run", str(program)]) == 1
    assert "Traceback" in (error := capsys.readouterr().err)
    assert error.rstrip().endswith("Network is unreachable")


def test_what_there_is_not(seen: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "/nowhere.py"]) == 2
    assert "there is no file '/nowhere.py'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["run"])


@pytest.mark.parametrize("suffix", [".json", ".toml"])
def test_a_configuration_file(seen: list[Any], tmp_path: Path, suffix: str) -> None:
    if suffix == ".toml" and sys.version_info < (3, 11):
        pytest.skip("optional: tomllib came with Python 3.11")
    config = tmp_path / f"lab{suffix}"
    if suffix == ".json":
        settings = {"tun": "tun5", "address": "10.1.0.2/24", "mtu": 1400, "hosts": {"Box.test": ["127.0.0.1"]}}
        config.write_text(json.dumps(settings))
    else:
        config.write_text('tun = "tun5"\naddress = ["10.1.0.2/24"]\nmtu = 1400\n[hosts]\n"Box.test" = ["127.0.0.1"]\n')
    program = tmp_path / "program.py"
    program.write_text("import socket\nassert socket.gethostbyname('box.test') == '127.0.0.1'\n")
    assert main(["run", "--config", str(config), "--mtu", "1300", str(program)]) == 0
    assert (seen[0].tun, seen[0].address, seen[0].mtu) == ("tun5", ["10.1.0.2/24"], 1300)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [('{"tpa": 1}', "no option 'tpa'"), ('{"mtu": 1}', "not an MTU"), ("{", "line 1"), ("[]", "table"), (None, "read")],
)
def test_a_wrong_configuration_file(
    seen: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, complaint: str
) -> None:
    config = tmp_path / "lab.json"
    if text is not None:
        config.write_text(text)
    assert main(["run", "--config", str(config), "program.py"]) == 1
    assert complaint in capsys.readouterr().err
