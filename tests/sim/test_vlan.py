"""VLAN interfaces (IEEE 802.1Q): tags in and out, several on one link, what they have of their own. In virtual time."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

import ustack
from ustack import sim

HOST_MAC = "02:00:00:00:00:77"
GROUP_MAC = "ff:ff:ff:ff:ff:ff"


class Trunk:
    """Two stacks and a wire of which every frame is written down."""

    def __init__(self, **wire: Any) -> None:
        self.net = sim.Network(seed=5)
        self.left, self.right = self.net.stack("left"), self.net.stack("right")
        self.wire = self.net.wire(self.left, self.right, delay=0.001, **wire)
        self.below = [stack.interfaces()[-1].name for stack in (self.left, self.right)]
        self.frames: list[Ether] = []
        self.wire.filter = self._look

    def _look(self, frame: bytes, number: int) -> bytes:
        self.frames.append(Ether(frame))
        return frame

    def vlan(self, number: int, **settings: Any) -> tuple[str, str]:
        """VLAN `number` on both sides, 10.0.N.1 and 10.0.N.2 -> the names."""
        first, second = (
            stack.add_vlan(below, number, addresses=[f"10.0.{number}.{k}/24", f"fd00:{number}::{k}/64"], **settings)
            for k, (stack, below) in enumerate(zip((self.left, self.right), self.below, strict=True), 1)
        )
        return first, second


@pytest.fixture
def trunk() -> Iterator[Trunk]:
    made = Trunk()
    yield made
    made.net.close()


def udp(stack: ustack.Stack, address: str, port: int = 0) -> Any:
    sock = stack.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.bind((address, port))
    return sock


@pytest.mark.parametrize("family", ["10.0.5.{}", "fd00:5::{}"])
def test_bulk_both_ways(trunk: Trunk, family: str) -> None:
    trunk.vlan(5, priority=3)
    data = bytes(range(256)) * 2000
    near, far = family.format(1), family.format(2)
    listener = trunk.right.create_server((far, 80), family=socket.AF_INET6 if ":" in far else socket.AF_INET)

    def echo() -> None:
        conn, peer = listener.accept()
        assert peer[0] == near
        while part := conn.recv(65536):
            conn.sendall(part)
        conn.close()

    task = trunk.net.spawn(echo)
    got = bytearray()
    with trunk.left.create_connection((far, 80), timeout=60) as client:
        sender = trunk.net.spawn(lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
        while part := client.recv(65536):
            got += part
        sender.result()
    task.result()
    assert bytes(got) == data
    carried = [frame for frame in trunk.frames if Dot1Q in frame]
    assert len(carried) == len([frame for frame in trunk.frames if frame.type not in (0x88CC,)])
    assert {(frame[Dot1Q].vlan, frame[Dot1Q].prio) for frame in carried} == {(5, 3)}
    assert max(len(frame) for frame in trunk.frames) == 1518  # an MTU of 1500 in the VLAN, as on the link


def test_each_has_its_own(trunk: Trunk) -> None:
    """Addresses, routes, neighbours, counters; the MAC address is the link's, and frames of others are not heard."""
    five, _ = trunk.vlan(5)
    six, _ = trunk.vlan(6, mtu=1280)
    trunk.net.run(duration=10)  # duplicate addresses were asked for
    names = {one.name: one for one in trunk.left.interfaces()}
    parent = names[trunk.below[0]]
    assert (names[five].parent, names[five].vlan, names[five].mac) == (parent.name, 5, parent.mac)
    assert (names[five].mtu, names[six].mtu) == (1500, 1280)
    with udp(trunk.right, "10.0.5.2", 7) as there, udp(trunk.left, "10.0.5.1") as here:
        here.sendto(b"x" * 1400, ("10.0.5.2", 7))
        assert there.recv(2000) == b"x" * 1400
    with udp(trunk.right, "10.0.6.2", 7) as there, udp(trunk.left, "10.0.6.1") as here:
        here.sendto(b"x" * 1400, ("10.0.6.2", 7))
        assert there.recv(2000) == b"x" * 1400
    assert {(n.address, n.interface) for n in trunk.left.neighbors() if "." in n.address} == {
        ("10.0.5.2", five), ("10.0.6.2", six),
    }  # fmt: skip
    after = {one.name: one for one in trunk.left.interfaces()}
    assert after[five].tx_packets - names[five].tx_packets == 2  # ARP, the datagram
    assert after[six].tx_packets - names[six].tx_packets == 3  # ... in two fragments
    both = sum(after[name].tx_bytes + 4 * after[name].tx_packets for name in (five, six))
    assert after[parent.name].tx_bytes == both
    assert max(len(f) for f in trunk.frames if f[Dot1Q].vlan == 6) <= 1298


