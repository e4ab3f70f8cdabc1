"""StackGroup: one device with several queues, an engine for each; every flow stays with its own."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import ustack
from tap_harness import payload
from tap_harness.kernel_peer import receive_all, result, start_client, start_server
from tap_harness.netns import Namespace
from tap_harness.process import wait_for
from ustack_ext.link import steer, tundev

QUEUES = 3
MIB = 1 << 20


def open_group(ns: Namespace, kind: str = "Tap", queues: int = QUEUES, **options: Any) -> ustack.StackGroup:
    with ns.entered():
        link = getattr(ustack, kind)("ust0", host_addresses=["10.9.0.1/24"], queues=queues, **options)
    assert len(link.queues) == queues, link.refused
    return ustack.StackGroup(link, ["10.9.0.2/24"], "10.9.0.1")


@pytest.fixture(params=["Tap", "Tun", "plain"])
def group(ns: Namespace, request: pytest.FixtureRequest) -> Iterator[ustack.StackGroup]:
    plain = request.param == "plain"
    with open_group(ns, "Tap" if plain else request.param, offload=False if plain else None) as made:
        yield made


def healthy(group: ustack.StackGroup, ns: Namespace) -> None:
    """No segment came to an engine that does not have its connection."""
    assert group.counters()["TcpOutRsts"] == 0
    assert "RSTs" not in ns.sh("nstat -s TcpEstabResets | grep -v '#' | awk '$2 > 0 {print \"RSTs\"}'")


def serve(listeners: Any, handler: Any) -> None:
    def handle(connection: Any) -> None:
        with connection, contextlib.suppress(OSError):  # the end of the test ends it, too
            handler(connection)

    def accept() -> None:
        try:
            while True:
                connection, _ = listeners.accept()
                threading.Thread(target=handle, args=(connection,), daemon=True).start()
        except OSError:
            return

    threading.Thread(target=accept, daemon=True).start()


def echo(connection: Any) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


# -- steering


@pytest.mark.parametrize("header", [14, 0])
def test_the_program_passes_the_verifier(header: int, privileged: None) -> None:
    os.close(steer.load(steer.program(header, (0xFFFFFFFF, 0xFFFFFFFF), [0, 1, 2, 0], 2)))


def test_connections_of_the_kernel(group: ustack.StackGroup, ns: Namespace) -> None:
    """Each lands on the queue that user space says, and they spread."""
    listeners = group.create_server(("", 80))
    listeners.settimeout(10)
    seen = set()
    for number in range(64):
        with ns.socket() as client:
            client.connect(("10.9.0.2", 80))
            connection, name = listeners.accept()
            stack = group.stacks.index(connection.stack)
            seen.add(stack)
            assert group.stacks[0]._links[0].queue_of(("10.9.0.2", 80), name) == stack
            client.sendall(bytes([number]))
            assert connection.recv(10) == bytes([number])
            connection.sendall(b"back")
            assert client.recv(10) == b"back"
            connection.close()
    assert seen == set(range(QUEUES))
    healthy(group, ns)


def test_connections_to_the_kernel(group: ustack.StackGroup, ns: Namespace) -> None:
    """In turn from every stack; each asks for the kernel's link address itself and hears the answer."""
    with ns.socket() as listener:
        listener.bind(("10.9.0.1", 0))
        listener.listen(64)
        socks = [group.create_connection(listener.getsockname(), 10) for _ in range(4 * QUEUES)]
        assert [group.stacks.index(sock.stack) for sock in socks] == list(range(QUEUES)) * 4
        theirs = {}
        for _ in socks:
            connection, name = listener.accept()
            theirs[name] = connection
        for sock in socks:
            sock.sendall(b"mine")
            assert theirs[sock.getsockname()].recv(10) == b"mine"
            theirs[sock.getsockname()].sendall(b"yours")
            assert sock.recv(10) == b"yours"
        for sock in [*socks, *theirs.values()]:
            sock.close()
    healthy(group, ns)


