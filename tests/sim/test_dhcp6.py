"""The DHCPv6 client against a scripted server in virtual time (RFC 8415, 3646, 4704)."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv6Address
from typing import Any

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import Ether

from ustack import dhcp6_wire as wire
from ustack.dhcp6_wire import IA_NA, IA_PD, Association, Binding, Message
from ustack.sim import Network

ADDRESS, PREFIX = "fd00::50", "fd00:0:0:100::/56"
DNS = "fd00::2"
MAC, ROUTER = "02:00:00:00:00:99", "fe80::99"
SERVER_DUID = b"\0\3\0\1server"


class World:
    """A stack without addresses, and a DHCPv6 server and a router at the other end of its wire."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.a = net.stack("a")
        self.wire = net.wire(self.a, None, delay=0.001)
        self.name = next(one.name for one in self.a.interfaces() if one.medium == "ethernet")
        self.heard: list[tuple[float, Message]] = []
        self.options: dict[int, bytes] = {wire.DNS_SERVERS: IPv6Address(DNS).packed, wire.SEARCH: b"\4corp\4test\0"}
        self.address, self.lifetimes, self.times = ADDRESS, (3000, 4000), (1000, 2000)
        self.silent: set[int] = set()  # kinds of messages that get no answer
        self.status: dict[int, int] = {}  # kind of message -> of its associations
        self.rapid = False
        self.taken = ""  # the address that somebody defends
        self.events: list[str] = []
        self.seen_leases: list[Any] = []
        net.spawn(self._serve)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                frame = Ether(self.wire.b.recv())
                if frame.dst in ("33:33:00:01:00:02", MAC) and UDP in frame and frame[UDP].dport == 547:
                    message = wire.parse(bytes(frame[UDP].payload))
                    self.heard.append((self.net.now / 1e9, message))
                    assert (frame[IPv6].dst, frame[IPv6].hlim) == ("ff02::1:2", 1)
                    if message.type not in self.silent:
                        for answer in self.answers(message):
                            self.send(frame, wire.build(answer))
                elif ICMPv6ND_NS in frame and frame[ICMPv6ND_NS].tgt == self.taken:
                    back = IPv6(src=self.taken, dst="ff02::1", hlim=255) / ICMPv6ND_NA(tgt=self.taken, R=0, S=0, O=1)
                    lladdr = ICMPv6NDOptDstLLAddr(lladdr=MAC)
                    self.wire.b.send(bytes(Ether(src=MAC, dst="33:33:00:00:00:01") / back / lladdr))

    def send(self, to: Any, data: bytes) -> None:
        packet = IPv6(src=ROUTER, dst=to[IPv6].src) / UDP(sport=547, dport=546) / data
        self.wire.b.send(bytes(Ether(src=MAC, dst=to.src) / packet))

    def answers(self, message: Message) -> list[Message]:
        return [self.answer(message)]

    def answer(self, message: Message, **changes: Any) -> Message:
        rapid = self.rapid and wire.RAPID_COMMIT in message.options
        kind = wire.ADVERTISE if message.type == wire.SOLICIT and not rapid else wire.REPLY
        options = {
            wire.CLIENT_ID: message.options[wire.CLIENT_ID], wire.SERVER_ID: SERVER_DUID,
            **({wire.RAPID_COMMIT: b""} if rapid else {}), **self.options, **changes.pop("options", {}),
        }  # fmt: skip
        status = self.status.get(message.type, wire.SUCCESS)
        given = []
        for one in message.associations:
            what = self.address if one.kind == IA_NA else PREFIX
            bindings = () if status else (Binding(what, *self.lifetimes),)
            given.append(Association(one.kind, one.iaid, bindings, *self.times, status))
        return replace(Message(kind, message.xid, options, tuple(given)), **changes)

    def dhcp(self, **options: Any) -> Any:
        def note(event: str, lease: Any) -> None:
            self.events.append(event)
            self.seen_leases.append(lease)

        return self.a.dhcp6(self.name, **{"mode": "stateful", **options}, on_event=note)

    def kinds(self) -> list[int]:
        return [message.type for _, message in self.heard]

    def of(self, kind: int) -> list[tuple[float, Message]]:
        return [(when, message) for when, message in self.heard if message.type == kind]

    def addresses(self, name: str | None = None) -> list[str]:
        mine = (one for one in self.a.interfaces() if one.name == (name or self.name))
        return [str(a) for one in mine for a in one.addresses if not a.address.startswith("fe80:")]

    def advertise(self, flags: int) -> None:
        """A router's advertisement with these flags."""
        packet = IPv6(src=ROUTER, dst="ff02::1", hlim=255) / ICMPv6ND_RA(M=flags >> 7, O=flags >> 6 & 1)
        self.wire.b.send(bytes(Ether(src=MAC, dst="33:33:00:00:00:01") / packet))


