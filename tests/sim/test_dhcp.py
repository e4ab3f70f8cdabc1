"""The DHCPv4 client against a scripted server in virtual time (RFC 2131, 2132, 3442, 5227)."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest

from ustack import dhcp_wire as wire
from ustack.dhcp_wire import Message
from ustack.sim import Network

ADDRESS = IPv4Address("10.0.0.50")
SERVER = IPv4Address("10.0.0.2")


class World:
    """A stack without an address, and a DHCP server on another one. vlan: both in a VLAN of the wire."""

    def __init__(self, net: Network, vlan: int | None = None, **wire_settings: Any) -> None:
        self.net = net
        self.a, self.b = net.stack("a"), net.stack("b")
        own = None if vlan else f"{SERVER}/24"
        self.wire = net.wire(self.a, self.b, addresses=(None, own), delay=0.001, **wire_settings)
        self.name, self.servers = (stack.interfaces()[-1].name for stack in (self.a, self.b))
        if vlan:
            self.name = self.a.add_vlan(self.name, vlan)
            self.servers = self.b.add_vlan(self.servers, vlan, addresses=[f"{SERVER}/24"])
        self.heard: list[tuple[float, Message, str]] = []
        self.options: dict[int, bytes] = {}
        self.lease = 3600
        self.address = ADDRESS
        self.silent: set[int] = set()  # kinds of messages that get no answer
        self.nak = False
        self.events: list[str] = []
        net.spawn(self._serve)

    def _serve(self) -> None:
        sock = self.b.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.servers.encode())
        sock.bind(("", 67))
        self.sock = sock
        with contextlib.suppress(OSError), sock:
            while True:
                data, peer = sock.recvfrom(2048)
                message = wire.parse(data)
                self.heard.append((self.net.now / 1e9, message, peer[0]))
                if message.type in (wire.DISCOVER, wire.REQUEST) and message.type not in self.silent:
                    for answer in self.answers(message):
                        unicast = int(message.ciaddr) != 0
                        sock.sendto(wire.build(answer), (str(message.ciaddr) if unicast else "255.255.255.255", 68))

    def answers(self, message: Message) -> list[Message]:
        return [self.answer(message)]

    def answer(self, message: Message, **changes: Any) -> Message:
        kind = wire.OFFER if message.type == wire.DISCOVER else wire.NAK if self.nak else wire.ACK
        options = {
            wire.MESSAGE_TYPE: bytes([kind]),
            wire.SERVER_ID: SERVER.packed,
            wire.LEASE_TIME: self.lease.to_bytes(4, "big"),
            wire.SUBNET_MASK: bytes([255, 255, 255, 0]),
            **self.options,
            **changes.pop("options", {}),
        }
        fields = {"op": wire.BOOTREPLY, "xid": message.xid, "chaddr": message.chaddr, "yiaddr": self.address, **changes}
        return Message(options={n: value for n, value in options.items() if value}, **fields)

    def dhcp(self, **options: Any) -> Any:
        return self.a.dhcp(self.name, on_event=lambda event, lease: self.events.append(event), **options)

    def kinds(self) -> list[int]:
        return [message.type for _, message, _ in self.heard]

    def addresses(self) -> list[str]:
        """IPv4's."""
        mine = (one for one in self.a.interfaces() if one.name == self.name)
        return [str(a) for one in mine for a in one.addresses if ":" not in a.address]

    def routes(self) -> dict[str, str | None]:
        """IPv4's, destination -> gateway."""
        mine = (one for one in self.a.routes() if one.interface == self.name)
        return {one.destination: one.gateway for one in mine if ":" not in one.destination}

    def reachable(self) -> bool:
        with self.b.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
            sock.settimeout(3.5)
            sock.sendto(b"\x08\0\0\0\0\0\0\1", (str(self.address), 0))
            try:
                return bool(sock.recv(100))
            except OSError:
                return False


@pytest.fixture
def net() -> Iterator[Network]:
    with Network(seed=1) as made:
        yield made


@pytest.fixture
def world(net: Network) -> World:
    return World(net)


