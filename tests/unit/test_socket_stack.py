"""The Stack object: links and addresses, what it tells, knobs, drivers, and what closing and forgetting things does."""

from __future__ import annotations

import errno
import gc
import json
import socket
import subprocess
import sys
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest

import ustack
from tests.unit.socket_worlds import PATIENCE, StackWorld, fails, open_world


@pytest.fixture
def stacks() -> Iterator[StackWorld]:
    for world in open_world("pipe"):
        assert isinstance(world, StackWorld)
        yield world


@pytest.fixture
def stack() -> Iterator[ustack.Stack]:
    with ustack.Stack() as made:
        yield made


# -- sockets and the garbage collector


def test_a_forgotten_socket_is_closed_and_told_about(stacks: StackWorld) -> None:
    listener, address = stacks.listener()
    left = stacks.left_stack.create_connection(address)
    right, _ = listener.accept()
    with pytest.warns(ResourceWarning, match="unclosed <ustack.socket.Socket"):
        del right
    left.settimeout(PATIENCE)
    assert left.recv(1) == b""
    left.close()


def test_a_closed_socket_goes_quietly(stack: ustack.Stack) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sock = stack.socket()
        sock.close()
        del sock
        gc.collect()
    assert stack.live()["sockets"] == 0


def test_a_socket_in_a_cycle_with_its_stack_goes() -> None:
    stack = ustack.Stack()
    sock = stack.create_server(("127.0.0.1", 0))
    stack.kept = sock  # type: ignore[attr-defined]
    reference = weakref.ref(stack)
    del stack, sock
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    assert reference() is None


def test_weak_references_and_subclasses(stack: ustack.Stack) -> None:
    class Mine(ustack.Socket):
        pass

    sock = Mine(stack)
    sock.note = "an attribute"
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    with stack.create_connection(sock.getsockname()), sock:
        accepted, _ = sock.accept()
        with accepted:
            assert type(accepted) is Mine
    reference = weakref.ref(sock)
    del sock
    assert reference() is None


