"""`ustack run`: a program's sockets are the stack's, its arguments and exit code its own."""

from __future__ import annotations

import contextlib
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
    assert seen[0].device is None, "what follows the program is the program's"
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


def test_a_program_that_brings_uvloop(seen: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its loops would use the kernel's network; those it gets here are the stack's, for as long as it runs."""
    uvloop = pytest.importorskip("uvloop", reason="optional: uvloop is not installed")
    program = tmp_path / "program.py"
    program.write_text(
        "import asyncio, uvloop\n"
        "loop = uvloop.new_event_loop()\n"
        "async def kind(): return type(asyncio.get_running_loop()).__name__\n"
        "print(type(loop).__name__, uvloop.run(kind()))\n"
        "loop.close()\n"
    )
    assert main(["run", str(program)]) == 0
    assert capsys.readouterr().out == "EventLoop EventLoop\n"
    loop = uvloop.new_event_loop()
    assert isinstance(loop, uvloop.Loop)
    loop.close()


def test_what_there_is_not(seen: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "/nowhere.py"]) == 2
    assert "there is no file '/nowhere.py'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["run"])
