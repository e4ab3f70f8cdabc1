"""ICMP: what must not be answered, how much may be said, forged errors, redirects, quotes that lie.

RFC 792, 1122, 1812, 5927.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Packet, Raw
from scapy.utils import checksum

from tap_harness.lab import ECHO_PORT, Lab
from tests.sim.net_helpers import (
    PEER_IP,
    STACK_IP,
    counted,
    flood,
    fragments,
    heard,
    icmp_errors,
    received,
    send,
    sent,
    udp,
)

CLOSED = 7001
ERRORS = (3, 4, 5, 11, 12)


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
    assert (live["fragments"], live["neighbors"], live["buffers"]) == (0, 0, 0)
    made.close()


def to_closed_port(src: str = PEER_IP, sport: int = 1234) -> Packet:
    return IP(src=src, dst=STACK_IP) / UDP(sport=sport, dport=CLOSED) / Raw(b"anybody there?")


def icmp(kind: int, code: int, body: bytes, rest: bytes = bytes(4)) -> bytes:
    """An ICMP message of any type, with a right checksum."""
    message = bytes((kind, code, 0, 0)) + rest + body
    return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]


# -- echo


@pytest.mark.rfc("1122", "3.2.2.6 echo")
@pytest.mark.parametrize("size", [0, 1, 7, 56, 1471, 1472])
def test_echo_data_comes_back_whole_from_the_address_that_was_asked(lab: Lab, size: int) -> None:
    data = random.Random(size).randbytes(size)
    lab.peer.send(IP(src=PEER_IP, dst=STACK_IP, tos=0x48) / ICMP(type=8, id=0xBEEF, seq=0xFFFF) / Raw(data))
    (reply,) = sent(lab)
    assert (reply[IP].src, reply[IP].dst, reply[IP].tos, reply[IP].ttl) == (STACK_IP, PEER_IP, 0x48, 64)
    assert (reply[ICMP].type, reply[ICMP].code, reply[ICMP].id, reply[ICMP].seq) == (0, 0, 0xBEEF, 0xFFFF)
    assert bytes(reply[ICMP].payload) == data
    rebuilt = IP(bytes(reply[IP]))
    del rebuilt[ICMP].chksum
    assert IP(bytes(rebuilt))[ICMP].chksum == reply[ICMP].chksum


@pytest.mark.rfc("1122", "3.2.2.6 echo")
def test_huge_echo_is_answered_in_fragments(lab: Lab) -> None:
    data = random.Random(1).randbytes(65000)
    for piece in fragments(IP(src=PEER_IP, dst=STACK_IP, id=3) / ICMP(type=8) / Raw(data), [*range(1480, 65008, 1480)]):
        lab.peer.send(piece)
    replies = sent(lab)
    assert len(replies) == 44
    assert len({reply[IP].id for reply in replies}) == 1
    whole = bytearray(65008)
    for reply in replies:
        start = reply[IP].frag * 8
        part = bytes(reply[IP].payload)
        whole[start : start + len(part)] = part
        assert (reply[IP].flags == "MF") == (start + len(part) < 65008)
    assert whole[8:] == data


@pytest.mark.rfc("1122", "3.2.2.6 echo")
def test_echo_can_be_turned_off(lab: Lab) -> None:
    lab.stack.sysctl["net.ipv4.icmp_echo_ignore_all"] = 1
    lab.peer.send(IP(src=PEER_IP, dst=STACK_IP) / ICMP(type=8))
    assert sent(lab) == []
    lab.stack.sysctl["net.ipv4.icmp_echo_ignore_all"] = 0


@pytest.mark.rfc("1122", "3.2.2 unknown types")
def test_other_requests_and_nonsense(lab: Lab) -> None:
    """Timestamp, address mask, information, router solicitation and every type and code there could be: no answer."""
    for kind in range(256):
        for code in (0, 1, 3, 4, 15, 16, 255):
            if kind != 8:
                lab.peer.send(IP(src=PEER_IP, dst=STACK_IP, proto=1) / Raw(icmp(kind, code, bytes(40))))
    assert sent(lab) == []


def test_short_messages(lab: Lab) -> None:
    for length in range(8):
        lab.peer.send(IP(src=PEER_IP, dst=STACK_IP, proto=1) / Raw(b"\x08\0\xf7\xff\0\0\0\0"[:length]))
    assert sent(lab) == []
    assert lab.stack.counters()["DropIcmpMalformed"] == 8


@pytest.mark.rfc("792", "checksum")
def test_wrong_checksum(lab: Lab) -> None:
    packet = bytes(IP(src=PEER_IP, dst=STACK_IP) / ICMP(type=8, id=1, seq=1) / Raw(b"odd length!"))
    for bit in range(8 * 11):
        broken = bytearray(packet)
        broken[28 + bit // 8] ^= 1 << bit % 8
        lab.peer.send(IP(bytes(broken)))
    assert sent(lab) == []
    assert lab.stack.counters()["IcmpInCsumErrors"] == 88


# -- errors we send


@pytest.mark.rfc("1122", "3.2.2.1 port unreachable", "3.2.2 quote")
@pytest.mark.rfc("1812", "4.3.2.3")
@pytest.mark.parametrize("size", [0, 1, 100, 1400])
def test_quote(lab: Lab, size: int) -> None:
    """The IP header and as much as fits 576 bytes, from the address that was tried, to the sender."""
    packet = IP(src=PEER_IP, dst=STACK_IP, id=0x1234, ttl=7) / UDP(sport=5, dport=CLOSED) / Raw(b"q" * size)
    lab.peer.send(packet)
    (error,) = sent(lab)
    assert (error[ICMP].type, error[ICMP].code, error[IP].src, error[IP].dst) == (3, 3, STACK_IP, PEER_IP)
    quote = bytes(error[IP])[28 : error[IP].len]
    assert quote == bytes(packet)[:548]
    assert error[IP].len == min(576, 28 + len(bytes(packet)))


@pytest.mark.rfc("1122", "3.2.2 no errors about errors")
def test_no_errors_about_errors(lab: Lab) -> None:
    """An ICMP error that quotes nonsense, comes to a closed port's protocol or is broken draws no error."""
    inner = bytes(IP(src=STACK_IP, dst=PEER_IP) / UDP(sport=CLOSED, dport=53))
    for kind in ERRORS:
        for code in range(17):
            lab.peer.send(IP(src=PEER_IP, dst=STACK_IP, proto=1) / Raw(icmp(kind, code, inner)))
    assert sent(lab) == []


