"""Raw, ping and packet sockets with the kernel's own on the other end of a TAP; and both asked the same questions."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

import ustack

OWN = 253
ETHERTYPE = 0x88B5


def opened(net: Any, whose: str, family: int, kind: int, proto: int) -> Any:
    made = net.stack.socket(family, kind, proto) if whose == "ours" else net.ns.socket(family, kind, proto)
    made.settimeout(5)
    return net.keep(made)


@pytest.mark.parametrize("sender", ["ours", "theirs"])
@pytest.mark.parametrize("size", [0, 1, 1480, 1481, 9000])
def test_raw_both_ways(net: Any, sender: str, size: int) -> None:
    receiver = "theirs" if sender == "ours" else "ours"
    there, here = (net.stack_ip, net.kernel_ip) if receiver == "ours" else (net.kernel_ip, net.stack_ip)
    got = opened(net, receiver, net.family, socket.SOCK_RAW, OWN)
    opened(net, sender, net.family, socket.SOCK_RAW, OWN).sendto(b"x" * size, (there, 0))
    data, address = got.recvfrom(65535)
    assert address == net.name(here, 0)
    if net.six:  # RFC 3542 §3: without the header
        assert data == b"x" * size
        return
    assert (data[0], data[9], data[20:]) == (0x45, OWN, b"x" * size)
    assert int.from_bytes(data[2:4], "big") == 20 + size


@pytest.mark.ipv4("it makes the checksum of ICMP, which the stack makes of ICMPv6")
def test_a_ping_of_ones_own_is_answered_by_the_kernel(net: Any) -> None:
    sock = opened(net, "ours", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    body = struct.pack("!BBHHH", 8, 0, 0xF7FF - 0x1234 - 7, 0x1234, 7)  # checksum by hand
    sock.sendto(body, (net.kernel_ip, 0))
    data = sock.recv(200)
    assert (data[20], data[24:28]) == (0, body[4:])


@pytest.mark.ipv4("frames have no family")
def test_frames_both_ways(net: Any) -> None:
    ours = opened(net, "ours", socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETHERTYPE))
    theirs = opened(net, "theirs", socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETHERTYPE))
    device = next(i for i in net.stack.interfaces() if i.name != "lo")
    theirs.bind(("ust0", ETHERTYPE))
    mac = theirs.getsockname()[4]
    ours.sendto(b"to the kernel", (device.name, ETHERTYPE, 0, 0, mac))
    data, address = theirs.recvfrom(100)
    assert (data[:13], address[2], address[4]) == (b"to the kernel", 0, bytes.fromhex(device.mac.replace(":", "")))
    theirs.sendto(b"to the stack", ("ust0", ETHERTYPE, 0, 0, address[4]))
    data, address = ours.recvfrom(100)
    assert (data[:12], address) == (b"to the stack", (device.name, ETHERTYPE, 0, 1, mac))


# -- the same questions


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")


RAW, DGRAM, FOUR, SIX, PACKET = socket.SOCK_RAW, socket.SOCK_DGRAM, socket.AF_INET, socket.AF_INET6, socket.AF_PACKET
KEEP = struct.pack("HBBI", 6, 0, 0, 1)
QUESTIONS: list[tuple[str, int, int, int, Callable[[Any], Any]]] = [
    ("name", FOUR, RAW, OWN, lambda s: s.getsockname()),
    ("peer", FOUR, RAW, OWN, lambda s: s.getpeername()),
    ("name of IPv6", SIX, RAW, OWN, lambda s: s.getsockname()),
    ("name of frames", PACKET, RAW, socket.htons(3), lambda s: s.getsockname()),
    ("peer of frames", PACKET, RAW, socket.htons(3), lambda s: s.getpeername()),
    ("frames are not shut down", PACKET, RAW, 0, lambda s: s.shutdown(2)),
    ("frames without an interface", PACKET, RAW, 0, lambda s: s.send(bytes(60))),
    ("shut down", FOUR, RAW, OWN, lambda s: s.shutdown(2)),
    ("listen", FOUR, RAW, OWN, lambda s: s.listen(1)),
    ("without an address", FOUR, RAW, OWN, lambda s: s.send(b"x")),
    ("bind elsewhere", FOUR, RAW, OWN, lambda s: s.bind(("192.0.2.1", 0))),
    ("bind twice", FOUR, RAW, OWN, lambda s: (s.bind(("127.0.0.1", 0)), s.bind(("127.0.0.1", 0)))),
    ("too long", FOUR, RAW, OWN, lambda s: s.sendto(bytes(65536), ("127.0.0.1", 0))),
    ("a header too short", FOUR, RAW, 255, lambda s: s.sendto(bytes(19), ("127.0.0.1", 0))),
    ("a header beyond the end", FOUR, RAW, 255, lambda s: s.sendto(b"\x4f" + bytes(30), ("127.0.0.1", 0))),
    ("header included", FOUR, RAW, 255, lambda s: s.getsockopt(0, socket.IP_HDRINCL)),
    ("no header", FOUR, RAW, OWN, lambda s: s.getsockopt(0, socket.IP_HDRINCL)),
    ("ICMP filter", FOUR, RAW, 1, lambda s: (s.setsockopt(255, 1, struct.pack("I", 9)), s.getsockopt(255, 1, 4))),
    ("ICMP filter of another", FOUR, RAW, OWN, lambda s: s.setsockopt(255, 1, bytes(4))),
    ("ICMPv6 filter", SIX, RAW, 58, lambda s: (s.setsockopt(58, 1, b"\7" * 32), s.getsockopt(58, 1, 32))),
    ("checksum", SIX, RAW, OWN, lambda s: (s.setsockopt(41, 7, 4), s.getsockopt(41, 7))),
    ("no checksum", SIX, RAW, OWN, lambda s: s.getsockopt(41, 7)),
    ("an odd checksum", SIX, RAW, OWN, lambda s: s.setsockopt(41, 7, 3)),
    ("ICMPv6's checksum", SIX, RAW, 58, lambda s: s.getsockopt(41, 7)),
    ("ICMPv6's checksum is fixed", SIX, RAW, 58, lambda s: s.setsockopt(41, 7, 4)),
    ("detach nothing", FOUR, DGRAM, 0, lambda s: s.setsockopt(1, 27, 0)),
    ("lock", FOUR, DGRAM, 0, lambda s: (s.setsockopt(1, 44, 1), s.getsockopt(1, 44))),
    ("locked", FOUR, DGRAM, 0, lambda s: (s.setsockopt(1, 44, 1), s.setsockopt(1, 27, 0))),
    ("unlock", FOUR, DGRAM, 0, lambda s: (s.setsockopt(1, 44, 1), outcome(lambda: s.setsockopt(1, 44, 0)))),
    ("statistics", PACKET, RAW, 0, lambda s: s.getsockopt(263, 6, 8)),
    ("outgoing", PACKET, RAW, 0, lambda s: (s.setsockopt(263, 23, 1), s.getsockopt(263, 23))),
    ("outgoing, wrong", PACKET, RAW, 0, lambda s: s.setsockopt(263, 23, 7)),
    ("type", FOUR, RAW, OWN, lambda s: (s.getsockopt(1, socket.SO_TYPE), s.getsockopt(1, 38), s.getsockopt(1, 39))),
    ("type of frames", PACKET, DGRAM, socket.htons(9), lambda s: (s.getsockopt(1, 3), s.getsockopt(1, 38))),
]  # fmt: skip


@pytest.mark.parametrize(("family", "kind", "proto", "ask"), [q[1:] for q in QUESTIONS], ids=[q[0] for q in QUESTIONS])
def test_as_the_kernel_answers(ns: Any, family: int, kind: int, proto: int, ask: Callable[[Any], Any]) -> None:
    ns.sh("ip link set lo up")
    with ustack.Stack() as stack:
        found = []
        for sock in (ns.socket(family, kind, proto), stack.socket(family, kind, proto)):
            sock.settimeout(3)
            with sock:
                found.append(outcome(lambda sock=sock: ask(sock)))
    assert found[1] == found[0]


REFUSED = [(FOUR, RAW, 0), (FOUR, RAW, 300), (SIX, RAW, 0), (PACKET, socket.SOCK_STREAM, 0)]


@pytest.mark.ipv4("sockets of either family are among the arguments")
@pytest.mark.parametrize("arguments", REFUSED)
def test_refused_as_the_kernel_does(ns: Any, arguments: tuple[int, int, int]) -> None:
    with ustack.Stack() as stack:
        assert outcome(lambda: stack.socket(*arguments)) == outcome(lambda: ns.socket(*arguments))
