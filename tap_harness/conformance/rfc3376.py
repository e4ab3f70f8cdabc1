"""RFC 3376, 3810: groups and who is told of them. RFC 768, 8085: what a host does with UDP."""

from __future__ import annotations

import errno
import itertools
import socket
import struct
from typing import Any

from scapy.contrib.igmpv3 import IGMPv3mr
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6MLQuery2, ICMPv6MLReport2, IPv6, IPv6ExtHdrHopByHop, RouterAlert
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tap_harness.conformance.probe import Probe
from tap_harness.conformance.probe6 import ALL_NODES, PEER_LL, Six
from tap_harness.conformance.registry import MAY, MUST, SHOULD, document
from tap_harness.segment import checksum

G = document("3376", "Internet Group Management Protocol, Version 3")
L = document("3810", "Multicast Listener Discovery Version 2")
U = document("768", "User Datagram Protocol")
B = document("8085", "UDP Usage Guidelines")
GROUP, SOURCE, REPORTS = "239.1.2.3", "10.9.0.99", "224.0.0.22"
IS_IN, IS_EX, TO_IN, TO_EX, ALLOW, BLOCK = range(1, 7)
PORT, CLOSED = 7000, 4711


def report(p: Probe, within: float, group: str = GROUP) -> Packet | None:
    """The next report's record for the group."""
    deadline = p.now() + p.within(within)
    while (packet := p.peer.next(max(0.0, deadline - p.now()))) is not None:
        if IGMPv3mr not in packet:
            continue
        for record in packet[IGMPv3mr].records:
            if record.maddr == group:
                return packet
    return None


def records(packet: Any) -> dict[str, tuple[int, list[str]]]:
    return {one.maddr: (one.rtype, list(one.srcaddrs)) for one in packet[IGMPv3mr].records}


def must(p: Probe, packet: Packet | None, kind: int, sources: list[str]) -> Packet:
    if packet is None:
        raise p.wrong("a report")
    found = records(packet)[GROUP]
    p.require(found == (kind, sources), f"the record is {found}")
    return packet


def query(p: Probe, *, group: str = "0.0.0.0", delay: int = 5, dst: str = "224.0.0.1", sources: Any = ()) -> None:
    """A version 3 query; delay: its Max Resp Code, tenths of a second below 128."""
    named = [socket.inet_aton(one) for one in sources]
    body = struct.pack("!BBH4sBBH", 0x11, delay, 0, socket.inet_aton(group), 2, 125, len(named)) + b"".join(named)
    body = body[:2] + checksum(body).to_bytes(2, "big") + body[4:]
    head = IP(src=p.peer.ip, dst=dst, ttl=1, proto=2, options=b"\x94\x04\x00\x00")
    mac = "01:00:5e:00:00:01" if dst == "224.0.0.1" else "01:00:5e:01:02:03"
    p.peer.send_ether(Ether(src=p.peer.mac, dst=mac) / head / Raw(body))
    p.target.pump()


@G.check("§4.2.14", "reports go to 224.0.0.22 with a TTL of 1, router alert, precedence 0xC0", MUST, takes=2)
def where_reports_go(p: Probe) -> None:
    with p.target.join(GROUP):
        packet = must(p, report(p, 1.5), TO_EX, [])
        p.require((packet[IP].dst, packet[IP].ttl, packet[IP].tos) == (REPORTS, 1, 0xC0), "the header is another")
        p.require(packet[Ether].dst == "01:00:5e:00:00:16", "the link-layer address is another")
        p.require(bytes(packet[IP])[20:24] == b"\x94\x04\x00\x00", "there is no router alert")


@G.check("§5.1", "joining is reported at once, and again within the unsolicited report interval", MUST, takes=4)
def robust(p: Probe) -> None:
    with p.target.join(GROUP):
        must(p, report(p, 0.5), TO_EX, [])
        must(p, report(p, 1.5), TO_EX, [])
        p.require(report(p, 1.5) is None, "there is a third report")


@G.check("§5.1", "leaving is reported", MUST, takes=4)
def leaving(p: Probe) -> None:
    sock = p.target.join(GROUP)
    p.wait(2.5)
    p.peer.discard()
    sock.close()
    p.target.pump()
    must(p, report(p, 0.5), TO_IN, [])


