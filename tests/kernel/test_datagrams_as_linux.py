"""The same calls on datagram sockets of the kernel and of the stack: values, errors and ancillary data are compared.

ip(7), ipv6(7), udp(7), udplite(7), RFC 3493, 3542, 3678.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.sim.group_helpers import (
    BLOCK_SOURCE,
    IGMP,
    JOIN_GROUP,
    JOIN_SOURCE,
    LEAVE_GROUP,
    LEAVE_SOURCE,
    MLD,
    MSFILTER,
    UNBLOCK_SOURCE,
    Family,
)

IP, IPV6, UDPLITE = socket.IPPROTO_IP, socket.IPPROTO_IPV6, 136
PORT = 7000
RECVERR6, MTU6, MTU_DISCOVER6, ORIGDST6 = 25, 24, 23, 74
PKTINFO6, HOPLIMIT6, TCLASS6, DONTFRAG6, RECVPATHMTU6, PATHMTU6 = 50, 52, 67, 62, 60, 61


@dataclass
class Host:
    """One end: its sockets, its interface and its address."""

    fam: Family
    make: Callable[..., Any]
    index: int
    own: str
    peer: str

    def udp(self, proto: int = 0, kind: int = socket.SOCK_DGRAM) -> Any:
        sock = self.make(kind, proto)
        sock.settimeout(5)
        return sock


@pytest.fixture
def hosts(net: Any) -> dict[str, Host]:
    fam = MLD if net.six else IGMP
    theirs = net.ns.call(socket.if_nametoindex, "ust0")
    ours = next(one.index for one in net.stack.interfaces() if one.name != "lo")
    return {
        "linux": Host(
            fam, lambda *a: net.keep(net.ns.socket(fam.family, *a)), theirs, net.kernel_ip, net.stack_ip
        ),
        "ustack": Host(fam, lambda *a: net.keep(net.stack.socket(fam.family, *a)), ours, net.stack_ip, net.kernel_ip),
    }


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns, or the name of its errno."""
    try:
        return function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def same(hosts: dict[str, Host], script: Callable[[Host], list[Any]]) -> None:
    found = {name: script(host) for name, host in hosts.items()}
    assert found["ustack"] == found["linux"]


# -- memberships


def memberships(host: Host) -> list[Any]:
    fam, sock, said = host.fam, host.udp(), []
    for name, group, source in (
        (LEAVE_GROUP, fam.group, None),
        (JOIN_GROUP, host.own, None),
        (JOIN_GROUP, fam.group, None),
        (JOIN_GROUP, fam.group, None),
        (LEAVE_SOURCE, fam.group, fam.host(9)),
        (UNBLOCK_SOURCE, fam.group, fam.host(9)),
        (BLOCK_SOURCE, fam.other, fam.host(9)),
        (LEAVE_SOURCE, fam.other, fam.host(9)),
        (JOIN_SOURCE, fam.other, fam.host(9)),
        (JOIN_SOURCE, fam.other, fam.host(9)),
        (BLOCK_SOURCE, fam.other, fam.host(9)),
        (JOIN_SOURCE, fam.other, fam.host(8)),
        (LEAVE_SOURCE, fam.other, fam.host(9)),
        (LEAVE_SOURCE, fam.other, fam.host(9)),
        (LEAVE_SOURCE, fam.other, fam.host(8)),
        (LEAVE_GROUP, fam.other, None),
    ):
        said.append((name, outcome(sock.setsockopt, fam.level, name, fam.request(host.index, group, source))))
    return [*said, outcome(sock.setsockopt, fam.level, JOIN_GROUP, fam.request(77, fam.other))]


def plain_memberships(host: Host) -> list[Any]:
    fam, sock = host.fam, host.udp()
    join, leave = (
        (socket.IPV6_JOIN_GROUP, socket.IPV6_LEAVE_GROUP)
        if fam.six
        else (socket.IP_ADD_MEMBERSHIP, socket.IP_DROP_MEMBERSHIP)
    )
    values = [
        (join, fam.plain_request(fam.group, host.index, host.own)),
        (join, fam.plain_request(fam.group, host.index, host.own)),
        (leave, fam.plain_request(fam.other, host.index, host.own)),
        (leave, fam.plain_request(fam.group, host.index, host.own)),
        (leave, fam.plain_request(fam.group, host.index, host.own)),
        (join, fam.plain_request(host.own, host.index, host.own)),
        (join, fam.plain_request(fam.group, 77, fam.hosts.replace("9", "77") + "1" if not fam.six else "")),
        (join, b"short"),
    ]
    return [outcome(sock.setsockopt, fam.level, name, value) for name, value in values]


