"""Payload that is not copied: recv_view(), send_zerocopy(), and sendfile() from a mapping."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import mmap
import os
import socket
import struct
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import ustack
from tests.unit.socket_worlds import PATIENCE, SimWorld, StackWorld, fails, open_world

MIB = 1 << 20


@pytest.fixture(params=["pipe", "own", "sim"])
def world(request: pytest.FixtureRequest) -> Iterator[StackWorld]:
    for made in open_world(request.param):
        assert isinstance(made, StackWorld)
        yield made


@pytest.fixture
def stacks() -> Iterator[StackWorld]:
    for made in open_world("pipe"):
        assert isinstance(made, StackWorld)
        yield made


@pytest.fixture
def simulated() -> Iterator[SimWorld]:
    for made in open_world("sim"):
        assert isinstance(made, SimWorld)
        yield made


def receive(sock: Any, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        with sock.recv_view() as view:
            assert view.nbytes > 0
            for piece in view:
                got += piece
    return bytes(got)


def reset(sock: Any) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# -- recv_view


def test_what_a_view_is(world: StackWorld) -> None:
    left, right = world.pair()
    left.sendall(b"hello")
    view = right.recv_view()
    assert view.nbytes == 5
    assert [type(piece) for piece in view] == [memoryview] * len(view)
    assert bytes(view) == view.tobytes() == b"".join(view) == b"hello"
    assert view[0].readonly
    with pytest.raises(TypeError):
        view[0][0] = 1
    with pytest.raises(ValueError, match="released"), view:
        piece = view[0]
        view.release()
        piece.tobytes()
    assert len(view) == 0
    with pytest.raises(TypeError):
        ustack.View()


def test_bulk_through_views(world: StackWorld) -> None:
    left, right = world.pair()
    data = os.urandom(3 * MIB)
    task = world.spawn(receive, right, len(data))
    left.sendall(data)
    assert task.result() == data


def test_parts_of_what_is_there(world: StackWorld) -> None:
    left, right = world.pair()
    data = os.urandom(10_000)
    left.sendall(data)
    got = b""
    views = []
    while len(got) < 9000:
        views.append(right.recv_view(1234))
        assert 0 < views[-1].nbytes <= 1234
        got += bytes(views[-1])
    got += receive(right, len(data) - len(got))
    assert got == data
    assert b"".join(bytes(view) for view in views) == data[: sum(view.nbytes for view in views)]
    assert right.recv_view(0).nbytes == 0


def test_mixed_with_recv(world: StackWorld) -> None:
    left, right = world.pair()
    left.sendall(b"0123456789")
    assert right.recv(2) == b"01"
    first = right.recv_view(3)
    assert right.recv(2) == b"56"
    left.sendall(b"abc")
    second = right.recv_view(1)
    assert (bytes(first), bytes(second)) == (b"234", b"7")
    assert right.recv(2) == b"89"
    assert right.recv(3) == b"abc"


def test_the_end_of_the_stream(world: StackWorld) -> None:
    left, right = world.pair()
    left.sendall(b"x")
    left.close()
    assert bytes(right.recv_view()) == b"x"
    view = right.recv_view()
    assert (view.nbytes, len(view), bytes(view)) == (0, 0, b"")


def test_what_is_refused(world: StackWorld) -> None:
    left, right = world.pair()
    with pytest.raises(ValueError, match="negative"):
        right.recv_view(-1)
    fails(errno.EOPNOTSUPP, right.recv_view, 1, socket.MSG_PEEK)
    with pytest.raises(BlockingIOError):
        right.recv_view(1, socket.MSG_DONTWAIT)
    right.settimeout(0.01)
    with pytest.raises(TimeoutError):
        right.recv_view()
    fails(errno.EOPNOTSUPP, world.left(socket.SOCK_DGRAM).recv_view)
    fails(errno.ENOTCONN, world.left().recv_view)
    right.close()
    fails(errno.EBADF, right.recv_view)
    reset(left)


def test_the_window_counts_what_is_lent(simulated: SimWorld) -> None:
    """A peer can't have more in our memory than the window lets it, whether it was received or only looked at."""
    left, right = simulated.pair()
    right.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    left.setblocking(False)
    views = []
    for _ in range(50):
        with contextlib.suppress(BlockingIOError):
            left.send(bytes(65536))
        simulated.network.run(0.01)
        with contextlib.suppress(BlockingIOError):
            views.append(right.recv_view(None, socket.MSG_DONTWAIT))
    lent = sum(view.nbytes for view in views)
    assert 0 < lent <= 2 * 65536 + 20_000, lent  # the window as it was before, and what the option asks for
    assert simulated.right_stack.live()["reassemblies"] == 1
    for view in views:
        view.release()
    got = 0
    for _ in range(20):
        simulated.network.run(0.5)
        with contextlib.suppress(BlockingIOError):
            got += right.recv_view(None, socket.MSG_DONTWAIT).nbytes
    assert got > 20_000
    simulated.network.run(1)
    assert simulated.right_stack.live()["reassemblies"] == 0


