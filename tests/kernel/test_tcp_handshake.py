"""Opening connections with the kernel's TCP: both roles, refusals, unreachable and silent peers, names and options."""

from __future__ import annotations

import errno
import select
import socket
import threading
from typing import Any

import pytest

import ustack
from tap_harness.tap import KernelTap

ROLES = ("client", "server")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.rfc("9293", "MUST-14")
def test_connects_and_talks(net: Any, role: str) -> None:
    ours, theirs = net.pair(role)
    ours.sendall(b"from the stack")
    assert theirs.recv(100) == b"from the stack"
    theirs.sendall(b"from the kernel")
    assert ours.recv(100) == b"from the kernel"
    assert ours.getpeername() == theirs.getsockname()
    assert ours.getsockname() == theirs.getpeername()
    assert net.kernel_states(theirs.getsockname()[1]) == ["ESTAB"]


@pytest.mark.parametrize("role", ROLES)
def test_options_are_negotiated(net: Any, role: str) -> None:
    """MSS, SACK, timestamps and window scale are in force as the kernel sees them (RFC 2018, 7323)."""
    _, theirs = net.pair(role)
    port = theirs.getsockname()[1]
    seen = net.ns.sh(f"ss -Htino '( sport = :{port} )'")
    assert " ts " in seen
    assert " sack " in seen
    assert "wscale:" in seen
    assert theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) == net.mss - 12


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("knob", ["tcp_timestamps", "tcp_sack", "tcp_window_scaling"])
def test_works_without_an_option(net: Any, role: str, knob: str) -> None:
    net.ns.sysctl(f"net.ipv4.{knob}", 0)
    ours, theirs = net.pair(role)
    data = bytes(range(256)) * 2000
    thread = threading.Thread(target=ours.sendall, args=(data,))
    thread.start()
    received = receive(theirs, len(data))
    thread.join()
    assert received == data


def receive(sock: Any, size: int) -> bytes:
    """Exactly `size` bytes from a socket."""
    data = bytearray()
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more, f"ended after {len(data)} of {size} bytes"
        data += more
    return bytes(data)


def test_small_mtu_of_the_kernel(net: Any) -> None:
    """The kernel's MSS is honoured (RFC 9293 §3.7.1)."""
    net.ns.sh(f"ip link set ust0 mtu {1280 if net.six else 600}")
    ours, theirs = net.pair("client")
    data = b"x" * 100_000
    thread = threading.Thread(target=ours.sendall, args=(data,))
    thread.start()
    assert receive(theirs, len(data)) == data
    thread.join()


@pytest.mark.rfc("9293", "MUST-12")
def test_refused_by_the_kernel(net: Any) -> None:
    with pytest.raises(ConnectionRefusedError):
        net.stack.create_connection((net.kernel_ip, 9), timeout=5)
    sock = net.keep(net.stack_socket())
    sock.settimeout(5)
    assert sock.connect_ex((net.kernel_ip, 9)) == errno.ECONNREFUSED


def test_refused_by_the_stack(net: Any) -> None:
    sock = net.kernel_socket()
    with sock, pytest.raises(ConnectionRefusedError):
        sock.connect((net.stack_ip, 9))


def test_no_such_host_on_the_link(net: Any) -> None:
    """Nobody answers: EHOSTUNREACH, as Linux reports it after three requests (RFC 1122 §2.3.2.1, RFC 4861 §7.2.2)."""
    with pytest.raises(OSError) as caught:
        net.stack.create_connection(("fd09::77" if net.six else "10.9.0.77", 80), timeout=10)
    assert caught.value.errno == errno.EHOSTUNREACH


def test_kernel_finds_no_host(net: Any) -> None:
    """The stack answers ARP and solicitations for its own address only."""
    sock = net.kernel_socket()
    with sock, pytest.raises(OSError) as caught:
        sock.connect(("fd09::3" if net.six else "10.9.0.3", 80))
    assert caught.value.errno == errno.EHOSTUNREACH


def routed(net: Any, kind: str) -> str:
    """Have the kernel be a router that knows a network by this kind of route; an address in it."""
    if net.six:
        net.ns.sysctl("net.ipv6.conf.all.forwarding", 1)
        net.ns.sh(f"ip -6 route add {kind} fd99::/64")
        return "fd99::1"
    net.ns.sysctl("net.ipv4.ip_forward", 1)
    net.ns.sh(f"ip route add {kind} 10.99.0.0/24")
    return "10.99.0.1"


