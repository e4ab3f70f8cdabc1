"""LLMNR in virtual time (RFC 4795): names of one label, asked of the link and answered for, over UDP and TCP."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack import dns
from ustack.dns import Record
from ustack.llmnr_machine import CONFLICT, TENTATIVE, TRUNCATED, Machine
from ustack.sim import Network

GROUP = "224.0.0.252"


class World:
    """Two stacks on a link, and what is said there by UDP over IPv4."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.a, self.b = net.stack("a"), net.stack("b")
        self.wire = net.wire(self.a, self.b, addresses=(["10.0.0.1/24", "fd00::1/64"], "10.0.0.2/24"), delay=0.001)
        self.heard: list[tuple[str, str, dns.Message]] = []
        self.wire.a_to_b.filter = self._note
        self.wire.b_to_a.filter = self._note

    def _note(self, frame: bytes, n: int) -> bytes:
        if frame[12:14] == b"\x08\0" and frame[23] == 17 and 5355 in struct.unpack_from("!HH", frame, 34):
            where = [socket.inet_ntoa(frame[k : k + 4]) for k in (26, 30)]
            with contextlib.suppress(dns.DnsError):
                self.heard.append((where[0], where[1], dns.parse(frame[42:])))
        return frame

    def said(self, source: str, response: bool) -> list[dns.Message]:
        return [m for s, _, m in self.heard if s == source and bool(m.flags & dns.QR) == response]

    def ask(self, data: bytes, to: str = GROUP) -> dns.Message | None:
        """b's own words, and what comes back."""
        with self.b.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1)
            sock.sendto(data, (to, 5355))
            try:
                return dns.parse(sock.recv(2000))
            except TimeoutError:
                return None


@pytest.fixture
def world() -> Iterator[World]:
    with Network(seed=1) as net:
        made = World(net)
        net.run(3)
        yield made


def question(name: str = "thing", type: int = dns.A, flags: int = 0, **more: Any) -> bytes:
    return dns.build(7, flags, [(name, type, dns.IN)], **more)


@pytest.mark.rfc("4795", "4.1")
def test_the_name_is_verified_and_then_answered_for(world: World) -> None:
    ours = world.a.llmnr(hostname="Thing")
    assert ours.wait(10)
    assert [m.questions for m in world.said("10.0.0.1", False)] == [(("Thing", dns.ANY, dns.IN),)] * 3
    reply = world.ask(question("tHING"))
    assert reply is not None
    assert (reply.id, reply.flags, reply.questions) == (7, dns.QR, (("tHING", dns.A, dns.IN),))
    assert [(r.type, r.ttl, r.data) for r in reply.answers] == [(dns.A, 30, "10.0.0.1")]
    assert world.heard[-1][:2] == ("10.0.0.1", "10.0.0.2"), "by unicast"
    every = world.ask(question(type=dns.ANY))
    assert every is not None
    assert {r.type for r in every.answers} == {dns.A, dns.AAAA}
    none = world.ask(question(type=dns.TXT))
    assert none is not None, "the name is ours, and has no such record"
    assert (none.rcode, none.answers) == (dns.NOERROR, ())
    back = world.ask(question("1.0.0.10.in-addr.arpa", dns.PTR))
    assert back is not None
    assert back.answers[0].data == "Thing"


@pytest.mark.rfc("4795", "2.3")
@pytest.mark.parametrize(
    "data",
    [
        question("another"),
        question("thing.local"),
        question("9.0.0.10.in-addr.arpa", dns.PTR),
        question(flags=0x0800),  # another opcode
        question(flags=dns.QR),
        dns.build(7, 0, [("thing", dns.A, 3)]),  # another class
        dns.build(7, 0, [("thing", dns.A, dns.IN)] * 2),
        question(answers=[Record("thing", dns.A, 1, "10.0.0.9")]),
        question(authority=[Record("thing", dns.A, 1, "10.0.0.9")]),
        question()[:-1],
    ],
)
def test_what_is_not_answered(world: World, data: bytes) -> None:
    world.a.llmnr(hostname="thing").wait(10)
    assert world.ask(data) is None
    assert world.ask(question()) is not None


