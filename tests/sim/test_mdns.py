"""Multicast DNS in virtual time (RFC 6762, RFC 6763)."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from ustack import dns
from ustack.dns import Record
from ustack.sim import Network

GROUP = "224.0.0.251"
TYPE = "_http._tcp.local"


class World:
    """Two stacks on a link, and what is said there."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.a, self.b = net.stack("a"), net.stack("b")
        self.wire = net.wire(self.a, self.b, addresses=(["10.0.0.1/24", "fd00::1/64"], "10.0.0.2/24"), delay=0.001)
        self.heard: list[tuple[float, str, dns.Message]] = []
        self.wire.a_to_b.filter = self._note
        self.wire.b_to_a.filter = self._note

    def _note(self, frame: bytes, n: int) -> bytes:
        if frame[12:14] == b"\x08\0" and frame[23] == 17 and 5353 in struct.unpack_from("!HH", frame, 34):
            source = socket.inet_ntoa(frame[26:30])
            with contextlib.suppress(dns.DnsError):
                self.heard.append((self.net.now / 1e9, source, dns.parse(frame[42:], multicast=True)))
        return frame

    def said(self, source: str, responses: bool) -> list[tuple[float, dns.Message]]:
        return [(t, m) for t, s, m in self.heard if s == source and bool(m.flags & dns.QR) == responses]

    def say(self, data: bytes, port: int = 5353) -> Any:
        """b's own words."""
        sock = self.b.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        sock.bind(("", port))
        sock.sendto(data, (GROUP, 5353))
        return sock


@pytest.fixture
def world() -> Iterator[World]:
    with Network(seed=1) as net:
        made = World(net)
        net.run(3)
        yield made


@pytest.mark.rfc("6762", "8")
def test_a_service_is_probed_for_announced_found_and_taken_back(world: World) -> None:
    ours = world.a.mdns(hostname="thing")
    theirs = world.b.mdns()
    with ours.publish("My page, really", "_http._tcp", 8080, {"path": "/x", "flag": None}) as service:
        assert service.wait(5) == "My page, really"
        world.net.run(3)
        probes = world.said("10.0.0.1", False)
        name = probes[-1][1].questions[0][0]
        of_service = [(t, m) for t, m in probes if m.questions[0][0] == name]
        assert [round(b[0] - a[0], 2) for a, b in itertools.pairwise(of_service)] == [0.25, 0.25]
        assert {m.questions[0][1] for _, m in probes} == {dns.ANY}
        assert all(m.authority for _, m in probes)
        announced = [m for _, m in world.said("10.0.0.1", True) if any(r.type == dns.SRV for r in m.answers)]
        assert len(announced) == 2
        assert {r.type: r.flush for r in announced[0].answers} == {dns.SRV: True, dns.TXT: True, dns.PTR: False}
        (found,) = theirs.browse("_http._tcp", timeout=3)
        assert (found.name, found.host, found.port) == ("My page, really", "thing.local", 8080)
        assert found.addresses[0] == "10.0.0.1"
        assert found.txt == (b"path=/x", b"flag")
    world.net.run(2)
    assert theirs.browse("_http._tcp", timeout=2) == []
    goodbye = world.said("10.0.0.1", True)[-1][1]
    assert {r.ttl for r in goodbye.answers} == {0}


@pytest.mark.rfc("6762", "3")
def test_names_that_end_in_local(world: World) -> None:
    world.a.mdns(hostname="thing")
    world.b.mdns()
    world.net.run(5)
    assert world.b.gethostbyname("Thing.local") == "10.0.0.1"
    infos = world.b.getaddrinfo("thing.local", 80, socket.AF_INET6, socket.SOCK_STREAM)
    assert "fd00::1" in {info[4][0] for info in infos}
    with pytest.raises(socket.gaierror):
        world.b.gethostbyname("nobody.local")


@pytest.mark.rfc("6762", "9")
def test_a_name_that_somebody_has(world: World) -> None:
    first = world.a.mdns(hostname="box")
    world.net.run(5)
    second = world.b.mdns(hostname="box")
    with second.publish("box", "_http._tcp", 80) as service:
        service.wait(5)
        world.net.run(5)
    assert (first.hostname, second.hostname, service.name) == ("box.local", "box-2.local", "box")


@pytest.mark.rfc("6762", "8.2")
def test_two_that_begin_at_once(world: World) -> None:
    first, second = world.a.mdns(hostname="box"), world.b.mdns(hostname="box")
    world.net.run(10)
    assert sorted([first.hostname, second.hostname]) == ["box-2.local", "box.local"]
    assert second.hostname == "box-2.local" or first.hostname == "box-2.local"