def wrong_families(host: Host) -> list[Any]:
    other = IGMP if host.fam.six else MLD
    sock = host.udp()
    return [
        outcome(sock.setsockopt, host.fam.level, name, other.request(host.index, other.group, other.host(1)))
        for name in (JOIN_GROUP, LEAVE_GROUP, JOIN_SOURCE)
    ]


def whole_filters(host: Host) -> list[Any]:
    fam, sock = host.fam, host.udp()
    head = fam.request(host.index, fam.group)
    two = fam.storage(fam.host(7)) + fam.storage(fam.host(8))
    said = [outcome(sock.setsockopt, fam.level, MSFILTER, head + struct.pack("=II", 1, 2) + two)]
    sock.setsockopt(fam.level, JOIN_GROUP, head)
    for mode, count in ((0, 2), (1, 2), (2, 2), (1, 3), (0, 0)):
        said.append(outcome(sock.setsockopt, fam.level, MSFILTER, head + struct.pack("=II", mode, count) + two))
    return said


def group_options(host: Host) -> list[Any]:
    fam, sock, said = host.fam, host.udp(), []
    for name in ("TTL", "LOOP", "ALL"):
        said.append(outcome(sock.getsockopt, fam.level, fam.options[name]))
        for value in (0, 1, 2, 255, 256, -1, -2):
            said.append((name, value, outcome(sock.setsockopt, fam.level, fam.options[name], value)))
            said.append(outcome(sock.getsockopt, fam.level, fam.options[name]))
    if fam.six:
        for value in (host.index, 0, 77):
            said.append(outcome(sock.setsockopt, fam.level, fam.options["IF"], value))
            said.append(outcome(sock.getsockopt, fam.level, fam.options["IF"]) in (host.index, value))
    return said


# -- IPv6's options


def options6(host: Host) -> list[Any]:
    sock, said = host.udp(), []
    tables: dict[int, tuple[int, ...]] = {
        RECVERR6: (1, 0),
        MTU_DISCOVER6: (0, 1, 2, 3, 4, 5, 6, -1),
        ORIGDST6: (1, 0),
        socket.IPV6_RECVPKTINFO: (1, 0),
        socket.IPV6_RECVHOPLIMIT: (1, 0),
        socket.IPV6_RECVTCLASS: (1, 0),
        DONTFRAG6: (1, 0),
        socket.IPV6_UNICAST_HOPS: (0, 1, 255, 256, -1, -2),
        RECVPATHMTU6: (1, 0, 2),
        TCLASS6: (0, 255, 256, -1, -2),
        socket.IPV6_V6ONLY: (1, 0),
    }
    for name, values in tables.items():
        said.append((name, outcome(sock.getsockopt, IPV6, name)))
        for value in values:
            said.append((name, value, outcome(sock.setsockopt, IPV6, name, value)))
            said.append(outcome(sock.getsockopt, IPV6, name))
    said.append(outcome(sock.getsockopt, IPV6, MTU6))
    sock.connect((host.peer, 9))
    said.append(outcome(sock.getsockopt, IPV6, MTU6))
    said += [outcome(sock.setsockopt, IPV6, MTU6, value) for value in (1279, 1280, 0)]
    return said


