"""RFC 6093, 5482, 2385: urgent data in line, the user timeout option, segments with an MD5 digest."""

from __future__ import annotations

import socket
from typing import Any

from scapy.layers.inet import IP, TCP
from scapy.packet import Packet

from tap_harness.conformance.probe import Conn, Probe, Sock, option
from tap_harness.conformance.registry import MUST, SHOULD, document
from tap_harness.diff import ANY
from tap_harness.flow import Flow, Options
from tap_harness.md5sig import OPTION, TCP_MD5SIG, digest, md5sig, signatures
from tap_harness.packets import payload

U = document("6093", "On the Implementation of the TCP Urgent Mechanism")
T = document("5482", "TCP User Timeout Option")
M = document("2385", "Protection of BGP Sessions via the TCP MD5 Signature Option")
UTO_KIND, TCP_UTO = 28, 1028  # RFC 5482 §3; ustack.TCP_UTO
KEY = b"a secret of both"

# -- urgent data


@U.check("§4", "the pointer of urgent data that is sent names the octet after it", MUST)
def pointer_sent(p: Probe) -> None:
    conn = p.established()
    conn.sock.urgent(b"ab!")
    packet = conn.data(flags="AU")
    p.require(packet[TCP].urgptr == 3, f"it is {packet[TCP].urgptr} with three octets")


