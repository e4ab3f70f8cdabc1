"""UDP-Lite from hostile hands: coverages that lie, checksums that are missing or wrong. RFC 3828."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import checksum

from tap_harness.lab import Lab
from tests.sim.group_helpers import IGMP, MLD, Family, both_families
from tests.sim.net_helpers import PEER_MAC, counted, icmp_errors, received, sent

UDPLITE, PORT = 136, 7000
DATA = bytes(range(40))


@pytest.fixture(params=[IGMP, MLD], ids=["ipv4", "ipv6"])
def fam(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


@pytest.fixture
def lab() -> Iterator[Lab]:
    with both_families() as made:
        yield made


def datagram(fam: Family, field: int, cover: int, *, port: int = PORT, spoil: int = 0, data: bytes = DATA) -> bytes:
    """`field` stands in the header, `cover` bytes are summed; spoil is added to the checksum."""
    whole = struct.pack(">HHHH", 5, port, field, 0) + data
    here, there = fam.packed(fam.host(1)), fam.packed(fam.host(2))
    length = struct.pack(">II", len(whole), UDPLITE) if fam.six else struct.pack(">HH", UDPLITE, len(whole))
    summed = checksum(here + there + length + whole[:cover] + bytes(cover % 2)) or 0xFFFF
    return whole[:6] + struct.pack(">H", (summed + spoil) & 0xFFFF) + whole[8:]


def deliver(lab: Lab, fam: Family, message: bytes) -> None:
    source, to = fam.host(1), fam.host(2)
    header = IPv6(src=source, dst=to, nh=UDPLITE) if fam.six else IP(src=source, dst=to, proto=UDPLITE)
    lab.peer.send_ether(Ether(src=PEER_MAC, dst=lab.peer.target_mac) / header / Raw(message))


def lite(lab: Lab, fam: Family) -> socket.socket:
    sock: socket.socket = lab.stack.socket(fam.family, socket.SOCK_DGRAM, UDPLITE)
    sock.setblocking(False)
    sock.bind(("", PORT))
    return sock


@pytest.mark.rfc("3828", "3.1")
@pytest.mark.parametrize(("field", "cover"), [(0, 48), (48, 48), (8, 8), (9, 9), (47, 47)])
def test_what_is_right_is_taken(lab: Lab, fam: Family, field: int, cover: int) -> None:
    with lite(lab, fam) as sock:
        deliver(lab, fam, datagram(fam, field, cover))
        assert [data for data, _ in received(sock)] == [DATA]


@pytest.mark.rfc("3828", "3.1")
def test_what_is_not_covered_may_be_broken(lab: Lab, fam: Family) -> None:
    with lite(lab, fam) as sock:
        message = datagram(fam, 12, 12)
        deliver(lab, fam, message[:12] + bytes(36))
        assert [data for data, _ in received(sock)] == [DATA[:4] + bytes(36)]
        with counted(lab) as grown:
            deliver(lab, fam, message[:11] + b"!" + message[12:])
        assert (grown["UdpLiteInCsumErrors"], received(sock)) == (1, [])


@pytest.mark.rfc("3828", "3.1")
@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"field": 1, "cover": 1}, "DropUdpLiteCoverage"),
        ({"field": 7, "cover": 7}, "DropUdpLiteCoverage"),
        ({"field": 49, "cover": 48}, "DropUdpLiteCoverage"),
        ({"field": 65535, "cover": 48}, "DropUdpLiteCoverage"),
        ({"field": 0, "cover": 48, "spoil": 1}, "UdpLiteInCsumErrors"),
        ({"field": 8, "cover": 48}, "UdpLiteInCsumErrors"),
    ],
)
def test_what_lies_is_dropped(lab: Lab, fam: Family, message: dict[str, int], reason: str) -> None:
    with lite(lab, fam) as sock, counted(lab) as grown:
        deliver(lab, fam, datagram(fam, **message))
        assert received(sock) == []
    assert (grown[reason], grown["UdpLiteInErrors"], grown.get("UdpLiteInDatagrams", 0)) == (1, 1, 0)


@pytest.mark.rfc("3828", "3.1 no checksum")
def test_no_checksum_is_illegal(lab: Lab, fam: Family) -> None:
    with lite(lab, fam) as sock, counted(lab) as grown:
        message = datagram(fam, 0, 48)
        deliver(lab, fam, message[:6] + b"\0\0" + message[8:])
        assert received(sock) == []
    assert grown["DropUdpLiteCoverage"] == 1


@pytest.mark.parametrize("length", range(8))
def test_less_than_a_header(lab: Lab, fam: Family, length: int) -> None:
    with lite(lab, fam) as sock, counted(lab) as grown:
        deliver(lab, fam, datagram(fam, 0, 48)[:length])
        assert received(sock) == []
    assert grown.get("UdpLiteInErrors", 0) == 1


def test_nobody_there(lab: Lab) -> None:
    """The ports of UDP are others; a port where nobody is, is told (ICMP's port unreachable)."""
    with IGMP.udp(lab, PORT) as plain:
        with counted(lab) as grown:
            deliver(lab, IGMP, datagram(IGMP, 0, 48))
        assert received(plain) == []
        assert (grown["UdpLiteNoPorts"], grown.get("UdpNoPorts", 0)) == (1, 0)
        assert icmp_errors(sent(lab)) == [(3, 3)]


def test_an_icmp_error_comes_to_the_socket(lab: Lab) -> None:
    with lite(lab, IGMP) as sock:
        sock.connect(("10.9.0.1", 9))
        sock.send(b"anybody?")
        lab.carrier.pump()
        (packet,) = [frame[IP] for frame in sent(lab) if IP in frame and frame[IP].proto == UDPLITE]
        quoted = bytes(packet)[:28]
        body = struct.pack(">BBHI", 3, 3, 0, 0) + quoted
        whole = body[:2] + struct.pack(">H", checksum(body)) + body[4:]
        header = IP(src="10.9.0.1", dst="10.9.0.2", proto=1)
        lab.peer.send_ether(Ether(src=PEER_MAC, dst=lab.peer.target_mac) / header / Raw(whole))
        with pytest.raises(ConnectionRefusedError):
            sock.recv(10)