def what_a_datagram_may_say(host: Host) -> list[Any]:
    sock, said = host.udp(), []
    own, other = (socket.inet_pton(socket.AF_INET6, a) for a in (host.own, "fd09::77"))
    number = struct.Struct("i")
    for name, raw in (
        (PKTINFO6, own + number.pack(host.index)),
        (PKTINFO6, own + number.pack(0)),
        (PKTINFO6, bytes(16) + number.pack(host.index)),
        (PKTINFO6, other + number.pack(0)),
        (PKTINFO6, bytes(16) + number.pack(77)),
        (PKTINFO6, b"short"),
        *((HOPLIMIT6, number.pack(value)) for value in (0, 1, 255, 256, -1, -2)),
        *((TCLASS6, number.pack(value)) for value in (1, 255, 256, -1, -2)),
        *((DONTFRAG6, number.pack(value)) for value in (0, 1, 2)),
        (HOPLIMIT6, b"x"),
    ):
        said.append((name, raw[-4:], outcome(sock.sendmsg, [b"x"], [(IPV6, name, raw)], 0, (host.peer, 9))))
    for option in (0, 1):
        sock.setsockopt(IPV6, DONTFRAG6, option)
        said += [outcome(sock.sendto, bytes(size), (host.peer, 9)) for size in (1452, 1453)]
    said.append(outcome(sock.sendmsg, [bytes(2000)], [(IPV6, DONTFRAG6, number.pack(0))], 0, (host.peer, 9)))
    sock.setsockopt(IPV6, DONTFRAG6, 0)
    for mode in range(6):
        sock.setsockopt(IPV6, MTU_DISCOVER6, mode)
        said.append((mode, outcome(sock.sendto, bytes(2000), (host.peer, 9))))
    return said


@pytest.mark.parametrize("script", [memberships, plain_memberships, wrong_families, whole_filters, group_options])
def test_groups_same_as_linux(hosts: dict[str, Host], script: Callable[[Host], list[Any]]) -> None:
    same(hosts, script)


@pytest.mark.rfc("3542", "6")
@pytest.mark.parametrize("net", ["plain-IPv6"], indirect=True)
@pytest.mark.parametrize("script", [options6, what_a_datagram_may_say])
def test_ip6_same_as_linux(hosts: dict[str, Host], script: Callable[[Host], list[Any]]) -> None:
    same(hosts, script)


# -- what comes with a datagram


def told(hosts: dict[str, Host], to: str, ask: list[tuple[int, int]], say: list[tuple[int, int, bytes]]) -> list[Any]:
    """Ancillary data at `to` of a datagram that the other sends; interfaces' indices as 0."""
    here = hosts[to]
    there = next(host for name, host in hosts.items() if name != to)
    receiver, sender = here.udp(), there.udp()
    receiver.bind(("", PORT))
    for level, name in ask:
        receiver.setsockopt(level, name, 1)
    sender.sendmsg([b"x"], say, 0, (here.own, PORT))
    _, messages, flags, _ = receiver.recvmsg(100, 1000)
    index, own = struct.pack("i", here.index), socket.inet_pton(here.fam.family, here.own)
    return [(level, name, raw.replace(own, b"own").replace(index, b"here")) for level, name, raw in messages] + [flags]


@pytest.mark.rfc("3542", "6")
@pytest.mark.parametrize("net", ["plain-IPv6"], indirect=True)
def test_what_comes_with_an_ip6_datagram(hosts: dict[str, Host]) -> None:
    ask = [
        (IPV6, name)
        for name in (socket.IPV6_RECVPKTINFO, socket.IPV6_RECVHOPLIMIT, socket.IPV6_RECVTCLASS, ORIGDST6)
    ]
    say = [(IPV6, HOPLIMIT6, struct.pack("i", 77)), (IPV6, TCLASS6, struct.pack("i", 0x24))]
    found = {name: told(hosts, name, ask, say) for name in hosts}
    assert found["ustack"] == found["linux"]
    assert (IPV6, HOPLIMIT6, struct.pack("i", 77)) in found["ustack"]
    assert (IPV6, TCLASS6, struct.pack("i", 0x24)) in found["ustack"]


@pytest.mark.parametrize("net", ["plain-IPv6"], indirect=True)
def test_errors_of_ip6_datagrams(hosts: dict[str, Host]) -> None:
    """IPV6_RECVERR: the other's port unreachable, and what this host refuses."""
    found = {}
    for name, host in hosts.items():
        sock = host.udp()
        sock.setsockopt(IPV6, RECVERR6, 1)
        sock.sendto(b"anybody?", (host.peer, 9))
        said = [outcome(sock.recv, 10)]
        data, ((level, kind, raw),), flags, address = sock.recvmsg(100, 500, socket.MSG_ERRQUEUE)
        said += [data, level, kind, raw[:16], raw[16:18], raw[24:40] == host.fam.packed(host.peer), flags]
        said.append(address[:2] == (host.peer, 9))
        sock.setsockopt(IPV6, DONTFRAG6, 1)
        said.append(outcome(sock.sendto, bytes(3000), (host.peer, 9)))
        _, ((level, kind, raw),), _, _ = sock.recvmsg(100, 500, socket.MSG_ERRQUEUE)
        found[name] = [*said, level, kind, raw[:16]]
    assert found["ustack"] == found["linux"]


