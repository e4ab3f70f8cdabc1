"""The gateway: flows of a stack joined to sockets of the host, here to its loopback, without a device or privilege."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ustack
from ustack import gateway
from ustack.gateway import Gateway, host_resolver

HOST, DNS = "10.0.2.2", "10.0.2.3"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() resets


class Pair:
    """A client's stack, and the gateway's, joined by a pipe."""

    def __init__(self) -> None:
        self.client, self.stack = ustack.Stack(), ustack.Stack()
        a, b = ustack.pipe()
        self.client.attach(a, addresses=["10.0.2.100/24"], gateway=HOST)
        self.stack.attach(b, addresses=[f"{HOST}/24", f"{DNS}/24"])
        self.gateway = Gateway(self.stack, host=(HOST,), dns=(DNS,), resolver="127.0.0.1", blocked=("192.0.2.0/24",))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(10)

    def joined(self) -> tuple[Any, socket.socket]:
        """A connection: the client's end, and the host's."""
        sock = self.client.create_connection((HOST, self.listener.getsockname()[1]), timeout=10)
        conn, _ = self.listener.accept()
        conn.settimeout(10)
        return sock, conn

    def close(self) -> None:
        self.listener.close()
        self.gateway.close()
        self.client.close()
        self.stack.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def read_all(sock: Any) -> str:
    seen = hashlib.sha256()
    while part := sock.recv(1 << 16):
        seen.update(part)
    return seen.hexdigest()


def test_bytes_and_the_end_of_each_direction(pair: Pair) -> None:
    sock, conn = pair.joined()
    data = os.urandom(5 << 20)
    sent = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
    sent.start()
    assert read_all(conn) == hashlib.sha256(data).hexdigest()
    sent.join()
    sent = threading.Thread(target=lambda: (conn.sendall(data), conn.close()))  # the other half is still open
    sent.start()
    assert read_all(sock) == hashlib.sha256(data).hexdigest()
    sent.join()
    sock.close()
    done = pair.gateway.counters()
    assert (done["flows"], done["bytes_in"], done["bytes_out"]) == (1, len(data), len(data))


def test_small_messages_arrive_at_once(pair: Pair) -> None:
    sock, conn = pair.joined()
    for k in range(200):
        sock.sendall(b"%d" % k)
        assert conn.recv(100) == b"%d" % k
        conn.sendall(b"-%d" % k)
        assert sock.recv(100) == b"-%d" % k
    sock.close()
    conn.close()


def test_what_is_not_read_stays_where_it_is(pair: Pair) -> None:
    """Neither side's data is kept by the gateway beyond its socket buffers; all of it arrives in the end."""
    sock, conn = pair.joined()
    for sender, receiver in ((sock, conn), (conn, sock)):
        sender.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            while True:
                sent += sender.send(bytes(1 << 16))
        assert sent < 64 << 20
        sender.settimeout(10)
        got = 0
        while got < sent:
            got += len(receiver.recv(1 << 20))
        assert got == sent
    sock.close()
    conn.close()


def test_resets_go_both_ways(pair: Pair) -> None:
    sock, conn = pair.joined()
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    conn.close()
    with pytest.raises(ConnectionResetError):
        sock.recv(1)
    sock.close()

    sock, conn = pair.joined()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()
    with pytest.raises(ConnectionResetError):
        conn.recv(1)
    conn.close()


def test_refusals(pair: Pair) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            pair.client.create_connection((HOST, probe.getsockname()[1]), timeout=10)
    for place in (("192.0.2.1", 80), (DNS, 80)):
        with pytest.raises(OSError) as failure:
            pair.client.create_connection(place, timeout=10)
        assert failure.value.errno == errno.EHOSTUNREACH
    assert pair.gateway.open == 0


