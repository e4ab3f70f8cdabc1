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

from tap_harness.ends import Ends
from tap_harness.need import missing_program
from tap_harness.process import Child, wait_for

PROGRAM = pytest.mark.ipv4("it is about the program, which uses no network")
UNPRIVILEGED = ["setpriv", "--inh-caps=-all", "--bounding-set=-all,+setfcap", "--"]
Run = Callable[..., Child]


def host_of(ends: Ends) -> str:
    """What stands for the host's loopback in the program's network."""
    return "fd00:2::2" if ends.six else "10.0.2.2"


def relay_of(ends: Ends) -> str:
    """Who answers questions for names there."""
    return "fd00:2::3" if ends.six else "10.0.2.3"


@pytest.fixture
def run(ns: Any, request: pytest.FixtureRequest) -> Run:
    """run(PROGRAM, ...): `ustack run -- PROGRAM ...` as somebody without any privilege, or as the test is ("root")."""
    prefix = [] if getattr(request, "param", "") == "root" else UNPRIVILEGED

    def start(*argv: str, options: tuple[str, ...] = ()) -> Child:
        child: Child = ns.popen([*prefix, sys.executable, "-m", "ustack", "run", *options, "--", *argv])
        return child

    return start


@pytest.fixture
def echo(ns: Any, ends: Ends) -> Iterator[int]:
    """The port of a server on the host's loopback that sends back what it gets, to its end."""
    listener = ns.call(lambda: socket.create_server((ends.loopback, 0), family=ends.family))
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
def files(ns: Any, tmp_path: Path, ends: Ends) -> Iterator[Path]:
    """A directory that the host serves on port 8000 of its loopback."""
    root = tmp_path / "files"
    root.mkdir()
    (root / "small").write_text("hello from the host\n")
    server = ns.popen([sys.executable, "-m", "http.server", "-b", ends.loopback, "-d", str(root), "8000"])
    ns.wait_accepting((ends.loopback, 8000), child=server)
    yield root
    server.stop()


@pytest.mark.parametrize("run", ["root", "unprivileged"], indirect=True)
@pytest.mark.usefixtures("curl", "files")
def test_curl(run: Run, ends: Ends) -> None:
    url = ends.url(host_of(ends), 8000)
    assert run("curl", "-gsS", "--max-time", "20", f"{url}/small").finish(30) == "hello from the host\n"


@pytest.mark.usefixtures("curl", "files")
def test_hundreds_of_connections(run: Run, ends: Ends) -> None:
    url = ends.url(host_of(ends), 8000).replace("[", r"\[").replace("]", r"\]") + "/small?[1-300]"
    codes = ["-w", "%{http_code}\\n", "-H", "Connection:close", "-o", "/dev/null"]
    child = run("curl", "--no-progress-meter", "--max-time", "60", "-Z", "--parallel-max", "100", *codes, url)
    assert child.finish(80).split() == ["200"] * 300


def test_pip_download(run: Run, files: Path, tmp_path: Path, ends: Ends) -> None:
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
    url = ends.url(host_of(ends), 8000)
    host = ["--trusted-host", ends.quoted(host_of(ends)), "--index-url", f"{url}/simple/"]
    output = run(*pip, *host, "-d", str(tmp_path), "thing").finish(60)
    assert (tmp_path / name).read_bytes() == (index / name).read_bytes(), output


BIG = """
import hashlib, socket, sys, threading
data = bytes(range(251)) * int(sys.argv[3])
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
def test_forty_megabytes_both_ways(run: Run, echo: int, ends: Ends) -> None:
    """A quarter of them over IPv6."""
    count = ends.amount(160000)
    want = hashlib.sha256(bytes(range(251)) * count).hexdigest()
    assert run(sys.executable, "-c", BIG, host_of(ends), str(echo), str(count)).finish(100).strip() == want


@PROGRAM
def test_exit_codes(run: Run) -> None:
    assert run("sh", "-c", "exit 7").wait(30) == 7
    missing = run("no-such-program")
    assert missing.wait(30) == 127
    assert "no-such-program: No such file or directory" in missing.output()
    assert run("sh", "-c", "kill -KILL $$").wait(30) == -signal.SIGKILL


TRAP = 'trap "echo caught; exit 3" {}; echo ready; while :; do sleep 0.05; done'


@PROGRAM
@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_signals_reach_the_program(run: Run, name: str) -> None:
    child = run("sh", "-c", TRAP.format(name))
    child.wait_line("ready", timeout=30)
    child.signal(getattr(signal, f"SIG{name}"))
    assert child.wait(20) == 3
    assert "caught" in child.output()


EARLY = """
import contextlib, os, signal, sys
from ustack import launch
fork, serve, children = os.fork, launch._serve, []

def forking():
    children.append(fork())
    return children[-1]

@contextlib.contextmanager
def serving(*arguments):
    with serve(*arguments):
        os.kill(children[-1], signal.SIGINT)    # as from the terminal, which means both
        yield

