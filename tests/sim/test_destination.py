"""Which address of a name comes first: RFC 6724 §6, rule by rule, as getaddrinfo() has it."""

from __future__ import annotations

import socket

import pytest
from scapy.layers import inet6 as v6
from scapy.layers.l2 import Ether

from ustack import sim
from ustack.destination import in_order


def ordered(own: list[str], names: list[str]) -> list[str]:
    """The addresses of a name as a stack with such addresses has them."""
    with sim.Network(seed=2) as net:
        stack, other = net.stack(), net.stack()
        net.wire(stack, other, addresses=(own, "198.51.100.1/24"))
        if any("." in one for one in own):
            stack.add_route("default", "10.9.0.1")
        six = next((one for one in own if ":" in one), "")
        if six.startswith("fe80"):
            stack.add_route("default", f"fe80::99%{stack.interfaces()[-1].name}", interface=stack.interfaces()[-1].name)
        elif six:
            stack.add_route("default", six.partition("::")[0] + "::99")
        stack.hosts["name"] = names
        infos = stack.getaddrinfo("name", 80, 0, socket.SOCK_STREAM)
        return [info[4][0] for info in infos]


BOTH = ["2001:db8:1::2/64", "10.9.0.2/24"]
SIX = "2001:db8:9::1"


@pytest.mark.parametrize(
    ("rule", "own", "names", "expected"),
    [
        ("1 what cannot be reached", ["10.9.0.2/24"], [SIX, "10.9.0.7"], ["10.9.0.7", SIX]),
        ("2 matching scope", ["10.9.0.2/24", "fe80::9/64"], [SIX, "10.9.0.7"], ["10.9.0.7", SIX]),
        ("5 matching label", ["fd00:1::2/64", "10.9.0.2/24"], [SIX, "192.0.2.1"], ["192.0.2.1", SIX]),
        ("6 precedence", ["2001:db8:1::2/64", "2002:a00::2/64"], ["2002:b00::1", SIX], [SIX, "2002:b00::1"]),
        ("6 higher precedence", BOTH, ["192.0.2.1", SIX], [SIX, "192.0.2.1"]),
        ("6 higher precedence", ["2001:db8:1::2/64", "fd00:1::2/64"], ["fd00:1::1", SIX], [SIX, "fd00:1::1"]),
        ("9 longest prefix", BOTH, ["2001:db8:4000::1", "2001:db8:3::1"], ["2001:db8:3::1", "2001:db8:4000::1"]),
        ("10 as they come", BOTH, ["10.9.0.9", "10.9.0.3", "192.0.2.1"], ["10.9.0.9", "10.9.0.3", "192.0.2.1"]),
    ],
)  # fmt: skip
@pytest.mark.rfc("6724", "6")
def test_rules(rule: str, own: list[str], names: list[str], expected: list[str]) -> None:
    assert ordered(own, names) == expected, rule


@pytest.mark.rfc("6724", "6 rule 3")
def test_a_source_that_is_to_go_makes_it_worse() -> None:
    with sim.Network(seed=2) as net:
        stack = net.stack()
        wire = net.wire(stack, None)
        stack.detach(wire.a)
        stack.attach(wire.a, addresses=["10.9.0.2/24"], autoconf=True)
        net.run(5)
        prefix = v6.ICMPv6NDOptPrefixInfo(prefix="2001:db8:1::", preferredlifetime=60, validlifetime=7200)
        packet = v6.IPv6(src="fe80::1", dst="ff02::1", hlim=255) / v6.ICMPv6ND_RA(routerlifetime=1800) / prefix
        wire.b.send(bytes(Ether(dst="33:33:00:00:00:01", src="02:00:00:00:00:77") / packet))
        net.run(5)
        stack.add_route("default", "10.9.0.1")
        entries = [(socket.AF_INET6, "2001:db8:1::1", 0), (socket.AF_INET, "192.0.2.1", 0)]
        assert in_order(stack, entries) == entries
        net.run(60)
        assert in_order(stack, entries) == entries[::-1]


def test_one_address_is_left_alone_and_connections_go_by_the_order() -> None:
    with sim.Network(seed=2) as net:
        stack, other = net.stack(), net.stack()
        net.wire(stack, other, addresses=(["fd00::2/64", "10.9.0.2/24"], ["fd00::1/64", "10.9.0.1/24"]))
        servers = [other.create_server((host, 80), family=family) for host, family in
                   (("10.9.0.1", socket.AF_INET), ("fd00::1", socket.AF_INET6))]  # fmt: skip
        for names, first in (
            (["10.9.0.1", "fd00::1"], "10.9.0.1"),  # precedence 35 and 3
            (["2001:db8::1", "10.9.0.1"], "10.9.0.1"),
            (["fd00::1"], "fd00::1"),
        ):
            stack.hosts["name"] = names
            with stack.create_connection(("name", 80), timeout=5) as sock:
                assert sock.getpeername()[0] == first
        for one in servers:
            one.close()