def test_a_view_outlives_everything(stacks: StackWorld) -> None:
    left, right = stacks.pair()
    data = os.urandom(40_000)
    left.sendall(data)
    got = b""
    kept = []
    while len(got) < len(data):
        view = right.recv_view()
        kept += [piece[:] for piece in view]
        got += bytes(view)
        view.release()
    assert got == data
    assert stacks.right_stack.live()["buffers"] > 0
    stacks.right_stack.close()
    right.close()
    left.close()
    del left, right, view
    vars(stacks)["right_stack"] = None
    gc.collect()
    assert b"".join(kept) == data


def test_memory_goes_back(stacks: StackWorld) -> None:
    left, right = stacks.pair()
    for way in range(3):
        left.sendall(bytes(5000))
        view = right.recv_view()
        assert stacks.right_stack.live()["buffers"] > 0
        if way == 0:
            view.release()
            view.release()
        elif way == 1:
            part = view[0][1:3]
            with view:
                pass
            assert stacks.right_stack.live()["buffers"] > 0
            del part
        del view
        right.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            while True:
                right.recv(65536)
        right.settimeout(PATIENCE)
        assert stacks.right_stack.live()["buffers"] == 0


def test_a_view_of_a_detached_connection(stacks: StackWorld) -> None:
    left, right = stacks.pair()
    left.sendall(b"x" * 1000)
    view = right.recv_view(500)
    again = stacks.keep(stacks.right_stack.socket(fileno=right.detach()))
    assert again.recv(1000) == b"x" * 500
    assert bytes(view) == b"x" * 500
    del view
    left.sendall(b"y")
    assert again.recv(1) == b"y"
    assert stacks.right_stack.live()["buffers"] == 0


# -- send_zerocopy


def test_bulk_by_reference(world: StackWorld) -> None:
    left, right = world.pair()
    data = os.urandom(3 * MIB)
    called: list[Any] = []
    task = world.spawn(receive, right, len(data))
    completion = left.send_zerocopy(data, callback=called.append)
    assert completion.nbytes == len(data)
    assert task.result() == data
    assert completion.wait(PATIENCE)
    assert completion.done()
    assert completion.acknowledged is True
    for _ in range(1000):  # as with a Future, whoever waits may be faster than whoever calls back
        if called:
            break
        world.let_time_pass()
    assert called == [completion]


def test_order_among_copies(world: StackWorld) -> None:
    left, right = world.pair()
    pieces = [bytes([k]) * (1 + 700 * k) for k in range(30)]
    expected = b"".join(pieces)
    task = world.spawn(receive, right, len(expected))
    for k, piece in enumerate(pieces):
        if k % 3:
            left.sendall(piece)
        else:
            left.send_zerocopy(piece)
    assert task.result() == expected


def test_the_buffer_is_held_until_then(world: StackWorld) -> None:
    left, right = world.pair()
    buffer = bytearray(b"x" * 100_000)
    completion = left.send_zerocopy(buffer)
    if not completion.done():
        assert completion.acknowledged is None
        with pytest.raises(BufferError):
            buffer.append(1)
    receive(right, len(buffer))
    assert completion.wait(PATIENCE)
    buffer.append(1)


def test_not_before_the_acknowledgement(simulated: SimWorld) -> None:
    left, right = simulated.pair()
    (wire,) = simulated.network._wires
    completion = left.send_zerocopy(b"x" * 1000)
    simulated.network.run(0.0015)  # it has arrived, the ACK is under way
    assert not completion.done()
    assert completion.wait(1)
    assert receive(right, 1000)
    wire.up = False
    completion = left.send_zerocopy(b"y" * 1000)
    assert not completion.wait(5)
    wire.up = True
    assert receive(right, 1000) == b"y" * 1000
    assert completion.wait(60)
    assert completion.acknowledged


def test_retransmissions_read_the_same_memory(simulated: SimWorld) -> None:
    left, right = simulated.pair()
    (wire,) = simulated.network._wires
    wire.loss = 0.05
    data = os.urandom(MIB)
    task = simulated.spawn(receive, right, len(data))
    completion = left.send_zerocopy(data)
    assert task.result() == data
    wire.loss = 0
    assert completion.wait(600)
    assert simulated.left_stack.counters()["TcpRetransSegs"] > 10


