"""StackGroup: one device with several queues, an engine for each; every flow stays with its own."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import select
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import ustack
from tap_harness import payload
from tap_harness.ends import SIX, Ends
from tap_harness.kernel_peer import receive_all, result, start_client, start_server
from tap_harness.netns import Namespace
from tap_harness.process import wait_for
from tap_harness.segment import checksum
from ustack_ext.link import steer, tundev

QUEUES = 3
MIB = 1 << 20


def open_group(
    ns: Namespace, ends: Ends, kind: str = "Tap", queues: int = QUEUES, **options: Any
) -> ustack.StackGroup:
    with ns.entered():
        link = getattr(ustack, kind)("ust0", host_addresses=[ends.kernel_net], queues=queues, **options)
    assert len(link.queues) == queues, link.refused
    return ustack.StackGroup(link, [ends.stack_net], ends.kernel)


@pytest.fixture(params=["Tap", "Tun", "plain"])
def group(ns: Namespace, ends: Ends, request: pytest.FixtureRequest) -> Iterator[ustack.StackGroup]:
    plain = request.param == "plain"
    with open_group(ns, ends, "Tap" if plain else request.param, offload=False if plain else None) as made:
        yield made


def healthy(group: ustack.StackGroup, ns: Namespace) -> None:
    """No segment came to an engine that does not have its connection. What a busy kernel sends again, like a FIN, may
    come to one that has it no more."""
    again = ns.sh("nstat -asz TcpRetransSegs | awk '$1 == \"TcpRetransSegs\" {print $2}'")
    assert group.counters()["TcpOutRsts"] <= int(again)
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


@pytest.mark.ipv4("the program is for both")
@pytest.mark.parametrize("header", [14, 0])
def test_the_program_passes_the_verifier(header: int, privileged: None) -> None:
    os.close(steer.load(steer.program(header, b"\xff" * steer.KEY.size, [0, 1, 2, 0], 2)))


def test_connections_of_the_kernel(group: ustack.StackGroup, ns: Namespace, ends: Ends) -> None:
    """Each lands on the queue that user space says, and they spread."""
    listeners = group.create_server(("", 80), family=ends.family)
    listeners.settimeout(10)
    seen = set()
    for number in range(64):
        with ns.socket(ends.family) as client:
            client.connect((ends.stack, 80))
            connection, name = listeners.accept()
            stack = group.stacks.index(connection.stack)
            seen.add(stack)
            assert group.stacks[0]._links[0].queue_of((ends.stack, 80), name) == stack
            client.sendall(bytes([number]))
            assert connection.recv(10) == bytes([number])
            connection.sendall(b"back")
            assert client.recv(10) == b"back"
            connection.close()
    assert seen == set(range(QUEUES))
    healthy(group, ns)


def test_connections_to_the_kernel(group: ustack.StackGroup, ns: Namespace, ends: Ends) -> None:
    """In turn from every stack; each asks for the kernel's link address itself and hears the answer."""
    with ns.socket(ends.family) as listener:
        listener.bind((ends.kernel, 0))
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


def test_a_source_port_decides_the_stack(group: ustack.StackGroup, ns: Namespace, ends: Ends) -> None:
    with ns.socket(ends.family) as listener:
        listener.bind((ends.kernel, 0))
        listener.listen(64)
        peer = listener.getsockname()
        for port in range(40000, 40016):
            with group.create_connection(peer, 10, ("", port)) as sock:
                assert sock.getsockname()[:2] == (ends.stack, port)
                link = group.stacks[0]._links[0]
                assert link.queue_of(sock.getsockname(), peer) == group.stacks.index(sock.stack)
                listener.accept()[0].close()
    healthy(group, ns)


@pytest.mark.ipv6("link-local addresses")
def test_the_stacks_are_one_host_by_its_link_local_address_too(ns: Namespace) -> None:
    with open_group(ns, SIX) as group:
        links = [one for stack in group.stacks for one in stack.interfaces() if one.name == "ust0"]
        shown = [{str(address) for address in one.addresses} for one in links]
        assert shown[1:] == shown[:1] * (QUEUES - 1)
        (own,) = (text.split("/")[0] for text in shown[0] if text.startswith("fe80:"))
        serve(group.create_server(("", 80), family=SIX.family), echo)
        for _ in range(16):
            with ns.socket(SIX.family) as client:
                client.connect((own, 80, 0, ns.call(socket.if_nametoindex, "ust0")))
                client.sendall(b"found")
                assert client.recv(10) == b"found"
        healthy(group, ns)