@pytest.mark.rfc("1122", "3.2.2 no errors about later fragments")
def test_no_errors_about_later_fragments(lab: Lab) -> None:
    """A datagram whose first fragment never came ends in silence; one whose first came, in time exceeded, code 1."""
    first, second, third = fragments(IP(src=PEER_IP, dst=STACK_IP, id=4) / ICMP(type=8) / Raw(b"z" * 40), [16, 32])
    for piece in (second, third):
        lab.peer.send(piece)
    assert icmp_errors(heard(lab, 31)) == []
    for piece in (first, third):
        lab.peer.send(piece)
    assert icmp_errors(heard(lab, 29)) == []
    (error,) = [packet for packet in heard(lab, 2) if ICMP in packet]
    assert (error[ICMP].type, error[ICMP].code) == (11, 1)
    assert bytes(error[IP])[28:] == bytes(first)


@pytest.mark.rfc("1812", "4.3.2.8")
def test_errors_to_one_target_are_limited(lab: Lab) -> None:
    """6 at once, then one a second."""
    flood_of = [bytes(to_closed_port(sport=n)) for n in range(2000, 2100)]
    with counted(lab) as grown:
        for packet in flood_of:
            lab.peer.send(IP(packet))
    assert len(icmp_errors(sent(lab))) == 6
    assert grown["IcmpOutRateLimitHost"] == 94
    lab.carrier.advance(5)
    for packet in flood_of:
        lab.peer.send(IP(packet))
    assert len(icmp_errors(sent(lab))) == 5


