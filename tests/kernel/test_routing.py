"""The stack as a router between two kernels in namespaces of their own: TCP, ping, each hop seen, a smaller link.

RFC 1812, 1191.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

import ustack
from tap_harness import payload
from tap_harness.netns import Namespace
from tap_harness.tap import KernelTap

SIZE = 4_000_000


class Between:
    """left 10.1.0.2 – stack 10.1.0.1 and 10.2.0.1 – right 10.2.0.2."""

    def __init__(self, cleanup: contextlib.ExitStack, offload: tuple[bool, bool], mtu: int) -> None:
        self.left, self.right = (cleanup.enter_context(Namespace()) for _ in range(2))
        self.stack = cleanup.enter_context(ustack.Stack())
        for k, (ns, wanted, size) in enumerate(zip((self.left, self.right), offload, (1500, mtu), strict=True), 1):
            tap = KernelTap(ns, addresses=[f"10.{k}.0.2/24"], vnet_hdr=wanted, mtu=size)
            cleanup.enter_context(tap)
            ns.sh(f"ip route add default via 10.{k}.0.1")
            self.stack.attach(ustack.Tap(fd=tap.dup(), offload=wanted), addresses=[f"10.{k}.0.1/24"], mtu=size)
        self.stack.sysctl["net.ipv4.ip_forward"] = 1
        self.keep = cleanup.enter_context


@contextlib.contextmanager
def between(offload: tuple[bool, bool] = (False, False), mtu: int = 1500) -> Iterator[Between]:
    with contextlib.ExitStack() as cleanup:
        yield Between(cleanup, offload, mtu)


def transfer(pair: Between, seed: int) -> str:
    """Left sends SIZE bytes to right -> the address that right saw."""
    listener = pair.keep(pair.right.socket())
    listener.bind(("10.2.0.2", 0))
    listener.listen()
    listener.settimeout(20)
    data = b"".join(payload.blocks(seed, SIZE))
    got = bytearray()
    peers = []

    def receive() -> None:
        conn, (address, _) = listener.accept()
        peers.append(address)
        conn.settimeout(20)
        with conn:
            while part := conn.recv(1 << 18):
                got.extend(part)

    task = threading.Thread(target=receive, daemon=True)
    task.start()
    with pair.left.socket() as sock:
        sock.settimeout(20)
        sock.connect(("10.2.0.2", listener.getsockname()[1]))
        sock.sendall(data)
    task.join(30)
    assert bytes(got) == data
    return peers[0]


@pytest.mark.rfc("1812", "5.2 forwarding")
@pytest.mark.usefixtures("privileged")
@pytest.mark.parametrize("offload", [(False, False), (True, True), (True, False), (False, True)])
def test_tcp_through_the_stack(offload: tuple[bool, bool]) -> None:
    with between(offload) as pair:
        transfer(pair, 1)
        assert pair.stack.counters()["IpForwDatagrams"] > 0


@pytest.mark.rfc("1191", "4 routers")
@pytest.mark.usefixtures("privileged")
@pytest.mark.parametrize("offload", [(False, False), (True, True)])
def test_a_smaller_second_link(offload: tuple[bool, bool]) -> None:
    with between(offload, 1280) as pair:
        # What the far end says of its MSS must not be what makes it fit.
        pair.right.sh("ip route replace 10.1.0.0/24 via 10.2.0.1 advmss 1460")
        transfer(pair, 2)
        assert pair.stack.counters()["IcmpOutDestUnreachs"] >= 1
        assert "mtu 1280" in pair.left.sh("ip route get 10.2.0.2")


@pytest.mark.usefixtures("privileged")
def test_ping_and_each_hop() -> None:
    with between() as pair:
        assert " 0% packet loss" in pair.left.sh("ping -c 3 -i 0.2 -s 4000 10.2.0.2")
        shown = pair.left.run(["ping", "-c", "1", "-W", "5", "-t", "1", "10.2.0.2"]).stdout
        assert "From 10.1.0.1" in shown
        assert "Time to live exceeded" in shown
        nowhere = pair.left.run(["ping", "-c", "1", "-W", "5", "10.9.9.9"]).stdout
        assert "From 10.1.0.1" in nowhere
        assert "Destination Net Unreachable" in nowhere


@pytest.mark.usefixtures("privileged")
def test_datagrams_of_every_size() -> None:
    with between((True, True), 1280) as pair:
        there = pair.keep(pair.right.socket(kind=socket.SOCK_DGRAM))
        there.bind(("10.2.0.2", 0))
        there.settimeout(10)
        here = pair.keep(pair.left.socket(kind=socket.SOCK_DGRAM))
        here.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: routers may cut
        for size in (0, 1, 1252, 1253, 1472, 1473, 9000, 40000):
            data = b"".join(payload.blocks(size, size))
            here.sendto(data, there.getsockname())
            assert there.recv(1 << 16) == data


@pytest.mark.rfc("3022", "4 translation of TCP")
@pytest.mark.usefixtures("privileged")
@pytest.mark.parametrize("offload", [(False, False), (True, True), (True, False), (False, True)])
def test_through_the_translation_of_addresses(offload: tuple[bool, bool]) -> None:
    """Right has no route to left, and needs none: superframes, sums left to the device, echoes, traceroute's errors."""
    with between(offload) as pair:
        pair.right.sh("ip route del default")
        pair.stack.nat.masquerade(pair.stack.interfaces()[-1].name)
        assert transfer(pair, 2) == "10.2.0.1"
        assert pair.left.run(["ping", "-c", "2", "-i", "0.2", "-W", "2", "10.2.0.2"]).returncode == 0
        with pair.left.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(5)
            sock.connect(("10.2.0.2", 9))
            sock.send(b"nobody there")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(10)
        assert {flow.outer[0] for flow in pair.stack.nat.flows()} == {"10.2.0.1"}
