"""RFC 3376: sources, in reports, in queries and in what is delivered; queries that are none, late, or of version 1.
RFC 3810: queries for one group."""

from __future__ import annotations

import socket
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6MLQuery2, ICMPv6MLReport2, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tap_harness.conformance.probe import Probe
from tap_harness.conformance.probe6 import ALL_NODES, PEER_LL, SOLICITED, Six
from tap_harness.conformance.registry import MUST, SHOULD, document
from tap_harness.conformance.rfc3376 import (
    ALLOW,
    BLOCK,
    GROUP,
    IS_EX,
    IS_IN,
    PORT,
    SOURCE,
    TO_EX,
    _hop_by_hop,
    must,
    query,
    report,
)

G = document("3376", "Internet Group Management Protocol, Version 3")
L = document("3810", "Multicast Listener Discovery Version 2")
OTHER = "10.9.0.98"
IP_UNBLOCK_SOURCE, IP_BLOCK_SOURCE = 37, 38
SETTLED = 2.5  # seconds until what a join says of itself was said


def settled(p: Probe) -> None:
    p.wait(SETTLED)
    p.peer.discard()


def change_source(p: Probe, sock: Any, option: int, source: str) -> None:
    mreq = b"".join(map(socket.inet_aton, (GROUP, p.target.address, source)))  # struct ip_mreq_source
    sock.setsockopt(socket.IPPROTO_IP, option, mreq)
    p.target.pump()


@G.check(
    "§5.1", "a source that is blocked is reported as BLOCK, and as ALLOW when it is not blocked any more", MUST, takes=7
)
def blocked(p: Probe) -> None:
    with p.target.join(GROUP) as sock:
        settled(p)
        change_source(p, sock, IP_BLOCK_SOURCE, SOURCE)
        must(p, report(p, 0.5), BLOCK, [SOURCE])
        settled(p)
        change_source(p, sock, IP_UNBLOCK_SOURCE, SOURCE)
        must(p, report(p, 0.5), ALLOW, [SOURCE])


@G.check("§5.1", "leaving a group of one source is reported as BLOCK of that source", MUST, takes=4)
def leaving_a_source(p: Probe) -> None:
    sock = p.target.join(GROUP, (SOURCE,))
    settled(p)
    sock.close()
    p.target.pump()
    must(p, report(p, 0.5), BLOCK, [SOURCE])


@G.check("§5.2", "a query for sources of a group is answered with those that are wanted", MUST, takes=4)
def source_query(p: Probe) -> None:
    with p.target.join(GROUP, (SOURCE,)):
        settled(p)
        query(p, group=GROUP, dst=GROUP, sources=[OTHER, SOURCE])
        must(p, report(p, 1.0), IS_IN, [SOURCE])


@G.check("§5.2", "a query for sources that nobody wants is not answered", MUST, takes=4)
def unwanted_source_query(p: Probe) -> None:
    with p.target.join(GROUP, (SOURCE,)):
        settled(p)
        query(p, group=GROUP, dst=GROUP, sources=[OTHER])
        p.require(report(p, 1.0) is None, "it was answered")


@G.check(
    "§5.2",
    "where all sources but one are wanted, a query for sources is answered with the others",
    SHOULD,
    takes=6,
    because=dict.fromkeys(
        ("stack", "kernel"), "it tells the state of the whole group, from which a router learns the same"
    ),
)
def source_query_excluding(p: Probe) -> None:
    with p.target.join(GROUP) as sock:
        change_source(p, sock, IP_BLOCK_SOURCE, SOURCE)
        settled(p)
        query(p, group=GROUP, dst=GROUP, sources=[OTHER, SOURCE])
        must(p, report(p, 1.0), IS_IN, [OTHER])


@G.check("§5.2", "a general query that has to be answered sooner is, and both are answered once", MUST, takes=15)
def merged_queries(p: Probe) -> None:
    with p.target.join(GROUP):
        settled(p)
        query(p, delay=100)
        query(p, delay=5)
        must(p, report(p, 0.6), IS_EX, [])
        p.require(report(p, 10.0) is None, "there is a second answer")


@G.check("§4.1.1", "a Max Resp Code of 128 and more is an exponent and a mantissa", MUST, takes=1300)
def exponential_code(p: Probe) -> None:
    with p.target.join(GROUP):
        settled(p)
        waits = []
        for _ in range(4):  # (8 + 16) << 7 tenths of a second: 307.2 s
            query(p, delay=0xC8)
            began = p.now()
            must(p, report(p, 308.0), IS_EX, [])
            waits.append(p.now() - began)
        p.require(max(waits) > 25.6, f"the answers came after {waits}, as if the code were a number")