def test_a_source_port_decides_the_stack(group: ustack.StackGroup, ns: Namespace) -> None:
    with ns.socket() as listener:
        listener.bind(("10.9.0.1", 0))
        listener.listen(64)
        peer = listener.getsockname()
        for port in range(40000, 40016):
            with group.create_connection(peer, 10, ("", port)) as sock:
                assert sock.getsockname() == ("10.9.0.2", port)
                link = group.stacks[0]._links[0]
                assert link.queue_of(sock.getsockname(), peer) == group.stacks.index(sock.stack)
                listener.accept()[0].close()
    healthy(group, ns)


# -- bulk


@pytest.mark.timeout(300)
def test_bulk_both_ways_at_once(group: ustack.StackGroup, ns: Namespace) -> None:
    size = 8 * MIB
    listeners = group.create_server(("", 80))
    serve(listeners, lambda connection: connection.sendall(str(receive_all(connection)["sha256"]).encode()))
    senders = [
        start_client(ns, "send", "10.9.0.2", 80, "--bytes", str(size), "--seed", str(seed)) for seed in range(4)
    ]
    _, port = start_server(ns, "source", "10.9.0.1", 0, "--bytes", str(size), "--seed", "9")
    found: list[dict[str, object]] = []

    def fetch() -> None:
        with group.create_connection(("10.9.0.1", port), 60) as sock:
            found.append(receive_all(sock))

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{"bytes": size, "sha256": payload.digest(9, size)}] * 4
    for seed, sender in enumerate(senders):
        assert result(sender, 120)["reply"] == payload.digest(seed, size)
    healthy(group, ns)


def test_many_clients(group: ustack.StackGroup, ns: Namespace) -> None:
    serve(group.create_server(("", 80), backlog=512), echo)
    socks = []
    for _ in range(200):
        sock = ns.socket()
        sock.setblocking(False)
        sock.connect_ex(("10.9.0.2", 80))
        socks.append(sock)
    for number, sock in enumerate(socks):
        sock.settimeout(20)
        sock.sendall(number.to_bytes(4, "big") * 500)
    for number, sock in enumerate(socks):
        sock.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: sock.recv(65536), b"")) == number.to_bytes(4, "big") * 500  # noqa: B023
        sock.close()
    healthy(group, ns)


# -- what is not steered


def test_arp_replies_reach_every_stack(ns: Namespace) -> None:
    with open_group(ns) as group:
        for stack in group.stacks:
            with stack.socket(ustack.AF_INET, ustack.SOCK_DGRAM) as probe:
                probe.sendto(b"x", ("10.9.0.1", 9))
        for stack in group.stacks:
            wait_for(lambda: [n.state for n in stack.neighbors()] == ["REACHABLE"], "the reply", 10)  # noqa: B023


def test_an_announcement_reaches_every_stack(ns: Namespace) -> None:
    """RFC 5227 §3: who has a new link address says so once, and each stack believes what it sees fit."""
    with open_group(ns) as group:
        ns.sysctl("net.ipv4.conf.ust0.arp_notify", 1)
        ns.sh("ip link set ust0 address 02:00:00:00:77:77")
        for stack in group.stacks:
            wait_for(lambda: stack.counters()["ArpInRequests"] == 1, "the announcement", 10)  # noqa: B023


def test_ping(group: ustack.StackGroup, ns: Namespace) -> None:
    assert " 0% packet loss" in ns.sh("ping -c 5 -i 0.01 -W 2 10.9.0.2")
    assert " 5 received" in ns.sh("ping -c 5 -i 0.01 -s 4000 -W 2 10.9.0.2"), "answered once each"