@U.check("§4", "the mark of urgent data that was received is the octet before the one that the pointer names", MUST)
def pointer_received(p: Probe) -> None:
    conn = p.established()
    conn.sock.option(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    conn.flow.send("PAU", b"ab!cd", urgent=3)
    conn.flow.collect(p.within(0.3))
    p.require(conn.sock.read() == b"ab", "reading does not end at the mark")
    p.require(conn.sock.at_mark(), "the mark is not there")


@U.check("§6", "SO_OOBINLINE leaves urgent data in the stream, in its place", SHOULD)
def in_line(p: Probe) -> None:
    conn = p.established()
    conn.sock.option(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    conn.flow.send("PAU", b"ab!cd", urgent=3)
    conn.flow.send("PA", b"ef")
    conn.flow.collect(p.within(0.3))
    conn.delivered(b"ab!cdef")


@U.check("§5", "the mechanism is there for those who use it: urgent data can be sent and read", MUST)
def both_ways(p: Probe) -> None:
    conn = p.established()
    conn.flow.send("PAU", b"!", urgent=1)
    conn.flow.collect(p.within(0.3))
    p.require(conn.sock.raw.recv(1, socket.MSG_OOB) == b"!", "another octet was read")
    conn.sock.urgent(b"?")
    p.require(payload(conn.data(flags="AU")) == b"?", "another octet was sent")


# -- user timeout


def uto(value: bytes) -> Options:
    """A user timeout option."""
    return [(UTO_KIND, value)]  # type: ignore[list-item]  # scapy takes a number where it has no name


def _uto(packet: Packet) -> bytes | None:
    found = option(packet, str(UTO_KIND)) or option(packet, UTO_KIND) or option(packet, "UTO")  # type: ignore[arg-type]
    if found is None or isinstance(found, bytes):
        return found
    return int(found).to_bytes(2, "big")


@T.check("§3.1", "the option is off by default: no SYN, SYN-ACK or data has it", MUST)
def unasked(p: Probe) -> None:
    asked: Options = [("MSS", 1460), *uto(b"\x00\x78")]
    flow = p.flow()
    flow.send("S", options=asked)
    p.require(_uto(flow.expect("SA", p.within(0.1), seq=ANY)) is None, "a SYN-ACK has it")
    conn = p.established(asked, talks=True)
    conn.send(b"x")
    p.require(_uto(conn.data()) is None, "data has it")
    _, syn = p.connecting()
    p.require(_uto(syn) is None, "a SYN has it")


@T.check("§3.1", "where it is off, one that is received changes nothing", MUST)
def ignored(p: Probe) -> None:
    conn = p.established([("MSS", 1460), *uto(b"\x00\x01")])
    before = conn.sock.option(socket.IPPROTO_TCP, 18)
    conn.flow.send("PA", b"one second", options=uto(b"\x00\x01"))
    conn.flow.collect(p.within(0.3))
    conn.delivered(b"one second")
    conn.send(b"x")
    p.wait(2.5)
    p.require(conn.state == "ESTABLISHED", f"the connection is {conn.state}")
    p.require(conn.sock.option(socket.IPPROTO_TCP, 18) == before, "TCP_USER_TIMEOUT has changed")


def told(seconds: int) -> Any:
    """What prepares a socket that tells its user timeout."""

    def prepare(sock: Sock) -> None:
        sock.option(socket.IPPROTO_TCP, TCP_UTO, seconds)

    return prepare


@T.check("§3.1", "where it is on, the SYN and the first segment after it have it", SHOULD)
def in_syn_and_after(p: Probe) -> None:
    conn, syn = p.connecting(told(120))
    p.require(_uto(syn) == b"\x00\x78", f"the SYN has {_uto(syn)!r}")
    conn.flow.send("SA", options=[("MSS", 1460)])
    packet = conn.flow.expect("A")
    p.require(_uto(packet) == b"\x00\x78", f"the segment after it has {_uto(packet)!r}")


@T.check("§3", "a time of more than 32767 seconds is told in minutes, with the granularity bit", MUST)
def in_minutes(p: Probe) -> None:
    _, syn = p.connecting(told(36000))
    p.require(_uto(syn) == (0x8000 | 600).to_bytes(2, "big"), f"the SYN has {_uto(syn)!r}")


@T.check("§3.2", "a time of zero, or an option of another length, is ignored", MUST)
def zero_ignored(p: Probe) -> None:
    for value in (b"\x00\x00", b"\x80\x00", b"\x01", b"\x00\x00\x01"):
        conn, _ = p.connecting(told(120))
        conn.flow.send("SA", options=[("MSS", 1460), *uto(value)])
        conn.flow.expect("A")
        conn.send(b"x")
        p.wait(0.5)
        p.require(conn.state == "ESTABLISHED", f"with {value!r} the connection is {conn.state}")


@T.check("§3.1", "a time that is told shorter than 100 s does not end the connection sooner", MUST, takes=60)
def lower_limit(p: Probe) -> None:
    conn, _ = p.connecting(told(1))
    conn.flow.send("SA", options=[("MSS", 1460), *uto(b"\x00\x01")])
    conn.flow.expect("A")
    conn.send(b"x")
    p.wait(60)
    p.require(conn.state == "ESTABLISHED", f"the connection is {conn.state}")


# -- MD5


def signed(flow: Flow, flags: str, data: bytes = b"", *, key: bytes = KEY, options: Options | None = None) -> None:
    """The next segment of the conversation, with its digest."""
    flow.peer.send(with_digest(flow, flags, data, key=key, options=options))
    flow.snd += len(data) + ("S" in flags) + ("F" in flags)


def with_digest(flow: Flow, flags: str, data: bytes = b"", *, key: bytes, options: Options | None = None) -> Packet:
    """That segment."""
    before = options or []
    packet = IP(bytes(flow.build(flags, data, options=[*before, (OPTION, bytes(16))])))
    packet[TCP].options = [*before, (OPTION, digest(packet, key))]
    del packet[TCP].chksum
    return packet


def keyed(p: Probe, key: bytes = KEY) -> tuple[Flow, Sock]:
    """A conversation, not begun, with a listener that wants digests."""

    def prepare(sock: Sock) -> None:
        sock.option(socket.IPPROTO_TCP, TCP_MD5SIG, md5sig(p.peer.ip, key))

    listener = p.listen(95, prepare=prepare)
    return p.peer.flow(95), listener


def protected(p: Probe, key: bytes = KEY) -> Conn:
    """A connection with digests."""
    flow, listener = keyed(p, key)
    signed(flow, "S", key=key, options=[("MSS", 1000)])
    flow.expect("SA", p.within(0.1), seq=ANY)
    signed(flow, "A", key=key)
    return Conn(p, flow, p.accept(listener))


@M.check("§2.0", "every segment that is sent has the digest, and it is right", MUST)
def every_segment(p: Probe) -> None:
    flow, listener = keyed(p)
    signed(flow, "S", options=[("MSS", 1000)])
    answer = flow.expect("SA", p.within(0.1), seq=ANY)
    signed(flow, "A")
    conn = Conn(p, flow, p.accept(listener))
    conn.send(b"data")
    data = conn.data()
    signed(flow, "PA", b"more")
    found = [answer, data, *flow.collect(p.within(0.3))]
    conn.sock.shutdown()
    found.append(flow.expect("FA", p.within(0.1)))
    for packet in found:
        p.require(signatures(packet) == [digest(packet[IP], KEY)], f"not so in {packet.summary()}")


@M.check("§2.0", "a segment whose digest is wrong is dropped without an answer", MUST)
def wrong_digest(p: Probe) -> None:
    conn = protected(p)
    p.peer.send(with_digest(conn.flow, "PA", b"evil", key=b"another"))
    p.silent(conn.flow)
    p.require(conn.sock.recv() == b"", "its data was delivered")


@M.check("§2.0", "so is one without a digest", MUST)
def no_digest(p: Probe) -> None:
    conn = protected(p)
    conn.flow.inject("PA", b"evil")
    p.silent(conn.flow)
    p.require(conn.sock.recv() == b"", "its data was delivered")


@M.check("§2.0", "a SYN without a digest, or with a wrong one, is dropped without an answer", MUST)
def open_without(p: Probe) -> None:
    flow, _ = keyed(p)
    flow.inject("S")
    p.silent(flow)
    p.peer.send(with_digest(flow, "S", key=b"another"))
    p.silent(flow)


@M.check("§4.1", "a RST without a digest does not end the connection", MUST)
def reset_without(p: Probe) -> None:
    conn = protected(p)
    conn.flow.reset()
    signed(conn.flow, "PA", b"alive")
    conn.flow.collect(p.within(0.3))
    conn.delivered(b"alive")


@M.check("§4.3", "the option's octets come off a segment's data: what the peer's MSS is for is not exceeded", MUST)
def smaller_segments(p: Probe) -> None:
    conn = protected(p)
    conn.send(bytes(3000))
    sizes = [len(bytes(one[TCP])) - 20 for one in p.burst(conn.flow)]
    p.require(sizes and max(sizes) <= 1000, f"options and data are {sizes} octets, the MSS is 1000")


@M.check("§4.5", "a key of 80 octets can be set", SHOULD)
def long_key(p: Probe) -> None:
    conn = protected(p, bytes(range(33, 113)))
    p.require(conn.state == "ESTABLISHED", f"the connection is {conn.state}")


@M.check("§2.0", "connections with others have no digest", MUST)
def others(p: Probe) -> None:
    def prepare(sock: Sock) -> None:
        sock.option(socket.IPPROTO_TCP, TCP_MD5SIG, md5sig(p.target.other_address, KEY))

    listener = p.listen(95, prepare=prepare)
    flow = p.peer.flow(95)
    answer = flow.handshake()
    p.require(not signatures(answer), "a SYN-ACK has one")
    p.require(p.pending(listener), "the connection does not come to be")