@G.check("§4", "a query whose checksum is wrong is ignored", MUST, takes=4)
def wrong_checksum(p: Probe) -> None:
    with p.target.join(GROUP):
        settled(p)
        raw = b"\x11\x05\x12\x34" + bytes(4) + b"\x02\x7d\0\0"
        head = IP(src=p.peer.ip, dst="224.0.0.1", ttl=1, proto=2, options=b"\x94\x04\x00\x00")
        p.peer.send_ether(Ether(src=p.peer.mac, dst="01:00:5e:00:00:01") / head / Raw(raw))
        p.target.pump()
        p.require(report(p, 1.0) is None, "it was answered")


@G.check("§7.2.1", "where a version 1 querier is heard, reports are version 1's", MUST, takes=14)
def version1(p: Probe) -> None:
    with p.target.join(GROUP):
        settled(p)
        raw = b"\x11\x00\xee\xff" + bytes(4)
        head = IP(src=p.peer.ip, dst="224.0.0.1", ttl=1, proto=2)
        p.peer.send_ether(Ether(src=p.peer.mac, dst="01:00:5e:00:00:01") / head / Raw(raw))
        p.target.pump()

        def version_one(packet: Packet) -> bool:
            return IP in packet and packet[IP].proto == 2 and bytes(packet[IP].payload)[0] == 0x12

        packet = p.peer.take(version_one, p.within(10.5))
        if packet is None:
            raise p.wrong("a version 1 report")
        p.require(packet[IP].dst == GROUP, "it does not go to the group")


def deliver(p: Probe, data: bytes, source: str) -> None:
    head = IP(src=source, dst=GROUP, ttl=8)
    mac = "01:00:5e:01:02:03"
    p.peer.send_ether(Ether(src=p.peer.mac, dst=mac) / head / UDP(sport=9, dport=PORT) / Raw(data))
    p.target.pump()


def read(sock: Any) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(bytes(sock.recv(2000)))
        except BlockingIOError:
            return found


@G.check("§3.2", "a socket gets what comes from the sources that it wants, and nothing else", MUST, takes=3)
def delivery(p: Probe) -> None:
    with p.target.join(GROUP, (SOURCE,)) as sock:
        sock.bind(("", PORT))
        deliver(p, b"other", OTHER)
        deliver(p, b"wanted", SOURCE)
        got = read(sock)
        p.require(got == [b"wanted"], f"it got {got}")


@G.check("§3.2", "a socket that blocks a source gets what others send", MUST, takes=3)
def delivery_but_one(p: Probe) -> None:
    with p.target.join(GROUP) as sock:
        sock.bind(("", PORT))
        must(p, report(p, 0.5), TO_EX, [])
        change_source(p, sock, IP_BLOCK_SOURCE, SOURCE)
        deliver(p, b"other", OTHER)
        deliver(p, b"blocked", SOURCE)
        got = read(sock)
        p.require(got == [b"other"], f"it got {got}")


# -- MLD


@L.check("§5.2", "a query for a group is answered for that group; one for another is not answered", MUST, takes=5)
def mld_group_query(p: Probe) -> None:
    six = Six(p)
    p.wait(SETTLED)
    six.quiet()
    header = IPv6(src=PEER_LL, dst=SOLICITED, hlim=1)
    six.send(header / _hop_by_hop() / ICMPv6MLQuery2(mrd=500, mladdr=SOLICITED))
    packet = six.expect(ICMPv6MLReport2, 1.0)
    groups = [one.dst for one in packet[ICMPv6MLReport2].records]
    p.require(groups == [SOLICITED], f"the groups are {groups}")
    six.send(IPv6(src=PEER_LL, dst=ALL_NODES, hlim=1) / _hop_by_hop() / ICMPv6MLQuery2(mrd=100, mladdr="ff05::99"))
    six.silent(ICMPv6MLReport2, 0.6)


@L.check("§5.1.3", "an answer comes within the maximum response delay", MUST, takes=5)
def mld_delay(p: Probe) -> None:
    six = Six(p)
    p.wait(SETTLED)
    six.quiet()
    for delay in (100, 1000):
        began = p.now()
        six.send(IPv6(src=PEER_LL, dst=ALL_NODES, hlim=1) / _hop_by_hop() / ICMPv6MLQuery2(mrd=delay))
        six.expect(ICMPv6MLReport2, 1.5)
        p.require(p.now() - began <= p.within(delay / 1000) + 1e-6, f"it came after {p.now() - began:.3f} s")