@pytest.fixture
def net() -> Iterator[Network]:
    with Network(seed=1) as made:
        yield made


@pytest.fixture
def world(net: Network) -> World:
    return World(net)


@pytest.mark.rfc("8415", "18.2.1")
def test_an_address_is_got_and_used(world: World) -> None:
    dhcp = world.dhcp(hostname="thing", rapid_commit=False)
    lease = dhcp.wait(20)
    assert [one.what for one in lease.addresses] == [ADDRESS]
    assert (dhcp.state, world.events, dhcp.lease, lease.server) == ("BOUND", ["bound"], lease, SERVER_DUID)
    assert world.addresses() == [f"{ADDRESS}/128"]
    assert (world.a.resolver.servers, world.a.resolver.search) == ([DNS], ["corp.test"])
    (_, solicit), (_, request) = world.heard
    assert (solicit.type, request.type) == (wire.SOLICIT, wire.REQUEST)
    assert wire.SERVER_ID not in solicit.options
    assert wire.RAPID_COMMIT not in solicit.options
    assert request.options[wire.SERVER_ID] == SERVER_DUID
    assert solicit.options[wire.CLIENT_ID] == request.options[wire.CLIENT_ID]
    assert solicit.options[wire.CLIENT_ID].startswith(b"\0\3\0\1\2")
    assert solicit.options[wire.REQUESTED] == wire.numbers((23, 24, 82))
    assert solicit.options[wire.CLIENT_NAME] == b"\0\5thing"
    assert solicit.xid != request.xid
    assert [one.what for one in request.associations[0].bindings] == [ADDRESS]


@pytest.mark.rfc("8415", "18.2.1")
def test_rapid_commit(world: World) -> None:
    world.rapid = True
    assert world.dhcp().wait(20).addresses[0].what == ADDRESS
    assert world.kinds() == [wire.SOLICIT]


@pytest.mark.rfc("8415", "15")
def test_messages_are_repeated_ever_more_slowly(world: World) -> None:
    world.silent = {wire.SOLICIT}
    world.options[wire.SOL_MAX_RT] = (60).to_bytes(4, "big")
    dhcp = world.dhcp()
    with pytest.raises(TimeoutError):
        dhcp.wait(300)
    times = [when for when, _ in world.heard]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    wanted = 1.0
    for number, gap in enumerate(gaps):
        assert wanted * (1.0 if number == 0 else 0.9) <= gap <= wanted * 1.1 + 0.01
        wanted = 2 * gap
    assert len({message.xid for _, message in world.heard}) == 1
    elapsed = [int.from_bytes(message.options[wire.ELAPSED], "big") for _, message in world.heard]
    assert elapsed[0] == 0
    assert elapsed[3] == pytest.approx((times[3] - times[0]) * 100, abs=2)
    world.silent = set()
    assert dhcp.wait(400).addresses[0].what == ADDRESS


@pytest.mark.rfc("8415", "18.2.1")
def test_a_server_says_how_rarely_to_ask(world: World) -> None:
    world.options[wire.SOL_MAX_RT] = (60).to_bytes(4, "big")
    world.status[wire.SOLICIT] = wire.NO_ADDRESSES
    dhcp = world.dhcp()
    with pytest.raises(TimeoutError):
        dhcp.wait(600)
    gaps = [b - a for (a, _), (b, _) in itertools.pairwise(world.heard)]
    assert max(gaps) <= 66.1
    assert sum(gap > 53 for gap in gaps) >= 5


@pytest.mark.rfc("8415", "18.2.9")
def test_the_server_that_wants_it_most_is_taken(world: World) -> None:
    def several(message: Message) -> list[Message]:
        if message.type != wire.SOLICIT:
            return [world.answer(message)]
        return [
            world.answer(message, options={wire.SERVER_ID: b"\0\2" + bytes([n, n]), wire.PREFERENCE: bytes([n])})
            for n in (3, 9, 5)
        ]

    world.answers = several  # type: ignore[method-assign]
    dhcp = world.dhcp(rapid_commit=False)
    with pytest.raises(TimeoutError):  # the answer is another server's
        dhcp.wait(5)
    assert world.of(wire.REQUEST)[0][1].options[wire.SERVER_ID] == b"\0\2\x09\x09"
    assert world.of(wire.REQUEST)[0][0] - world.heard[0][0] >= 1.0