@G.check("§5.1", "a source filter is reported as the sources that are allowed", MUST, takes=3)
def source_specific(p: Probe) -> None:
    with p.target.join(GROUP, (SOURCE,)):
        must(p, report(p, 0.5), ALLOW, [SOURCE])


@G.check("§5.2", "a general query is answered within its response time with the state of each group", MUST, takes=4)
def general_query(p: Probe) -> None:
    with p.target.join(GROUP):
        p.wait(2.5)
        p.peer.discard()
        query(p, delay=10)
        must(p, report(p, 1.0), IS_EX, [])


@G.check("§5.2", "a query for a group is answered for that group; one for another is not answered", MUST, takes=4)
def group_query(p: Probe) -> None:
    with p.target.join(GROUP):
        p.wait(2.5)
        p.peer.discard()
        query(p, group=GROUP, dst=GROUP)
        must(p, report(p, 1.0), IS_EX, [])
        query(p, group="239.9.9.9")
        p.require(report(p, 1.0, "239.9.9.9") is None, "a group that nobody joined is reported")


@G.check("§4.2", "224.0.0.1 is never reported", MUST, takes=2)
def all_systems(p: Probe) -> None:
    query(p, delay=5)
    p.require(report(p, 1.0, "224.0.0.1") is None, "it was reported")


@G.check("§7.2.1", "where a version 2 querier is heard, reports are version 2's", MUST, takes=4)
def version2(p: Probe) -> None:
    with p.target.join(GROUP):
        p.wait(2.5)
        p.peer.discard()
        raw = b"\x11\x05\x00\x00" + bytes(4)
        head = IP(src=p.peer.ip, dst="224.0.0.1", ttl=1, proto=2, options=b"\x94\x04\x00\x00")
        total = sum(int.from_bytes(raw[k : k + 2], "big") for k in range(0, 8, 2)) ^ 0xFFFF
        raw = raw[:2] + total.to_bytes(2, "big") + raw[4:]
        p.peer.send_ether(Ether(src=p.peer.mac, dst="01:00:5e:00:00:01") / head / Raw(raw))
        p.target.pump()

        def version_two(packet: Packet) -> bool:
            return IP in packet and packet[IP].proto == 2 and bytes(packet[IP].payload)[0] == 0x16

        packet = p.peer.take(version_two, p.within(1.0))
        if packet is None:
            raise p.wrong("a version 2 report")
        p.require(packet[IP].dst == GROUP, "it does not go to the group")


# -- MLD


@L.check("§5.2", "asked, a host reports its solicited-node groups from a link-local address", MUST, takes=4)
def mld_query(p: Probe) -> None:
    six = Six(p)
    p.wait(2.5)
    six.quiet()
    header = IPv6(src=PEER_LL, dst=ALL_NODES, hlim=1)
    alert = _hop_by_hop()
    six.send(header / alert / ICMPv6MLQuery2(mrd=500))
    packet = six.expect(ICMPv6MLReport2, 1.0)
    p.require((packet[IPv6].dst, packet[IPv6].hlim) == ("ff02::16", 1), "the header is another")
    p.require(packet[IPv6].src.startswith("fe80:"), "the source is not link-local")
    groups = [one.dst for one in packet[ICMPv6MLReport2].records]
    p.require("ff02::1:ff00:2" in groups, f"the groups are {groups}")
    p.require("ff02::1" not in groups, "all nodes' group is reported")


@L.check("§5.1.14", "a query that is not link-local's, or with a hop limit other than 1, is ignored", MUST, takes=4)
def mld_bad_query(p: Probe) -> None:
    six = Six(p)
    p.wait(2.5)
    six.quiet()
    six.send(IPv6(src="fd09::1", dst=ALL_NODES, hlim=1) / _hop_by_hop() / ICMPv6MLQuery2(mrd=100))
    six.send(IPv6(src=PEER_LL, dst=ALL_NODES, hlim=2) / _hop_by_hop() / ICMPv6MLQuery2(mrd=100))
    six.silent(ICMPv6MLReport2, 0.6)


def _hop_by_hop() -> Any:
    return IPv6ExtHdrHopByHop(options=[RouterAlert()])


# -- UDP


def bound(p: Probe, address: str = "") -> Any:
    p.needs_sockets()
    sock = p.socket(datagram=True)
    sock.raw.bind((address, PORT))
    return sock