os.fork, launch._serve = forking, serving
sys.exit(launch.launch(["sh", "-c", "exit 5"]) == -signal.SIGINT and 3)
"""


@PROGRAM
def test_a_signal_before_the_program_runs_is_the_program_s(ns: Any) -> None:
    """Not a KeyboardInterrupt of the process that is about to become it."""
    child = ns.popen([sys.executable, "-c", EARLY])
    assert child.wait(30) == 3, child.output()


@PROGRAM
def test_who_is_killed_takes_the_program_along(run: Run) -> None:
    """SIGKILL can't be passed on: the program dies with whoever launched it."""
    child = run("sh", "-c", "echo $$; exec sleep 300")
    stat = Path("/proc", child.wait_line(r"^(\d+)$", timeout=30)[1], "stat")
    child.signal(signal.SIGKILL)
    assert child.wait(20) == -signal.SIGKILL

    def is_gone() -> bool:
        try:
            return stat.read_text().rpartition(")")[2].split()[0] == "Z"  # nobody need have waited for it
        except (FileNotFoundError, ProcessLookupError):
            return True

    wait_for(is_gone, "the program's end", 20)


def test_refused_prohibited_and_blocked(run: Run, ends: Ends) -> None:
    code = (
        "import errno, socket, sys\n"
        "for place in sys.argv[1:]:\n"
        "    host, port = place.split('/')\n"
        "    sock = socket.socket(FAMILY); sock.settimeout(10)\n"
        "    print(errno.errorcode.get(sock.connect_ex((host, int(port)))))\n"
    )
    code = code.replace("FAMILY", str(int(ends.family)))
    net, blocked = ("2001:db8::/64", "2001:db8::1") if ends.six else ("192.0.2.0/24", "192.0.2.1")
    prohibited = "EACCES" if ends.six else "EHOSTUNREACH"  # what Linux makes of either family's ICMP
    places = [f"{host_of(ends)}/9", f"{relay_of(ends)}/9", f"{blocked}/9"]
    child = run(sys.executable, "-c", code, *places, options=("--block", net))
    assert child.finish(30).split() == ["ECONNREFUSED", prohibited, prohibited]
    child = run(sys.executable, "-c", code, f"{host_of(ends)}/9", options=("--no-host-loopback",))
    assert child.finish(30).split() == [prohibited]


def test_names(run: Run, ns: Any, ends: Ends) -> None:
    """The question goes to the relay, and from there to the host's server over IPv4 or IPv6; so does the answer."""
    if reason := missing_program("dnsmasq"):
        pytest.skip(reason)
    words = ["-k", "-R", "-h", "-p", "53", "-a", ends.loopback, "-z", "-u", "root"]
    names = ["--address=/thing.test/10.1.2.3", "--address=/thing.test/fd01::3"]
    server = ns.popen(["dnsmasq", *words, *names])
    ns.wait_accepting((ends.loopback, 53), child=server)
    kind, answer = ("ahostsv6", "fd01::3") if ends.six else ("ahostsv4", "10.1.2.3")
    child = run("getent", kind, "thing.test", options=("--dns", ends.loopback))
    assert child.finish(30).split()[0] == answer
    server.stop()


def test_datagrams(run: Run, ns: Any, ends: Ends) -> None:
    with ns.socket(ends.family, socket.SOCK_DGRAM) as sock:
        sock.bind((ends.loopback, 0))
        code = (
            "import socket, sys\n"
            f"s = socket.socket({int(ends.family)}, socket.SOCK_DGRAM); s.settimeout(10)\n"
            "s.connect((sys.argv[1], int(sys.argv[2])))\n"
            "for n in (1, 1400, 60000):\n"
            "    s.send(bytes(n)); print(len(s.recv(65536)))\n"
        )
        child = run(sys.executable, "-c", code, host_of(ends), str(sock.getsockname()[1]))
        for _ in range(3):
            data, sender = sock.recvfrom(65536)
            sock.sendto(data * 1, sender)
        assert child.finish(30).split() == ["1", "1400", "60000"]


@PROGRAM
@pytest.mark.parametrize("run", ["root", "unprivileged"], indirect=True)
def test_it_is_the_same_user_in_its_own_network(run: Run) -> None:
    child = run("sh", "-c", "id -u; cat /etc/resolv.conf; cat /proc/net/dev")
    output = child.finish(30)
    assert output.splitlines()[0] == str(os.geteuid())
    assert "nameserver 10.0.2.3" in output
    assert {line.split(":")[0].strip() for line in output.splitlines() if ":" in line} == {"lo", "tun0"}


@PROGRAM
def test_stdin_is_the_program_s(ns: Any) -> None:
    command = ns.command([sys.executable, "-m", "ustack", "run", "--", "tr", "a-z", "A-Z"])
    done = subprocess.run(command, input="from stdin\n", capture_output=True, text=True, timeout=30, pass_fds=[ns.fd])
    assert (done.stdout, done.returncode) == ("FROM STDIN\n", 0)
