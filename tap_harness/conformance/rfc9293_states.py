"""RFC 9293 §3.10.7, SEGMENT ARRIVES: what each state does with each kind of segment."""

from __future__ import annotations

import errno

from scapy.layers.inet import TCP

from tap_harness.conformance.probe import Conn, Probe
from tap_harness.conformance.registry import MUST, document
from tap_harness.diff import ANY
from tap_harness.lab import SYNCHRONIZED

R = document("9293")
AFTER_OPEN = tuple(state for state in SYNCHRONIZED if state != "SYN-RECEIVED")
RECEIVING = ("ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2")


def state_is(p: Probe, conn: Conn, *wanted: str) -> None:
    """The connection must be in one of these states."""
    found = conn.state
    p.require(found in wanted, f"the state is {found}, not {' or '.join(wanted)}")


# -- LISTEN


@R.check("§3.10.7.2", "LISTEN: a RST is ignored, an ACK gets a RST, a SYN a SYN-ACK, anything else nothing", MUST)
def listen(p: Probe) -> None:
    flow = p.flow()
    for flags in ("R", "F", "", "P"):
        flow.inject(flags)
        p.silent(flow)
    for flags in ("A", "SA", "FA"):
        flow.inject(flags, ack=4242)
        p.reset(flow, seq=4242)
    flow.send("S")
    flow.expect("SA", seq=ANY, ack=flow.snd)


@R.check("§3.10.7.2", "LISTEN: data in a SYN is kept until the connection is open, or sent again by the peer", MUST)
def data_in_syn(p: Probe) -> None:
    flow = p.flow()
    flow.send("S", b"early")
    answer = flow.expect("SA", seq=ANY, ack=ANY)
    taken = (answer[TCP].ack - flow.isn - 1) % (1 << 32)
    p.require(taken in (0, 5), f"{taken} of 5 octets are acknowledged")
    flow.snd = flow.isn + 1 + taken
    flow.send("A", b"early"[taken:] + b"late")
    flow.collect(p.within(0.3))
    p.needs_sockets()
    got = p.accept().recv()
    p.require(got == b"earlylate", f"the application got {got!r}")


# -- SYN-SENT


@R.check("§3.10.7.3", "SYN-SENT: an ACK of something else gets a RST with its number", MUST)
def syn_sent_bad_ack(p: Probe) -> None:
    conn, _ = p.connecting()
    for ack in (conn.flow.rcv - 1, conn.flow.rcv + 1):
        conn.flow.inject("SA", ack=ack)
        p.reset(conn.flow, seq=ack % (1 << 32))
    conn.flow.send("SA")
    conn.flow.expect("A", p.within(0.1))


@R.check("§3.10.7.3", "SYN-SENT: a RST counts only with an ACK of the SYN, and then the open is refused", MUST)
def syn_sent_reset(p: Probe) -> None:
    conn, _ = p.connecting()
    conn.flow.inject("R")
    conn.flow.inject("RA", ack=conn.flow.rcv + 1)
    conn.flow.collect(p.soon)
    p.require(conn.sock.error() == 0, "a RST without the right ACK was taken")
    conn.flow.inject("RA", seq=0)
    p.require(conn.sock.error() == errno.ECONNREFUSED, "the application is not told")


@R.check("§3.10.7.3", "SYN-SENT: a segment without SYN and RST is dropped", MUST)
def syn_sent_other(p: Probe) -> None:
    conn, _ = p.connecting()
    for flags in ("F", "P", ""):
        conn.flow.inject(flags, ack=0)
        p.silent(conn.flow)
    state_is(p, conn, "SYN-SENT")


@R.check("§3.10.7.3", "SYN-SENT: data and FIN with the SYN-ACK are taken once the connection is open", MUST)
def syn_sent_data(p: Probe) -> None:
    conn, _ = p.connecting()
    conn.flow.send("SA")
    conn.flow.send("FPA", b"hello and goodbye")
    conn.flow.collect(p.within(0.3))
    p.require(conn.sock.recv() == b"hello and goodbye", "the data is lost")
    state_is(p, conn, "CLOSE-WAIT")


# -- SYN-RECEIVED