@pytest.mark.rfc("8415", "18.2.4")
def test_renewals_and_rebinding(world: World) -> None:
    dhcp = world.dhcp()
    lease = dhcp.wait(20)
    world.heard.clear()
    world.net.run(3500)
    assert world.kinds() == [wire.RENEW] * 3
    assert world.events == ["bound", "renewed", "renewed", "renewed"]
    assert dhcp.lease.expires_at > lease.expires_at + 2900
    world.silent, before = {wire.RENEW}, dhcp.lease
    world.heard.clear()
    world.net.run(until=before.rebind_at + 0.1)
    assert set(world.kinds()) == {wire.RENEW, wire.REBIND}
    assert world.addresses() == [f"{ADDRESS}/128"]
    (when, rebind), = world.of(wire.REBIND)  # fmt: skip
    assert when == pytest.approx(before.rebind_at, abs=0.01)
    assert wire.SERVER_ID not in rebind.options
    assert dhcp.state == "BOUND"
    gaps = [b - a for (a, _), (b, _) in itertools.pairwise(world.of(wire.RENEW))]
    assert 9 <= gaps[0] <= 11
    assert gaps[1] > 17


@pytest.mark.rfc("8415", "18.2.5")
def test_without_any_server_the_address_ends(world: World) -> None:
    dhcp = world.dhcp()
    lease = dhcp.wait(20)
    world.silent = {wire.RENEW, wire.REBIND, wire.SOLICIT}
    world.net.run(until=lease.expires_at - 1)
    assert dhcp.state == "REBINDING"
    assert world.addresses() == [f"{ADDRESS}/128"]
    world.net.run(2)
    assert (dhcp.state, world.addresses(), dhcp.lease) == ("SOLICITING", [], None)
    assert world.events == ["bound", "expired"]
    assert world.a.resolver is None


@pytest.mark.rfc("8415", "18.2.10.1")
def test_a_server_that_forgot_is_asked_anew(world: World) -> None:
    dhcp = world.dhcp()
    lease = dhcp.wait(20)
    world.status = {wire.RENEW: wire.NO_BINDING}
    world.net.run(until=lease.renew_at + 1)
    assert world.kinds()[-2:] == [wire.RENEW, wire.REQUEST]
    assert world.events == ["bound", "renewed"]
    assert world.addresses() == [f"{ADDRESS}/128"]
    world.status, world.lifetimes = {}, (0, 0)  # and one that takes it away
    world.net.run(until=dhcp.lease.renew_at + 0.5)
    assert (world.events[-1], world.addresses()) == ("refused", [])


@pytest.mark.rfc("8415", "18.2.8")
def test_an_address_that_somebody_has(world: World) -> None:
    world.taken = ADDRESS
    dhcp = world.dhcp()
    with pytest.raises(TimeoutError):
        dhcp.wait(15)
    assert "conflict" in world.events
    decline = world.of(wire.DECLINE)[0][1]
    assert [b.what for b in decline.associations[0].bindings] == [ADDRESS]
    assert decline.options[wire.SERVER_ID] == SERVER_DUID
    gaps = [b - a for (a, _), (b, _) in itertools.pairwise(world.of(wire.DECLINE))]
    assert gaps == sorted(gaps)
    world.address = "fd00::51"
    assert dhcp.wait(60).addresses[0].what == "fd00::51"
    assert world.addresses() == ["fd00::51/128"]


@pytest.mark.rfc("8415", "18.2.7")
def test_release(world: World) -> None:
    dhcp = world.dhcp()
    dhcp.wait(20)
    dhcp.release()
    assert (dhcp.state, world.events, world.addresses()) == ("STOPPED", ["bound", "released"], [])
    (_, release), = world.of(wire.RELEASE)  # fmt: skip
    assert [b.what for b in release.associations[0].bindings] == [ADDRESS]
    dhcp.release()
    assert len(world.of(wire.RELEASE)) == 1


@pytest.mark.rfc("8415", "18.2.1")
def test_a_prefix_is_delegated_and_assigned(world: World) -> None:
    other = world.net.wire(world.a, None)
    lan = world.a.interfaces()[-1].name
    dhcp = world.dhcp(prefix=56, assign={lan: 3})
    lease = dhcp.wait(20)
    assert [one.what for one in lease.prefixes] == [PREFIX]
    assert world.addresses(lan) == ["fd00:0:0:103::1/64"]
    solicit = world.heard[0][1]
    assert [(one.kind, [b.what for b in one.bindings]) for one in solicit.associations] == [
        (IA_NA, []), (IA_PD, ["::/56"]),
    ]  # fmt: skip
    dhcp.release()
    assert world.addresses(lan) == []
    assert {one.kind for one in world.of(wire.RELEASE)[0][1].associations} == {IA_NA, IA_PD}
    assert other.a is not None