@pytest.mark.rfc("3542", "11.3")
@pytest.mark.parametrize("net", ["plain-IPv6"], indirect=True)
def test_path_mtu_of_ip6_datagrams(hosts: dict[str, Host]) -> None:
    """IPV6_RECVPATHMTU, of what this host refuses; IPV6_PATHMTU of the path to the peer; two kinds of hops."""
    found = {}
    for name, host in hosts.items():
        sock = host.udp()
        said = [outcome(sock.getsockopt, IPV6, PATHMTU6, size) for size in (32, 31, 0)]
        for option in (RECVPATHMTU6, DONTFRAG6):
            sock.setsockopt(IPV6, option, 1)
        said.append(outcome(sock.sendto, bytes(3000), (host.peer, 9)))
        sock.setblocking(False)  # Linux does not wake who waits for it
        data, messages, flags, address = sock.recvmsg(100, 500)
        said += [data, messages[0][:2], messages[0][2][-4:], flags, address[1], address[0] == host.peer]
        said.append(host.fam.packed(host.peer) in messages[0][2])
        sock.connect((host.peer, 9))
        said += [outcome(sock.getsockopt, IPV6, PATHMTU6, size) for size in (32, 31, 0)]
        sock.setsockopt(IPV6, socket.IPV6_UNICAST_HOPS, 0)
        said += [sock.getsockopt(IPV6, socket.IPV6_UNICAST_HOPS), sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL)]
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 9)
        said += [sock.getsockopt(IPV6, socket.IPV6_UNICAST_HOPS), sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL)]
        found[name] = said
    assert found["ustack"] == found["linux"]


# -- UDP-Lite


def lite_options(host: Host) -> list[Any]:
    sock, plain, said = host.udp(UDPLITE), host.udp(), []
    said.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL))
    for name in (10, 11):
        for value in (0, 1, 7, 8, 9, 65535, 65536, -1):
            said.append((name, value, outcome(sock.setsockopt, UDPLITE, name, value)))
            said.append(outcome(sock.getsockopt, UDPLITE, name))
        said.append(outcome(plain.setsockopt, UDPLITE, name, 8))
        said.append(outcome(plain.getsockopt, socket.IPPROTO_UDP, name))
    said.append(outcome(host.make, socket.SOCK_STREAM, UDPLITE))
    return said


def test_options_of_udp_lite(hosts: dict[str, Host]) -> None:
    same(hosts, lite_options)


@pytest.mark.rfc("3828", "3")
@pytest.mark.parametrize("sender", ["linux", "ustack"])
def test_udp_lite_both_ways(net: Any, hosts: dict[str, Host], sender: str) -> None:
    """Every coverage of one side is right for the other, but for what its receiver asks for."""
    there, here = hosts[sender], hosts["ustack" if sender == "linux" else "linux"]
    source, sink = there.udp(UDPLITE), here.udp(UDPLITE)
    sink.bind(("", PORT))
    plain = here.udp()
    plain.bind(("", PORT))  # ports of UDP are others
    source.sendto(b"first", (here.own, PORT))  # what waits for the neighbour's address may be overtaken
    assert sink.recv(100) == b"first"
    expected: list[bytes] = []
    found: list[bytes] = []
    for least in (None, 0, 20):
        if least is not None:
            sink.setsockopt(UDPLITE, 11, least)
        for cover in (8, 9, 19, 20, 21, 1000, 65535, 0):
            source.setsockopt(UDPLITE, 10, cover)
            data = b"%s %d " % (str(least).encode(), cover) + bytes(range(91))
            source.sendto(data, (here.own, PORT))
            whole = cover == 0 or cover >= 8 + len(data)
            if least is None or whole or 0 < least <= cover:
                expected.append(data)
        while not found or found[-1] != data:  # the last is covered whole
            found.append(sink.recv(1000))
    assert found == expected
    plain.setblocking(False)
    assert outcome(plain.recv, 10) == "EAGAIN"
    if sender == "linux":
        counters = net.stack.counters()
        assert counters["UdpLiteInDatagrams"] == len(expected) + 1
        assert counters["UdpLiteInErrors"] == 24 - len(expected)
        assert counters.get("UdpLiteInCsumErrors", 0) == 0
