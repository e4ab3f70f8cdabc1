"""What multicast DNS and LLMNR have in common: both families, who is heard, and how it ends, in virtual time."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack import dns, mdns_machine
from ustack.sim import Network

BOTH = [pytest.param(("10.0.0.1", "10.0.0.2"), id="ipv4"), pytest.param(("fd00::1", "fd00::2"), id="ipv6")]


@pytest.fixture(params=BOTH)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Network, Any, Any, str]]:
    """Two stacks that have addresses of one family only."""
    first, second = request.param
    length = 64 if ":" in first else 24
    with Network(seed=4) as net:
        a, b = net.stack("a"), net.stack("b")
        net.wire(a, b, addresses=(f"{first}/{length}", f"{second}/{length}"), delay=0.001)
        net.run(3)
        yield net, a, b, first


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@pytest.mark.rfc("6762", "20")
def test_a_service_over_one_family(pair: tuple[Network, Any, Any, str]) -> None:
    _, a, b, first = pair
    theirs = b.mdns()
    with a.mdns(hostname="thing").publish("page", "_http._tcp", 80) as service:
        assert service.wait(10) == "page"
        (found,) = theirs.browse("_http._tcp", timeout=3)
        assert (found.name, found.host, found.port) == ("page", "thing.local", 80)
        assert first in found.addresses
    assert first in [info[4][0] for info in b.getaddrinfo("thing.local", 80, family_of(first))]


@pytest.mark.rfc("4795", "2")
def test_a_name_over_one_family(pair: tuple[Network, Any, Any, str]) -> None:
    _, a, b, first = pair
    assert a.llmnr(hostname="box").wait(10)
    b.llmnr()
    assert first in [info[4][0] for info in b.getaddrinfo("box", 80, family_of(first))]


def test_the_end_of_the_stack_is_the_end_of_both(pair: tuple[Network, Any, Any, str]) -> None:
    net, a, b, _ = pair
    talkers = [a.mdns(hostname="thing"), a.llmnr(hostname="thing")]
    net.run(5)
    a.close()
    assert [one.state for one in talkers] == ["STOPPED", "STOPPED"]
    for one in talkers:
        with pytest.raises(OSError, match="closed"):
            one.resolve("x.local")
    net.run(5)
    b.close()


@given(st.lists(st.tuples(st.binary(max_size=120), st.integers(0, 0xFFFF)), max_size=6))
def test_no_message_hurts_multicast_dns(messages: list[tuple[bytes, int]]) -> None:
    """Whatever comes, in whatever state: no exception, and no more is kept than may be."""
    machine = mdns_machine.Machine(random.Random(1))
    told: list[str] = []
    name = mdns_machine.Name("box", "local", mdns_machine.host_records(lambda: ["10.0.0.1"]), lambda _: [], told.append)
    machine.add(name, 0.0)
    now = 0.0
    question = dns.build(0, 0, [("box.local", dns.ANY, dns.IN)])
    answer = dns.build(0, dns.QR, answers=[dns.Record("box.local", dns.A, 120, "10.0.0.9", True)])
    for data, flags in messages:
        for whole in (data, question + data, answer[:2] + struct.pack("!H", flags) + answer[4:] + data):
            for peer in (("10.0.0.2", 5353), ("10.0.0.2", 999)):
                machine.receive(whole, peer, now)
                machine.timer(now)
                now += 0.1
    assert machine._count <= 1000
    assert dns.encode_name(name.full)
