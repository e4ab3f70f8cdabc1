"""The standard library on ustack sockets by the API: http.server and http.client, socketserver, selectors."""

from __future__ import annotations

import http.client
import http.server
import selectors
import socket
import socketserver
import threading
from pathlib import Path
from typing import Any

import pytest

from tap_harness import payload
from tap_harness.checks import echo_through
from tap_harness.kernel_peer import receive_all, start_http_server


class StackTCPServer(socketserver.ThreadingTCPServer):
    """A socketserver whose listener is the stack's."""

    def __init__(self, listener: Any, handler: Any) -> None:
        socketserver.BaseServer.__init__(self, listener.getsockname(), handler)
        self.socket = listener


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


def serve(net: Any, handler: Any) -> tuple[StackTCPServer, int]:
    listener, port = net.stack_listen()
    listener.settimeout(None)
    server = StackTCPServer(listener, handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server, port


def test_socketserver(net: Any) -> None:
    server, port = serve(net, Echo)
    with net.kernel_connect(port) as sock, sock.makefile("rwb") as file:
        for number in range(100):
            file.write(b"line %d\n" % number)
            file.flush()
            assert file.readline() == b"line %d\n" % number
    server.shutdown()


@pytest.mark.usefixtures("curl")
def test_http_server(net: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"".join(payload.blocks(1, 5_000_000)))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server, port = serve(net, Handler)
    seen = net.ns.sh(f"curl -sS --max-time 30 {net.url(net.stack_ip, port)}/file | sha256sum")
    assert seen.split()[0] == payload.digest(1, 5_000_000)
    server.shutdown()


def test_http_client(net: Any, tmp_path: Path) -> None:
    data = b"".join(payload.blocks(1, 3_000_000))
    (tmp_path / "file").write_bytes(data)
    start_http_server(net.ns, tmp_path, net.kernel_ip)
    client = http.client.HTTPConnection(net.kernel_ip, 8000)
    client.sock = net.stack_connect(8000)
    client.request("GET", "/file")
    response = client.getresponse()
    assert response.status == 200
    assert response.read() == data
    client.close()


def test_selectors_echo(net: Any) -> None:
    """One thread, many connections, level-triggered readiness for reading and for writing."""
    listener, port = net.stack_listen()
    listener.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    stop = threading.Event()

    def loop() -> None:
        pending: dict[Any, bytearray] = {}
        while not stop.is_set():
            for key, events in selector.select(0.05):
                sock: Any = key.fileobj
                if sock is listener:
                    connection, _ = listener.accept()
                    connection.setblocking(False)
                    pending[connection] = bytearray()
                    selector.register(connection, selectors.EVENT_READ)
                    continue
                if events & selectors.EVENT_READ:
                    data = sock.recv(1 << 16)
                    if not data:
                        selector.unregister(sock)
                        sock.close()
                        continue
                    pending[sock] += data
                if pending[sock]:
                    try:
                        del pending[sock][: sock.send(bytes(pending[sock]))]
                    except BlockingIOError:
                        pass
                wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if pending[sock] else 0)
                selector.modify(sock, wanted)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        socks = [net.kernel_connect(port) for _ in range(20)]
        for number, sock in enumerate(socks):
            echo_through(sock, bytes([number]) * 200_000)
    finally:
        stop.set()
        thread.join()
        selector.close()


def test_sendfile(net: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"".join(payload.blocks(1, 2_000_000)))
    ours, theirs = net.pair("client")

    def send() -> None:
        with (tmp_path / "file").open("rb") as file:
            assert ours.sendfile(file) == 2_000_000
        ours.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    assert receive_all(theirs) == {"bytes": 2_000_000, "sha256": payload.digest(1, 2_000_000)}
    thread.join()