def test_groups_are_joined_in_the_vlan(trunk: Trunk) -> None:
    """The link below hears a group's frames though only the VLAN has joined it."""
    trunk.vlan(5)
    trunk.vlan(6)
    with udp(trunk.right, "", 7) as there, udp(trunk.left, "10.0.5.1") as here:
        there.setsockopt(
            socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.1.2.3") + socket.inet_aton("10.0.5.2")
        )
        here.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.0.5.1"))
        here.sendto(b"to all", ("239.1.2.3", 7))
        assert there.recv(100) == b"to all"
        with udp(trunk.left, "10.0.6.1") as other:
            other.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.0.6.1"))
            other.sendto(b"elsewhere", ("239.1.2.3", 7))
            there.settimeout(1)
            with pytest.raises(TimeoutError):
                there.recv(100)


@pytest.fixture
def raw() -> Iterator[tuple[sim.Network, ustack.Stack, Any, str]]:
    """A stack with 10.9.0.2 on a link and 10.5.0.2 in its VLAN 5; the other end of the wire is the test's."""
    with sim.Network(seed=6) as net:
        stack = net.stack("host")
        wire = net.wire(None, stack, addresses=(None, "10.9.0.2/24"))
        name = stack.interfaces()[-1].name
        stack.add_vlan(name, 5, addresses=["10.5.0.2/24", "fd05::2/64"])
        stack.add_neighbor(name, "10.9.0.1", HOST_MAC)
        stack.add_neighbor(f"{name}.5", "10.5.0.1", HOST_MAC)
        net.run(duration=5)
        while wire.a.pending:
            wire.a.recv(0)
        yield net, stack, wire.a, stack.interfaces()[-1].mac or ""


def answers(raw: Any, frame: Any) -> list[Ether]:
    net, _, end, _ = raw
    end.send(bytes(frame))
    net.run(duration=0.5)
    found = []
    while end.pending:
        found.append(Ether(end.recv(0)))
    return found


def test_what_is_answered_where(raw: Any) -> None:
    mac = raw[3]
    ping = IP(src="10.9.0.1", dst="10.9.0.2") / ICMP() / Raw(b"12345678")
    ping5 = IP(src="10.5.0.1", dst="10.5.0.2") / ICMP() / Raw(b"12345678")
    head = Ether(src=HOST_MAC, dst=mac)
    (plain,) = answers(raw, head / ping)
    assert Dot1Q not in plain
    # A priority tag names no VLAN (802.1Q): the frame is the link's own.
    (plain,) = answers(raw, head / Dot1Q(vlan=0, prio=5) / ping)
    assert Dot1Q not in plain
    assert plain[IP].dst == "10.9.0.1"
    (tagged,) = answers(raw, head / Dot1Q(vlan=5, prio=7, dei=1) / ping5)
    assert (tagged[Dot1Q].vlan, tagged[Dot1Q].prio, tagged[IP].dst) == (5, 0, "10.5.0.1")
    who = ARP(op=1, hwsrc=HOST_MAC, psrc="10.5.0.1", pdst="10.5.0.2")
    (reply,) = answers(raw, Ether(src=HOST_MAC, dst=GROUP_MAC) / Dot1Q(vlan=5) / who)
    assert (reply[Dot1Q].vlan, reply[ARP].op, reply[ARP].hwsrc) == (5, 2, mac)
    # ... but not outside of the VLAN.
    assert answers(raw, Ether(src=HOST_MAC, dst=GROUP_MAC) / who) == []


