"""RFC 9293: what TCP asks of IP and ICMP, error reports, 5961 and others by reference (§3.9.2, §3.9.1.8, §3.8.2)."""

from __future__ import annotations

import errno
import socket
from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, IPOption
from scapy.packet import Packet

from tap_harness.conformance.probe import Conn, Probe
from tap_harness.conformance.registry import NotApplicable, document
from tap_harness.diff import ANY
from tap_harness.packets import payload

R = document("9293")
IP_RECVERR, IP_TOS = 11, socket.IP_TOS


def icmp(p: Probe, segment: Packet, kind: int, code: int, **fields: Any) -> None:
    """An ICMP error about a segment of the target: its header and 8 octets quoted (RFC 792)."""
    quoted = bytes(segment[IP])[: segment[IP].ihl * 4 + 8]
    error: Any = ICMP(type=kind, code=code, **fields)
    p.peer.send(p.peer.ip_header() / error / quoted)
    p.target.pump()


def in_flight(p: Probe) -> tuple[Conn, Packet]:
    """A connection with a segment under way."""
    conn = p.established()
    conn.send(b"in flight")
    return conn, conn.data()


# -- IP options


@R.check("MUST-50", "an IP option that is not understood is passed over")
def unknown_ip_option(p: Probe) -> None:
    flow = p.flow()
    packet = flow.build("S")
    packet[IP].options = [IPOption(b"\x9e\x04\x00\x00")]
    del packet[IP].ihl, packet[IP].len, packet[IP].chksum
    p.peer.send(packet)
    flow.snd += 1
    flow.expect("SA", seq=ANY)


R.not_applicable("MAY-10", "the IP timestamp option may be supported", "hosts rather ignore it (RFC 7126 §4.8)")
R.not_applicable("MAY-11", "the record route option may be supported", "hosts rather ignore it (RFC 7126 §4.7)")
_SOURCE_ROUTE = (
    "source-routed packets are dropped, as RFC 7126 §4.3 and §4.4 advise: an application cannot give a route"
)
R.not_applicable("MUST-51", "an application can give a source route when opening", _SOURCE_ROUTE)
R.not_applicable("MUST-52", "a passive open keeps the source route of the SYN", _SOURCE_ROUTE)
R.not_applicable("MUST-53", "the route is used for all segments of the connection", _SOURCE_ROUTE)
R.not_applicable("SHLD-24", "a later source route overrides an earlier one", _SOURCE_ROUTE)

# -- ICMP


@R.check("MUST-54", "an ICMP error acts on the connection that it quotes, and on no other")
def icmp_right_connection(p: Probe) -> None:
    conn, syn = p.connecting()
    other, _ = p.connecting()
    icmp(p, syn, 3, 3)
    p.require(conn.sock.error() == errno.ECONNREFUSED, "a port unreachable for a SYN does not end the open")
    p.require(other.sock.error() == 0, "another connection was ended, too")


@R.check("MUST-54", "an ICMP error whose sequence number is not under way is ignored (RFC 5927 §4)")
def icmp_blind(p: Probe) -> None:
    conn, segment = in_flight(p)
    for offset in (-10000, 1 << 28):
        fake: Any = segment.copy()
        fake[TCP].seq = (segment[TCP].seq + offset) % (1 << 32)
        icmp(p, fake, 3, 2)
    p.require(conn.sock.error() == 0 and conn.state == "ESTABLISHED", "a blind ICMP error was believed")


@R.check("SHLD-25", "soft errors (unreachable 0, 1, 5) are told to the application")
def soft_told(p: Probe) -> None:
    conn, segment = in_flight(p)
    conn.sock.option(socket.IPPROTO_IP, IP_RECVERR, 1)
    icmp(p, segment, 3, 1)
    got = conn.sock.error()
    p.require(got == errno.EHOSTUNREACH, f"the application is told {errno.errorcode.get(got, got)}")


@R.check("MUST-56", "soft errors, time exceeded and parameter problem do not end a connection")
def soft_survived(p: Probe) -> None:
    conn, segment = in_flight(p)
    for kind, code in ((3, 0), (3, 1), (3, 5), (11, 0), (11, 1), (12, 0)):
        icmp(p, segment, kind, code)
        p.require(conn.state == "ESTABLISHED", f"ICMP type {kind} code {code} ended the connection")
    conn.flow.send("A")


@R.check(
    "SHLD-26",
    "hard errors (unreachable 2, 3, 4) end a connection",
    because={
        "stack": "in a synchronized state they are taken as soft (RFC 5461 §4.1, RFC 5927 §5.2), as Linux does",
        "kernel": "in a synchronized state they are taken as soft (RFC 5927 §5.2)",
    },
)
def hard_ends(p: Probe) -> None:
    conn, segment = in_flight(p)
    icmp(p, segment, 3, 3)
    p.require(conn.state == "CLOSED", f"the connection is {conn.state}")


