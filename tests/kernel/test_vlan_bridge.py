"""VLANs and bridges beside the kernel's own: TCP, UDP and ping through `type vlan` devices, two kernels on one bridge.

IEEE 802.1Q, 802.1D.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import ustack
from tap_harness import payload, vlan
from tap_harness.netns import Namespace
from tap_harness.tap import KernelTap

SIZE = 1_500_000
UDP_SEGMENT = 103

pytestmark = pytest.mark.usefixtures("privileged")


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def transfer(make_client: Any, listener: Any, address: str, seed: int) -> None:
    """The client sends SIZE bytes to the listener, and gets as many others back."""
    there, back = (b"".join(payload.blocks(seed + k, SIZE)) for k in range(2))
    listener.settimeout(20)
    got: list[bytes] = []

    def drain(sock: Any) -> bytes:
        whole = bytearray()
        while part := sock.recv(1 << 18):
            whole += part
        return bytes(whole)

    def serve() -> None:
        conn, _ = listener.accept()
        conn.settimeout(20)
        with conn:
            got.append(drain(conn))
            conn.sendall(back)

    task = threading.Thread(target=serve, daemon=True)
    task.start()
    with make_client() as sock:
        sock.settimeout(20)
        sock.connect((address, listener.getsockname()[1]))
        sock.sendall(there)
        sock.shutdown(socket.SHUT_WR)
        assert drain(sock) == back
    task.join(30)
    assert got == [there]


def in_vlan(cleanup: contextlib.ExitStack, ns: Namespace, number: int, *addresses: str) -> str:
    """The kernel's device in a VLAN of ust0, with these addresses."""
    device, kept = vlan.tag(ns, "ust0", number)
    for fd in kept:
        cleanup.callback(os.close, fd)
    for address in addresses:
        ns.sh(f"ip addr add {address} dev {device}{' nodad' if ':' in address else ''}")
    return device


class Tagged:
    """A stack and a kernel with VLAN 5 over one TAP: 10.5.0.2 and 10.5.0.1, and the same with fd05::."""

    def __init__(self, cleanup: contextlib.ExitStack, offload: bool, mtu: int = 1500) -> None:
        self.ns = cleanup.enter_context(Namespace())
        tap = cleanup.enter_context(KernelTap(self.ns, vnet_hdr=offload, mtu=mtu, ipv6=True))
        in_vlan(cleanup, self.ns, 5, "10.5.0.1/24", "fd05::1/64")
        self.stack = cleanup.enter_context(ustack.Stack())
        self.link = ustack.Tap(fd=tap.dup(), offload=offload)
        below = self.stack.attach(self.link, mtu=mtu)
        self.name = self.stack.add_vlan(below, 5, addresses=["10.5.0.2/24", "fd05::2/64"])
        self.keep = cleanup.enter_context

    def counts(self) -> Any:
        return {one.name: one for one in self.stack.interfaces()}[self.name]


@contextlib.contextmanager
def tagged(offload: bool = False, mtu: int = 1500) -> Iterator[Tagged]:
    with contextlib.ExitStack() as cleanup:
        yield Tagged(cleanup, offload, mtu)


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("net", ["10.5.0.", "fd05::"])
def test_bulk_over_a_kernel_vlan(offload: bool, net: str) -> None:
    """An MTU of 1500 in the VLAN. With offloads what is handed over has the tag, and its offsets, in it."""
    with tagged(offload) as pair:
        family, kernel, stack = family_of(net), f"{net}1", f"{net}2"
        listener = pair.keep(pair.ns.socket(family))
        listener.bind((kernel, 0))
        listener.listen()
        transfer(lambda: pair.stack.socket(family), listener, kernel, 1)
        before = pair.counts()
        transfer(lambda: pair.ns.socket(family), pair.stack.create_server((stack, 0), family=family), stack, 3)
        after = pair.counts()
        assert after.mtu == 1500
        if offload:
            assert {"csum", "tso4", "tso6"} <= set(pair.link.offloads)
            assert after.rx_packets - before.rx_packets < SIZE / 1448 / 2  # superframes came
            assert after.tx_packets - before.tx_packets < SIZE / 1448 / 2
        counters = pair.stack.counters()
        assert counters["TcpInCsumErrors"] == counters["DropVlanMalformed"] == 0
        said = pair.ns.sh("nstat -asz TcpInCsumErrors TcpInErrs")
        assert [int(line.split()[1]) for line in said.splitlines()[1:]] == [0, 0]


