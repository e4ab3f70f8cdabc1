"""RFC 9293: closing, reset, TIME-WAIT (§3.5.2, §3.5.3, §3.6, §3.6.1)."""

from __future__ import annotations

import errno

from scapy.layers.inet import TCP

from tap_harness.conformance.probe import Probe
from tap_harness.conformance.registry import MUST, document
from tap_harness.diff import ANY
from tap_harness.flow import Flow, Options

R = document("9293")
STAMPED: Options = [("MSS", 1460), ("NOP", None), ("NOP", None), ("Timestamp", (1000, 0))]


@R.check("SHLD-2", "a RST may carry data")
def reset_with_data(p: Probe) -> None:
    conn = p.established()
    conn.flow.inject("R", b"why it was reset", seq=conn.flow.snd)
    p.require(conn.sock.failure() == errno.ECONNRESET, "a RST with data did not reset the connection")


@R.check("MUST-12", "the application can tell an abort by the peer from a close")
def abort_told(p: Probe) -> None:
    closed, aborted = p.established(), p.established()
    closed.flow.send("FA")
    closed.flow.collect(p.soon)
    aborted.flow.inject("R", seq=aborted.flow.snd)
    p.require(closed.sock.ended(), "a close is not told as the end of the stream")
    p.require(aborted.sock.failure() == errno.ECONNRESET, "an abort is not told as ECONNRESET")


@R.check("MUST-12", "data before a close is delivered before its end is told")
def data_before_end(p: Probe) -> None:
    conn = p.established()
    conn.flow.send("FPA", b"last words")
    conn.flow.collect(p.soon)
    p.require(conn.sock.recv() == b"last words", "data before the FIN is lost")
    p.require(conn.sock.ended(), "the end is not told")


@R.check("MAY-1", "a close may be half-duplex: nothing more can be read after it")
def half_duplex(p: Probe) -> None:
    conn = p.established()
    conn.sock.close()
    conn.flow.expect("FA", p.within(0.1))
    conn.flow.send("PA", b"too late")
    p.reset(conn.flow)


@R.check("SHLD-3", "closing with unread data, or data after the close, brings a RST: the loss is told")
def loss_told(p: Probe) -> None:
    unread = p.established()
    unread.flow.send("PA", b"unread")
    unread.flow.collect(p.within(0.3))
    unread.sock.close()
    p.reset(unread.flow)
    late = p.established()
    late.sock.close()
    late.flow.expect("FA", p.within(0.1))
    late.flow.send("PA", b"too late")
    p.reset(late.flow)


@R.check(
    "MUST-13",
    "the active closer stays in TIME-WAIT for two MSL",
    takes=70,
    because={"kernel": "its TIME-WAIT is 60 s, which stands for an MSL of 30 s"},
)
def time_wait_lasts(p: Probe) -> None:
    conn = p.closing("TIME-WAIT")
    p.wait(55)
    p.require(conn.state == "TIME-WAIT", f"after 55 s the state is {conn.state}")
    conn.flow.inject("FA", seq=conn.flow.snd - 1)
    conn.flow.expect("A", p.within(0.1))
    p.wait(58)
    p.require(conn.state == "TIME-WAIT", "a retransmitted FIN did not start the time anew")


@R.check("MUST-13", "TIME-WAIT ends", takes=150)
def time_wait_ends(p: Probe) -> None:
    conn = p.closing("TIME-WAIT")
    p.wait(241)
    p.require(conn.state == "CLOSED", f"after 241 s the state is {conn.state}")


def _reopen(p: Probe, flow: Flow, **fields: object) -> object:
    again = p.peer.flow(flow.dport, sport=flow.sport, isn=flow.snd + 100000)
    again.send("S", **fields)  # type: ignore[arg-type]
    return again.next(p.within(0.1))


@R.check("MAY-2", "a SYN with a larger sequence number opens a connection in TIME-WAIT anew")
def time_wait_reopened(p: Probe) -> None:
    conn = p.closing("TIME-WAIT")
    packet = _reopen(p, conn.flow)
    p.require(packet is not None and packet[TCP].flags == "SA", "no SYN-ACK came")  # type: ignore[index]
    ahead = (packet[TCP].seq - conn.flow.rcv) % (1 << 32)  # type: ignore[index]
    p.require(0 < ahead < 1 << 31, "the new initial sequence number is not beyond the old connection")


