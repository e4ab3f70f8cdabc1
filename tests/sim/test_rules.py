"""Where packets go, and which are taken, with more than one interface: rules and tables, the host model, filters and
redirects of one interface. ip-rule(8), RFC 1122 §3.3.4.2 and §3.2.2.2, RFC 1812 §5.2.7.2, RFC 3704.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from ustack import sim

both = pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
MAC = "02:00:00:00:aa:01"
OTHER_MAC = "02:00:00:00:aa:02"


class Fork:
    """A stack with a way to each of two peers, which both have the service's address."""

    def __init__(self, six: bool, ways: int = 2) -> None:
        self.six = six
        self.net = sim.Network(seed=6)
        self.stack = self.net.stack("stack")
        self.peers = [self.net.stack(f"peer{k}") for k in range(ways)]
        self.service = "fd99::1" if six else "192.0.2.1"
        length, host = (64, 128) if six else (24, 32)
        for k, peer in enumerate(self.peers):
            self.net.wire(self.stack, peer, addresses=(f"{self.near(k)}/{length}", f"{self.far(k)}/{length}"))
            peer.add_address(peer.interfaces()[-1].name, f"{self.service}/{host}")
            peer.add_route("default", self.near(k))
        self.names = [one.name for one in self.stack.interfaces() if one.medium != "loopback"]
        self.family = socket.AF_INET6 if six else socket.AF_INET

    def near(self, k: int) -> str:
        return f"fd0{k}::1" if self.six else f"10.0.{k}.1"

    def far(self, k: int) -> str:
        return f"fd0{k}::2" if self.six else f"10.0.{k}.2"

    def host(self, k: int) -> str:
        return f"{self.near(k)}/{128 if self.six else 32}"

    def chosen(self, source: str = "", stack: Any = None, device: str = "") -> list[int]:
        """By which peer a datagram to the service goes, from a socket bound so."""
        with contextlib.ExitStack() as cleanup:
            far = [cleanup.enter_context(peer.socket(self.family, socket.SOCK_DGRAM)) for peer in self.peers]
            for one in far:
                one.bind(("", 9))
                one.settimeout(0)
            sock = cleanup.enter_context((stack or self.stack).socket(self.family, socket.SOCK_DGRAM))
            if device:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            sock.bind((source, 0))
            sock.sendto(b"x", (self.service, 9))
            self.net.run(2)
            return [k for k, one in enumerate(far) if _has_one(one)]

    def __enter__(self) -> Fork:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.net.close()


def _has_one(sock: Any) -> bool:
    try:
        sock.recv(10)
    except BlockingIOError:
        return False
    return True


@both
def test_a_rule_by_source_leads_to_another_table(six: bool) -> None:
    with Fork(six) as fork:
        fork.stack.add_route("default", fork.far(0))
        fork.stack.add_route("default", fork.far(1), table=100)
        assert fork.chosen(fork.near(1)) == [0], "a table that no rule leads to is not looked into"
        fork.stack.add_rule(fork.host(1), table=100)
        assert fork.chosen(fork.near(1)) == [1]
        assert fork.chosen(fork.near(0)) == fork.chosen() == [0]
        fork.stack.del_rule(fork.host(1))
        assert fork.chosen(fork.near(1)) == [0]


@both
def test_tcp_goes_back_by_the_way_it_came(six: bool) -> None:
    """The reason for most rules: a server with an address of each provider answers by the one that was asked."""
    with Fork(six) as fork:
        fork.stack.add_route("default", fork.far(0))
        for k in (0, 1):
            fork.stack.add_route("default", fork.far(k), table=100 + k)
            fork.stack.add_rule(fork.host(k), table=100 + k)
        server = fork.stack.create_server(("", 80), family=fork.family)
        for k, peer in enumerate(fork.peers):
            client = peer.create_connection((fork.near(k), 80), timeout=5, source_address=(fork.service, 0))
            conn, address = server.accept()
            assert address[0] == fork.service
            client.sendall(b"hello")
            assert conn.recv(10) == b"hello"
            client.close()
            conn.close()
        server.close()


