"""Stack.selector(): the same tests as the standard library's selectors, and no descriptor for a socket."""

from __future__ import annotations

import errno
import gc
import os
import selectors
import socket
import struct
import threading
import weakref
from collections.abc import Iterator
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

import pytest

import ustack
from tests.unit.socket_worlds import EVERYWHERE, PATIENCE, WITH_THREADS, StackWorld, World, open_world

BOTH = EVENT_READ | EVENT_WRITE


@pytest.fixture(params=EVERYWHERE)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    yield from open_world(request.param)


@pytest.fixture
def selector(world: World) -> Iterator[Any]:
    """The kernel's for its sockets; for ustack's, the one of the left stack: tests wait on the left."""
    made = world.left_stack.selector() if isinstance(world, StackWorld) else selectors.DefaultSelector()
    with made:
        yield made


@pytest.fixture
def stacks() -> Iterator[StackWorld]:
    for world in open_world("pipe"):
        assert isinstance(world, StackWorld)
        yield world


def ready(selector: Any, timeout: float | None = 0) -> list[tuple[Any, int]]:
    return [(key.data, events) for key, events in selector.select(timeout)]


def fill(world: World, sock: Any) -> int:
    """Send until the socket stays full, its peer not reading; the number of bytes."""
    sent = 0
    sock.setblocking(False)
    full = 0
    while full < 20:
        try:
            sent += sock.send(bytes(65536))
            full = 0
        except BlockingIOError:
            full += 1
            world.let_time_pass()
    return sent


# -- level-triggered, as the selectors module has it


def test_readable_as_long_as_there_is_data(world: World, selector: Any) -> None:
    left, right = world.pair()
    selector.register(left, EVENT_READ, "left")
    assert ready(selector) == []
    right.send(b"abc")
    assert ready(selector, PATIENCE) == [("left", EVENT_READ)]
    left.recv(1)
    assert ready(selector) == [("left", EVENT_READ)]
    assert ready(selector, None) == [("left", EVENT_READ)]
    left.recv(2)
    assert ready(selector) == []
    right.send(b"d")
    assert ready(selector, PATIENCE) == [("left", EVENT_READ)]


def test_data_that_was_there_before(world: World, selector: Any) -> None:
    left, right = world.pair()
    right.send(b"abc")
    assert left.recv(1, socket.MSG_PEEK) == b"a"
    selector.register(left, EVENT_READ, "left")
    assert ready(selector) == [("left", EVENT_READ)]


def test_writable_as_long_as_there_is_room(world: World, selector: Any) -> None:
    left, right = world.pair()
    selector.register(left, BOTH, "left")
    assert ready(selector) == [("left", EVENT_WRITE)]
    assert ready(selector) == [("left", EVENT_WRITE)]
    sent = fill(world, left)
    assert ready(selector) == []
    while sent:
        sent -= len(right.recv(min(sent, 1 << 20)))
    assert ready(selector, PATIENCE) == [("left", EVENT_WRITE)]


def test_a_timeout_passes(world: World, selector: Any) -> None:
    left, _right = world.pair()
    selector.register(left, EVENT_READ)
    assert selector.select(0.01) == []
    assert selector.select(-1) == []


def test_several_sockets(world: World, selector: Any) -> None:
    pairs = [world.pair() for _ in range(5)]
    for k, (left, _) in enumerate(pairs):
        selector.register(left, EVENT_READ, k)
    for k in (3, 1):
        pairs[k][1].send(b"x")
    found: set[int] = set()
    while found != {1, 3}:
        found |= {data for data, _ in ready(selector, PATIENCE)}
        world.let_time_pass()
    pairs[1][0].recv(10)
    assert [data for data, _ in ready(selector)] == [3]
    selector.unregister(pairs[3][0])
    assert ready(selector) == []


def test_modify(world: World, selector: Any) -> None:
    left, right = world.pair()
    selector.register(left, EVENT_READ, "first")
    assert ready(selector) == []
    selector.modify(left, EVENT_WRITE, "second")
    assert ready(selector) == [("second", EVENT_WRITE)]
    selector.modify(left, EVENT_READ, "third")
    assert ready(selector) == []
    right.send(b"x")
    assert ready(selector, PATIENCE) == [("third", EVENT_READ)]
    selector.modify(left, BOTH, "fourth")
    assert ready(selector) == [("fourth", BOTH)]


def test_end_of_stream_and_hang_up(world: World, selector: Any) -> None:
    left, right = world.pair()
    selector.register(left, EVENT_READ, "left")
    right.close()
    assert ready(selector, PATIENCE) == [("left", EVENT_READ)]
    assert left.recv(1) == b""
    assert ready(selector) == [("left", EVENT_READ)]