def test_names_of_one_label_are_looked_up(world: World) -> None:
    world.a.llmnr(hostname="thing").wait(10)
    world.b.llmnr().wait(10)
    before = world.net.now
    assert world.b.gethostbyname("thing") == "10.0.0.1"
    assert world.net.now - before < 1e9
    infos = world.b.getaddrinfo("THING", 80, socket.AF_INET6, socket.SOCK_STREAM)
    assert "fd00::1" in {info[4][0] for info in infos}
    before = world.net.now
    with pytest.raises(socket.gaierror):
        world.b.gethostbyname("nobody")
    assert 3e9 < world.net.now - before < 4e9
    asked = [m for m in world.said("10.0.0.2", False) if m.questions[0][0] == "nobody"]
    assert len(asked) == 3
    count = len(world.heard)
    with pytest.raises(socket.gaierror):
        world.b.gethostbyname("a.name.with.dots")
    assert len(world.heard) == count, "that is nothing for the link"


@pytest.mark.rfc("4795", "4.1")
def test_a_name_that_somebody_has(world: World) -> None:
    assert world.a.llmnr(hostname="box").wait(10)
    second = world.b.llmnr(hostname="box")
    assert not second.wait(10)
    assert second.conflict
    with world.a.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(question("box"), (GROUP, 5355))
        world.net.run(2)
    assert world.said("10.0.0.2", True) == []


@pytest.mark.rfc("4795", "4.1")
def test_of_two_that_begin_at_once_the_lower_address_has_it(world: World) -> None:
    first, second = world.a.llmnr(hostname="box"), world.b.llmnr(hostname="box")
    assert (first.wait(10), second.wait(10)) == (True, False)
    tentative = [m for m in (*world.said("10.0.0.1", True), *world.said("10.0.0.2", True)) if m.flags & TENTATIVE]
    assert tentative


@pytest.mark.rfc("4795", "4.2")
def test_a_query_that_tells_of_a_conflict_is_looked_into(world: World) -> None:
    ours = world.a.llmnr(hostname="thing")
    ours.wait(10)
    count = len(world.said("10.0.0.1", False))
    assert world.ask(question(flags=CONFLICT)) is None
    reply = world.ask(question())
    assert reply is not None
    assert not reply.flags & TENTATIVE, "nobody takes it away by asking"
    world.net.run(4)
    assert ours.wait(10)
    assert len(world.said("10.0.0.1", False)) == count + 3


@pytest.mark.rfc("4795", "4.2")
def test_whoever_hears_several_answers_tells_of_it(world: World) -> None:
    """Hosts that had found the name to be theirs come to one link; the lowest address keeps it."""
    with Network(seed=9) as net:
        middle, hosts = net.stack("middle"), [net.stack(f"h{k}") for k in (1, 2, 3)]
        for k, host in enumerate(hosts, 1):
            net.wire(middle, host, addresses=([], f"10.0.0.{k}/24"), delay=0.001)
        net.run(3)
        theirs = [host.llmnr(hostname="box") for host in hosts]
        assert all(one.wait(10) for one in theirs)
        middle.add_bridge("br0", [one.name for one in middle.interfaces() if one.medium != "loopback"])
        middle.add_address("br0", "10.0.0.9/24")
        net.run(3)
        asker = middle.llmnr("br0")
        asker.wait(10)
        said: list[dns.Message] = []
        send = asker._send
        asker._send = lambda data, to=None: (said.append(dns.parse(data)), send(data, to))[1]  # type: ignore[method-assign]
        assert sorted(asker.resolve("box")) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"], "all of them are heard"
        net.run(5)
        (told,) = [one for one in said if one.flags & CONFLICT]
        assert sorted(str(one.data) for one in told.additional) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
        assert [one.conflict for one in theirs] == [False, True, True]
        assert asker.resolve("box") == ["10.0.0.1"]


