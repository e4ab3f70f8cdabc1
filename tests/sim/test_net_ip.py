"""IPv4 out and in, in virtual time: fragmentation, reassembly, routes, source addresses, loopback, counters."""

from __future__ import annotations

import errno
import random
import re
import socket
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

import ustack
from tap_harness.lab import Lab
from tap_harness.scapy_peer import BROADCAST
from tests.sim.net_helpers import (
    PEER_IP,
    PEER_MAC,
    STACK_IP,
    answer,
    counted,
    fragments,
    heard,
    ping_answered,
    received,
    requests,
    send,
    sent,
    udp,
)
from ustack_ext.net.mib import names

PORT = 7000


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    made.peer.ping()
    made.peer.discard()
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[Lab]:
    """One lab for all examples of a property test: what one leaves behind another would stumble over."""
    made = Lab()
    made.peer.ping()
    made.peer.discard()
    yield made
    made.close()


def assembled(frames: list[Packet]) -> bytes:
    """The payload of a datagram out of all its fragments."""
    whole = bytearray()
    for frame in sorted(frames, key=lambda one: one[IP].frag):
        assert frame[IP].frag * 8 == len(whole), "a gap or an overlap"
        whole += bytes(frame[IP].payload)
    return bytes(whole)


# -- fragmentation


