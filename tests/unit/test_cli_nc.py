"""`ustack nc`: the relay in both directions with its half-close, listening, scanning, and its exit codes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli_fakes import scripted_server, use_fake_stack
from ustack.cli import main

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def nc(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a process of its own: it relays descriptors 0 and 1."""
    command = [sys.executable, "-m", "tests.unit.cli_fakes", "nc", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


def read_all(client: socket.socket) -> bytes:
    data = b""
    while piece := client.recv(65536):
        data += piece
    return data


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_end_of_stdin_closes_our_half_only() -> None:
    seen = []

    def answer(client: socket.socket) -> None:
        seen.append(read_all(client))
        client.sendall(b"after your end: " + seen[0][:5])

    data = os.urandom(300_000)
    with scripted_server(answer) as port, nc("127.0.0.1", str(port)) as process:
        out, err = process.communicate(data, timeout=30)
    assert (process.returncode, err) == (0, b"")
    assert seen == [data]
    assert out == b"after your end: " + data[:5]


def test_peer_that_closes_first_ends_it_with_stdin_open() -> None:
    with scripted_server(lambda client: client.sendall(b"bye")) as port, nc("127.0.0.1", str(port)) as process:
        assert process.wait(30) == 0
        assert process.stdout is not None
        assert process.stdout.read() == b"bye"


def test_refused() -> None:
    port = free_port()
    with nc("127.0.0.1", str(port)) as process:
        _, err = process.communicate(b"", timeout=30)
    assert process.returncode == 1
    assert err == f"ustack nc: connect to 127.0.0.1 port {port} (tcp) failed: Connection refused\n".encode()


def test_listen_takes_one_connection() -> None:
    port = free_port()
    with nc("-l", "-v", "127.0.0.1", str(port)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline() == f"Listening on 127.0.0.1 {port}\n".encode()
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            client.sendall(b"from the client")
            assert process.stdin is not None
            process.stdin.write(b"from the listener")
            process.stdin.close()
            assert read_all(client) == b"from the listener"
        out, err = process.stdout.read(), process.stderr.read()    # nc ends with the connection
        assert process.wait(30) == 0
    assert out == b"from the client"
    assert err.startswith(b"Connection received on 127.0.0.1 ")


def test_listen_keeps_open_with_k() -> None:
    port = free_port()
    with nc("-lkv", "127.0.0.1", str(port)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stderr.readline()
        for text in (b"one", b"two"):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                client.sendall(text)
            assert process.stdout.read(3) == text
        assert process.poll() is None


def test_udp_listener_answers_its_first_sender() -> None:
    port = free_port(socket.SOCK_DGRAM)
    with nc("-luv", "127.0.0.1", str(port)) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stderr is not None
        process.stderr.readline()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(30)
            client.connect(("127.0.0.1", port))
            client.send(b"ask")
            assert process.stdout.read(3) == b"ask"
            process.stdin.write(b"answer")
            process.stdin.flush()
            assert client.recv(100) == b"answer"


def test_silence_ends_it_with_w() -> None:
    with scripted_server(lambda client: client.recv(1)) as port:
        with nc("-w", "0.1", "127.0.0.1", str(port)) as process:
            assert process.wait(30) == 0


def test_scan(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    use_fake_stack(monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert main(["nc", "-zv", "127.0.0.1", str(port)]) == 0
        assert capfd.readouterr().err == f"Connection to 127.0.0.1 {port} port [tcp/*] succeeded!\n"
    assert main(["nc", "-zv", "127.0.0.1", f"{port}-{port}"]) == 1
    assert "Connection refused" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["10.9.0.1"], "give a host and a port"),
        (["-l"], "HOST"),
        (["10.9.0.1", "0"], "'0' is not a port"),
        (["10.9.0.1", "http"], "'http' is not a port"),
        (["10.9.0.1", "65536"], "is not a port"),
        (["10.9.0.1", "20-25"], "goes with -z only"),
        (["-z", "10.9.0.1", "25-20"], "a range FIRST-LAST"),
        (["-zu", "10.9.0.1", "20"], "-z looks at TCP ports"),
        (["-w", "0", "10.9.0.1", "20"], "is not a time in seconds"),
    ],
)
def test_wrong_usage(words: list[str], sentence: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["nc", *words])
    assert end.value.code == 2
    assert sentence in capfd.readouterr().err