@pytest.mark.rfc("2131", "4.4.1")
def test_a_lease_is_got_and_used(world: World) -> None:
    world.options = {wire.ROUTER: SERVER.packed, wire.DNS_SERVERS: SERVER.packed, wire.DOMAIN: b"corp.test"}
    dhcp = world.dhcp(hostname="thing")
    lease = dhcp.wait(20)
    assert (lease.address, lease.prefix_length, lease.server) == ("10.0.0.50", 24, "10.0.0.2")
    assert (dhcp.state, world.events, dhcp.lease) == ("BOUND", ["bound"], lease)
    assert world.addresses() == ["10.0.0.50/24"]
    assert world.routes() == {"10.0.0.0/24": None, "0.0.0.0/0": "10.0.0.2"}
    assert world.a.resolver.servers == ["10.0.0.2"]
    assert world.a.resolver.search == ["corp.test"]
    assert world.reachable()
    (_, discover, source), (_, request, other) = world.heard
    assert (source, other) == ("0.0.0.0", "0.0.0.0")
    assert discover.type == wire.DISCOVER
    assert discover.flags & wire.BROADCAST_FLAG
    assert wire.SERVER_ID not in discover.options
    assert request.type == wire.REQUEST
    assert request.address(wire.SERVER_ID) == SERVER
    assert request.address(wire.REQUESTED_ADDRESS) == ADDRESS
    assert (int(request.ciaddr), request.xid) == (0, discover.xid)
    assert request.options[wire.HOSTNAME] == b"thing"
    assert request.options[wire.CLIENT_ID] == b"\1" + request.chaddr
    assert request.options[wire.PARAMETERS].index(wire.ROUTES) < request.options[wire.PARAMETERS].index(wire.ROUTER)


@pytest.mark.rfc("2131", "4.1")
def test_messages_are_repeated_ever_more_slowly(world: World) -> None:
    world.silent = {wire.DISCOVER}
    dhcp = world.dhcp()
    with pytest.raises(TimeoutError):
        dhcp.wait(200)
    times = [when for when, _, _ in world.heard]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    for gap, wanted in zip(gaps, [4, 8, 16, 32, 64], strict=False):
        assert wanted - 1.01 <= gap <= wanted + 1.01
    assert len(gaps) >= 5
    assert len({round(gap % 1, 3) for gap in gaps}) > 3  # jitter
    assert world.heard[-1][1].secs > 50
    world.silent = set()
    assert dhcp.wait(100).address == "10.0.0.50"


def test_a_request_without_an_answer_begins_anew(world: World) -> None:
    world.silent = {wire.REQUEST}
    world.dhcp()
    world.net.run(120)
    assert world.kinds()[:6] == [wire.DISCOVER, *[wire.REQUEST] * 4, wire.DISCOVER]


@pytest.mark.rfc("2131", "4.4.5")
def test_renewing_rebinding_and_the_end(world: World) -> None:
    dhcp = world.dhcp()
    lease = dhcp.wait(20)
    asked = world.heard[-1][0]
    for at, part in ((lease.renew_at, 0.5), (lease.rebind_at, 0.875), (lease.expires_at, 1.0)):
        assert abs(at - asked - 3600 * part) < 0.1
    world.heard.clear()
    world.net.run(1900)  # T1: by unicast, with ciaddr and without options 50 and 54
    when, request, source = world.heard[0]
    assert abs(when - lease.renew_at) < 0.1
    assert (source, request.ciaddr, world.events) == ("10.0.0.50", ADDRESS, ["bound", "renewed"])
    assert not {wire.REQUESTED_ADDRESS, wire.SERVER_ID} & set(request.options)
    assert not request.flags
    assert dhcp.lease.expires_at > lease.expires_at + 1700
    lease = dhcp.lease

    world.silent = {wire.REQUEST, wire.DISCOVER}
    world.heard.clear()
    world.net.run(until=lease.rebind_at + 1)
    assert dhcp.state == "REBINDING"
    renewals = [when for when, _, _ in world.heard[:-1]]
    assert len(renewals) > 3
    assert all(b - a >= 59.9 for a, b in itertools.pairwise(renewals))
    assert world.reachable()
    world.net.run(until=lease.expires_at - 1)
    assert world.addresses() == ["10.0.0.50/24"]
    world.net.run(2)  # "MUST immediately stop any other network processing"
    assert world.addresses() == []
    assert (world.events[-1], dhcp.lease, dhcp.state) == ("expired", None, "SELECTING")
    assert not world.reachable()
    world.silent = set()
    assert dhcp.wait(100).address == "10.0.0.50"


