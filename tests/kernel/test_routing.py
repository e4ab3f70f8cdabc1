"""The stack as a router between two kernels in namespaces of their own, over IPv4 and IPv6: TCP, ping, traceroute, a
smaller link, rules.

RFC 1812, 8200, 1191, 8201, 3022.
"""

from __future__ import annotations

import contextlib
import re
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
    """left, host 2 of network 1 – stack, host 1 of networks 1 and 2 – right, host 2 of network 2."""

    def __init__(self, cleanup: contextlib.ExitStack, offload: tuple[bool, bool], mtu: int, six: bool) -> None:
        self.six, length = six, 64 if six else 24
        self.ip = "ip -6" if six else "ip"
        self.family = socket.AF_INET6 if six else socket.AF_INET
        self.left, self.right = (cleanup.enter_context(Namespace()) for _ in range(2))
        self.stack = cleanup.enter_context(ustack.Stack())
        self.names = []
        for k, (ns, wanted, size) in enumerate(zip((self.left, self.right), offload, (1500, mtu), strict=True), 1):
            address = f"{self.at(k, 2)}/{length}" + " nodad" * six
            tap = KernelTap(ns, addresses=[address], vnet_hdr=wanted, mtu=size, ipv6=six)
            cleanup.enter_context(tap)
            ns.sh(f"{self.ip} route add default via {self.at(k, 1)}")
            link = ustack.Tap(fd=tap.dup(), offload=wanted)
            self.names.append(self.stack.attach(link, addresses=[f"{self.at(k, 1)}/{length}"], mtu=size))
        self.stack.sysctl["net.ipv4.ip_forward"] = self.stack.sysctl["net.ipv6.conf.all.forwarding"] = 1
        self.keep = cleanup.enter_context

    def at(self, network: int, host: int) -> str:
        return f"fd0{network}::{host}" if self.six else f"10.{network}.0.{host}"

    def counted(self, four: str, six: str) -> int:
        return self.stack.counters()[six if self.six else four]


@contextlib.contextmanager
def between(offload: tuple[bool, bool] = (False, False), mtu: int = 1500, six: bool = False) -> Iterator[Between]:
    with contextlib.ExitStack() as cleanup:
        yield Between(cleanup, offload, mtu, six)


def transfer(pair: Between, seed: int) -> str:
    """Left sends SIZE bytes to right -> the address that right saw."""
    far = pair.at(2, 2)
    listener = pair.keep(pair.right.socket(pair.family))
    listener.bind((far, 0))
    listener.listen()
    listener.settimeout(20)
    data = b"".join(payload.blocks(seed, SIZE))
    got = bytearray()
    peers = []

    def receive() -> None:
        conn, (address, *_) = listener.accept()
        peers.append(address)
        conn.settimeout(20)
        with conn:
            while part := conn.recv(1 << 18):
                got.extend(part)

    task = threading.Thread(target=receive, daemon=True)
    task.start()
    with pair.left.socket(pair.family) as sock:
        sock.settimeout(20)
        sock.connect((far, listener.getsockname()[1]))
        sock.sendall(data)
    task.join(30)
    assert bytes(got) == data
    return peers[0]


@pytest.mark.rfc("1812", "5.2 forwarding")
@pytest.mark.rfc("8200", "3 routers forward")
@pytest.mark.usefixtures("privileged")
@pytest.mark.parametrize("offload", [(False, False), (True, True), (True, False), (False, True)])
def test_tcp_through_the_stack(offload: tuple[bool, bool], six: bool) -> None:
    with between(offload, six=six) as pair:
        transfer(pair, 1)
        assert pair.counted("IpForwDatagrams", "Ip6OutForwDatagrams") > 0


@pytest.mark.rfc("1191", "4 routers")
@pytest.mark.rfc("8201", "4 packet too big")
@pytest.mark.usefixtures("privileged")
@pytest.mark.parametrize("offload", [(False, False), (True, True)])
def test_a_smaller_second_link(offload: tuple[bool, bool], six: bool) -> None:
    with between(offload, 1280, six) as pair:
        # What the far end says of its MSS must not be what makes it fit.
        network = "fd01::/64" if six else "10.1.0.0/24"
        pair.right.sh(f"{pair.ip} route replace {network} via {pair.at(2, 1)} advmss 1440")
        transfer(pair, 2)
        assert pair.counted("IcmpOutDestUnreachs", "Icmp6OutPktTooBigs") >= 1
        assert "mtu 1280" in pair.left.sh(f"{pair.ip} route get {pair.at(2, 2)}")


@pytest.mark.usefixtures("privileged")
def test_ping_and_each_hop(six: bool) -> None:
    with between(six=six) as pair:
        far, near = pair.at(2, 2), pair.at(1, 1)
        assert " 0% packet loss" in pair.left.sh(f"ping -c 3 -i 0.2 -s 4000 {far}")
        shown = pair.left.run(["ping", "-c", "1", "-W", "5", "-t", "1", far]).stdout
        assert f"From {near}" in shown
        assert ("Hop limit" if six else "Time to live exceeded") in shown
        nowhere = pair.left.run(["ping", "-c", "1", "-W", "5", pair.at(9, 9)]).stdout
        assert f"From {near}" in nowhere
        assert ("No route" if six else "Destination Net Unreachable") in nowhere


