"""What an IPv6 router sends on, refuses and says, frame by frame. RFC 8200, 4443, 4291, 4007, 4861."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6NDOptPrefixInfo,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Pad1,
    PadN,
)  # fmt: skip
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from ustack import sim

LEFT, RIGHT = "fd01::2", "fd02::2"
LEFT_MAC, RIGHT_MAC, OTHER_MAC = (f"02:00:00:00:aa:0{k}" for k in (1, 2, 3))


class Router:
    """A router with a raw end on each side, whose neighbours are known."""

    def __init__(self, mtu: int = 1500) -> None:
        self.net = sim.Network(seed=1)
        self.stack = self.net.stack("router")
        self.left = self.net.wire(None, self.stack, addresses=(None, "fd01::1/64"), name="left")
        self.right = self.net.wire(self.stack, None, addresses=("fd02::1/64", None), name="right", mtu=mtu)
        self.stack.sysctl["net.ipv6.conf.all.forwarding"] = 1
        found = [one for one in self.stack.interfaces() if one.medium != "loopback"]
        self.names = [one.name for one in found]
        self.macs = [one.mac for one in found]
        self.own = [next(str(a.address) for a in one.addresses if a.address.startswith("fe80")) for one in found]
        self.stack.add_neighbor(self.names[0], LEFT, LEFT_MAC)
        self.stack.add_neighbor(self.names[1], RIGHT, RIGHT_MAC)
        self.net.run(3)
        self.back()
        self.out()

    def send(self, packet: Any, link: str | None = None, source: str = LEFT_MAC) -> None:
        self.left.a.send(bytes(Ether(src=source, dst=link or self.macs[0]) / packet))
        self.net.run(0.01)

    def out(self) -> list[Any]:
        return _received(self.right.b)

    def back(self) -> list[Any]:
        return _received(self.left.a)


def _received(end: Any) -> list[Any]:
    found = []
    with contextlib.suppress(TimeoutError):
        while True:
            found.append(Ether(end.recv(timeout=0)))
    return [one for one in found if IPv6 in one]


@pytest.fixture
def router() -> Iterator[Router]:
    made = Router()
    yield made
    made.net.close()


def probe(size: int = 4, **fields: Any) -> Any:
    return IPv6(**{"src": LEFT, "dst": RIGHT, "hlim": 9, **fields}) / UDP(sport=1, dport=2) / Raw(b"x" * size)


def test_what_a_forwarded_packet_looks_like(router: Router) -> None:
    router.send(probe(tc=0x28, fl=0x12345))
    (frame,) = router.out()
    assert (frame.src, frame.dst) == (router.macs[1], RIGHT_MAC)
    assert bytes(frame[IPv6]) == bytes(probe(tc=0x28, fl=0x12345, hlim=8))
    assert router.back() == []


@pytest.mark.rfc("8200", "4 extension headers pass")
@pytest.mark.parametrize(
    "headers",
    [
        IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0\0\0\0")]),
        IPv6ExtHdrHopByHop(options=[HBHOptUnknown(otype=0x1E, optdata=b"1234")]),
        IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0xDE, optdata=b"1234")]),
        IPv6ExtHdrRouting(type=0, segleft=1, addresses=["fd02::9"]),
        IPv6ExtHdrFragment(offset=0, m=1, id=7),
        IPv6ExtHdrFragment(offset=100, m=0, id=7),
        IPv6ExtHdrHopByHop(options=[Pad1(), Pad1()]) / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0\0\0\0")]),
    ],
)
def test_extension_headers_pass_as_they_are(router: Router, headers: Any) -> None:
    """Only what stands in a hop-by-hop header is a router's business."""
    sent = IPv6(src=LEFT, dst=RIGHT, hlim=9) / headers / UDP(sport=1, dport=2, chksum=77) / Raw(b"data" * 4)
    router.send(sent)
    (frame,) = router.out()
    expected = bytearray(bytes(sent))
    expected[7] = 8
    assert bytes(frame[IPv6]) == bytes(expected)


@pytest.mark.rfc("8200", "4.2 unknown hop-by-hop options")
@pytest.mark.parametrize(("kind", "passes", "told"), [(0x1E, 1, 0), (0x5E, 0, 0), (0x9E, 0, 1), (0xDE, 0, 1)])
def test_unknown_options_for_each_hop(router: Router, kind: int, passes: int, told: int) -> None:
    packet = probe()
    packet[IPv6].payload = IPv6ExtHdrHopByHop(options=[HBHOptUnknown(otype=kind, optdata=b"1234")]) / packet[UDP]
    router.send(packet)
    assert len(router.out()) == passes
    assert sum(ICMPv6ParamProblem in one for one in router.back()) == told