@R.check("§3.10.7.4", "SYN-RECEIVED: an ACK of something else gets a RST with its number", MUST)
def syn_received_bad_ack(p: Probe) -> None:
    flow = p.flow()
    flow.send("S")
    flow.expect("SA", seq=ANY)
    flow.inject("A", ack=flow.rcv + 7)
    p.reset(flow, seq=(flow.rcv + 7) % (1 << 32))
    flow.send("A")
    p.needs_sockets()
    p.accept()


@R.check("§3.10.7.4", "SYN-RECEIVED: a retransmitted SYN is answered with the same SYN-ACK or an ACK", MUST)
def syn_received_syn(p: Probe) -> None:
    flow = p.flow()
    flow.send("S")
    first = flow.expect("SA", seq=ANY)
    flow.inject("S", seq=flow.isn)
    again = flow.next(p.within(0.3))
    p.require(again is not None and again[TCP].ack == first[TCP].ack, "another connection was begun")
    flow.send("A")
    p.needs_sockets()
    p.accept()


@R.check("§3.10.7.4", "SYN-RECEIVED: data with the ACK of the handshake is taken", MUST)
def syn_received_data(p: Probe) -> None:
    flow = p.flow()
    flow.send("S")
    flow.expect("SA", seq=ANY)
    flow.send("PA", b"with the ACK")
    flow.collect(p.within(0.3))
    p.needs_sockets()
    p.require(p.accept().recv() == b"with the ACK", "the data is lost")


@R.check("§3.10.7.4", "SYN-RECEIVED: of a segment that begins below the window what is in it is taken", MUST)
def syn_received_overlap(p: Probe) -> None:
    flow = p.flow()
    flow.send("S")
    flow.expect("SA", seq=ANY)
    flow.inject("PA", b"below and in", seq=flow.snd - 6)
    flow.snd += 6
    flow.collect(p.within(0.3))
    p.needs_sockets()
    p.require(p.accept().recv() == b"and in", "it is not")


@R.check("§3.10.7.4", "SYN-RECEIVED: a FIN with the ACK of the handshake is taken", MUST)
def syn_received_fin(p: Probe) -> None:
    flow = p.flow()
    flow.send("S")
    flow.expect("SA", seq=ANY)
    flow.send("FPA", b"all")
    flow.collect(p.within(0.3))
    p.needs_sockets()
    sock = p.accept()
    p.require(sock.recv() == b"all" and sock.ended(), "the data or the end is lost")


# -- synchronized states, each


def _each(state: str) -> None:
    @R.check("§3.10.7.4", f"{state}: a segment outside the window gets an ACK, a RST there nothing", MUST)
    def unacceptable(p: Probe) -> None:
        conn = p.closing(state)
        flow = conn.flow
        flow.inject("R", seq=flow.snd - 5000)
        p.silent(flow)
        flow.inject("A", b"old", seq=flow.snd - 5000)
        flow.expect("A", p.within(0.3), ack=flow.snd)
        state_is(p, conn, state)

    @R.check("§3.10.7.4", f"{state}: a SYN in the window gets a challenge ACK and changes nothing (RFC 5961)", MUST)
    def syn(p: Probe) -> None:
        conn = p.closing(state)
        conn.flow.inject("S", seq=conn.flow.snd)
        if state != "TIME-WAIT":  # there a SYN may open anew (MAY-2)
            conn.flow.expect("A", p.within(0.3))
            state_is(p, conn, state)

    @R.check(
        "§3.10.7.4",
        f"{state}: a segment without ACK is dropped",
        MUST,
        because={"kernel": "in TIME-WAIT it acknowledges whatever has data"},
    )
    def without_ack(p: Probe) -> None:
        conn = p.closing(state)
        conn.flow.inject("P", b"no ack")
        p.silent(conn.flow)
        state_is(p, conn, state)

    if state != "TIME-WAIT":

        @R.check("§3.10.7.4", f"{state}: a RST exactly in order ends the connection", MUST)
        def reset(p: Probe) -> None:
            conn = p.closing(state)
            conn.flow.inject("R", seq=conn.flow.snd)
            p.silent(conn.flow)
            state_is(p, conn, "CLOSED")


for _state in AFTER_OPEN:
    _each(_state)


