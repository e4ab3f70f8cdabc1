"""TLS over the stack's sockets: ustack.tls.TLSSocket behaves as ssl.SSLSocket does on the kernel's."""

from __future__ import annotations

import fcntl
import io
import select
import socket
import ssl
import struct
import termios
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import ustack
from tests.certificate import client_context, server_context
from ustack import tls


@pytest.fixture(params=["ustack", "kernel"])
def plain(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    """Two sockets that are connected to each other."""
    if request.param == "kernel":
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname(), timeout=20)
            conn, _ = server.accept()
        conn.settimeout(20)
        yield client, conn
        return
    a, b = ustack.pipe()
    with ustack.Stack() as left, ustack.Stack() as right:
        left.attach(a, addresses=["10.9.0.1/24"])
        right.attach(b, addresses=["10.9.0.2/24"])
        with right.create_server(("", 443)) as server:
            client = left.create_connection(("10.9.0.2", 443), timeout=20)
            conn, _ = server.accept()
            conn.settimeout(20)
        yield client, conn


def wrap(sock: Any, context: ssl.SSLContext, **arguments: Any) -> Any:
    """TLS over a socket, the way that its kind has."""
    if isinstance(sock, ustack.Socket):
        return tls.wrap_socket(sock, context, **arguments)
    return context.wrap_socket(sock, **arguments)