@pytest.mark.rfc("4291", "2.5 what routers never forward")
@pytest.mark.parametrize(
    "fields",
    [
        {"src": "::"},
        {"src": "::1"},
        {"src": "ff02::5"},
        {"src": "ff0e::5"},
        {"src": "::ffff:10.0.0.1"},
        {"src": "fd01::1"},
        {"dst": "::1"},
        {"dst": "::"},
        {"dst": "::ffff:10.0.0.1"},
        {"dst": "fe80::77"},
        {"dst": "ff0e::5"},
        {"dst": "ff02::5"},
    ],
)
def test_what_is_not_forwarded(router: Router, fields: dict[str, Any]) -> None:
    router.send(probe(**fields))
    assert router.out() == []
    assert router.back() == [], "in silence"
    router.send(probe())
    assert len(router.out()) == 1


def test_no_broadcast_frames(router: Router) -> None:
    router.send(probe(), link="33:33:00:00:00:01")
    router.send(probe(), link="ff:ff:ff:ff:ff:ff")
    assert router.out() == router.back() == []


@pytest.mark.rfc("4443", "3.1 beyond scope of source address")
def test_a_link_local_source_stays_on_its_link(router: Router) -> None:
    router.stack.add_neighbor(router.names[0], "fe80::99", LEFT_MAC)
    router.send(probe(src="fe80::99"))
    assert router.out() == []
    (error,) = [one for one in router.back() if ICMPv6DestUnreach in one]
    assert (error[ICMPv6DestUnreach].code, error[IPv6].src, error[IPv6].dst) == (2, router.own[0], "fe80::99")


@pytest.mark.rfc("4443", "3.3 time exceeded")
@pytest.mark.parametrize("hops", [0, 1])
def test_out_of_hops(router: Router, hops: int) -> None:
    router.send(probe(hlim=hops))
    assert router.out() == []
    (error,) = router.back()
    assert (error[IPv6].src, error[IPv6].dst, error[ICMPv6TimeExceeded].code) == ("fd01::1", LEFT, 0)
    assert bytes(error[ICMPv6TimeExceeded].payload) == bytes(probe(hlim=hops))
    assert router.stack.counters()["DropForwardTtl"] == 1


@pytest.mark.rfc("4443", "3.2 packet too big")
def test_too_big_for_the_next_link() -> None:
    router = Router(mtu=1280)
    with contextlib.closing(router.net):
        router.send(probe(1280 - 48))
        assert len(router.out()) == 1
        router.send(probe(1280 - 47))
        assert router.out() == []
        (error,) = router.back()
        assert error[ICMPv6PacketTooBig].mtu == 1280
        assert len(error[IPv6]) == 1280, "as much of it as fits (RFC 4443 2.4 (c))"
        assert router.stack.counters()["Ip6InTooBigErrors"] == 1


@pytest.mark.rfc("4443", "2.4 (e) no errors about errors")
@pytest.mark.rfc("4443", "2.4 (f) limits")
def test_errors_are_limited_and_never_about_errors(router: Router) -> None:
    for _ in range(100):
        router.send(probe(hlim=1))
    assert 1 <= router.stack.counters()["Icmp6OutTimeExcds"] <= 7
    router.net.run(60)
    before = router.stack.counters()["Icmp6OutMsgs"]
    for message in (ICMPv6TimeExceeded(), ICMPv6DestUnreach(), ICMPv6ND_Redirect(tgt=LEFT, dst=LEFT)):
        router.send(IPv6(src=LEFT, dst=RIGHT, hlim=1) / message / Raw(bytes(probe())))
        router.send(IPv6(src=LEFT, dst="fd77::1", hlim=9) / message / Raw(bytes(probe())))
    assert router.stack.counters()["Icmp6OutMsgs"] == before
    router.send(IPv6(src=LEFT, dst=RIGHT, hlim=1) / ICMPv6EchoRequest())
    assert router.stack.counters()["Icmp6OutMsgs"] == before + 1


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_superframes_of_a_stack_go_on_as_segments_of_the_next_link(protocol: str) -> None:
    """A stack's burst, handed over whole, is cut for a narrower wire only as its headers allow."""
    with sim.Network(seed=5) as net:
        a, middle, b = (net.stack() for _ in range(3))
        net.wire(a, middle, addresses=("fd01::2/64", "fd01::1/64"), mtu=9000)
        net.wire(middle, b, addresses=("fd02::1/64", "fd02::2/64"), mtu=1400)
        middle.sysctl["net.ipv6.conf.all.forwarding"] = 1
        a.add_route("default", "fd01::1")
        b.add_route("default", "fd02::1")
        if protocol == "udp":
            sock, far = (one.socket(socket.AF_INET6, socket.SOCK_DGRAM) for one in (a, b))
            far.bind(("", 9))
            sock.connect((RIGHT, 9))
            sock.send(bytes(8000))
            net.run(1)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EMSGSIZE
            sock.send(bytes(range(250)) * 32)
            assert far.recv(9000) == bytes(range(250)) * 32
            return
        server = b.create_server(("", 80), family=socket.AF_INET6)
        task = net.spawn(lambda: _read_all(server.accept()[0]))
        with a.create_connection((RIGHT, 80), timeout=60) as client:
            client.sendall(bytes(range(250)) * 4000)
        assert task.result() == bytes(range(250)) * 4000


