"""Sockets in virtual time: what only shows after seconds or hours, and the same every time."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.unit.socket_worlds import SimWorld, fails, open_world

SECOND = 1_000_000_000


@pytest.fixture
def world() -> Iterator[SimWorld]:
    for made in open_world("sim"):
        assert isinstance(made, SimWorld)
        yield made


def test_a_timeout_takes_exactly_as_long_as_it_says(world: SimWorld) -> None:
    left, _ = world.pair()
    left.settimeout(3600)
    before = world.network.now
    with pytest.raises(TimeoutError, match="timed out"):
        left.recv(1)
    assert world.network.now - before == 3600 * SECOND


def test_the_timeout_of_sendall_is_for_all_of_it(world: SimWorld) -> None:
    left, right = world.pair()
    left.settimeout(10)

    def sip() -> None:
        for _ in range(100):
            world.network.run(1)
            right.recv(20_000)

    world.spawn(sip)
    before = world.network.now
    with pytest.raises(TimeoutError):
        left.sendall(bytes(50_000_000))
    assert world.network.now - before == 10 * SECOND


def test_connecting_to_nobody(world: SimWorld) -> None:
    sock = world.left()
    sock.settimeout(None)
    fails(errno.EHOSTUNREACH, sock.connect, ("10.9.0.77", 80))
    sock = world.left()
    sock.settimeout(2)
    with pytest.raises(TimeoutError, match="timed out"):
        sock.connect(("10.9.0.78", 80))


def test_a_cut_wire_ends_connections_after_the_retransmissions(world: SimWorld) -> None:
    left, _ = world.pair()
    left.settimeout(None)
    (wire,) = world.network._wires
    wire.up = False
    left.sendall(b"into the dark")
    before = world.network.now
    with pytest.raises(OSError) as caught:
        left.recv(1)
    # As Linux: the reason that ARP gave in the end, rather than the plain time-out.
    assert caught.value.errno == errno.EHOSTUNREACH
    minutes = (world.network.now - before) / SECOND / 60
    assert 13 < minutes < 31  # tcp_retries2: Linux says 924.6 s at least
    assert left.recv(1) == b""
    fails(errno.EPIPE, left.send, b"x")


def test_user_timeout(world: SimWorld) -> None:
    left, _ = world.pair()
    left.settimeout(None)
    left.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 5000)
    (wire,) = world.network._wires
    wire.up = False
    left.sendall(b"into the dark")
    before = world.network.now
    fails(errno.ETIMEDOUT, left.recv, 1)
    assert 5 * SECOND <= world.network.now - before < 20 * SECOND


def test_keep_alive_finds_a_dead_peer(world: SimWorld) -> None:
    left, _ = world.pair()
    left.settimeout(None)
    left.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    left.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    left.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    left.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    world.network.run(3600)
    assert left.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    (wire,) = world.network._wires
    wire.up = False
    before = world.network.now
    fails(errno.ETIMEDOUT, left.recv, 1)
    assert 30 * SECOND <= world.network.now - before <= 100 * SECOND


def test_keep_alive_set_on_a_connection_that_is_idle_already(world: SimWorld) -> None:
    left, _ = world.pair()
    left.settimeout(None)
    world.network.run(100)
    (wire,) = world.network._wires
    wire.up = False
    left.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
    left.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    left.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
    left.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    before = world.network.now
    fails(errno.ETIMEDOUT, left.recv, 1)
    assert world.network.now - before <= 30 * SECOND


def test_linger_gives_up_when_its_time_is_over(world: SimWorld) -> None:
    left, right = world.pair()
    (wire,) = world.network._wires
    wire.up = False
    left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3))
    left.sendall(b"never acknowledged")
    before = world.network.now
    left.close()
    assert world.network.now - before == 3 * SECOND
    right.close()


def test_linger_ends_with_the_acknowledgement(world: SimWorld) -> None:
    left, right = world.pair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    left.sendall(b"x" * 10_000)
    before = world.network.now
    left.close()  # the peer neither reads nor closes: its acknowledgement is enough
    assert world.network.now - before < SECOND
    right.settimeout(1)
    assert right.recv(10_000, socket.MSG_WAITALL)


def test_no_linger_leaves_the_rest_to_the_stack(world: SimWorld) -> None:
    left, right = world.pair()
    data = bytes(3_000_000)

    def receive() -> int:
        received = 0
        while piece := right.recv(65536):
            received += len(piece)
        return received

    task = world.spawn(receive)
    left.sendall(data)
    left.close()
    assert task.result() == len(data)


def test_a_closed_sockets_memory_comes_back(world: SimWorld) -> None:
    left, right = world.pair()
    left.sendall(b"x" * 100)
    right.recv(100)
    left.close()
    right.close()
    world.network.run(120)
    for stack in (world.left_stack, world.right_stack):
        live = stack.live()
        assert {live[kind] for kind in ("sockets", "tcbs", "timewaits", "segments", "buffers", "synreqs")} == {0}


def test_the_same_seed_gives_the_same_run() -> None:
    def run() -> tuple[int, dict[str, int]]:
        made = SimWorld()
        with made.cleanup:
            (wire,) = made.network._wires
            wire.loss = 0.05
            left, right = made.pair()
            right.settimeout(None)
            task = made.spawn(lambda: right.recv(1_000_000, socket.MSG_WAITALL))
            left.sendall(bytes(1_000_000))
            left.shutdown(socket.SHUT_WR)
            while not task.done:
                made.network.run(0.1)
            return made.network.now, made.left_stack.counters()

    assert run() == run()