@pytest.mark.rfc("4795", "2.4")
def test_a_datagram_to_one_host_asks_nothing(world: World) -> None:
    world.a.llmnr(hostname="thing").wait(10)
    assert world.ask(question(), to="10.0.0.1") is None
    assert world.ask(question()) is not None


@pytest.mark.rfc("4795", "2.6")
@pytest.mark.parametrize("source", ["fd00::2", "link-local"])
def test_addresses_of_the_scope_that_asks_come_first(world: World, source: str) -> None:
    world.b.add_address(world.b.interfaces()[-1].name, "fd00::2/64")
    world.net.run(3)
    world.a.llmnr(hostname="thing").wait(10)
    last = world.b.interfaces()[-1]
    near = next(a.address for a in last.addresses if a.address.startswith("fe80"))
    with world.b.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.bind((source if source != "link-local" else near, 0, 0, last.index if source == "link-local" else 0))
        sock.sendto(question(type=dns.AAAA), ("ff02::1:3", 5355, 0, last.index))
        found = [str(r.data) for r in dns.parse(sock.recv(2000)).answers]
    assert found[0].startswith("fe80") == (source == "link-local")
    assert len(found) == 2


@pytest.mark.rfc("4795", "4.1")
def test_a_new_address_is_a_reason_to_look_again(world: World) -> None:
    ours = world.a.llmnr(hostname="thing")
    ours.wait(10)
    world.net.run(5)
    count = len(world.said("10.0.0.1", False))
    world.a.add_address(world.a.interfaces()[-1].name, "10.0.0.7/24")
    world.net.run(10)
    assert len(world.said("10.0.0.1", False)) == count + 3
    assert ours.wait(1)


@pytest.mark.rfc("4795", "2.5")
def test_answers_come_with_255_hops(world: World) -> None:
    world.a.llmnr(hostname="thing").wait(10)
    with world.b.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
        sock.sendto(question(), (GROUP, 5355))
        _, ((_, _, hops),), _, _ = sock.recvmsg(2000, 100)
        assert struct.unpack("i", hops) == (255,)


@pytest.mark.rfc("4795", "2.4")
def test_what_is_too_long_for_a_datagram_comes_by_tcp(world: World) -> None:
    name = world.a.interfaces()[-1].name
    for k in range(10, 22):
        world.a.add_address(name, f"fd00::{k}/64")
    world.a.llmnr(hostname="t" * 60).wait(10)
    reply = world.ask(question("t" * 60, dns.AAAA))
    assert reply is not None
    assert reply.flags & TRUNCATED
    theirs = world.b.llmnr()
    found = theirs.resolve("t" * 60, (socket.AF_INET6,))
    assert {f"fd00::{k}" for k in range(10, 22)} <= set(found)


def test_from_beyond_the_link_nothing_is_heard(world: World) -> None:
    world.a.llmnr(hostname="thing").wait(10)
    world.b.add_address(world.b.interfaces()[-1].name, "192.0.2.9/24")
    world.a.add_route("192.0.2.0/24", "10.0.0.2")
    with world.b.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.bind(("192.0.2.9", 0))
        sock.sendto(question(), (GROUP, 5355))
        with pytest.raises(TimeoutError):
            sock.recv(2000)


def test_it_is_off_until_asked_for_and_ends(world: World) -> None:
    assert world.ask(question()) is None
    ours = world.a.llmnr(hostname="thing")
    ours.wait(10)
    ours.close()
    ours.close()
    assert ours.state == "STOPPED"
    assert world.ask(question()) is None
    with pytest.raises(OSError, match="closed"):
        ours.resolve("x")
    with world.a.llmnr(hostname="again") as again:
        assert again.wait(10)