@pytest.fixture
def pair(plain: tuple[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """(client, server) with TLS between them."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(wrap(plain[1], server_context(), server_side=True)))
    thread.start()
    client = wrap(plain[0], client_context(), server_hostname="server.test")
    thread.join()
    with client, found[0] as server:
        yield client, server


def in_thread(function: Any, *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    return thread


def test_what_it_says_of_itself(pair: tuple[Any, Any]) -> None:
    client, server = pair
    assert isinstance(client, ssl.SSLSocket)
    assert isinstance(client, socket.socket)
    assert client.version() == server.version() == "TLSv1.3"
    assert client.cipher() == server.cipher()
    assert dict(name[0] for name in client.getpeercert()["subject"]) == {"commonName": "server.test"}
    assert client.getpeername() == server.getsockname()
    assert client.server_hostname == "server.test"
    assert (client.family, client.type) == (socket.AF_INET, socket.SOCK_STREAM)
    assert client.gettimeout() == client.timeout == 20
    assert client.pending() == 0


def test_much_data_both_ways_at_once(pair: tuple[Any, Any]) -> None:
    client, server = pair
    data = bytes(range(251)) * 20000
    got: dict[Any, bytes] = {}

    def read(sock: Any) -> None:
        buffer = bytearray(len(data))
        view, at = memoryview(buffer), 0
        while at < len(data):
            at += sock.recv_into(view[at:])
        got[sock] = bytes(buffer)

    threads = [in_thread(read, client), in_thread(read, server)]
    threads += [in_thread(client.sendall, data), in_thread(server.sendall, data)]
    for thread in threads:
        thread.join()
    assert got[client] == got[server] == data


def queued(sock: Any) -> int:
    """Bytes of TLS that have arrived and were not read."""
    if isinstance(sock, tls.TLSSocket):
        return sock._sock.ioctl(termios.FIONREAD)
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0])


def test_what_was_not_read_is_shown(pair: tuple[Any, Any]) -> None:
    """A program that waits for the descriptor, and reads once: each record is told of, however many are there."""
    client, server = pair
    for _ in range(3):
        server.sendall(bytes(1000))
    while queued(client) < 3000:
        select.select([client], [], [], 0.01)
    for _ in range(3):
        got = 0
        while got < 1000:  # TLS 1.3's tickets may come before
            assert select.select([client], [], [], 20)[0] == [client]
            client.setblocking(False)
            try:
                got += len(client.recv(1 << 16))
            except ssl.SSLWantReadError:
                pass
        assert got == 1000, "a record at a time"
    assert select.select([client], [], [], 0)[0] == []


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.0\r\n\r\n", b"\x16\x09\xff\xff\xff", b"\x16\x03\x03\xff\xff", b"\x17"])
def test_what_is_no_tls(plain: tuple[Any, Any], sent: bytes) -> None:
    plain[0].sendall(sent)
    plain[0].shutdown(socket.SHUT_WR)
    with plain[0], plain[1], pytest.raises(OSError, match=r"SSL|EOF") as caught:
        wrap(plain[1], server_context(), server_side=True)
    assert isinstance(caught.value, ssl.SSLError)


def test_files_and_sendfile(pair: tuple[Any, Any]) -> None:
    client, server = pair
    with client.makefile("rw", encoding="utf-8") as file, server.makefile("rb") as other:
        file.write("größe\n")
        file.flush()
        assert other.readline() == "größe\n".encode()
        assert server.sendfile(io.BytesIO(b"one line\n")) == 9
        assert file.readline() == "one line\n"


def test_end_of_stream_and_unwrap(pair: tuple[Any, Any]) -> None:
    client, server = pair
    thread = in_thread(server.unwrap)
    assert client.recv(10) == b""
    rest = client.unwrap()
    thread.join()
    rest.sendall(b"in the open")
    assert server.recv(100) == b"in the open"


def test_a_peer_that_goes_without_a_word_is_the_end(pair: tuple[Any, Any]) -> None:
    client, server = pair
    server.close()
    assert client.recv(10) == b""


def test_timeouts(pair: tuple[Any, Any]) -> None:
    client, server = pair
    client.settimeout(0.02)
    with pytest.raises(TimeoutError, match="read operation timed out"):
        client.recv(10)
    with pytest.raises(TimeoutError, match="write operation timed out"):
        while True:
            client.sendall(bytes(1 << 20))
    del server


def test_non_blocking(pair: tuple[Any, Any]) -> None:
    client, server = pair
    client.setblocking(False)
    server.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        server.recv(10)
    data = bytes(range(256)) * 16000
    sent, got = 0, bytearray()
    while len(got) < len(data):
        try:
            if sent < len(data):
                sent += client.send(data[sent : sent + 50000])
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        try:
            got += server.recv(1 << 16)
        except ssl.SSLWantReadError:
            select.select([server], [client] if sent < len(data) else [], [], 5)
    assert got == data


def test_a_certificate_for_another_name_is_refused(plain: tuple[Any, Any]) -> None:
    failures: list[Exception] = []

    def serve() -> None:
        try:
            wrap(plain[1], server_context(), server_side=True).recv(10)
        except OSError as error:
            failures.append(error)

    thread = in_thread(serve)
    with pytest.raises(ssl.SSLCertVerificationError):
        wrap(plain[0], client_context(), server_hostname="other.test")
    thread.join()
    assert isinstance(failures[0], ssl.SSLError), "the alert came"


def test_wrapped_before_it_is_connected() -> None:
    a, b = ustack.pipe()
    with ustack.Stack() as left, ustack.Stack() as right:
        left.attach(a, addresses=["10.9.0.1/24"])
        right.attach(b, addresses=["10.9.0.2/24"])
        with tls.wrap_socket(right.create_server(("", 443)), server_context(), server_side=True) as server:
            thread = in_thread(lambda: server.accept()[0].close())
            with tls.wrap_socket(left.socket(), client_context(), server_hostname="server.test") as client:
                client.settimeout(20)
                client.connect(("10.9.0.2", 443))
                assert client.version() == "TLSv1.3"
                thread.join()


def test_a_session_is_resumed() -> None:
    a, b = ustack.pipe()
    context = client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with ustack.Stack() as left, ustack.Stack() as right:
        left.attach(a, addresses=["10.9.0.1/24"])
        right.attach(b, addresses=["10.9.0.2/24"])
        with tls.wrap_socket(right.create_server(("", 443)), server_context(), server_side=True) as server:
            session = None
            for _ in range(2):
                thread = in_thread(lambda: server.accept()[0].close())
                sock = left.create_connection(("10.9.0.2", 443), timeout=20)
                with tls.wrap_socket(sock, context, server_hostname="server.test", session=session) as client:
                    thread.join()
                    assert client.session_reused == (session is not None)
                    session = client.session