@pytest.mark.rfc("791", "3.2 fragmentation")
@pytest.mark.rfc("6864", "4.3")
@pytest.mark.parametrize("size", [1472, 1473, 1480, 2960, 8000, 65507])
def test_large_datagrams_leave_in_fragments(lab: Lab, size: int) -> None:
    data = random.Random(size).randbytes(size)
    with udp(lab, PORT) as sock:
        assert send(lab, sock, data, (PEER_IP, 9)) == size
    frames = sent(lab)
    assert len(frames) == -(-(size + 8) // 1480)
    assert len({frame[IP].id for frame in frames}) == 1
    assert all(frame[IP].len <= 1500 and frame[IP].flags.DF == 0 for frame in frames)
    assert [bool(frame[IP].flags.MF) for frame in frames] == [True] * (len(frames) - 1) + [False]
    assert all(IP(bytes(frame[IP])).chksum == frame[IP].chksum for frame in frames)
    whole = UDP(assembled(frames))
    assert (whole.len, bytes(whole.payload)) == (size + 8, data)
    rebuilt = IP(src=STACK_IP, dst=PEER_IP) / UDP(sport=whole.sport, dport=9) / Raw(data)
    assert IP(bytes(rebuilt))[UDP].chksum == whole.chksum


def test_too_large_for_any_datagram(lab: Lab) -> None:
    with udp(lab, PORT) as sock, pytest.raises(OSError) as caught:
        sock.sendto(bytes(65508), (PEER_IP, 9))
    assert caught.value.errno == errno.EMSGSIZE


@pytest.mark.rfc("791", "3.2 fragmentation")
def test_smallest_mtu() -> None:
    lab = Lab(mtu=68)
    lab.peer.ping(b"")
    lab.peer.discard()
    data = bytes(range(200))
    with udp(lab, PORT) as sock:
        send(lab, sock, data, (PEER_IP, 9))
    frames = sent(lab)
    assert all(frame[IP].len <= 68 for frame in frames)
    assert assembled(frames)[8:] == data
    lab.close()


def test_fragments_wait_for_the_neighbour_together(lab: Lab) -> None:
    data = bytes(20000)
    with udp(lab, PORT) as sock:
        send(lab, sock, data, ("10.9.0.7", 9))
        assert len(requests(sent(lab), "10.9.0.7")) == 1
        answer(lab, "10.9.0.7", PEER_MAC)
        assert assembled(sent(lab))[8:] == data


@pytest.mark.rfc("1122", "3.3.2 reassembly")
@given(order=st.permutations(range(6)), odd=st.integers(0, 15), twice=st.sets(st.integers(0, 5)))
def test_reassembly_in_any_order(shared_lab: Lab, order: list[int], odd: int, twice: set[int]) -> None:
    lab = shared_lab
    data = random.Random(odd).randbytes(5 * 64 + 40 + odd)
    pieces = fragments(
        IP(src=PEER_IP, dst=STACK_IP, id=odd) / UDP(sport=5, dport=PORT) / Raw(data), [64, 128, 192, 256, 320]
    )
    with udp(lab, PORT) as sock:
        for number in order[:-1]:
            for _ in range(1 + (number in twice)):
                lab.peer.send(pieces[number])
        assert received(sock) == []
        lab.peer.send(pieces[order[-1]])
        assert received(sock) == [(data, (PEER_IP, 5))]
    assert lab.stack.live()["fragments"] == 0


@pytest.mark.rfc("1122", "3.3.2 EMTU_R")
def test_largest_datagram_is_received(lab: Lab) -> None:
    data = random.Random(3).randbytes(65507)
    whole = IP(src=PEER_IP, dst=STACK_IP, id=8) / UDP(sport=5, dport=PORT) / Raw(data)
    with udp(lab, PORT) as sock:
        for piece in reversed(fragments(whole, [*range(1480, 65515, 1480)])):
            lab.peer.send(piece)
        assert received(sock) == [(data, (PEER_IP, 5))]


@pytest.mark.rfc("1122", "3.3.2 reassembly timeout")
def test_reassembly_is_given_up_after_thirty_seconds(lab: Lab) -> None:
    first, second = fragments(IP(src=PEER_IP, dst=STACK_IP, id=9) / UDP(sport=5, dport=PORT) / Raw(bytes(64)), [32])
    with udp(lab, PORT) as sock, counted(lab) as grown:
        lab.peer.send(first)
        assert [p for p in heard(lab, 29.9) if ICMP in p] == []
        (error,) = [p for p in heard(lab, 0.2) if ICMP in p]
        assert (error[ICMP].type, error[ICMP].code) == (11, 1)
        lab.peer.send(second)
        assert received(sock) == []
    assert (grown["IpReasmTimeout"], grown["IpReasmFails"]) == (1, 1)


@pytest.mark.rfc("3168", "5.3")
@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [(0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3), (2, 3, 3), (3, 2, 3), (1, 3, 3), (0, 3, None), (3, 0, None)],
)
def test_congestion_mark_of_fragments(lab: Lab, first: int, second: int, merged: int | None) -> None:
    pieces = fragments(IP(src=PEER_IP, dst=STACK_IP, id=9) / ICMP(type=8) / Raw(bytes(64)), [32])
    for piece, mark in zip(pieces, (first, second), strict=True):
        piece.tos = 0x20 | mark
        lab.peer.send(piece)
    assert [reply[IP].tos for reply in sent(lab)] == ([] if merged is None else [0x20 | merged])


def test_same_identification_of_others_is_kept_apart(lab: Lab) -> None:
    """Source, destination, protocol and identification together name a datagram (RFC 791 §3.2)."""
    cases = [
        fragments(IP(src=src, dst=STACK_IP, id=1) / UDP(sport=n, dport=PORT) / Raw(bytes([n]) * 40), [24])
        for n, src in enumerate((PEER_IP, "10.9.0.5", "10.9.0.6"), start=1)
    ]
    with udp(lab, PORT) as sock:
        for first, _ in cases:
            lab.peer.send(first)
        for _, last in cases:
            lab.peer.send(last)
        assert [data[:1] for data, _ in received(sock)] == [b"\1", b"\2", b"\3"]


# -- routes and addresses


def name_of(lab: Lab) -> str:
    return next(one.name for one in lab.stack.interfaces() if one.medium == "ethernet")


def asked_for(lab: Lab, destination: str) -> str:
    """Whose link address the stack asks for to reach a destination."""
    with udp(lab) as sock:
        send(lab, sock, b"?", (destination, 9))
    return next(str(p[ARP].pdst) for p in sent(lab) if ARP in p)