@R.check("MAY-2", "an old SYN does not open it", level=MUST)
def time_wait_old_syn(p: Probe) -> None:
    conn = p.closing("TIME-WAIT")
    old = p.peer.flow(conn.flow.dport, sport=conn.flow.sport, isn=conn.flow.isn - 5000)
    old.send("S")
    packet = old.next(p.within(0.1))
    p.require(packet is None or packet[TCP].flags == "A", "an old duplicate SYN is answered as a new one")


@R.check("SHLD-4", "timestamps shorten TIME-WAIT: a SYN with a later one opens anew (RFC 6191)")
def time_wait_timestamps(p: Probe) -> None:
    conn = p.established(STAMPED)
    flow = conn.flow
    flow.options = STAMPED[1:]
    conn.sock.shutdown()
    flow.expect("FA", p.within(0.1))
    flow.send("FA")
    flow.expect("A")
    later: Options = [("MSS", 1460), ("NOP", None), ("NOP", None), ("Timestamp", (900000, 0))]
    again = p.peer.flow(flow.dport, sport=flow.sport, isn=flow.snd - 5000)  # by its number alone it is old
    again.send("S", options=later)
    again.expect("SA", p.within(0.1), seq=ANY)


# -- resets (§3.5.2)


@R.check("§3.5.2", "a segment to a closed port brings a RST: its number is the segment's ACK, or 0 with an ACK", MUST)
def reset_of_closed_port(p: Probe) -> None:
    flow = p.closed_port()
    flow.inject("S")
    p.reset(flow, seq=0, ack=flow.snd + 1, flags="RA")
    flow.inject("S", b"four")
    p.reset(flow, seq=0, ack=flow.snd + 5, flags="RA")
    flow.inject("A", ack=777)
    p.reset(flow, seq=777, flags="R")
    flow.inject("SA", ack=778)
    p.reset(flow, seq=778, flags="R")
    flow.inject("F", b"x")
    p.reset(flow, seq=0, ack=flow.snd + 2, flags="RA")


@R.check("§3.5.2", "a RST is never answered", MUST)
def reset_not_answered(p: Probe) -> None:
    closed, listening = p.closed_port(), p.flow()
    for flow in (closed, listening):
        for flags in ("R", "RA", "SR"):
            flow.inject(flags, ack=5 if "A" in flags else 0)
            p.silent(flow)


@R.check("§3.6", "simultaneous close: both sides come to TIME-WAIT by CLOSING", MUST)
def simultaneous_close(p: Probe) -> None:
    conn = p.closing("CLOSING")
    conn.flow.send("A")
    p.require(conn.state == "TIME-WAIT", f"the state is {conn.state}")


@R.check("§3.6", "a half-closed connection goes on receiving", MUST)
def half_closed(p: Probe) -> None:
    conn = p.closing("FIN-WAIT-2")
    conn.flow.send("PA", b"still open")
    conn.flow.expect("A", p.within(0.5))
    p.require(conn.sock.recv() == b"still open", "data after the own FIN is lost")


@R.check("§3.6", "a connection that the peer has closed goes on sending", MUST)
def close_wait_sends(p: Probe) -> None:
    conn = p.closing("CLOSE-WAIT")
    conn.send(b"answer")
    conn.data(data=b"answer")
    conn.flow.send("A")
    conn.sock.close()
    conn.flow.expect("FA", p.within(0.1))
    conn.flow.send("A")
    p.require(conn.state == "CLOSED", f"the state is {conn.state}")


@R.check("§3.6", "the FIN follows the data that is queued when the application closes", MUST)
def data_before_fin(p: Probe) -> None:
    conn = p.established([("MSS", 1000)], win=1000)
    conn.flow.win = 1000
    conn.send(b"a" * 2500)
    conn.sock.close()
    got = conn.flow.read(2500, win=1000)
    p.require(got == b"a" * 2500, "data is lost")
    while (packet := conn.flow.next(p.within(0.5))) is not None and "F" not in str(packet[TCP].flags):
        pass
    p.require(packet is not None or conn.flow.rcv == conn.flow.irs + 2502, "no FIN came")