@pytest.mark.rfc("8415", "18.2.6")
def test_stateless(world: World) -> None:
    world.options[wire.REFRESH_TIME] = (700).to_bytes(4, "big")
    dhcp = world.dhcp(mode="stateless")
    lease = dhcp.wait(20)
    assert (lease.grants, lease.dns_servers, lease.search) == ((), (DNS,), ("corp.test",))
    assert world.a.resolver.servers == [DNS]
    assert dhcp.state == "INFORMED"
    world.net.run(1500)
    assert world.kinds() == [wire.INFORMATION_REQUEST] * 3
    assert world.heard[0][1].options[wire.REQUESTED] == wire.numbers((23, 24, 32, 83))
    dhcp.release()
    assert world.a.resolver is None


@pytest.mark.rfc("8415", "18.2")
def test_routers_say_what_is_to_be_asked(world: World) -> None:
    dhcp = world.dhcp(mode="auto")
    world.net.run(5)
    assert (world.heard, dhcp.state) == ([], "INIT")
    world.advertise(0)
    world.net.run(5)
    assert world.heard == []
    world.advertise(0x40)
    world.net.run(15)
    assert (world.kinds(), dhcp.state) == ([wire.INFORMATION_REQUEST], "INFORMED")
    world.advertise(0xC0)
    world.net.run(20)
    assert world.addresses() == [f"{ADDRESS}/128"]
    assert world.kinds()[1:] == [wire.SOLICIT, wire.REQUEST]
    assert world.a.resolver.servers == [DNS]


def test_what_is_not_for_us_changes_nothing(world: World) -> None:
    good = world.answer

    def wrong(message: Message) -> list[Message]:
        right = good(message)
        late = Association(IA_NA, right.associations[0].iaid, right.associations[0].bindings, 5000, 100)
        without = {n: v for n, v in right.options.items() if n != wire.CLIENT_ID}
        return [
            replace(right, xid=right.xid ^ 1),
            replace(right, options={**right.options, wire.CLIENT_ID: b"\0\3\0\1other!"}),
            replace(right, options=without),
            replace(right, options={**right.options, wire.SERVER_ID: b""}),
            replace(right, associations=(replace(right.associations[0], iaid=1),)),
            replace(right, associations=(late,)),
            replace(right, associations=(replace(right.associations[0], bindings=(Binding("ff02::1", 9, 9),)),)),
            replace(right, type=wire.RECONFIGURE),
            replace(right, type=wire.SOLICIT),
        ]

    world.answers = wrong  # type: ignore[method-assign]
    dhcp = world.dhcp(rapid_commit=False)
    with pytest.raises(TimeoutError):
        dhcp.wait(100)
    assert (world.events, world.addresses()) == ([], [])
    world.answers = lambda message: [good(message)]  # type: ignore[method-assign]
    assert dhcp.wait(4000).addresses[0].what == ADDRESS


def test_for_ever(world: World) -> None:
    world.lifetimes, world.times = (wire.FOREVER, wire.FOREVER), (0, 0)
    lease = world.dhcp().wait(20)
    assert (lease.renew_at, lease.rebind_at, lease.expires_at) == (None, None, None)
    world.net.run(1e6)
    assert world.kinds() == [wire.SOLICIT, wire.REQUEST]


def test_names_of_both_clients_are_asked(world: World) -> None:
    from ustack.dhcp_client import learn_names

    learn_names(world.a, "v4", ["10.0.0.2"], ["v4.test"])
    dhcp = world.dhcp()
    dhcp.wait(20)
    assert world.a.resolver.servers == ["10.0.0.2", DNS]
    assert world.a.resolver.search == ["v4.test", "corp.test"]
    dhcp.close()
    assert world.a.resolver.servers == ["10.0.0.2"]
    mine = world.a.use_dns(["10.0.0.9"])
    learn_names(world.a, "v4", ["10.0.0.3"], [])
    assert world.a.resolver is mine


def test_wrong_arguments(world: World) -> None:
    for wrong in ({"mode": "x"}, {"prefix": 129}, {"duid": b"x"}, {"previous": ["x"]}):
        with pytest.raises(ValueError):
            world.a.dhcp6(world.name, **wrong)
    with pytest.raises(OSError):
        world.a.dhcp6("nowhere")