@pytest.mark.rfc("1812", "5.2.4.3 longest match")
def test_longest_prefix_then_least_metric(lab: Lab) -> None:
    lab.stack.add_route("default", gateway="10.9.0.100")
    lab.stack.add_route("192.0.2.0/24", gateway="10.9.0.101", metric=5)
    lab.stack.add_route("192.0.2.0/24", gateway="10.9.0.102", metric=1)
    lab.stack.add_route("192.0.2.128/25", gateway="10.9.0.103", metric=9)
    assert asked_for(lab, "198.51.100.1") == "10.9.0.100"
    assert asked_for(lab, "192.0.2.1") == "10.9.0.102"
    assert asked_for(lab, "192.0.2.129") == "10.9.0.103"
    lab.stack.del_route("192.0.2.0/24", gateway="10.9.0.102")
    lab.carrier.advance(5)  # the entries that failed are gone
    sent(lab)
    assert asked_for(lab, "192.0.2.1") == "10.9.0.101"
    assert asked_for(lab, "10.9.0.55") == "10.9.0.55"


def test_a_route_changed_is_used_at_once_by_connected_sockets(lab: Lab) -> None:
    lab.stack.add_route("default", gateway=PEER_IP)
    with udp(lab) as sock:
        sock.connect(("192.0.2.1", 9))
        sock.send(b"one")
        assert [p.dst for p in heard(lab, 0.1) if UDP in p] == [PEER_MAC]
        lab.stack.add_route("192.0.2.0/24", gateway="10.9.0.77")
        sock.send(b"two")
        lab.carrier.pump()
        assert len(requests(sent(lab), "10.9.0.77")) == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"destination": "192.0.2.0/24", "gateway": "172.16.0.1"}, errno.ENETUNREACH),
        ({"destination": "10.9.0.0/24", "interface": "?"}, errno.ENODEV),
    ],
)
def test_routes_that_cannot_be(lab: Lab, arguments: dict[str, Any], code: int) -> None:
    with pytest.raises(OSError) as caught:
        lab.stack.add_route(**arguments)
    assert caught.value.errno == code


def test_no_route(lab: Lab) -> None:
    with udp(lab) as sock, pytest.raises(OSError) as caught:
        sock.sendto(b"?", ("192.0.2.1", 9))
    assert caught.value.errno == errno.ENETUNREACH


def test_gateway_of_a_gateway_is_refused(lab: Lab) -> None:
    lab.stack.add_route("172.16.0.0/16", gateway=PEER_IP)
    with pytest.raises(OSError) as caught:
        lab.stack.add_route("192.0.2.0/24", gateway="172.16.0.1")
    assert caught.value.errno == errno.ENETUNREACH


def test_route_mtu_limits_fragments(lab: Lab) -> None:
    lab.stack.add_route("192.0.2.0/24", gateway=PEER_IP, mtu=600)
    with udp(lab) as sock:
        send(lab, sock, bytes(2000), ("192.0.2.1", 9))
    frames = [p for p in heard(lab, 0.1) if p.haslayer(IP)]
    assert max(frame[IP].len for frame in frames) == 596
    assert len(assembled(frames)) == 2008


def source_to(lab: Lab, destination: str) -> str:
    with udp(lab) as sock:
        sock.connect((destination, 9))
        return str(sock.getsockname()[0])


@pytest.mark.rfc("1122", "3.3.4.3 source address")
def test_choice_of_source(lab: Lab) -> None:
    name = name_of(lab)
    lab.stack.add_address(name, "172.16.0.2/16")
    lab.stack.add_route("default", gateway=PEER_IP)
    lab.stack.add_route("198.51.100.0/24", gateway="172.16.0.1")
    lab.stack.add_route("203.0.113.0/24", gateway=PEER_IP, source="172.16.0.2")
    assert source_to(lab, "10.9.0.9") == STACK_IP
    assert source_to(lab, "172.16.9.9") == "172.16.0.2"
    assert source_to(lab, "192.0.2.1") == STACK_IP
    assert source_to(lab, "198.51.100.7") == "172.16.0.2"
    assert source_to(lab, "203.0.113.7") == "172.16.0.2"
    assert source_to(lab, "127.0.0.9") == "127.0.0.1"
    assert source_to(lab, STACK_IP) == STACK_IP