@both
def test_rules_by_destination_and_interface(six: bool) -> None:
    with Fork(six) as fork:
        fork.stack.add_route("default", fork.far(0))
        fork.stack.add_route("default", fork.far(1), table=100)
        fork.stack.add_rule(None, f"{fork.service}/{128 if six else 32}", table=100, priority=7)
        assert fork.chosen() == [1]
        fork.stack.del_rule(priority=7, to=f"{fork.service}/{128 if six else 32}")
        anything = "::/0" if six else None
        fork.stack.add_rule(anything, table=100, iif=fork.names[0])
        assert fork.chosen() == [0], "that is for what comes in there"
        fork.stack.add_rule(anything, table=100, iif="lo")
        assert fork.chosen() == [1], "our own"
        fork.stack.del_rule(anything, iif="lo")
        fork.stack.add_rule(anything, table=100, oif=fork.names[1])
        assert fork.chosen() == [0]
        assert fork.chosen(device=fork.names[1]) == [1]


@both
def test_a_router_goes_by_the_same_rules(six: bool) -> None:
    with Fork(six, 3) as fork:
        fork.stack.sysctl["net.ipv4.ip_forward"] = fork.stack.sysctl["net.ipv6.conf.all.forwarding"] = 1
        fork.stack.add_route("default", fork.far(0))
        fork.stack.add_route("default", fork.far(1), table=100)
        client = fork.peers.pop()
        client.remove_address(client.interfaces()[-1].name, fork.service)
        assert fork.chosen(fork.far(2), client) == [0]
        fork.stack.add_rule(f"{fork.far(2)}/{128 if six else 32}", table=100, iif=fork.names[2])
        assert fork.chosen(fork.far(2), client) == [1]
        assert fork.chosen() == [0]


@both
def test_the_order_of_rules_and_what_is_in_none_of_the_tables(six: bool) -> None:
    with Fork(six) as fork:
        fork.stack.add_route("default", fork.far(0))
        fork.stack.add_route("default", fork.far(1), table=100)
        fork.stack.add_route("default", fork.far(0), table=101)
        anything = "::/0" if six else "0.0.0.0/0"
        fork.stack.add_rule(anything, table=102, priority=1)
        assert fork.chosen() == [0], "an empty table, so the next"
        fork.stack.add_rule(anything, table=100, priority=20)
        assert fork.chosen() == [1]
        fork.stack.add_rule(anything, table=101, priority=10)
        assert fork.chosen() == [0]
        fork.stack.del_route(anything, table=101)
        assert fork.chosen() == [1]
        fork.stack.del_rule(anything, table="main", priority=32766)
        fork.stack.del_rule(anything, table=100)
        with pytest.raises(OSError) as caught:
            fork.chosen()
        assert caught.value.errno == errno.ENETUNREACH


def test_no_rule_is_for_neighbours() -> None:
    """Link-local addresses are on their link: a rule for all of IPv6 would cut Neighbor Discovery off."""
    with Fork(True) as fork:
        fork.stack.add_route("default", fork.far(1), table=100)
        fork.stack.add_rule("::/0", table=100, priority=1)
        there = next(a.address for a in fork.peers[0].interfaces()[-1].addresses if a.address.startswith("fe80"))
        with fork.peers[0].create_server(("", 80), family=socket.AF_INET6) as server:
            fork.stack.create_connection((f"{there}%{fork.names[0]}", 80), timeout=5).close()
            server.accept()[0].close()


def test_the_list_of_rules() -> None:
    with sim.Network() as net:
        stack = net.stack()

        def shown(family: int) -> list[tuple[int, str | None, int]]:
            return [(one.priority, one.source, one.table) for one in stack.rules() if one.family == family]

        assert shown(4) == [(0, None, 255), (32766, None, 254), (32767, None, 253)]
        assert shown(6) == [(0, None, 255), (32766, None, 254)]
        stack.add_rule("10.1.0.0/16", table=100)
        stack.add_rule("10.2.0.0/16", table="default")
        stack.add_rule("fd01::/16", table=100, priority=5)
        assert shown(4)[1:3] == [(32764, "10.2.0.0/16", 253), (32765, "10.1.0.0/16", 100)]
        assert shown(6)[1] == (5, "fd01::/16", 100)
        with pytest.raises(OSError) as caught:
            stack.add_rule("fd01::/16", table=100, priority=5)
        assert caught.value.errno == errno.EEXIST
        with pytest.raises(OSError) as caught:
            stack.del_rule("10.3.0.0/16")
        assert caught.value.errno == errno.ENOENT
        for wrong in (
            {"from_": "10.1.0.1/16"},
            {"from_": "10.0.0.0/8", "to": "fd00::/8"},
            {"priority": 0},
            {"iif": "x" * 16},
        ):
            with pytest.raises(ValueError, match=r"."):
                stack.add_rule(**wrong, table=1)
        with pytest.raises(ValueError, match="table"):
            stack.add_rule(table="mian")
        with pytest.raises(OSError) as caught:
            for k in range(300):
                stack.add_rule(f"10.9.{k % 256}.0/24", table=1 + k)
        assert caught.value.errno == errno.ENOBUFS