def _read_all(conn: Any) -> bytes:
    got = bytearray()
    while part := conn.recv(65536):
        got += part
    conn.close()
    return bytes(got)


# -- what a router is to its neighbours


@pytest.mark.rfc("4861", "7.2.4 the router flag")
def test_advertisements_say_who_is_a_router(router: Router) -> None:
    ask = IPv6(src=LEFT, dst="fd01::1", hlim=255) / ICMPv6ND_NS(tgt="fd01::1")
    for on in (1, 0, 1):
        router.stack.sysctl[f"net.ipv6.conf.{router.names[0].replace('.', '/')}.forwarding"] = on
        router.send(ask)
        assert [one[ICMPv6ND_NA].R for one in router.back() if ICMPv6ND_NA in one] == [on]
    router.stack.sysctl["net.ipv6.conf.all.forwarding"] = 0
    assert router.stack.sysctl[f"net.ipv6.conf.{router.names[0].replace('.', '/')}.forwarding"] == 0


@pytest.mark.rfc("4291", "2.8 routers' groups")
@pytest.mark.parametrize("group", ["ff02::2", "ff05::2"])
def test_all_routers_is_a_group_of_routers(router: Router, group: str) -> None:
    ping = IPv6(src=LEFT, dst=group, hlim=1) / ICMPv6EchoRequest(id=3)
    router.send(ping, link="33:33:00:00:00:02")
    assert len(router.back()) == 1
    router.stack.sysctl["net.ipv6.conf.all.forwarding"] = 0
    router.send(ping, link="33:33:00:00:00:02")
    (left,) = router.back()
    assert "ff02::2" in [record.dst for record in left[ICMPv6MLReport2].records], "switches that snoop are told"


def advertisement() -> Any:
    option = ICMPv6NDOptPrefixInfo(prefix="fd0a::", prefixlen=64, L=1, A=1)
    return IPv6(src="fe80::1", dst="ff02::1", hlim=255) / ICMPv6ND_RA(routerlifetime=600) / option


@pytest.mark.parametrize(("accept", "forwards", "learns"), [(1, 0, 1), (1, 1, 0), (2, 1, 1), (0, 0, 0), (2, 0, 1)])
def test_routers_follow_no_router_unless_told(accept: int, forwards: int, learns: int) -> None:
    """Linux's accept_ra: 1 is for hosts, 2 for routers, too; no solicitations either."""
    with sim.Network(seed=2) as net:
        stack = net.stack()
        wire = net.wire(stack, None)
        stack.sysctl["net.ipv6.conf.all.accept_ra"] = accept
        stack.sysctl["net.ipv6.conf.all.forwarding"] = forwards
        stack.detach(wire.a)
        name = stack.attach(wire.a, autoconf=True)
        net.run(5)
        asked = sum(one[IPv6].payload.type == 133 for one in _received(wire.b) if one[IPv6].nh == 58)
        assert bool(asked) == bool(learns)
        mac = next(one.mac for one in stack.interfaces() if one.name == name)
        wire.b.send(bytes(Ether(src=LEFT_MAC, dst="33:33:00:00:00:01") / advertisement()))
        net.run(5)
        assert mac is not None
        assert [one.gateway for one in stack.routes() if one.destination == "::/0"] == [f"fe80::1%{name}"] * learns
        stack.sysctl["net.ipv6.conf.all.accept_ra"] = 1
        stack.sysctl["net.ipv6.conf.all.forwarding"] = 1
        assert [one for one in stack.routes() if one.destination == "::/0"] == [], "who becomes a router forgets them"


