"""RFC 9293: Nagle, retransmission, how long it is tried, keep-alive's neighbours in §3.7 to §3.8.3."""

from __future__ import annotations

import errno
import itertools
import socket

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

from tap_harness.conformance.probe import Probe
from tap_harness.conformance.registry import document
from tap_harness.diff import ANY
from tap_harness.packets import payload

R = document("9293")


@R.check("SHLD-7", "Nagle's algorithm: a small segment waits while another is not acknowledged")
def nagle(p: Probe) -> None:
    conn = p.established()
    conn.send(b"first")
    conn.data(data=b"first")
    conn.send(b"second")
    conn.send(b"third")
    p.silent(conn.flow, 0.05)
    conn.flow.send("A")
    conn.data(0.1, data=b"secondthird")


@R.check("MUST-17", "Nagle's algorithm can be switched off")
def nodelay(p: Probe) -> None:
    conn = p.established()
    conn.sock.option(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for word in (b"one", b"two", b"three"):
        conn.send(word)
        conn.data(0.05, data=word)


@R.check("MUST-49", "the TTL of segments can be set")
def ttl(p: Probe) -> None:
    conn = p.established()
    six = p.peer.six
    level, name = (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS) if six else (socket.IPPROTO_IP, socket.IP_TTL)
    conn.sock.option(level, name, 37)
    conn.send(b"x")
    packet = conn.data()
    p.require((packet[IPv6].hlim if six else packet[IP].ttl) == 37, "the TTL is not the one that was set")


# -- retransmission


def unanswered(p: Probe, count: int) -> list[float]:
    """The times between transmissions of one segment that is never acknowledged."""
    conn = p.established(talks=True)
    conn.send(b"lost")
    first = conn.data()
    times = [p.now()]
    while len(times) < count + 1:
        conn.data(130, seq=first[TCP].seq)
        times.append(p.now())
    return [b - a for a, b in itertools.pairwise(times)]


@R.check("MUST-18", "Karn: an acknowledgement of a retransmitted segment is no sample of the round trip")
def karn(p: Probe) -> None:
    conn = p.established()
    flow = conn.flow
    for _ in range(6):  # samples of nearly nothing
        conn.send(b"quick")
        conn.data()
        flow.send("A")
    conn.send(b"slow")
    first = conn.data()
    conn.data(3, seq=first[TCP].seq)
    conn.data(3, seq=first[TCP].seq)
    p.wait(1.5 if p.target.virtual else 0.5)
    flow.collect(0)
    flow.send("A")  # it would be a sample of seconds
    conn.send(b"next")
    again = conn.data()
    begin = p.now()
    conn.data(5, seq=again[TCP].seq)
    p.require(p.now() - begin < 3.5, f"the next retransmission took {p.now() - begin:.2f} s")


@R.check("MUST-19", "slow start: the window of the sender grows with acknowledgements, from a few segments")
def slow_start(p: Probe) -> None:
    conn = p.established(win=65535)
    conn.send(bytes(60000))
    first = len(p.burst(conn.flow))
    p.require(2 <= first <= 11, f"{first} segments at first")
    conn.flow.send("A")
    second = len(p.burst(conn.flow))
    p.require(second > 0, "an acknowledgement brought nothing")


@R.check("MUST-19", "the retransmission timeout is doubled each time")
def rto_doubles(p: Probe) -> None:
    found = unanswered(p, 6 if p.target.virtual else 4)
    for before, after in itertools.pairwise(found[1:]):
        p.require(1.7 < after / before < 2.4, f"the gaps are {[round(gap, 2) for gap in found]}")


@R.check("MAY-4", "a retransmission may have the same IP identification")
def same_identification(p: Probe) -> None:
    conn = p.established(talks=True)
    conn.send(b"lost")
    first = conn.data()
    again = conn.data(3, seq=first[TCP].seq)
    p.require("DF" in str(again[IP].flags) or again[IP].id == first[IP].id, "it is another, and fragments may mix")


@R.check("§3.8.1", "a retransmission carries what was sent before, whatever was queued since", "MUST")
def consistent(p: Probe) -> None:
    conn = p.established()
    conn.send(b"abcdef")
    first = conn.data()
    conn.send(b"ghijkl")
    again = conn.data(3, seq=first[TCP].seq)
    p.require(payload(again)[:6] == b"abcdef", f"{payload(again)!r} in the place of what was sent")


# -- how long it is tried


@R.check("MUST-20", "there are two thresholds: advice to IP at R1, the connection is given up at R2", takes=2000)
def given_up(p: Probe) -> None:
    conn = p.established()
    conn.send(b"lost")
    p.wait(3000)
    p.require(conn.state == "CLOSED", "the connection is never given up")


@R.check("SHLD-11", "R2 is at least 100 s", takes=100)
def r2_long(p: Probe) -> None:
    conn = p.established()
    conn.send(b"lost")
    p.wait(100)
    p.require(conn.state == "ESTABLISHED", "the connection is given up before 100 s")


@R.check("SHLD-10", "R1 is at least three retransmissions")
def r1_default(p: Probe) -> None:
    found = p.target.sysctl("net.ipv4.tcp_retries1")
    p.require(found >= 3, f"net.ipv4.tcp_retries1 is {found}")


@R.check("MUST-21", "the application can set R2 of a connection (TCP_USER_TIMEOUT)")
def r2_settable(p: Probe) -> None:
    conn = p.established()
    conn.sock.option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2000)
    conn.send(b"lost")
    p.wait(6)
    got = conn.sock.error()
    p.require(got == errno.ETIMEDOUT, f"after 6 s the application is told {errno.errorcode.get(got, got)}")


@R.check("SHLD-9", "the application is told that the connection has not been answering before it is given up", takes=60)
def r1_told(p: Probe) -> None:
    conn = p.established()
    conn.send(b"lost")
    p.wait(20)
    info = conn.sock.raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    p.require(info[2] >= 3, f"TCP_INFO counts {info[2]} retransmissions (tcpi_retransmits)")


@R.check(
    "MUST-23",
    "a SYN is tried for at least three minutes",
    takes=180,
    because={"kernel": "net.ipv4.tcp_syn_retries is 6: about 67 or 127 s, by the kernel's age"},
)
def syn_persistence(p: Probe) -> None:
    conn, _ = p.connecting()
    p.wait(180)
    p.require(conn.sock.error() == 0, "connecting was given up before three minutes")


@R.check("MUST-23", "how long a SYN is tried can be set to more than three minutes")
def syn_persistence_settable(p: Probe) -> None:
    p.target.sysctl("net.ipv4.tcp_syn_retries", 7)
    p.require(p.target.sysctl("net.ipv4.tcp_syn_retries") == 7, "it stays")


@R.check("MUST-22", "connecting is given up in the end, and the application is told", takes=300)
def syn_given_up(p: Probe) -> None:
    conn, _ = p.connecting()
    p.wait(600)
    p.require(conn.sock.error() == errno.ETIMEDOUT, "the application is not told")


@R.check("MUST-22", "a SYN-ACK that is not answered is sent again")
def synack_again(p: Probe) -> None:
    flow = p.flow()
    flow.send("S")
    first = flow.expect("SA", seq=ANY)
    again = flow.expect("SA", p.within(3), seq=first[TCP].seq)
    p.require(again[TCP].seq == first[TCP].seq, "with another number")