@pytest.mark.parametrize("offload", [False, True])
def test_ping_and_datagrams_over_a_kernel_vlan(offload: bool) -> None:
    with tagged(offload) as pair:
        for target in ("10.5.0.2", "fd05::2"):
            assert " 0% packet loss" in pair.ns.sh(f"ping -c 1 -s 4000 {target}")
        for net in ("10.5.0.", "fd05::"):
            family = family_of(net)
            there = pair.keep(pair.ns.socket(family, socket.SOCK_DGRAM))
            with pair.stack.socket(family, socket.SOCK_DGRAM) as here:
                here.settimeout(10)
                there.bind((f"{net}1", 0))
                here.bind((f"{net}2", 0))
                for size in (0, 1, 1452, 1453, 1472, 1473, 9000, 40000):
                    data = b"".join(payload.blocks(size, size))
                    here.sendto(data, there.getsockname()[:2])
                    assert there.recv(1 << 16) == data
                    there.sendto(data, here.getsockname()[:2])
                    assert here.recv(1 << 16) == data


class Bridged:
    """left 10.6.0.2 – port, stack 10.6.0.1, port – right 10.6.0.3; and the same with fd06::."""

    def __init__(self, cleanup: contextlib.ExitStack, offload: tuple[bool, bool], mtus: tuple[int, int]) -> None:
        self.sides = [cleanup.enter_context(Namespace()) for _ in range(2)]
        self.stack = cleanup.enter_context(ustack.Stack())
        names = []
        for k, (ns, wanted, mtu) in enumerate(zip(self.sides, offload, mtus, strict=True), 2):
            tap = KernelTap(ns, addresses=[f"10.6.0.{k}/24"], vnet_hdr=wanted, mtu=mtu, ipv6=True)
            cleanup.enter_context(tap)
            ns.sh(f"ip addr add fd06::{k}/64 dev ust0 nodad")
            names.append(self.stack.attach(ustack.Tap(fd=tap.dup(), offload=wanted), name=f"port{k}", mtu=mtu))
        self.stack.add_bridge("br0", names, addresses=["10.6.0.1/24", "fd06::1/64"])
        self.keep = cleanup.enter_context
        self.cleanup = cleanup


@contextlib.contextmanager
def bridged(offload: tuple[bool, bool] = (False, False), mtus: tuple[int, int] = (1500, 1500)) -> Iterator[Bridged]:
    with contextlib.ExitStack() as cleanup:
        yield Bridged(cleanup, offload, mtus)


@pytest.mark.parametrize("offload", [(False, False), (True, True), (True, False), (False, True)])
def test_two_kernels_on_a_bridge(offload: tuple[bool, bool]) -> None:
    """Superframes go through whole where both devices take them, else they are cut; sums left undone are finished."""
    with bridged(offload) as pair:
        left, right = pair.sides
        for net in ("10.6.0.", "fd06::"):
            listener = pair.keep(right.socket(family_of(net)))
            listener.bind((f"{net}3", 0))
            listener.listen()
            transfer(lambda net=net: left.socket(family_of(net)), listener, f"{net}3", 5)
            for ns, targets in ((left, "13"), (right, "12")):
                for last in targets:
                    assert " 0% packet loss" in ns.sh(f"ping -c 1 -s 3000 {net}{last}")
        assert "10.6.0.3 lladdr" in left.sh("ip neigh show dev ust0 10.6.0.3").replace("dev ust0 ", "")
        counters = pair.stack.counters()
        assert counters["BridgeForwarded"] > 100
        assert counters["BridgeFlooded"] < 60
        assert counters["IpForwDatagrams"] == counters["DropTxTooBig"] == 0
        for ns in pair.sides:
            said = ns.sh("nstat -asz TcpInCsumErrors TcpInErrs UdpInCsumErrors Udp6InCsumErrors")
            assert {int(line.split()[1]) for line in said.splitlines()[1:]} == {0}
        at = {one.mac: one.interface for one in pair.stack.stations("br0")}
        for k, ns in enumerate(pair.sides, 2):
            words = ns.sh("ip -o link show dev ust0").split()
            assert at[words[words.index("link/ether") + 1]] == f"port{k}"


