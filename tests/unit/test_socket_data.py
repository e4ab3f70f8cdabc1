"""TCP sockets mean what the standard library's mean: each test runs on the kernel's sockets too. Moving data."""

from __future__ import annotations

import array
import errno
import io
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.socket_worlds import EVERYWHERE, World, fails, open_world


@pytest.fixture(params=EVERYWHERE)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    yield from open_world(request.param)


# -- without blocking, and with a limit


def test_nonblocking_calls(world: World) -> None:
    listener, _address = world.listener()
    listener.setblocking(False)
    with pytest.raises(BlockingIOError) as caught:
        listener.accept()
    assert caught.value.errno == errno.EAGAIN
    left, _ = world.pair()
    left.setblocking(False)
    fails(errno.EAGAIN, left.recv, 10)
    fails(errno.EAGAIN, left.recv_into, bytearray(10))
    left.setblocking(True)
    fails(errno.EAGAIN, left.recv, 10, socket.MSG_DONTWAIT)


def test_nonblocking_connect(world: World) -> None:
    listener, address = world.listener()
    left = world.left()
    left.setblocking(False)
    fails(errno.EINPROGRESS, left.connect, address)
    right, _ = listener.accept()
    world.keep(right)
    right.sendall(b"x")
    left.settimeout(10)
    assert left.recv(1) == b"x"
    assert left.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert left.connect_ex(address) in (0, errno.EISCONN)  # Linux says 0 once
    assert left.connect_ex(address) == errno.EISCONN


def test_timeouts(world: World) -> None:
    listener, _address = world.listener()
    listener.settimeout(0.05)
    with pytest.raises(TimeoutError, match="timed out"):
        listener.accept()
    left, right = world.pair()
    left.settimeout(0.05)
    with pytest.raises(TimeoutError, match="timed out") as caught:
        left.recv(1)
    assert type(caught.value) is TimeoutError
    assert socket.timeout is TimeoutError
    right.sendall(b"late")
    left.settimeout(10)
    assert left.recv(10) == b"late"


def test_send_fills_up(world: World) -> None:
    left, right = world.pair()
    left.setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += left.send(bytes(100_000))
    assert sent > 0
    left.settimeout(0.05)
    with pytest.raises(TimeoutError):
        left.sendall(bytes(1 << 26))
    right.settimeout(10)
    received = 0
    while received < sent:
        received += len(right.recv(1 << 20))


def test_blocking_send_takes_all_of_it(world: World) -> None:
    left, right = world.pair()
    left.settimeout(None)
    task = world.spawn(left.send, bytes(8 << 20))
    received = 0
    while received < 8 << 20:
        received += len(right.recv(1 << 20))
    assert task.result() == 8 << 20


def test_blocking_send_tells_the_part_that_went(world: World) -> None:
    left, right = world.pair()
    left.settimeout(None)
    task = world.spawn(left.send, bytes(64 << 20))
    assert right.recv(100_000)
    right.close()  # with data unread: reset
    assert 0 < task.result() < 64 << 20


def test_timeout_values(world: World) -> None:
    sock = world.left()
    sock.settimeout(1.5)
    assert sock.gettimeout() == 1.5 == sock.timeout
    assert sock.getblocking() is True
    sock.settimeout(0)
    assert sock.gettimeout() == 0.0
    assert sock.getblocking() is False
    sock.setblocking(True)
    assert sock.gettimeout() is None
    with pytest.raises(ValueError, match="out of range"):
        sock.settimeout(-1)
    with pytest.raises(TypeError):
        sock.settimeout("1")
    with pytest.raises(ValueError):
        sock.settimeout(float("nan"))
    with pytest.raises(OverflowError):
        sock.settimeout(1e30)


# -- flags and shapes of send and recv


def test_peek(world: World) -> None:
    left, right = world.pair()
    left.sendall(b"abcdef")
    assert right.recv(3, socket.MSG_PEEK) == b"abc"
    assert right.recv(3, socket.MSG_PEEK) == b"abc"
    assert right.recv(6, socket.MSG_WAITALL) == b"abcdef"


def test_waitall(world: World) -> None:
    left, right = world.pair()
    right.settimeout(None)
    task = world.spawn(right.recv, 10, socket.MSG_WAITALL)
    left.sendall(b"12345")
    left.sendall(b"67890")
    assert task.result() == b"1234567890"
    left.sendall(b"abc")
    left.shutdown(socket.SHUT_WR)
    assert right.recv(10, socket.MSG_WAITALL) == b"abc"


def test_waitall_into_memory_and_with_peek(world: World) -> None:
    left, right = world.pair()
    right.settimeout(None)
    room = bytearray(10)
    task = world.spawn(right.recv_into, room, 0, socket.MSG_WAITALL | socket.MSG_PEEK)
    left.sendall(b"12345")
    left.sendall(b"67890")
    assert task.result() == 10
    assert right.recv_into(room, 0, socket.MSG_WAITALL) == 10
    assert room == b"1234567890"


def test_no_bytes(world: World) -> None:
    left, right = world.pair()
    assert left.send(b"") == 0
    assert left.sendall(b"") is None
    assert right.recv(0) == b""
    left.sendall(b"x")
    assert right.recv(0) == b""
    assert right.recv_into(bytearray()) == 0
    assert right.recv(5) == b"x"


def test_recv_into(world: World) -> None:
    left, right = world.pair()
    left.sendall(b"abcdefgh")
    room = bytearray(b"........")
    assert right.recv_into(room, 3) == 3
    assert room == b"abc....."
    assert right.recv_into(memoryview(room)[4:6]) == 2
    assert room == b"abc.de.."
    assert right.recv_into(room) == 3
    with pytest.raises(ValueError, match="buffer too small"):
        right.recv_into(room, 9)
    with pytest.raises(ValueError, match="negative"):
        right.recv_into(room, -1)
    with pytest.raises((TypeError, BufferError)):
        right.recv_into(b"read only")
    with pytest.raises(ValueError, match="negative"):
        right.recv(-1)