def test_icmp_errors_reach_the_stack_that_asked(group: ustack.StackGroup, ns: Namespace) -> None:
    """The kernel forwards for us: "host unreachable" about each SYN."""
    ns.sysctl("net.ipv4.ip_forward", 1)
    ns.sysctl("net.ipv4.icmp_ratelimit", 0)
    ns.sh("ip route add unreachable 203.0.113.0/24")
    for _ in range(QUEUES):
        with pytest.raises(OSError) as caught:
            group.create_connection(("203.0.113.1", 80), 10)
        assert caught.value.errno == errno.EHOSTUNREACH


def fragments(port: int, peer: tuple[str, int], seq: int, ack: int, data: bytes) -> list[bytes]:
    """A TCP segment from the peer in two IPv4 fragments."""
    source, target = socket.inet_aton(peer[0]), socket.inet_aton("10.9.0.2")
    head = struct.pack(">HHIIBBHHH", peer[1], port, seq, ack, 5 << 4, 0x18, 65535, 0, 0)
    words = source + target + struct.pack(">HH", 6, len(head) + len(data)) + head + data + bytes(len(data) & 1)
    total = sum(struct.unpack(f">{len(words) // 2}H", words))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    whole = head[:16] + struct.pack(">H", ~total & 0xFFFF) + head[18:] + data
    made = []
    for offset, more, part in ((0, 0x2000, whole[:64]), (8, 0, whole[64:])):
        where = more | offset
        head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(part), 0x7777, where, 64, 6, 0, source, target)
        made.append(head + part)
    return made


def test_fragments_of_tcp_reach_their_stack(ns: Namespace) -> None:
    """No kernel sends any: a raw socket does, in a connection whose kernel side is out of the way (repair mode)."""
    ns.sysctl("net.ipv4.tcp_timestamps", 0)
    with open_group(ns) as group, ns.socket(kind=socket.SOCK_RAW, proto=socket.IPPROTO_RAW) as raw:
        listeners = group.create_server(("", 80))
        listeners.settimeout(10)
        owners = set()
        for _ in range(16):
            with ns.socket() as client:
                client.connect(("10.9.0.2", 80))
                connection, peer = listeners.accept()
                connection.settimeout(10)
                owners.add(connection.stack)
                client.setsockopt(socket.IPPROTO_TCP, 19, 1)  # TCP_REPAIR
                client.setsockopt(socket.IPPROTO_TCP, 20, 2)  # TCP_REPAIR_QUEUE: send
                seq = client.getsockopt(socket.IPPROTO_TCP, 21)  # TCP_QUEUE_SEQ
                client.setsockopt(socket.IPPROTO_TCP, 20, 1)
                ack = client.getsockopt(socket.IPPROTO_TCP, 21)
                for packet in fragments(80, peer, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, b"in pieces" * 20):
                    raw.sendto(packet, ("10.9.0.2", 0))
                assert connection.recv(1000) == b"in pieces" * 20
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
        assert len(owners) == QUEUES


# -- coming and going


def test_a_stack_that_closes(ns: Namespace) -> None:
    """Its connections end, the others' go on, and new ones go to those that are left."""
    with open_group(ns) as group:
        listeners = group.create_server(("", 80))
        serve(listeners, echo)
        socks = []
        for _ in range(32):
            sock = ns.socket()
            sock.connect(("10.9.0.2", 80))
            socks.append(sock)
        wait_for(lambda: sum(c.state == "ESTABLISHED" for c in group.connections()) == 32, "the connections", 10)
        kept = [c.peer for stack in group.stacks[1:] for c in stack.connections() if c.state == "ESTABLISHED"]
        group.stacks[0].close()
        assert 0 < len(kept) < 32
        for sock in socks:
            if sock.getsockname() in kept:
                sock.sendall(b"still there")
                assert sock.recv(100) == b"still there"
            else:
                with pytest.raises(ConnectionResetError):
                    assert sock.recv(1)
            sock.close()
        for _ in range(32):
            with ns.socket() as client:
                client.connect(("10.9.0.2", 80))
                client.sendall(b"new")
                assert client.recv(10) == b"new"
        assert " 0% packet loss" in ns.sh("ping -c 3 -i 0.01 -W 2 10.9.0.2"), "the next queue answers"
        assert group.create_connection(listener_of(ns), 10).stack is not group.stacks[0]