def test_what_is_dropped(raw: Any) -> None:
    _, stack, _, mac = raw
    ping = IP(src="10.5.0.1", dst="10.5.0.2") / ICMP()
    head = Ether(src=HOST_MAC, dst=mac)
    odd = {
        "DropVlanUnknown": [head / Dot1Q(vlan=6) / ping, head / Dot1Q(vlan=4095) / ping],
        "DropVlanMalformed": [
            head / Dot1Q(vlan=0) / Dot1Q(vlan=5) / ping,
            head / Dot1Q(vlan=0) / Dot1Q(vlan=0) / ping,
            bytes(Ether(src=HOST_MAC, dst=mac, type=0x8100)),
            bytes(Ether(src=HOST_MAC, dst=mac, type=0x8100)) + b"\0\5\x08",
        ],
        "DropEthNotOurs": [
            Ether(src=HOST_MAC, dst="02:00:00:00:00:99") / Dot1Q(vlan=5) / ping,
            Ether(src=HOST_MAC, dst="02:00:00:00:00:99") / Dot1Q(vlan=6) / ping,
        ],
        "DropEthSource": [Ether(src="03:00:00:00:00:01", dst=mac) / Dot1Q(vlan=5) / ping],
        "DropEthType": [head / Dot1Q(vlan=5, type=0x88B5) / Raw(b"own"), Ether(src=HOST_MAC, dst=mac, type=0x88A8)],
        "DropIpTruncated": [head / Dot1Q(vlan=5, type=0x0800), head / Dot1Q(vlan=0, type=0x0800)],
    }
    for reason, frames in odd.items():
        for frame in frames:
            before = stack.counters()
            assert answers(raw, frame) == [], reason
            after = stack.counters()
            grown = {name: after[name] - before[name] for name in after if name.startswith("Drop")}
            assert {name: n for name, n in grown.items() if n} == {reason: 1}, bytes(frame).hex()


def test_a_tag_in_a_tag_is_looked_at_once(raw: Any) -> None:
    """A frame of nothing but tags does not take the stack down the whole way."""
    frame = Ether(src=HOST_MAC, dst=raw[3]) / Raw(b"\x81\x00\x00\x00" * 300)
    frame.type = 0x8100
    assert answers(raw, frame) == []
    assert raw[1].counters()["DropVlanMalformed"] == 0  # the first tag is 0x8100's: id 0x100, which is no VLAN
    assert raw[1].counters()["DropVlanUnknown"] == 1
    frame = Ether(src=HOST_MAC, dst=raw[3], type=0x8100) / Raw(b"\x00\x00\x81\x00" * 300)
    assert answers(raw, frame) == []
    assert raw[1].counters()["DropVlanMalformed"] == 1


def test_packet_sockets_see_both(raw: Any) -> None:
    """As Linux: the frame with its tag below, and without it on the VLAN."""
    net, stack, _, mac = raw
    below, above = (one.name for one in stack.interfaces()[1:3])
    with stack.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as sock:
        sock.setblocking(False)
        ping = IP(src="10.5.0.1", dst="10.5.0.2") / ICMP()
        (reply,) = answers(raw, Ether(src=HOST_MAC, dst=mac) / Dot1Q(vlan=5) / ping)
        seen = [sock.recvfrom(2000) for _ in range(4)]
        assert [(address[0], address[2]) for _, address in seen] == [(below, 0), (above, 0), (above, 4), (below, 4)]
        assert [Dot1Q in Ether(data) for data, _ in seen] == [True, False, False, True]
        assert seen[3][0] == bytes(reply)
        sock.bind((above, 3))
        own = bytes(Ether(src=mac, dst=HOST_MAC, type=0x88B5) / Raw(b"own"))
        sock.send(own)
        net.run(duration=0.1)


