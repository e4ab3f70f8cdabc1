"""Waiting: select, poll, epoll, selectors and asyncio on fileno(), threads that block, and closing under them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import selectors
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ustack
from tests.unit.socket_worlds import PATIENCE, WITH_THREADS, StackWorld, World, open_world

ROOT = Path(__file__).parents[2]
MS = 10_000  # what a poll that should answer may take at most


@pytest.fixture(params=WITH_THREADS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    yield from open_world(request.param)


@pytest.fixture(params=["pipe", "own"])
def stacks(request: pytest.FixtureRequest) -> Iterator[StackWorld]:
    for world in open_world(request.param):
        assert isinstance(world, StackWorld)
        yield world


def events(sock: Any, wanted: int, timeout: int = 0) -> int:
    """What poll(2) says of a socket."""
    poller = select.poll()
    poller.register(sock, wanted)
    return sum(bits for _, bits in poller.poll(timeout))


def fill(sock: Any) -> int:
    """Send until no more is taken; the number of bytes."""
    sent = 0
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += sock.send(bytes(65536))
    return sent


def until_full(sock: Any) -> int:
    """Fill a socket whose peer does not read, until it stays full."""
    sent = fill(sock)
    while events(sock, select.POLLOUT, 100):
        sent += fill(sock)
    return sent


def drain(sock: Any, count: int) -> None:
    while count:
        piece = sock.recv(min(count, 1 << 20))
        assert piece
        count -= len(piece)


# -- one descriptor, three facts


def test_readable_follows_the_data(world: World) -> None:
    left, right = world.pair()
    assert not events(right, select.POLLIN)
    left.send(b"abc")
    assert events(right, select.POLLIN, MS) == select.POLLIN
    right.recv(1, socket.MSG_PEEK)
    assert events(right, select.POLLIN)
    right.recv(2)
    assert events(right, select.POLLIN)
    right.recv(2)
    assert not events(right, select.POLLIN)


def test_writable_follows_the_room(world: World) -> None:
    left, right = world.pair()
    assert events(left, select.POLLOUT) == select.POLLOUT
    sent = until_full(left)
    assert not events(left, select.POLLOUT | select.POLLIN)
    drain(right, sent)
    assert events(left, select.POLLOUT, MS) == select.POLLOUT
    assert left.send(b"more") == 4


def test_both_at_once(world: World) -> None:
    left, right = world.pair()
    right.send(b"x")
    assert events(left, select.POLLIN | select.POLLOUT, MS)
    until_full(left)
    assert events(left, select.POLLIN | select.POLLOUT) == select.POLLIN


def test_end_of_stream_is_readable(world: World) -> None:
    left, right = world.pair()
    left.shutdown(socket.SHUT_WR)
    assert events(right, select.POLLIN, MS) & select.POLLIN
    assert right.recv(1) == b""
    assert events(right, select.POLLIN) & select.POLLIN
    assert events(right, select.POLLOUT) & select.POLLOUT


def test_hang_up(world: World) -> None:
    left, right = world.pair()
    left.close()
    assert events(right, select.POLLIN, MS)
    right.shutdown(socket.SHUT_RDWR)
    assert events(right, select.POLLIN | select.POLLOUT, MS) & select.POLLHUP


def test_reset_is_readable_writable_and_hung_up(world: World) -> None:
    left, right = world.pair()
    sent = until_full(left)
    assert sent
    right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    right.close()
    assert events(left, 0, MS) & select.POLLHUP
    got = events(left, select.POLLIN | select.POLLOUT)
    assert got & select.POLLIN
    assert got & select.POLLOUT
    assert left.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (errno.ECONNRESET, errno.EPIPE)


def test_listener_is_readable_while_somebody_waits(world: World) -> None:
    listener, address = world.listener()
    assert not events(listener, select.POLLIN)
    world.left().connect(address)
    assert events(listener, select.POLLIN, MS) == select.POLLIN
    listener.accept()[0].close()
    assert not events(listener, select.POLLIN)


def test_connect_that_is_under_way(world: World) -> None:
    _listener, address = world.listener()
    left = world.left()
    left.setblocking(False)
    assert left.connect_ex(address) == errno.EINPROGRESS
    assert events(left, select.POLLOUT, MS) == select.POLLOUT
    assert left.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert left.getpeername() == address


def test_connect_that_is_refused(world: World) -> None:
    listener, address = world.listener()
    listener.close()
    left = world.left()
    left.setblocking(False)
    assert left.connect_ex(address) in (errno.EINPROGRESS, errno.ECONNREFUSED)
    assert events(left, select.POLLOUT, MS) & select.POLLOUT
    assert left.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
    assert left.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_connect_after_a_refusal_revives_the_descriptor(stacks: StackWorld) -> None:
    listener, address = stacks.listener()
    listener.close()
    left = stacks.left()
    fd = left.fileno()
    with pytest.raises(ConnectionRefusedError):
        left.connect(address)
    assert events(left, select.POLLOUT, MS) & select.POLLOUT
    again = stacks.right()
    again.bind(("", address[1]))
    again.listen()
    left.connect(address)
    assert left.fileno() == fd
    assert events(left, select.POLLOUT | select.POLLIN, MS) == select.POLLOUT


def test_datagram_sockets(world: World) -> None:
    left, _, right, address = world.datagrams()
    assert events(left, select.POLLOUT) == select.POLLOUT
    assert not events(right, select.POLLIN)
    left.sendto(b"one", address)
    left.sendto(b"two", address)
    assert events(right, select.POLLIN, MS) == select.POLLIN
    right.recv(10)
    assert events(right, select.POLLIN, MS) == select.POLLIN
    right.recv(10)
    assert not events(right, select.POLLIN)


def test_a_descriptor_asked_for_late_shows_the_truth(world: World) -> None:
    left, right = world.pair()
    left.sendall(b"x" * 100)
    assert right.recv(1, socket.MSG_PEEK) == b"x"
    assert events(right, select.POLLIN) == select.POLLIN
    assert right.fileno() == right.fileno() >= 0


# -- the ways to wait


def test_select(world: World) -> None:
    left, right = world.pair()
    assert select.select([left, right], [left, right], [], 0) == ([], [left, right], [])
    left.send(b"x")
    assert select.select([left, right], [], [], PATIENCE) == ([right], [], [])


@pytest.mark.parametrize("edge", [False, True])
def test_epoll(world: World, edge: bool) -> None:
    left, right = world.pair()
    with select.epoll() as poller:
        poller.register(right.fileno(), select.EPOLLIN | (select.EPOLLET if edge else 0))
        right.setblocking(False)
        for _ in range(3):
            assert poller.poll(0) == []
            left.sendall(b"x" * 5000)
            received = 0
            while received < 5000:
                assert poller.poll(PATIENCE) == [(right.fileno(), select.EPOLLIN)]
                with contextlib.suppress(BlockingIOError):
                    while True:
                        received += len(right.recv(4096))


@pytest.mark.parametrize("kind", [selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector])
def test_selectors(world: World, kind: Callable[[], selectors.BaseSelector]) -> None:
    left, right = world.pair()
    with kind() as selector:
        selector.register(right, selectors.EVENT_READ, "right")
        selector.register(left, selectors.EVENT_WRITE, "left")
        assert [key.data for key, _ in selector.select(0)] == ["left"]
        selector.unregister(left)
        left.send(b"x")
        assert [key.data for key, _ in selector.select(PATIENCE)] == ["right"]


def test_asyncio_on_the_descriptor(world: World) -> None:
    async def talk() -> bytes:
        loop = asyncio.get_running_loop()
        listener, address = world.listener()
        left = world.left()
        for sock in (listener, left):
            sock.setblocking(False)
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        await loop.sock_connect(left, address)
        right, _ = await accepting
        world.keep(right).setblocking(False)
        sending = asyncio.ensure_future(loop.sock_sendall(left, bytes(4 << 20)))
        received = 0
        while received < 4 << 20:
            received += len(await loop.sock_recv(right, 1 << 16))
        await sending
        await loop.sock_sendall(right, b"done")
        return await loop.sock_recv(left, 100)

    assert asyncio.run(asyncio.wait_for(talk(), PATIENCE)) == b"done"


# -- threads


def blocked(stacks: StackWorld, call: Callable[[], Any], is_waiting: Callable[[], bool]) -> Any:
    """Start `call` beside the test and come back once it blocks."""
    task = stacks.spawn(call)
    while not is_waiting():
        stacks.let_time_pass()
    return task


@pytest.mark.parametrize("call", ["recv", "send", "accept", "recvfrom", "connect"])
def test_close_wakes_who_is_blocked(stacks: StackWorld, call: str) -> None:
    sock, function = _blocking_call(stacks, call)
    started = threading.Event()

    def run() -> Any:
        started.set()
        return function()

    task = stacks.spawn(run)
    started.wait(PATIENCE)
    for _ in range(20):
        stacks.let_time_pass()
    sock.close()
    with pytest.raises(OSError) as caught:
        task.result()
    assert caught.value.errno == errno.EBADF


def _blocking_call(world: World, call: str) -> tuple[Any, Callable[[], Any]]:
    """A socket, and a call on it that does not return by itself."""
    if call == "accept":
        listener, _ = world.listener()
        return listener, listener.accept
    if call == "recvfrom":
        sock = world.left(socket.SOCK_DGRAM)
        sock.bind(("", 0))
        return sock, lambda: sock.recvfrom(10)
    if call == "connect":
        sock = world.left()
        # Nobody has the address; in `own` there is no route either, so the listener's queue is filled instead.
        if world.name == "pipe":
            return sock, lambda: sock.connect(("10.9.0.77", 1))
        pytest.skip("optional: nothing to wait for over the stack's own loopback")
    left, _ = world.pair()
    if call == "recv":
        return left, lambda: left.recv(10)
    until_full(left)
    left.settimeout(PATIENCE)
    return left, lambda: left.sendall(bytes(1 << 20))


@pytest.mark.parametrize("call", ["recv", "accept", "recvfrom"])
def test_closing_the_stack_wakes_who_is_blocked(stacks: StackWorld, call: str) -> None:
    _, function = _blocking_call(stacks, call)
    started = threading.Event()

    def run() -> Any:
        started.set()
        return function()

    task = stacks.spawn(run)
    started.wait(PATIENCE)
    for _ in range(10):
        stacks.let_time_pass()
    stacks.right_stack.close()
    stacks.left_stack.close()
    with pytest.raises(OSError) as caught:
        task.result()
    assert caught.value.errno in (errno.ECONNABORTED, errno.ECONNRESET)


def test_shutdown_wakes_who_is_blocked(stacks: StackWorld) -> None:
    left, _ = stacks.pair()
    task = stacks.spawn(left.recv, 10)
    stacks.let_time_pass()
    left.shutdown(socket.SHUT_RDWR)
    assert task.result() == b""


def test_signals_that_raise_nothing_interrupt_nothing() -> None:
    """PEP 475: who waits goes on waiting after the handler, as long as was said."""
    program = """