# -- redirects


@pytest.mark.rfc("4861", "8.2 redirects of routers")
@pytest.mark.parametrize("through", [None, "fe80::7", "fd01::7"])
def test_redirects(router: Router, through: str | None) -> None:
    """To a neighbour on the link itself, or a router named by its link-local address."""
    to = "fd09::1" if through else "fd01::9"
    hop = through or to
    router.stack.add_neighbor(router.names[0], hop, OTHER_MAC)
    if through:
        router.stack.add_route("fd09::/64", through, router.names[0])
    router.send(probe(dst=to))
    frames = router.back()
    assert [one.dst for one in frames if UDP in one and ICMPv6ND_Redirect not in one] == [OTHER_MAC], "sent on as well"
    told = [one for one in frames if ICMPv6ND_Redirect in one]
    if through == "fd01::7":
        assert told == []
        return
    (one,) = told
    assert (one[IPv6].src, one[IPv6].dst, one[IPv6].hlim, one.dst) == (router.own[0], LEFT, 255, LEFT_MAC)
    assert (one[ICMPv6ND_Redirect].tgt, one[ICMPv6ND_Redirect].dst) == (hop, to)
    assert OTHER_MAC.replace(":", "") in bytes(one).hex()
    quoted = bytes(probe(dst=to))
    assert quoted[: len(quoted) & ~7] in bytes(one), "in units of eight bytes"
    router.stack.sysctl["net.ipv6.conf.all.send_redirects"] = 0
    router.send(probe(dst=to))
    assert [one for one in router.back() if ICMPv6ND_Redirect in one] == []


def test_redirects_are_limited_and_for_neighbours_alone(router: Router) -> None:
    router.stack.add_neighbor(router.names[0], "fd01::9", OTHER_MAC)
    router.stack.add_route("fd0b::/64", LEFT)
    router.send(probe(src="fd0b::1", dst="fd01::9"))
    assert router.stack.counters()["Icmp6OutRedirects"] == 0, "its sender is no neighbour"
    for _ in range(100):
        router.send(probe(dst="fd01::9"))
    assert 1 <= router.stack.counters()["Icmp6OutRedirects"] <= 7
    assert router.stack.counters()["Ip6OutForwDatagrams"] == 101


@pytest.mark.rfc("4861", "8.3 routers ignore redirects")
def test_a_host_follows_what_a_router_does_not() -> None:
    with sim.Network(seed=4) as net:
        host, near, far = (net.stack(name) for name in ("host", "near", "far"))
        wire = net.wire(host, None, addresses=("fd01::2/64", None))
        name = host.interfaces()[-1].name
        host.sysctl["net.ipv6.conf.all.accept_redirects"] = 1
        host.add_neighbor(name, "fe80::1", LEFT_MAC)
        host.add_route("fd09::/64", "fe80::1", name)
        net.run(3)
        mac = host.interfaces()[-1].mac
        own = next(str(a.address) for a in host.interfaces()[-1].addresses if a.address.startswith("fe80"))
        message = IPv6(src="fe80::1", dst=own, hlim=255) / ICMPv6ND_Redirect(tgt="fe80::2", dst="fd09::1")
        frame = bytes(Ether(src=LEFT_MAC, dst=mac) / message)
        for forwards, follows in ((1, False), (0, True)):
            host.sysctl["net.ipv6.conf.all.forwarding"] = forwards
            wire.b.send(frame)
            net.run(1)
            assert any(one.destination == "fd09::1/128" for one in host.routes()) == follows
        net.run(700)
        assert not any(one.destination == "fd09::1/128" for one in host.routes()), "for a while"


def test_tcp_with_a_sum_of_the_pseudo_header_alone_is_finished_behind_options(router: Router) -> None:
    """What a link vouches for, without a sum in the packet, gets one before the next wire (also the rare kinds)."""
    packet = IPv6(src=LEFT, dst=RIGHT, hlim=9) / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0\0\0\0")])
    packet = packet / TCP(sport=1, dport=2, seq=9) / Raw(b"odd")
    router.send(packet)
    (frame,) = router.out()
    assert bytes(frame[IPv6])[40:] == bytes(packet)[40:]