def test_datagrams(pair: Pair) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        sock = pair.client.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(10)
        sock.connect((HOST, server.getsockname()[1]))
        for size in (1, 1400, 20000):
            sock.send(bytes(size))
            data, sender = server.recvfrom(65536)
            server.sendto(data, sender)
            assert len(sock.recv(65536)) == size
    sock.send(b"nobody there")
    with pytest.raises(ConnectionRefusedError):
        sock.recv(1)
    sock.close()


def test_a_hundred_at_once_and_closing_resets_them(pair: Pair) -> None:
    pairs = [pair.joined() for _ in range(100)]
    assert pair.gateway.open == 100
    for k, (sock, conn) in enumerate(pairs):
        sock.sendall(b"%d" % k)
        assert conn.recv(10) == b"%d" % k
    pair.gateway.close()
    assert pair.gateway.open == 0
    for sock, conn in pairs:
        with pytest.raises(ConnectionResetError):
            conn.recv(1)
        conn.close()
        sock.close()


def test_one_gateway_a_stack_and_only_with_a_thread(pair: Pair) -> None:
    with pytest.raises(OSError) as failure:
        Gateway(pair.stack)
    assert failure.value.errno == errno.EBUSY
    with ustack.Stack(driver="manual") as stack, pytest.raises(TypeError):
        Gateway(stack)
    with ustack.Stack() as stack:
        Gateway(stack).close()
        Gateway(stack).close()


def may_ping(kind: int) -> bool:
    try:
        socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP).close()
    except PermissionError:
        return False
    return True


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_RAW])
def test_pings(pair: Pair, kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not may_ping(kind):
        pytest.skip("optional: this user may not ping")

    class Chosen(socket.socket):
        def __init__(self, family: int, type: int, proto: int = 0) -> None:
            if proto in (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6) and type & 0xFF != kind:
                raise PermissionError
            super().__init__(family, type, proto)

    monkeypatch.setattr(gateway, "_KernelSocket", Chosen)
    monkeypatch.setitem(pair.gateway._places, "203.0.113.7", "127.0.0.1")
    with pair.client.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(10)
        for number in range(5):
            data = bytes([number]) * (number * 300)
            sock.sendto(bytes([8, 0, 0, 0, 0, 0, 1, number]) + data, ("203.0.113.7", 0))
            answer, sender = sock.recvfrom(5000)
            assert (answer[0], answer[6:8], answer[8:]) == (0, bytes([1, number]), data)
            assert sender[0] == "203.0.113.7"
    assert pair.gateway.open == 1


def test_as_many_pings_as_there_may_be(pair: Pair) -> None:
    if not may_ping(socket.SOCK_DGRAM) and not may_ping(socket.SOCK_RAW):
        pytest.skip("optional: this user may not ping")
    pair.gateway._places["203.0.113.7"] = "127.0.0.1"
    for number in range(520):
        with pair.client.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
            sock.settimeout(10)
            sock.sendto(bytes([8, 0, 0, 0, 0, 0, 0, 1]), ("203.0.113.7", 0))
            if number < 512:
                assert sock.recv(100)[0] == 0
    sock, conn = pair.joined()
    assert pair.gateway.open == 513
    sock.close()
    conn.close()


def test_closing_the_stack_closes_its_gateway_and_forwarders(pair: Pair) -> None:
    sock, conn = pair.joined()
    held = len(os.listdir("/proc/self/fd"))
    pair.stack.close()
    assert pair.gateway.closed
    with pytest.raises(ConnectionResetError):
        conn.recv(1)
    assert len(os.listdir("/proc/self/fd")) < held
    conn.close()
    sock.close()
    with ustack.Stack() as stack:
        forwarders = [stack.forward_tcp(print), stack.forward_udp(print)]
    assert all(one.closed for one in forwarders)


def test_the_host_s_resolver(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("# one\nsearch example.org\nnameserver nonsense\nnameserver 192.0.2.53\nnameserver 192.0.2.54\n")
    assert host_resolver(str(path)) == "192.0.2.53"
    assert host_resolver(str(tmp_path / "missing")) == "127.0.0.1"