def test_an_address_taken_away_is_gone(lab: Lab) -> None:
    name = name_of(lab)
    lab.stack.add_address(name, "10.9.0.3/24")
    assert ping_answered(lab, dst="10.9.0.3")
    lab.stack.remove_address(name, STACK_IP)
    assert not ping_answered(lab)
    assert ping_answered(lab, dst="10.9.0.3"), "the other address of the prefix takes over the connected route"
    assert source_to(lab, PEER_IP) == "10.9.0.3"
    lab.stack.remove_address(name, "10.9.0.3")
    with udp(lab) as sock, pytest.raises(OSError) as caught:
        sock.sendto(b"?", (PEER_IP, 9))
    assert caught.value.errno == errno.ENETUNREACH


@pytest.mark.parametrize("length", [31, 32])
def test_point_to_point_prefixes(length: int) -> None:
    """RFC 3021: a /31 has two hosts and no broadcast."""
    lab = Lab(address=f"10.9.0.2/{length}", medium="ip", settle=False)
    with udp(lab, PORT) as sock:
        lab.carrier.send(bytes(IP(src="10.9.0.3", dst=STACK_IP) / UDP(sport=4, dport=PORT) / Raw(b"hi")))
        assert received(sock) == [(b"hi", ("10.9.0.3", 4))]
    lab.close()


# -- media and loopback


def test_ip_medium_has_no_link_header() -> None:
    lab = Lab(medium="ip", gateway="10.9.0.1")
    lab.carrier.send(bytes(IP(src="198.51.100.9", dst=STACK_IP) / ICMP(type=8, id=3, seq=4) / Raw(b"bare")))
    (frame,) = lab.carrier.drain()
    reply = IP(frame)
    assert (reply.src, reply.dst, reply[ICMP].type, bytes(reply[ICMP].payload)) == (
        STACK_IP,
        "198.51.100.9",
        0,
        b"bare",
    )
    for first in range(256):
        if first >> 4 != 4:
            lab.carrier.send(bytes([first]) + bytes(IP(src=PEER_IP, dst=STACK_IP) / ICMP(type=8))[1:])
    for length in range(1, 20):
        lab.carrier.send(bytes(IP(src=PEER_IP, dst=STACK_IP) / ICMP(type=8))[:length])
    assert lab.carrier.drain() == []
    lab.close()


@pytest.mark.rfc("1122", "3.2.1.3 (g) loopback stays inside")
@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", STACK_IP])
def test_own_addresses_are_reached_without_the_wire(lab: Lab, address: str) -> None:
    with udp(lab, PORT) as server, udp(lab) as client:
        for size in (0, 1, 1500, 65507):
            data = random.Random(size).randbytes(size)
            send(lab, client, data, (address, PORT))
            ((got, source),) = received(server)
            assert got == data
            assert source[1] == client.getsockname()[1]
            assert source[0] == (STACK_IP if address == STACK_IP else "127.0.0.1")
    assert sent(lab) == []


def test_bound_to_loopback_does_not_leave_the_host(lab: Lab) -> None:
    with udp(lab, 0, "127.0.0.1") as sock, pytest.raises(OSError) as caught:
        sock.sendto(b"?", (PEER_IP, 9))
    assert caught.value.errno == errno.EINVAL
    assert sent(lab) == []