@pytest.mark.parametrize("table", [0, 255, "local"])
def test_tables_that_take_no_routes(table: Any) -> None:
    with sim.Network() as net:
        stack = net.stack()
        net.wire(stack, None, addresses=("10.0.0.1/24", None))
        with pytest.raises((OSError, ValueError)):
            stack.add_route("10.9.0.0/24", "10.0.0.2", table=table)


# -- the host model


@both
@pytest.mark.rfc("1122", "3.3.4.2 strong and weak hosts")
def test_the_strong_model(six: bool) -> None:
    with Fork(six) as fork:
        strong = f"net.ipv{6 if six else 4}.conf.all.strong_es"
        forwarding = "net.ipv6.conf.all.forwarding" if six else "net.ipv4.ip_forward"
        fork.peers[0].add_route(f"{fork.near(1)}/{128 if six else 32}", fork.near(0))
        server = fork.stack.create_server(("", 80), family=fork.family)
        taken = []
        for is_strong, forwards in ((0, 0), (1, 0), (1, 1)):
            fork.stack.sysctl[strong], fork.stack.sysctl[forwarding] = is_strong, forwards
            try:
                fork.peers[0].create_connection((fork.near(1), 80), timeout=3).close()
                taken.append(True)
            except TimeoutError:
                taken.append(False)
        assert taken == [True, False, True], "a router has the weak model"
        fork.stack.sysctl[strong] = fork.stack.sysctl[forwarding] = 0
        fork.stack.add_route("default", fork.far(0))
        assert fork.chosen(fork.near(1)) == [0]
        fork.stack.sysctl[strong] = 1
        with pytest.raises(OSError) as caught:
            fork.chosen(fork.near(1))
        assert caught.value.errno == errno.ENETUNREACH
        fork.stack.add_route("default", fork.far(1), metric=9)
        assert fork.chosen(fork.near(1)) == [1]
        assert fork.chosen(fork.near(0)) == [0]
        server.close()


# -- knobs of one interface, IPv4


class Ends:
    """A stack with raw ends: 10.1.0.1 on the first wire, 10.2.0.1 on the second."""

    def __init__(self) -> None:
        self.net = sim.Network(seed=7)
        self.stack = self.net.stack()
        self.wires = [
            self.net.wire(self.stack, None, addresses=(f"10.{k}.0.1/24", None), name=f"wire{k}") for k in (1, 2)
        ]
        found = [one for one in self.stack.interfaces() if one.medium != "loopback"]
        self.names, self.macs = [one.name for one in found], [one.mac for one in found]
        self.stack.add_neighbor(self.names[0], "10.1.0.2", MAC)
        self.stack.add_neighbor(self.names[0], "10.1.0.9", OTHER_MAC)
        self.stack.add_neighbor(self.names[1], "10.2.0.2", MAC)
        self.net.run(1)
        self.heard(0)
        self.heard(1)

    def set(self, **knobs: int) -> None:
        """Of both interfaces and all of them; `IF0_name` and `all_name` of one."""
        for name, value in knobs.items():
            where, _, knob = name.partition("_")
            interface = where if where == "all" else self.names[int(where[2])].replace(".", "/")
            self.stack.sysctl[f"net.ipv4.conf.{interface}.{knob}"] = value

    def send(self, packet: Any, wire: int = 0, link: str | None = None) -> None:
        self.wires[wire].b.send(bytes(Ether(src=MAC, dst=link or self.macs[wire]) / packet))
        self.net.run(0.01)

    def heard(self, wire: int) -> list[Any]:
        found = []
        with contextlib.suppress(TimeoutError):
            while True:
                found.append(Ether(self.wires[wire].b.recv(timeout=0)))
        return found


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.net.close()


def probe(**fields: Any) -> Any:
    return IP(**{"src": "10.1.0.2", "dst": "10.2.0.2", "ttl": 9, **fields}) / UDP(sport=1, dport=2) / Raw(b"data")


