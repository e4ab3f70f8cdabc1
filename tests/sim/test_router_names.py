"""What routers say of DNS (RFC 8106) in virtual time: it reaches the resolver, and no longer than it holds."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers import inet6 as v6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from ustack.sim import Network

FOREVER = 0xFFFFFFFF
SERVERS = ["2001:db8::53", "2001:db8::54", "2001:db8::55", "2001:db8::56"]


class Link:
    """A stack that listens to routers, and a raw end that is one."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.stack = net.stack()
        self.wire = net.wire(self.stack, None)
        self.name = self.stack.interfaces()[-1].name
        self.stack.detach(self.wire.a)
        self.name = self.stack.attach(self.wire.a, autoconf=True)
        net.run(3)

    def advertise(self, *options: Any) -> None:
        packet = v6.IPv6(src="fe80::1", dst="ff02::1", hlim=255) / v6.ICMPv6ND_RA(routerlifetime=0)
        for one in options:
            packet = packet / one
        self.wire.b.send(bytes(Ether(dst="33:33:00:00:00:01", src="02:00:00:00:00:77") / packet))
        self.net.run(0.01)

    def known(self) -> tuple[list[str], list[str]]:
        resolver: Any = self.stack._current_resolver()
        return ([], []) if resolver is None else (resolver.servers, resolver.search)


def servers(*addresses: str, lifetime: int = 600) -> Any:
    return v6.ICMPv6NDOptRDNSS(dns=list(addresses), lifetime=lifetime)


def suffixes(*names: str, lifetime: int = 600) -> Any:
    return v6.ICMPv6NDOptDNSSL(searchlist=[f"{name}." for name in names], lifetime=lifetime)


@pytest.fixture
def link() -> Iterator[Link]:
    with Network(seed=3) as net:
        yield Link(net)


@pytest.mark.rfc("8106", "5.1")
@pytest.mark.rfc("8106", "5.2")
def test_they_reach_the_resolver_and_end_in_time(link: Link) -> None:
    assert link.known() == ([], [])
    link.advertise(servers(SERVERS[0], lifetime=600), suffixes("corp.test", "lab.test", lifetime=300))
    assert link.known() == (SERVERS[:1], ["corp.test", "lab.test"])
    kept = link.stack.resolver
    assert link.stack._current_resolver() is kept, "with its cache, as long as nothing changes"
    link.net.run(301)
    assert link.known() == (SERVERS[:1], [])
    link.net.run(300)
    assert link.known() == ([], [])
    assert link.stack.resolver is None


@pytest.mark.rfc("8106", "5.3.1")
def test_a_lifetime_is_renewed_and_taken_back(link: Link) -> None:
    link.advertise(servers(*SERVERS[:2], lifetime=10), suffixes("corp.test", lifetime=10))
    link.net.run(9)
    link.advertise(servers(SERVERS[0], lifetime=FOREVER), suffixes("corp.test", lifetime=FOREVER))
    link.net.run(100_000)
    assert link.known() == (SERVERS[:1], ["corp.test"])
    link.advertise(servers(SERVERS[0], lifetime=0), suffixes("corp.test", lifetime=0))
    assert link.known() == ([], [])


@pytest.mark.rfc("8106", "5.3.1")
def test_no_more_than_three_and_those_that_last(link: Link) -> None:
    link.advertise(servers(*SERVERS[:3], lifetime=100), suffixes("a.test", "b.test", "c.test", lifetime=100))
    link.advertise(servers(SERVERS[3], lifetime=50), suffixes("d.test", lifetime=50))
    assert link.known() == (SERVERS[:3], ["a.test", "b.test", "c.test"])
    link.advertise(servers(SERVERS[3], lifetime=200), suffixes("d.test", lifetime=200))
    found, search = link.known()
    assert SERVERS[3] in found
    assert "d.test" in search
    assert (len(found), len(search)) == (3, 3)


def test_a_server_on_the_link_has_its_zone(link: Link) -> None:
    link.advertise(servers("fe80::1"))
    assert link.known()[0] == [f"fe80::1%{link.name}"]


@pytest.mark.rfc("8106", "5.3.1")
def test_what_a_program_or_dhcp_says_comes_first(link: Link) -> None:
    from ustack.dhcp_client import learn_names

    link.advertise(servers(SERVERS[0]))
    assert link.known()[0] == SERVERS[:1]
    learn_names(link.stack, "dhcp", ["192.0.2.53"], ["corp.test"])
    assert link.known() == (["192.0.2.53", SERVERS[0]], ["corp.test"])
    learn_names(link.stack, "dhcp", [], [])
    own = link.stack.use_dns(["192.0.2.1"])
    link.advertise(servers(SERVERS[1]))
    assert link.stack._current_resolver() is own


def raw(kind: int, body: bytes, length: int | None = None) -> Any:
    units = (len(body) + 9) // 8 if length is None else length
    return Raw(struct.pack("!BB", kind, units) + body.ljust(units * 8 - 2, b"\0")[: units * 8 - 2])


NAME = b"\x04corp\x04test\0"


@pytest.mark.parametrize(
    "option",
    [
        raw(25, struct.pack("!HI", 0, 600) + bytes.fromhex("20010db8000000000000000000000053") * 2, length=4),  # even
        raw(25, struct.pack("!HI", 0, 600)),  # none
        raw(25, struct.pack("!HI", 0, 600) + bytes(16)),  # ::
        raw(25, struct.pack("!HI", 0, 600) + bytes.fromhex("ff020000000000000000000000000001")),
        raw(31, struct.pack("!HI", 0, 600)),
        raw(31, struct.pack("!HI", 0, 600) + b"\xc0\x08" + bytes(6)),  # a pointer
        raw(31, struct.pack("!HI", 0, 600) + b"\x3f" + b"x" * 7),  # beyond the option
        raw(31, struct.pack("!HI", 0, 600) + b"\x07xxxxxxx"),  # without an end
        raw(31, struct.pack("!HI", 0, 600) + (b"\x3f" + b"x" * 63) * 5 + b"\0"),  # longer than a name may be
    ],
)
def test_what_is_malformed_says_nothing(link: Link, option: Any) -> None:
    link.advertise(option, suffixes("corp.test"), servers(SERVERS[3]) if option.load[0] == 31 else suffixes("x.test"))
    found, search = link.known()
    assert set(found) <= {SERVERS[3]} | ({SERVERS[0]} if option.load[1] == 5 else set())
    assert set(search) <= {"corp.test", "x.test"}


def test_no_autoconfiguration_no_name_servers() -> None:
    with Network(seed=3) as net:
        link = Link(net)
        link.stack.detach(link.wire.a)
        link.stack.attach(link.wire.a, ["fd09::2/64"])
        link.advertise(servers(SERVERS[0]))
        assert link.known() == ([], [])
