"""The HTTP server of `ustack serve`: what it serves, what it refuses, and that half an upload leaves nothing behind."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli_fakes import FakeStack
from ustack.cli.httpd import PIECE, StackHTTPServer, file_handler


@pytest.fixture
def site(tmp_path: Path) -> Path:
    directory = tmp_path / "site"
    (directory / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    return directory


@pytest.fixture
def server(site: Path) -> Iterator[StackHTTPServer]:
    server = StackHTTPServer(FakeStack(), ("127.0.0.1", 0), file_handler(str(site), uploads=True, quiet=True))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def talk(server: StackHTTPServer, request: bytes) -> bytes:
    """Send a request, close our half, and return all that comes."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
        return answer


def status(answer: bytes) -> int:
    return int(answer.split()[1])


def test_two_requests_on_one_connection(server: StackHTTPServer, site: Path) -> None:
    (site / "a").write_text("first")
    (site / "b").write_text("second")
    answer = talk(server, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.endswith(b"second")


@pytest.mark.parametrize(
    ("version", "wish", "said"),
    [
        ("1.0", "keep-alive", b"keep-alive"),
        ("1.0", "", b"close"),
        ("1.1", "close", b"close"),
        ("1.1", "keep-alive", None),
    ],
)
def test_whether_the_connection_stays_is_said(
    server: StackHTTPServer, site: Path, version: str, wish: str, said: bytes | None
) -> None:
    (site / "a").write_text("first")
    request = f"GET /a HTTP/{version}\r\nHost: x\r\n" + (f"Connection: {wish}\r\n" if wish else "") + "\r\n"
    answer = talk(server, 2 * request.encode())
    found = re.findall(rb"^Connection: (.*)\r$", answer, re.MULTILINE)
    stays = said != b"close"
    assert answer.count(b" 200 OK\r\n") == 1 + stays
    assert found == ([said] * (1 + stays) if said else [])


def test_errors_say_it_once(server: StackHTTPServer) -> None:
    answer = talk(server, b"GET /none HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert re.findall(rb"^Connection: (.*)\r$", answer, re.MULTILINE) == [b"close"]


def test_a_file_longer_than_one_piece(server: StackHTTPServer, site: Path) -> None:
    content = os.urandom(2 * PIECE + 1)
    (site / "long").write_bytes(content)
    assert talk(server, b"GET /long HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")[2] == content


@pytest.mark.parametrize("path", ["/../secret", "/%2e%2e/secret", "/sub/../../secret", "//../secret", "/..%2fsecret"])
def test_nothing_outside_the_directory(server: StackHTTPServer, site: Path, path: str) -> None:
    assert b"secret" not in talk(server, f"GET {path} HTTP/1.0\r\n\r\n".encode()).partition(b"\r\n\r\n")[2].lower()
    talk(server, f"PUT {path} HTTP/1.0\r\nContent-Length: 3\r\n\r\nnew".encode())
    assert (site.parent / "secret").read_text() == "secret"


def test_put_creates_and_replaces(server: StackHTTPServer, site: Path) -> None:
    request = b"PUT /sub/f HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
    assert status(talk(server, request + b"one")) == 201
    assert (site / "sub/f").read_bytes() == b"one"
    assert status(talk(server, request + b"two")) == 204
    assert (site / "sub/f").read_bytes() == b"two"


def test_put_in_chunks_with_extension_and_trailer(server: StackHTTPServer, site: Path) -> None:
    body = b"3;x=y\r\none\r\nA\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n"
    answer = talk(server, b"PUT /f HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert status(answer) == 201
    assert (site / "f").read_bytes() == b"one0123456789"


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        (b"", b"", 400),
        (b"Content-Length: -1\r\n", b"x", 400),
        (b"Content-Length: 1x\r\n", b"x", 400),
        (b"Transfer-Encoding: gzip\r\n", b"x", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", b"0\r\n\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n", b"zz\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n", b"-1\r\nx\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n", b"3\r\nonetwo\r\n0\r\n\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n", b"1" * 5000, 400),
    ],
)
def test_put_with_a_length_that_is_nonsense(
    server: StackHTTPServer, site: Path, headers: bytes, body: bytes, code: int
) -> None:
    assert status(talk(server, b"PUT /f HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n" + body)) == code
    assert [path.name for path in site.iterdir()] == ["sub"]


@pytest.mark.parametrize("headers", [b"Content-Length: 10\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_an_upload_that_ends_early_leaves_nothing(server: StackHTTPServer, site: Path, headers: bytes) -> None:
    talk(server, b"PUT /f HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n5\r\nab")
    assert [path.name for path in site.iterdir()] == ["sub"]


@pytest.mark.parametrize(("path", "code"), [("/sub", 409), ("/new/", 409), ("/none/f", 404)])
def test_put_where_no_file_can_be(server: StackHTTPServer, site: Path, path: str, code: int) -> None:
    request = f"PUT {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n".encode()
    answer = talk(server, request)
    assert status(answer) == code
    assert b"100 Continue" not in answer


def test_put_is_refused_without_uploads(site: Path) -> None:
    server = StackHTTPServer(FakeStack(), ("127.0.0.1", 0), file_handler(str(site), quiet=True))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        assert status(talk(server, b"PUT /f HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")) == 405
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert not (site / "f").exists()


def test_a_body_nobody_reads_is_not_the_next_request(server: StackHTTPServer, site: Path) -> None:
    (site / "a").write_text("first")
    smuggled = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
    head = b"GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(smuggled)
    assert talk(server, head + smuggled).count(b"HTTP/1.1 200 OK") == 1


def test_a_port_that_is_taken_leaves_no_socket(site: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        made: list[socket.socket] = []

        class Recording(FakeStack):
            def socket(self, *arguments: int) -> socket.socket:  # type: ignore[override]
                made.append(super().socket(*arguments))
                return made[-1]

        with pytest.raises(OSError, match="in use"):
            StackHTTPServer(Recording(), taken.getsockname(), file_handler(str(site)))
    assert [sock.fileno() for sock in made] == [-1]
