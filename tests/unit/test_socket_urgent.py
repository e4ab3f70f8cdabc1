"""Urgent data at the sockets (RFC 9293 §3.8.5, RFC 6093 §2): the kernel's and the stack's must do the same."""

from __future__ import annotations

import errno
import fcntl
import select
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ustack
from tests.unit.socket_worlds import EVERYWHERE, PATIENCE, WITH_THREADS, SimWorld, StackWorld, World, fails, open_world

SIOCATMARK, SIOCINQ = 0x8905, 0x541B


@pytest.fixture(params=EVERYWHERE)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    yield from open_world(request.param)


@pytest.fixture(params=WITH_THREADS)
def threaded(request: pytest.FixtureRequest) -> Iterator[World]:
    yield from open_world(request.param)


@pytest.fixture
def stacks() -> Iterator[StackWorld]:
    for world in open_world("own"):
        assert isinstance(world, StackWorld)
        yield world


def ioctl(sock: Any, request: int) -> int:
    if isinstance(sock, socket.socket):
        return int(struct.unpack("i", fcntl.ioctl(sock, request, bytes(4)))[0])
    return int(sock.ioctl(request))


def until(world: World, what: Callable[[], Any]) -> Any:
    """What it returns once that is true; an OSError is not yet."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if found := what():
                return found
        except OSError:
            pass
        world.let_time_pass()
    raise AssertionError("it never was so")


def urgent_pair(world: World, inline: bool = False) -> tuple[Any, Any]:
    """abc, then xy! urgent, then def; all of it has arrived."""
    left, right = world.pair()
    right.setblocking(False)
    right.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, inline)
    assert left.send(b"abc") == 3
    assert left.send(b"xy!", socket.MSG_OOB) == 3
    assert left.send(b"def") == 3
    before = 9 if inline else 5
    until(world, lambda: ioctl(right, SIOCINQ) == before and len(right.recv(9, socket.MSG_PEEK)) == 5)
    if not inline:  # what is behind the mark cannot be seen from before it
        until(world, lambda: right.recv(1, socket.MSG_OOB | socket.MSG_PEEK))
    return left, right


def test_read_stops_at_the_mark_and_then_passes_over_the_octet(world: World) -> None:
    _, right = urgent_pair(world)
    assert ioctl(right, SIOCATMARK) == 0
    assert right.recv(100) == b"abcxy"
    assert ioctl(right, SIOCATMARK) == 1
    assert until(world, lambda: right.recv(100, socket.MSG_PEEK)) in (b"d", b"de", b"def")
    assert ioctl(right, SIOCATMARK) == 1  # peeking moves nothing
    got = b""
    while len(got) < 3:
        got += until(world, lambda: right.recv(100))
    assert got == b"def"
    assert ioctl(right, SIOCATMARK) == 0
    fails(errno.EINVAL, right.recv, 1, socket.MSG_OOB)  # it was passed over


def test_the_octet_out_of_line(world: World) -> None:
    _, right = urgent_pair(world)
    assert right.recv(1, socket.MSG_OOB | socket.MSG_PEEK) == b"!"
    data, _, flags, _ = right.recvmsg(10, 0, socket.MSG_OOB)
    assert (data, flags & socket.MSG_OOB) == (b"!", socket.MSG_OOB)
    fails(errno.EINVAL, right.recv, 1, socket.MSG_OOB)  # once
    assert right.recv(100) == b"abcxy"  # its place in the stream is still marked
    assert ioctl(right, SIOCATMARK) == 1


def test_in_line(world: World) -> None:
    _, right = urgent_pair(world, inline=True)
    assert right.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE) == 1
    fails(errno.EINVAL, right.recv, 1, socket.MSG_OOB)
    assert right.recv(100) == b"abcxy"
    assert ioctl(right, SIOCATMARK) == 1
    assert right.recv(1) == b"!"
    assert ioctl(right, SIOCATMARK) == 0
    assert right.recv(100) == b"def"


def test_without_urgent_data(world: World) -> None:
    left, right = world.pair()
    right.setblocking(False)  # Python waits for data before it asks the kernel
    fails(errno.EINVAL, right.recv, 1, socket.MSG_OOB)
    assert ioctl(right, SIOCATMARK) == 0
    assert right.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE) == 0
    assert left.send(b"", socket.MSG_OOB) == 0


def test_a_later_mark_makes_the_earlier_octet_plain(world: World) -> None:
    left, right = world.pair()
    right.setblocking(False)
    left.send(b"a", socket.MSG_OOB)
    until(world, lambda: right.recv(1, socket.MSG_OOB | socket.MSG_PEEK) == b"a")
    left.send(b"b", socket.MSG_OOB)
    until(world, lambda: right.recv(1, socket.MSG_OOB | socket.MSG_PEEK) == b"b")
    left.send(b"end")
    got = b""
    while not got.endswith(b"end"):
        got += until(world, lambda: right.recv(100))
    assert got == b"end"  # "a" was at the mark where the reader stood: it is gone, as in Linux


def test_msg_waitall_ends_at_the_mark(threaded: World) -> None:
    left, right = urgent_pair(threaded)
    right.setblocking(True)
    assert right.recv(100, socket.MSG_WAITALL) == b"abcxy"
    into = bytearray(3)
    assert right.recv_into(into, 3, socket.MSG_WAITALL) == 3
    assert into == b"def"
    left.close()


def test_select_and_poll_tell(threaded: World) -> None:
    left, right = threaded.pair()
    poll = select.poll()
    poll.register(right, select.POLLPRI)
    epoll = select.epoll()
    epoll.register(right.fileno(), select.EPOLLPRI | select.EPOLLIN)
    assert poll.poll(0) == []
    left.send(b"ab!", socket.MSG_OOB)
    assert select.select([], [], [right], PATIENCE)[2] == [right]
    assert [events for _, events in poll.poll(0)] == [select.POLLPRI]
    assert epoll.poll(0)[0][1] == select.EPOLLPRI | select.EPOLLIN
    assert right.recv(1, socket.MSG_OOB) == b"!"
    assert poll.poll(0) == []
    assert [events for _, events in epoll.poll(0)] == [select.EPOLLIN]  # "ab" is still there
    left.send(b"c", socket.MSG_OOB)
    assert len(poll.poll(1000 * PATIENCE)) == 1
    until(threaded, lambda: ioctl(right, SIOCINQ) == 3)
    assert right.recv(10) == b"ab!"  # a second mark: the first octet is plain data, in its place
    assert [events for _, events in poll.poll(0)] == [select.POLLPRI]
    right.setblocking(False)
    fails(errno.EAGAIN, right.recv, 10)
    assert poll.poll(0) == []
    left.send(b"z")
    assert epoll.poll(PATIENCE)[0][1] == select.EPOLLIN
    epoll.close()


def test_a_selector_tells_with_the_pointer() -> None:
    for world in open_world("sim"):
        assert isinstance(world, SimWorld)
        left, right = world.pair()
        with world.right_stack.selector() as selector:
            selector.register(right, ustack.EVENT_URGENT)
            assert selector.select(0) == []
            left.send(b"ab!", socket.MSG_OOB)
            world.network.run(duration=0.1)
            assert [events for _, events in selector.select(0)] == [ustack.EVENT_URGENT]
            assert right.recv(1, socket.MSG_OOB) == b"!"
            assert selector.select(0) == []
            selector.modify(right, ustack.EVENT_URGENT | selectors.EVENT_READ)
            assert [events for _, events in selector.select(0)] == [selectors.EVENT_READ]


@pytest.mark.parametrize("how", ["view", "zerocopy"])
def test_without_copies(stacks: StackWorld, how: str) -> None:
    left, right = stacks.pair()
    if how == "zerocopy":
        left.send_zerocopy(b"ab!", socket.MSG_OOB)
    else:
        left.send(b"ab!", socket.MSG_OOB)
    left.send(b"cd")
    until(stacks, lambda: right.recv(1, socket.MSG_OOB | socket.MSG_PEEK))
    with right.recv_view() as view:
        assert bytes(view) == b"ab"
    assert right.sockatmark()
    with right.recv_view() as view:
        assert bytes(view) == b"cd"
    assert not right.sockatmark()


def test_a_telnet_synch_is_read_to_its_mark(world: World) -> None:
    """RFC 854's use of it: told that urgent data waits, read and drop until the mark; what follows counts."""
    left, right = world.pair()
    right.setblocking(False)
    right.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    left.sendall(b"rubbish" * 1000)
    left.sendall(b"\xff\xf2", socket.MSG_OOB)
    left.sendall(b"prompt")
    left.shutdown(socket.SHUT_WR)
    dropped = 0
    until(world, lambda: ioctl(right, SIOCINQ) >= 7001 + 7)
    while not ioctl(right, SIOCATMARK):
        dropped += len(until(world, lambda: right.recv(1000)))
    assert dropped == 7001
    assert until(world, lambda: right.recv(100)) == b"\xf2prompt"
