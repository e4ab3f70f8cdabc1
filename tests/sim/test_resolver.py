"""The resolver against a scripted server in virtual time: what is asked, what is believed, what is kept.

RFC 1035, 2308, 5452, 6891, 7766; create_connection() by RFC 8305.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ustack import dns
from ustack.sim import Network

SERVER = "10.0.0.2"
Reply = list[bytes] | bytes | None


class World:
    """A stack that asks, and a host that answers as `answer` says: (query, its message) -> datagrams."""

    def __init__(self, net: Network, **options: Any) -> None:
        self.net = net
        self.a, self.b = net.stack("a"), net.stack("b")
        net.wire(self.a, self.b, addresses=("10.0.0.1/24", ["10.0.0.2/24", "10.0.0.3/24"]), delay=0.01)
        self.asked: list[tuple[str, int, int]] = []
        self.answer: Callable[[dns.Message, bytes], Reply] = lambda query, raw: reply(raw)
        self.over_tcp: Callable[[dns.Message, bytes], bytes] | None = None
        self.resolver = self.a.use_dns([SERVER], **{"timeout": 1.0, **options})
        net.spawn(self._udp)
        net.spawn(self._tcp)

    def _udp(self) -> None:
        sock = self.b.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("10.0.0.2", 53))
        with contextlib.suppress(OSError), sock:
            while True:
                data, peer = sock.recvfrom(2048)
                query = dns.parse(data)
                self.asked.append((query.questions[0][0], query.questions[0][1], peer[1]))
                answers = self.answer(query, data)
                for one in answers if isinstance(answers, list) else [answers]:
                    if one is not None:
                        sock.sendto(one, peer)

    def _tcp(self) -> None:
        with contextlib.suppress(OSError), self.b.create_server(("10.0.0.2", 53)) as server:
            while True:
                conn, _ = server.accept()
                with conn, conn.makefile("rwb") as stream:
                    data = stream.read(int.from_bytes(stream.read(2), "big"))
                    assert self.over_tcp is not None
                    answer = self.over_tcp(dns.parse(data), data)
                    stream.write(len(answer).to_bytes(2, "big") + answer)

    def names(self) -> list[str]:
        return [name for name, _, _ in self.asked]


def record(name: str, type: int, data: bytes, ttl: int = 60) -> bytes:
    return dns.encode_name(name) + struct.pack("!HHIH", type, 1, ttl, len(data)) + data


def soa(minimum: int) -> bytes:
    return record(
        "test", dns.SOA, dns.encode_name("a") + dns.encode_name("b") + struct.pack("!5I", 1, 2, 3, 4, minimum)
    )


def reply(query: bytes, answers: list[bytes] | None = None, *, rcode: int = 0, authority: tuple[bytes, ...] = (),
          flags: int = 0) -> bytes:  # fmt: skip
    """An answer to the raw query with these records (none given: the address 10.0.0.3)."""
    parsed = dns.parse(query)
    name, type, _ = parsed.questions[0]
    if answers is None:
        answers = [record(name, dns.A, bytes([10, 0, 0, 3]))] if type == dns.A else []
    head = struct.pack("!6H", parsed.id, 0x8180 | flags | rcode, 1, len(answers), len(authority), 0)
    question = dns.encode_name(name) + struct.pack("!HH", type, 1)
    return head + question + b"".join(answers) + b"".join(authority)


@pytest.fixture
def net() -> Iterator[Network]:
    with Network(seed=1) as made:
        yield made


@pytest.fixture
def world(net: Network) -> World:
    return World(net)


def v4(world: World, name: str) -> list[str]:
    return world.resolver.addresses(name, (socket.AF_INET,))


def code(world: World, name: str) -> int:
    with pytest.raises(socket.gaierror) as caught:
        world.a.getaddrinfo(name, 80)
    return int(caught.value.errno or 0)


def test_a_name_is_resolved_and_connected_to(world: World) -> None:
    with world.b.create_server(("10.0.0.3", 80)):
        with world.a.create_connection(("www.test", 80), timeout=5) as sock:
            assert sock.getpeername() == ("10.0.0.3", 80)
    assert world.a.gethostbyname("www.test") == "10.0.0.3"
    info = world.a.getaddrinfo("www.test", 80, socket.AF_INET, socket.SOCK_STREAM)
    assert info == [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.3", 80))]


def test_answers_are_kept_as_long_as_they_say(world: World) -> None:
    assert v4(world, "www.test") == ["10.0.0.3"]
    world.net.run(59)
    assert v4(world, "WWW.test.") == ["10.0.0.3"]
    assert len(world.asked) == 1
    world.net.run(2)
    v4(world, "www.test")
    assert len(world.asked) == 2


def test_the_cache_has_a_bound(net: Network) -> None:
    world = World(net, cache_size=3)
    for i in range(10):
        v4(world, f"n{i}.test")
    assert world.resolver.cached == 3
    v4(world, "n9.test")
    v4(world, "n0.test")
    assert len(world.asked) == 11


def test_a_name_that_is_not_there(world: World) -> None:
    world.answer = lambda query, raw: reply(raw, [], rcode=dns.NXDOMAIN, authority=(soa(30),))
    assert code(world, "no.test") == socket.EAI_NONAME
    asked = len(world.asked)
    world.net.run(29)
    assert code(world, "no.test") == socket.EAI_NONAME
    assert len(world.asked) == asked  # RFC 2308: kept for the SOA's minimum
    world.net.run(2)
    code(world, "no.test")
    assert len(world.asked) > asked


def test_a_negative_answer_without_soa_is_not_kept(world: World) -> None:
    world.answer = lambda query, raw: reply(raw, [], rcode=dns.NXDOMAIN)
    assert v4(world, "no.test") == v4(world, "no.test") == []
    assert len(world.asked) == 2


def test_a_name_without_addresses(world: World) -> None:
    world.answer = lambda query, raw: reply(raw, [], authority=(soa(30),))
    assert code(world, "mail.test") == socket.EAI_NODATA


def test_a_server_that_fails_or_is_silent(world: World) -> None:
    world.answer = lambda query, raw: reply(raw, [], rcode=dns.SERVFAIL)
    assert code(world, "x.test") == socket.EAI_AGAIN
    world.answer = lambda query, raw: None
    before = world.net.now
    with pytest.raises(socket.gaierror):
        v4(world, "y.test")
    assert abs(world.net.now - before - 2 * 10**9) < 10  # two attempts, a second each


def test_a_lost_query_is_sent_again_and_the_next_server_asked(world: World) -> None:
    lost = iter([True])
    world.answer = lambda query, raw: None if next(lost, False) else reply(raw)
    assert v4(world, "www.test") == ["10.0.0.3"]
    resolver = world.a.use_dns(["10.0.0.3", SERVER], timeout=1)  # nobody listens on the first: an ICMP error
    before = world.net.now
    assert resolver("other.test") == ["10.0.0.3"]
    assert world.net.now - before < 10**9


def test_aliases_are_followed(world: World) -> None:
    def answer(query: dns.Message, raw: bytes) -> Reply:
        if query.questions[0][0] == "far.test":
            return reply(raw)
        return reply(raw, [
            record("www.test", dns.CNAME, dns.encode_name("mid.test"), 5),
            record("mid.test", dns.CNAME, dns.encode_name("far.test")),
        ])  # fmt: skip

    world.answer = answer
    assert v4(world, "www.test") == ["10.0.0.3"]
    assert world.names() == ["www.test", "far.test"]
    world.net.run(6)  # the least of the TTLs
    v4(world, "www.test")
    assert world.names().count("www.test") == 2


def test_a_loop_of_aliases_ends(world: World) -> None:
    loop = [("a.test", "b.test"), ("b.test", "a.test")]
    world.answer = lambda query, raw: reply(
        raw, [record(here, dns.CNAME, dns.encode_name(there)) for here, there in loop]
    )
    assert code(world, "a.test") in (socket.EAI_NODATA, socket.EAI_AGAIN)


def test_the_search_list(net: Network) -> None:
    world = World(net, search=["corp.test", "test"])
    missing = {"host.corp.test", "host.sub", "host.sub.corp.test"}
    world.answer = lambda query, raw: (
        reply(raw, [], rcode=dns.NXDOMAIN) if query.questions[0][0] in missing else reply(raw)
    )
    assert v4(world, "host") == ["10.0.0.3"]
    assert world.names() == ["host.corp.test", "host.test"]
    world.asked.clear()
    assert v4(world, "host.sub") == ["10.0.0.3"]
    assert world.names() == ["host.sub", "host.sub.corp.test", "host.sub.test"]
    world.asked.clear()
    assert v4(world, "host.") == ["10.0.0.3"]
    assert world.names() == ["host"]


def test_a_long_answer_comes_over_tcp(world: World) -> None:
    many = [record("big.test", dns.A, bytes([10, 1, 0, i])) for i in range(1, 50)]
    world.answer = lambda query, raw: reply(raw, [], flags=dns.TC)
    world.over_tcp = lambda query, raw: reply(raw, many)
    assert v4(world, "big.test") == [f"10.1.0.{i}" for i in range(1, 50)]


def test_a_server_without_edns(world: World) -> None:
    world.answer = lambda query, raw: reply(raw, [], rcode=dns.FORMERR) if query.additional else reply(raw)
    assert v4(world, "www.test") == ["10.0.0.3"]
    assert len(world.asked) == 2


def test_forgeries_are_not_believed(world: World) -> None:
    """RFC 5452 §9.1: other ids, other questions, queries and rubbish are passed over; the true answer is taken."""
    bad = bytes([6, 6, 6, 6])

    def answer(query: dns.Message, raw: bytes) -> Reply:
        forged = reply(raw, [record("www.test", dns.A, bad)])
        other = reply(dns.make_query(query.id, "evil.test", dns.A), [record("evil.test", dns.A, bad)])
        return [
            bytes([forged[0] ^ 1]) + forged[1:],
            forged[:2] + bytes([forged[2] & 0x7F]) + forged[3:],
            other,
            forged[:-1],
            b"",
            reply(raw, [record("evil.test", dns.A, bad), record("www.test", dns.A, bytes([10, 0, 0, 9]))]),
        ]

    world.answer = answer
    assert v4(world, "www.test") == ["10.0.0.9"]
    world.answer = lambda query, raw: reply(raw, [record("evil.test", dns.A, bad)])
    with pytest.raises(socket.gaierror):
        v4(world, "innocent.test")


def test_an_answer_from_elsewhere_is_not_heard(world: World) -> None:
    liar = world.b.socket(socket.AF_INET, socket.SOCK_DGRAM)
    liar.bind(("10.0.0.3", 53))

    def answer(query: dns.Message, raw: bytes) -> Reply:
        liar.sendto(reply(raw, [record("www.test", dns.A, bytes([6, 6, 6, 6]))]), ("10.0.0.1", world.asked[-1][2]))
        return None

    world.answer = answer
    with liar, pytest.raises(socket.gaierror):
        v4(world, "www.test")


def test_ports_and_ids_are_random(world: World) -> None:
    ids = []

    def answer(query: dns.Message, raw: bytes) -> Reply:
        ids.append(query.id)
        return reply(raw)

    world.answer = answer
    for i in range(64):
        v4(world, f"n{i}.test")
    ports = [port for _, _, port in world.asked]
    for numbers in (ids, ports):
        assert len(set(numbers)) > 60
        assert max(numbers) - min(numbers) > 40000
        assert sum(abs(b - a) < 100 for a, b in itertools.pairwise(numbers)) < 5


def test_mixed_case(net: Network) -> None:
    world = World(net, mix_case=True)
    assert v4(world, "a-long-name.example.test") == ["10.0.0.3"]
    assert world.names()[0] != "a-long-name.example.test"
    world.answer = lambda query, raw: reply(raw[:2] + raw[2:].lower())
    with pytest.raises(socket.gaierror):
        v4(world, "another-long-name.example.test")


def test_hosts_come_first(world: World) -> None:
    world.a.hosts["www.test"] = "10.0.0.77"
    assert world.a.gethostbyname("www.test") == "10.0.0.77"
    assert world.asked == []
    assert code(world, "thing.invalid") == socket.EAI_NONAME
    assert world.asked == []


def test_a_dead_address_costs_a_quarter_of_a_second(world: World) -> None:
    """RFC 8305 §5."""
    dead = [record("www.test", dns.A, bytes([10, 0, 0, one])) for one in (99, 98, 3)]
    world.answer = lambda query, raw: reply(raw, dead)
    with world.b.create_server(("10.0.0.3", 80)):
        before = world.net.now
        with world.a.create_connection(("www.test", 80), timeout=30) as sock:
            assert sock.getpeername() == ("10.0.0.3", 80)
            assert sock.gettimeout() == 30
        assert 0.5e9 <= world.net.now - before < 0.7e9
    before = world.net.now
    with pytest.raises(OSError):
        world.a.create_connection(("www.test", 81), timeout=2)
    assert world.net.now - before <= 2.1e9