@R.check(
    "§3.10.7.4",
    "TIME-WAIT: a RST does not end it (RFC 1337)",
    "SHOULD",
    because={"kernel": "net.ipv4.tcp_rfc1337 is off"},
)
def time_wait_reset(p: Probe) -> None:
    conn = p.closing("TIME-WAIT")
    conn.flow.inject("R", seq=conn.flow.snd)
    state_is(p, conn, "TIME-WAIT")


@R.check("§3.10.7.4", "an ACK of something not yet sent gets an ACK, and its segment is dropped", MUST)
def ack_of_future(p: Probe) -> None:
    conn = p.established()
    p.challenge_rest()
    conn.flow.inject("PA", b"evil", ack=conn.flow.rcv + 1000)
    conn.flow.expect("A", p.within(0.3))
    p.require(conn.sock.recv() == b"", "its data was delivered")


@R.check("§3.10.7.4", "an old ACK is passed over, but its data is taken", MUST)
def old_ack(p: Probe) -> None:
    conn = p.established()
    conn.send(b"one")
    conn.data()
    conn.flow.send("A")
    conn.flow.send("PA", b"new data", ack=conn.flow.rcv - 3)
    conn.flow.collect(p.within(0.3))
    p.require(conn.sock.recv() == b"new data", "data with an old ACK was dropped")


# -- FIN


def _moves(ident: str, start: str, flags: str, end: str, *, acked: bool = True) -> None:
    @R.check(
        ident, f"{start}: {_NAMES[flags]}{'' if acked else ' that does not acknowledge ours'} leads to {end}", MUST
    )
    def moves(p: Probe) -> None:
        conn = p.closing(start)
        flow = conn.flow
        flow.send(flags, ack=flow.rcv if acked else flow.rcv - 1)
        if "F" in flags:
            flow.expect("A", p.within(0.3))
        state_is(p, conn, end)


_NAMES = {"A": "an ACK of the FIN", "FA": "a FIN"}
_moves("§3.10.7.4", "ESTABLISHED", "FA", "CLOSE-WAIT")
_moves("§3.10.7.4", "FIN-WAIT-1", "A", "FIN-WAIT-2")
_moves("§3.10.7.4", "FIN-WAIT-1", "FA", "TIME-WAIT")
_moves("§3.10.7.4", "FIN-WAIT-1", "FA", "CLOSING", acked=False)
_moves("§3.10.7.4", "FIN-WAIT-2", "FA", "TIME-WAIT")
_moves("§3.10.7.4", "CLOSING", "A", "TIME-WAIT")
_moves("§3.10.7.4", "LAST-ACK", "A", "CLOSED")


def _takes_data(state: str) -> None:
    @R.check("§3.10.7.4", f"{state}: data is taken and acknowledged", MUST)
    def takes(p: Probe) -> None:
        conn = p.closing(state)
        conn.flow.send("PA", b"data")
        conn.flow.expect("A", p.within(0.6))
        p.require(conn.sock.recv() == b"data", "it is not delivered")


for _state in RECEIVING:
    _takes_data(_state)


def _ignores_data(state: str) -> None:
    @R.check("§3.10.7.4", f"{state}: data after the peer's FIN is not taken", MUST)
    def ignores(p: Probe) -> None:
        conn = p.closing(state)
        conn.flow.inject("PA", b"after the end")
        for packet in conn.flow.collect(p.within(0.3)):
            p.require("R" in str(packet[TCP].flags) or packet[TCP].ack == conn.flow.snd, "it is acknowledged")


for _state in ("CLOSE-WAIT", "CLOSING", "LAST-ACK", "TIME-WAIT"):
    _ignores_data(_state)


@R.check("§3.10.7.4", "TIME-WAIT: a retransmitted FIN is acknowledged", MUST)
def time_wait_fin(p: Probe) -> None:
    conn = p.closing("TIME-WAIT")
    p.challenge_rest()
    conn.flow.inject("FA", seq=conn.flow.snd - 1)
    conn.flow.expect("A", p.within(0.3))


@R.check("§3.10.7.4", "a FIN out of order counts when what is before it has come", MUST)
def early_fin(p: Probe) -> None:
    conn = p.established()
    flow = conn.flow
    flow.inject("FA", seq=flow.snd + 4)
    flow.collect(p.within(0.1))
    state_is(p, conn, "ESTABLISHED")
    flow.send("PA", b"late")
    flow.collect(p.within(0.3))
    state_is(p, conn, "CLOSE-WAIT")
