"""TCP sockets mean what the standard library's mean: each test runs on the kernel's sockets too. Opening and ending."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.unit.socket_worlds import EVERYWHERE, World, fails, open_world


@pytest.fixture(params=EVERYWHERE)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    yield from open_world(request.param)


# -- connections


def test_echo_both_ways(world: World) -> None:
    left, right = world.pair()
    left.sendall(b"ping")
    assert right.recv(100) == b"ping"
    right.sendall(b"pong")
    assert left.recv(100) == b"pong"


def test_bulk_arrives_in_order(world: World) -> None:
    left, right = world.pair()
    data = os.urandom(3 << 20)

    def receive() -> bytes:
        received = bytearray()
        while piece := right.recv(65536):
            received += piece
        return bytes(received)

    task = world.spawn(receive)
    left.sendall(data)
    left.shutdown(socket.SHUT_WR)
    assert task.result() == data


def test_names(world: World) -> None:
    listener, address = world.listener()
    assert listener.getsockname() == ("0.0.0.0", address[1])
    left = world.left()
    assert left.getsockname() == ("0.0.0.0", 0)
    left.connect(address)
    right, peer = listener.accept()
    world.keep(right)
    assert left.getpeername() == address == right.getsockname()
    assert left.getsockname() == peer == right.getpeername()
    assert peer[0] == world.left_host
    assert peer[1] > 0


def test_accepted_socket_is_like_its_listener(world: World) -> None:
    left, right = world.pair()
    assert type(right) is type(left)
    assert (right.family, right.type, right.proto) == (socket.AF_INET, socket.SOCK_STREAM, 0)


def test_accepted_socket_blocks_whatever_its_listener_does(world: World) -> None:
    listener, address = world.listener()
    world.left().connect(address)
    listener.settimeout(5)
    right, _ = listener.accept()
    with right:
        assert right.gettimeout() is None


def test_refused(world: World) -> None:
    listener, address = world.listener()
    listener.close()
    fails(errno.ECONNREFUSED, world.left().connect, address)
    assert world.left().connect_ex(address) == errno.ECONNREFUSED


def test_connect_again_after_a_refusal(world: World) -> None:
    listener, address = world.listener()
    listener.close()
    left = world.left()
    left.settimeout(None)  # with a timeout the kernel does not see the refusal fetched, and answers ECONNABORTED once
    left.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    fails(errno.ECONNREFUSED, left.connect, address)
    again = world.right()
    again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    again.bind(("", address[1]))
    again.listen()
    left.connect(address)
    assert left.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_connect_twice(world: World) -> None:
    _listener, address = world.listener()
    left = world.left()
    left.settimeout(None)
    left.connect(address)
    fails(errno.EISCONN, left.connect, address)
    assert left.connect_ex(address) == errno.EISCONN


def test_states_in_which_calls_are_wrong(world: World) -> None:
    new = world.left()
    fails(errno.ENOTCONN, new.recv, 10)
    fails(errno.EPIPE, new.send, b"x")
    fails(errno.EINVAL, new.accept)
    fails(errno.ENOTCONN, new.shutdown, socket.SHUT_RDWR)
    fails(errno.ENOTCONN, new.getpeername)
    listener, address = world.listener()
    listener.settimeout(None)  # with a timeout the kernel's is waited for instead
    fails(errno.ENOTCONN, listener.recv, 10)
    fails(errno.EPIPE, listener.send, b"x")
    fails(errno.EISCONN, listener.connect, address)
    fails(errno.EINVAL, listener.bind, ("", 0))
    left, _ = world.pair()
    left.settimeout(None)
    fails(errno.EINVAL, left.listen)
    fails(errno.EINVAL, left.accept)
    fails(errno.EINVAL, left.bind, ("", 0))


def test_bind_conflicts(world: World) -> None:
    first, second = world.right(), world.right()
    first.bind((world.right_host, 0))
    fails(errno.EADDRINUSE, second.bind, first.getsockname())
    fails(errno.EINVAL, first.bind, ("", 0))
    fails(errno.EADDRNOTAVAIL, second.bind, ("192.0.2.1", 0))
    first.close()
    third = world.right()
    third.bind((world.right_host, second.getsockname()[1]))


def test_listen_without_bind_takes_a_port(world: World) -> None:
    sock = world.right()
    sock.listen()
    port = sock.getsockname()[1]
    assert port > 0
    world.left().connect((world.right_host, port))


def test_bound_source_address(world: World) -> None:
    listener, address = world.listener()
    left = world.left()
    left.bind((world.left_host, 0))
    port = left.getsockname()[1]
    left.connect(address)
    right, peer = listener.accept()
    with right:
        assert peer == (world.left_host, port)


# -- ends


def test_half_close(world: World) -> None:
    left, right = world.pair()
    left.sendall(b"question")
    left.shutdown(socket.SHUT_WR)
    assert right.recv(100) == b"question"
    assert right.recv(100) == b""
    assert right.recv(100) == b""
    right.sendall(b"answer")
    right.close()
    assert left.recv(100) == b"answer"
    assert left.recv(100) == b""
    fails(errno.EPIPE, left.send, b"x")


def test_shutdown_of_the_reading_side(world: World) -> None:
    left, _ = world.pair()
    left.shutdown(socket.SHUT_RD)
    assert left.recv(10) == b""
    left.shutdown(socket.SHUT_WR)
    fails(errno.EPIPE, left.send, b"x")
    fails(errno.EINVAL, left.shutdown, 3)


def test_close_with_unread_data_resets(world: World) -> None:
    left, right = world.pair()
    left.sendall(b"unread")
    assert right.recv(1, socket.MSG_PEEK) == b"u"
    right.close()
    fails(errno.ECONNRESET, left.recv, 10)
    assert left.recv(10) == b""
    fails(errno.EPIPE, left.send, b"x")
    fails(errno.ENOTCONN, left.getpeername)


def test_reset_is_told_to_send_first(world: World) -> None:
    left, right = world.pair()
    right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    right.close()
    with pytest.raises(OSError) as caught:
        left.recv(10)
    assert caught.value.errno == errno.ECONNRESET
    assert left.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_writing_to_a_peer_that_is_gone(world: World) -> None:
    left, right = world.pair()
    right.close()
    assert left.recv(10) == b""
    left.send(b"into the void")  # answered by RST
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(100):
            world.let_time_pass()
            left.send(b"more")


def test_linger_waits_for_the_last_byte(world: World) -> None:
    left, right = world.pair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 10))
    left.sendall(b"x" * 100_000)
    task = world.spawn(left.close)
    received = 0
    while piece := right.recv(65536):
        received += len(piece)
    assert received == 100_000
    right.close()
    task.result()


def test_calls_after_close(world: World) -> None:
    left, _ = world.pair()
    left.close()
    left.close()
    for call in (
        lambda: left.recv(1),
        lambda: left.send(b"x"),
        lambda: left.recv_into(bytearray(1)),
        lambda: left.connect((world.right_host, 1)),
        left.accept,
        left.listen,
        left.getsockname,
        left.getpeername,
        lambda: left.bind(("", 0)),
        lambda: left.shutdown(2),
        lambda: left.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
        lambda: left.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
    ):
        fails(errno.EBADF, call)
    assert left.fileno() == -1
    assert left.detach() == -1
    assert "[closed]" in repr(left)


def test_context_manager(world: World) -> None:
    left, right = world.pair()
    with left as entered:
        assert entered is left
    assert right.recv(1) == b""
    assert left.fileno() == -1


def test_shutdown_of_a_listener_stops_it(world: World) -> None:
    listener, address = world.listener()
    listener.shutdown(socket.SHUT_RD)
    fails(errno.EINVAL, listener.accept)
    fails(errno.ECONNREFUSED, world.left().connect, address)


def test_waiting_connections_are_accepted_in_order(world: World) -> None:
    listener, address = world.listener()
    clients = [world.left() for _ in range(4)]
    for client in clients:
        client.connect(address)
    accepted = [listener.accept() for _ in clients]
    for sock, _ in accepted:
        world.keep(sock)
    assert [peer for _, peer in accepted] == [client.getsockname() for client in clients]


def test_closing_a_listener_resets_who_waits_in_its_queue(world: World) -> None:
    listener, address = world.listener()
    left = world.left()
    left.connect(address)
    listener.close()
    fails(errno.ECONNRESET, left.recv, 1)


# -- addresses


@pytest.mark.parametrize("call", ["connect", "bind", "connect_ex"])
def test_wrong_addresses(world: World, call: str) -> None:
    function = getattr(world.left(), call)
    local = "127.0.0.1"
    for wrong in ("127.0.0.1:80", [local, 80], (local,), (local, "80"), (1, 80), (local, 80, 0), None):
        with pytest.raises(TypeError):
            function(wrong)
    for wrong in (("127.0.0.1", -1), ("127.0.0.1", 65536), ("127.0.0.1", 1 << 70)):
        with pytest.raises(OverflowError):
            function(wrong)
    with pytest.raises((TypeError, ValueError)):
        function(("a\0b", 80))


def test_a_name_without_address(world: World) -> None:
    with pytest.raises(socket.gaierror):
        world.left().connect(("no-such-host.invalid", 80))


def test_other_families(world: World) -> None:
    if world.is_kernel:
        pytest.skip("optional: the kernel has these families")
    stack = world.left_stack
    fails(errno.EAFNOSUPPORT, stack.socket, socket.AF_UNIX)
    fails(errno.EPROTONOSUPPORT, stack.socket, socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    fails(errno.ESOCKTNOSUPPORT, stack.socket, socket.AF_INET, socket.SOCK_SEQPACKET)
    fails(errno.EPROTONOSUPPORT, stack.socket, socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_UDP)
    with pytest.raises(TypeError):
        stack.socket("AF_INET")