def test_reset(world: World, selector: Any) -> None:
    left, right = world.pair()
    selector.register(left, EVENT_READ, "left")
    right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    right.close()
    assert ready(selector, PATIENCE) == [("left", EVENT_READ)]
    selector.modify(left, BOTH, "left")
    assert ready(selector) == [("left", BOTH)]
    with pytest.raises(ConnectionResetError):
        left.recv(1)


def test_a_refused_connect(world: World, selector: Any) -> None:
    listener, address = world.listener()
    listener.close()
    left = world.left()
    left.setblocking(False)
    assert left.connect_ex(address) in (errno.EINPROGRESS, errno.ECONNREFUSED)
    selector.register(left, EVENT_WRITE, "left")
    assert ready(selector, PATIENCE) == [("left", EVENT_WRITE)]
    assert left.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def test_datagrams(world: World, selector: Any) -> None:
    left, address, right, _ = world.datagrams()
    selector.register(left, EVENT_READ, "left")
    assert ready(selector) == []
    right.sendto(b"x", address)
    assert ready(selector, PATIENCE) == [("left", EVENT_READ)]
    left.recv(1)
    assert ready(selector) == []


def test_keys(world: World, selector: Any) -> None:
    left, right = world.pair()
    key = selector.register(left, EVENT_READ, "data")
    assert (key.fileobj, key.events, key.data) == (left, EVENT_READ, "data")
    assert selector.get_key(left) == key
    assert selector.get_map()[left] == key
    assert len(selector.get_map()) == 1
    assert left in selector.get_map()
    assert right not in selector.get_map()
    with pytest.raises(KeyError):
        selector.register(left, EVENT_READ)
    with pytest.raises(ValueError, match="Invalid events"):
        selector.register(right, 0)
    with pytest.raises(ValueError, match="Invalid events"):
        selector.register(right, 4)
    with pytest.raises(KeyError):
        selector.unregister(right)
    with pytest.raises(KeyError):
        selector.modify(right, EVENT_READ)
    assert selector.unregister(left) == key
    assert len(selector.get_map()) == 0
    with pytest.raises(KeyError):
        selector.get_key(left)


def test_closed_sockets(world: World, selector: Any) -> None:
    left, right = world.pair()
    selector.register(left, EVENT_READ, "left")
    right.send(b"x")
    assert ready(selector, PATIENCE)
    left.close()
    assert ready(selector) == []
    selector.unregister(left)
    assert len(selector.get_map()) == 0
    with pytest.raises(ValueError, match="Invalid file"):
        selector.register(left, EVENT_READ)


def test_closed_selector(world: World, selector: Any) -> None:
    left, right = world.pair()
    selector.register(left, EVENT_READ)
    selector.close()
    selector.close()
    assert selector.get_map() is None
    with pytest.raises(RuntimeError):
        selector.get_key(left)
    right.send(b"x")
    assert left.recv(1) == b"x"


# -- ustack's alone


def test_no_descriptor_is_made(stacks: StackWorld) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with stacks.left_stack.selector() as selector:
        empty = len(os.listdir("/proc/self/fd"))
        pairs = [stacks.pair() for _ in range(20)]
        for left, _ in pairs:
            assert selector.register(left, BOTH).fd == -1
        assert len(selector.select(PATIENCE)) == 20
        assert len(os.listdir("/proc/self/fd")) == empty
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_socket_in_two_selectors_and_with_a_descriptor(stacks: StackWorld) -> None:
    left, right = stacks.pair()
    with stacks.left_stack.selector() as one, stacks.left_stack.selector() as two, selectors.DefaultSelector() as third:
        for selector in (one, two, third):
            selector.register(left, EVENT_READ, "left")
        right.send(b"x")
        for selector in (one, two, third):
            assert ready(selector, PATIENCE) == [("left", EVENT_READ)]
        one.unregister(left)
        left.recv(1)
        for selector in (one, two, third):
            assert ready(selector) == []
        right.send(b"x")
        assert ready(two, PATIENCE) == [("left", EVENT_READ)]
        assert ready(one) == []


