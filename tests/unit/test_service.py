"""Services of the data plane (Stack.start_service): what each kind does, with every driver, and how they end."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest

import ustack
from tests.unit.socket_worlds import StackWorld, fails, open_world

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(params=["pipe", "own", "sim"])
def world(request: pytest.FixtureRequest) -> Iterator[StackWorld]:
    for made in open_world(request.param):
        assert isinstance(made, StackWorld)
        yield made


def client(world: StackWorld, service: ustack.Service) -> Any:
    sock = world.left()
    sock.connect((world.right_host, service.address[1]))
    return sock


def read(sock: Any, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        piece = sock.recv(min(65536, size - len(got)))
        assert piece, f"ended after {len(got)} of {size} bytes"
        got += piece
    return bytes(got)


def until(world: StackWorld, service: ustack.Service, **wanted: int) -> None:
    """Wait until the service's counters say so."""
    for _ in range(2000):
        counters = service.counters()
        if all(counters[name] == value for name, value in wanted.items()):
            return
        world.let_time_pass()
    raise AssertionError(f"{service.counters()}, not {wanted}")


def test_echo(world: StackWorld) -> None:
    service = world.right_stack.start_service(("", 0), "echo")
    sock = client(world, service)
    for size in (1, 64, 1448, 100_000):
        data = bytes(i * 7 % 256 for i in range(size))
        sender = world.spawn(sock.sendall, data)
        assert read(sock, size) == data
        sender.result()
    sock.shutdown(1)
    assert sock.recv(1) == b""
    until(world, service, open=0, connections=1, bytes_in=101_513, bytes_out=101_513)


def test_echo_of_more_than_all_buffers_hold(world: StackWorld) -> None:
    service = world.right_stack.start_service(("", 0), "echo")
    sock = client(world, service)
    data = bytes(range(256)) * 40_000
    sender = world.spawn(sock.sendall, data)
    assert read(sock, len(data)) == data
    sender.result()


def test_discard_says_how_much_it_was(world: StackWorld) -> None:
    service = world.right_stack.start_service(("", 0), "discard", report=True)
    sock = client(world, service)
    world.spawn(sock.sendall, bytes(1_000_003)).result()
    sock.shutdown(1)
    assert read(sock, 8) == (1_000_003).to_bytes(8, "big")
    assert sock.recv(1) == b""
    until(world, service, open=0, bytes_in=1_000_003, bytes_out=8)


def test_discard_without_a_report(world: StackWorld) -> None:
    sock = client(world, world.right_stack.start_service(("", 0), "discard"))
    sock.sendall(b"nothing comes back")
    sock.shutdown(1)
    assert sock.recv(1) == b""


def test_chargen_until_the_peer_closes(world: StackWorld) -> None:
    service = world.right_stack.start_service(("", 0), "chargen")
    sock = client(world, service)
    block = read(sock, 65536)
    lines = block.split(b"\r\n")
    assert lines[0] == bytes(range(32, 104))  # RFC 864 §"data syntax"
    assert lines[1] == bytes(range(33, 105))
    assert lines[95] == lines[0]
    for _ in range(40):  # the pattern goes on without a gap, whatever pieces it was sent in
        assert read(sock, 65536) == block
    sock.sendall(b"ignored")
    sock.close()
    until(world, service, open=0, connections=1)


def test_answer_to_whatever_comes(world: StackWorld) -> None:
    service = world.right_stack.start_service(("", 0), "answer", answer=b"!", close=True)
    for _ in range(3):
        sock = client(world, service)
        sock.sendall(b"?")
        assert sock.recv(10) == b"!"
        assert sock.recv(10) == b""
        sock.close()
    until(world, service, open=0, connections=3, requests=3, bytes_in=3, bytes_out=3)


@pytest.mark.parametrize("pieces", [[GET], [GET[:-1], GET[-1:]], [GET[i : i + 1] for i in range(len(GET))]])
def test_an_answer_when_the_request_is_complete(world: StackWorld, pieces: list[bytes]) -> None:
    service = world.right_stack.start_service(("", 0), "answer", answer=b"yes", end=b"\r\n\r\n")
    sock = client(world, service)
    for piece in pieces[:-1]:
        sock.sendall(piece)
    world.let_time_pass()
    assert service.counters()["requests"] == 0
    sock.sendall(pieces[-1])
    assert read(sock, 3) == b"yes"
    sock.sendall(GET)  # keep-alive
    assert read(sock, 3) == b"yes"
    until(world, service, requests=2, open=1, bytes_in=2 * len(GET))


def test_requests_one_behind_the_other(world: StackWorld) -> None:
    answer = bytes(range(200))
    service = world.right_stack.start_service(("", 0), "answer", answer=answer, end=b"\r\n\r\n")
    sock = client(world, service)
    sender = world.spawn(sock.sendall, GET * 2000)
    assert read(sock, 2000 * len(answer)) == answer * 2000
    sender.result()
    sock.shutdown(1)
    assert sock.recv(1) == b""
    until(world, service, open=0, requests=2000)


@pytest.mark.parametrize("size", [0, 1, 65536])
def test_answers_of_every_size(world: StackWorld, size: int) -> None:
    answer = bytes(i % 251 for i in range(size))
    service = world.right_stack.start_service(("", 0), "answer", answer=answer, end=b"\n")
    sock = client(world, service)
    sender = world.spawn(sock.sendall, b"a\nb\nc\n")
    assert read(sock, 3 * size) == answer * 3
    sender.result()
    until(world, service, requests=3)


