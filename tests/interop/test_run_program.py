"""`ustack run -- PROGRAM`: programs that know nothing of ustack, in a network of their own, through the gateway.

The host, for them, is the test's own namespace.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tap_harness.need import missing_program
from tap_harness.process import Child

HOST = "10.0.2.2"
UNPRIVILEGED = ["setpriv", "--inh-caps=-all", "--bounding-set=-all,+setfcap", "--"]
Run = Callable[..., Child]


@pytest.fixture
def run(ns: Any, request: pytest.FixtureRequest) -> Run:
    """run(PROGRAM, ...): `ustack run -- PROGRAM ...` as somebody without any privilege, or as the test is ("root")."""
    prefix = [] if getattr(request, "param", "") == "root" else UNPRIVILEGED

    def start(*argv: str, options: tuple[str, ...] = ()) -> Child:
        child: Child = ns.popen([*prefix, sys.executable, "-m", "ustack", "run", *options, "--", *argv])
        return child

    return start


@pytest.fixture
def echo(ns: Any) -> Iterator[int]:
    """The port of a server on the host's loopback that sends back what it gets, to its end."""
    listener = ns.call(socket.create_server, ("127.0.0.1", 0))
    listener.settimeout(60)

    def serve(conn: socket.socket) -> None:
        with conn:
            while data := conn.recv(1 << 16):
                conn.sendall(data)

    def accept() -> None:
        while True:
            try:
                conn, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(conn,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def files(ns: Any, tmp_path: Path) -> Iterator[Path]:
    """A directory that the host serves on port 8000 of its loopback."""
    root = tmp_path / "files"
    root.mkdir()
    (root / "small").write_text("hello from the host\n")
    server = ns.popen([sys.executable, "-m", "http.server", "-b", "127.0.0.1", "-d", str(root), "8000"])
    ns.wait_accepting(("127.0.0.1", 8000), child=server)
    yield root
    server.stop()


@pytest.mark.parametrize("run", ["root", "unprivileged"], indirect=True)
@pytest.mark.usefixtures("curl", "files")
def test_curl(run: Run) -> None:
    assert run("curl", "-sS", "--max-time", "20", f"http://{HOST}:8000/small").finish(30) == "hello from the host\n"


@pytest.mark.usefixtures("curl", "files")
def test_hundreds_of_connections(run: Run) -> None:
    url = f"http://{HOST}:8000/small?[1-300]"
    codes = ["-w", "%{http_code}\\n", "-H", "Connection:close", "-o", "/dev/null"]
    child = run("curl", "--no-progress-meter", "--max-time", "60", "-Z", "--parallel-max", "100", *codes, url)
    assert child.finish(80).split() == ["200"] * 300


def test_pip_download(run: Run, files: Path, tmp_path: Path) -> None:
    index = files / "simple" / "thing"
    index.mkdir(parents=True)
    name = "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(index / name, "w") as wheel:
        wheel.writestr("thing.py", "")
        wheel.writestr("thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        wheel.writestr("thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("thing-1.0.dist-info/RECORD", "")
    (index / "index.html").write_text(f'<a href="{name}">{name}</a>')
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "download", "--no-deps"]
    host = ["--trusted-host", HOST, "--index-url", f"http://{HOST}:8000/simple/"]
    output = run(*pip, *host, "-d", str(tmp_path), "thing").finish(60)
    assert (tmp_path / name).read_bytes() == (index / name).read_bytes(), output


BIG = """
import hashlib, socket, sys, threading
data = bytes(range(251)) * 160000
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def send():
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
seen = hashlib.sha256()
while part := sock.recv(1 << 16):
    seen.update(part)
print(seen.hexdigest())
"""


@pytest.mark.timeout(120)
def test_forty_megabytes_both_ways(run: Run, echo: int) -> None:
    want = hashlib.sha256(bytes(range(251)) * 160000).hexdigest()
    assert run(sys.executable, "-c", BIG, HOST, str(echo)).finish(100).strip() == want


def test_exit_codes(run: Run) -> None:
    assert run("sh", "-c", "exit 7").wait(30) == 7
    missing = run("no-such-program")
    assert missing.wait(30) == 127
    assert "no-such-program: No such file or directory" in missing.output()
    assert run("sh", "-c", "kill -KILL $$").wait(30) == -signal.SIGKILL


TRAP = 'trap "echo caught; exit 3" {}; echo ready; while :; do sleep 0.05; done'


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_signals_reach_the_program(run: Run, name: str) -> None:
    child = run("sh", "-c", TRAP.format(name))
    child.wait_line("ready", timeout=30)
    child.signal(getattr(signal, f"SIG{name}"))
    assert child.wait(20) == 3
    assert "caught" in child.output()


def test_refused_prohibited_and_blocked(run: Run) -> None:
    code = (
        "import errno, socket, sys\n"
        "for place in sys.argv[1:]:\n"
        "    host, port = place.split('/')\n"
        "    sock = socket.socket(); sock.settimeout(10)\n"
        "    print(errno.errorcode.get(sock.connect_ex((host, int(port)))))\n"
    )
    places = [f"{HOST}/9", "10.0.2.3/9", "192.0.2.1/9"]
    child = run(sys.executable, "-c", code, *places, options=("--block", "192.0.2.0/24"))
    assert child.finish(30).split() == ["ECONNREFUSED", "EHOSTUNREACH", "EHOSTUNREACH"]
    child = run(sys.executable, "-c", code, f"{HOST}/9", options=("--no-host-loopback",))
    assert child.finish(30).split() == ["EHOSTUNREACH"]


def test_datagrams_and_names(run: Run, ns: Any) -> None:
    if reason := missing_program("dnsmasq"):
        pytest.skip(reason)
    server = ns.popen(
        [
            "dnsmasq",
            "-k",
            "-R",
            "-h",
            "-p",
            "53",
            "-a",
            "127.0.0.1",
            "-z",
            "--address=/thing.test/10.1.2.3",
            "-u",
            "root",
        ]
    )
    ns.wait_accepting(("127.0.0.1", 53), child=server)
    child = run("getent", "ahostsv4", "thing.test", options=("--dns", "127.0.0.1"))
    assert child.finish(30).split()[0] == "10.1.2.3"
    server.stop()

    with ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        code = (
            "import socket, sys\n"
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(10)\n"
            "s.connect((sys.argv[1], int(sys.argv[2])))\n"
            "for n in (1, 1400, 60000):\n"
            "    s.send(bytes(n)); print(len(s.recv(65536)))\n"
        )
        child = run(sys.executable, "-c", code, HOST, str(sock.getsockname()[1]))
        for _ in range(3):
            data, sender = sock.recvfrom(65536)
            sock.sendto(data * 1, sender)
        assert child.finish(30).split() == ["1", "1400", "60000"]


@pytest.mark.parametrize("run", ["root", "unprivileged"], indirect=True)
def test_it_is_the_same_user_in_its_own_network(run: Run) -> None:
    child = run("sh", "-c", "id -u; cat /etc/resolv.conf; cat /proc/net/dev")
    output = child.finish(30)
    assert output.splitlines()[0] == str(os.geteuid())
    assert "nameserver 10.0.2.3" in output
    assert {line.split(":")[0].strip() for line in output.splitlines() if ":" in line} == {"lo", "tun0"}


def test_stdin_is_the_program_s(ns: Any) -> None:
    command = ns.command([sys.executable, "-m", "ustack", "run", "--", "tr", "a-z", "A-Z"])
    done = subprocess.run(command, input="from stdin\n", capture_output=True, text=True, timeout=30, pass_fds=[ns.fd])
    assert (done.stdout, done.returncode) == ("FROM STDIN\n", 0)
