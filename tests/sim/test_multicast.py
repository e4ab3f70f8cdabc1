"""Multicast of a host over IPv4 and IPv6: memberships and filters, IGMP and MLD of every version, sending, delivery.

RFC 1112, 2236, 2710, 3376, 3678, 3810.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

import ustack
from tap_harness.lab import Lab
from tests.sim.group_helpers import (
    ALLOW,
    BLOCK,
    BLOCK_SOURCE,
    IGMP,
    IS_EX,
    IS_IN,
    JOIN_GROUP,
    JOIN_SOURCE,
    LEAVE_GROUP,
    LEAVE_SOURCE,
    MLD,
    MSFILTER,
    ROUTER,
    TO_EX,
    TO_IN,
    UNBLOCK_SOURCE,
    Family,
    both_families,
    checksum,
)
from tests.sim.net_helpers import PEER_MAC, counted, received, sent

PORT = 7000


@pytest.fixture(params=[IGMP, MLD], ids=lambda one: one.name)
def fam(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


@pytest.fixture
def lab() -> Iterator[Lab]:
    with both_families() as made:
        yield made


def code_of(caught: pytest.ExceptionInfo[OSError]) -> str:
    return errno.errorcode[caught.value.errno or 0]


# -- joining and leaving


@pytest.mark.rfc("3376", "5.1 state change")
@pytest.mark.rfc("3810", "6.1 state change")
def test_joining_and_leaving_are_reported_twice(lab: Lab, fam: Family) -> None:
    with fam.udp(lab, PORT) as sock:
        fam.join(sock)
        lab.carrier.pump()
        assert fam.records(sent(lab)) == [(TO_EX, fam.group, ())], "at once"
        assert fam.records(sent(lab, 1.1)) == [(TO_EX, fam.group, ())], "and within a second again"
        assert fam.records(sent(lab, 10)) == []
        fam.leave(sock)
        lab.carrier.pump()
        assert fam.records(sent(lab, 1.1)) == [(TO_IN, fam.group, ())] * 2


def test_what_two_sockets_joined_is_left_with_the_second(lab: Lab, fam: Family) -> None:
    with fam.udp(lab, PORT) as one, fam.udp(lab, PORT + 1) as two:
        fam.join(one)
        fam.join(two)
        assert len(fam.records(sent(lab, 3))) == 2
        fam.leave(one)
        assert fam.records(sent(lab, 3)) == []
        two.close()
        assert fam.records(sent(lab, 3)) == [(TO_IN, fam.group, ())] * 2


@pytest.mark.rfc("3376", "6 all hosts")
@pytest.mark.rfc("3810", "6 all nodes")
def test_everybody_is_never_reported(lab: Lab, fam: Family) -> None:
    with fam.udp(lab, PORT) as sock:
        fam.join(sock, fam.everybody)
        fam.query(lab)
        assert fam.records(sent(lab, 3)) == []
        fam.deliver(lab, b"x", fam.everybody)
        assert len(received(sock)) == 1


def test_errors_of_memberships(lab: Lab, fam: Family) -> None:
    knobs = lab.stack.sysctl
    knobs["net.ipv4.igmp_max_memberships"] = 2
    knobs["net.ipv4.igmp_max_msf"] = knobs["net.ipv6.mld_max_msf"] = 2
    with fam.udp(lab, PORT) as sock:
        for expected, call in (
            ("EADDRNOTAVAIL", lambda: fam.leave(sock)),
            ("EINVAL", lambda: fam.join(sock, fam.host(9))),
            ("ENODEV", lambda: sock.setsockopt(fam.level, JOIN_GROUP, fam.request(77, fam.group))),
            ("EINVAL", lambda: sock.setsockopt(fam.level, JOIN_GROUP, bytes(3))),
            ("EINVAL", lambda: fam.source(sock, BLOCK_SOURCE, fam.host(1))),
            ("EADDRNOTAVAIL", lambda: sock.setsockopt(fam.level, BLOCK_SOURCE, bytes(8) + b"\x77" * 256)),
        ):
            with pytest.raises(OSError) as caught:
                call()
            assert code_of(caught) == expected
        fam.join(sock)
        with pytest.raises(OSError) as caught:
            fam.join(sock)
        assert code_of(caught) == "EADDRINUSE"
        fam.source(sock, BLOCK_SOURCE, fam.host(1))
        fam.source(sock, BLOCK_SOURCE, fam.host(2))
        for expected, name in (("ENOBUFS", BLOCK_SOURCE), ("EADDRNOTAVAIL", UNBLOCK_SOURCE), ("EINVAL", LEAVE_SOURCE)):
            with pytest.raises(OSError) as caught:
                fam.source(sock, name, fam.host(3))
            assert code_of(caught) == expected


@pytest.mark.parametrize(("fam", "most", "expected"), [(IGMP, 20, "ENOBUFS"), (MLD, 256, "ENOMEM")])
def test_memberships_of_a_socket_are_bounded(lab: Lab, fam: Family, most: int, expected: str) -> None:
    with fam.udp(lab) as sock:
        for k in range(most):
            fam.join(sock, f"ff05::2:{k:x}" if fam.six else f"239.9.{k}.1")
        with pytest.raises(OSError) as caught:
            fam.join(sock)
        assert code_of(caught) == expected
        fam.leave(sock, "ff05::2:0" if fam.six else "239.9.0.1")
        fam.join(sock)


# -- source filters


@pytest.mark.rfc("3376", "5.1 source lists")
@pytest.mark.rfc("3810", "6.1 source lists")
def test_sources_are_reported_as_they_change(lab: Lab, fam: Family) -> None:
    one, two = fam.host(11), fam.host(12)
    with fam.udp(lab, PORT) as sock:
        fam.source(sock, JOIN_SOURCE, one)
        lab.carrier.pump()
        assert fam.records(sent(lab)) == [(ALLOW, fam.group, (one,))]
        fam.source(sock, JOIN_SOURCE, two)
        lab.carrier.pump()
        assert fam.records(sent(lab)) == [(ALLOW, fam.group, (one, two))], "the first one's second time, too"
        assert fam.records(sent(lab, 3)) == [(ALLOW, fam.group, (two,))]
        fam.source(sock, LEAVE_SOURCE, one)
        assert fam.records(sent(lab, 3)) == [(BLOCK, fam.group, (one,))] * 2
        fam.source(sock, LEAVE_SOURCE, two)
        assert fam.records(sent(lab, 3)) == [(BLOCK, fam.group, (two,))] * 2


@pytest.mark.rfc("3376", "3.2 interface state")
@pytest.mark.rfc("3810", "4.2 interface state")
def test_what_sockets_want_together(lab: Lab, fam: Family) -> None:
    with fam.udp(lab, PORT) as one, fam.udp(lab, PORT + 1) as two, fam.udp(lab, PORT + 2) as three:
        fam.join(one)
        fam.source(one, BLOCK_SOURCE, fam.host(1))
        fam.source(one, BLOCK_SOURCE, fam.host(12))
        fam.join(two)
        fam.source(two, BLOCK_SOURCE, fam.host(12))
        fam.source(two, BLOCK_SOURCE, fam.host(3))
        sent(lab, 3)
        fam.query(lab)
        assert fam.records(sent(lab, 3)) == [(IS_EX, fam.group, (fam.host(12),))]
        fam.source(three, JOIN_SOURCE, fam.host(12))
        assert fam.records(sent(lab, 3)) == [(ALLOW, fam.group, (fam.host(12),))] * 2
        one.close()
        two.close()
        sent(lab, 3)
        fam.query(lab)
        assert fam.records(sent(lab, 3)) == [(IS_IN, fam.group, (fam.host(12),))]


@pytest.mark.rfc("3376", "3.1 service interface")
@pytest.mark.rfc("3810", "3 service interface")
def test_each_socket_filters_for_itself(lab: Lab, fam: Family) -> None:
    socks = [fam.udp(lab, bound=False) for _ in range(3)]
    for sock in socks:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", PORT))
    everything, some, others = socks
    fam.join(everything)
    fam.source(some, JOIN_SOURCE, fam.host(5))
    fam.join(others)
    fam.source(others, BLOCK_SOURCE, fam.host(5))
    for number in (5, 6):
        fam.deliver(lab, b"%d" % number, src=fam.host(number))
    assert [[data for data, _ in received(sock)] for sock in socks] == [[b"5", b"6"], [b"5"], [b"6"]]
    for sock in socks:
        sock.close()


def test_only_who_joined_or_wants_all(lab: Lab, fam: Family) -> None:
    with (
        fam.udp(lab, bound=False) as member,
        fam.udp(lab, bound=False) as all_of_it,
        fam.udp(lab, bound=False) as strict,
    ):
        for sock in (member, all_of_it, strict):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", PORT))
        assert strict.getsockopt(fam.level, fam.options["ALL"]) == 1
        strict.setsockopt(fam.level, fam.options["ALL"], 0)
        fam.deliver(lab, b"nobody joined")
        fam.join(member)
        fam.deliver(lab, b"x")
        assert [len(received(sock)) for sock in (member, all_of_it, strict)] == [1, 1, 0]
        with counted(lab) as grown:
            fam.deliver(lab, b"another group", fam.other)
        assert grown["DropIpNotOurs"] == 1


def test_whole_filters(lab: Lab, fam: Family) -> None:
    """RFC 3678 §5.1: struct group_req, group_source_req, group_filter."""
    index = next(one.index for one in lab.stack.interfaces() if one.medium != "loopback")
    request = fam.request(index, fam.group)
    with fam.udp(lab, PORT) as sock:
        sock.setsockopt(fam.level, JOIN_GROUP, request)
        sock.setsockopt(fam.level, BLOCK_SOURCE, request + fam.storage(fam.host(11)))
        sent(lab, 3)
        fam.query(lab)
        assert fam.records(sent(lab, 3)) == [(IS_EX, fam.group, (fam.host(11),))]
        filtered = request + struct.pack("=II", 1, 2) + fam.storage(fam.host(7)) + fam.storage(fam.host(8))
        sock.setsockopt(fam.level, MSFILTER, filtered)
        assert fam.records(sent(lab, 3)) == [(TO_IN, fam.group, (fam.host(7), fam.host(8)))] * 2
        sock.setsockopt(fam.level, LEAVE_GROUP, request)
        assert fam.records(sent(lab, 3)) == [(BLOCK, fam.group, (fam.host(7), fam.host(8)))] * 2


# -- queries


@pytest.mark.rfc("3376", "5.2 queries")
@pytest.mark.rfc("3810", "6.2 queries")
def test_a_general_query_is_answered_once_in_its_time(lab: Lab, fam: Family) -> None:
    with fam.udp(lab, PORT) as sock:
        fam.join(sock)
        fam.join(sock, fam.other)
        sent(lab, 3)
        for _ in range(50):
            fam.query(lab, ms=2000)
        answer = [(IS_EX, fam.other, ()), (IS_EX, fam.group, ())]
        assert fam.records(sent(lab, 0.0)) in ([], answer)
        fam.query(lab, ms=2000)
        assert fam.records(sent(lab, 2.1)) in (answer, answer * 2)
        assert fam.records(sent(lab, 30)) == []


@pytest.mark.rfc("3376", "5.2 queries")
@pytest.mark.rfc("3810", "6.2 queries")
def test_queries_about_a_group_and_its_sources(lab: Lab, fam: Family) -> None:
    with fam.udp(lab, PORT) as sock:
        fam.join(sock)
        fam.source(sock, BLOCK_SOURCE, fam.host(11))
        sent(lab, 3)
        fam.query(lab, fam.group)
        assert fam.records(sent(lab, 2)) == [(IS_EX, fam.group, (fam.host(11),))]
        fam.query(lab, fam.other)
        assert fam.records(sent(lab, 2)) == []
        fam.leave(sock)
        for number in (11, 12):
            fam.source(sock, JOIN_SOURCE, fam.host(number))
        sent(lab, 3)
        fam.query(lab, fam.group, sources=(fam.host(12), fam.host(9)))
        assert fam.records(sent(lab, 2)) == [(IS_IN, fam.group, (fam.host(12),))]
        fam.query(lab, fam.group, sources=(fam.host(9),))
        assert fam.records(sent(lab, 2)) == []


def test_the_querier_says_how_often(lab: Lab, fam: Family) -> None:
    with fam.udp(lab, PORT) as sock:
        fam.query(lab, qrv=4)
        sent(lab, 3)
        fam.join(sock)
        assert fam.records(sent(lab, 5)) == [(TO_EX, fam.group, ())] * 4


@pytest.mark.parametrize("fault", ["short", "count", "cut", "one source of two"])
def test_queries_that_lie_are_dropped(lab: Lab, fam: Family, fault: str) -> None:
    whole = fam.query_message(None, 1000)
    two = fam.query_message(fam.group, 1000, (fam.host(1), fam.host(2)))
    message = {
        "short": whole[: len(whole) - 5],
        "count": whole[:-2] + b"\xff\xff",
        "cut": whole[:-1],
        "one source of two": two[: -len(fam.packed(fam.host(1)))],
    }[fault]
    with fam.udp(lab, PORT) as sock:
        fam.join(sock)
        sent(lab, 3)
        with counted(lab) as grown:
            fam.send(lab, message, fam.everybody)
        assert grown.get(fam.query_malformed, 0) == 1
        assert fam.records(sent(lab, 12)) == []


@pytest.mark.rfc("3376", "4.1.1 maximum response code")
@pytest.mark.rfc("3810", "5.1.3 maximum response code")
def test_no_time_to_answer_is_at_once(lab: Lab, fam: Family) -> None:
    with fam.udp(lab, PORT) as sock:
        fam.join(sock)
        sent(lab, 3)
        fam.query(lab, ms=0)
        assert fam.records(sent(lab, 0.01)) == [(IS_EX, fam.group, ())]


@pytest.mark.rfc("3810", "6.2 validity")
@pytest.mark.parametrize("fault", ["source", "hop limit", "router alert"])
def test_whom_mld_does_not_believe(lab: Lab, fault: str) -> None:
    with MLD.udp(lab, PORT) as sock:
        MLD.join(sock)
        sent(lab, 3)
        message = MLD.query_message(None, 100)
        src, ttl = "fd09::1" if fault == "source" else ROUTER, 64 if fault == "hop limit" else 1
        MLD.send(lab, message, MLD.everybody, src, ttl, alert=fault != "router alert")
        assert MLD.records(sent(lab, 2)) == []
        MLD.send(lab, message, MLD.everybody)
        assert MLD.records(sent(lab, 2)) == [(IS_EX, MLD.group, ())]


# -- older versions


@pytest.mark.rfc("3376", "7.2 older queriers")
@pytest.mark.rfc("3810", "8.2 older queriers")
def test_an_older_querier_is_spoken_to_in_its_version(lab: Lab, fam: Family) -> None:
    wait = fam.old_response + 1
    report = (fam.group, fam.old_report, fam.group)
    with fam.udp(lab, PORT) as sock:
        fam.old_query(lab)
        fam.join(sock)
        lab.carrier.pump()
        assert fam.old(sent(lab, wait)) == [report] * 2
        fam.old_query(lab)
        assert fam.old(sent(lab, wait)) == [report]
        fam.old_query(lab)
        another = fam.host(77) if not fam.six else "fe80::77"
        fam.send(lab, fam.old_message(fam.old_report, fam.group), fam.group, another)
        assert fam.old(sent(lab, wait)) == [], "somebody else has said it"
        fam.leave(sock)
        lab.carrier.pump()
        assert fam.old(sent(lab, wait)) == [(fam.done_to, fam.done, fam.group)]
        lab.carrier.advance(600)
        sent(lab)
        fam.join(sock, fam.other)
        assert fam.records(sent(lab, 3)) == [(TO_EX, fam.other, ())] * 2, "the older querier is forgotten"


@pytest.mark.rfc("3376", "7.2 older queriers")
def test_version_1_of_igmp(lab: Lab) -> None:
    with IGMP.udp(lab, PORT) as sock:
        IGMP.send(lab, struct.pack(">BBHI", 0x11, 0, 0, 0), IGMP.everybody)
        IGMP.join(sock)
        lab.carrier.pump()
        assert IGMP.old(sent(lab, 11)) == [(IGMP.group, 0x12, IGMP.group)] * 2
        IGMP.leave(sock)
        assert IGMP.old(sent(lab, 11)) == []


def test_a_version_can_be_forced(lab: Lab, fam: Family) -> None:
    if fam.six:
        lab.stack.sysctl["net.ipv6.conf.all.force_mld_version"] = 1
    else:
        lab.stack.sysctl["net.ipv4.conf.all.force_igmp_version"] = 2
    with fam.udp(lab, PORT) as sock:
        fam.join(sock)
        assert fam.old(sent(lab, 0.01)) == [(fam.group, fam.old_report, fam.group)]


# -- sending


@pytest.mark.rfc("1112", "6.1 time to live")
@pytest.mark.parametrize(("set_to", "on_wire"), [(None, 1), (7, 7), (-1, 1), (0, None)])
def test_time_to_live_and_loop(lab: Lab, fam: Family, set_to: int | None, on_wire: int | None) -> None:
    with fam.udp(lab, PORT) as sender, fam.udp(lab, PORT + 1) as member:
        fam.join(member)
        sent(lab, 3)
        if set_to is not None:
            sender.setsockopt(fam.level, fam.options["TTL"], set_to)
        sender.sendto(b"x", (fam.group, PORT + 1))
        lab.carrier.pump()
        frames = [f for f in sent(lab) if UDP in f]
        assert [bytes(f)[14 + fam.header] for f in frames] == ([] if on_wire is None else [on_wire])
        assert all(f.dst == fam.mac(fam.group) for f in frames)
        assert [(data, from_[:2]) for data, from_ in received(member)] == [(b"x", (fam.host(2), PORT))], "here, too"
        sender.setsockopt(fam.level, fam.options["LOOP"], 0)
        assert sender.getsockopt(fam.level, fam.options["LOOP"]) == 0
        sender.sendto(b"y", (fam.group, PORT + 1))
        assert received(member) == []


def test_the_interface_a_socket_names(fam: Family) -> None:
    with ustack.sim.Network(seed=1) as net:
        host, left, right = net.stack("host"), net.stack("left"), net.stack("right")
        prefix = "fd0{}::{}/64" if fam.six else "10.{}.0.{}/24"
        ends = [(prefix.format(k, 1), prefix.format(k, 2)) for k in (1, 2)]
        net.wire(host, left, addresses=ends[0])
        net.wire(host, right, addresses=ends[1])
        members = []
        for stack in (left, right):
            sock = stack.socket(fam.family, socket.SOCK_DGRAM)
            sock.bind(("", PORT))
            sock.setsockopt(fam.level, JOIN_GROUP, fam.request(0, fam.group))
            members.append(sock)
        outs = [one for one in host.interfaces() if one.medium != "loopback"]
        with host.socket(fam.family, socket.SOCK_DGRAM) as sender:
            for out, (own, _) in zip(reversed(outs), reversed(ends), strict=True):
                value = struct.pack("=i", out.index) if fam.six else socket.inet_aton(own.split("/")[0])
                sender.setsockopt(fam.level, fam.options["IF"], value)
                assert sender.getsockopt(fam.level, fam.options["IF"], 4) == value
                sender.sendto(own.encode(), (fam.group, PORT))
            net.run(1)
        for sock, (own, _) in zip(members, ends, strict=True):
            data, address = sock.recvfrom(100)
            assert (data, address[0]) == (own.encode(), own.split("/")[0])
            sock.setblocking(False)
            assert received(sock) == []
            sock.close()


@pytest.mark.rfc("4007", "6 zones")
def test_groups_of_one_link_are_the_interfaces() -> None:
    """ff02::5 on two links is two groups; a filter on a link-local source is of that link."""
    with ustack.sim.Network(seed=1) as net:
        host, left, right = net.stack("host"), net.stack("left"), net.stack("right")
        net.wire(host, left, addresses=("fd01::1/64", "fd01::2/64"))
        net.wire(host, right, addresses=("fd02::1/64", "fd02::2/64"))
        net.run(3)
        first, second = (one.index for one in host.interfaces() if one.medium != "loopback")
        with host.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("", PORT))
            sock.setsockopt(socket.IPPROTO_IPV6, JOIN_GROUP, MLD.request(first, "ff02::5"))
            sock.setblocking(False)
            for stack in (left, right):
                with stack.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
                    sender.sendto(stack.name.encode() if hasattr(stack, "name") else b"x", ("ff02::5", PORT))
            net.run(1)
            (got,) = received(sock)
            assert got[1][0].startswith("fe80::")
            assert got[1][3] == first
            source = got[1][0]
            sock.setsockopt(socket.IPPROTO_IPV6, BLOCK_SOURCE, MLD.request(first, "ff02::5", source))
            with left.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"again", ("ff02::5", PORT))
            net.run(1)
            assert received(sock) == []
            sock.setsockopt(socket.IPPROTO_IPV6, JOIN_GROUP, MLD.request(second, "ff02::5"))


@pytest.mark.rfc("3376", "4.2.13 source")
def test_a_switch_without_an_address_may_ask(lab: Lab) -> None:
    with IGMP.udp(lab, PORT) as sock:
        IGMP.join(sock)
        sent(lab, 3)
        message = struct.pack(">BBHI4x", 0x11, 10, 0, 0)
        whole = message[:2] + struct.pack(">H", checksum(message)) + message[4:]
        header: Packet = IP(src="0.0.0.0", dst="224.0.0.1", ttl=1, proto=2)
        lab.peer.send_ether(Ether(src=PEER_MAC, dst="01:00:5e:00:00:01") / header / Raw(whole))
        assert IGMP.records(sent(lab, 2)) == [(IS_EX, IGMP.group, ())]


# -- the groups of our addresses


@pytest.mark.rfc("3810", "5.2.13 source")
@pytest.mark.rfc("4861", "7.2.1")
def test_an_address_joins_its_group_and_leaves_it(lab: Lab) -> None:
    name = lab.stack.interfaces()[1].name
    solicited = "ff02::1:ff12:3456"

    def reported(seconds: float) -> list[int]:
        found = []
        for _, message in MLD.messages(sent(lab, seconds)):
            at = 8
            for _ in range(struct.unpack_from(">H", message, 6)[0]):
                if socket.inet_ntop(socket.AF_INET6, message[at + 4 : at + 20]) == solicited:
                    found.append(message[at])
                at += 20
        return found

    lab.stack.add_address(name, "fd09::12:3456/64")
    assert reported(3) == [TO_EX] * 2
    lab.stack.add_address(name, "fd0a::12:3456/64")
    with MLD.udp(lab) as sock:
        MLD.join(sock, solicited)
        lab.stack.remove_address(name, "fd09::12:3456")
        assert reported(3) == [], "another address has the same group"
        lab.stack.remove_address(name, "fd0a::12:3456")
        assert reported(3) == [], "and a socket"
    assert reported(3) == [TO_IN] * 2