def test_forwarding_of_one_interface(ends: Ends) -> None:
    ends.set(IF0_forwarding=1)
    assert ends.stack.sysctl["net.ipv4.ip_forward"] == 0
    ends.send(probe())
    assert len(ends.heard(1)) == 1
    ends.send(probe(src="10.2.0.2", dst="10.1.0.2"), 1)
    assert ends.heard(0) == []
    ends.set(all_forwarding=1)
    assert ends.stack.sysctl[f"net.ipv4.conf.{ends.names[1].replace('.', '/')}.forwarding"] == 1
    assert ends.stack.sysctl["net.ipv4.ip_forward"] == 1
    ends.stack.sysctl["net.ipv4.ip_forward"] = 0
    ends.send(probe())
    assert ends.heard(1) == []


@pytest.mark.rfc("3704", "2")
@pytest.mark.parametrize(
    ("everywhere", "here", "passes"), [(0, 0, 1), (0, 1, 0), (1, 0, 0), (2, 0, 1), (2, 1, 1), (0, 2, 1)]
)
def test_the_reverse_path_filter_of_one_interface(ends: Ends, everywhere: int, here: int, passes: int) -> None:
    """The greater of all's and the interface's. What was let in by another interface is no excuse."""
    ends.set(all_forwarding=1, all_rp_filter=everywhere, IF0_rp_filter=here)
    for wire in (1, 0):
        ends.send(probe(src="10.2.0.77", dst="10.1.0.1"), wire)
    ends.send(probe(src="10.2.0.77", dst="10.2.0.2"))
    assert len([one for one in ends.heard(1) if UDP in one and ICMP not in one]) == passes
    assert ends.stack.counters()["DropIpReversePath"] == 2 * (not passes)


@pytest.mark.parametrize(("ignore", "target", "sender", "answers"), [
    (1, "10.1.0.1", "10.1.0.2", 1), (1, "10.2.0.1", "10.1.0.2", 0), (0, "10.2.0.1", "10.1.0.2", 1),
    (0, "127.0.0.1", "10.1.0.2", 0), (2, "10.1.0.1", "10.1.0.2", 1), (2, "10.1.0.1", "10.7.0.2", 0),
    (1, "10.1.0.1", "10.7.0.2", 1), (2, "10.1.0.1", "0.0.0.0", 1), (8, "10.1.0.1", "10.1.0.2", 0),
    (0, "10.3.0.1", "10.1.0.2", 0),
])  # fmt: skip
def test_arp_ignore(ends: Ends, ignore: int, target: str, sender: str, answers: int) -> None:
    ends.stack.add_route("10.7.0.0/24", interface=ends.names[0])
    ends.set(all_arp_ignore=0, IF0_arp_ignore=ignore)
    request = ARP(op=1, hwsrc=MAC, psrc=sender, pdst=target)
    ends.send(request, link="ff:ff:ff:ff:ff:ff")
    assert len([one for one in ends.heard(0) if ARP in one and one[ARP].op == 2]) == answers


@pytest.mark.parametrize(("everywhere", "here", "source", "asks"), [
    (2, 0, "10.2.0.1", "10.1.0.1"), (0, 2, "10.2.0.1", "10.1.0.1"), (0, 0, "10.2.0.1", "10.2.0.1"),
    (0, 1, "10.2.0.1", "10.1.0.1"), (1, 0, "10.1.0.7", "10.1.0.7"), (0, 0, "10.1.0.7", "10.1.0.7"),
    (2, 2, "10.1.0.7", "10.1.0.1"), (0, 1, "", "10.1.0.1"),
])  # fmt: skip
def test_arp_announce(ends: Ends, everywhere: int, here: int, source: str, asks: str) -> None:
    """Who asks for 10.1.0.5, a packet of `source` waiting for it ("": of a host behind the router)."""
    ends.stack.add_address(ends.names[0], "10.1.0.7/24")
    ends.set(all_arp_announce=everywhere, IF0_arp_announce=here, all_forwarding=1)
    ends.heard(0)
    if source:
        with ends.stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((source, 0))
            sock.sendto(b"x", ("10.1.0.5", 9))
            ends.net.run(1.5)
    else:
        ends.send(probe(src="10.2.0.2", dst="10.1.0.5"), 1)
        ends.net.run(1.5)
    requests = [one[ARP].psrc for one in ends.heard(0) if ARP in one and one[ARP].pdst == "10.1.0.5"]
    assert requests == [asks] * 2, "and so does the second request"


