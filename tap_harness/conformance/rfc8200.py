"""RFC 8200, 5095, 5722, 6946, 7112, 8201, 4443: IPv6's headers and fragments, and ICMPv6."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Any

from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.packet import Packet, Raw

from tap_harness.conformance.probe import Probe
from tap_harness.conformance.probe6 import ALL_NODES, DATA, PEER, TARGET, THIRD, Six
from tap_harness.conformance.registry import MUST, SHOULD, document

R = document("8200", "Internet Protocol, Version 6")
M = document("4443", "ICMPv6")
CLOSED = 4711
ECHO = ICMPv6EchoRequest(id=7, seq=1, data=DATA)


def unknown(kind: int) -> Any:
    """A destination options header with one option that nobody knows; its two highest bits say what to do."""
    return IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=kind, optdata=b"\0\0")])


def echo(six: Six) -> Packet:
    """An echo request whose checksum is that of the packet without extension headers."""
    whole: Any = IPv6(src=PEER, dst=TARGET) / ECHO
    return IPv6(bytes(whole))[ICMPv6EchoRequest]


def pieces(six: Six, cuts: list[int], size: int = 64, ident: int = 99) -> list[Packet]:
    """An echo request cut at these offsets."""
    whole: Any = IPv6(src=PEER, dst=TARGET) / ICMPv6EchoRequest(id=7, seq=1, data=bytes(range(size)))
    raw = bytes(IPv6(bytes(whole))[ICMPv6EchoRequest])
    ends = [*cuts[1:], len(raw)]
    return [
        six.header(nh=44) / IPv6ExtHdrFragment(nh=58, id=ident, offset=at // 8, m=int(end < len(raw))) / raw[at:end]
        for at, end in zip(cuts, ends, strict=True)
    ]


# -- extension headers


@R.check("§4.2", "an option whose highest bits are 00 is skipped", MUST)
def option_skipped(p: Probe) -> None:
    six = Six(p)
    six.send(six.header() / unknown(0x1E) / echo(six))
    six.expect(ICMPv6EchoReply)


@R.check("§4.2", "an option whose highest bits are 01 discards the packet in silence", MUST)
def option_dropped(p: Probe) -> None:
    six = Six(p)
    six.send(six.header() / unknown(0x5E) / echo(six))
    found = six.take(lambda packet: ICMPv6EchoReply in packet or ICMPv6ParamProblem in packet)
    p.require(found is None, "the packet was answered")


@R.check("§4.2", "an option whose highest bits are 10 discards the packet; the sender is told, even of a group", MUST)
def option_told(p: Probe) -> None:
    six = Six(p)
    six.send(six.header() / unknown(0x9E) / echo(six))
    six.problem(2, 42)
    p.wait(1.1)
    six.send(six.header(dst=ALL_NODES) / unknown(0x9E) / ECHO)
    six.problem(2, 42)


@R.check("§4.2", "an option whose highest bits are 11 is told of unless the packet was for a group", MUST)
def option_told_unicast(p: Probe) -> None:
    six = Six(p)
    six.send(six.header() / unknown(0xDE) / echo(six))
    six.problem(2, 42)
    p.wait(1.1)
    six.send(six.header(dst=ALL_NODES) / unknown(0xDE) / ECHO)
    six.silent(ICMPv6ParamProblem)


@R.check("§4", "an unrecognized next header is a parameter problem, code 1, that points to it", MUST)
def next_header(p: Probe) -> None:
    six = Six(p)
    six.send(six.header(nh=253) / Raw(b"12345678"))
    six.problem(1, 6)


@R.check("§4", "extension headers come in any order and number, but hop-by-hop options first", MUST)
def order(p: Probe) -> None:
    six = Six(p)
    routing = IPv6ExtHdrRouting(type=0, segleft=0)
    six.send(six.header() / IPv6ExtHdrDestOpt() / routing / IPv6ExtHdrDestOpt() / echo(six))
    six.expect(ICMPv6EchoReply)
    six.send(six.header() / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / echo(six))
    six.expect(ICMPv6EchoReply)
    six.send(six.header() / IPv6ExtHdrDestOpt(nh=0) / IPv6ExtHdrHopByHop() / echo(six))
    six.problem(1, 40)


@R.check("§4.4", "a routing header of type 0 with segments left is a parameter problem, code 0 (RFC 5095)", MUST)
def routing_zero(p: Probe) -> None:
    six = Six(p)
    six.send(six.header() / IPv6ExtHdrRouting(type=0, addresses=[THIRD], segleft=1) / echo(six))
    six.problem(0, 42)


@R.check("§4.7", 'what follows "no next header" is ignored', MUST)
def no_next_header(p: Probe) -> None:
    six = Six(p)
    six.send(six.header(nh=59) / Raw(b"12345678"))
    six.silent(ICMPv6ParamProblem)
    six.ping()


@R.check("§8.1", "over IPv6 a UDP datagram without a checksum is discarded", MUST)
def udp_zero(p: Probe) -> None:
    six = Six(p)
    sock = p.target.socket6(socket.SOCK_DGRAM)
    try:
        sock.bind(("::", 7000))
        datagram: Any = six.header() / UDP(sport=9, dport=7000, chksum=0) / Raw(b"unprotected")
        six.send(datagram)
        p.wait(p.soon)
        try:
            raise p.wrong(f"nothing, not {sock.recv(100)!r}")
        except BlockingIOError:
            return
    finally:
        sock.close()


@R.check("§3", "a packet whose payload is longer than what came is discarded", MUST)
def truncated(p: Probe) -> None:
    six = Six(p)
    six.send(six.header(plen=200) / echo(six))
    six.silent(ICMPv6EchoReply)
    six.ping()


# -- fragments


@R.check("§4.5", "fragments are put together in whatever order they come", MUST)
def reassembly(p: Probe) -> None:
    six = Six(p)
    for piece in reversed(pieces(six, [0, 24, 48])):
        six.send(piece)
    six.expect(ICMPv6EchoReply, data=bytes(range(64)))


@R.check("§4.5", "fragments that overlap end the whole datagram, silently (RFC 5722)", MUST)
def overlap(p: Probe) -> None:
    six = Six(p)
    first, _, last = pieces(six, [0, 24, 48])
    other = pieces(six, [0, 16, 56])[1]
    for piece in (first, other, last):
        six.send(piece)
    found = six.take(lambda packet: ICMPv6EchoReply in packet or ICMPv6ParamProblem in packet)
    p.require(found is None, "overlapping fragments were answered")
    six.ping()


@R.check("§4.5", "a fragment with more to come whose length is no multiple of 8 is a parameter problem", MUST)
def odd_length(p: Probe) -> None:
    six = Six(p)
    six.send(six.header() / IPv6ExtHdrFragment(nh=58, id=5, m=1) / Raw(b"\x80" * 13))
    six.problem(0, 4)


@R.check("§4.5", "a fragment that would make the datagram longer than 65,535 octets is a parameter problem", MUST)
def too_long(p: Probe) -> None:
    six = Six(p)
    six.send(six.header() / IPv6ExtHdrFragment(nh=17, id=6, offset=8191, m=0) / Raw(bytes(64)))
    six.problem(0, 42)


@R.check("§4.5", "a datagram in one fragment is processed by itself, whatever else is under way (RFC 6946)", MUST)
def atomic(p: Probe) -> None:
    six = Six(p)
    six.send(pieces(six, [0, 24], ident=77)[0])
    six.send(six.header() / IPv6ExtHdrFragment(nh=58, id=77, m=0) / echo(six))
    six.expect(ICMPv6EchoReply, data=DATA)


@R.check("§4.5", "a first fragment without all headers is discarded, silently or with code 3 (RFC 7112)", MUST)
def headers_in_first(p: Probe) -> None:
    six = Six(p)
    raw = bytes(IPv6ExtHdrDestOpt(nh=58)) + bytes(echo(six))
    for offset, more, data in ((0, 1, raw[:8]), (8, 0, raw[8:])):
        six.send(six.header() / IPv6ExtHdrFragment(nh=60, id=8, offset=offset // 8, m=more) / Raw(data))
    six.silent(ICMPv6EchoReply)


@R.check("§4.5", "60 seconds after the first fragment the rest is given up, and the sender told", MUST, takes=61)
def timeout(p: Probe) -> None:
    six = Six(p)
    six.send(pieces(six, [0, 24], ident=78)[0])
    six.silent(ICMPv6TimeExceeded, 58)
    six.expect(ICMPv6TimeExceeded, 4, code=1)


@R.check("§5", "what is longer than the path carries leaves in fragments (RFC 8201 §4)", MUST)
def path_mtu(p: Probe) -> None:
    six = Six(p)
    sock = p.target.socket6(socket.SOCK_DGRAM)
    try:
        sock.connect((PEER, 9))
        sock.send(bytes(1400))
        p.target.pump()
        quoted = bytes(six.expect(UDP)[IPv6])[:600]
        six.send(six.header() / ICMPv6PacketTooBig(mtu=1280) / Raw(quoted))
        with contextlib.suppress(OSError):  # some tell the socket first
            sock.send(bytes(1400))
        sock.send(bytes(1400))
        p.target.pump()
        first = six.expect(IPv6ExtHdrFragment)
        p.require(len(bytes(first[IPv6])) <= 1280, "a fragment is longer than the path carries")
    finally:
        sock.close()


@R.check("§5", "a packet too big message below 1280 does not lower the path MTU (RFC 8201 §4)", MUST)
def path_mtu_low(p: Probe) -> None:
    six = Six(p)
    six.send(six.header() / ICMPv6EchoRequest(id=7, seq=1, data=bytes(1200)))
    quoted = bytes(six.expect(ICMPv6EchoReply)[IPv6])[:600]
    six.send(six.header() / ICMPv6PacketTooBig(mtu=600) / Raw(quoted))
    six.send(six.header() / ICMPv6EchoRequest(id=7, seq=2, data=bytes(1200)))
    p.require(IPv6ExtHdrFragment not in six.expect(IPv6), "the reply was cut")


# -- ICMPv6


@M.check("§4.2", "every node answers echo requests, from the address that was asked, with the data unchanged", MUST)
def echo_reply(p: Probe) -> None:
    six = Six(p)
    reply = six.ping(bytes(range(200)))
    p.require((reply[IPv6].src, reply[IPv6].dst) == (TARGET, PEER), "the addresses are not the other way round")
    p.require((reply[ICMPv6EchoReply].id, reply[ICMPv6EchoReply].seq) == (7, 1), "the identifier is another")


@M.check("§4.2", "an echo request to a group may be answered, from an address of the interface", SHOULD)
def echo_group(p: Probe) -> None:
    six = Six(p)
    six.send(six.header(dst=ALL_NODES) / ECHO)
    p.require(six.expect(ICMPv6EchoReply)[IPv6].src in p.target.addresses6(), "the source is not the target's")


@M.check("§3.1", "a datagram to a port that nobody has is answered with code 4, quoting what fits 1280 octets", SHOULD)
def port_unreachable(p: Probe) -> None:
    six = Six(p)
    asked: Any = six.header() / UDP(sport=9, dport=CLOSED) / Raw(bytes(1300))
    six.send(asked)
    found = six.expect(ICMPv6DestUnreach, code=4)
    p.require(len(bytes(found[IPv6])) == 1280, "the error is not 1280 octets long")
    p.require(bytes(found[ICMPv6DestUnreach])[8:48] == bytes(asked)[:40], "the packet is not quoted")


@M.check("§2.4 (e)", "no error about an error, a group's packet, or a source that is not one host", MUST)
def no_errors(p: Probe) -> None:
    six = Six(p)
    inner = IPv6(src=TARGET, dst=PEER) / UDP(dport=9)
    six.send(six.header() / unknown(0x9E) / ICMPv6DestUnreach() / inner)
    six.send(six.header(dst=ALL_NODES) / UDP(dport=CLOSED))
    six.send(six.header(src="::") / UDP(dport=CLOSED))
    six.send(six.header(src="ff02::5") / UDP(dport=CLOSED))
    found = six.take(lambda packet: ICMPv6DestUnreach in packet)
    p.require(found is None, "an error was sent")


@M.check("§2.4 (f)", "errors are limited in rate", MUST)
def rate(p: Probe) -> None:
    six = Six(p)
    for k in range(200):
        six.send(six.header() / UDP(sport=1000 + k, dport=CLOSED))
    count = 0
    while six.take(lambda packet: ICMPv6DestUnreach in packet, 0) is not None:
        count += 1
    p.require(0 < count < 200, f"{count} errors for 200 datagrams")


@M.check("§2.4 (b)", "an informational message of an unknown type is discarded in silence", MUST)
def unknown_type(p: Probe) -> None:
    six = Six(p)
    six.send(six.header(nh=58) / Raw(b"\xc8\0" + bytes(10)))
    six.send(six.header(nh=58) / Raw(bytes(3)))
    six.silent(ICMPv6ParamProblem)


@M.check("§2.3", "a message whose checksum is wrong is discarded", MUST)
def bad_checksum(p: Probe) -> None:
    six = Six(p)
    six.send(six.header() / ICMPv6EchoRequest(cksum=1, data=DATA))
    six.silent(ICMPv6EchoReply)


@M.check("§3.1", "a port unreachable message reaches the upper layer whose packet it quotes", MUST)
def told(p: Probe) -> None:
    six = Six(p)
    sock = p.target.socket6(socket.SOCK_DGRAM)
    try:
        sock.connect((PEER, 9))
        sock.send(b"anybody?")
        p.target.pump()
        sent = six.expect(UDP)
        six.send(six.header() / ICMPv6DestUnreach(code=4) / Raw(bytes(sent[IPv6])))
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        p.require(error == errno.ECONNREFUSED, f"the socket's error is {error}")
    finally:
        sock.close()
