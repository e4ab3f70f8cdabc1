"""Paths and hops of datagram sockets: what is learnt from "too big" without a peer, IPV6_RECVPATHMTU, hop limits that
are not IPv4's time to live. RFC 8201 §5.2, RFC 1191, RFC 3542 §11.3 and §6.3, ipv6(7).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from ustack import sim

IPV6, IP = socket.IPPROTO_IPV6, socket.IPPROTO_IP
IP_MTU_DISCOVER, IP_MTU, IP_RECVTTL, IPV6_MTU, RECVPATHMTU, PATHMTU, DONTFRAG = 10, 14, 12, 24, 60, 61, 62
MTUINFO = struct.Struct("=HHI16sII")


class Path:
    """a – router – b, whose second wire takes 1,300 bytes."""

    def __init__(self) -> None:
        self.net = sim.Network(seed=8)
        self.a, self.router, self.b = (self.net.stack(name) for name in ("a", "router", "b"))
        self.net.wire(self.a, self.router, addresses=(["fd01::2/64", "10.1.0.2/24"], ["fd01::1/64", "10.1.0.1/24"]))
        narrow = (["fd02::1/64", "10.2.0.1/24"], ["fd02::2/64", "10.2.0.2/24"])
        self.net.wire(self.router, self.b, addresses=narrow, mtu=1300)
        self.router.sysctl["net.ipv4.ip_forward"] = self.router.sysctl["net.ipv6.conf.all.forwarding"] = 1
        for stack, k in ((self.a, 1), (self.b, 2)):
            stack.add_route("default", f"fd0{k}::1")
            stack.add_route("default", f"10.{k}.0.1")
        self.net.run(3)
        self.socks: list[Any] = []

    def udp(self, stack: Any, six: bool = True, port: int = 0, proto: int = 0) -> Any:
        sock = stack.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM, proto)
        self.socks.append(sock)
        sock.settimeout(2)
        sock.bind(("::" if six else "", port))
        return sock

    def known(self, six: bool = True) -> int:
        """What a assumes of the path to b."""
        with self.a.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("fd02::2" if six else "10.2.0.2", 9))
            return int(probe.getsockopt(*((IPV6, IPV6_MTU) if six else (IP, IP_MTU))))


@pytest.fixture
def path() -> Iterator[Path]:
    made = Path()
    yield made
    for sock in made.socks:
        sock.close()
    made.net.close()


# -- what is learnt


@pytest.mark.rfc("8201", "5.2 sockets without a peer")
@pytest.mark.parametrize("proto", [0, 136], ids=["udp", "udp-lite"])
def test_a_socket_without_a_peer_learns_the_path(path: Path, proto: int) -> None:
    here, there = path.udp(path.a, proto=proto), path.udp(path.b, port=9, proto=proto)
    data = bytes(range(200)) * 7
    here.sendto(data, ("fd02::2", 9))
    path.net.run(1)
    assert path.known() == 1300
    assert here.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0, "it is told of nothing it did not ask for"
    here.sendto(data, ("fd02::2", 9))
    assert there.recv(2000) == data
    path.net.run(601)
    assert path.known() == 1500, "an estimate lasts net.ipv4.route.mtu_expires"


@pytest.mark.rfc("1191", "3 sockets without a peer")
@pytest.mark.parametrize(("mode", "learns"), [(0, False), (1, True), (2, True), (3, False), (5, False)])
def test_over_ipv4_who_sets_df_learns(path: Path, mode: int, learns: bool) -> None:
    here = path.udp(path.a, six=False)
    here.setsockopt(IP, IP_MTU_DISCOVER, mode)
    here.sendto(bytes(1400), ("10.2.0.2", 9))
    path.net.run(1)
    assert path.known(six=False) == (1300 if learns else 1500)


@pytest.mark.parametrize(("mode", "learns"), [(0, True), (1, True), (2, True), (3, True), (4, False), (5, False)])
def test_over_ipv6_all_learn_but_those_whom_no_path_interests(path: Path, mode: int, learns: bool) -> None:
    here = path.udp(path.a)
    here.setsockopt(IPV6, 23, mode)
    here.sendto(bytes(1400), ("fd02::2", 9))
    path.net.run(1)
    assert path.known() == (1300 if learns else 1500)


def test_pings_and_raw_sockets_learn_too(path: Path) -> None:
    for kind, proto, data in (
        (socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6, b"\x80" + bytes(1400)),
        (socket.SOCK_RAW, 99, bytes(1400)),
    ):
        with path.a.socket(socket.AF_INET6, kind, proto) as sock:
            sock.sendto(data, ("fd02::2", 0))
            path.net.run(1)
            assert path.known() == 1300
            path.net.run(601)


def test_hearsay_is_taken_at_a_limited_rate(path: Path) -> None:
    """Anybody can quote a datagram that a socket without a peer might have sent."""
    here = path.udp(path.a, port=7000)
    with path.b.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as liar:
        for k in range(300):
            quoted = struct.pack("!IHBB", 6 << 28, 1400, 17, 64) + socket.inet_pton(socket.AF_INET6, "fd01::2")
            quoted += socket.inet_pton(socket.AF_INET6, f"fd03::{k:x}") + struct.pack("!HHHH", 7000, 9, 1400, 0)
            liar.sendto(struct.pack("!BBHI", 2, 0, 0, 1280) + quoted, ("fd01::2", 0))
        path.net.run(0.05)
    learnt = 0
    for k in range(300):
        with path.a.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect((f"fd03::{k:x}", 9))
            learnt += probe.getsockopt(IPV6, IPV6_MTU) == 1280
    assert 1 <= learnt <= 60
    # A path to a peer is another matter: it is taken in any case.
    here.connect(("fd02::2", 9))
    here.send(bytes(1400))
    path.net.run(1)
    assert path.known() == 1300


def test_nothing_is_raised(path: Path) -> None:
    here = path.udp(path.a, port=7000)
    here.sendto(bytes(1400), ("fd02::2", 9))
    path.net.run(1)
    with path.b.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as liar:
        quoted = struct.pack("!IHBB", 6 << 28, 1400, 17, 64) + socket.inet_pton(socket.AF_INET6, "fd01::2")
        quoted += socket.inet_pton(socket.AF_INET6, "fd02::2") + struct.pack("!HHHH", 7000, 9, 1400, 0)
        liar.sendto(struct.pack("!BBHI", 2, 0, 0, 1400) + quoted, ("fd01::2", 0))
    path.net.run(1)
    assert path.known() == 1300


# -- IPV6_RECVPATHMTU


def told(sock: Any, flags: int = 0) -> tuple[str, int]:
    """(the destination, the MTU) of what a socket is told."""
    data, ((level, kind, raw),), _, address = sock.recvmsg(2000, 200, flags)
    assert (data, level, kind) == (b"", IPV6, PATHMTU)
    family, port, _, packed, _, mtu = MTUINFO.unpack(raw)
    assert (family, port, address[1]) == (socket.AF_INET6, 0, 0)
    assert socket.inet_ntop(socket.AF_INET6, packed) == address[0]
    return address[0], mtu


@pytest.mark.rfc("3542", "11.3")
def test_who_asked_is_told_of_the_path(path: Path) -> None:
    here, there = path.udp(path.a), path.udp(path.b)
    assert here.getsockopt(IPV6, RECVPATHMTU) == 0
    here.setsockopt(IPV6, RECVPATHMTU, 1)
    assert here.getsockopt(IPV6, RECVPATHMTU) == 1
    here.sendto(bytes(1400), ("fd02::2", 9))
    path.net.run(1)
    there.sendto(b"later", ("fd01::2", here.getsockname()[1]))
    path.net.run(1)
    assert told(here, socket.MSG_PEEK) == ("fd02::2", 1300)
    assert told(here) == ("fd02::2", 1300)
    assert here.recvmsg(100, 200)[:2] == (b"later", [])
    with pytest.raises(TimeoutError):
        here.recv(10)
    other = path.udp(path.a)
    other.setsockopt(IPV6, RECVPATHMTU, 1)
    other.connect(("fd02::2", 9))
    other.setsockopt(IPV6, DONTFRAG, 1)
    with pytest.raises(OSError) as caught:
        other.send(bytes(1400))
    assert caught.value.errno == errno.EMSGSIZE
    assert told(other) == ("fd02::2", 1300), "and of what this host refuses"


def test_a_notice_wakes_who_waits(path: Path) -> None:
    here = path.udp(path.a)
    here.setsockopt(IPV6, RECVPATHMTU, 1)
    task = path.net.spawn(lambda: told(here))
    here.sendto(bytes(1400), ("fd02::2", 9))
    assert task.result() == ("fd02::2", 1300)


def test_who_did_not_ask_or_takes_it_back_is_told_nothing(path: Path) -> None:
    plain, back, batch = (path.udp(path.a) for _ in range(3))
    for sock in (back, batch):
        sock.setsockopt(IPV6, RECVPATHMTU, 1)
    for sock in (plain, back, batch):
        sock.sendto(bytes(1400), ("fd02::2", 9))
        path.net.run(1)
        path.net.run(601)
    back.setsockopt(IPV6, RECVPATHMTU, 0)
    for sock in (plain, back):
        with pytest.raises(TimeoutError):
            sock.recv(10)
    with pytest.raises(TimeoutError):  # there is no place for it in what recv_many() gives
        batch.recv_many(10)


def test_the_path_to_the_peer(path: Path) -> None:
    udp = path.udp(path.a)
    with pytest.raises(OSError) as caught:
        udp.getsockopt(IPV6, PATHMTU, 32)
    assert caught.value.errno == errno.ENOTCONN
    server = path.b.create_server(("::", 80), family=socket.AF_INET6)
    with path.a.create_connection(("fd02::2", 80), timeout=5) as tcp, server:
        udp.connect(("fd02::2", 9))
        for sock in (udp, tcp):
            assert MTUINFO.unpack(sock.getsockopt(IPV6, PATHMTU, 32))[-1] == 1500
            with pytest.raises(OSError) as caught:
                sock.getsockopt(IPV6, PATHMTU)
            assert caught.value.errno == errno.EINVAL


# -- hops


def seen(sock: Any) -> int:
    """The time to live or hop limit of the next datagram."""
    _, ((_, _, raw),), _, _ = sock.recvmsg(100, 200)
    return int(struct.unpack("i", raw)[0])


@pytest.mark.rfc("3542", "6.3 hop limit")
@pytest.mark.rfc("3493", "5.1 IPV6_UNICAST_HOPS")
def test_hops_of_a_socket_of_both_families(path: Path) -> None:
    """Two values, each for its family; 0 is one of IPv6's."""
    here, four, six = path.udp(path.a), path.udp(path.router, six=False, port=9), path.udp(path.router, port=10)
    four.setsockopt(IP, IP_RECVTTL, 1)
    six.setsockopt(IPV6, socket.IPV6_RECVHOPLIMIT, 1)
    assert here.getsockopt(IPV6, socket.IPV6_UNICAST_HOPS) == here.getsockopt(IP, socket.IP_TTL) == 64

    def both() -> tuple[int, int]:
        here.sendto(b"x", ("::ffff:10.1.0.1", 9))
        here.sendto(b"x", ("fd01::1", 10))
        return seen(four), seen(six)

    assert both() == (64, 64)
    here.setsockopt(IPV6, socket.IPV6_UNICAST_HOPS, 7)
    assert both() == (64, 7)
    here.setsockopt(IP, socket.IP_TTL, 9)
    assert both() == (9, 7)
    assert (here.getsockopt(IPV6, socket.IPV6_UNICAST_HOPS), here.getsockopt(IP, socket.IP_TTL)) == (7, 9)
    here.setsockopt(IPV6, socket.IPV6_UNICAST_HOPS, 0)
    assert both() == (9, 0)
    here.setsockopt(IPV6, socket.IPV6_UNICAST_HOPS, -1)
    assert both() == (9, 64)
    for value in (-2, 256):
        with pytest.raises(OSError) as caught:
            here.setsockopt(IPV6, socket.IPV6_UNICAST_HOPS, value)
        assert caught.value.errno == errno.EINVAL
    here.sendmsg([b"x"], [(IPV6, socket.IPV6_HOPLIMIT, struct.pack("i", 0))], 0, ("fd01::1", 10))
    here.setsockopt(IPV6, socket.IPV6_UNICAST_HOPS, 5)
    here.sendmsg([b"x"], [(IPV6, socket.IPV6_HOPLIMIT, struct.pack("i", -1))], 0, ("fd01::1", 10))
    assert (seen(six), seen(six)) == (0, 5)


