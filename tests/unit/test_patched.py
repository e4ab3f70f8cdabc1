"""Stack.patched() and Stack.socket_module: what of the socket module is the stack's, for whom, and undone how."""

from __future__ import annotations

import contextvars
import errno
import http.server
import select
import selectors
import socket
import socketserver
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

import ustack
from tests.certificate import client_context, server_context

HERE, THERE = "10.9.0.1", "10.9.0.2"


@pytest.fixture
def stacks() -> Iterator[tuple[ustack.Stack, ustack.Stack]]:
    """Two stacks, joined by a pipe."""
    a, b = ustack.pipe()
    with ustack.Stack() as left, ustack.Stack() as right:
        left.attach(a, addresses=[f"{HERE}/24"])
        right.attach(b, addresses=[f"{THERE}/24"])
        yield left, right


def in_thread(function: Any, *arguments: Any) -> Any:
    """The function's result, of a thread of its own."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function(*arguments)))
    thread.start()
    thread.join()
    return found[0]


def kind() -> str:
    with socket.socket() as sock:
        return "stack" if isinstance(sock, ustack.Socket) else "kernel"


# -- who is concerned, and undoing it


def test_everything_is_undone_exactly(stacks: Any) -> None:
    before, tls = dict(vars(socket)), ssl.SSLContext.sslsocket_class
    with stacks[0].patched():
        assert vars(socket) != before
    assert vars(socket) == before
    assert ssl.SSLContext.sslsocket_class is tls
    with pytest.raises(ZeroDivisionError), stacks[0].patched():
        1 / 0  # noqa: B018
    assert vars(socket) == before


def test_the_innermost_counts_and_the_outer_one_comes_back(stacks: Any) -> None:
    left, right = stacks
    with left.patched() as entered, left.patched():
        assert entered is left
        with right.patched():
            with socket.socket() as sock:
                assert sock.stack is right
        with socket.socket() as sock:
            assert sock.stack is left
    assert kind() == "kernel"


def test_the_same_object_can_be_entered_again_and_decorate(stacks: Any) -> None:
    patched = stacks[0].patched()
    with patched:
        with patched:
            assert kind() == "stack"
        assert kind() == "stack"
        assert patched(kind)() == "stack"
    assert kind() == "kernel"


def test_scopes_may_end_in_another_order(stacks: Any) -> None:
    first, second = stacks[0].patched(), stacks[1].patched()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with socket.socket() as sock:
        assert sock.stack is stacks[1]
    second.__exit__(None, None, None)
    assert kind() == "kernel"


def test_process_scope_concerns_every_thread(stacks: Any) -> None:
    with stacks[0].patched():
        assert in_thread(kind) == "stack"


def test_thread_scope_concerns_one_thread(stacks: Any) -> None:
    with stacks[0].patched(scope="thread"):
        assert kind() == "stack"
        assert in_thread(kind) == "kernel"


def test_context_scope_concerns_one_context(stacks: Any) -> None:
    outside = contextvars.copy_context()
    with stacks[0].patched(scope="context"):
        inside = contextvars.copy_context()
        assert kind() == "stack"
        assert outside.run(kind) == "kernel"
    assert kind() == "kernel"
    assert inside.run(kind) == "kernel", "the context was copied, but nothing is patched any more"


def test_another_patch_on_top_stays_its_owners(stacks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        pass

    original = socket.socket
    try:
        with stacks[0].patched():
            socket.socket = Other  # type: ignore[assignment,misc]
        assert socket.socket is Other
    finally:
        socket.socket = original  # type: ignore[misc]


@pytest.mark.parametrize(("name", "value"), [("scope", "galaxy"), ("outside", "moon")])
def test_wrong_words_are_value_errors(stacks: Any, name: str, value: str) -> None:
    with pytest.raises(ValueError, match=value):
        stacks[0].patched(**{name: value})


# -- what is the stack's


def test_other_families_and_socketpair_stay_the_kernels(stacks: Any) -> None:
    with stacks[0].patched():
        a, b = socket.socketpair()
        with a, b:
            a.send(b"x")
            assert b.recv(1) == b"x"
            assert a.family == socket.AF_UNIX
        with socket.socket(socket.AF_UNIX) as unix:
            again = socket.socket(fileno=unix.detach())
            again.close()


def test_isinstance_and_subclasses(stacks: Any) -> None:
    with stacks[0].patched():
        with socket.socket() as sock:
            assert isinstance(sock, socket.socket)
            assert issubclass(type(sock), socket.socket)
        a, b = socket.socketpair()
        with a, b:
            assert isinstance(a, socket.socket)

        class Own(socket.socket):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                self.extra = 1

        with Own(socket.AF_INET, socket.SOCK_DGRAM) as own:
            assert isinstance(own, ustack.Socket)
            assert own.extra == 1


def test_create_server_and_connection(stacks: Any) -> None:
    left, right = stacks
    with right.patched():
        server = socket.create_server(("", 8000))
    with server, left.patched():
        with socket.create_connection((THERE, 8000), timeout=5) as client:
            assert client.stack is left
            conn, peer = server.accept()
            with conn:
                assert peer == client.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((THERE, 1), timeout=5)


def test_socket_module_needs_no_patch(stacks: Any) -> None:
    left, right = stacks
    theirs, ours = right.socket_module, left.socket_module
    with theirs.create_server(("", 8000)) as server:
        with ours.create_connection((THERE, 8000), timeout=5) as client:
            assert client.stack is left
            server.accept()[0].close()
    assert ours.AF_INET is socket.AF_INET
    assert ours.timeout is TimeoutError
    assert [name for _, name in ours.if_nameindex()] == [one.name for one in left.interfaces()]
    assert set(socket.__all__) <= set(vars(ours))
    assert kind() == "kernel"


def test_no_route_is_refused(stacks: Any) -> None:
    with stacks[0].patched(), pytest.raises(OSError) as failure:
        socket.create_connection(("192.0.2.1", 80), timeout=5)
    assert failure.value.errno == errno.ENETUNREACH


def test_no_route_is_left_to_the_kernel_where_so_said(stacks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = stacks
    monkeypatch.setattr(left, "reaches", lambda address: address == THERE)
    with socket.create_server(("127.0.0.1", 0)) as kernels, right.create_server(("", 8000)) as server:
        where = kernels.getsockname()
        with left.patched(outside="kernel"):
            with socket.create_connection((THERE, 8000), timeout=5) as client:
                server.accept()[0].close()
                assert isinstance(client.chosen, ustack.Socket)  # type: ignore[attr-defined]
            with socket.socket() as sock:
                sock.settimeout(3)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.connect(where)
                kernels.accept()[0].close()
                assert sock.recv(1) == b""
                assert sock.gettimeout() == 3
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind(("127.0.0.1", 0))
                sock.sendto(b"to myself", sock.getsockname())
                assert sock.recv(100) == b"to myself"
            assert socket.gethostbyname("localhost") == "127.0.0.1"


def test_selectors_and_select_wait_for_it(stacks: Any) -> None:
    left, right = stacks
    with right.create_server(("", 8000)) as server, left.patched():
        with socket.create_connection((THERE, 8000), timeout=5) as client, selectors.DefaultSelector() as selector:
            conn, _ = server.accept()
            with conn:
                selector.register(client, selectors.EVENT_READ)
                assert selector.select(0) == []
                conn.sendall(b"ready")
                assert [key.fileobj for key, _ in selector.select(10)] == [client]
                assert select.select([client], [client], [], 10) == ([client], [client], [])


# -- names


def test_names(stacks: Any) -> None:
    left, _ = stacks
    left.hosts["server.test"] = [THERE, "10.9.0.3"]
    with left.patched():
        infos = socket.getaddrinfo("Server.test.", "http", type=socket.SOCK_STREAM)
        assert [info[4] for info in infos] == [(THERE, 80), ("10.9.0.3", 80)]
        assert socket.gethostbyname("server.test") == THERE
        assert socket.gethostbyname_ex("server.test") == ("server.test", [], [THERE, "10.9.0.3"])
        assert socket.gethostbyaddr(THERE)[0] == "server.test"
        assert socket.getfqdn(THERE) == "server.test"
        assert socket.getnameinfo((THERE, 80), 0) == ("server.test", "http")
        assert socket.getnameinfo((THERE, 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV) == (THERE, "80")
        assert socket.gethostbyname("localhost") == "127.0.0.1"
        for wrong in ("nowhere.test", ""):
            with pytest.raises(socket.gaierror) as failure:
                socket.getaddrinfo(wrong, 80)
            assert failure.value.errno == socket.EAI_NONAME
        with pytest.raises(socket.herror):
            socket.gethostbyaddr("10.9.0.77")


def test_a_resolver_is_asked_for_what_no_table_has(stacks: Any) -> None:
    left, _ = stacks
    asked = []

    def resolver(name: str) -> list[str]:
        asked.append(name)
        return [THERE] if name == "server.test" else []

    left.resolver = resolver
    assert left.socket_module.gethostbyname("SERVER.test") == THERE
    with pytest.raises(socket.gaierror):
        left.socket_module.gethostbyname("other.test")
    assert left.socket_module.gethostbyname("10.9.0.9") == "10.9.0.9"
    assert asked == ["server.test", "other.test"]


NUMERIC = [
    ("10.9.0.2", 80, {}),
    ("10.9.0.2", "80", {"type": socket.SOCK_STREAM}),
    ("127.1", None, {"type": socket.SOCK_DGRAM}),
    (None, 80, {"family": socket.AF_INET}),
    (None, 80, {"family": socket.AF_INET, "flags": socket.AI_PASSIVE, "type": socket.SOCK_STREAM}),
    (b"10.9.0.2", b"80", {"proto": socket.IPPROTO_UDP}),
    ("10.9.0.2", "domain", {"type": socket.SOCK_DGRAM}),
    ("10.9.0.2", 80, {"type": socket.SOCK_STREAM, "flags": socket.AI_CANONNAME}),
    ("10.9.0.2", 80, {"family": socket.AF_INET6}),
    ("10.9.0.2", "no such service", {"type": socket.SOCK_STREAM}),
    ("10.9.0.2", "http", {"type": socket.SOCK_STREAM, "flags": socket.AI_NUMERICSERV}),
    ("name.test", 80, {"flags": socket.AI_NUMERICHOST}),
    (None, None, {}),
    ("10.9.0.2", 80, {"family": socket.AF_UNIX}),
    ("10.9.0.2", 80, {"type": socket.SOCK_STREAM, "proto": socket.IPPROTO_UDP}),
]


@pytest.mark.parametrize(("host", "port", "keywords"), NUMERIC)
def test_getaddrinfo_says_what_the_kernels_says(stacks: Any, host: Any, port: Any, keywords: Any) -> None:
    answers = []
    for module in (socket, stacks[0].socket_module):
        try:
            answers.append(module.getaddrinfo(host, port, **keywords))
        except socket.gaierror as error:
            answers.append(error.errno)
    assert answers[0] == answers[1]


# -- what is built on it


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with what it was sent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


def serve(stack: ustack.Stack, context: ssl.SSLContext | None = None) -> http.server.HTTPServer:
    """A server of the standard library on the stack, in a thread."""
    with stack.patched():
        server = http.server.ThreadingHTTPServer(("", 8000), Handler)
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = False
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


@pytest.mark.parametrize("tls", [False, True])
def test_urllib_and_http_server(stacks: Any, tls: bool) -> None:
    left, right = stacks
    server = serve(right, server_context() if tls else None)
    body = bytes(range(256)) * 4000
    try:
        with left.patched():
            url = f"{'https' if tls else 'http'}://{THERE}:8000/"
            context = client_context() if tls else None
            with urllib.request.urlopen(url, data=body, timeout=20, context=context) as answer:
                assert answer.read() == body
    finally:
        server.shutdown()
        server.server_close()


def test_socketserver_udp(stacks: Any) -> None:
    left, right = stacks

    class Echo(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data, sock = self.request
            sock.sendto(data.upper(), self.client_address)

    with right.patched():
        server = socketserver.UDPServer(("", 7), Echo)
    with server, left.patched():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.sendto(b"loud", (THERE, 7))
            server.handle_request()
            assert client.recv(10) == b"LOUD"
