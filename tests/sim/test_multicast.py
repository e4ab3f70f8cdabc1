"""IPv4 multicast of a host: memberships and filters, IGMP of all three versions, sending, delivery.

RFC 1112, 2236, 3376, 3678.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

import ustack
from tap_harness.lab import Lab
from tests.sim.net_helpers import PEER_IP, PEER_MAC, STACK_IP, counted, received, sent, udp

PORT = 7000
GROUP = "239.1.2.3"
OTHER = "239.1.2.4"
TO_IN, TO_EX, ALLOW, BLOCK, IS_IN, IS_EX = 3, 4, 5, 6, 1, 2
MULTICAST_ALL = 49


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    made.peer.ping()
    made.peer.discard()
    yield made
    made.close()


def code_of(caught: pytest.ExceptionInfo[OSError]) -> str:
    return errno.errorcode[caught.value.errno or 0]


def mreq(group: str = GROUP, own: str = STACK_IP) -> bytes:
    return socket.inet_aton(group) + socket.inet_aton(own)


def mreq_source(source: str, group: str = GROUP) -> bytes:
    return mreq(group) + socket.inet_aton(source)


def join(sock: Any, group: str = GROUP) -> None:
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreq(group))


def leave(sock: Any, group: str = GROUP) -> None:
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, mreq(group))


def source_call(sock: Any, name: int, source: str) -> None:
    sock.setsockopt(socket.IPPROTO_IP, name, mreq_source(source))


JOIN_SOURCE, LEAVE_SOURCE, BLOCK_SOURCE, UNBLOCK_SOURCE = 39, 40, 38, 37


def mac_of_group(group: str) -> str:
    a, b, c = socket.inet_aton(group)[1:]
    return f"01:00:5e:{a & 127:02x}:{b:02x}:{c:02x}"


def deliver(lab: Lab, data: bytes, group: str = GROUP, src: str = PEER_IP) -> None:
    frame = Ether(src=PEER_MAC, dst=mac_of_group(group)) / IP(src=src, dst=group) / UDP(sport=5, dport=PORT) / Raw(data)
    lab.peer.send_ether(frame)


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def query(lab: Lab, message: bytes, to: str = "224.0.0.1") -> None:
    whole = message[:2] + struct.pack(">H", checksum(message)) + message[4:]
    lab.peer.send_ether(
        Ether(src=PEER_MAC, dst=mac_of_group(to)) / IP(src=PEER_IP, dst=to, ttl=1, proto=2) / Raw(whole)
    )


def query3(lab: Lab, group: str = "0.0.0.0", code: int = 10, sources: tuple[str, ...] = (), qrv: int = 2) -> None:
    head = struct.pack(">BBH4sBBH", 0x11, code, 0, socket.inet_aton(group), qrv, 125, len(sources))
    to = "224.0.0.1" if group == "0.0.0.0" else group
    query(lab, head + b"".join(socket.inet_aton(one) for one in sources), to)


def igmp(frames: list[Packet]) -> list[tuple[str, bytes]]:
    """(destination, message) of what the stack sent, each checked for what every one must have."""
    found = []
    for frame in frames:
        if IP not in frame or frame[IP].proto != 2:
            continue
        ip = frame[IP]
        message = bytes(ip.payload)[: ip.len - ip.ihl * 4]
        assert (ip.ttl, ip.tos, ip.ihl) == (1, 0xC0, 6), "RFC 3376 §4"
        assert bytes(ip)[20:24] == b"\x94\x04\0\0", "router alert"
        assert checksum(message) == 0
        assert frame.dst == mac_of_group(ip.dst)
        found.append((str(ip.dst), message))
    return found


def records(frames: list[Packet]) -> list[tuple[int, str, tuple[str, ...]]]:
    """The records of version 3 reports: (type, group, sources)."""
    found = []
    for to, message in igmp(frames):
        assert message[0] == 0x22
        assert to == "224.0.0.22"
        at = 8
        for _ in range(struct.unpack_from(">H", message, 6)[0]):
            kind, _, count, group = struct.unpack_from(">BBH4s", message, at)
            at += 8
            sources = tuple(socket.inet_ntoa(message[at + 4 * k : at + 4 * k + 4]) for k in range(count))
            at += 4 * count
            found.append((kind, socket.inet_ntoa(group), sources))
        assert at == len(message)
    return found


# -- joining and leaving


@pytest.mark.rfc("3376", "5.1 state change")
def test_joining_and_leaving_are_reported_twice(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        join(sock)
        lab.carrier.pump()
        assert records(sent(lab)) == [(TO_EX, GROUP, ())], "at once"
        assert records(sent(lab, 1.1)) == [(TO_EX, GROUP, ())], "and within a second again"
        assert records(sent(lab, 10)) == []
        leave(sock)
        lab.carrier.pump()
        assert records(sent(lab, 1.1)) == [(TO_IN, GROUP, ())] * 2


def test_what_two_sockets_joined_is_left_with_the_second(lab: Lab) -> None:
    with udp(lab, PORT) as one, udp(lab, PORT + 1) as two:
        join(one)
        join(two)
        assert len(records(sent(lab, 3))) == 2
        leave(one)
        assert records(sent(lab, 3)) == []
        two.close()
        assert records(sent(lab, 3)) == [(TO_IN, GROUP, ())] * 2


def test_all_hosts_is_never_reported(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        join(sock, "224.0.0.1")
        query3(lab)
        assert records(sent(lab, 3)) == []
        deliver(lab, b"x", "224.0.0.1")
        assert len(received(sock)) == 1


def test_errors_of_memberships(lab: Lab) -> None:
    lab.stack.sysctl["net.ipv4.igmp_max_memberships"] = 2
    lab.stack.sysctl["net.ipv4.igmp_max_msf"] = 2
    with udp(lab, PORT) as sock:
        for expected, call in (
            ("EADDRNOTAVAIL", lambda: leave(sock)),
            ("EINVAL", lambda: join(sock, "10.9.0.9")),
            ("ENODEV", lambda: sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreq(own="10.77.0.1"))),
            ("EINVAL", lambda: sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, bytes(3))),
            ("EINVAL", lambda: source_call(sock, BLOCK_SOURCE, "10.0.0.1")),
        ):
            with pytest.raises(OSError) as caught:
                call()
            assert code_of(caught) == expected
        join(sock)
        with pytest.raises(OSError) as caught:
            join(sock)
        assert code_of(caught) == "EADDRINUSE"
        join(sock, OTHER)
        with pytest.raises(OSError) as caught:
            join(sock, "239.9.9.9")
        assert code_of(caught) == "ENOBUFS"
        source_call(sock, BLOCK_SOURCE, "10.0.0.1")
        source_call(sock, BLOCK_SOURCE, "10.0.0.2")
        with pytest.raises(OSError) as caught:
            source_call(sock, BLOCK_SOURCE, "10.0.0.3")
        assert code_of(caught) == "ENOBUFS"
        with pytest.raises(OSError) as caught:
            source_call(sock, UNBLOCK_SOURCE, "10.0.0.3")
        assert code_of(caught) == "EADDRNOTAVAIL"


# -- source filters


@pytest.mark.rfc("3376", "5.1 source lists")
def test_sources_are_reported_as_they_change(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        source_call(sock, JOIN_SOURCE, "10.0.0.1")
        lab.carrier.pump()
        assert records(sent(lab)) == [(ALLOW, GROUP, ("10.0.0.1",))]
        source_call(sock, JOIN_SOURCE, "10.0.0.2")
        lab.carrier.pump()
        assert records(sent(lab)) == [(ALLOW, GROUP, ("10.0.0.1", "10.0.0.2"))], "the first one's second time, too"
        assert records(sent(lab, 3)) == [(ALLOW, GROUP, ("10.0.0.2",))]
        source_call(sock, LEAVE_SOURCE, "10.0.0.1")
        assert records(sent(lab, 3)) == [(BLOCK, GROUP, ("10.0.0.1",))] * 2
        source_call(sock, LEAVE_SOURCE, "10.0.0.2")
        assert records(sent(lab, 3)) == [(BLOCK, GROUP, ("10.0.0.2",))] * 2


@pytest.mark.rfc("3376", "3.2 interface state")
def test_what_sockets_want_together(lab: Lab) -> None:
    with udp(lab, PORT) as one, udp(lab, PORT + 1) as two, udp(lab, PORT + 2) as three:
        join(one)
        source_call(one, BLOCK_SOURCE, "10.0.0.1")
        source_call(one, BLOCK_SOURCE, "10.0.0.2")
        join(two)
        source_call(two, BLOCK_SOURCE, "10.0.0.2")
        source_call(two, BLOCK_SOURCE, "10.0.0.3")
        sent(lab, 3)
        query3(lab)
        assert records(sent(lab, 3)) == [(IS_EX, GROUP, ("10.0.0.2",))]
        source_call(three, JOIN_SOURCE, "10.0.0.2")
        assert records(sent(lab, 3)) == [(ALLOW, GROUP, ("10.0.0.2",))] * 2
        one.close()
        two.close()
        sent(lab, 3)
        query3(lab)
        assert records(sent(lab, 3)) == [(IS_IN, GROUP, ("10.0.0.2",))]


@pytest.mark.rfc("3376", "3.1 service interface")
def test_each_socket_filters_for_itself(lab: Lab) -> None:
    socks = [udp(lab, bound=False) for _ in range(3)]
    for sock in socks:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", PORT))
    everything, some, others = socks
    join(everything)
    source_call(some, JOIN_SOURCE, "10.9.0.5")
    join(others)
    source_call(others, BLOCK_SOURCE, "10.9.0.5")
    for source in ("10.9.0.5", "10.9.0.6"):
        deliver(lab, source.encode(), src=source)
    assert [[data for data, _ in received(sock)] for sock in socks] == [
        [b"10.9.0.5", b"10.9.0.6"],
        [b"10.9.0.5"],
        [b"10.9.0.6"],
    ]
    for sock in socks:
        sock.close()


def test_only_who_joined_or_wants_all(lab: Lab) -> None:
    with udp(lab, bound=False) as member, udp(lab, bound=False) as all_of_it, udp(lab, bound=False) as strict:
        for sock in (member, all_of_it, strict):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", PORT))
        strict.setsockopt(socket.IPPROTO_IP, MULTICAST_ALL, 0)
        deliver(lab, b"nobody joined")
        join(member)
        deliver(lab, b"x")
        assert [len(received(sock)) for sock in (member, all_of_it, strict)] == [1, 1, 0]
        with counted(lab) as grown:
            deliver(lab, b"another group", OTHER)
        assert grown["DropIpNotOurs"] == 1


def test_protocol_independent_calls(lab: Lab) -> None:
    """RFC 3678 §5.1: struct group_req, group_source_req, group_filter."""
    index = next(one.index for one in lab.stack.interfaces() if one.medium != "loopback")

    def storage(address: str) -> bytes:
        return struct.pack("=HH4s", socket.AF_INET, 0, socket.inet_aton(address)).ljust(128, b"\0")

    request = struct.pack("=I4x", index) + storage(GROUP)
    with udp(lab, PORT) as sock:
        sock.setsockopt(socket.IPPROTO_IP, 42, request)
        sock.setsockopt(socket.IPPROTO_IP, 43, request + storage("10.0.0.1"))
        sent(lab, 3)
        query3(lab)
        assert records(sent(lab, 3)) == [(IS_EX, GROUP, ("10.0.0.1",))]
        filtered = request + struct.pack("=II", 1, 2) + storage("10.0.0.7") + storage("10.0.0.8")
        sock.setsockopt(socket.IPPROTO_IP, 48, filtered)
        assert records(sent(lab, 3)) == [(TO_IN, GROUP, ("10.0.0.7", "10.0.0.8"))] * 2
        sock.setsockopt(socket.IPPROTO_IP, 45, request)
        assert records(sent(lab, 3)) == [(BLOCK, GROUP, ("10.0.0.7", "10.0.0.8"))] * 2


# -- queries


@pytest.mark.rfc("3376", "5.2 queries")
def test_a_general_query_is_answered_once_in_its_time(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        join(sock)
        join(sock, OTHER)
        sent(lab, 3)
        for _ in range(50):
            query3(lab, code=20)
        assert records(sent(lab, 0.0)) in ([], [(IS_EX, OTHER, ()), (IS_EX, GROUP, ())])
        query3(lab, code=20)
        assert len(records(sent(lab, 2.1))) in (2, 4)
        assert records(sent(lab, 30)) == []


@pytest.mark.rfc("3376", "5.2 queries")
def test_queries_about_a_group_and_its_sources(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        join(sock)
        source_call(sock, BLOCK_SOURCE, "10.0.0.1")
        sent(lab, 3)
        query3(lab, GROUP)
        assert records(sent(lab, 2)) == [(IS_EX, GROUP, ("10.0.0.1",))]
        query3(lab, OTHER)
        assert records(sent(lab, 2)) == []
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, mreq())
        for source in ("10.0.0.1", "10.0.0.2"):
            source_call(sock, JOIN_SOURCE, source)
        sent(lab, 3)
        query3(lab, GROUP, sources=("10.0.0.2", "10.0.0.9"))
        assert records(sent(lab, 2)) == [(IS_IN, GROUP, ("10.0.0.2",))]
        query3(lab, GROUP, sources=("10.0.0.9",))
        assert records(sent(lab, 2)) == []


def test_the_querier_says_how_often(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        query3(lab, qrv=4)
        sent(lab, 3)
        join(sock)
        assert records(sent(lab, 5)) == [(TO_EX, GROUP, ())] * 4


@pytest.mark.parametrize(
    "message",
    [
        b"\x11\x0a\0\0" + bytes(3),
        b"\x11\x0a\0\0" + bytes(4) + b"\x02\x7d\xff\xff",
        b"\x11\x0a\0\0" + bytes(4) + b"\x02",
        b"\x11\xff\0\0" + bytes(4) + b"\x02\x7d\0\x02" + bytes(4),
    ],
)
def test_queries_that_lie_are_dropped(lab: Lab, message: bytes) -> None:
    with udp(lab, PORT) as sock:
        join(sock)
        sent(lab, 3)
        with counted(lab) as grown:
            query(lab, message)
        assert grown.get("DropIgmpMalformed", 0) == 1
        assert records(sent(lab, 12)) == []


@pytest.mark.rfc("3376", "4.1.1 maximum response code")
def test_no_time_to_answer_is_at_once(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        join(sock)
        sent(lab, 3)
        query3(lab, code=0)
        assert records(sent(lab, 0.01)) == [(IS_EX, GROUP, ())]


# -- older versions


@pytest.mark.rfc("3376", "7.2 older queriers")
@pytest.mark.parametrize(("code", "report"), [(0, 0x12), (100, 0x16)])
def test_an_older_querier_is_spoken_to_in_its_version(lab: Lab, code: int, report: int) -> None:
    with udp(lab, PORT) as sock:
        query(lab, struct.pack(">BBHI", 0x11, code, 0, 0))
        join(sock)
        lab.carrier.pump()
        expected = (GROUP, report)
        assert [(to, m[0]) for to, m in igmp(sent(lab, 11))] == [expected] * 2
        query(lab, struct.pack(">BBHI", 0x11, code, 0, 0))
        assert [(to, m[0]) for to, m in igmp(sent(lab, 11))] == [expected]
        query(lab, struct.pack(">BBHI", 0x11, code, 0, 0))
        another = struct.pack(">BBH4s", report, 0, 0, socket.inet_aton(GROUP))
        query(lab, another, GROUP)
        assert igmp(sent(lab, 11)) == [], "somebody else has said it"
        leave(sock)
        lab.carrier.pump()
        left = [(to, m[0], m[4:]) for to, m in igmp(sent(lab, 11))]
        assert left == ([] if code == 0 else [("224.0.0.2", 0x17, socket.inet_aton(GROUP))])
        lab.carrier.advance(600)
        sent(lab)
        join(sock, OTHER)
        assert records(sent(lab, 3)) == [(TO_EX, OTHER, ())] * 2, "the older querier is forgotten"


def test_a_version_can_be_forced(lab: Lab) -> None:
    lab.stack.sysctl["net.ipv4.conf.all.force_igmp_version"] = 2
    with udp(lab, PORT) as sock:
        join(sock)
        assert [m[0] for _, m in igmp(sent(lab, 0.01))] == [0x16]


# -- sending


@pytest.mark.rfc("1112", "6.1 time to live")
@pytest.mark.parametrize(("set_to", "on_wire"), [(None, 1), (7, 7), (-1, 1), (0, None)])
def test_time_to_live_and_loop(lab: Lab, set_to: int | None, on_wire: int | None) -> None:
    with udp(lab, PORT) as sender, udp(lab, PORT + 1) as member:
        join(member)
        sent(lab, 3)
        if set_to is not None:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, set_to)
        sender.sendto(b"x", (GROUP, PORT + 1))
        lab.carrier.pump()
        frames = [f for f in sent(lab) if UDP in f]
        assert [f[IP].ttl for f in frames] == ([] if on_wire is None else [on_wire])
        assert all(f.dst == mac_of_group(GROUP) for f in frames)
        assert received(member) == [(b"x", (STACK_IP, PORT))], "members on this host hear it"
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, b"\0")
        assert sender.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP) == 0
        sender.sendto(b"y", (GROUP, PORT + 1))
        assert received(member) == []


def test_the_interface_a_socket_names() -> None:
    with ustack.sim.Network(seed=1) as net:
        host, left, right = net.stack("host"), net.stack("left"), net.stack("right")
        net.wire(host, left, addresses=("10.1.0.1/24", "10.1.0.2/24"))
        net.wire(host, right, addresses=("10.2.0.1/24", "10.2.0.2/24"))
        members = []
        for stack, own in ((left, "10.1.0.2"), (right, "10.2.0.2")):
            sock = stack.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("", PORT))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreq(own=own))
            members.append(sock)
        with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for own in ("10.2.0.1", "10.1.0.1"):
                sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
                assert sender.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, 4) == socket.inet_aton(own)
                sender.sendto(own.encode(), (GROUP, PORT))
            net.run(1)
        for sock, own in zip(members, ("10.1.0.1", "10.2.0.1"), strict=True):
            data, address = sock.recvfrom(100)
            assert (data, address[0]) == (own.encode(), own)
            sock.setblocking(False)
            assert received(sock) == []
            sock.close()


@pytest.mark.rfc("3376", "4.2.13 source")
def test_a_switch_without_an_address_may_ask(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        join(sock)
        sent(lab, 3)
        message = struct.pack(">BBHI4x", 0x11, 10, 0, 0)
        whole = message[:2] + struct.pack(">H", checksum(message)) + message[4:]
        frame = Ether(src=PEER_MAC, dst="01:00:5e:00:00:01") / IP(src="0.0.0.0", dst="224.0.0.1", ttl=1, proto=2)
        lab.peer.send_ether(frame / Raw(whole))
        assert records(sent(lab, 2)) == [(IS_EX, GROUP, ())]
