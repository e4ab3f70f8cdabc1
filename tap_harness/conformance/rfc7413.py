"""RFC 7413: TCP Fast Open."""

from __future__ import annotations

import socket

from scapy.layers.inet import TCP
from scapy.packet import Packet

from tap_harness.conformance.probe import Probe, Sock
from tap_harness.conformance.registry import MUST, SHOULD, NotApplicable, document
from tap_harness.diff import ANY
from tap_harness.flow import Flow
from tap_harness.packets import payload
from tap_harness.segment import parse

R = document("7413", "TCP Fast Open")
KIND = 34
FASTOPEN = getattr(socket, "TCP_FASTOPEN", 23)


def cookie_of(p: Probe, packet: Packet | None) -> bytes | None:
    """The cookie in a segment's options, None if there is none."""
    raw = None if packet is None else parse(bytes(packet))
    if raw is None:
        raise p.wrong("a segment", packet)
    at, options = 0, raw.options
    while at < len(options) and options[at] != 0:
        if options[at] == 1:
            at += 1
            continue
        if options[at] == KIND:
            return options[at + 2 : at + options[at + 1]]
        at += options[at + 1]
    return None


def server(p: Probe) -> Sock:
    """A listener with fast open."""
    p.target.sysctl("net.ipv4.tcp_fastopen", 3)
    listener = p.socket()
    listener.raw.bind(("", 90))
    try:
        listener.raw.setsockopt(socket.IPPROTO_TCP, FASTOPEN, 8)
    except OSError:
        raise NotApplicable("the target has no fast open") from None
    listener.raw.listen(8)
    return listener


def syn(p: Probe, cookie: bytes | None, data: bytes = b"") -> tuple[Flow, Packet]:
    """A SYN with the option (an empty cookie asks for one) -> the conversation and the answer."""
    flow = p.peer.flow(90)
    options = [("MSS", 1460)] if cookie is None else [("MSS", 1460), (KIND, cookie)]
    flow.send("S", data, options=options)
    answer = flow.expect("SA", p.within(0.1), seq=ANY, ack=ANY, data=ANY)
    return flow, answer


@R.check("§4.1.1", "a request for a cookie is answered with one of 4 to 16 bytes", MUST)
def asked(p: Probe) -> None:
    server(p)
    _, answer = syn(p, b"")
    cookie = cookie_of(p, answer)
    p.require(cookie is not None and 4 <= len(cookie) <= 16 and len(cookie) % 2 == 0, f"the cookie is {cookie!r}")


@R.check("§4.1.2", "data in a SYN with a good cookie is delivered before the handshake ends", MUST)
def good_cookie(p: Probe) -> None:
    listener = server(p)
    first, answer = syn(p, b"")
    cookie = cookie_of(p, answer)
    first.reset()
    flow, answer = syn(p, cookie, b"early")
    p.require(answer[TCP].ack == flow.snd, "the SYN-ACK does not acknowledge the data")
    p.require(p.accept(listener).recv() == b"early", "it is not delivered")


@R.check("§4.1.2", "data in a SYN with a wrong cookie is not taken, and a right cookie is offered", MUST)
def bad_cookie(p: Probe) -> None:
    listener = server(p)
    flow, answer = syn(p, b"\x13" * 8, b"early")
    p.require(answer[TCP].ack == (flow.isn + 1) % (1 << 32), "the data is acknowledged")
    p.require(not p.pending(listener), "the connection is given to the application")
    p.require(cookie_of(p, answer) not in (None, b"\x13" * 8), "no cookie is offered")


@R.check("§4.1.2", "cookies of other addresses are other cookies", MUST)
def cookie_by_address(p: Probe) -> None:
    server(p)
    _, one = syn(p, b"")
    _, same = syn(p, b"")
    p.require(cookie_of(p, one) == cookie_of(p, same), "one address gets two cookies at once")
    from tap_harness.scapy_peer import Peer

    other = Peer(p.target.wire, ip=p.target.other_address, mac="02:00:00:00:00:03", target=p.target.address)
    flow = other.flow(90)
    flow.send("S", options=[("MSS", 1460), (KIND, b"")])
    answer = flow.expect("SA", p.within(0.1), seq=ANY)
    p.require(cookie_of(p, answer) != cookie_of(p, one), "two addresses get one cookie")


@R.check("§3", "without being switched on for the listener, data in a SYN waits for the handshake", MUST)
def off(p: Probe) -> None:
    flow = p.flow()
    flow.send("S", b"early", options=[("MSS", 1460), (KIND, b"\x13" * 8)])
    answer = flow.expect("SA", p.within(0.1), seq=ANY, ack=ANY)
    p.require(cookie_of(p, answer) is None, "a cookie is given")
    p.require(answer[TCP].ack == (flow.isn + 1) % (1 << 32), "the data is acknowledged")


@R.check("§4.2.1", "the server may send its answer before the handshake ends", SHOULD)
def answers_early(p: Probe) -> None:
    listener = server(p)
    first, answer = syn(p, b"")
    first.reset()
    flow, _ = syn(p, cookie_of(p, answer), b"request")
    sock = p.accept(listener)
    sock.send(b"response")
    packet = p.data(flow, 0.3, ack=flow.snd)
    p.require(payload(packet) == b"response", "another answer")
