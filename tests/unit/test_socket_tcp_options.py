"""TCP's modes by socket option: defaults, ranges, errors and effects are the kernel's; each test runs on the kernel
too."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import socket
import struct
import termios
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.socket_worlds import EVERYWHERE, World, fails, open_world

SOL, TCP, IP = socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP
TIMESTAMP, NOTSENT_LOWAT, FASTOPEN_CONNECT, FASTOPEN_NO_COOKIE = 24, 25, 30, 34
MTU_DISCOVER, RECVERR = 10, 11
INFO = struct.Struct("=8B24I4Q6I4Q2I2Q6I2HI")
# where a field is in it
RETRANS, ACKED, RECEIVED, SEGS_OUT, NOTSENT, DATA_IN, DATA_OUT, SENT, SND_WND = 31, 34, 35, 36, 38, 40, 41, 48, 53


@pytest.fixture(params=EVERYWHERE)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    yield from open_world(request.param)


def info(sock: Any) -> tuple[int, ...]:
    return INFO.unpack(sock.getsockopt(TCP, socket.TCP_INFO, INFO.size))


@pytest.mark.parametrize(
    ("level", "name", "default", "value", "reads"),
    [
        (SOL, socket.SO_REUSEPORT, 0, 1, 1),
        (SOL, socket.SO_RCVLOWAT, 1, 100, 100),
        (SOL, socket.SO_RCVLOWAT, 1, 0, 1),
        (TCP, socket.TCP_CORK, 0, 1, 1),
        (TCP, socket.TCP_DEFER_ACCEPT, 0, 1, 1),
        (TCP, socket.TCP_DEFER_ACCEPT, 0, 5, 7),
        (TCP, socket.TCP_DEFER_ACCEPT, 0, -1, 0),
        (TCP, NOTSENT_LOWAT, 0, 16384, 16384),
        (TCP, NOTSENT_LOWAT, 0, -1, -1),
        (TCP, socket.TCP_WINDOW_CLAMP, 0, 20000, 20000),
        (TCP, socket.TCP_WINDOW_CLAMP, 0, 1, 1152),
        (TCP, socket.TCP_LINGER2, 60, 10, 10),
        (TCP, socket.TCP_LINGER2, 60, -5, -1),
        (TCP, socket.TCP_LINGER2, 60, 121, 120),
        (TCP, socket.TCP_FASTOPEN, 0, 5, 5),
        (TCP, FASTOPEN_CONNECT, 0, 1, 1),
        (TCP, FASTOPEN_NO_COOKIE, 0, 1, 1),
        (IP, MTU_DISCOVER, 1, 2, 2),
        (IP, RECVERR, 0, 1, 1),
    ],
)
def test_defaults_and_values(world: World, level: int, name: int, default: int, value: int, reads: int) -> None:
    sock = world.left()
    assert sock.getsockopt(level, name) == default
    sock.setsockopt(level, name, value)
    assert sock.getsockopt(level, name) == reads


def test_rcvlowat_is_cut_to_half_the_largest_buffer(world: World) -> None:
    sock = world.left()
    sock.setsockopt(SOL, socket.SO_RCVLOWAT, -1)
    assert 1 << 20 <= sock.getsockopt(SOL, socket.SO_RCVLOWAT) < 1 << 30


def test_out_of_range(world: World) -> None:
    sock = world.left()
    for level, name, value in (
        (TCP, socket.TCP_SYNCNT, 0),
        (TCP, socket.TCP_SYNCNT, 128),
        (TCP, socket.TCP_FASTOPEN, -1),
        (TCP, FASTOPEN_CONNECT, 2),
        (TCP, FASTOPEN_NO_COOKIE, -1),
        (IP, MTU_DISCOVER, 6),
        (IP, MTU_DISCOVER, -1),
    ):
        fails(errno.EINVAL, sock.setsockopt, level, name, value)
    fails(errno.EPERM, sock.setsockopt, TCP, TIMESTAMP, 1)
    fails(errno.ENOPROTOOPT, sock.setsockopt, SOL, socket.SO_SNDLOWAT, 1)


def test_what_a_connection_no_longer_takes(world: World) -> None:
    left, right = world.pair()
    fails(errno.EINVAL, left.setsockopt, TCP, socket.TCP_FASTOPEN, 5)
    fails(errno.EINVAL, left.setsockopt, TCP, FASTOPEN_CONNECT, 1)
    fails(errno.EINVAL, right.setsockopt, TCP, socket.TCP_WINDOW_CLAMP, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (socket.TCP_CORK, 1),
        (NOTSENT_LOWAT, 4096),
        (socket.TCP_LINGER2, 7),
        (socket.TCP_USER_TIMEOUT, 5000),
        (socket.TCP_SYNCNT, 2),
    ],
)
def test_inherited_from_the_listener(world: World, name: int, value: int) -> None:
    listener, address = world.listener()
    listener.setsockopt(TCP, name, value)
    world.left().connect(address)
    sock = world.keep(listener.accept()[0])
    assert sock.getsockopt(TCP, name) == value


def test_tcp_info_counts(world: World) -> None:
    """Linux's layout to its end, and what both sides count alike."""
    left, right = world.pair()
    sent = 0
    for size in (5000, 70000, 1):
        left.sendall(b"x" * size)
        sent += size
        left_over = size
        while left_over:
            left_over -= len(right.recv(left_over))
    right.sendall(b"answer")
    assert left.recv(10) == b"answer"
    here, there = info(left), info(right)
    assert len(left.getsockopt(TCP, socket.TCP_INFO, 1000)) >= INFO.size
    assert here[ACKED] in (sent, sent + 1)  # bytes_acked: Linux counts the SYN
    assert there[RECEIVED] == sent
    assert here[RECEIVED] == len("answer")
    assert here[SENT] == sent
    assert here[NOTSENT] == 0
    assert here[DATA_OUT] >= 3
    assert here[DATA_IN] == 1
    assert here[SEGS_OUT] >= here[DATA_OUT]
    assert here[SND_WND] > 0
    assert here[RETRANS] == 0