def test_a_lease_for_ever(world: World) -> None:
    world.lease = wire.FOREVER
    dhcp = world.dhcp()
    assert dhcp.wait(20).expires_at is None
    world.heard.clear()
    world.net.run(10**7)
    assert world.heard == []
    dhcp.renew()
    world.net.run(1)
    assert world.kinds() == [wire.REQUEST]
    assert world.events == ["bound", "renewed"]


@pytest.mark.parametrize(("t1", "t2", "wanted"), [(100, 200, 100), (200, 100, 1800), (0, 0, 1800), (5000, 6000, 1800)])
def test_the_servers_t1_where_it_makes_sense(world: World, t1: int, t2: int, wanted: int) -> None:
    world.options = {wire.T1: t1.to_bytes(4, "big"), wire.T2: t2.to_bytes(4, "big")}
    lease = world.dhcp().wait(20)
    assert abs(lease.renew_at - world.heard[-1][0] - wanted) < 0.1


@pytest.mark.rfc("2131", "3.2")
def test_the_same_address_again(world: World) -> None:
    """INIT-REBOOT: one REQUEST; and where the server knows nothing of it (NAK), from the beginning."""
    dhcp = world.dhcp(previous="10.0.0.50")
    assert dhcp.wait(20).address == "10.0.0.50"
    assert world.kinds() == [wire.REQUEST]
    request = world.heard[0][1]
    assert wire.SERVER_ID not in request.options
    assert (request.address(wire.REQUESTED_ADDRESS), int(request.ciaddr)) == (ADDRESS, 0)
    dhcp.release()
    world.heard.clear()
    world.nak = True
    dhcp = world.dhcp(previous="10.0.0.50")
    world.net.run(until=lambda: dhcp.state == "INIT")
    world.nak = False
    assert dhcp.wait(20).address == "10.0.0.50"
    assert world.kinds() == [wire.REQUEST, wire.DISCOVER, wire.REQUEST]


def test_a_refused_renewal_takes_the_address(world: World) -> None:
    dhcp = world.dhcp()
    dhcp.wait(20)
    world.nak = True
    dhcp.renew()
    world.net.run(until=lambda: "refused" in world.events)
    assert world.addresses() == []
    assert dhcp.lease is None
    world.nak = False
    dhcp.wait(20)


@pytest.mark.rfc("2131", "4.4.1")
def test_a_conflict_is_declined(world: World) -> None:
    world.b.add_address(next(i.name for i in world.b.interfaces() if i.medium == "ethernet"), f"{ADDRESS}/24")
    dhcp = world.dhcp()
    world.net.run(15)
    declines = [(when, message) for when, message, _ in world.heard if message.type == wire.DECLINE]
    assert declines
    when, decline = declines[0]
    assert decline.address(wire.REQUESTED_ADDRESS) == ADDRESS
    assert decline.address(wire.SERVER_ID) == SERVER
    assert (int(decline.ciaddr), world.events[0], world.addresses()) == (0, "conflict", [])
    assert wire.PARAMETERS not in decline.options
    world.address = IPv4Address("10.0.0.51")
    assert dhcp.wait(60).address == "10.0.0.51"
    again = [at for at, message, _ in world.heard if message.type == wire.DISCOVER and at > when]
    assert again[0] - when >= 9.9  # §3.1: at least ten seconds


@pytest.mark.rfc("2131", "4.4.6")
def test_release(world: World) -> None:
    dhcp = world.dhcp()
    dhcp.wait(20)
    world.heard.clear()
    dhcp.release()
    dhcp.release()
    world.net.run(1)
    ((_, message, source),) = world.heard
    assert (message.type, message.ciaddr, source) == (wire.RELEASE, ADDRESS, "10.0.0.50")
    assert message.address(wire.SERVER_ID) == SERVER
    assert wire.REQUESTED_ADDRESS not in message.options
    assert world.addresses() == []
    assert world.routes() == {}
    with pytest.raises(OSError):
        dhcp.wait(1)