def test_what_an_idle_socket_weighs(stack: ustack.Stack) -> None:
    """Part of the 512 bytes that an idle connection may cost all in: its Tcb has the rest."""
    with stack.socket() as sock:
        assert not hasattr(sock, "__dict__")
        weight = sys.getsizeof(sock)  # with the collector's header
        assert -(-weight // 16) * 16 <= 112  # as Python's allocator rounds


def test_a_socket_is_not_made_twice_or_copied(stack: ustack.Stack) -> None:
    import copy
    import pickle

    with stack.socket() as sock:
        with pytest.raises(TypeError):
            sock.__init__(stack)  # type: ignore[misc]
        with pytest.raises(TypeError):
            pickle.dumps(sock)
        with pytest.raises(TypeError):
            copy.copy(sock)
        fails(errno.EOPNOTSUPP, sock.dup)
    with pytest.raises(TypeError):
        ustack.Socket(None)  # type: ignore[arg-type]
    empty = ustack.Socket.__new__(ustack.Socket)
    fails(errno.EBADF, empty.recv, 1)
    assert empty.fileno() == -1


def test_detach_and_take_up_again(stacks: StackWorld) -> None:
    left, right = stacks.pair()
    fd = left.fileno()
    assert left.detach() == fd
    assert left.fileno() == -1
    fails(errno.EBADF, left.send, b"x")
    again = stacks.left_stack.socket(fileno=fd)
    with again:
        assert again.fileno() == fd
        again.sendall(b"still connected")
        assert right.recv(100) == b"still connected"
    fails(errno.EBADF, stacks.left_stack.socket, socket.AF_INET, socket.SOCK_STREAM, 0, 99999)


def test_descriptors_go_with_their_sockets(stacks: StackWorld) -> None:
    import os

    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        left, right = stacks.pair()
        left.fileno()
        right.fileno()
        left.close()
        right.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_receiving_never_allocates_more_than_there_is(stacks: StackWorld) -> None:
    left, right = stacks.pair()
    left.sendall(b"small")
    assert right.recv(1 << 60) == b"small"
    left_udp, _, right_udp, address = stacks.datagrams()
    left_udp.sendto(b"small", address)
    assert right_udp.recvfrom(1 << 60)[0] == b"small"


# -- closing a stack


def test_close_takes_everything_back(stacks: StackWorld) -> None:
    left, right = stacks.pair()
    idle = stacks.left_stack.socket()
    stacks.left_stack.close()
    for sock in (left, idle):
        fails(errno.ECONNABORTED, sock.send, b"x")
    fails(errno.ECONNABORTED, idle.bind, ("", 0))
    with pytest.raises(OSError):
        stacks.left_stack.socket()
    left.close()
    idle.close()
    assert stacks.left_stack.closed
    stacks.left_stack.close()
    fails(errno.ECONNRESET, right.recv, 1)


def test_close_lets_the_last_bytes_out(stacks: StackWorld) -> None:
    listener, address = stacks.listener()
    data = bytes(500_000)

    def receive() -> int:
        right, _ = listener.accept()
        received = 0
        with right:
            while piece := right.recv(65536):
                received += len(piece)
        return received

    task = stacks.spawn(receive)
    sock = stacks.left_stack.create_connection(address)
    sock.sendall(data)
    sock.close()
    stacks.left_stack.close()
    assert task.result() == len(data)


def test_nothing_is_left_when_all_is_closed(stacks: StackWorld) -> None:
    for _ in range(5):
        left, right = stacks.pair()
        left.sendall(b"x" * 10_000)
        left.close()
        while right.recv(65536):
            pass
        right.close()
    udp = stacks.left(socket.SOCK_DGRAM)
    udp.sendto(b"x", (stacks.right_host, 9))
    udp.close()
    gone = (
        "sockets",
        "tcbs",
        "listeners",
        "synreqs",
        "segments",
        "reassemblies",
        "datagram_sockets",
        "buffers",
        "binds",
    )
    for each in (stacks.left_stack, stacks.right_stack):
        for _ in range(1000):
            live = each.live()
            if not any(live[kind] for kind in gone):
                break
            stacks.let_time_pass()
        assert {kind: live[kind] for kind in gone} == dict.fromkeys(gone, 0)


def test_a_stack_that_is_dropped_closes_its_links() -> None:
    a, b = ustack.pipe()
    stack = ustack.Stack()
    stack.attach(a, addresses=["10.9.0.1/24"])
    assert a.attached
    del stack
    gc.collect()
    assert a.closed
    b.close()


def test_a_socket_keeps_its_stack(stacks: StackWorld) -> None:
    made = ustack.Stack()
    server = made.create_server(("127.0.0.1", 0))
    reference = weakref.ref(made)
    del made
    gc.collect()
    assert server.stack is reference()
    with server.stack.create_connection(server.getsockname()) as client:
        server.accept()[0].close()
        assert client.recv(1) == b""
    server.stack.close()
    server.close()


# -- links and addresses


def test_attach_and_detach(stack: ustack.Stack) -> None:
    a, b = ustack.pipe()
    assert stack.attach(a, addresses=["10.9.0.1/24", "192.0.2.1/32"], gateway="10.9.0.254", name="eth0") == "eth0"
    lo, eth0 = stack.interfaces()
    assert (lo.name, lo.medium) == ("lo", "loopback")
    assert (eth0.name, eth0.index, eth0.mtu, eth0.medium) == ("eth0", 2, 1500, "ethernet")
    assert [str(one) for one in eth0.addresses] == ["10.9.0.1/24", "192.0.2.1/32"]
    assert ("0.0.0.0/0", "10.9.0.254") in [(one.destination, one.gateway) for one in stack.routes()]
    stack.detach(a)
    assert [one.name for one in stack.interfaces()] == ["lo"]
    assert "10.9.0.254" not in [one.gateway for one in stack.routes()]
    assert not a.closed
    assert stack.attach(a, "10.9.0.1/24", mtu=1000) != "lo"
    assert stack.interfaces()[1].mtu == 1000
    b.close()


def test_attach_wrongly(stack: ustack.Stack) -> None:
    a, _b = ustack.pipe()
    for addresses in (["10.9.0.1/33"], ["x"], ["fd09::1/129"]):
        with pytest.raises(ValueError):
            stack.attach(a, addresses=addresses)
    with pytest.raises(ValueError):
        stack.attach(a, addresses=["10.9.0.1/24"], gateway="nowhere")
    for mtu in (67, 65536, 1501):
        with pytest.raises(ValueError, match="mtu"):
            stack.attach(a, mtu=mtu)
    with pytest.raises(OSError):
        stack.attach(a, addresses=["10.9.0.1/24"], gateway="192.0.2.1")
    assert not a.attached
    with pytest.raises(TypeError):
        stack.attach(object())
    stack.attach(a)
    fails(errno.EBUSY, stack.attach, a)


def test_names_of_interfaces_are_distinct(stack: ustack.Stack) -> None:
    names = [stack.attach(ustack.pipe(name="w")[0]) for _ in range(3)]
    assert len(set(names)) == 3


def test_addresses_and_routes(stack: ustack.Stack) -> None:
    a, _b = ustack.pipe()
    name = stack.attach(a, addresses=["10.9.0.1/24"])
    stack.add_address(name, "10.8.0.1/16")
    stack.add_route("192.0.2.0/24", "10.8.0.9", metric=5)
    stack.add_route("default", "10.9.0.9")
    found = {one.destination: one for one in stack.routes()}
    assert found["192.0.2.0/24"].gateway == "10.8.0.9"
    assert found["192.0.2.0/24"].metric == 5
    assert found["10.8.0.0/16"].gateway is None
    stack.del_route("192.0.2.0/24")
    with pytest.raises(OSError):
        stack.del_route("192.0.2.0/24")
    with pytest.raises(OSError):
        stack.add_route("203.0.113.0/24", "172.16.0.1")
    with pytest.raises(ValueError):
        stack.add_route("10.0.0.0/8")
    stack.remove_address(name, "10.8.0.1/16")
    assert [str(one) for one in stack.interfaces()[1].addresses] == ["10.9.0.1/24"]
    with pytest.raises(OSError):
        stack.remove_address(name, "10.8.0.1")
    fails(errno.ENODEV, stack.add_address, "nothing", "10.8.0.1/16")


# -- what it tells


def test_connections(stacks: StackWorld) -> None:
    listener, address = stacks.listener(5)
    left = stacks.left()
    left.connect(address)
    right, _ = listener.accept()
    stacks.keep(right)
    left.sendall(b"unread")
    assert right.recv(1, socket.MSG_PEEK)
    udp = stacks.right(socket.SOCK_DGRAM)
    udp.bind(("", 53))
    found = {(one.protocol, one.state): one for one in stacks.right_stack.connections()}
    connection = found["tcp", "ESTABLISHED"]
    assert (connection.local, connection.peer) == (address, left.getsockname())
    assert connection.recv_q == 6
    assert connection.mss == 1448
    assert connection.rtt is not None
    assert 0 < connection.rtt < 1_000_000
    assert connection.details["snd_wscale"] == 7
    listening = found["tcp", "LISTEN"]
    assert (listening.local, listening.peer, listening.recv_q, listening.send_q) == (
        ("0.0.0.0", address[1]),
        None,
        0,
        5,
    )
    assert found["udp", "UNCONN"].local == ("0.0.0.0", 53)
    json.dumps([asdict(one) for one in found.values()])
    left.close()
    right.recv(100)
    right.close()
    states = {one.state for one in stacks.left_stack.connections()}
    assert states <= {"TIME-WAIT", "FIN-WAIT-1", "FIN-WAIT-2", "CLOSING", "LAST-ACK"}


def test_neighbors_and_counters(stacks: StackWorld) -> None:
    left, _ = stacks.pair()
    left.sendall(b"x")
    (neighbor,) = stacks.left_stack.neighbors()
    assert neighbor.address == stacks.right_host
    assert neighbor.state == "REACHABLE"
    assert neighbor.mac == stacks.right_stack.interfaces()[1].mac
    counters = stacks.left_stack.counters()
    assert counters["TcpActiveOpens"] == 1
    assert counters["ArpOutRequests"] >= 1
    assert all(isinstance(value, int) for value in counters.values())
    assert len(counters) > 100


def test_repr(stack: ustack.Stack) -> None:
    a, _b = ustack.pipe()
    stack.attach(a, addresses=["10.9.0.1/24"])
    assert repr(stack) == "<ustack.Stack thread 10.9.0.1/24>"
    with stack.socket() as sock:
        sock.bind(("10.9.0.1", 1234))
        assert repr(sock) == "<ustack.socket.Socket family=2, type=1, proto=0, laddr=('10.9.0.1', 1234)>".replace(
            "family=2, type=1", f"family={socket.AF_INET}, type={socket.SOCK_STREAM}"
        )
    assert "[closed]" in repr(sock)
    stack.close()
    assert repr(stack) == "<ustack.Stack closed>"


# -- knobs


def test_sysctl(stack: ustack.Stack) -> None:
    knobs = stack.sysctl
    assert knobs["net.ipv4.tcp_rmem"] == (4096, 131072, 6291456)
    knobs["net.ipv4.tcp_rmem"] = "4096 65536 1000000"
    assert knobs["net.ipv4.tcp_rmem"] == (4096, 65536, 1000000)
    knobs["net.ipv4.tcp_rmem"] = [4096, 131072, 6291456]
    knobs["net.ipv4.ip_default_ttl"] = 99
    assert knobs["net.ipv4.ip_default_ttl"] == 99
    with stack.socket() as sock:
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 99
    knobs["net.ipv4.tcp_sack"] = "0"
    assert knobs["net.ipv4.tcp_sack"] == 0
    assert knobs["net.ipv4.tcp_congestion_control"] == "cubic"
    assert len(knobs) == len(list(knobs)) > 40
    assert all(knobs[name] is not None for name in knobs)
    with pytest.raises(KeyError, match=r"net\.ipv4\.tcp_rmem"):
        knobs["net.ipv4.tcp_rmen"]
    with pytest.raises(KeyError):
        knobs["nonsense"] = 1
    for name, wrong in (
        ("net.ipv4.ip_default_ttl", 0),
        ("net.ipv4.ip_default_ttl", 256),
        ("net.ipv4.tcp_rmem", 5),
        ("net.ipv4.tcp_rmem", (3, 2, 1)),
        ("net.ipv4.tcp_rmem", "many"),
        ("net.ipv4.tcp_congestion_control", "magic"),
        ("net.ipv4.tcp_sack", -1),
    ):
        with pytest.raises(ValueError):
            knobs[name] = wrong
    with pytest.raises(TypeError):
        knobs["net.ipv4.tcp_sack"] = 1.5  # type: ignore[assignment]


def test_knobs_are_a_stacks_own(stack: ustack.Stack) -> None:
    with ustack.Stack() as other:
        other.sysctl["net.ipv4.ip_default_ttl"] = 5
        assert stack.sysctl["net.ipv4.ip_default_ttl"] == 64


def test_port_range(stack: ustack.Stack) -> None:
    stack.sysctl["net.ipv4.ip_local_port_range"] = (50000, 50009)
    with stack.socket() as tcp, stack.socket(type=socket.SOCK_DGRAM) as udp:
        for sock in (tcp, udp):
            sock.bind(("127.0.0.1", 0))
            assert 50000 <= sock.getsockname()[1] <= 50009


# -- drivers


def test_manual_driver() -> None:
    a, b = ustack.pipe()
    with ustack.Stack(driver="manual") as left, ustack.Stack(driver="manual") as right:
        left.attach(a, addresses=["10.9.0.1/24"])
        right.attach(b, addresses=["10.9.0.2/24"])
        now = 1_000_000_000

        def run() -> None:
            nonlocal now
            for _ in range(10):
                now += 1_000_000
                left.poll(now)
                right.poll(now)

        server = right.create_server(("", 80))
        client = left.socket()
        assert client.connect_ex(("10.9.0.2", 80)) == errno.EINPROGRESS
        assert client.connect_ex(("10.9.0.2", 80)) == errno.EALREADY
        with pytest.raises(BlockingIOError):
            server.accept()  # never blocks, whatever its timeout
        run()
        conn, _ = server.accept()
        client.sendall(b"by hand")
        with pytest.raises(BlockingIOError):
            conn.recv(10)
        run()
        assert conn.recv(10) == b"by hand"
        deadline = left.next_deadline()
        assert deadline is None or deadline > now
        for sock in (client, conn, server):
            sock.close()


def test_drivers_that_there_are_not(stack: ustack.Stack) -> None:
    with pytest.raises(ValueError, match="neither"):
        ustack.Stack(driver="magic")
    with pytest.raises(ValueError, match="32 bytes"):
        ustack.Stack(seed=b"short")
    with pytest.raises(TypeError):
        ustack.Stack(driver=5)
    unborn = ustack.Stack.__new__(ustack.Stack)
    for use in (unborn.socket, unborn.live, unborn.connections, lambda: unborn.add_route("default", "10.0.0.1")):
        with pytest.raises(RuntimeError, match="not initialised"):
            use()
    with pytest.raises(RuntimeError, match="runs by itself"):
        stack.poll()


def test_create_server_and_connection_arguments(stack: ustack.Stack) -> None:
    with stack.create_server(("127.0.0.1", 0), backlog=3) as server:
        assert server.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
        address = server.getsockname()
        with stack.create_connection(address, timeout=5, source_address=("127.0.0.9", 0)) as client:
            assert client.gettimeout() == 5
            assert client.getsockname()[0] == "127.0.0.9"
        fails(errno.EADDRINUSE, stack.create_server, address)
    with pytest.raises(ValueError):
        stack.create_server(address, reuse_port=True)
    with pytest.raises(ConnectionRefusedError):
        stack.create_connection(address)


def test_default_timeout_is_the_socket_modules(stack: ustack.Stack) -> None:
    socket.setdefaulttimeout(7.5)
    try:
        with stack.socket() as sock:
            assert sock.gettimeout() == 7.5
    finally:
        socket.setdefaulttimeout(None)
    with stack.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        assert sock.gettimeout() == 0
        assert sock.type == socket.SOCK_STREAM


def test_a_signal_gets_through_to_who_is_blocked() -> None:
    program = """
import signal, ustack
class Alarm(Exception): pass
def ring(*_): raise Alarm
signal.signal(signal.SIGALRM, ring)
with ustack.Stack() as stack:
    udp = stack.socket(type=ustack.SOCK_DGRAM)
    udp.bind(("", 9))
    for call in (lambda: udp.recv(1), lambda: stack.create_server(("", 80)).accept()):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            call()
        except Alarm:
            print("woken")
    signal.signal(signal.SIGALRM, lambda *_: udp.close())
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        udp.recv(1)
    except OSError as error:
        print(error.errno)
"""
    ran = _python(program)
    assert ran.stdout.split() == ["woken", "woken", str(errno.EBADF)]


def test_a_child_of_fork_leaves_the_connection_to_its_parent() -> None:
    program = """
import os, select, ustack
with ustack.Stack() as stack, stack.create_server(("127.0.0.1", 0)) as server:
    client = stack.create_connection(server.getsockname())
    conn, _ = server.accept()
    conn.fileno()
    child = os.fork()
    if child == 0:
        for call in (lambda: conn.recv(1), lambda: client.send(b"x"), stack.socket, server.accept, conn.getsockname):
            try:
                call()
            except OSError:
                continue
            os._exit(1)
        server.close()
        stack.close()
        conn.close()
        client.close()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    client.sendall(b"still here")
    print(select.select([conn], [conn], [], 10) == ([conn], [conn], []), conn.recv(100).decode())
    client.close()
    conn.close()
"""
    assert _python(program).stdout.splitlines() == ["0", "True still here"]


def test_importing_needs_no_extension() -> None:
    program = (
        "import sys, ustack; print(any(name.startswith('ustack_ext') for name in sys.modules), ustack.AF_INET.name)"
    )
    assert _python(program).stdout.split() == ["False", "AF_INET"]
    assert {"Stack", "Socket", "pipe", "SO_REUSEADDR", "sim"} <= set(dir(ustack))
    with pytest.raises(AttributeError):
        ustack.nothing  # noqa: B018
    with pytest.raises(AttributeError):
        ustack.SO_NOTHING  # noqa: B018


def _python(program: str) -> Any:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True, env={**_environment()}
    )


def _environment() -> dict[str, str]:
    import os
    from pathlib import Path

    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