def test_it_goes_with_its_link(trunk: Trunk) -> None:
    trunk.vlan(5)
    trunk.vlan(6)
    trunk.left.remove_interface(f"{trunk.below[0]}.6")
    assert [one.name for one in trunk.left.interfaces()][2:] == [f"{trunk.below[0]}.5"]
    trunk.left.add_vlan(trunk.below[0], 6)
    trunk.left.detach(trunk.wire.a)
    assert [one.name for one in trunk.left.interfaces()] == ["lo"]
    assert all(route.interface == "lo" for route in trunk.left.routes())


def test_what_cannot_be(trunk: Trunk) -> None:
    name, stack = trunk.below[0], trunk.left
    stack.add_vlan(name, 5, addresses=["10.0.5.1/24"])

    def refused(*arguments: Any, **options: Any) -> str:
        with pytest.raises(OSError) as caught:
            stack.add_vlan(*arguments, **options)
        return errno.errorcode[caught.value.errno or 0]

    assert refused(name, 5) == refused(name, 5, name="other") == refused(name, 6, name="lo") == "EEXIST"
    assert refused("nothing", 5) == "ENODEV"
    assert refused("lo", 5) == refused(f"{name}.5", 6) == "EINVAL"
    for number, options in ((0, {}), (4095, {}), (7, {"priority": 8}), (7, {"mtu": 1501}), (7, {"addresses": "x"})):
        with pytest.raises(ValueError, match=r"."):
            stack.add_vlan(name, number, **options)
    with pytest.raises(OSError, match="Invalid"):
        stack.remove_interface(name)
    assert len(stack.interfaces()) == 3  # nothing half-made is left
    for number in range(100, 113):
        stack.add_vlan(name, number)
    assert refused(name, 113) == "ENFILE"


def test_routing_between_vlans() -> None:
    """A router on a stick: one link, two VLANs."""
    with sim.Network(seed=8) as net:
        router, switch, hosts = net.stack("router"), net.stack("switch"), [net.stack("a"), net.stack("b")]
        trunk = net.wire(router, switch)
        del trunk
        stick, port = router.interfaces()[-1].name, switch.interfaces()[-1].name
        for k, host in enumerate(hosts, 5):
            net.wire(host, switch, addresses=(f"10.0.{k}.2/24", None), delay=0.001)
            host.add_route("default", f"10.0.{k}.1")
            access = switch.interfaces()[-1].name
            switch.add_bridge(f"br{k}", [access, switch.add_vlan(port, k)])
            router.add_vlan(stick, k, addresses=[f"10.0.{k}.1/24"])
        router.sysctl["net.ipv4.ip_forward"] = 1
        server = hosts[1].create_server(("10.0.6.2", 80))
        with hosts[0].create_connection(("10.0.6.2", 80), timeout=10) as client:
            conn, peer = server.accept()
            assert peer[0] == "10.0.5.2"
            conn.sendall(b"hello" * 10000)
            conn.close()
            got = bytearray()
            while part := client.recv(65536):
                got += part
            assert got == b"hello" * 10000
        with hosts[0].socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(5)
            sock.connect(("10.0.6.2", 9))
            sock.send(b"nobody there")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(10)


def test_ipv6_is_answered_too(raw: Any) -> None:
    echo = IPv6(src="fd05::1", dst="fd05::2") / ICMPv6EchoRequest(data=b"x" * 20)
    raw[1].add_neighbor(f"{raw[1].interfaces()[1].name}.5", "fd05::1", HOST_MAC)
    (reply,) = answers(raw, Ether(src=HOST_MAC, dst=raw[3]) / Dot1Q(vlan=5) / echo)
    assert (reply[Dot1Q].vlan, reply[IPv6].dst) == (5, "fd05::1")
    assert answers(raw, Ether(src=HOST_MAC, dst=raw[3]) / Dot1Q(vlan=5) / IP(dst="10.5.0.2") / UDP()) == []
