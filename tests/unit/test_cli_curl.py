"""`ustack curl`: what it sends, what it writes, and curl's exit code for everything that can go wrong."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli_fakes import FakeStack, read_head, scripted_server, use_fake_stack
from ustack.cli import main
from ustack.cli.curl import write_out
from ustack.cli.http_client import Outcome, TransferError, split_url
from ustack.cli.httpd import StackHTTPServer, file_handler

ROOT = Path(__file__).parents[2]
CONTENT = os.urandom(1_000_003)


@pytest.fixture(autouse=True)
def _no_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fake_stack(monkeypatch)


@contextlib.contextmanager
def serving(directory: Path, uploads: bool = True) -> Iterator[str]:
    server = StackHTTPServer(FakeStack(), ("127.0.0.1", 0), file_handler(str(directory), uploads, quiet=True))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    directory = tmp_path / "site"
    (directory / "sub").mkdir(parents=True)
    (directory / "file.bin").write_bytes(CONTENT)
    (directory / "hello.txt").write_text("hello\n")
    with serving(directory) as url:
        yield url


def test_get_writes_the_file(site: str, tmp_path: Path) -> None:
    assert main(["curl", "-s", "-o", str(tmp_path / "out"), f"{site}/file.bin"]) == 0
    assert (tmp_path / "out").read_bytes() == CONTENT


def test_get_to_stdout(site: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["curl", f"{site}/hello.txt"]) == 0
    assert capfdbinary.readouterr().out == b"hello\n"


def test_remote_name(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["curl", "-s", "-O", f"{site}/hello.txt?x=1"]) == 0
    assert (tmp_path / "hello.txt").read_text() == "hello\n"
    assert main(["curl", "-s", "-O", f"{site}/"]) == 23


def test_head_prints_headers_and_no_body(site: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["curl", "-I", f"{site}/file.bin"]) == 0
    out = capfd.readouterr().out
    assert out.startswith("HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {len(CONTENT)}\r\n" in out
    assert out.endswith("\r\n\r\n")


def test_include_puts_headers_before_the_body(site: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["curl", "-i", f"{site}/hello.txt"]) == 0
    head, _, body = capfd.readouterr().out.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 OK")
    assert body == "hello\n"


def test_verbose_transcript(site: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["curl", "-v", "-A", "me/1", f"{site}/hello.txt"]) == 0
    lines = capfd.readouterr().err.splitlines()
    port = site.rpartition(":")[2]
    assert lines[0] == f"*   Trying 127.0.0.1:{port}..."
    assert lines[1] == f"* Connected to 127.0.0.1 (127.0.0.1) port {port}"
    assert lines[2:4] == ["> GET /hello.txt HTTP/1.1", f"> Host: 127.0.0.1:{port}"]
    assert "> User-Agent: me/1" in lines
    assert "< HTTP/1.1 200 OK" in lines


def test_http_error_is_written_without_fail_and_refused_with_it(site: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("old")
    assert main(["curl", "-s", "-f", "-o", str(kept), f"{site}/none"]) == 22
    assert kept.read_text() == "old"
    assert main(["curl", "-s", "-o", str(kept), f"{site}/none"]) == 0
    assert "404" in kept.read_text()


def test_fail_says_which_status(site: str, capfd: pytest.CaptureFixture[str]) -> None:
    main(["curl", "-f", f"{site}/none"])
    assert capfd.readouterr().err == "curl: (22) The requested URL returned error: 404\n"
    main(["curl", "-fs", f"{site}/none"])
    assert capfd.readouterr().err == ""
    main(["curl", "-fsS", f"{site}/none"])
    assert "(22)" in capfd.readouterr().err


def test_upload(site: str, tmp_path: Path) -> None:
    source = tmp_path / "up.bin"
    source.write_bytes(CONTENT)
    assert main(["curl", "-s", "-T", str(source), f"{site}/sub/"]) == 0
    assert (tmp_path / "site/sub/up.bin").read_bytes() == CONTENT
    assert main(["curl", "-s", "-T", str(source), f"{site}/other.bin"]) == 0
    assert (tmp_path / "site/other.bin").read_bytes() == CONTENT


def test_upload_of_stdin_goes_in_chunks(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(CONTENT)))
    assert main(["curl", "-s", "-T", "-", f"{site}/chunked.bin"]) == 0
    assert (tmp_path / "site/chunked.bin").read_bytes() == CONTENT


def test_upload_that_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "up.bin"
    source.write_bytes(b"x")
    with serving(tmp_path, uploads=False) as url:
        assert main(["curl", "-fsS", "-T", str(source), f"{url}/there"]) == 22
    assert "405" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "request_line", "wanted", "body"),
    [
        (["-d", "a=1", "-d", "b=2"], b"POST / HTTP/1.1", b"Type: application/x-www-form-urlencoded", b"a=1&b=2"),
        (["-d", "x", "-X", "PATCH"], b"PATCH / HTTP/1.1", b"Content-Length: 1", b"x"),
        (["-d", "{}", "-H", "Content-Type: application/json"], b"POST /", b"Content-Type: application/json", b"{}"),
        (["-H", "X-One: 1", "-H", "X-Empty;"], b"GET / HTTP/1.1", b"X-One: 1\r\nX-Empty: \r\n", b""),
        (["-H", "Host: other"], b"GET / HTTP/1.1", b"Host: other", b""),
    ],
)
def test_what_is_sent(arguments: list[str], request_line: bytes, wanted: bytes, body: bytes) -> None:
    seen = bytearray()

    def answer(client: socket.socket) -> None:
        seen.extend(read_head(client))
        while not seen.endswith(b"\r\n\r\n" + body):
            seen.extend(client.recv(4096))
        client.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with scripted_server(answer) as port:
        assert main(["curl", "-s", *arguments, f"http://127.0.0.1:{port}/"]) == 0
    assert seen.startswith(request_line)
    assert wanted in seen
    assert seen.count(b"\r\nHost:") == 1


def test_header_with_no_value_is_removed() -> None:
    seen = bytearray()

    def answer(client: socket.socket) -> None:
        seen.extend(read_head(client))
        client.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with scripted_server(answer) as port:
        assert main(["curl", "-s", "-H", "User-Agent:", "-H", "Accept:", f"http://127.0.0.1:{port}/"]) == 0
    assert b"User-Agent" not in seen
    assert b"Accept" not in seen


def test_data_file_loses_line_ends_and_binary_keeps_them(tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.write_bytes(b"one\r\ntwo\n")
    for option, body in (("-d", b"onetwo"), ("--data-binary", b"one\r\ntwo\n")):
        seen = bytearray()

        def answer(client: socket.socket, seen: bytearray = seen, body: bytes = body) -> None:
            while not seen.endswith(b"\r\n\r\n" + body):
                seen.extend(client.recv(4096))
            client.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

        with scripted_server(answer) as port:
            assert main(["curl", "-s", option, f"@{source}", f"http://127.0.0.1:{port}/"]) == 0


def test_redirects_are_followed_only_when_asked(site: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["curl", "-s", "-w", "%{http_code} %{num_redirects}", f"{site}/sub"]) == 0
    assert capfd.readouterr().out.endswith("301 0")
    assert main(["curl", "-sL", "-w", "%{http_code} %{num_redirects}", f"{site}/sub"]) == 0
    assert capfd.readouterr().out.endswith("200 1")
    assert main(["curl", "-sL", "--max-redirs", "0", f"{site}/sub"]) == 47


def test_post_becomes_get_after_303(tmp_path: Path) -> None:
    methods = []

    def answer(client: socket.socket) -> None:
        methods.append(read_head(client).split()[0])
        client.sendall(f"HTTP/1.1 303 See Other\r\nLocation: http://127.0.0.1:{second}/\r\n\r\n".encode())

    def answer_second(client: socket.socket) -> None:
        head = read_head(client)
        methods.append(head.split()[0])
        assert b"Content-" not in head
        client.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with scripted_server(answer_second) as second, scripted_server(answer) as first:
        assert main(["curl", "-sL", "-d", "x", f"http://127.0.0.1:{first}/"]) == 0
    assert methods == [b"POST", b"GET"]


def close_with_reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def say(text: bytes, reset: bool = False) -> object:
    def answer(client: socket.socket) -> None:
        read_head(client)
        client.sendall(text)
        if reset:
            # The client has read everything before the reset can overtake it.
            client.recv(1)
            close_with_reset(client)

    return answer


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", 52),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", 18),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", 18),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 18),
        (b"no http at all\r\n\r\n", 1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 0),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 0),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 0),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 0),
    ],
)
def test_exit_codes_of_strange_servers(answer: bytes, code: int) -> None:
    with scripted_server(say(answer)) as port:  # type: ignore[arg-type]
        assert main(["curl", "-s", "-o", os.devnull, f"http://127.0.0.1:{port}/"]) == code


def test_reset_while_waiting_is_56() -> None:
    def answer(client: socket.socket) -> None:
        read_head(client)
        close_with_reset(client)

    with scripted_server(answer) as port:
        assert main(["curl", "-s", f"http://127.0.0.1:{port}/"]) == 56


def test_answer_in_the_middle_of_an_upload_is_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A server that refuses early and closes: its status counts, not the broken connection."""
    source = tmp_path / "big"
    source.write_bytes(bytes(64 << 20))
    done = threading.Event()

    def answer(client: socket.socket) -> None:
        read_head(client)
        client.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        while client.recv(1 << 20):
            pass
        done.set()

    with scripted_server(answer) as port:
        assert main(["curl", "-sS", "-f", "-T", str(source), f"http://127.0.0.1:{port}/x"]) == 22
    assert done.is_set()