import signal, ustack
with ustack.Stack() as stack:
    udp, other = (stack.socket(type=ustack.SOCK_DGRAM) for _ in range(2))
    udp.bind(("127.0.0.1", 9))
    server, client = stack.create_server(("127.0.0.1", 80)), stack.socket()
    beats = 0
    def drain():
        try:
            conn.recv(1 << 24)
        except BlockingIOError:
            pass
    def beat(*_):
        global beats
        beats += 1
        if beats % 5 == 0:
            act()
    act = lambda: other.sendto(b"datagram", ("127.0.0.1", 9))
    signal.signal(signal.SIGALRM, beat)
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    print(udp.recv(100).decode())
    act = lambda: client.connect_ex(("127.0.0.1", 80))
    conn, _ = server.accept()
    act = lambda: client.send(b"stream")
    print(conn.recv(100).decode())
    conn.setblocking(False)
    act = drain
    client.sendall(bytes(1 << 23))
    act, beats = (lambda: None), 0
    udp.settimeout(0.1)
    try:
        udp.recv_into(bytearray(1))
    except TimeoutError:
        print("timed out after", "many" if beats > 1 else beats)
    signal.setitimer(signal.ITIMER_REAL, 0)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ran.stdout.splitlines() == ["datagram", "stream", "timed out after many"], ran.stderr