def test_rcvlowat_waits_for_as_much(world: World) -> None:
    left, right = world.pair()
    right.setsockopt(SOL, socket.SO_RCVLOWAT, 10)
    reader = world.spawn(right.recv, 100)
    left.sendall(b"12345")
    world.let_time_pass()
    left.sendall(b"67890")
    assert reader.result() == b"1234567890"
    left.sendall(b"abc")
    left.shutdown(socket.SHUT_WR)  # the end comes first
    assert right.recv(100) == b"abc"
    right.setsockopt(SOL, socket.SO_RCVLOWAT, 1)
    assert right.recv(100) == b""


def test_rcvlowat_may_be_more_than_the_first_window(world: World) -> None:
    left, right = world.pair()
    right.setsockopt(SOL, socket.SO_RCVLOWAT, 300_000)
    writer = world.spawn(left.sendall, b"x" * 300_000)
    assert right.recv_into(bytearray(400_000)) == 300_000
    writer.result()


def test_notsent_lowat_limits_what_waits(world: World) -> None:
    left, right = world.pair()
    left.setsockopt(TCP, NOTSENT_LOWAT, 20_000)
    right.setsockopt(SOL, socket.SO_RCVBUF, 4096)
    left.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        for _ in range(10_000):
            left.send(b"x" * 1000)
    assert info(left)[NOTSENT] <= 40_000  # the limit, and what one write may add to it (Linux: a block of 32 KB)


def test_reuseport_shares_connections(world: World) -> None:
    """Listeners with SO_REUSEPORT share a port; without it of both, the second may not bind."""
    first, second, third = world.right(), world.right(), world.right()
    first.setsockopt(SOL, socket.SO_REUSEPORT, 1)
    first.bind((world.right_host, 0))
    first.listen(64)
    address = first.getsockname()
    fails(errno.EADDRINUSE, third.bind, address)
    second.setsockopt(SOL, socket.SO_REUSEPORT, 1)
    second.bind(address)
    second.listen(64)
    accepted: Counter[int] = Counter()
    clients = [world.left() for _ in range(40)]
    for client in clients:
        client.connect(address)
    world.let_time_pass()
    for n, listener in enumerate((first, second)):
        listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                world.keep(listener.accept()[0])
                accepted[n] += 1
    assert sum(accepted.values()) == 40
    assert min(accepted[0], accepted[1]) >= 3  # 40 fair throws: below 3 once in a thousand million


def test_reuseport_shares_datagrams(world: World) -> None:
    receivers = [world.right(socket.SOCK_DGRAM) for _ in range(2)]
    for one in receivers:
        one.setsockopt(SOL, socket.SO_REUSEPORT, 1)
    receivers[0].bind((world.right_host, 0))
    receivers[1].bind(receivers[0].getsockname())
    for _ in range(40):
        world.left(socket.SOCK_DGRAM).sendto(b"x", receivers[0].getsockname())
    world.let_time_pass()
    got = []
    for one in receivers:
        one.setblocking(False)
        got.append(0)
        with contextlib.suppress(BlockingIOError):
            while one.recv(10):
                got[-1] += 1
    assert sum(got) == 40
    assert min(got) >= 3


def test_cork_holds_a_small_segment(world: World) -> None:
    left, right = world.pair()
    left.setsockopt(TCP, socket.TCP_CORK, 1)
    left.send(b"one ")
    left.send(b"two")
    right.setblocking(False)
    with pytest.raises(BlockingIOError):
        right.recv(10)
    left.setsockopt(TCP, socket.TCP_CORK, 0)
    right.settimeout(10)
    assert right.recv(10) == b"one two"


def test_bytes_in_the_queues(world: World) -> None:
    """SIOCINQ and SIOCOUTQ: Socket.ioctl() here, ioctl(2) there."""
    left, right = world.pair()
    left.sendall(b"x" * 1000)
    assert right.recv(1, socket.MSG_PEEK) == b"x"

    def ask(sock: Any, request: int) -> int:
        if world.is_kernel:
            return int(struct.unpack("i", fcntl.ioctl(sock, request, bytes(4)))[0])
        return int(sock.ioctl(request))

    assert ask(right, termios.FIONREAD) == 1000
    while ask(left, termios.TIOCOUTQ):
        world.let_time_pass()
    assert ask(left, 0x894B) == 0  # SIOCOUTQNSD
    right.recv(400)
    assert ask(right, termios.FIONREAD) == 600


def test_a_timestamp_runs(world: World) -> None:
    left, _ = world.pair()
    first = left.getsockopt(TCP, TIMESTAMP)
    world.let_time_pass()
    assert 0 <= (left.getsockopt(TCP, TIMESTAMP) - first) & 0xFFFFFFFF < 10_000