@pytest.mark.usefixtures("privileged")
@pytest.mark.parametrize("probes", ["-I", "-U", "-T"], ids=["icmp", "udp", "tcp"])
def test_traceroute(probes: str, six: bool) -> None:
    """Debian's: each hop by the right address, without a mark of an unexpected error (!N, !H, !X, ...) behind it."""
    with between(six=six) as pair:
        far = pair.at(2, 2)
        arguments = ["-n", "-q", "1", "-w", "5", "-m", "4", probes, *(["-p", "9"] if probes != "-I" else []), far]
        shown = pair.left.run(["traceroute", "-6" if six else "-4", *arguments]).stdout.splitlines()
        hops = [re.fullmatch(r" *(\d+)  (\S+)  [\d.]+ ms", line) for line in shown[1:]]
        assert [one.groups() if one else line for one, line in zip(hops, shown[1:], strict=True)] == [
            ("1", pair.at(1, 1)), ("2", far),
        ]  # fmt: skip


@pytest.mark.usefixtures("privileged")
def test_traceroute_finds_the_smaller_link(six: bool) -> None:
    with between(mtu=1280, six=six) as pair:
        command = ["traceroute", "-6" if six else "-4", "-n", "-q", "1", "-w", "5", "-m", "4", "--mtu", pair.at(2, 2)]
        shown = pair.left.run(command).stdout
        assert re.search(rf"^ 1  {pair.at(1, 1)}  .*F=1500", shown, re.MULTILINE)
        assert re.search(rf"^ 2  .*F=1280.*{pair.at(2, 2)}|^ 2  {pair.at(2, 2)} .*F=1280", shown, re.MULTILINE)


@pytest.mark.usefixtures("privileged")
def test_rules_between_kernels(six: bool) -> None:
    """What comes from one address of the left is led to another next hop than what comes from the other."""
    with between(six=six) as pair:
        service, other, length = pair.at(7, 1), pair.at(1, 9), 128 if six else 32
        pair.right.sh(f"ip address add {service}/{length} dev lo")
        pair.left.sh(f"ip address add {other}/{length} dev ust0" + " nodad" * six)
        pair.stack.add_route(f"{service}/{length}", pair.at(2, 2), table=100)
        pair.stack.add_rule(f"{other}/{length}", table=100)
        asked = pair.left.run(["ping", "-c", "1", "-W", "5", "-I", other, service])
        assert asked.returncode == 0, asked.stdout
        nowhere = pair.left.run(["ping", "-c", "1", "-W", "5", "-I", pair.at(1, 2), service])
        assert f"From {pair.at(1, 1)}" in nowhere.stdout
        assert nowhere.returncode == 1


@pytest.mark.usefixtures("privileged")
def test_datagrams_of_every_size(six: bool) -> None:
    with between((True, True), 1280, six) as pair:
        there = pair.keep(pair.right.socket(pair.family, socket.SOCK_DGRAM))
        there.bind((pair.at(2, 2), 0))
        there.settimeout(10)
        here = pair.keep(pair.left.socket(pair.family, socket.SOCK_DGRAM))
        if six:  # routers do not cut, so this host has to know: one that is too long teaches it
            pair.left.run(["ping", "-c", "1", "-W", "1", "-s", "1400", pair.at(2, 2)])
        else:
            here.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: routers may cut
        for size in (0, 1, 1252, 1253, 1472, 1473, 9000, 40000):
            data = b"".join(payload.blocks(size, size))
            here.sendto(data, there.getsockname())
            assert there.recv(1 << 16) == data


@pytest.mark.usefixtures("privileged")
@pytest.mark.parametrize("offload", [True, False], ids=["whole", "cut"])
def test_superframes_of_datagrams(offload: bool, six: bool) -> None:
    """A kernel's UDP_SEGMENT comes whole where the TAP has USO; the next takes it so, or gets it in pieces."""
    with between((True, offload), six=six) as pair:
        there = pair.keep(pair.right.socket(pair.family, socket.SOCK_DGRAM))
        there.bind((pair.at(2, 2), 0))
        there.settimeout(10)
        here = pair.keep(pair.left.socket(pair.family, socket.SOCK_DGRAM))
        here.connect(there.getsockname())
        here.send(b"first")  # what waits for a neighbour may be overtaken
        assert there.recv(100) == b"first"
        here.setsockopt(socket.IPPROTO_UDP, 103, 1200)
        for size in (3 * 1200, 3 * 1200 + 7, 40 * 1200 + 1):
            data = b"".join(payload.blocks(size, size))
            assert here.send(data) == size
            got = [there.recv(1 << 16) for _ in range(0, size, 1200)]
            assert [len(one) for one in got[:-1]] == [1200] * (len(got) - 1)
            assert b"".join(got) == data
        assert pair.stack.counters().get("DropForwardTooBig", 0) == 0
        assert pair.counted("IpForwDatagrams", "Ip6OutForwDatagrams") <= 8, "they came whole"


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
        shown = pair.left.run(["traceroute", "-n", "-q", "1", "-w", "5", "-m", "4", "10.2.0.2"]).stdout
        assert re.findall(r"^ *\d+  (\S+)", shown, re.MULTILINE) == ["10.1.0.1", "10.2.0.2"]
        assert {flow.outer[0] for flow in pair.stack.nat.flows()} == {"10.2.0.1"}
