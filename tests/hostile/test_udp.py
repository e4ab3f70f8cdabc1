"""UDP that lies about its length or checksum, floods, and ports an attacker would like to guess. RFC 768, 6056."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from itertools import pairwise

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.packet import Raw
from scapy.utils import checksum

from tap_harness.lab import Lab
from tests.sim.net_helpers import PEER_IP, STACK_IP, counted, flood, fragments, heard, icmp_errors, received, sent, udp

PORT = 7000
CLOSED = 7001


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    assert made.health is not None  # the base is taken here
    yield made
    made.carrier.drain()
    heard(made, 5)  # what the limits allow is full again, and the peer has answered the questions it left open
    made.health.check()
    made.health.check_returned(after=200)
    live = made.stack.live()
    assert (live["fragments"], live["neighbors"], live["buffers"], live["datagram_sockets"]) == (0, 0, 0, 0)
    made.close()


def datagram(data: bytes, *, length: int | None = None, sum_over: int | None = None, dport: int = PORT) -> bytes:
    """A UDP header and data; `length` as the header claims, checksum over `sum_over` bytes (None: all)."""
    claimed = 8 + len(data) if length is None else length
    body = (1234).to_bytes(2, "big") + dport.to_bytes(2, "big") + claimed.to_bytes(2, "big") + b"\0\0" + data
    covered = body[:sum_over]
    pseudo = bytes((10, 9, 0, 1, 10, 9, 0, 2, 0, 17)) + claimed.to_bytes(2, "big")
    return body[:6] + (checksum(pseudo + covered) or 0xFFFF).to_bytes(2, "big") + body[8:]


def packet(body: bytes) -> IP:
    return IP(src=PEER_IP, dst=STACK_IP, proto=17) / Raw(body)


@pytest.mark.rfc("1122", "4.1.3.4 UDP checksums")
@pytest.mark.parametrize("size", [0, 1, 2, 33, 1400])
def test_wrong_checksum(lab: Lab, size: int) -> None:
    """One bit flipped anywhere: in the header, the data, or the addresses of the pseudo header."""
    chance = random.Random(size)
    with udp(lab, PORT) as sock:
        body = datagram(chance.randbytes(size))
        bits = range(8 * len(body)) if size < 40 else chance.sample(range(8 * len(body)), 300)
        for bit in bits:
            broken = bytearray(body)
            broken[bit // 8] ^= 1 << bit % 8
            if broken[2:4] == body[2:4]:  # another port is another matter
                lab.peer.send(packet(bytes(broken)))
        assert received(sock) == []
        moved = packet(body)
        moved.src = "10.9.0.7"
        lab.peer.send(moved)
        assert received(sock) == []
        lab.peer.send(packet(body))
        assert [data for data, _ in received(sock)] == [body[8:]]
    assert icmp_errors(sent(lab)) == []


@pytest.mark.rfc("768", "zero checksum")
def test_no_checksum_is_accepted(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        lab.peer.send(IP(src=PEER_IP, dst=STACK_IP) / UDP(sport=1, dport=PORT, chksum=0) / Raw(b"unsummed"))
        assert received(sock) == [(b"unsummed", (PEER_IP, 1))]


def test_checksum_of_all_ones(lab: Lab) -> None:
    """Data whose sum is zero travels with 0xFFFF, in and out; 0 would mean that there is none (RFC 768)."""
    with udp(lab, PORT) as sock:
        sock.connect((PEER_IP, 1234))
        for filler in range(65536):
            data = filler.to_bytes(2, "big")
            if datagram(data)[6:8] == b"\xff\xff":
                lab.peer.send(packet(datagram(data)))
                assert received(sock) == [(data, (PEER_IP, 1234))]
                break
        lab.peer.discard()
        pseudo = bytes((10, 9, 0, 2, 10, 9, 0, 1, 0, 17, 0, 10)) + PORT.to_bytes(2, "big") + (1234).to_bytes(2, "big")
        data = checksum(pseudo + bytes((0, 10, 0, 0))).to_bytes(2, "big")
        sock.send(data)
        lab.carrier.pump()
        (out,) = [frame for frame in sent(lab) if UDP in frame]
        assert out[UDP].chksum == 0xFFFF


@pytest.mark.rfc("768", "length")
def test_lengths_that_lie(lab: Lab) -> None:
    data = b"0123456789"
    with udp(lab, PORT) as sock:
        for length in (*range(8), 19, 20, 255, 1480, 65535):
            with counted(lab) as grown:
                lab.peer.send(packet(datagram(data, length=length)))
            assert received(sock) == [], length
            assert grown["DropUdpMalformed"] == 1, length
        for short in range(8):
            lab.peer.send(packet(datagram(data)[:short]))
        assert received(sock) == []
        lab.peer.send(packet(datagram(data, length=12, sum_over=12)))
        assert [got for got, _ in received(sock)] == [b"0123"], "what IP carried beyond the UDP length is not data"
    assert icmp_errors(sent(lab)) == []


def test_flood_of_a_socket_that_does_not_read(lab: Lab) -> None:
    """Memory is bounded by the receive buffer, drops are counted, and the socket works again when it is read."""
    with udp(lab, PORT) as sock:
        frame = lab.path(lab.flow()).frame(0, 0, 0)[:14] + bytes(packet(datagram(b"x" * 100)))
        with counted(lab) as grown:
            flood(lab, [frame] * 20000)
        assert grown["UdpRcvbufErrors"] > 19000
        assert lab.stack.live()["buffer_bytes"] < 2 * 212992
        assert len(received(sock)) == grown["UdpInDatagrams"]
        assert lab.stack.live()["buffers"] == 0
        lab.peer.send(packet(datagram(b"again")))
        assert [data for data, _ in received(sock)] == [b"again"]


def test_closing_a_socket_gives_back_what_waits_in_it(lab: Lab) -> None:
    sock = udp(lab, PORT)
    for number in range(50):
        lab.peer.send(packet(datagram(bytes([number]))))
    assert lab.stack.live()["buffers"] == 50
    sock.close()
    lab.carrier.pump()
    assert lab.stack.live()["buffers"] == 0


def test_small_datagrams_in_large_buffers_cost_little(lab: Lab) -> None:
    """A datagram that came as fragments does not hold the 64 KiB block it was assembled in."""
    with udp(lab, PORT) as sock:
        for number in range(20):
            whole = IP(src=PEER_IP, dst=STACK_IP, id=number, proto=17) / Raw(datagram(b"y" * 100))
            for piece in fragments(whole, [16, 64]):
                lab.peer.send(piece)
        assert lab.stack.live()["buffer_bytes"] <= 20 * 4096
        assert len(received(sock)) == 20


@pytest.mark.rfc("6056", "3.3")
def test_ephemeral_ports_are_random(lab: Lab) -> None:
    """Over the whole range, without order: chi-square over 28 parts, and as many steps up as down."""
    ports = []
    for _ in range(2000):
        with udp(lab) as sock:
            ports.append(sock.getsockname()[1])
    assert min(ports) >= 32768
    assert max(ports) <= 60999
    parts = [0] * 28
    for port in ports:
        parts[(port - 32768) * 28 // 28232] += 1
    mean = len(ports) / len(parts)
    chi_square = sum((count - mean) ** 2 / mean for count in parts)
    assert chi_square < 75, "27 degrees of freedom: more has a probability of 2e-6"
    near = sum(1 for earlier, later in pairwise(ports) if abs(earlier - later) < 100)
    assert near < 60


def test_every_port_taken(lab: Lab) -> None:
    lab.stack.sysctl["net.ipv4.ip_local_port_range"] = (40000, 40009)
    taken = []
    try:
        with pytest.raises(OSError) as caught:
            for _ in range(30000):
                taken.append(udp(lab))
        assert caught.value.errno == errno.EADDRINUSE
        assert {sock.getsockname()[1] for sock in taken} == set(range(40000, 40010))
        assert len(taken) == 10
    finally:
        for sock in taken:
            sock.close()
        lab.stack.sysctl["net.ipv4.ip_local_port_range"] = (32768, 60999)


@pytest.mark.rfc("1122", "4.1.3.1 port unreachable")
def test_closed_port(lab: Lab) -> None:
    lab.peer.send(packet(datagram(b"?", dport=CLOSED)))
    (error,) = sent(lab)
    assert (error[ICMP].type, error[ICMP].code) == (3, 3)


def test_random_datagrams(lab: Lab) -> None:
    chance = random.Random(768)
    link = lab.path(lab.flow()).frame(0, 0, 0)[:14]
    with udp(lab, PORT) as sock:

        def mutants() -> Iterator[bytes]:
            for _ in range(5000):
                body = bytearray(datagram(chance.randbytes(chance.randrange(60))))
                for _ in range(chance.randrange(3)):
                    body[chance.randrange(8)] = chance.randrange(256)
                yield link + bytes(packet(bytes(body[: chance.choice((len(body), chance.randrange(len(body) + 1)))])))

        flood(lab, mutants())
        received(sock)