@pytest.mark.rfc("6762", "7.1")
def test_known_answers_are_not_repeated(world: World) -> None:
    ours = world.a.mdns(hostname="thing")
    ours.publish("one", "_http._tcp", 80).wait(5)
    world.net.run(5)
    world.heard.clear()
    question = [(TYPE, dns.PTR, dns.IN)]
    world.say(dns.build(0, 0, question)).close()
    world.net.run(1)
    (when, answer), = world.said("10.0.0.1", True)  # fmt: skip
    asked = next(t for t, s, _ in world.heard if s == "10.0.0.2")
    assert 0.02 <= when - asked <= 0.13
    (pointer,) = answer.answers
    world.net.run(2)
    world.heard.clear()
    world.say(dns.build(0, 0, question, [pointer])).close()
    world.net.run(1)
    assert world.said("10.0.0.1", True) == []
    world.say(dns.build(0, 0, question, [replace(pointer, ttl=pointer.ttl // 2 - 1)])).close()
    world.net.run(1)
    assert len(world.said("10.0.0.1", True)) == 1


@pytest.mark.rfc("6762", "6.7")
def test_a_plain_resolver_is_answered_alone(world: World) -> None:
    world.a.mdns(hostname="thing")
    world.net.run(5)
    sock = world.say(dns.make_query(77, "thing.local", dns.A), port=4000)
    sock.settimeout(2)
    message = dns.parse(sock.recv(1500))
    assert (message.id, message.questions) == (77, (("thing.local", dns.A, dns.IN),))
    assert [(r.data, r.ttl, r.flush) for r in message.answers] == [("10.0.0.1", 10, False)]
    sock.close()


@pytest.mark.rfc("6762", "5.4")
def test_an_answer_by_unicast(world: World) -> None:
    world.a.mdns(hostname="thing")
    world.net.run(5)
    world.heard.clear()
    with world.say(dns.build(0, 0, [("thing.local", dns.A, dns.IN | dns.TOP_BIT)])) as sock:
        sock.settimeout(2)
        data, peer = sock.recvfrom(1500)
        assert peer == ("10.0.0.1", 5353)
        assert [r.data for r in dns.parse(data, multicast=True).answers] == ["10.0.0.1"]


@pytest.mark.rfc("6762", "10.2")
def test_what_is_flushed_is_forgotten(world: World) -> None:
    ours = world.a.mdns(hostname="thing")
    world.net.run(5)
    record = Record("other.local", dns.A, 120, "10.0.0.7", True)
    world.say(dns.build(0, dns.QR, answers=[record])).close()
    world.net.run(2)
    assert ours.resolve("other.local") == ["10.0.0.7"]
    world.say(dns.build(0, dns.QR, answers=[replace(record, data="10.0.0.8")])).close()
    world.net.run(2)
    assert ours.resolve("other.local") == ["10.0.0.8"]
    world.net.run(130)
    assert ours.resolve("other.local", timeout=1) == []


def test_noise_does_not_grow(world: World) -> None:
    ours = world.a.mdns(hostname="thing")
    world.net.run(5)
    for n in range(60):
        many = [Record(f"n{n}-{k}.local", dns.A, 4000, "10.0.0.9") for k in range(40)]
        world.say(dns.build(0, dns.QR, answers=many)).close()
    for junk in (b"", b"\0" * 12, bytes(range(200)), dns.build(0, 0x7800, [(TYPE, dns.PTR, 1)])):
        world.say(junk).close()
    world.net.run(5)
    assert ours._machine._count <= 1000
    assert ours.hostname == "thing.local"
    assert ours.resolve("n59-1.local") == ["10.0.0.9"]


def test_an_address_that_comes_later_is_told(world: World) -> None:
    ours, theirs = world.a.mdns(hostname="thing"), world.b.mdns()
    world.net.run(5)
    world.a.add_address(ours.interface, "10.0.0.77/24")
    world.net.run(5)
    assert set(theirs.resolve("thing.local")) == {"10.0.0.1", "10.0.0.77"}
    world.a.remove_address(ours.interface, "10.0.0.77")
    world.net.run(5)
    assert theirs.resolve("thing.local") == ["10.0.0.1"]
    ours.close()
    with pytest.raises(OSError):
        ours.publish("x", "_http._tcp", 80)


@pytest.mark.parametrize(
    "arguments", [("x", "http", 80), ("x", "_http._tcp", 0), ("", "_http._tcp", 1), ("x" * 64, "_http._tcp", 1)]
)
def test_wrong_arguments(world: World, arguments: Any) -> None:
    with pytest.raises(ValueError):
        world.a.mdns().publish(*arguments)
