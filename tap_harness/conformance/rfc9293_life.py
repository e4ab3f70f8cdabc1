"""RFC 9293: keep-alive (§3.8.4)."""

from __future__ import annotations

import errno
import socket

from scapy.layers.inet import TCP
from scapy.packet import Packet

from tap_harness.conformance.probe import Conn, Probe
from tap_harness.conformance.registry import document
from tap_harness.packets import payload

R = document("9293")
KEEPIDLE = getattr(socket, "TCP_KEEPIDLE", 4)
KEEPINTVL = getattr(socket, "TCP_KEEPINTVL", 5)
KEEPCNT = getattr(socket, "TCP_KEEPCNT", 6)


def kept_alive(p: Probe, idle: int = 2, interval: int = 1, count: int = 3) -> Conn:
    """A connection with keep-alive after so many idle seconds."""
    conn = p.established()
    for name, value in ((KEEPIDLE, idle), (KEEPINTVL, interval), (KEEPCNT, count)):
        conn.sock.option(socket.IPPROTO_TCP, name, value)
    conn.sock.option(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return conn


def probe(p: Probe, conn: Conn, within: float) -> Packet:
    """The next keep-alive probe."""
    packet = conn.flow.next(p.within(within))
    if packet is None or packet[TCP].seq != (conn.flow.rcv - 1) % (1 << 32):
        raise p.wrong("a keep-alive probe (SEG.SEQ = SND.NXT - 1)", packet)
    return packet


@R.check("MAY-5", "keep-alive is there")
def keep_alive(p: Probe) -> None:
    conn = kept_alive(p)
    probe(p, conn, 3)


@R.check("MUST-24", "keep-alive can be switched on and off for each connection")
def keep_alive_switch(p: Probe) -> None:
    conn = kept_alive(p)
    conn.sock.option(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
    p.silent(conn.flow, 3.5)


@R.check("MUST-25", "keep-alive is off unless it is asked for", takes=7300)
def keep_alive_default(p: Probe) -> None:
    conn = p.established()
    p.require(not conn.sock.option(socket.SOL_SOCKET, socket.SO_KEEPALIVE), "SO_KEEPALIVE is on")
    p.silent(conn.flow, 3 * 7200)


@R.check("MUST-25", "SO_KEEPALIVE is 0 on a fresh socket")
def keep_alive_option(p: Probe) -> None:
    p.require(p.socket().option(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0, "SO_KEEPALIVE is on")


@R.check("MUST-26", "probes are sent when nothing was exchanged for the time, and not before")
def keep_alive_idle_only(p: Probe) -> None:
    conn = kept_alive(p)
    for _ in range(4):
        p.wait(1)
        conn.flow.send("PA", b"alive")
        for packet in conn.flow.collect(0.1):
            p.require(packet[TCP].seq == conn.flow.rcv, "a probe on a connection that is not idle")
    probe(p, conn, 3)


@R.check("MUST-27", "the idle time before a probe can be set")
def keep_alive_interval(p: Probe) -> None:
    conn = kept_alive(p, idle=3)
    begin = p.now()
    probe(p, conn, 4)
    p.require(p.close_to(p.now() - begin, 3.0), f"the probe came after {p.now() - begin:.2f} s")


@R.check("MUST-28", "by default it is no less than two hours")
def keep_alive_two_hours(p: Probe) -> None:
    found = p.established().sock.option(socket.IPPROTO_TCP, KEEPIDLE)
    p.require(found >= 7200, f"it is {found} s")


@R.check("MUST-29", "one probe without an answer does not end a connection")
def keep_alive_tolerant(p: Probe) -> None:
    conn = kept_alive(p)
    probe(p, conn, 3)
    probe(p, conn, 2)
    conn.flow.send("A")
    p.wait(0.5)
    p.require(conn.state == "ESTABLISHED", f"the connection is {conn.state}")


@R.check("MUST-29", "all probes without an answer end it")
def keep_alive_ends(p: Probe) -> None:
    conn = kept_alive(p)
    p.wait(7)
    got = conn.sock.error()
    p.require(got == errno.ETIMEDOUT, f"the application is told {errno.errorcode.get(got, got)}")


@R.check("SHLD-12", "a probe carries no data")
def probe_empty(p: Probe) -> None:
    p.require(not payload(probe(p, kept_alive(p), 3)), "the probe has data")


R.not_applicable("MAY-6", "a probe may carry an octet of garbage", "it is for peers of RFC 793's time; SHLD-12 is met")


@R.check("§3.8.4", "a keep-alive probe is answered", "MUST")
def probe_answered(p: Probe) -> None:
    conn = p.established()
    conn.flow.inject("A", seq=conn.flow.snd - 1)
    conn.flow.expect("A", p.within(0.3))


@R.check("§3.8.4", "a keep-alive probe with an octet of garbage is answered, and the octet is not delivered", "MUST")
def garbage_probe_answered(p: Probe) -> None:
    conn = p.established()
    conn.flow.send("PA", b"x")
    conn.flow.collect(p.within(0.3))
    conn.flow.inject("A", b"?", seq=conn.flow.snd - 1)
    conn.flow.expect("A", p.within(0.3))
    p.require(conn.sock.recv() == b"x", "garbage was delivered")