def errors_in_a_burst(lab: Lab, sources: range) -> int:
    """How many errors a burst of datagrams to a closed port, each from another source, draws."""
    for number in sources:
        source = f"172.16.{number >> 8 & 255}.{number & 255}"
        lab.peer.send(to_closed_port(src=source))
    return len(icmp_errors(sent(lab)))


@pytest.fixture
def routed(lab: Lab) -> Lab:
    """The lab with the peer as gateway, so that answers to any source go to it."""
    lab.stack.add_route("default", gateway=PEER_IP)
    return lab


@pytest.mark.rfc("1812", "4.3.2.8")
def test_errors_altogether_are_limited(routed: Lab) -> None:
    """icmp_msgs_burst and icmp_msgs_per_sec, whoever asks; each spends 0 to 2 tokens, so it is only so on average."""
    with counted(routed) as grown:
        burst = errors_in_a_burst(routed, range(500))
    assert 25 <= burst <= 120
    assert grown["IcmpOutRateLimitGlobal"] == 500 - burst


@pytest.mark.rfc("6056", "SAD DNS (CVE-2020-25705)")
def test_the_limit_is_no_oracle(routed: Lab) -> None:
    """How many errors the first burst left cannot be read off the second: the sum varies from time to time."""
    sums = set()
    for attempt in range(12):
        heard(routed, 3)  # the budget is full again, and the peer keeps its place in the neighbour table
        sums.add(errors_in_a_burst(routed, range(attempt * 200, attempt * 200 + 200)))
    assert len(sums) >= 4


def test_a_flood_of_provocations(lab: Lab) -> None:
    """10,000 datagrams to closed ports in a second: what goes out is what the limits allow."""
    frame = bytes(lab.path(lab.flow()).frame(0, 0, 0))[:14] + bytes(to_closed_port())
    answers = 0
    for _ in range(10):
        answers += flood(lab, [frame] * 1000)
        lab.carrier.advance(0.1)
    assert answers <= 8


# -- errors we receive


def connected(lab: Lab) -> tuple[object, int]:
    """A connected UDP socket of the stack to port 53 of the peer, and its port."""
    sock = udp(lab)
    sock.connect((PEER_IP, 53))
    return sock, sock.getsockname()[1]


def error_about(packet: Packet, kind: int = 3, code: int = 3, src: str = PEER_IP, rest: bytes = bytes(4)) -> Packet:
    return IP(src=src, dst=STACK_IP, proto=1) / Raw(icmp(kind, code, bytes(packet), rest))


def quoted(port: int, *, dst: str = PEER_IP, dport: int = 53, src: str = STACK_IP) -> Packet:
    return IP(src=src, dst=dst) / UDP(sport=port, dport=dport) / Raw(b"question")


@pytest.mark.rfc("1122", "4.1.3.3 ICMP errors to the application")
@pytest.mark.rfc("5927", "4.1")
def test_only_an_error_about_the_right_four_tuple_counts(lab: Lab) -> None:
    sock, port = connected(lab)
    forged = [
        quoted(port, dport=54),
        quoted(port ^ 1),
        quoted(port, dst="10.9.0.9"),
        quoted(port, src=PEER_IP),
        IP(src=STACK_IP, dst=PEER_IP) / TCP(sport=port, dport=53),
        IP(src=STACK_IP, dst=PEER_IP, frag=1) / UDP(sport=port, dport=53) / Raw(b"question"),
    ]
    with counted(lab) as grown:
        for packet in forged:
            lab.peer.send(error_about(packet))
            assert received(sock) == []
    assert grown["IcmpInDestUnreachs"] == len(forged)
    lab.peer.send(error_about(quoted(port)))
    with pytest.raises(ConnectionRefusedError):
        sock.recv(1)
    assert received(sock) == [], "an error is reported once"


