"""UDP and ping sockets mean what the standard library's mean: the UDP tests run on the kernel's sockets too."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.unit.socket_worlds import EVERYWHERE, StackWorld, World, fails, open_world

IP_RECVTTL, IP_PKTINFO = 12, 8
UDP = socket.SOCK_DGRAM


@pytest.fixture(params=EVERYWHERE)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    yield from open_world(request.param)


@pytest.fixture(params=["pipe", "own", "sim"])
def stacks(request: pytest.FixtureRequest) -> Iterator[StackWorld]:
    for world in open_world(request.param):
        assert isinstance(world, StackWorld)
        yield world


def test_datagrams_both_ways(world: World) -> None:
    left, left_address, right, right_address = world.datagrams()
    assert left.sendto(b"one", right_address) == 3
    assert left.sendto(b"three", 0, right_address) == 5
    assert right.recvfrom(100) == (b"one", left_address)
    assert right.recvfrom(100) == (b"three", left_address)
    right.sendto(b"back", left_address)
    assert left.recv(100) == b"back"


def test_unbound_sender_gets_a_port(world: World) -> None:
    _, _, right, address = world.datagrams()
    left = world.left(UDP)
    assert left.getsockname() == ("0.0.0.0", 0)
    left.sendto(b"x", address)
    host, port = left.getsockname()
    assert host == "0.0.0.0"
    assert right.recvfrom(10)[1] == (world.left_host, port)


def test_boundaries_and_truncation(world: World) -> None:
    left, _, right, address = world.datagrams()
    for data in (b"first", b"", b"third datagram", b"fourth"):
        assert left.sendto(data, address) == len(data)
    assert right.recv(100) == b"first"
    assert right.recv(100) == b""
    assert right.recv(5) == b"third"  # the rest is gone
    assert right.recv(100) == b"fourth"


def test_truncation_is_told(world: World) -> None:
    left, left_address, right, address = world.datagrams()
    for _ in range(4):
        left.sendto(b"0123456789", address)
    room = bytearray(4)
    assert right.recv_into(room, 0, socket.MSG_TRUNC) == 10
    assert room == b"0123"
    assert right.recvfrom_into(room, 0, socket.MSG_TRUNC) == (10, left_address)
    data, _, flags, source = right.recvmsg(4)
    assert (data, flags & socket.MSG_TRUNC, source) == (b"0123", socket.MSG_TRUNC, left_address)
    assert right.recvmsg_into([room, bytearray(2)])[0] == 6


def test_peek(world: World) -> None:
    left, left_address, right, address = world.datagrams()
    left.sendto(b"look", address)
    assert right.recvfrom(2, socket.MSG_PEEK) == (b"lo", left_address)
    assert right.recvfrom(10, socket.MSG_PEEK) == (b"look", left_address)
    assert right.recv(10) == b"look"


def test_large_datagrams(world: World) -> None:
    left, _, right, address = world.datagrams()
    data = os.urandom(65507)
    assert left.sendto(data, address) == len(data)
    assert right.recv(70000) == data
    fails(errno.EMSGSIZE, left.sendto, bytes(65508), address)
    assert left.sendmsg([data[:5000], data[5000:9000]], [], 0, address) == 9000
    assert right.recv(70000) == data[:9000]


def test_connected(world: World) -> None:
    left, left_address, right, address = world.datagrams()
    third = world.right(UDP)
    third.bind((world.right_host, 0))
    left.connect(address)
    assert left.getpeername() == address
    assert left.send(b"without address") == 15
    assert right.recv(100) == b"without address"
    third.sendto(b"from a stranger", left_address)
    right.sendto(b"from the peer", left_address)
    assert left.recv(100) == b"from the peer"
    left.connect(third.getsockname())  # another peer
    left.sendall(b"hello")
    assert third.recv(100) == b"hello"


def test_without_a_peer(world: World) -> None:
    left = world.left(UDP)
    fails(errno.EDESTADDRREQ, left.send, b"x")
    fails(errno.ENOTCONN, left.getpeername)
    fails(errno.EOPNOTSUPP, left.listen)
    fails(errno.EINVAL, left.sendto, b"x", (world.right_host, 0))


def test_nobody_there(world: World) -> None:
    left, _, right, address = world.datagrams()
    right.close()
    left.connect(address)
    left.send(b"x")
    fails(errno.ECONNREFUSED, left.recv, 10)
    left.send(b"x")
    for _ in range(1000):
        if code := left.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            break
        world.let_time_pass()
    assert code == errno.ECONNREFUSED


def test_waiting(world: World) -> None:
    left, _, right, address = world.datagrams()
    right.settimeout(0.02)
    with pytest.raises(TimeoutError):
        right.recv(10)
    right.setblocking(False)
    fails(errno.EAGAIN, right.recvfrom, 10)
    right.settimeout(10)
    task = world.spawn(right.recv, 10)
    left.sendto(b"x", address)
    assert task.result() == b"x"


def test_bind(world: World) -> None:
    left, address, _, _ = world.datagrams()
    other = world.left(UDP)
    fails(errno.EADDRINUSE, other.bind, address)
    fails(errno.EINVAL, left.bind, ("", 0))
    fails(errno.EADDRNOTAVAIL, other.bind, ("192.0.2.1", 0))
    for wrong in ("x", ("127.0.0.1",), (1, 1)):
        with pytest.raises(TypeError):
            other.bind(wrong)
    with pytest.raises(OverflowError):
        other.sendto(b"x", ("127.0.0.1", 70000))
    with pytest.raises(TypeError):
        other.sendto(b"x")


def test_shutdown(world: World) -> None:
    left, _, _, address = world.datagrams()
    fails(errno.ENOTCONN, left.shutdown, socket.SHUT_RDWR)
    left.connect(address)
    left.shutdown(socket.SHUT_WR)
    fails(errno.EPIPE, left.send, b"x")
    left.shutdown(socket.SHUT_RD)
    left.settimeout(None)  # the kernel answers EAGAIN where it must not block
    assert left.recv(10) == b""


def test_ancillary_data(world: World) -> None:
    left, _, right, address = world.datagrams()
    right.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    right.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    right.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    left.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 77)
    left.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x48)
    left.sendto(b"x", address)
    data, ancillary, flags, _ = right.recvmsg(10, 1000)
    found = {kind: value for level, kind, value in ancillary if level == socket.IPPROTO_IP}
    assert data == b"x"
    assert not flags & socket.MSG_CTRUNC
    assert struct.unpack("i", found[socket.IP_TTL]) == (77,)
    assert found[socket.IP_TOS] == b"\x48"
    assert struct.unpack("i4s4s", found[IP_PKTINFO])[2] == socket.inet_aton(world.right_host)
    left.sendto(b"x", address)
    assert right.recvmsg(10, 4)[2] & socket.MSG_CTRUNC
    left.sendmsg([b"y"], [(socket.IPPROTO_IP, socket.IP_TTL, struct.pack("i", 5))], 0, address)
    ancillary = right.recvmsg(10, 1000)[1]
    assert (socket.IPPROTO_IP, socket.IP_TTL, struct.pack("i", 5)) in ancillary
    with pytest.raises(OSError) as caught:
        left.sendmsg([b"y"], [(socket.IPPROTO_IP, 99, b"")], 0, address)
    assert caught.value.errno == errno.EINVAL


def test_broadcast_needs_leave(world: World) -> None:
    left = world.left(UDP)
    with pytest.raises(OSError) as caught:
        left.sendto(b"x", ("255.255.255.255", 9))
    assert caught.value.errno in (errno.EACCES, errno.ENETUNREACH)  # the latter where there is no interface for it


def test_broadcast_arrives() -> None:
    for world in open_world("pipe"):
        left, right = world.left(UDP), world.right(UDP)
        right.bind(("", 0))
        left.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        left.sendto(b"to all", ("10.9.0.255", right.getsockname()[1]))
        assert right.recv(10) == b"to all"
        left.sendto(b"to all", ("<broadcast>", right.getsockname()[1]))
        assert right.recv(10) == b"to all"


def test_a_full_receive_queue_drops(stacks: StackWorld) -> None:
    left, _, right, address = stacks.datagrams()
    right.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for number in range(50):
        left.sendto(b"%d" % number + bytes(1000), address)
        stacks.let_time_pass()
    received = 0
    right.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            right.recv(2000)
            received += 1
    assert 1 <= received < 50
    assert stacks.right_stack.counters()["UdpRcvbufErrors"] == 50 - received


def test_ping(stacks: StackWorld) -> None:
    ping = stacks.left(UDP, socket.IPPROTO_ICMP)
    ping.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    ping.sendto(struct.pack("!BBHHH", 8, 0, 0, 0, 7) + b"payload", (stacks.right_host, 0))
    packet, ancillary, _, source = ping.recvmsg(100, 100)
    kind, code, _, _, sequence = struct.unpack_from("!BBHHH", packet)
    assert (kind, code, sequence, packet[8:]) == (0, 0, 7, b"payload")
    assert source == (stacks.right_host, 0)
    assert [struct.unpack("i", value) for _, kind, value in ancillary if kind == socket.IP_TTL] == [(64,)]


def test_ping_somebody_who_is_not_there() -> None:
    for world in open_world("sim"):
        ping = world.left(UDP, socket.IPPROTO_ICMP)
        ping.connect(("10.9.0.77", 0))
        ping.send(struct.pack("!BBHHH", 8, 0, 0, 0, 1))
        fails(errno.EHOSTUNREACH, ping.recv, 100)
