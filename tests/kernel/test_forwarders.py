"""Forwarders, as the kernel's clients see them: what a decision looks like from there, half-close, hundreds at once.

The kernel routes the far addresses to the stack, which has no such address.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tap_harness import payload

TCPI_OPT_ECN = 8  # linux/tcp.h
FAR4, FAR6 = "198.51.100.7", "2001:db8:7::7"


@pytest.fixture
def far(net: Any) -> str:
    """An address beyond the stack."""
    network = "2001:db8::/32" if net.six else "198.51.100.0/24"
    net.ns.sh(f"ip route add {network} via {net.stack_ip}")
    return FAR6 if net.six else FAR4


def connect(net: Any, far: str, port: int = 80, timeout: float = 10) -> socket.socket:
    sock = net.keep(net.kernel_socket())
    sock.settimeout(timeout)
    sock.connect((far, port))
    return sock


def in_threads(net: Any, work: Callable[[Any], None]) -> None:
    """Take every connection; `work` has its socket, in a thread of its own."""

    def run(sock: Any) -> None:
        with contextlib.suppress(OSError):  # the end of the test
            work(sock)

    def handler(request: Any) -> None:
        threading.Thread(target=run, args=(request.accept(),), daemon=True).start()

    net.stack.forward_tcp(handler)


def echo(sock: Any) -> None:
    with sock:
        while data := sock.recv(1 << 16):
            sock.sendall(data)


def test_accepted(net: Any, far: str) -> None:
    names: list[Any] = []

    def work(sock: Any) -> None:
        names.append((sock.getsockname()[:2], sock.getpeername()[:2]))
        echo(sock)

    in_threads(net, work)
    sock = connect(net, far, 8443)
    sock.sendall(b"hello")
    assert sock.recv(10) == b"hello"
    assert names == [((far, 8443), sock.getsockname()[:2])]
    assert sock.getpeername()[:2] == (far, 8443)


@pytest.mark.parametrize(
    ("decision", "code4", "code6"),
    [
        ("reset", errno.ECONNREFUSED, errno.ECONNREFUSED),
        ("net", errno.ENETUNREACH, errno.ENETUNREACH),
        ("host", errno.EHOSTUNREACH, errno.EHOSTUNREACH),
        ("port", errno.ECONNREFUSED, errno.ECONNREFUSED),
        ("admin", errno.EHOSTUNREACH, errno.EACCES),
    ],
)
def test_refused(net: Any, far: str, decision: str, code4: int, code6: int) -> None:
    net.stack.forward_tcp(
        lambda request: request.reset() if decision == "reset" else request.unreachable(decision)
    )
    with pytest.raises(OSError) as failure:
        connect(net, far)
    assert failure.value.errno == (code6 if net.six else code4)


def test_silence_and_a_late_decision(net: Any, far: str) -> None:
    requests: list[Any] = []
    net.stack.forward_tcp(requests.append)
    with pytest.raises(TimeoutError):
        connect(net, far, timeout=0.3)
    assert net.kernel_states() in (["SYN-SENT"], [])
    sock = net.keep(net.kernel_socket())
    sock.setblocking(False)
    assert sock.connect_ex((far, 81)) == errno.EINPROGRESS
    while not (late := [one for one in requests if one.destination[1] == 81]):
        select.select([], [], [], 0.001)
    served = net.keep(late[0].accept())
    assert select.select([], [sock], [], 10)[1]
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    sock.send(b"x")
    assert served.recv(1) == b"x"


def test_half_close_and_a_lot_of_data(net: Any, far: str) -> None:
    size = net.amount(4 << 20)

    def work(sock: Any) -> None:
        seen = hashlib.sha256()
        with sock:
            while data := sock.recv(1 << 16):
                seen.update(data)
            sock.sendall(seen.digest())  # the client has closed its side
            for block in payload.blocks(2, size):
                sock.sendall(block)

    in_threads(net, work)
    sock = connect(net, far)
    for block in payload.blocks(1, size):
        sock.sendall(block)
    sock.shutdown(socket.SHUT_WR)
    got = bytearray()
    while data := sock.recv(1 << 16):
        got += data
    assert got[:32].hex() == payload.digest(1, size)
    assert hashlib.sha256(got[32:]).hexdigest() == payload.digest(2, size)


def test_hundreds_at_once(net: Any, far: str) -> None:
    """Of three, one is accepted, one reset, one unreachable; each client gets its own."""
    accepted: list[Any] = []

    def handler(request: Any) -> None:
        kind = request.destination[1] % 3
        if kind == 0:
            accepted.append(request.accept())
        elif kind == 1:
            request.reset()
        else:
            request.unreachable("port")

    net.stack.sysctl["net.ipv4.icmp_ratelimit"] = 0
    net.stack.sysctl["net.ipv4.icmp_msgs_per_sec"] = 10000
    net.stack.sysctl["net.ipv4.icmp_msgs_burst"] = 10000
    net.stack.forward_tcp(handler)
    socks = []
    for port in range(3000, 3300):
        sock = net.keep(net.kernel_socket())
        sock.setblocking(False)
        code = sock.connect_ex((far, port))
        assert code in (errno.EINPROGRESS, errno.ECONNREFUSED)
        if code == errno.EINPROGRESS:
            socks.append((port, sock))
    for port, sock in socks:
        assert select.select([], [sock], [], 10)[1]
        if port % 3 == 0:
            sock.sendall(b"%d" % port)
        else:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
    assert len(accepted) == 100
    for served in accepted:
        served.settimeout(10)
        assert served.recv(10) == b"%d" % served.getsockname()[1]
        served.close()


def test_ecn_as_the_knob_says(net: Any, far: str) -> None:
    net.ns.sh("sysctl -qw net.ipv4.tcp_ecn=1")
    in_threads(net, echo)
    for knob, seen in ((2, True), (0, False)):
        net.stack.sysctl["net.ipv4.tcp_ecn"] = knob
        sock = connect(net, far, 90 + knob)
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        options = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[5]
        assert bool(options & TCPI_OPT_ECN) is seen


def test_datagrams(net: Any, far: str) -> None:
    def handler(request: Any) -> None:
        if request.destination[1] == 9:
            request.reset()
            return
        served = net.keep(request.accept())
        served.send(served.recv(100).upper())

    net.stack.forward_udp(handler)
    sock = net.keep(net.kernel_socket(socket.SOCK_DGRAM))
    sock.settimeout(10)
    sock.sendto(b"loud", (far, 53))
    data, sender = sock.recvfrom(100)
    assert (data, sender[:2]) == (b"LOUD", (far, 53))
    sock.connect((far, 9))
    sock.send(b"x")
    with pytest.raises(ConnectionRefusedError):
        sock.recv(1)


def test_pings(net: Any, far: str) -> None:
    """The kernel's ping gets the answers that whoever took the flow sends, and nobody else's."""

    def serve(sock: Any) -> None:
        with sock, contextlib.suppress(OSError):  # idle, or the end of the test
            while True:
                message = bytearray(sock.recv(1 << 16))
                message[0] = 129 if net.six else 0
                sock.send(message)

    def handler(request: Any) -> None:
        if request.protocol != "ping" or request.destination[0] != far:
            request.reset()
            return
        threading.Thread(target=serve, args=(request.accept(idle_timeout=5),), daemon=True).start()

    flows = net.stack.forward_udp(handler, pings=True)
    for size in (56, 4000):
        assert " 0% packet loss" in net.ns.sh(f"ping -c 3 -i 0.01 -W 5 -s {size} {far}")
    other = "2001:db8:7::8" if net.six else "198.51.100.8"
    assert "Unreachable" in net.ns.sh(f"ping -c 1 -W 5 {other} || true").replace("unreachable", "Unreachable")
    flows.close()
    assert " 100% packet loss" in net.ns.sh(f"ping -c 1 -W 0.2 {far} || true")
