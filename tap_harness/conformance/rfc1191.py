"""RFC 1191, 8201, 4821, 8899: how large a packet the path carries: what routers say, and what is tried without them."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import Any

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import UDP as UDP6
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.packet import Packet

from tap_harness.conformance.probe import Conn, Probe
from tap_harness.conformance.probe6 import PEER, Six
from tap_harness.conformance.registry import MUST, SHOULD, NotApplicable, document
from tap_harness.conformance.rfc2018 import sack
from tap_harness.conformance.rfc5681 import feed
from tap_harness.conformance.rfc8985 import info
from tap_harness.conformance.rfc9293_ip import icmp
from tap_harness.diff import ANY
from tap_harness.flow import Options
from tap_harness.packets import payload

A = document("1191", "Path MTU Discovery")
B = document("8201", "Path MTU Discovery for IP version 6")
P = document("4821", "Packetization Layer Path MTU Discovery")
G = document("8899", "Packetization Layer Path MTU Discovery for Datagram Transports")
FULL: Options = [("MSS", 1460), ("NOP", None), ("NOP", None), ("SAckOK", b"")]

# -- by ICMP


def full_segment(p: Probe) -> tuple[Conn, Packet]:
    """A connection with a segment of 1460 bytes under way."""
    conn = p.established(FULL, rtt=0.1)
    conn.send(bytes(1460))
    return conn, conn.data(seq=ANY)


def again(p: Probe, conn: Conn, first: Packet, within: float = 3.0) -> int:
    """The length of the packet that brings what is under way again."""
    return int(p.again(conn.flow, first[TCP].seq, within)[IP].len)


def sizes_then(p: Probe, conn: Conn, first: Packet, pause: float = 0.0) -> list[int]:
    """Lengths of the packets of more data: once `first`, sent again, is acknowledged, and so many seconds are over."""
    conn.flow.rcv = first[TCP].seq + 1460
    conn.flow.send("A")
    if pause:
        p.wait(pause)
    conn.send(bytes(2000))
    return [one[IP].len for one in p.burst(conn.flow)]


@A.check("§3", "packets have DF while the path is being discovered", MUST)
def dont_fragment(p: Probe) -> None:
    _, first = full_segment(p)
    p.require("DF" in str(first[IP].flags), "a data segment has none")


@A.check("§3", "a router's word lowers the size at once, and what it dropped is sent again", MUST)
def lowered(p: Probe) -> None:
    conn, first = full_segment(p)
    icmp(p, first, 3, 4, nexthopmtu=1000)
    found = again(p, conn, first, 0.12)
    p.require(found <= 1000, f"a packet of {found} octets came")


@A.check("§3", "the estimate never falls below 68 octets", MUST)
def floor(p: Probe) -> None:
    conn, first = full_segment(p)
    icmp(p, first, 3, 4, nexthopmtu=20)
    found = again(p, conn, first)
    p.require(found >= 68, f"a packet of {found} octets came")


@A.check("§3", "a router's word does not raise the estimate", MUST)
def not_raised(p: Probe) -> None:
    conn, first = full_segment(p)
    icmp(p, first, 3, 4, nexthopmtu=1000)
    second = p.again(conn.flow, first[TCP].seq)
    icmp(p, second, 3, 4, nexthopmtu=1400)
    sizes = sizes_then(p, conn, first)
    p.require(sizes and max(sizes) <= 1000, f"packets of {sizes} octets came")


@A.check("§5", "a router that names no MTU is believed, too", MUST)
def unnamed(p: Probe) -> None:
    conn, first = full_segment(p)
    icmp(p, first, 3, 4, nexthopmtu=0)
    found = again(p, conn, first)
    p.require(found < 1500, f"a packet of {found} octets came")


@A.check("§6.3", "nothing larger is tried within five minutes", MUST, takes=290)
def not_soon(p: Probe) -> None:
    conn, first = full_segment(p)
    icmp(p, first, 3, 4, nexthopmtu=1000)
    p.again(conn.flow, first[TCP].seq)
    sizes = sizes_then(p, conn, first, 280)
    p.require(sizes and max(sizes) <= 1000, f"packets of {sizes} octets came")


@A.check("§6.3", "after ten it is", SHOULD, takes=620)
def later(p: Probe) -> None:
    conn, first = full_segment(p)
    icmp(p, first, 3, 4, nexthopmtu=1000)
    p.again(conn.flow, first[TCP].seq)
    sizes = sizes_then(p, conn, first, 620)
    p.require(sizes and max(sizes) > 1000, f"packets of {sizes} octets came")


@A.check("§6.4", "what is sent again for it does not change the congestion window", SHOULD)
def no_congestion(p: Probe) -> None:
    conn, first = full_segment(p)
    before = info(conn, "snd_cwnd")
    icmp(p, first, 3, 4, nexthopmtu=1000)
    p.again(conn.flow, first[TCP].seq)
    after = info(conn, "snd_cwnd")
    p.require(after >= before, f"cwnd was {before} and is {after}")


@A.check("§6.2", "other connections with the destination know it", SHOULD)
def shared(p: Probe) -> None:
    other = p.established(FULL)
    conn, first = full_segment(p)
    icmp(p, first, 3, 4, nexthopmtu=1000)
    p.again(conn.flow, first[TCP].seq)
    other.send(bytes(2000))
    sizes = [one[IP].len for one in p.burst(other.flow, p.within(0.5))]  # Linux finds out when its packet is refused
    p.require(sizes and max(sizes) <= 1000, f"on another connection packets of {sizes} octets came")


# -- by ICMPv6


class Datagrams:
    """A UDP socket of the target that sends to the neighbour, and what a router says of its packets."""

    def __init__(self, p: Probe) -> None:
        self.six = Six(p)
        self.sock: Any = p.target.socket6(socket.SOCK_DGRAM)
        self.sock.connect((PEER, 4321))

    def send(self, size: int = 1400) -> list[Packet]:
        """A datagram of so many bytes, as the packets it comes in."""
        for _ in range(2):  # the first call may be told what a router said
            try:
                self.sock.send(bytes(size))
                break
            except OSError as error:
                if error.errno not in (errno.EMSGSIZE, errno.ECONNREFUSED):
                    raise
        self.six.probe.target.pump()
        found: list[Packet] = []
        while True:
            packet = self.six.take(lambda packet: packet[IPv6].nh in (17, 44))
            if packet is None:
                return found
            found.append(packet)

    def too_big(self, packet: Packet, mtu: int, **fields: Any) -> None:
        """A router says so of a packet."""
        quoted = packet[IPv6].copy()
        for name, value in fields.items():
            setattr(quoted[UDP6] if name in ("sport", "dport") else quoted, name, value)
        self.six.send(self.six.header() / ICMPv6PacketTooBig(mtu=mtu) / bytes(quoted)[:1000])
        self.six.probe.wait(self.six.probe.soon)


def largest(packets: list[Packet]) -> int:
    """The longest of them, with its header."""
    if not packets:
        raise NotApplicable("the target sends no datagram of that size")
    return max(40 + packet[IPv6].plen for packet in packets)


@B.check("§4", "a packet-too-big lowers the estimate for its destination", MUST)
def too_big(p: Probe) -> None:
    target = Datagrams(p)
    target.too_big(target.send()[0], 1300)
    found = largest(target.send())
    p.require(found <= 1300, f"a packet of {found} octets came")


@B.check("§4", "one of less than 1280 octets is dropped: the estimate does not fall below that", MUST)
def too_big_floor(p: Probe) -> None:
    target = Datagrams(p)
    target.too_big(target.send()[0], 600)
    packets = target.send()
    p.require(largest(packets) >= 1280, f"packets of {[40 + one[IPv6].plen for one in packets]} octets came")


@B.check("§4", "one does not raise the estimate", MUST)
def too_big_not_raised(p: Probe) -> None:
    target = Datagrams(p)
    first = target.send()[0]
    target.too_big(first, 1300)
    target.too_big(first, 1400)
    found = largest(target.send())
    p.require(found <= 1300, f"a packet of {found} octets came")


@B.check("§4", "one that quotes a packet that nobody here sent is not believed", SHOULD)
def too_big_forged(p: Probe) -> None:
    target = Datagrams(p)
    target.too_big(target.send()[0], 1300, sport=9, dport=9)
    packets = target.send()
    p.require(largest(packets) == 1448, f"packets of {[40 + one[IPv6].plen for one in packets]} octets came")


# -- without ICMP


@dataclass
class Search:
    """A connection with a probe under way: where it begins, its size, that of the segments before, all that came."""

    conn: Conn
    at: int
    size: int
    usual: int
    burst: list[Packet]


def searching(p: Probe) -> Search:
    """A connection that begins at small segments and has just tried a larger one."""
    p.target.sysctl("net.ipv4.tcp_base_mss", 1000)
    p.target.sysctl("net.ipv4.tcp_mtu_probing", 2)
    conn, _ = p.connecting()  # of a passive open Linux forgets where it is to begin
    p.wait(0.1)
    conn.flow.send("SA", options=FULL, win=60000)
    conn.flow.expect("A")
    usual = 0
    for _ in range(5):
        feed(conn, 60000)
        packets = p.burst(conn.flow)
        for packet in packets:
            usual = usual or len(payload(packet))
            if len(payload(packet)) > usual:
                return Search(conn, packet[TCP].seq, len(payload(packet)), usual, packets)
        conn.flow.send("A", win=60000)
    raise p.wrong("a segment that is larger than the others")


@P.check("§7.7", "where full segments are lost again and again and no router speaks, they become smaller", SHOULD)
def black_hole(p: Probe) -> None:
    p.target.sysctl("net.ipv4.tcp_mtu_probing", 1)
    p.target.sysctl("net.ipv4.tcp_retries1", 2)
    conn, first = full_segment(p)
    deadline = p.now() + p.within(6)
    while p.now() < deadline:
        packet = conn.flow.next(deadline - p.now())
        if packet is not None and packet[TCP].seq == first[TCP].seq and len(payload(packet)) < 1100:
            return
    raise p.wrong("a smaller segment")


@P.check("§7.3", "larger segments are tried: one at a time, and with data that is to be sent anyway", SHOULD)
def tried(p: Probe) -> None:
    search = searching(p)
    p.require(search.size <= 1460, f"the probe has {search.size} bytes")
    sizes = [len(payload(one)) for one in [*search.burst, *p.burst(search.conn.flow)]]
    p.require(sum(size > search.usual for size in sizes) == 1, f"segments of {sizes} bytes came")


@P.check("§7.6.1", "when one arrives, segments become larger", SHOULD)
def arrived(p: Probe) -> None:
    search = searching(p)
    search.conn.flow.send("A", win=60000)
    feed(search.conn, 60000)
    sizes = [len(payload(one)) for one in p.burst(search.conn.flow)]
    p.require(sizes and max(sizes) > search.usual, f"segments of {sizes} bytes follow")


def lost(p: Probe) -> tuple[Search, int]:
    """A probe that alone is lost -> (it, cwnd before)."""
    search = searching(p)
    before = info(search.conn, "snd_cwnd")
    at, end = search.at, search.at + search.size
    for last in (1, 2, 3, 4):
        report = sack(end, end + last * search.usual)
        search.conn.flow.inject("A", ack=at, win=60000, options=report)
    return search, before


@P.check("§7.6.2", "when one alone is lost, its data comes again in segments that fit", MUST)
def lost_again(p: Probe) -> None:
    search, _ = lost(p)
    packet = p.again(search.conn.flow, search.at, 0.15)
    p.require(len(payload(packet)) <= search.usual, f"it comes again with {len(payload(packet))} bytes")


@P.check("§7.6.2", "and the congestion window is not reduced for it", MUST)
def lost_no_congestion(p: Probe) -> None:
    search, before = lost(p)
    p.again(search.conn.flow, search.at, 0.15)
    after = info(search.conn, "snd_cwnd")
    p.require(after >= before - 1, f"cwnd was {before} and is {after}")


@G.check("§4.6.1", "a router's word about a packet that was not sent is not believed", MUST)
def unvalidated(p: Probe) -> None:
    conn, first = full_segment(p)
    fake: Any = first.copy()
    fake[TCP].seq = (first[TCP].seq + (1 << 28)) % (1 << 32)
    icmp(p, fake, 3, 4, nexthopmtu=1000)
    found = again(p, conn, first)
    p.require(found == first[IP].len, f"a packet of {found} octets came")


@G.check("§4.6.2", "one that names more than was sent is passed over", MUST)
def larger_than_sent(p: Probe) -> None:
    conn, first = full_segment(p)
    icmp(p, first, 3, 4, nexthopmtu=9000)
    found = again(p, conn, first)
    p.require(found == first[IP].len, f"a packet of {found} octets came")


@G.check("§4.6.2", "a router's word during the search bounds it", SHOULD)
def bounded_by_router(p: Probe) -> None:
    search = searching(p)
    first: Any = next(one for one in search.burst if one[TCP].seq == search.at)
    icmp(p, first, 3, 4, nexthopmtu=1200)
    found = again(p, search.conn, first)
    p.require(found <= 1200, f"the probe of {search.size} bytes comes again as a packet of {found} octets")


G.not_applicable("§5", "the state machine of the search", "it is for datagram transports: TCP's is RFC 4821's", MUST)