class TestTheMachine:
    """What it believes, without a network."""

    def made(self) -> Machine:
        import random

        return Machine(random.Random(1), "thing", lambda: ["10.0.0.1"])

    @pytest.mark.rfc("4795", "2.1.1")
    @pytest.mark.parametrize(
        ("id", "name", "type", "flags", "believed"),
        [
            (0, "box", dns.A, dns.QR, True),
            (0, "BOX", dns.A, dns.QR, True),
            (1, "box", dns.A, dns.QR, False),
            (0, "fox", dns.A, dns.QR, False),
            (0, "box", dns.AAAA, dns.QR, False),
            (0, "box", dns.A, dns.QR | TENTATIVE, False),
            (0, "box", dns.A, dns.QR | dns.NXDOMAIN, False),
        ],
    )
    def test_responses(self, id: int, name: str, type: int, flags: int, believed: bool) -> None:
        machine = self.made()
        asked = machine.ask("box", dns.A, 0.0)
        answers = [Record("box", dns.A, 30, "10.0.0.2"), Record("other", dns.A, 30, "10.0.0.3")]
        data = dns.build(asked.id ^ id, flags, [(name, type, dns.IN)], answers)
        assert machine.receive(data, ("10.0.0.2", 5355), 0.5) == []
        assert asked.addresses == (["10.0.0.2"] if believed else [])
        assert asked.answered == believed

    @pytest.mark.rfc("4795", "4.1")
    def test_our_own_answer_by_another_interface_is_no_conflict(self) -> None:
        import random

        machine = Machine(random.Random(1), "thing", lambda: ["10.0.0.1"], lambda one: one == "10.0.0.2")
        machine.verify(0.0)
        (own,) = machine._asked.values()
        data = dns.build(own.id, dns.QR, [("thing", dns.ANY, dns.IN)])
        machine.receive(data, ("10.0.0.2", 5355), 0.1)
        assert machine.state == "verifying"
        machine.receive(data, ("10.0.0.3", 5355), 0.1)
        assert machine.state == "conflict"

    @pytest.mark.rfc("4795", "2.7")
    def test_others_have_time_to_answer_too(self) -> None:
        """One host that answers by both families, or knows that it is not the only one, is no dispute."""
        machine = self.made()
        for peers, flags, disputed in (
            (["10.0.0.2", "fe80::2"], 0, False), (["10.0.0.2", "10.0.0.3"], 0, True),
            (["10.0.0.2", "10.0.0.2"], 0, False), (["10.0.0.2", "10.0.0.3"], CONFLICT, False),
        ):  # fmt: skip
            asked = machine.ask("box", dns.A, 0.0)
            for k, peer in enumerate(peers):
                answers = [Record("box", dns.A, 30, f"10.0.0.{2 + k}")]
                data = dns.build(asked.id, dns.QR | flags, [("box", dns.A, dns.IN)], answers)
                machine.receive(data, (peer, 5355), 0.5)
            assert not asked.over
            assert machine.deadline == pytest.approx(0.6)
            assert bool(machine.timer(0.6)) == disputed
            assert asked.over
            assert asked.addresses == ["10.0.0.2", "10.0.0.3"]
            machine.drop(asked)

    @given(st.binary(max_size=80), st.integers(0, 65535))
    def test_anything_may_come(self, data: bytes, flags: int) -> None:
        machine = self.made()
        machine.verify(0.0)
        asked = machine.ask("box", dns.A, 0.0)
        for message in (data, question("thing")[:2] + struct.pack("!H", flags) + question("thing")[4:] + data):
            machine.receive(message, ("10.0.0.2", 5355), 0.1)
            machine.receive(asked.id.to_bytes(2, "big") + message[2:], ("10.0.0.2", 5355), 0.1)
        assert len(asked.addresses) <= 64

    def test_how_much_is_kept(self) -> None:
        machine = self.made()
        asked = [machine.ask(f"n{k}", dns.A, 0.0) for k in range(1000)]
        assert len(machine._asked) <= 256
        answers = [Record("n999", dns.A, 30, f"10.0.{k}.2") for k in range(200)]
        machine.receive(dns.build(asked[-1].id, dns.QR, [("n999", dns.A, dns.IN)], answers), ("10.0.0.2", 5355), 0.1)
        assert len(asked[-1].addresses) == 64
