"""RFC 5961: blind attacks in the window."""

from __future__ import annotations

import errno

from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether

from tap_harness.conformance.probe import Probe
from tap_harness.conformance.registry import MUST, SHOULD, document

R = document("5961", "Improving TCP's Robustness to Blind In-Window Attacks")


@R.check("§3.2", "a RST exactly at RCV.NXT resets the connection", MUST)
def reset_exact(p: Probe) -> None:
    conn = p.established()
    conn.flow.inject("R", seq=conn.flow.snd)
    p.require(conn.sock.failure() == errno.ECONNRESET, "it does not")


@R.check("§3.2", "a RST elsewhere in the window gets a challenge ACK and does nothing else", MUST)
def reset_in_window(p: Probe) -> None:
    conn = p.established()
    for offset in (1, 1000, 30000):
        conn.flow.inject("R", seq=conn.flow.snd + offset)
        conn.flow.expect("A", p.within(0.1))
        p.challenge_rest()
    conn.flow.send("PA", b"alive")
    conn.flow.collect(p.within(0.3))
    p.require(conn.sock.recv() == b"alive", "the connection is broken")


@R.check("§3.2", "a RST outside the window is dropped without a word", MUST)
def reset_outside(p: Probe) -> None:
    conn = p.established()
    for offset in (-1, -5000, 1 << 24, 1 << 31):
        conn.flow.inject("R", seq=conn.flow.snd + offset)
        p.silent(conn.flow)


@R.check("§4.2", "a SYN on a connection gets a challenge ACK wherever its number is, and does nothing else", MUST)
def syn_anywhere(p: Probe) -> None:
    conn = p.established()
    for offset in (0, 100, -100, 1 << 24, 1 << 31):
        conn.flow.inject("S", seq=conn.flow.snd + offset)
        packet = conn.flow.expect("A", p.within(0.1))
        p.require(packet[TCP].ack == conn.flow.snd, "the challenge does not tell RCV.NXT")
        p.challenge_rest()
    conn.flow.send("PA", b"alive")
    conn.flow.collect(p.within(0.3))
    p.require(conn.sock.recv() == b"alive", "the connection is broken")


@R.check("§4.2", "a host that has lost its connection answers the challenge with a RST, which is taken", MUST)
def syn_of_a_restarted_host(p: Probe) -> None:
    conn = p.established()
    conn.flow.inject("S", seq=conn.flow.snd + 5000)
    challenge = conn.flow.expect("A", p.within(0.1))
    conn.flow.inject("R", seq=challenge[TCP].ack)
    p.require(conn.sock.failure() == errno.ECONNRESET, "the RST is not taken")


@R.check("§5.2", "an ACK below SND.UNA - MAX.SND.WND or above SND.NXT: the segment is dropped, an ACK sent", MUST)
def ack_range(p: Probe) -> None:
    conn = p.established()
    for offset in (1, 100000, -200000, -(1 << 30)):
        conn.flow.inject("PA", b"evil", ack=conn.flow.rcv + offset)
        conn.flow.expect("A", p.within(0.1))
        p.challenge_rest()
    p.require(conn.sock.recv() == b"", "data with an impossible ACK was delivered")


@R.check("§7", "challenge ACKs are limited", SHOULD)
def limited(p: Probe) -> None:
    conn = p.established()
    frame = bytes(Ether(src=p.peer.mac, dst=p.peer.target_mac) / conn.flow.build("R", seq=conn.flow.snd + 10))
    for _ in range(1500):
        p.peer.send_bytes(frame)
    count = len(conn.flow.collect(p.soon))
    p.require(count < 1500, f"1500 RSTs brought {count} challenges")


@R.check("§7", "the limit is not one that another connection can feel (CVE-2016-5696)", SHOULD)
def limit_not_shared(p: Probe) -> None:
    loud, quiet = p.established(), p.established()
    for _ in range(300):
        loud.flow.inject("R", seq=loud.flow.snd + 10)
    loud.flow.collect(p.soon)
    quiet.flow.inject("R", seq=quiet.flow.snd + 10)
    quiet.flow.expect("A", p.within(0.1))