def listener_of(ns: Namespace) -> tuple[str, int]:
    _, port = start_server(ns, "echo", "10.9.0.1")
    return ("10.9.0.1", port)


def test_the_first_queue_alone_gets_everything(ns: Namespace) -> None:
    """A link with several queues is an ordinary link, too."""
    with ns.entered():
        link = ustack.Tap("ust0", host_addresses=["10.9.0.1/24"], queues=QUEUES)
    with ustack.Stack() as stack:
        stack.attach(link, ["10.9.0.2/24"])
        listener = stack.create_server(("", 80), backlog=64)
        listener.settimeout(10)
        for _ in range(32):
            with ns.socket() as client:
                client.connect(("10.9.0.2", 80))
                listener.accept()[0].close()


def test_accept(ns: Namespace) -> None:
    with open_group(ns) as group, group.create_server(("", 0)) as listeners:
        address = ("10.9.0.2", listeners.getsockname()[1])
        listeners.setblocking(False)
        with pytest.raises(BlockingIOError):
            listeners.accept()
        listeners.settimeout(0.01)
        with pytest.raises(TimeoutError):
            listeners.accept()
        assert select.select([listeners], [], [], 0)[0] == []
        with ns.socket() as client:
            client.connect(address)
            assert select.select([listeners], [], [], 10)[0] == [listeners]
            listeners.accept()[0].close()
        listeners.close()
        with pytest.raises(OSError):
            listeners.accept()
        assert listeners.fileno() == -1
        with ns.socket() as client, pytest.raises(ConnectionRefusedError):
            client.connect(address)


def test_nothing_is_left(ns: Namespace) -> None:
    before = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    for _ in range(5):
        open_group(ns).close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() == threads
    assert "ust0" not in ns.sh("ip -o link")


# -- less is granted


def test_steering_refused(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """As without privilege where kernel.unprivileged_bpf_disabled is set: one queue, and the link says why."""

    def load(code: bytes) -> int:
        raise PermissionError(errno.EPERM, "bpf: Operation not permitted")

    monkeypatch.setattr(steer, "load", load)
    before = len(os.listdir("/proc/self/fd"))
    with ns.entered():
        link = ustack.Tap("ust0", host_addresses=["10.9.0.1/24"], queues=2)
    assert link.queues == (link,)
    assert link.refused == ("2 queues: bpf: Operation not permitted",)
    with ustack.StackGroup(link, ["10.9.0.2/24"]) as group:
        assert len(group.stacks) == 1
        serve(group.create_server(("", 80)), echo)
        with ns.socket() as client:
            client.connect(("10.9.0.2", 80))
            client.sendall(b"one")
            assert client.recv(10) == b"one"
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_device_made_for_one(ns: Namespace) -> None:
    with ns.entered():
        ustack.Tap("per0", persistent=True).close()
        with ustack.Tap("per0", queues=2) as link:
            assert len(link.queues) == 1
            assert "2 queues" in link.refused[0]
        ns.sh("ip tuntap add dev mq0 mode tap multi_queue")
        with ustack.Tap("mq0", queues=2) as link:
            assert len(link.queues) == 2


def test_wrong_arguments(ns: Namespace) -> None:
    for queues in (0, 17):
        with pytest.raises(ValueError), ns.entered():
            ustack.Tap("ust0", queues=queues)
    with pytest.raises(ValueError):
        ustack.Tap(fd=0, queues=2)
    with pytest.raises(TypeError):
        ustack.StackGroup(ustack.pipe()[0])  # type: ignore[arg-type]
    with ns.entered():
        link = ustack.Tap("ust0", queues=2)
    with pytest.raises(ValueError):
        ustack.StackGroup(link, ["nonsense"])
    assert tundev.DEVICE
