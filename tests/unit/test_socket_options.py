"""getsockopt and setsockopt: values, ranges, layouts and errors are the kernel's; each test runs on the kernel too."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.unit.socket_worlds import EVERYWHERE, World, fails, open_world

SOL, TCP, IP = socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP


@pytest.fixture(params=EVERYWHERE)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    yield from open_world(request.param)


def test_what_a_socket_is(world: World) -> None:
    tcp, udp = world.left(), world.left(socket.SOCK_DGRAM)
    assert tcp.getsockopt(SOL, socket.SO_TYPE) == socket.SOCK_STREAM
    assert tcp.getsockopt(SOL, socket.SO_PROTOCOL) == socket.IPPROTO_TCP
    assert tcp.getsockopt(SOL, socket.SO_DOMAIN) == socket.AF_INET
    assert udp.getsockopt(SOL, socket.SO_TYPE) == socket.SOCK_DGRAM
    assert udp.getsockopt(SOL, socket.SO_PROTOCOL) == socket.IPPROTO_UDP
    assert tcp.getsockopt(SOL, socket.SO_ACCEPTCONN) == 0
    tcp.listen()
    assert tcp.getsockopt(SOL, socket.SO_ACCEPTCONN) == 1


@pytest.mark.parametrize(
    ("level", "name", "default", "value"),
    [
        (SOL, socket.SO_REUSEADDR, 0, 1),
        (SOL, socket.SO_KEEPALIVE, 0, 1),
        (TCP, socket.TCP_NODELAY, 0, 1),
        (TCP, socket.TCP_KEEPIDLE, 7200, 30),
        (TCP, socket.TCP_KEEPINTVL, 75, 5),
        (TCP, socket.TCP_KEEPCNT, 9, 3),
        (TCP, socket.TCP_USER_TIMEOUT, 0, 4000),
        (TCP, socket.TCP_MAXSEG, 536, 1000),
        (IP, socket.IP_TOS, 0, 0x10),
        (IP, socket.IP_TTL, 64, 5),
    ],
)
def test_defaults_and_values(world: World, level: int, name: int, default: int, value: int) -> None:
    sock = world.left()
    assert sock.getsockopt(level, name) == default
    assert sock.setsockopt(level, name, value) is None
    # Linux answers TCP_MAXSEG with the default until there is a connection.
    assert sock.getsockopt(level, name) == value or ((level, name) == (TCP, socket.TCP_MAXSEG) and world.is_kernel)
    if (level, name) != (TCP, socket.TCP_MAXSEG):
        sock.setsockopt(level, name, struct.pack("i", default))
        assert sock.getsockopt(level, name) == default


def test_options_are_inherited_from_the_listener(world: World) -> None:
    listener, address = world.listener()
    listener.setsockopt(TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(SOL, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(TCP, socket.TCP_KEEPIDLE, 33)
    world.left().connect(address)
    sock, _ = listener.accept()
    world.keep(sock)
    assert sock.getsockopt(TCP, socket.TCP_NODELAY) == 1
    assert sock.getsockopt(SOL, socket.SO_KEEPALIVE) == 1
    assert sock.getsockopt(TCP, socket.TCP_KEEPIDLE) == 33


def test_options_survive_connect(world: World) -> None:
    _listener, address = world.listener()
    sock = world.left()
    sock.setsockopt(TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(TCP, socket.TCP_USER_TIMEOUT, 1234)
    sock.connect(address)
    assert sock.getsockopt(TCP, socket.TCP_NODELAY) == 1
    assert sock.getsockopt(TCP, socket.TCP_USER_TIMEOUT) == 1234


def test_maxseg_holds_for_the_connection(world: World) -> None:
    listener, address = world.listener()
    sock = world.left()
    sock.setsockopt(TCP, socket.TCP_MAXSEG, 700)
    sock.connect(address)
    peer, _ = listener.accept()
    world.keep(peer)
    assert sock.getsockopt(TCP, socket.TCP_MAXSEG) <= 700
    assert peer.getsockopt(TCP, socket.TCP_MAXSEG) <= 700


@pytest.mark.parametrize("name", [socket.SO_RCVBUF, socket.SO_SNDBUF])
def test_buffer_sizes_are_doubled(world: World, name: int) -> None:
    for sock in (world.left(), world.left(socket.SOCK_DGRAM)):
        sock.setsockopt(SOL, name, 50_000)
        assert sock.getsockopt(SOL, name) == 100_000
        sock.setsockopt(SOL, name, 1)
        assert sock.getsockopt(SOL, name) == (2304 if name == socket.SO_RCVBUF else 4608)
        sock.setsockopt(SOL, name, 1 << 30)  # cut to net.core.[rw]mem_max
        assert 100_000 < sock.getsockopt(SOL, name) < 1 << 30


def test_linger(world: World) -> None:
    sock = world.left()
    assert sock.getsockopt(SOL, socket.SO_LINGER, 8) == struct.pack("ii", 0, 0)
    sock.setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", 1, 30))
    assert sock.getsockopt(SOL, socket.SO_LINGER, 8) == struct.pack("ii", 1, 30)
    sock.setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", 0, 0))
    assert sock.getsockopt(SOL, socket.SO_LINGER) == 0
    fails(errno.EINVAL, sock.setsockopt, SOL, socket.SO_LINGER, 1)
    fails(errno.EINVAL, sock.setsockopt, SOL, socket.SO_LINGER, b"abc")


def test_out_of_range(world: World) -> None:
    sock = world.left()
    for level, name, value in (
        (TCP, socket.TCP_KEEPIDLE, 0),
        (TCP, socket.TCP_KEEPIDLE, 32768),
        (TCP, socket.TCP_KEEPINTVL, 0),
        (TCP, socket.TCP_KEEPCNT, 128),
        (TCP, socket.TCP_MAXSEG, 10),
        (TCP, socket.TCP_USER_TIMEOUT, -1),
        (IP, socket.IP_TTL, 0),
        (IP, socket.IP_TTL, 256),
    ):
        fails(errno.EINVAL, sock.setsockopt, level, name, value)
    with pytest.raises(TypeError):  # tried as an int, then as bytes
        sock.setsockopt(TCP, socket.TCP_NODELAY, 1 << 40)


def test_unknown_options(world: World) -> None:
    tcp, udp = world.left(), world.left(socket.SOCK_DGRAM)
    fails(errno.ENOPROTOOPT, tcp.getsockopt, SOL, 9999)
    fails(errno.ENOPROTOOPT, tcp.setsockopt, SOL, 9999, 1)
    fails(errno.ENOPROTOOPT, tcp.setsockopt, TCP, 9999, 1)
    fails(errno.ENOPROTOOPT, tcp.setsockopt, SOL, socket.SO_TYPE, 1)
    fails(errno.ENOPROTOOPT, tcp.setsockopt, SOL, socket.SO_ERROR, 1)
    with pytest.raises(OSError):
        udp.setsockopt(TCP, socket.TCP_NODELAY, 1)


def test_values_of_wrong_types(world: World) -> None:
    sock = world.left()
    for wrong in ("1", 1.5, [1]):
        with pytest.raises(TypeError):
            sock.setsockopt(SOL, socket.SO_KEEPALIVE, wrong)
    fails(errno.EINVAL, sock.setsockopt, SOL, socket.SO_KEEPALIVE, b"")
    assert sock.getsockopt(SOL, socket.SO_KEEPALIVE, 4) == struct.pack("i", 0)
    with pytest.raises(OSError):
        sock.getsockopt(SOL, socket.SO_KEEPALIVE, 1025)
    with pytest.raises(OSError):
        sock.getsockopt(SOL, socket.SO_KEEPALIVE, -1)
    with pytest.raises(TypeError):
        sock.setsockopt(SOL, socket.SO_KEEPALIVE, None)


def test_broadcast(world: World) -> None:
    sock = world.left(socket.SOCK_DGRAM)
    assert sock.getsockopt(SOL, socket.SO_BROADCAST) == 0
    sock.setsockopt(SOL, socket.SO_BROADCAST, 1)
    assert sock.getsockopt(SOL, socket.SO_BROADCAST) == 1


def test_tcp_info_has_the_kernels_layout(world: World) -> None:
    left, right = world.pair()
    left.sendall(b"x" * 5000)
    received = 0
    while received < 5000:
        received += len(right.recv(5000))
    info = left.getsockopt(TCP, socket.TCP_INFO, 104)
    assert len(info) == 104
    state, _, retransmits, _, _, options = struct.unpack_from("6B", info)
    rto, _, snd_mss, rcv_mss = struct.unpack_from("4I", info, 8)
    rtt = struct.unpack_from("I", info, 68)[0]
    assert (state, retransmits) == (1, 0)
    assert options & 7 == 7  # timestamps, SACK, window scale
    assert 200_000 <= rto <= 1_500_000
    assert snd_mss > 500
    assert rcv_mss >= 500
    assert 0 < rtt < 1_000_000


def test_reuseaddr_lets_a_port_be_taken_again(world: World) -> None:
    listener = world.right()
    listener.setsockopt(SOL, socket.SO_REUSEADDR, 1)  # Linux wants it of both
    listener.bind((world.right_host, 0))
    listener.listen()
    address = listener.getsockname()
    left = world.left()
    left.connect(address)
    right, _ = listener.accept()
    listener.close()
    right.close()  # the first to close: TIME-WAIT holds the port
    assert left.recv(1) == b""
    left.close()
    world.let_time_pass()
    again = world.right()
    fails(errno.EADDRINUSE, again.bind, ("", address[1]))
    again.setsockopt(SOL, socket.SO_REUSEADDR, 1)
    again.bind(("", address[1]))
    again.listen()


def test_congestion_control_by_name(world: World) -> None:
    """TCP_CONGESTION: a name of up to 15 bytes, with or without a 0 behind it; ENOENT for what there is not."""
    listener, address = world.listener()
    sock = world.left()
    default = sock.getsockopt(TCP, socket.TCP_CONGESTION, 16)
    assert len(default) == 16
    sock.setsockopt(TCP, socket.TCP_CONGESTION, b"reno")
    assert sock.getsockopt(TCP, socket.TCP_CONGESTION, 16) == b"reno".ljust(16, b"\0")
    assert sock.getsockopt(TCP, socket.TCP_CONGESTION, 3) == b"ren"
    sock.setsockopt(TCP, socket.TCP_CONGESTION, default)
    sock.setsockopt(TCP, socket.TCP_CONGESTION, b"reno\0")
    for wrong in (b"magic", b"reno2", 5):
        fails(errno.ENOENT, sock.setsockopt, TCP, socket.TCP_CONGESTION, wrong)
    fails(errno.EINVAL, sock.setsockopt, TCP, socket.TCP_CONGESTION, b"")
    listener.setsockopt(TCP, socket.TCP_CONGESTION, b"reno")
    sock.connect(address)
    accepted, _ = listener.accept()
    world.keep(accepted)
    assert {one.getsockopt(TCP, socket.TCP_CONGESTION, 5) for one in (sock, accepted)} == {b"reno\0"}
    fails(errno.ENOPROTOOPT, world.left(socket.SOCK_DGRAM).setsockopt, TCP, socket.TCP_CONGESTION, b"reno")