@pytest.mark.rfc("1122", "3.2.2.1 soft errors")
@pytest.mark.parametrize(("kind", "code"), [(3, 0), (3, 1), (3, 4), (3, 5), (3, 11), (3, 12), (11, 0), (11, 1), (4, 0)])
def test_soft_errors_do_not_break_a_socket(lab: Lab, kind: int, code: int) -> None:
    sock, port = connected(lab)
    lab.peer.send(error_about(quoted(port), kind, code))
    assert received(sock) == []


def test_quotes_that_lie(lab: Lab) -> None:
    """Quotes cut anywhere, with lying header lengths and versions: dropped, and the socket does not hear of them."""
    sock, port = connected(lab)
    whole = bytes(quoted(port))
    for length in range(28):
        lab.peer.send(error_about(Raw(whole[:length])))
        assert received(sock) == [], length
    for first in range(256):
        if first != 0x45:
            lab.peer.send(error_about(Raw(bytes([first]) + whole[1:])))
            assert received(sock) == [], hex(first)
    for code in range(16, 256):
        lab.peer.send(error_about(quoted(port), 3, code))
        assert received(sock) == [], code
    assert sent(lab) == []


@pytest.mark.rfc("1122", "3.2.2.2 redirect")
@pytest.mark.parametrize("code", range(4))
def test_redirects_change_nothing(lab: Lab, code: int) -> None:
    lab.stack.add_route("default", gateway=PEER_IP)
    before = lab.stack.routes()
    sock = udp(lab)
    with counted(lab) as grown:
        for gateway in ("10.9.0.66", STACK_IP, PEER_IP, "192.0.2.66", "0.0.0.0", "255.255.255.255"):
            rest = bytes(int(part) for part in gateway.split("."))
            packet = IP(src=STACK_IP, dst="192.0.2.1") / UDP(sport=sock.getsockname()[1], dport=53)
            lab.peer.send(error_about(packet, 5, code, rest=rest))
    assert grown["IcmpInRedirects"] == 6
    assert lab.stack.routes() == before
    lab.peer.ping()
    lab.peer.discard()
    send(lab, sock, b"?", ("192.0.2.1", 53))
    assert [packet.dst for packet in sent(lab) if UDP in packet] == [lab.peer.mac]


@pytest.mark.rfc("6633", "source quench")
def test_source_quench_is_ignored(lab: Lab) -> None:
    situation = lab.established()
    flow = situation.flow
    quote = IP(src=STACK_IP, dst=PEER_IP) / TCP(sport=flow.dport, dport=flow.sport, seq=flow.rcv)
    with counted(lab) as grown:
        for _ in range(50):
            lab.peer.send(error_about(quote, 4, 0))
    assert grown["IcmpInSrcQuenchs"] == 50
    lab.write(situation.sock, b"still here")
    flow.expect(data=b"still here")
    lab.tidy(situation)


def test_errors_are_not_taken_from_groups(lab: Lab) -> None:
    sock, port = connected(lab)
    for destination in ("10.9.0.255", "255.255.255.255", "224.0.0.1"):
        packet = error_about(quoted(port))
        packet[IP].dst = destination
        lab.peer.send(packet)
        assert received(sock) == [], destination


def test_random_messages(lab: Lab) -> None:
    chance = random.Random(792)
    _, port = connected(lab)
    inner = bytes(quoted(port))
    link = bytes(lab.path(lab.flow(ECHO_PORT)).frame(0, 0, 0))[:14]

    def mutants() -> Iterator[bytes]:
        for _ in range(3000):
            body = bytearray(inner)
            for _ in range(chance.randrange(4)):
                body[chance.randrange(len(body))] = chance.randrange(256)
            kind = chance.choice((0, *ERRORS, 8, 9, 10, 13, 17, 30))
            message = icmp(kind, chance.randrange(20), bytes(body[: chance.randrange(len(body) + 1)]))
            yield link + bytes(IP(src=PEER_IP, dst=STACK_IP, proto=1) / Raw(message))

    flood(lab, mutants())