def test_classless_routes_come_instead_of_the_router(world: World) -> None:
    """RFC 3442: option 121 makes option 3 void; 0.0.0.0 is on-link."""
    world.options = {
        wire.ROUTER: bytes([10, 0, 0, 1]),
        wire.ROUTES: bytes([24, 192, 168, 7, 10, 0, 0, 9, 16, 172, 16, 0, 0, 0, 0, 0, 10, 0, 0, 2]),
    }
    world.dhcp().wait(20)
    assert world.routes() == {
        "10.0.0.0/24": None, "192.168.7.0/24": "10.0.0.9", "172.16.0.0/16": None, "0.0.0.0/0": "10.0.0.2",
    }  # fmt: skip


def test_a_smaller_mtu_is_taken(world: World) -> None:
    world.options = {wire.MTU: (1400).to_bytes(2, "big")}
    world.dhcp().wait(20)
    assert next(one.mtu for one in world.a.interfaces() if one.name == world.name) == 1400


BAD: dict[str, dict[str, Any]] = {
    "another transaction": {"xid": 1},
    "another client": {"chaddr": b"\2\0\0\0\0\7"},
    "a request": {"op": wire.BOOTREQUEST},
    "no address": {"yiaddr": IPv4Address(0)},
    "loopback": {"yiaddr": IPv4Address("127.0.0.1")},
    "a group": {"yiaddr": IPv4Address("224.0.0.1")},
    "the prefix's broadcast address": {"yiaddr": IPv4Address("10.0.0.255")},
    "no server": {"options": {wire.SERVER_ID: b""}},
    "a server that is a group": {"options": {wire.SERVER_ID: bytes([224, 0, 0, 1])}},
    "no lease time": {"options": {wire.LEASE_TIME: b""}},
    "no time at all": {"options": {wire.LEASE_TIME: bytes(4)}},
    "a lease time of three bytes": {"options": {wire.LEASE_TIME: bytes(3)}},
    "no type": {"options": {wire.MESSAGE_TYPE: b""}},
    "a type of two bytes": {"options": {wire.MESSAGE_TYPE: b"\2\2"}},
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_what_no_host_believes(world: World, changes: dict[str, Any]) -> None:
    world.answers = lambda message: [world.answer(message, **changes)]  # type: ignore[method-assign]
    dhcp = world.dhcp()
    world.net.run(30)
    assert dhcp.state == "SELECTING"
    assert world.addresses() == []


def test_an_answer_from_another_port_is_not_heard(world: World) -> None:
    world.silent = {wire.DISCOVER}
    dhcp = world.dhcp()
    world.net.run(1.1)
    with world.b.socket(socket.AF_INET, socket.SOCK_DGRAM) as liar:
        liar.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        liar.sendto(wire.build(world.answer(world.heard[0][1])), ("255.255.255.255", 68))
    world.net.run(1)
    assert dhcp.state == "SELECTING"


def test_a_bad_wire(net: Network) -> None:
    world = World(net, loss=0.3, duplicate=0.2)
    dhcp = world.dhcp()
    dhcp.wait(600)
    for _ in range(20):
        world.net.run(1800)
        assert dhcp.lease is not None
    assert set(world.events) == {"bound", "renewed"}


def test_each_interface_has_its_own_client(net: Network) -> None:
    """On a VLAN: what its client asks and gets has nothing to do with that of the interface below."""
    world = World(net, vlan=5)
    below = world.a.dhcp(world.a.interfaces()[1].name)
    assert world.dhcp().wait(timeout=30).address == str(ADDRESS)
    assert world.addresses() == [f"{ADDRESS}/24"]
    assert world.reachable()
    net.run(duration=30)
    assert (below.state, below.lease) == ("SELECTING", None)
    assert {peer for _, message, peer in world.heard if message.type == wire.DISCOVER} == {"0.0.0.0"}


def test_only_ethernet(net: Network) -> None:
    a, b = net.stack("a"), net.stack("b")
    net.wire(a, b, medium="ip")
    with pytest.raises(ValueError):
        a.dhcp(next(one.name for one in a.interfaces() if one.medium == "ip"))
    with pytest.raises(OSError):
        a.dhcp("nothing")
