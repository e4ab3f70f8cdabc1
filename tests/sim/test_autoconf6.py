"""Addresses that a stack makes for itself from what a router says, and the labels of its flows: RFC 4862, 7217, 8981,
7527, 6437."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers import inet6 as v6
from scapy.layers.l2 import Ether

from ustack.sim import Network

ALL = "33:33:00:00:00:01"


class Link:
    """A stack that configures itself, and a raw end."""

    def __init__(self, net: Network, name: str = "a") -> None:
        self.net = net
        self.stack = net.stack(name)
        self.wire = net.wire(self.stack, None)
        self.stack.detach(self.wire.a)

    def up(self, **knobs: int) -> None:
        for name, value in knobs.items():
            self.stack.sysctl[f"net.ipv6.conf.default.{name}"] = value
        self.name = self.stack.attach(self.wire.a, autoconf=True)

    def configure(self) -> None:
        """Up, and with the addresses of an advertised prefix."""
        self.up()
        self.net.run(5)
        self.advertise()
        self.net.run(5)

    def advertise(self, prefix: str = "2001:db8:1::", preferred: int = 3600, valid: int = 7200) -> None:
        option = v6.ICMPv6NDOptPrefixInfo(prefix=prefix, prefixlen=64, preferredlifetime=preferred, validlifetime=valid)
        packet = v6.IPv6(src="fe80::1", dst="ff02::1", hlim=255) / v6.ICMPv6ND_RA(routerlifetime=1800) / option
        self.wire.b.send(bytes(Ether(dst=ALL, src="02:00:00:00:00:77") / packet))

    def sent(self) -> list[Any]:
        found = []
        while True:
            try:
                found.append(Ether(self.wire.b.recv(timeout=0)))
            except TimeoutError:
                return found

    def addresses(self, beginning: str = "2001:db8:1:") -> dict[str, str]:
        own = next(one for one in self.stack.interfaces() if one.name == self.name)
        return {a.address: a.state for a in own.addresses if a.address.startswith(beginning)}


@pytest.fixture
def net() -> Iterator[Network]:
    with Network(seed=4) as made:
        yield made


def identifier(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, address)[8:]


@pytest.mark.rfc("7217", "5")
@pytest.mark.rfc("4862", "5.5.3")
def test_identifiers_are_stable_and_opaque(net: Network) -> None:
    """The same for the same prefix, another for each prefix and each stack, and no hardware address."""
    made = []
    for name in ("a", "b"):
        link = Link(net, name)
        link.up()
        net.run(5)
        for prefix in ("2001:db8:1::", "2001:db8:2::"):
            link.advertise(prefix)
        net.run(5)
        (first,), (second,) = link.addresses(), link.addresses("2001:db8:2:")
        link.advertise(valid=0, preferred=0)
        link.stack.remove_address(link.name, first)
        assert link.addresses() == {}
        link.advertise()
        net.run(5)
        assert list(link.addresses()) == [first]
        made += [first, second]
        mac = bytes.fromhex(next(i.mac for i in link.stack.interfaces() if i.name == link.name).replace(":", ""))
        assert all(mac[3:] not in identifier(one) for one in (first, second))
    assert len({identifier(one) for one in made}) == 4


@pytest.mark.rfc("8981", "3.4")
def test_temporary_addresses_come_and_go(net: Network) -> None:
    link = Link(net)
    link.up(use_tempaddr=2, temp_prefered_lft=600, temp_valid_lft=1200)
    net.run(5)
    link.advertise(preferred=86400, valid=86400)
    net.run(5)
    first = set(link.addresses())
    assert len(first) == 2, "the stable one, and a temporary one"
    with link.stack.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.connect(("2001:db8:9::1", 9))
        temporary = sock.getsockname()[0]
    (stable,) = first - {temporary}
    net.run(600)
    states = link.addresses()
    (second,) = set(states) - first
    assert (states[stable], states[temporary], states[second]) == ("PREFERRED", "DEPRECATED", "PREFERRED")
    with link.stack.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.connect(("2001:db8:9::1", 9))
        assert sock.getsockname()[0] == second, "no new flow has one that is to go"
    net.run(605)
    assert temporary not in link.addresses()
    assert link.addresses()[stable] == "PREFERRED"


@pytest.mark.rfc("8981", "3.4 not wanted")
def test_temporary_addresses_are_off_until_asked_for(net: Network) -> None:
    link = Link(net)
    link.configure()
    assert len(link.addresses()) == 1


@pytest.mark.rfc("7527", "4.2")
@pytest.mark.rfc("4862", "5.4.3")
@pytest.mark.parametrize("looped", [True, False], ids=["our own", "somebody's"])
def test_a_check_that_comes_back_to_us_is_no_conflict(net: Network, looped: bool) -> None:
    """The nonce tells a link that loops frames back from a neighbour who wants the same address."""
    link = Link(net)
    link.up()
    seen = 0
    for _ in range(60):
        net.run(0.05)
        for frame in link.sent():
            if v6.ICMPv6ND_NS in frame and frame[v6.IPv6].src == "::":
                seen += 1
                raw = bytearray(bytes(frame))
                if not looped:
                    raw[-1] ^= 1
                    del raw[56:58]
                    again = v6.IPv6(bytes(raw[14:56] + bytes(2) + raw[56:]))
                    del again[v6.ICMPv6ND_NS].cksum
                    raw = bytearray(bytes(raw[:14]) + bytes(again))
                link.wire.b.send(bytes(raw))
    assert seen >= 1
    states = set(link.addresses("fe80:").values())
    assert states == {"PREFERRED"} if looped else "CONFLICT" in states
    assert (link.stack.counters().get("Ip6DadFailures", 0) == 0) == looped


@pytest.mark.rfc("6437", "3")
def test_flows_have_labels(net: Network) -> None:
    """One for all packets of a flow, another for the next, and none where it is not wanted."""
    link = Link(net)
    link.configure()
    link.stack.add_neighbor(link.name, "fe80::1", "02:00:00:00:00:77")
    labels = []
    for k in range(4):
        if k == 3:
            link.stack.sysctl["net.ipv6.auto_flowlabels"] = 0
        with link.stack.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.connect(("2001:db8:9::1", 9))
            link.sent()
            for _ in range(3):
                sock.send(b"x")
            net.run(0.01)
            found = {p[v6.IPv6].fl for p in link.sent() if v6.UDP in p}
            assert len(found) == 1
            labels += found
    assert labels[3] == 0
    assert len({0, *labels}) == 4