def test_recvfrom_on_a_stream_has_no_address(world: World) -> None:
    left, right = world.pair()
    left.sendall(b"abcd")
    assert right.recvfrom(2) == (b"ab", None)
    assert right.recvfrom_into(bytearray(2)) == (2, None)


def test_sendto_on_a_stream_ignores_the_address(world: World) -> None:
    left, right = world.pair()
    assert left.sendto(b"abc", ("192.0.2.1", 9)) == 3
    assert right.recv(10) == b"abc"


def test_many_buffers(world: World) -> None:
    left, right = world.pair()
    assert left.sendmsg([b"ab", bytearray(b"cd"), b"", memoryview(b"efg")]) == 7
    first, second = bytearray(3), bytearray(10)
    count, ancillary, flags, address = right.recvmsg_into([first, second])
    assert (count, ancillary, flags & ~socket.MSG_CMSG_CLOEXEC, address) == (7, [], 0, None)
    assert (first, second[:4]) == (b"abc", b"defg")
    left.sendall(b"xyz")
    assert right.recvmsg(2)[0] == b"xy"
    assert right.recvmsg(2, 64)[:2] == (b"z", [])
    with pytest.raises(OSError) as caught:
        left.sendmsg([b"x"] * 1025)
    assert caught.value.errno == errno.EMSGSIZE


def test_buffers_of_other_shapes(world: World) -> None:
    left, right = world.pair()
    numbers = array.array("I", [1, 2, 3])
    left.sendall(numbers)
    got = array.array("I", [0, 0, 0])
    assert right.recv_into(got, 0, socket.MSG_WAITALL) == 12
    assert got == numbers
    for wrong in ("text", 5, None):
        with pytest.raises(TypeError):
            left.send(wrong)
        with pytest.raises(TypeError):
            left.sendall(wrong)
    with pytest.raises(BufferError):
        left.send(memoryview(b"abcdef")[::2])


def test_out_of_band_data_there_is_none(world: World) -> None:
    _, right = world.pair()
    right.setblocking(False)
    fails(errno.EINVAL, right.recv, 1, socket.MSG_OOB)


# -- files


def test_makefile(world: World) -> None:
    left, right = world.pair()
    with left.makefile("w", encoding="utf-8", newline="\n") as out:
        out.write("first line\nsecond ünd last\n")
    left.shutdown(socket.SHUT_WR)
    with right.makefile(encoding="utf-8") as lines:
        assert lines.mode == "r"
        assert list(lines) == ["first line\n", "second ünd last\n"]


def test_makefile_modes(world: World) -> None:
    left, right = world.pair()
    with left.makefile("rwb", buffering=0) as raw, right.makefile("rwb") as both:
        assert isinstance(raw, socket.SocketIO)
        assert isinstance(both, io.BufferedRWPair)
        raw.write(b"abc\n")
        assert both.readline() == b"abc\n"
        both.write(b"back\n")
        both.flush()
        assert raw.read(5) == b"back\n"
    with pytest.raises(ValueError, match="invalid mode"):
        left.makefile("x")
    with pytest.raises(ValueError, match="unbuffered"):
        left.makefile("r", buffering=0)


def test_a_file_keeps_the_connection_open(world: World) -> None:
    left, right = world.pair()
    with left.makefile("wb") as out:
        left.close()
        out.write(b"still here")
    assert right.recv(100) == b"still here"
    assert right.recv(100) == b""


def test_a_timeout_spoils_a_file(world: World) -> None:
    left, _ = world.pair()
    left.settimeout(0.02)
    with left.makefile("rb") as stream:
        with pytest.raises(TimeoutError):
            stream.read(1)
        with pytest.raises(OSError, match="cannot read from timed out object"):
            stream.read(1)


def test_sendfile_counts_from_the_start_of_a_file(world: World, tmp_path: Path) -> None:
    """Wherever the file stands; what is no regular file goes from where it stands."""
    left, right = world.pair()
    (tmp_path / "file").write_bytes(b"0123456789")
    with open(tmp_path / "file", "rb") as file:
        file.seek(4)
        assert left.sendfile(file) == 10
        assert file.tell() == 10
    got = b""
    while len(got) < 10:
        got += right.recv(100)
    assert got == b"0123456789"
    memory = io.BytesIO(b"0123456789")
    memory.seek(4)
    assert left.sendfile(memory) == 6
    assert right.recv(100) == b"456789"


def test_sendfile(world: World, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    path = tmp_path / "file"
    path.write_bytes(data)
    left, right = world.pair()
    task = world.spawn(lambda: _receive_exactly(right, 300_000 - 1000 + 5000))
    with path.open("rb") as file:
        assert left.sendfile(file, 1000) == 299_000
        assert file.tell() == 300_000
        assert left.sendfile(file, 100, 5000) == 5000
        assert file.tell() == 5100
        with pytest.raises(ValueError, match="positive"):
            left.sendfile(file, count=0)
        with pytest.raises(TypeError):
            left.sendfile(file, count="1")  # type: ignore[arg-type]
    assert task.result() == data[1000:] + data[100:5100]
    assert left.sendfile(io.BytesIO(b"from memory")) == 11
    with path.open() as text, pytest.raises(ValueError, match="binary"):
        left.sendfile(text)
    left.setblocking(False)
    with path.open("rb") as file, pytest.raises(ValueError, match="non-blocking"):
        left.sendfile(file)


def _receive_exactly(sock: Any, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece
        data += piece
    return bytes(data)
