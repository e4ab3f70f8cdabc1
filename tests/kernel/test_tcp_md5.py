"""TCP's MD5 signatures (RFC 2385) between the kernel's TCP_MD5SIG and the stack's, both ways."""

from __future__ import annotations

import errno
import socket
import threading
from typing import Any

import pytest

from tap_harness.md5sig import TCP_MD5SIG, TCP_MD5SIG_EXT, md5sig
from tap_harness.process import wait_for

ROLES = pytest.mark.parametrize("role", ["client", "server"])
REFUSED = ("TCPMD5NotFound", "TCPMD5Unexpected", "TCPMD5Failure")


def kernel_counters(net: Any) -> dict[str, int]:
    """TcpExt of the kernel's namespace."""
    names, values = (line.split()[1:] for line in net.ns.sh("grep ^TcpExt /proc/net/netstat").splitlines())
    return dict(zip(names, map(int, values), strict=True))


def ends(net: Any, role: str, ours: bytes, theirs: bytes) -> tuple[Any, Any, Any]:
    """(listener, client, where to connect to), each with its key; the stack's role."""
    stack, kernel = net.keep(net.stack_socket()), net.keep(net.kernel_socket())
    stack.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, md5sig(net.kernel_ip, ours))
    kernel.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, md5sig(net.stack_ip, theirs))
    listener, client = (kernel, stack) if role == "client" else (stack, kernel)
    host = net.kernel_ip if role == "client" else net.stack_ip
    listener.bind(net.name(host, 0))
    listener.listen()
    return listener, client, net.name(host, listener.getsockname()[1])


@ROLES
@pytest.mark.rfc("2385", "2.0", "3.0", "4.3")
def test_data_both_ways(net: Any, role: str) -> None:
    """Offloads or not, all that either side sends is what the other's key makes of it."""
    listener, client, to = ends(net, role, b"secret", b"secret")
    client.settimeout(10)
    listener.settimeout(10)
    data = bytes(range(256)) * 4000
    got = []

    def serve() -> None:
        conn, _ = listener.accept()
        with conn:
            conn.settimeout(10)
            got.append(b"".join(iter(lambda: conn.recv(1 << 16), b"")))
            conn.sendall(got[0][::-1])

    thread = threading.Thread(target=serve)
    thread.start()
    client.connect(to)
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)
    back = b"".join(iter(lambda: client.recv(1 << 16), b""))
    thread.join()
    assert got == [data]
    assert back == data[::-1]
    theirs = kernel_counters(net)
    assert [theirs[name] for name in REFUSED] == [0, 0, 0]
    assert [net.stack.counters()[name] for name in REFUSED] == [0, 0, 0]


@ROLES
@pytest.mark.rfc("2385", "2.0")
def test_another_key(net: Any, role: str) -> None:
    """What the listener can't verify it drops; both count it under the same name."""
    _, client, to = ends(net, role, b"secret", b"another")
    client.setblocking(False)
    assert client.connect_ex(to) == errno.EINPROGRESS
    counters = (lambda: kernel_counters(net)) if role == "client" else net.stack.counters
    wait_for(lambda: counters()["TCPMD5Failure"] or None, "a SYN that is refused", 10)
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    client.close()


@ROLES
def test_a_reset_is_signed(net: Any, role: str) -> None:
    """Data that nobody reads resets the connection, and the other side takes the reset."""
    listener, client, to = ends(net, role, b"secret", b"secret")
    client.settimeout(10)
    listener.settimeout(10)
    client.connect(to)
    conn, _ = listener.accept()
    conn.settimeout(10)
    for nobody, other in ((client, conn), (conn, client)):
        if nobody is client:
            other.sendall(b"unread")
            nobody.recv(1, socket.MSG_PEEK)
            nobody.close()
            with pytest.raises(ConnectionResetError):
                other.recv(1)
    conn.close()


def test_the_same_arguments_are_refused(net: Any) -> None:
    """Both kinds of sockets, one after the other, are told the same things; the answers are the same."""
    peer, other = net.kernel_ip, "10.9.0.1" if net.six else "fd09::1"
    full = 128 if net.six else 32
    calls = [
        (TCP_MD5SIG, md5sig(peer, b"k")),
        (TCP_MD5SIG, md5sig(peer, b"k" * 80) + b"more"),
        (TCP_MD5SIG, md5sig(peer, b"")),
        (TCP_MD5SIG, md5sig(peer, b"")),
        (TCP_MD5SIG, md5sig(peer, b"k")[:-1]),
        (TCP_MD5SIG, b"\1\0\0\0"),
        (TCP_MD5SIG, md5sig(other, b"k")),
        (TCP_MD5SIG, md5sig(other, b"")),
        (TCP_MD5SIG, md5sig(peer, b"k", full + 1)),
        (TCP_MD5SIG, md5sig(peer, b"", 3)),
        (TCP_MD5SIG_EXT, md5sig(peer, b"k", full)),
        (TCP_MD5SIG_EXT, md5sig(peer, b"k", full + 1)),
        (TCP_MD5SIG_EXT, md5sig(peer, b"k", 8)),
        (TCP_MD5SIG_EXT, md5sig(peer, b"k", 0)),
        (TCP_MD5SIG_EXT, md5sig(peer, b"", 9)),
        (TCP_MD5SIG_EXT, md5sig(peer, b"", 8)),
        (TCP_MD5SIG_EXT, md5sig(peer, b"", 8)),
        (TCP_MD5SIG_EXT, md5sig("10.9.0.1", b"k", 32, mapped=True)),
        (TCP_MD5SIG_EXT, md5sig("10.9.0.1", b"k", 33, mapped=True)),
        (TCP_MD5SIG, md5sig("10.9.0.1", b"k", mapped=True)),
        (TCP_MD5SIG, md5sig(peer, b"k" * 80).replace(b"\x50\0\0\0", b"\x51\0\0\0", 1)),
    ]
    answers = []
    for sock in (net.keep(net.kernel_socket()), net.keep(net.stack_socket())):
        told = []
        for name, value in calls:
            try:
                sock.setsockopt(socket.IPPROTO_TCP, name, value)
                told.append("0")
            except OSError as error:
                told.append(errno.errorcode[error.errno or 0])
        answers.append(told)
    assert answers[1] == answers[0]
    assert {"0", "EINVAL", "ENOENT"} == set(answers[0])