# -- bulk


@pytest.mark.timeout(300)
def test_bulk_both_ways_at_once(group: ustack.StackGroup, ns: Namespace, ends: Ends) -> None:
    size = ends.amount(8 * MIB)
    listeners = group.create_server(("", 80), family=ends.family)
    serve(listeners, lambda connection: connection.sendall(str(receive_all(connection)["sha256"]).encode()))
    senders = [
        start_client(ns, "send", ends.stack, 80, "--bytes", str(size), "--seed", str(seed)) for seed in range(4)
    ]
    _, port = start_server(ns, "source", ends.kernel, 0, "--bytes", str(size), "--seed", "9")
    found: list[dict[str, object]] = []

    def fetch() -> None:
        with group.create_connection((ends.kernel, port), 60) as sock:
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


def test_many_clients(group: ustack.StackGroup, ns: Namespace, ends: Ends) -> None:
    serve(group.create_server(("", 80), family=ends.family, backlog=512), echo)
    socks = []
    for _ in range(200):
        sock = ns.socket(ends.family)
        sock.setblocking(False)
        sock.connect_ex((ends.stack, 80))
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


def test_answers_of_neighbours_reach_every_stack(ns: Namespace, ends: Ends) -> None:
    with open_group(ns, ends) as group:
        for stack in group.stacks:
            with stack.socket(ends.family, ustack.SOCK_DGRAM) as probe:
                probe.sendto(b"x", (ends.kernel, 9))
        for stack in group.stacks:
            wait_for(lambda: [n.state for n in stack.neighbors()] == ["REACHABLE"], "the reply", 10)  # noqa: B023


def test_an_announcement_reaches_every_stack(ns: Namespace, ends: Ends) -> None:
    """RFC 5227 §3, 4861 §7.2.6: who has a new link address says so once, and each stack believes what it sees fit."""
    counter = "Icmp6InNeighborAdvertisements" if ends.six else "ArpInRequests"
    with open_group(ns, ends) as group:
        before = [stack.counters()[counter] for stack in group.stacks]
        ns.sysctl("net.ipv6.conf.ust0.ndisc_notify" if ends.six else "net.ipv4.conf.ust0.arp_notify", 1)
        ns.sh("ip link set ust0 address 02:00:00:00:77:77")
        for stack, count in zip(group.stacks, before, strict=True):
            wait_for(lambda: stack.counters()[counter] > count, "the announcement", 10)  # noqa: B023


def test_ping(group: ustack.StackGroup, ns: Namespace, ends: Ends) -> None:
    assert " 0% packet loss" in ns.sh(f"ping -c 5 -i 0.01 -W 2 {ends.stack}")
    assert " 5 received" in ns.sh(f"ping -c 5 -i 0.01 -s 4000 -W 2 {ends.stack}"), "answered once each"


def test_icmp_errors_reach_the_stack_that_asked(group: ustack.StackGroup, ns: Namespace, ends: Ends) -> None:
    """The kernel forwards for us: "host unreachable" about each SYN."""
    net, host = ("2001:db8::/64", "2001:db8::1") if ends.six else ("203.0.113.0/24", "203.0.113.1")
    ns.sysctl("net.ipv6.conf.all.forwarding" if ends.six else "net.ipv4.ip_forward", 1)
    ns.sysctl("net.ipv6.icmp.ratelimit" if ends.six else "net.ipv4.icmp_ratelimit", 0)
    ns.sh(f"ip route add unreachable {net}")
    for _ in range(QUEUES):
        with pytest.raises(OSError) as caught:
            group.create_connection((host, 80), 10)
        assert caught.value.errno == (errno.ENETUNREACH if ends.six else errno.EHOSTUNREACH)