@pytest.mark.parametrize("way", ["peer", "own", "stack"])
def test_an_end_with_bytes_unsent(stacks: StackWorld, way: str) -> None:
    """Whoever ends the connection, the memory is the program's again, and it is known that not all arrived."""
    left, right = stacks.pair()
    done = threading.Event()
    completion = left.send_zerocopy(bytes(20 * MIB), callback=lambda _: done.set())
    assert not completion.done()
    if way == "peer":
        reset(right)
    elif way == "own":
        reset(left)
    else:
        stacks.left_stack.close(timeout=0)
    assert completion.wait(PATIENCE)
    assert completion.acknowledged is False
    assert done.wait(PATIENCE)


def test_a_closed_socket_sends_on(stacks: StackWorld) -> None:
    left, right = stacks.pair()
    data = os.urandom(2 * MIB)
    completion = left.send_zerocopy(data)
    left.close()
    assert receive(right, len(data)) == data
    assert completion.wait(PATIENCE)
    assert completion.acknowledged


def test_the_callback_comes_without_another_call(stacks: StackWorld) -> None:
    left, right = stacks.pair()
    done = threading.Event()
    left.send_zerocopy(b"x" * 5000, callback=lambda _: done.set())
    assert done.wait(PATIENCE)
    assert receive(right, 5000)


def test_nothing_is_kept_afterwards(stacks: StackWorld) -> None:
    left, right = stacks.pair()
    buffer = bytearray(5000)
    view = memoryview(buffer)
    completion = left.send_zerocopy(view)
    gone = weakref.ref(completion)
    receive(right, 5000)
    assert completion.wait(PATIENCE)
    del completion
    gc.collect()
    assert gone() is None
    view.release()
    buffer.append(1)


def test_what_send_by_reference_refuses(world: StackWorld) -> None:
    left, right = world.pair()
    fails(errno.EOPNOTSUPP, world.left(socket.SOCK_DGRAM).send_zerocopy, b"x")
    fails(errno.EPIPE, world.left().send_zerocopy, b"x")
    with pytest.raises(TypeError):
        left.send_zerocopy("text")
    with pytest.raises(TypeError):
        left.send_zerocopy(b"x", callback=1)
    with pytest.raises(TypeError):
        ustack.Completion()
    buffer = bytearray(b"x")
    left.shutdown(socket.SHUT_WR)
    fails(errno.EPIPE, left.send_zerocopy, buffer)
    buffer.append(1)
    empty = right.send_zerocopy(b"")
    assert (empty.done(), empty.nbytes, empty.acknowledged) == (True, 0, True)


def test_a_full_queue_makes_it_wait(world: StackWorld) -> None:
    left, _right = world.pair()
    left.setblocking(False)
    first = left.send_zerocopy(bytes(20 * MIB))
    assert first.nbytes == 20 * MIB
    buffer = bytearray(b"x")
    with pytest.raises(BlockingIOError):
        left.send_zerocopy(buffer)
    buffer.append(1)
    left.settimeout(0.05)
    with pytest.raises(TimeoutError):
        left.send_zerocopy(buffer)
    buffer.append(1)


def test_the_manual_driver() -> None:
    with ustack.Stack(driver="manual") as stack:
        server = stack.create_server(("127.0.0.1", 80))
        client = stack.socket()
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", 80))
        stack.poll(1)
        peer, _ = server.accept()
        called: list[Any] = []
        buffer = bytearray(b"x" * 10_000)
        completion = client.send_zerocopy(buffer, callback=called.append)
        got = b""
        for k in range(2, 100):
            stack.poll(k * 100_000_000)
            with contextlib.suppress(BlockingIOError):
                got += bytes(peer.recv_view())
        assert got == bytes(buffer)
        assert completion.wait()
        assert called == [completion]
        buffer.append(1)
        for sock in (client, peer, server):
            sock.close()


# -- sendfile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "file"
    made.write_bytes(os.urandom(5 * MIB + 123))
    return made


@pytest.mark.parametrize(
    ("offset", "count"), [(0, None), (0, 1000), (mmap.PAGESIZE, None), (12345, 4 * MIB + 7), (0, 10 * MIB)]
)
def test_a_file_from_its_mapping(world: StackWorld, path: Path, offset: int, count: int | None) -> None:
    left, right = world.pair()
    data = path.read_bytes()[offset:] if count is None else path.read_bytes()[offset : offset + count]
    with path.open("rb") as file:
        task = world.spawn(receive, right, len(data))
        assert left.sendfile(file, offset, count, zerocopy=True) == len(data)
        assert file.tell() == offset + len(data)
    assert task.result() == data