@pytest.mark.parametrize("offload", [(True, True), (True, False), (False, False)])
def test_the_stack_is_on_the_bridge(offload: tuple[bool, bool]) -> None:
    with bridged(offload) as pair:
        for k, ns in enumerate(pair.sides, 2):
            server = pair.stack.create_server(("10.6.0.1", 0))
            transfer(ns.socket, server, "10.6.0.1", 7)
            server.close()
            listener = pair.keep(ns.socket(socket.AF_INET6))
            listener.bind((f"fd06::{k}", 0))
            listener.listen()
            transfer(lambda: pair.stack.socket(socket.AF_INET6), listener, f"fd06::{k}", 9)


@pytest.mark.parametrize("offload", [(False, False), (True, True), (True, False)])
def test_datagrams_over_a_bridge(offload: tuple[bool, bool]) -> None:
    """Of each size; and in one superframe, which is cut by us: no kernel takes one from us."""
    with bridged(offload) as pair:
        left, right = pair.sides
        for net in ("10.6.0.", "fd06::"):
            there, here = (pair.keep(ns.socket(family_of(net), socket.SOCK_DGRAM)) for ns in (right, left))
            there.bind((f"{net}3", 0))
            for size in (0, 1, 1452, 1472, 1473, 9000, 40000):
                data = b"".join(payload.blocks(size, size))
                here.sendto(data, there.getsockname()[:2])
                assert there.recv(1 << 16) == data
            here.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
            data = b"".join(payload.blocks(12, 25_500))
            here.sendto(data, there.getsockname()[:2])
            got = [there.recv(1 << 16) for _ in range(26)]
            assert ([len(part) for part in got], b"".join(got)) == ([1000] * 25 + [500], data)


def test_a_port_with_a_smaller_mtu() -> None:
    """A bridge tells nobody; what is too long is dropped and counted, and TCP's own MSS keeps to the smaller one."""
    with bridged((True, True), (1500, 1280)) as pair:
        left, right = pair.sides
        listener = pair.keep(right.socket())
        listener.bind(("10.6.0.3", 0))
        listener.listen()
        transfer(left.socket, listener, "10.6.0.3", 11)
        assert pair.stack.counters()["DropTxTooBig"] == 0
        assert left.run(["ping", "-c", "1", "-W", "1", "-M", "do", "-s", "1300", "10.6.0.3"]).returncode != 0
        assert pair.stack.counters()["DropTxTooBig"] == 1


def test_vlans_through_a_bridge() -> None:
    """Frames with a tag, superframes among them, go through; also from a device that can to one that cannot."""
    with bridged((True, False)) as pair:
        for k, ns in enumerate(pair.sides, 2):
            in_vlan(pair.cleanup, ns, 9, f"10.69.0.{k}/24")
        pair.stack.add_vlan("br0", 9, addresses=["10.69.0.1/24"])
        left, right = pair.sides
        listener = pair.keep(right.socket())
        listener.bind(("10.69.0.3", 0))
        listener.listen()
        transfer(left.socket, listener, "10.69.0.3", 13)
        for ns in pair.sides:
            server = pair.stack.create_server(("10.69.0.1", 0))
            transfer(ns.socket, server, "10.69.0.1", 15)
            server.close()
