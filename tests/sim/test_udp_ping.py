"""Ping sockets (SOCK_DGRAM, IPPROTO_ICMP): the identifier is the port; replies and errors find their socket."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.packet import Packet, Raw

from tap_harness.lab import Lab
from tests.sim.net_helpers import PEER_IP, STACK_IP, counted, heard, received, send

REQUEST = b"\x08\x00\xff\xff\xab\xcd\x00\x07payload"  # checksum and identifier are the stack's to fill in


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    made.peer.ping()
    made.peer.discard()
    yield made
    made.close()


def pinger(lab: Lab, ident: int | None = None) -> Any:
    sock = lab.stack.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    sock.setblocking(False)
    if ident is not None:
        sock.bind(("", ident))
    return sock


def asked(lab: Lab, sock: Any, request: bytes = REQUEST) -> Packet:
    """The echo request as it appears on the wire."""
    send(lab, sock, request, (PEER_IP, 0))
    (frame,) = [p for p in heard(lab, 0.1) if ICMP in p]
    return frame


def reply_to(frame: Packet, src: str = PEER_IP, ident: int | None = None) -> Packet:
    echo = frame[ICMP]
    header = ICMP(type=0, id=echo.id if ident is None else ident, seq=echo.seq)
    return IP(src=src, dst=STACK_IP, ttl=77) / header / Raw(bytes(echo.payload))


def test_request_and_reply(lab: Lab) -> None:
    with pinger(lab) as sock:
        frame = asked(lab, sock)
        ident = sock.getsockname()[1]
        assert ident != 0
        assert (frame[ICMP].type, frame[ICMP].code, frame[ICMP].id, frame[ICMP].seq) == (8, 0, ident, 7)
        assert bytes(frame[ICMP].payload) == b"payload"
        rebuilt = IP(bytes(frame[IP]))
        del rebuilt[ICMP].chksum
        assert IP(bytes(rebuilt))[ICMP].chksum == frame[ICMP].chksum
        lab.peer.send(reply_to(frame))
        ((data, source),) = received(sock)
        assert source[0] == PEER_IP
        assert (data[0], data[1], int.from_bytes(data[4:6], "big"), data[6:]) == (0, 0, ident, b"\0\x07payload")


@pytest.mark.parametrize(
    "request_bytes",
    [b"", b"\x08", REQUEST[:7], b"\0" + REQUEST[1:], b"\x08\x01" + REQUEST[2:], b"\x0d" + REQUEST[1:]],
    ids=["empty", "one byte", "seven bytes", "a reply", "code 1", "timestamp"],
)
def test_only_echo_requests_may_be_sent(lab: Lab, request_bytes: bytes) -> None:
    with pinger(lab) as sock, pytest.raises(OSError) as caught:
        sock.sendto(request_bytes, (PEER_IP, 0))
    assert caught.value.errno == errno.EINVAL


def test_replies_go_by_identifier(lab: Lab) -> None:
    with pinger(lab, 100) as first, pinger(lab, 200) as second:
        frame = asked(lab, first)
        with counted(lab) as grown:
            lab.peer.send(reply_to(frame, ident=200))
            lab.peer.send(reply_to(frame, ident=300))
        assert (len(received(first)), len(received(second))) == (0, 1)
        assert grown["DropIcmpUnmatched"] == 1


def test_identifiers_are_given_once(lab: Lab) -> None:
    with pinger(lab, 100), pytest.raises(OSError) as caught:
        pinger(lab, 100)
    assert caught.value.errno == errno.EADDRINUSE


def test_connected_hears_its_peer_only(lab: Lab) -> None:
    with pinger(lab, 100) as sock:
        sock.connect((PEER_IP, 0))
        sock.send(REQUEST)
        lab.carrier.pump()
        (frame,) = [p for p in heard(lab, 0.1) if ICMP in p]
        lab.peer.send(reply_to(frame, src="10.9.0.5"))
        assert received(sock) == []
        lab.peer.send(reply_to(frame))
        assert len(received(sock)) == 1


@pytest.mark.parametrize("kind", [3, 11])
def test_errors_find_the_socket(lab: Lab, kind: int) -> None:
    with pinger(lab, 100) as sock, pinger(lab, 200) as other:
        frame = asked(lab, sock)
        lab.peer.send(IP(src="10.9.0.9", dst=STACK_IP) / ICMP(type=kind, code=1) / IP(bytes(frame[IP])))
        assert received(other) == []
        with pytest.raises(OSError) as caught:
            sock.recv(1)
        assert caught.value.errno == errno.EHOSTUNREACH


@pytest.mark.parametrize("address", ["127.0.0.1", STACK_IP])
def test_pinging_ourselves(lab: Lab, address: str) -> None:
    with pinger(lab) as sock:
        send(lab, sock, REQUEST, (address, 0))
        ((data, source),) = received(sock)
        assert source[0] == address
        assert data[8:] == b"payload"


def test_requests_are_not_taken_for_replies(lab: Lab) -> None:
    with pinger(lab, 100) as sock:
        lab.peer.send(IP(src=PEER_IP, dst=STACK_IP) / ICMP(type=8, id=100, seq=1))
        assert received(sock) == []