def test_http(world: StackWorld) -> None:
    service = world.right_stack.start_service(("", 0), "http", body="hello\n", close=True)
    sock = client(world, service)
    sock.sendall(GET)
    head, body = sock.makefile("rb").read().split(b"\r\n\r\n")
    assert body == b"hello\n"
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 6\r\n" in head


def test_what_follows_the_request_does_not_spoil_the_answer(world: StackWorld) -> None:
    """Unread data at close() would be answered with a reset (RFC 2525 §2.17), which may overtake the answer."""
    service = world.right_stack.start_service(("", 0), "http", body="hello\n", close=True)
    sock = client(world, service)
    sock.sendall(GET + b"a body that nobody asked for")
    assert sock.makefile("rb").read().endswith(b"hello\n")
    until(world, service, open=0, requests=1, bytes_in=len(GET) + 28)


def test_many_connections_at_a_time(world: StackWorld) -> None:
    service = world.right_stack.start_service(("", 0), "echo")
    socks = [client(world, service) for _ in range(50)]
    for number, sock in enumerate(socks):
        sock.sendall(b"%d" % number)
    for number, sock in enumerate(socks):
        assert sock.recv(10) == b"%d" % number
        sock.close()
    until(world, service, open=0, connections=50)


def test_closing_resets_the_connections(world: StackWorld) -> None:
    with world.right_stack.start_service(("", 0), "echo") as service:
        sock = client(world, service)
        sock.sendall(b"hello")
        assert sock.recv(5) == b"hello"
    assert service.closed
    assert service.counters()["bytes_in"] == 5
    fails(errno.ECONNRESET, sock.recv, 1)
    service.close()
    again = world.left()
    fails(errno.ECONNREFUSED, again.connect, (world.right_host, service.address[1]))
    assert world.right_stack.live()["listeners"] == 0


def test_the_port_is_free_again(world: StackWorld) -> None:
    service = world.right_stack.start_service(("", 7), "echo")
    assert service.address == ("0.0.0.0", 7)
    fails(errno.EADDRINUSE, world.right_stack.start_service, ("", 7), "discard")
    service.close()
    world.right_stack.start_service(("", 7), "discard")


def test_a_service_goes_on_when_nobody_keeps_it(world: StackWorld) -> None:
    port = world.right_stack.start_service(("", 0), "echo").address[1]
    sock = world.left()
    sock.connect((world.right_host, port))
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"


def test_the_command_line_offers_every_kind() -> None:
    from ustack import service
    from ustack.cli import up

    assert up.SERVICES == service.KINDS


@pytest.mark.parametrize("driver", ["thread", "manual"])
def test_closing_the_stack_closes_its_services(driver: str) -> None:
    with ustack.Stack(driver=driver) as stack:
        service = stack.start_service(("127.0.0.1", 7), "echo")
    assert service.closed
    assert service.counters()["connections"] == 0
    with pytest.raises(OSError) as caught:
        stack.start_service(("", 7), "echo")
    assert caught.value.errno == errno.EBADF


def test_with_the_manual_driver() -> None:
    with ustack.Stack(driver="manual") as stack:
        service = stack.start_service(("", 7), "echo")
        sock = stack.socket()
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.connect(("127.0.0.1", 7))
        now = 1
        stack.poll(now)
        assert sock.connect_ex(("127.0.0.1", 7)) in (0, errno.EISCONN)
        for _ in range(10):
            assert sock.send(b"x" * 1000) == 1000
            while (deadline := stack.next_deadline()) is not None and deadline <= now:
                stack.poll(now)
            assert sock.recv(2000) == b"x" * 1000
        assert service.counters()["bytes_out"] == 10_000
        sock.close()
        while stack.next_deadline() is not None and service.counters()["open"]:
            now = max(now, stack.next_deadline() or 0)
            stack.poll(now)
        assert service.counters()["open"] == 0


def test_a_local_reader_and_a_source_without_end() -> None:
    """Over the loopback one poll could go on for as long as the window is open: it does its share and comes back."""
    with ustack.Stack(driver="manual") as stack:
        service = stack.start_service(("", 7), "chargen")
        sock = stack.socket()
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.connect(("127.0.0.1", 7))
        stack.poll(1)
        for now in range(2, 50):
            stack.poll(now)
            sock.recv(1_000_000)
        assert service.counters()["bytes_out"] > 1_000_000
        sock.close()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("gopher", {}, "gopher"),
        ("echo", {"answer": b"x"}, "no option 'answer'"),
        ("answer", {"answer": bytes(65537)}, "65537 bytes"),
        ("answer", {"end": bytes(65)}, "65 bytes"),
        ("http", {"content_type": "a\r\nb"}, "header"),
        ("echo", {"backlog": -1}, "negative"),
    ],
)
def test_what_cannot_be_asked_for(kind: str, options: dict[str, Any], message: str) -> None:
    with ustack.Stack(driver="manual") as stack:
        with pytest.raises((ValueError, TypeError), match=message):
            stack.start_service(("", 7), kind, **options)
        fails(errno.EADDRNOTAVAIL, stack.start_service, ("10.1.1.1", 7), "echo")
        with pytest.raises(OverflowError):
            stack.start_service(("", 65536), "echo")
        assert stack.live()["binds"] == 0