def test_the_end_of_a_file(world: StackWorld, path: Path) -> None:
    left, right = world.pair()
    data = path.read_bytes()[5 * MIB :]
    with path.open("rb") as file:
        assert left.sendfile(file, 5 * MIB, zerocopy=True) == len(data)
        assert left.sendfile(file, 5 * MIB + 123, zerocopy=True) == 0
    assert receive(right, len(data)) == data


def test_what_cannot_be_mapped_is_read(world: StackWorld, path: Path) -> None:
    left, right = world.pair()
    assert left.sendfile(io.BytesIO(b"from memory"), 5, zerocopy=True) == 6
    assert receive(right, 6) == b"memory"
    read, write = os.pipe()
    os.write(write, b"from a pipe")
    os.close(write)
    with open(read, "rb") as file, contextlib.suppress(io.UnsupportedOperation):  # it can't seek behind what it sent
        left.sendfile(file, zerocopy=True)
    assert receive(right, 11) == b"from a pipe"
    with path.open("rb") as file:
        assert left.sendfile(file, 6 * MIB, zerocopy=True) == 0
        with pytest.raises(ValueError, match="count"):
            left.sendfile(file, 0, 0, zerocopy=True)


# -- bytes, which nobody can change


def test_bytes_are_sent_from_where_they_are_and_let_go(simulated: SimWorld) -> None:
    """Until the peer has acknowledged all of them the stack refers to them, too. It lets go with the next call that
    sends so much, or when some have come together.
    """
    left, right = simulated.pair()
    large = os.urandom(32 << 10)
    before = sys.getrefcount(large)
    left.sendall(large)
    assert sys.getrefcount(large) == before + 1
    assert receive(right, len(large)) == large
    simulated.network.run(0.2)  # for a delayed acknowledgement
    left.sendall(os.urandom(32 << 10))
    assert sys.getrefcount(large) == before


def test_small_bytes_and_what_can_change_are_copied(simulated: SimWorld) -> None:
    left, right = simulated.pair()
    small, changing = bytes(1000), bytearray(b"a" * 32_000)
    before = sys.getrefcount(small)
    left.sendall(small)
    assert sys.getrefcount(small) == before
    left.sendall(changing)
    changing[:] = b"b" * 32_000
    assert receive(right, 33_000) == small + b"a" * 32_000


def test_a_send_that_does_not_wait_takes_what_has_room(simulated: SimWorld) -> None:
    left, right = simulated.pair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)
    left.setblocking(False)
    data = os.urandom(1 << 20)
    taken = left.send(data)
    assert taken == left.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    fails(errno.EAGAIN, left.send, data)
    assert receive(right, taken) == data[:taken]


def test_bytes_are_let_go_with_the_connection_and_with_the_stack(simulated: SimWorld) -> None:
    large = os.urandom(100_000)
    before = sys.getrefcount(large)
    for end in ("reset", "stack"):
        left, right = simulated.pair()
        left.setblocking(False)
        left.send(large)
        assert sys.getrefcount(large) == before + 1
        if end == "reset":
            reset(left)
            simulated.let_time_pass()
            other, _ = simulated.pair()
            other.setblocking(False)
            other.send(bytes(64 << 10))
        else:
            simulated.network.close()
        assert sys.getrefcount(large) == before


def test_many_pieces_do_not_pile_up(stacks: StackWorld) -> None:
    """A program that sends and sends holds no more of them than the queue."""
    left, right = stacks.pair()
    pieces = [os.urandom(40_000) for _ in range(64)]
    before = [sys.getrefcount(piece) for piece in pieces]
    sender = stacks.spawn(lambda: [left.sendall(piece) for piece in pieces])
    assert receive(right, 64 * 40_000) == b"".join(pieces)
    sender.result()
    right.sendall(b"done")
    assert left.recv(4) == b"done"
    left.sendall(bytes(64 << 10))
    receive(right, 64 << 10)
    after = [sys.getrefcount(piece) for piece in pieces]
    assert sum(now > then for now, then in zip(after, before, strict=True)) <= 8


@pytest.mark.parametrize("lost", [(), range(10, 90, 3)])
def test_small_buffers_are_more_pieces_than_a_transmission_has(simulated: SimWorld, lost: Sequence[int]) -> None:
    """What is sent, and sent again, is then less than a burst."""
    left, right = simulated.pair()
    buffers = [bytes([number % 251]) * 10 for number in range(5000)]
    simulated.wire.a_to_b.filter = lambda frame, number: None if number in lost else frame
    for one in buffers:
        left.send_zerocopy(one)
    left.shutdown(socket.SHUT_WR)
    assert receive(right, 50_000) == b"".join(buffers)
    assert right.recv(1) == b""