def datagram(p: Probe, data: bytes = b"hello", **fields: Any) -> Any:
    return p.peer.ip_header() / UDP(**{"sport": 9, "dport": PORT, **fields}) / Raw(data)


@U.check("checksum", "a datagram whose checksum is wrong is discarded", MUST)
def wrong_checksum(p: Probe) -> None:
    sock = bound(p)
    p.peer.send(datagram(p, chksum=0x1234))
    p.require(sock.recv() == b"", "it was delivered")


@U.check("checksum", "a datagram without a checksum is delivered (IPv4)", MUST)
def no_checksum(p: Probe) -> None:
    sock = bound(p)
    p.peer.send(datagram(p, chksum=0))
    p.require(sock.recv() == b"hello", "it was not delivered")


@U.check("checksum", "a checksum that comes out as zero is sent as ones", MUST)
def ones(p: Probe) -> None:
    sock = bound(p, p.target.address)
    blank: Any = IP(src=p.target.address, dst=p.peer.ip) / UDP(sport=PORT, dport=9) / Raw(bytes(2))
    sum_ = IP(bytes(blank))[UDP].chksum
    sock.sendto(sum_.to_bytes(2, "big"), (p.peer.ip, 9))
    p.require(p.peer.expect(UDP)[UDP].chksum == 0xFFFF, "the checksum is another")


@U.check("length", "a length shorter than the header or longer than what came is discarded", MUST)
def lengths(p: Probe) -> None:
    sock = bound(p)
    for length in (0, 7, 14, 1000):
        p.peer.send(datagram(p, len=length))
    p.require(sock.recv() == b"", "it was delivered")


@U.check("length", "what IP carried beyond the length is not delivered", MUST)
def padding(p: Probe) -> None:
    sock = bound(p)
    packet: Any = datagram(p, b"hello" + b"beyond", len=13, chksum=0)
    p.peer.send(packet)
    p.require(sock.recv() == b"hello", "more was delivered")


@B.check("§5.2", "a datagram for a port that nobody has is answered with port unreachable", SHOULD)
def unreachable(p: Probe) -> None:
    p.peer.send(datagram(p, dport=CLOSED))
    p.peer.expect(ICMP, type=3, code=3)


@B.check("§5.2", "a connected socket hears of port unreachable; one that is not connected does not", SHOULD)
def heard_of(p: Probe) -> None:
    p.needs_sockets()
    for connected in (True, False):
        sock = p.socket(datagram=True)
        if connected:
            sock.raw.connect((p.peer.ip, 9))
            sock.send(b"anybody?")
        else:
            sock.sendto(b"anybody?", (p.peer.ip, 9))
        packet = p.peer.expect(UDP)
        p.peer.send(p.peer.ip_header() / ICMP(type=3, code=3) / Raw(bytes(packet[IP])[:28]))
        p.target.pump()
        expected = errno.ECONNREFUSED if connected else 0
        p.require(sock.error() == expected, f"connected: {connected}, and the error is another")


@B.check("§5.1", "datagrams are sent from ports in the dynamic range, one not to be guessed from another", SHOULD)
def ports(p: Probe) -> None:
    p.needs_sockets()
    found = []
    for _ in range(8):
        sock = p.socket(datagram=True)
        sock.sendto(b"x", (p.peer.ip, 9))
        found.append(int(p.peer.expect(UDP)[UDP].sport))
    p.require(all(port >= 1024 for port in found), f"ports {found}")
    gaps = {b - a for a, b in itertools.pairwise(found)}
    p.require(len(gaps) > 3, f"ports {found}")


@B.check("§3.2", "a datagram longer than the path carries leaves in fragments unless the program forbids it", MAY)
def fragments(p: Probe) -> None:
    p.needs_sockets()
    sock = p.socket(datagram=True)
    sock.sendto(bytes(3000), (p.peer.ip, 9))
    p.require(p.peer.expect(IP)[IP].flags & 1, "it is no fragment")


@B.check("§5.1", "a connected socket gets datagrams from its peer only", MUST)
def from_peer_only(p: Probe) -> None:
    sock = bound(p)
    sock.raw.connect((p.peer.ip, 9))
    p.peer.send(datagram(p, b"stranger", sport=10))
    p.peer.send(datagram(p, b"peer"))
    p.require(sock.recv() == b"peer", "a stranger's datagram was delivered")
