"""The verbs on a device: made, taken over, refused; seen by `ss`; and gone however the process ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tap_harness.ends import Ends
from tap_harness.process import Child, wait_for

ROOT = Path(__file__).parents[2]
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="optional: only root can take privileges away from a process")
PRIVILEGE = pytest.mark.ipv4("it is about privileges, which no packet has to do with")
LIFE = pytest.mark.ipv4("it is about the life of a device")
NO_CAPABILITIES = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--"]


def ustack(ns: Any, *arguments: str, prefix: list[str] | None = None, stdin: int = subprocess.DEVNULL) -> Child:
    """Start `ustack ARGUMENTS` in the namespace."""
    child: Child = ns.popen(
        [*(prefix or []), sys.executable, "-m", "ustack", *arguments],
        env=dict(os.environ, PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1"),
        stdin=stdin,
    )
    return child


@pytest.fixture
def up(ns: Any, ends: Ends) -> Iterator[Child]:
    child = ustack(ns, "up", "ust0", *ends.options)
    child.wait_line("^ust0 is up", timeout=20)
    yield child
    child.stop()


def test_up_says_what_is_up_and_answers(ns: Any, up: Child, ends: Ends) -> None:
    assert up.output() == (
        f"ust0 is up: the stack has {ends.stack_net}, gateway {ends.kernel}; "
        f"the kernel's side has {ends.kernel_net} (Ctrl-C ends it)\n"
    )
    assert " 0% packet loss" in ns.sh(f"ping -c 3 -i 0.01 -W 5 {ends.stack}")
    with ns.socket(ends.family) as sock:
        assert sock.connect_ex((ends.stack, 80)) == 111


@LIFE
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_remove_the_device(ns: Any, up: Child, number: int, code: int) -> None:
    before = up.output()
    up.signal(number)
    assert up.wait(10) == code
    assert up.output() == before
    assert "ust0" not in ns.sh("ip link")


@LIFE
def test_kill_removes_the_device_too(ns: Any, up: Child) -> None:
    up.signal(signal.SIGKILL)
    up.wait(10)
    wait_for(lambda: "ust0" not in ns.sh("ip link"), "the device to go", 10)
    # What it left of itself, the next one removes.
    assert ustack(ns, "ss").wait(20) == 1
    assert list(Path(os.environ["USTACK_RUNTIME_DIR"]).iterdir()) == []


def test_a_device_that_exists_keeps_its_address(ns: Any, ends: Ends) -> None:
    theirs, ours = ("2001:db8::1", "2001:db8::2") if ends.six else ("192.0.2.1", "192.0.2.2")
    nodad = "nodad" if ends.six else ""
    ns.sh("ip tuntap add dev tap5 mode tap && ip link set tap5 mtu 1400")
    ns.sh(f"ip addr add {theirs}/{ends.length} dev tap5 {nodad} && ip link set tap5 up")
    child = ustack(ns, "up", "tap5", "--address", f"{ours}/{ends.length}", "--gateway", theirs)
    child.wait_line("^tap5 is up", timeout=20)
    ns.sh(f"ping -c 1 -W 5 {ours}")
    child.signal(signal.SIGINT)
    assert child.wait(10) == 130
    assert f"{theirs}/{ends.length}" in ns.sh("ip addr show tap5")
    assert "10.9.0.1" not in ns.sh("ip addr")
    assert "mtu 1400" in ns.sh("ip link show tap5")


def test_a_tun_device_is_recognised_by_its_name(ns: Any, ends: Ends) -> None:
    ends.device(ns, "tun5", mode="tun")
    child = ustack(ns, "ping", "-c", "1", "--tap", "tun5", *ends.options[:2], ends.kernel)
    assert child.wait(20) == 0, child.output()


@ROOT_ONLY
def test_a_persistent_device_serves_its_owner_without_privilege(ns: Any, ends: Ends) -> None:
    ends.device(ns, owner=0)
    child = ustack(ns, "ping", "-c", "2", "-i", "0.01", *ends.options[:2], ends.kernel, prefix=NO_CAPABILITIES)
    assert child.wait(20) == 0, child.output()
    assert "2 packets transmitted, 2 received" in child.output()


@ROOT_ONLY
@PRIVILEGE
def test_a_missing_privilege_is_one_sentence_with_the_command(ns: Any) -> None:
    child = ustack(ns, "curl", "http://10.9.0.1/", prefix=NO_CAPABILITIES)
    assert child.wait(20) == 1
    output = child.output()
    assert output.startswith("ustack curl: making or configuring the device ust0 needs CAP_NET_ADMIN: ")
    assert "sudo ip tuntap add dev ust0 mode tap user " in output
    assert output.count("\n") == 1


@ROOT_ONLY
def test_without_privilege_serve_makes_a_namespace_and_says_how_to_enter(ns: Any, tmp_path: Path, ends: Ends) -> None:
    (tmp_path / "file").write_text("from a namespace of its own\n")
    prefix = ["setpriv", "--inh-caps=-all", "--bounding-set=-all,+setfcap", "--"]
    child = ustack(ns, "serve", "-q", str(tmp_path), *ends.options, prefix=prefix)
    enter = child.wait_line(r"to reach it: (nsenter .*)curl (http\S+)", timeout=20)
    curl = ["curl", "-gsS", "--retry", "5", "--retry-all-errors", f"{enter[2]}file"]
    done = subprocess.run([*enter[1].split(), *curl], capture_output=True, timeout=30)
    assert done.stdout == b"from a namespace of its own\n", done.stderr
    listed = ustack(ns, "ss", "-tl")
    assert listed.wait(20) == 0, listed.output()
    assert "[::]:8000" in listed.output()  # for IPv4, too
    child.signal(signal.SIGINT)
    assert child.wait(10) == 130


def test_netns_joins_the_namespace_of_a_process(ns: Any, up: Child, ends: Ends) -> None:
    command = [sys.executable, "-m", "ustack", "ping", "-c", "1", "--netns", str(up.pid), "--tap", "ust1"]
    theirs, ours = ("fd08::1", "fd08::2") if ends.six else ("10.8.0.1", "10.8.0.2")
    addresses = ["--address", f"{ours}/{ends.length}", "--host-address", f"{theirs}/{ends.length}"]
    done = subprocess.run([*command, *addresses, theirs], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ping_of_an_address_that_nobody_has(ns: Any, ends: Ends) -> None:
    child = ustack(ns, "ping", "-c", "1", "-W", "5", *ends.options, ends.neighbour(77))
    assert child.wait(30) == 1
    reason = "Destination unreachable: Address unreachable" if ends.six else "Destination Host Unreachable"
    assert f"From {ends.stack} icmp_seq=1 {reason}" in child.output()
    assert "1 packets transmitted, 0 received, +1 errors, 100% packet loss" in child.output()


@pytest.mark.parametrize("size", ["0", "whole", "cut", "65507"])
def test_ping_sizes(ns: Any, size: str, ends: Ends) -> None:
    """whole: as large as a packet of the device can be; cut: one more."""
    most = 1500 - ends.header - 8
    count = {"whole": most, "cut": most + 1}.get(size) or int(size)
    child = ustack(ns, "ping", "-c", "2", "-i", "0.01", "-s", str(count), *ends.options, ends.kernel)
    assert child.wait(30) == 0, child.output()
    assert f"{count + 8} bytes from {ends.kernel}: icmp_seq=1 ttl=64 time=" in child.output()


def test_ss_shows_a_connection_and_what_waits_in_it(ns: Any, tmp_path: Path, ends: Ends) -> None:
    (tmp_path / "big").write_bytes(bytes(32 << 20))
    serve = ustack(ns, "serve", "-q", str(tmp_path), *ends.options)
    serve.wait_line("^Serving ", timeout=20)
    with ns.socket(ends.family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((ends.stack, 8000))
        sock.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        assert sock.recv(1)

        def is_filling() -> list[str] | None:
            listed = ustack(ns, "ss", "-Ht")
            listed.finish(20)
            fields = listed.output().split()
            return fields if fields and int(fields[2]) > 0 else None

        fields = wait_for(is_filling, "a connection with data to send", 20)
        names = [f"{ends.quoted(host)}:{port}" for host, port in ((ends.stack, 8000), sock.getsockname()[:2])]
        assert [fields[0], *fields[3:5]] == ["ESTAB", *names]
    listening = ustack(ns, "ss", "-Htln")
    listening.finish(20)
    assert listening.output().split()[:5] == ["LISTEN", "0", "1024", "[::]:8000", "[::]:*"]


def test_nc_connects_with_half_close(ns: Any, ends: Ends) -> None:
    with ns.socket(ends.family) as listener:
        listener.bind(("", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        child = ustack(ns, "nc", *ends.options, ends.kernel, port, stdin=subprocess.PIPE)
        assert child.process.stdin is not None
        child.process.stdin.write(b"question")
        child.process.stdin.close()
        client, _ = listener.accept()
        with client:
            client.settimeout(20)
            data = b""
            while piece := client.recv(100):
                data += piece
            client.sendall(b"answer to " + data)
        assert child.wait(20) == 0
        assert child.output() == "answer to question"


@pytest.mark.parametrize("udp", [False, True])
def test_nc_listens(ns: Any, udp: bool, ends: Ends) -> None:
    words = ["-6"] if ends.six else []
    child = ustack(ns, "nc", "-lv", *["-u"][: int(udp)], *words, "9000", *ends.options, stdin=subprocess.PIPE)
    child.wait_line(f"^Listening on {ends.any} 9000", timeout=20)
    with ns.socket(ends.family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as sock:
        sock.connect((ends.stack, 9000))
        sock.sendall(b"hello\n")
        child.wait_line("^hello", timeout=20)
        assert child.process.stdin is not None
        child.process.stdin.write(b"hello yourself")
        child.process.stdin.flush()
        assert sock.recv(100) == b"hello yourself"
        if not udp:
            sock.shutdown(socket.SHUT_WR)
            assert child.wait(20) == 0


def test_nc_sends_datagrams(ns: Any, ends: Ends) -> None:
    with ns.socket(ends.family, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 0))
        port = str(sock.getsockname()[1])
        child = ustack(ns, "nc", "-u", *ends.options, ends.kernel, port, stdin=subprocess.PIPE)
        assert child.process.stdin is not None
        child.process.stdin.write(b"question")
        child.process.stdin.close()
        data, client = sock.recvfrom(100)
        assert (data, client[0]) == (b"question", ends.stack)
        sock.sendto(b"answer\n", client)
        child.wait_line("^answer", timeout=20)


def test_nc_scans(ns: Any, ends: Ends) -> None:
    with ns.socket(ends.family) as listener:
        listener.bind(("", 7001))
        listener.listen()
        child = ustack(ns, "nc", "-zv", *ends.options, ends.kernel, "7000-7002")
        assert child.wait(20) == 0
    lines = child.output().splitlines()
    assert lines == [
        f"nc: connect to {ends.kernel} port 7000 (tcp) failed: Connection refused",
        f"Connection to {ends.kernel} 7001 port [tcp/*] succeeded!",
        f"nc: connect to {ends.kernel} port 7002 (tcp) failed: Connection refused",
    ]


def test_curl_gives_up_on_a_silent_host(ns: Any, ends: Ends) -> None:
    ends.device(ns)
    ns.sh(f"ip neigh replace {ends.stack} lladdr 02:00:00:00:00:99 dev ust0 nud permanent")
    child = ustack(ns, "curl", "-m", "0.5", *ends.options[:2], ends.url(ends.kernel, 8000) + "/")
    assert child.wait(30) == 28, child.output()
    assert child.output().startswith("curl: (28) ")