def test_router_says_unreachable(net: Any) -> None:
    """ICMP host unreachable, ICMPv6 no route, for a SYN reaches the connecting socket (RFC 9293 SHLD-25)."""
    far = routed(net, "unreachable")
    with pytest.raises(OSError) as caught:
        net.stack.create_connection((far, 80), timeout=8)
    assert caught.value.errno == (errno.ENETUNREACH if net.six else errno.EHOSTUNREACH)


def test_no_route(ns: Any, six: bool) -> None:
    with KernelTap(ns, addresses=["10.9.0.1/24"]) as tap, ustack.Stack() as stack:
        stack.attach(ustack.Tap(fd=tap.dup()), addresses=["fd09::2/64" if six else "10.9.0.2/24"])
        with pytest.raises(OSError) as caught:
            stack.create_connection(("2001:db8::1" if six else "192.0.2.1", 80), timeout=5)
        assert caught.value.errno == errno.ENETUNREACH


def test_silent_peer_times_out(net: Any) -> None:
    far = routed(net, "blackhole")
    with pytest.raises(TimeoutError):
        net.stack.create_connection((far, 80), timeout=0.5)


@pytest.mark.rfc("9293", "MUST-22")
def test_silent_peer_after_the_syn_retries(net: Any) -> None:
    """Without a timeout of the socket, tcp_syn_retries ends it: 1 s + 2 s for one retry."""
    far = routed(net, "blackhole")
    net.stack.sysctl["net.ipv4.tcp_syn_retries"] = 1
    with pytest.raises(TimeoutError) as caught:
        net.stack.create_connection((far, 80))
    assert caught.value.errno == errno.ETIMEDOUT


def test_accept_timeout_and_nonblocking(net: Any) -> None:
    listener, _ = net.stack_listen()
    listener.settimeout(0.05)
    with pytest.raises(TimeoutError):
        listener.accept()
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_recv_timeout_leaves_the_connection(net: Any) -> None:
    ours, theirs = net.pair("client")
    ours.settimeout(0.05)
    with pytest.raises(TimeoutError):
        ours.recv(1)
    theirs.sendall(b"late")
    ours.settimeout(5)
    assert ours.recv(10) == b"late"


def test_nonblocking_connect_becomes_writable(net: Any) -> None:
    listener, port = net.kernel_listen()
    sock = net.keep(net.stack_socket())
    sock.setblocking(False)
    assert sock.connect_ex((net.kernel_ip, port)) in (0, errno.EINPROGRESS)
    _, writable, _ = select.select([], [sock], [], 5)
    assert writable == [sock]
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    listener.accept()[0].close()


def test_nonblocking_connect_refused_is_seen(net: Any) -> None:
    sock = net.keep(net.stack_socket())
    sock.setblocking(False)
    code = sock.connect_ex((net.kernel_ip, 9))
    if code == errno.EINPROGRESS:
        _, writable, _ = select.select([], [sock], [], 5)
        assert writable == [sock]
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    assert code == errno.ECONNREFUSED


def test_bound_source_port(net: Any) -> None:
    listener, port = net.kernel_listen()
    sock = net.keep(net.stack.create_connection((net.kernel_ip, port), timeout=5, source_address=("", 4321)))
    theirs, name = listener.accept()
    theirs.close()
    assert name == net.name(net.stack_ip, 4321)
    assert sock.getsockname() == net.name(net.stack_ip, 4321)


def test_full_backlog_does_not_lose_service(net: Any) -> None:
    """With backlog 1 and nobody accepting, later connections wait; each is served once accepted (RFC 9293 MUST-41)."""
    listener, port = net.stack_listen(backlog=1)
    clients = []
    for _ in range(6):
        sock = net.keep(net.kernel_socket())
        sock.setblocking(False)
        sock.connect_ex((net.stack_ip, port))
        clients.append(sock)
    for _ in clients:
        connection, _ = listener.accept()
        connection.sendall(b"served")
        connection.close()
    for sock in clients:
        sock.settimeout(10)
        assert sock.recv(10) == b"served"