def fragments(ends: Ends, port: int, peer: tuple[Any, ...], seq: int, ack: int, data: bytes) -> list[bytes]:
    """A TCP segment from the peer in two fragments, the first of IPv6 behind options for the destination."""
    source, target = (socket.inet_pton(ends.family, host) for host in (peer[0], ends.stack))
    head = struct.pack(">HHIIBBHHH", peer[1], port, seq, ack, 5 << 4, 0x18, 65535, 0, 0)
    whole = head + data
    words = source + target + struct.pack(">HH", 6, len(whole)) + whole
    whole = head[:16] + struct.pack(">H", checksum(words)) + head[18:] + data
    made = []
    for offset, more, part in ((0, True, whole[:64]), (8, False, whole[64:])):
        if ends.six:
            options = struct.pack(">BBBBI", 44, 0, 1, 4, 0)  # PadN
            fragment = struct.pack(">BBHI", 6, 0, offset << 3 | more, 0x77777777)
            size = len(options) + len(fragment) + len(part)
            header = struct.pack(">IHBB", 6 << 28, size, 60, 64) + source + target + options + fragment
        else:
            where = (0x2000 if more else 0) | offset
            header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(part), 0x7777, where, 64, 6, 0) + source + target
        made.append(header + part)
    return made


def test_fragments_of_tcp_reach_their_stack(ns: Namespace, ends: Ends) -> None:
    """No kernel sends any: a raw socket does, in a connection whose kernel side is out of the way (repair mode)."""
    ns.sysctl("net.ipv4.tcp_timestamps", 0)
    raw = ns.socket(ends.family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with raw, open_group(ns, ends) as group:
        listeners = group.create_server(("", 80), family=ends.family)
        listeners.settimeout(10)
        owners = set()
        for _ in range(16):
            with ns.socket(ends.family) as client:
                client.connect((ends.stack, 80))
                connection, peer = listeners.accept()
                connection.settimeout(10)
                owners.add(connection.stack)
                client.setsockopt(socket.IPPROTO_TCP, 19, 1)  # TCP_REPAIR
                client.setsockopt(socket.IPPROTO_TCP, 20, 2)  # TCP_REPAIR_QUEUE: send
                seq = client.getsockopt(socket.IPPROTO_TCP, 21)  # TCP_QUEUE_SEQ
                client.setsockopt(socket.IPPROTO_TCP, 20, 1)
                ack = client.getsockopt(socket.IPPROTO_TCP, 21)
                for packet in fragments(ends, 80, peer, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, b"in pieces" * 20):
                    raw.sendto(packet, (ends.stack, 0))
                assert connection.recv(1000) == b"in pieces" * 20
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
        assert len(owners) == QUEUES


def test_headers_that_lie(ns: Namespace, ends: Ends) -> None:
    """What comes to the first queue is looked into to find whose it is: at random bytes, too, and at cut frames."""
    chance = random.Random(5)
    with open_group(ns, ends) as group, ns.entered():
        mac = bytes.fromhex(ns.sh("ip -o link show ust0").split("link/ether ")[1][:17].replace(":", ""))
        frames = []
        for _ in range(3000):
            body = bytearray(chance.randbytes(chance.randrange(150)))
            if ends.six and len(body) > 48:
                body[0], body[6] = 0x60, chance.choice([0, 6, 43, 44, 58, 60])
                body[40], body[41] = chance.choice([0, 6, 43, 44, 58, 60]), chance.choice([0, 1, 9, 255])
            elif len(body) > 28:
                body[0], body[9] = chance.choice([0x45, 0x4F, 0x41]), chance.choice([1, 6])
            kind = chance.choice([b"\x86\xdd" if ends.six else b"\x08\x00"] * 9 + [b"\x08\x06"])
            frames.append(group._link.mac + mac + kind + bytes(body))
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind(("ust0", 0))
            for frame in frames:
                wire.send(frame)
        wait_for(lambda: group.stacks[0].interfaces()[1].rx_packets >= 1000, "the frames", 20)
        assert " 0% packet loss" in ns.sh(f"ping -c 3 -i 0.01 -W 2 {ends.stack}")
        serve(group.create_server(("", 80), family=ends.family), echo)
        for _ in range(8):
            with ns.socket(ends.family) as client:
                client.connect((ends.stack, 80))
                client.sendall(b"still there")
                assert client.recv(20) == b"still there"


# -- coming and going


def test_a_stack_that_closes(ns: Namespace, ends: Ends) -> None:
    """Its connections end, the others' go on, and new ones go to those that are left."""
    with open_group(ns, ends) as group:
        listeners = group.create_server(("", 80), family=ends.family)
        serve(listeners, echo)
        socks = []
        for _ in range(32):
            sock = ns.socket(ends.family)
            sock.connect((ends.stack, 80))
            socks.append(sock)
        wait_for(lambda: sum(c.state == "ESTABLISHED" for c in group.connections()) == 32, "the connections", 10)
        kept = [c.peer[:2] for stack in group.stacks[1:] for c in stack.connections() if c.state == "ESTABLISHED"]
        group.stacks[0].close()
        assert 0 < len(kept) < 32
        for sock in socks:
            if sock.getsockname()[:2] in kept:
                sock.sendall(b"still there")
                assert sock.recv(100) == b"still there"
            else:
                with pytest.raises(ConnectionResetError):
                    assert sock.recv(1)
            sock.close()
        for _ in range(32):
            with ns.socket(ends.family) as client:
                client.connect((ends.stack, 80))
                client.sendall(b"new")
                assert client.recv(10) == b"new"
        assert " 0% packet loss" in ns.sh(f"ping -c 3 -i 0.01 -W 2 {ends.stack}"), "the next queue answers"
        assert group.create_connection(listener_of(ns, ends), 10).stack is not group.stacks[0]


def listener_of(ns: Namespace, ends: Ends) -> tuple[str, int]:
    _, port = start_server(ns, "echo", ends.kernel)
    return (ends.kernel, port)


def test_the_first_queue_alone_gets_everything(ns: Namespace, ends: Ends) -> None:
    """A link with several queues is an ordinary link, too."""
    with ns.entered():
        link = ustack.Tap("ust0", host_addresses=[ends.kernel_net], queues=QUEUES)
    with ustack.Stack() as stack:
        stack.attach(link, [ends.stack_net])
        listener = stack.create_server(("", 80), family=ends.family, backlog=64)
        listener.settimeout(10)
        for _ in range(32):
            with ns.socket(ends.family) as client:
                client.connect((ends.stack, 80))
                listener.accept()[0].close()


def test_accept(ns: Namespace, ends: Ends) -> None:
    with open_group(ns, ends) as group, group.create_server(("", 0), family=ends.family) as listeners:
        address = (ends.stack, listeners.getsockname()[1])
        listeners.setblocking(False)
        with pytest.raises(BlockingIOError):
            listeners.accept()
        listeners.settimeout(0.01)
        with pytest.raises(TimeoutError):
            listeners.accept()
        assert select.select([listeners], [], [], 0)[0] == []
        with ns.socket(ends.family) as client:
            client.connect(address)
            assert select.select([listeners], [], [], 10)[0] == [listeners]
            listeners.accept()[0].close()
        listeners.close()
        with pytest.raises(OSError):
            listeners.accept()
        assert listeners.fileno() == -1
        with ns.socket(ends.family) as client, pytest.raises(ConnectionRefusedError):
            client.connect(address)


def test_nothing_is_left(ns: Namespace, ends: Ends) -> None:
    before = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    for _ in range(5):
        open_group(ns, ends).close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() == threads
    assert "ust0" not in ns.sh("ip -o link")


# -- less is granted


def test_steering_refused(ns: Namespace, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """As without privilege where kernel.unprivileged_bpf_disabled is set: one queue, and the link says why."""

    def load(code: bytes) -> int:
        raise PermissionError(errno.EPERM, "bpf: Operation not permitted")

    monkeypatch.setattr(steer, "load", load)
    before = len(os.listdir("/proc/self/fd"))
    with ns.entered():
        link = ustack.Tap("ust0", host_addresses=[ends.kernel_net], queues=2)
    assert link.queues == (link,)
    assert link.refused == ("2 queues: bpf: Operation not permitted",)
    with ustack.StackGroup(link, [ends.stack_net]) as group:
        assert len(group.stacks) == 1
        serve(group.create_server(("", 80), family=ends.family), echo)
        with ns.socket(ends.family) as client:
            client.connect((ends.stack, 80))
            client.sendall(b"one")
            assert client.recv(10) == b"one"
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.ipv4("it is about the device")
def test_a_device_made_for_one(ns: Namespace) -> None:
    with ns.entered():
        ustack.Tap("per0", persistent=True).close()
        with ustack.Tap("per0", queues=2) as link:
            assert len(link.queues) == 1
            assert "2 queues" in link.refused[0]
        ns.sh("ip tuntap add dev mq0 mode tap multi_queue")
        with ustack.Tap("mq0", queues=2) as link:
            assert len(link.queues) == 2


@pytest.mark.ipv4("it is about the device")
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