@pytest.mark.rfc("1812", "5.2.7.2 redirects")
@pytest.mark.parametrize("through", [None, "10.1.0.9"])
def test_redirects_of_a_router(ends: Ends, through: str | None) -> None:
    to = "10.9.0.1" if through else "10.1.0.9"
    if through:
        ends.stack.add_route("10.9.0.0/24", through)
    ends.set(all_forwarding=1)
    packet = probe(dst=to)
    ends.send(packet)
    frames = ends.heard(0)
    assert [one.dst for one in frames if ICMP not in one] == [OTHER_MAC], "sent on as well"
    (told,) = [one for one in frames if ICMP in one]
    assert (told[IP].src, told[IP].dst, told.dst) == ("10.1.0.1", "10.1.0.2", MAC)
    assert (told[ICMP].type, told[ICMP].code, told[ICMP].gw) == (5, 1, "10.1.0.9")
    assert bytes(packet) in bytes(told)
    ends.set(all_send_redirects=0)
    ends.send(packet)
    assert [one for one in ends.heard(0) if ICMP in one] != [], "either of both knobs"
    ends.set(IF0_send_redirects=0)
    ends.send(packet)
    assert [one for one in ends.heard(0) if ICMP in one] == []
    ends.set(IF0_send_redirects=1)
    ends.stack.add_route("10.8.0.0/24", "10.1.0.2")
    ends.send(probe(src="10.8.0.1", dst=to))
    ends.send(IP(src="10.1.0.2", dst=to) / ICMP(type=3, code=3) / Raw(bytes(probe())))
    assert [one for one in ends.heard(0) if ICMP in one and one[ICMP].type == 5] == [], "no neighbour, and an error"
    for _ in range(100):
        ends.send(packet)
    assert ends.stack.counters()["IcmpOutRedirects"] <= 9


@pytest.mark.rfc("1122", "3.2.2.2 redirects")
def test_redirects_that_a_host_believes(ends: Ends) -> None:
    ends.stack.add_route("10.9.0.0/24", "10.1.0.2")
    ends.stack.add_neighbor(ends.names[0], "10.1.0.8", OTHER_MAC)

    def follows(packet: Any) -> bool:
        ends.send(packet)
        return any(one.destination == "10.9.0.1/32" for one in ends.stack.routes())

    def redirect(src: str = "10.1.0.2", gw: str = "10.1.0.8", own: str = "10.1.0.1", code: int = 1) -> Any:
        quoted = bytes(IP(src=own, dst="10.9.0.1") / UDP(sport=5, dport=6))
        return IP(src=src, dst="10.1.0.1") / ICMP(type=5, code=code, gw=gw) / Raw(quoted)

    assert not follows(redirect()), "ignored unless asked for"
    ends.set(IF0_accept_redirects=1)
    ends.send(redirect(), 1)
    wrong = (
        redirect(src="10.1.0.8"), redirect(gw="10.2.0.2"), redirect(gw="10.1.0.2"), redirect(gw="10.1.0.1"),
        redirect(gw="224.0.0.1"), redirect(gw="10.1.0.255"), redirect(own="10.1.0.77"), redirect(code=4),
        IP(src="10.1.0.2", dst="10.1.0.1") / ICMP(type=5, code=1, gw="10.1.0.8") / Raw(b"\x45" + bytes(7)),
    )  # fmt: skip
    for packet in wrong:
        assert not follows(packet)
    ends.set(all_forwarding=1)
    assert not follows(redirect()), "a router, unless both knobs say so"
    ends.set(all_forwarding=0)
    assert follows(redirect())
    assert next(one.gateway for one in ends.stack.routes() if one.destination == "10.9.0.1/32") == "10.1.0.8"
    ends.net.run(301)
    assert not any(one.destination == "10.9.0.1/32" for one in ends.stack.routes())


def test_a_flood_of_redirects_stays_in_its_place(ends: Ends) -> None:
    ends.stack.add_route("10.0.0.0/8", "10.1.0.2")
    ends.set(all_accept_redirects=1)
    before = len(ends.stack.routes())
    for a, b in itertools.product(range(10, 20), range(20)):
        quoted = bytes(IP(src="10.1.0.1", dst=f"10.{a}.0.{b}") / UDP())
        ends.send(IP(src="10.1.0.2", dst="10.1.0.1") / ICMP(type=5, code=1, gw="10.1.0.9") / Raw(quoted))
    assert len(ends.stack.routes()) - before == 32