def test_kernel_descriptors_beside_sockets(stacks: StackWorld) -> None:
    left, right = stacks.pair()
    a, b = socket.socketpair()
    with stacks.left_stack.selector() as selector, a, b:
        selector.register(left, EVENT_READ, "ours")
        selector.register(a, EVENT_READ, "kernel's")
        selector.register(right, EVENT_READ, "another stack's")
        assert len(selector.get_map()) == 3
        assert sorted(str(one) for one in selector.get_map()) == sorted(
            [str(left), str(a.fileno()), str(right.fileno())]
        )
        assert ready(selector, 0.01) == []
        b.send(b"x")
        assert ready(selector, PATIENCE) == [("kernel's", EVENT_READ)]
        threading.Timer(0.02, right.send, [b"x"]).start()
        a.recv(1)
        assert ready(selector, PATIENCE) == [("ours", EVENT_READ)]
        assert ready(selector, None) == [("ours", EVENT_READ)]
        b.send(b"x")
        assert sorted(ready(selector, PATIENCE)) == [("kernel's", EVENT_READ), ("ours", EVENT_READ)]
        left.recv(1)
        a.recv(1)
        left.send(b"y")
        assert ready(selector, PATIENCE) == [("another stack's", EVENT_READ)]
        assert selector.modify(a, EVENT_WRITE, "writable").data == "writable"
        selector.unregister(right)
        assert ready(selector, PATIENCE) == [("writable", EVENT_WRITE)]
        selector.unregister(a)
        assert ready(selector, 0.01) == []
        right.send(b"x")
        assert ready(selector, PATIENCE) == [("ours", EVENT_READ)]


@pytest.mark.parametrize("name", [name for name in WITH_THREADS if name != "kernel"])
def test_closing_from_another_thread(name: str) -> None:
    for world in open_world(name):
        assert isinstance(world, StackWorld)
        left, _right = world.pair()
        selector = world.left_stack.selector()
        selector.register(left, EVENT_READ)
        task = world.spawn(selector.select, PATIENCE)
        world.let_time_pass()
        selector.close()
        assert task.result() == []


def test_detach_takes_a_socket_out(stacks: StackWorld) -> None:
    left, right = stacks.pair()
    with stacks.left_stack.selector() as selector:
        selector.register(left, EVENT_READ, "left")
        again = stacks.left_stack.socket(fileno=left.detach())
        right.send(b"x")
        assert stacks.keep(again).recv(1) == b"x"
        right.send(b"x")
        assert ready(selector, 0.01) == []
        selector.unregister(left)
        selector.register(again, EVENT_READ, "again")
        assert ready(selector, PATIENCE) == [("again", EVENT_READ)]


def test_the_stack_closes_under_it() -> None:
    with ustack.Stack() as stack:
        selector = stack.selector()
        sock = stack.create_server(("", 80))
        selector.register(sock, EVENT_READ)
    assert selector.select(0) in ([], [(selector.get_key(sock), EVENT_READ)])
    selector.unregister(sock)
    selector.close()


def test_a_closed_selector_keeps_nothing(stacks: StackWorld) -> None:
    with ustack.Stack() as stack:
        selector = stack.selector()
        sock = stack.create_server(("", 80))
        selector.register(sock, EVENT_READ)
        gone = weakref.ref(sock)
        selector.close()
        sock.close()
        del sock
        assert gone() is None
    gone_too = weakref.ref(stack)
    del stack
    gc.collect()
    assert gone_too() is None
    with pytest.raises(RuntimeError):
        selector.select(0)


def test_a_forgotten_selector_goes(stacks: StackWorld) -> None:
    left, right = stacks.pair()
    selector = stacks.left_stack.selector()
    selector.register(left, EVENT_READ)
    del selector
    right.send(b"x")
    assert left.recv(1) == b"x"


def test_the_manual_driver_never_waits() -> None:
    with ustack.Stack(driver="manual") as stack, stack.selector() as selector:
        server = stack.create_server(("127.0.0.1", 80))
        selector.register(server, EVENT_READ, "server")
        assert selector.select() == []
        client = stack.socket()
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", 80))
        stack.poll(1)
        assert ready(selector) == [("server", EVENT_READ)]
        server.accept()[0].close()
        assert ready(selector) == []
        client.close()
        server.close()


def test_a_server_of_many(stacks: StackWorld) -> None:
    """An echo server as one writes it for the selectors module, and clients that come and go."""
    clients, rounds = 8, 25
    server = stacks.right()
    server.bind(("", 0))
    server.listen(100)
    server.setblocking(False)
    address = (stacks.right_host, server.getsockname()[1])

    def client() -> int:
        for k in range(rounds):
            with stacks.left_stack.create_connection(address, timeout=PATIENCE) as sock:
                sock.sendall(b"%d" % k)
                assert sock.recv(10) == b"%d" % k
        return rounds

    tasks = [stacks.spawn(client) for _ in range(clients)]
    ended = 0
    with stacks.right_stack.selector() as selector:
        selector.register(server, EVENT_READ)
        while ended < clients * rounds:
            found = selector.select(PATIENCE)
            assert found
            for key, _ in found:
                sock = key.fileobj
                if sock is server:
                    conn, _peer = server.accept()
                    conn.setblocking(False)
                    selector.register(conn, EVENT_READ)
                elif data := sock.recv(100):
                    sock.send(data)
                else:
                    selector.unregister(sock)
                    sock.close()
                    ended += 1
    assert [task.result() for task in tasks] == [rounds] * clients