def test_many_threads_on_one_connection(world: World) -> None:
    left, right = world.pair()
    parts, size = 8, 50_000

    def send(part: int) -> None:
        for _ in range(size // 100):
            left.sendall(bytes([part]) * 100)

    received: list[bytes] = []

    def receive() -> None:
        while piece := right.recv(777):
            received.append(piece)

    receivers = [world.spawn(receive) for _ in range(3)]
    senders = [world.spawn(send, part) for part in range(parts)]
    for sender in senders:
        sender.result()
    left.shutdown(socket.SHUT_WR)
    for receiver in receivers:
        receiver.result()
    everything = b"".join(received)
    assert len(everything) == parts * size
    assert all(everything.count(part) == size for part in range(parts))


def test_many_threads_accept(world: World) -> None:
    listener, address = world.listener(64)
    acceptors = [world.spawn(listener.accept) for _ in range(10)]
    clients = [world.left() for _ in range(10)]
    for client in clients:
        client.connect(address)
    peers = set()
    for acceptor in acceptors:
        sock, peer = acceptor.result()
        world.keep(sock)
        peers.add(peer)
    assert peers == {client.getsockname() for client in clients}


def test_many_threads_open_and_close(stacks: StackWorld) -> None:
    listener, address = stacks.listener(64)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with sock:
                    sock.sendall(sock.recv(100))

    def connect(number: int) -> None:
        for _ in range(20):
            with stacks.left_stack.create_connection(address, timeout=PATIENCE) as sock:
                sock.sendall(b"%d" % number)
                assert sock.recv(100) == b"%d" % number

    servers = [stacks.spawn(serve) for _ in range(4)]
    clients = [stacks.spawn(connect, number) for number in range(8)]
    for client in clients:
        client.result()
    listener.close()
    for server in servers:
        server.result()


def test_sockets_closed_while_others_use_them(stacks: StackWorld) -> None:
    for _ in range(30):
        left, right = stacks.pair()

        def use(sock: Any = left) -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock.send(b"x" * 1000)
                    sock.getpeername()
                    sock.recv(100, socket.MSG_DONTWAIT) if sock.gettimeout() == 1 else None

        tasks = [stacks.spawn(use) for _ in range(2)]
        right.recv(10)
        left.close()
        right.close()
        for task in tasks:
            task.result()


def test_closing_a_stack_waits_for_the_caller_who_polls() -> None:
    """Or it would read from a link that is gone: seen by AddressSanitizer, which runs this file, too."""
    for _ in range(30):
        a, b = ustack.pipe()
        here, there = ustack.Stack(), ustack.Stack()
        here.attach(a, addresses=["10.9.0.1/24"])
        there.attach(b, addresses=["10.9.0.2/24"])
        waiting, sending = (stack.socket(socket.AF_INET, socket.SOCK_DGRAM) for stack in (here, there))
        waiting.bind(("", 7))
        sending.connect(("10.9.0.1", 7))

        def listen(sock: Any = waiting) -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock.recv(100)

        def talk(sock: Any = sending) -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock.send(b"x")

        threads = [threading.Thread(target=target) for target in (listen, talk)]
        for thread in threads:
            thread.start()
        del a, b
        here.close(timeout=0)
        there.close(timeout=0)
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()