def test_no_hops_reach_the_neighbour_alone(path: Path) -> None:
    here, there = path.udp(path.a), path.udp(path.b, port=9)
    for hops in (0, 1):
        here.setsockopt(IPV6, socket.IPV6_UNICAST_HOPS, hops)
        here.sendto(b"x", ("fd02::2", 9))
        path.net.run(1)
    assert path.router.counters()["Icmp6OutTimeExcds"] == 2
    there.settimeout(0)
    with pytest.raises(BlockingIOError):
        there.recv(10)


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_a_raw_socket_whose_groups_have_no_hops_says_nothing(path: Path, six: bool) -> None:
    with path.a.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW, 99) as sock:
        group = "ff02::77" if six else "224.0.0.77"
        if six:
            sock.setsockopt(IPV6, socket.IPV6_MULTICAST_IF, path.a.interfaces()[-1].index)
        sent = []
        for hops in (1, 0):
            sock.setsockopt(*((IPV6, socket.IPV6_MULTICAST_HOPS) if six else (IP, socket.IP_MULTICAST_TTL)), hops)
            before = path.a.interfaces()[-1].tx_packets
            sock.sendto(b"x", (group, 0))
            path.net.run(0.01)
            sent.append(path.a.interfaces()[-1].tx_packets - before)
        assert sent == [1, 0]