def test_time_limit_is_28(capfd: pytest.CaptureFixture[str]) -> None:
    release = threading.Event()

    def answer(client: socket.socket) -> None:
        read_head(client)
        release.wait(30)

    with scripted_server(answer) as port:
        try:
            assert main(["curl", "-m", "0.05", f"http://127.0.0.1:{port}/"]) == 28
        finally:
            release.set()
    assert "timed out" in capfd.readouterr().err


def test_time_limit_in_the_body_is_28() -> None:
    release = threading.Event()

    def answer(client: socket.socket) -> None:
        read_head(client)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        release.wait(30)

    with scripted_server(answer) as port:
        try:
            assert main(["curl", "-s", "-m", "0.05", "-o", os.devnull, f"http://127.0.0.1:{port}/"]) == 28
        finally:
            release.set()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_refused_is_7(capfd: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    assert main(["curl", f"http://127.0.0.1:{port}/"]) == 7
    assert capfd.readouterr().err.startswith(f"curl: (7) Failed to connect to 127.0.0.1 port {port} after ")


def test_unknown_name_is_6(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*arguments: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    assert main(["curl", "-s", "http://no-such-host.invalid/"]) == 6


@pytest.mark.parametrize(
    ("url", "code"),
    [("https://10.9.0.1/", 1), ("ftp://10.9.0.1/", 1), ("http://", 3), ("http://h:99999/", 3), ("http://h/a b", 3),
     ("http://[::1/", 3), ("", 3)],
)  # fmt: skip
def test_urls_that_are_none(url: str, code: int) -> None:
    assert main(["curl", "-s", url]) == code


def test_split_url() -> None:
    assert split_url("10.9.0.1/x?q=1#f") == ("10.9.0.1", 80, "10.9.0.1", "/x?q=1")
    assert split_url("http://h:8080") == ("h", 8080, "h:8080", "/")
    assert split_url("http://[fd09::1]:81/%20") == ("fd09::1", 81, "[fd09::1]:81", "/%20")
    with pytest.raises(TransferError):
        split_url("http://h/\r\nX: 1")


def test_output_that_cannot_be_written(site: str, tmp_path: Path) -> None:
    assert main(["curl", "-s", "-o", str(tmp_path / "none/out"), f"{site}/hello.txt"]) == 23
    assert main(["curl", "-s", "-o", "/dev/full", f"{site}/hello.txt"]) == 23


def test_upload_that_cannot_be_read(site: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["curl", "-T", str(tmp_path / "none"), f"{site}/x"]) == 26
    assert "Can't open" in capfd.readouterr().err


def test_bad_header_is_usage(site: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["curl", "-H", "no header", f"{site}/"]) == 2
    assert "is not a header" in capfd.readouterr().err
    assert main(["curl", "-H", "X: a\r\nY: b", f"{site}/"]) == 3


def test_write_out() -> None:
    outcome = Outcome(200, b"", "http://h/", uploaded=0, downloaded=1000, redirects=1)
    assert write_out(r"%{http_code} %{size_download} %{speed_download}\n%{unknown}", outcome, 2.0) == "200 1000 500\n"


def test_stdout_that_nobody_reads_is_quiet(site: str) -> None:
    """`ustack curl URL | head -c 1`: no message, and curl's code for a write error."""
    command = [sys.executable, "-m", "tests.unit.cli_fakes", "curl", f"{site}/file.bin"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 23