def test_detached_link_takes_everything_with_it(lab: Lab) -> None:
    for piece in fragments(IP(src=PEER_IP, dst=STACK_IP, id=9) / ICMP(type=8) / Raw(bytes(64)), [32])[:1]:
        lab.peer.send(piece)
    with udp(lab) as sock:
        send(lab, sock, b"waits", ("10.9.0.7", 9))
        live = lab.stack.live()
        assert live["fragments"] == 1
        assert live["neighbors"] == 2
        lab.stack.detach(lab.carrier.link)
        live = lab.stack.live()
        assert (live["fragments"], live["neighbors"], live["buffers"], live["timers"]) == (0, 0, 0, 0)
        assert [route.interface for route in lab.stack.routes()] == ["lo"]
        with pytest.raises(OSError) as caught:
            sock.sendto(b"?", (PEER_IP, 9))
        assert caught.value.errno == errno.ENETUNREACH


def test_same_seed_same_packets() -> None:
    """Nothing but the seed, the packets and the times decides what is sent."""

    def run(seed: bytes) -> list[bytes]:
        out: list[bytes] = []
        with ustack.Stack(driver="manual", seed=seed) as stack:
            link = ustack.Callback(send=lambda frame: out.append(bytes(frame)), medium="ip", mtu=600)
            stack.poll(1)
            stack.attach(link, addresses=["10.9.0.2/24"])
            sock = stack.socket(socket.AF_INET, socket.SOCK_DGRAM)
            for size in (1, 100, 5000):
                sock.sendto(bytes(size), (PEER_IP, 9))
                link.receive(bytes(IP(src=PEER_IP, dst=STACK_IP) / ICMP(type=8) / Raw(bytes(size % 500))))
                stack.poll(size)
        return out

    assert run(b"a" * 32) == run(b"a" * 32)
    assert run(b"a" * 32) != run(b"b" * 32)


# -- what was good once


def drops_of_a_ping(lab: Lab, mac: str | None = None) -> set[str]:
    """The reasons for which an echo request from the peer to the stack is not answered."""
    request = lab.peer.ip_header() / ICMP(type=8, id=7, seq=9) / Raw(b"x" * 56)
    with counted(lab) as grown:
        lab.peer.send_ether(Ether(src=PEER_MAC, dst=mac or lab.peer.target_mac) / request)
        sent(lab)
    return {name for name in grown if name.startswith("Drop")}


@pytest.mark.rfc("1122", "3.3.6")
def test_a_known_host_is_refused_in_a_link_broadcast(lab: Lab) -> None:
    assert ping_answered(lab)
    assert drops_of_a_ping(lab, BROADCAST) == {"DropIpMartianDestination"}
    assert ping_answered(lab)


@pytest.mark.rfc("1122", "3.2.1.3")
def test_a_known_host_is_refused_once_its_address_is_ours(lab: Lab) -> None:
    assert ping_answered(lab)
    lab.stack.add_address(name_of(lab), f"{PEER_IP}/24")
    assert drops_of_a_ping(lab) == {"DropIpMartianSource"}
    lab.stack.remove_address(name_of(lab), PEER_IP)
    assert drops_of_a_ping(lab) == set()


def test_a_known_host_is_refused_once_the_address_is_not_ours(lab: Lab) -> None:
    assert ping_answered(lab)
    lab.stack.remove_address(name_of(lab), STACK_IP)
    assert drops_of_a_ping(lab) == {"DropIpNotOurs"}


# -- counters


def test_counter_names_are_those_of_the_enumeration() -> None:
    text = (Path(__file__).resolve().parents[2] / "ustack_ext" / "net" / "mib.pxd").read_text(encoding="utf-8")
    body = text.split("cdef enum Mib:")[1].split("MIB_COUNT")[0]
    assert names() == re.findall(r"^    (\w+)$", body, re.MULTILINE)


def test_fragments_of_three_in_every_order(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        for number, order in enumerate(permutations(range(3))):
            data = bytes([number]) * 60
            whole = IP(src=PEER_IP, dst=STACK_IP, id=number) / UDP(sport=5, dport=PORT) / Raw(data)
            pieces = fragments(whole, [24, 48])
            for which in order:
                lab.peer.send(pieces[which])
            assert received(sock) == [(data, (PEER_IP, 5))], order