@R.check("SHLD-26", "hard errors end a connection that is being opened")
def hard_ends_open(p: Probe) -> None:
    for code, wanted in ((2, errno.ENOPROTOOPT), (3, errno.ECONNREFUSED)):
        conn, syn = p.connecting()
        icmp(p, syn, 3, code)
        got = conn.sock.error()
        p.require(got == wanted, f"code {code}: the application is told {errno.errorcode.get(got, got)}")


@R.check("MUST-55", "source quench is dropped without a word (RFC 6633)")
def source_quench(p: Probe) -> None:
    conn = p.established(win=65535)
    conn.send(bytes(60000))
    first = p.burst(conn.flow)
    icmp(p, first[-1], 4, 0)
    conn.flow.send("A")
    after = p.burst(conn.flow)
    p.require(len(after) >= len(first), f"after it {len(after)} segments follow on {len(first)}")


# -- error reports and the DiffServ field


@R.check("MUST-47", "errors that happen by themselves are told to the application (SO_ERROR)")
def async_error(p: Probe) -> None:
    conn = p.established()
    conn.flow.inject("R", seq=conn.flow.snd)
    got = conn.sock.error()
    p.require(got == errno.ECONNRESET, f"SO_ERROR is {errno.errorcode.get(got, got)}")


@R.check(
    "SHLD-20",
    "reports of soft errors can be switched off (IP_RECVERR)",
    because={"kernel": "SO_ERROR tells soft errors whatever the options are"},
)
def reports_off(p: Probe) -> None:
    conn, segment = in_flight(p)
    icmp(p, segment, 3, 1)
    p.require(conn.sock.error() == 0, "soft errors are told without being asked for")


@R.check("MUST-48", "the DiffServ field of segments can be set")
def diffserv(p: Probe) -> None:
    conn, syn = p.connecting(lambda sock: sock.option(socket.IPPROTO_IP, IP_TOS, 0xB8))
    p.require(syn[IP].tos & 0xFC == 0xB8, f"the SYN has {syn[IP].tos:#x}")
    conn.flow.send("SA", options=[("MSS", 1460)])
    conn.flow.expect("A")
    conn.send(b"x")
    p.require(conn.data()[IP].tos & 0xFC == 0xB8, "data has another")


@R.check("SHLD-21", "it can be changed while the connection lives")
def diffserv_changed(p: Probe) -> None:
    conn = p.established()
    conn.sock.option(socket.IPPROTO_IP, IP_TOS, 0x28)
    conn.send(b"x")
    p.require(conn.data()[IP].tos & 0xFC == 0x28, "the change had no effect")


@R.check("SHLD-22", "it is passed to IP unchanged")
def diffserv_unchanged(p: Probe) -> None:
    for value in (0x04, 0x28, 0x88, 0xFC):
        conn = p.established()
        conn.sock.option(socket.IPPROTO_IP, IP_TOS, value)
        conn.send(b"x")
        found = conn.data()[IP].tos
        p.require(found & 0xFC == value, f"{value:#x} was set, {found:#x} sent")


R.not_applicable("SHLD-23", "applications do not change it during a connection", "it is about applications")


@R.check("MAY-9", "the DiffServ field that was received may be told to the application")
def diffserv_told(p: Probe) -> None:
    raise NotApplicable("a stream socket has no way to tell it")


R.not_applicable("MAY-14", "there may be a FLUSH call", "sockets have none")

# -- others by reference


@R.check(
    "MAY-12", "data injection is made hard: an ACK of what was never sent, or of long ago, is refused (RFC 5961 §5)"
)
def injection(p: Probe) -> None:
    conn = p.established()
    flow = conn.flow
    for ack in (flow.rcv + 100000, flow.rcv - (1 << 30)):
        p.challenge_rest()
        flow.inject("PA", b"evil", ack=ack)
        flow.collect(p.soon)
    p.require(conn.sock.recv() == b"", "data with an impossible ACK was delivered")


@R.check("SHLD-8", "explicit congestion notification is there (RFC 3168)")
def ecn(p: Probe) -> None:
    flow = p.flow()
    flow.send("SEC")
    packet = flow.next(p.within(0.1))
    p.require(packet is not None and "E" in str(packet[TCP].flags), "an ECN-setup SYN is answered without ECE")


@R.check("MAY-18", "other algorithms of congestion control may be there")
def algorithms(p: Probe) -> None:
    found = p.target.sysctl("net.ipv4.tcp_available_congestion_control")
    names = found.split() if isinstance(found, str) else found
    p.require(len(names) > 1, f"there is {names}")


@R.check("§3.9.2.2", "fragmentation needed lowers the segments' size, and the data is sent again", "MUST")
def path_mtu(p: Probe) -> None:
    conn = p.established()
    conn.send(bytes(1460))
    first = conn.data()
    p.require("DF" in str(first[IP].flags), "segments are sent without DF")
    icmp(p, first, 3, 4, nexthopmtu=1000)
    again = conn.data(2, seq=first[TCP].seq)
    p.require(len(payload(again)) <= 960, f"after it {len(payload(again))} bytes a segment")
