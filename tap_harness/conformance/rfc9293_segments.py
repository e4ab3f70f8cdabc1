"""RFC 9293: PSH, the urgent pointer, when data is acknowledged (§3.8.3, §3.8.5, §3.8.6.3, §3.9.1)."""

from __future__ import annotations

import select
import socket

from scapy.layers.inet import TCP

from tap_harness.conformance.probe import Probe, Sock
from tap_harness.conformance.registry import document
from tap_harness.packets import payload

R = document("9293")

# -- PSH


@R.check("MUST-60", "without a push flag in SEND, data is not held back for ever")
def data_leaves(p: Probe) -> None:
    conn = p.established(talks=True)
    conn.send(b"x")
    conn.data(0.5, data=b"x")


@R.check("MUST-61", "PSH is set in the last segment that is sent when nothing more is queued")
def push_at_the_end(p: Probe) -> None:
    conn = p.established()
    conn.send(bytes(3000))
    found = p.burst(conn.flow)
    p.require(found, "no data came")
    p.require("P" in str(found[-1][TCP].flags), "the last segment has no PSH")


@R.check("SHLD-27", "several PSH marks are collapsed when data is packetised")
def push_collapsed(p: Probe) -> None:
    conn = p.established([("MSS", 1000)], win=0)
    for _ in range(5):
        conn.send(b"y" * 100)
    conn.flow.send("A", win=60000)
    found = p.burst(conn.flow)
    sent = b"".join(payload(packet) for packet in found)
    p.require(sent == b"y" * 500, f"{len(sent)} bytes came")
    p.require(len(found) <= 2, f"five small writes came as {len(found)} segments")


R.not_applicable("MAY-15", "SEND may have a push flag", "sockets have none: every send pushes")


@R.check("MAY-16", "data without a push may be held to make larger segments (MSG_MORE)")
def held_together(p: Probe) -> None:
    conn = p.established()
    conn.sock.raw.send(b"first", socket.MSG_MORE)
    p.target.pump()
    p.silent(conn.flow)
    conn.sock.send(b"second")
    conn.data(data=b"firstsecond")


R.not_applicable("MAY-17", "the receiving application may be told of PSH", "sockets have no way to tell it")


@R.check("SHLD-28", "full-sized segments are sent where that is possible")
def full_segments(p: Probe) -> None:
    conn = p.established([("MSS", 1000)], talks=True)
    conn.send(bytes(4000))
    found = [len(payload(packet)) for packet in p.burst(conn.flow, p.within(0.1))]
    p.require(found[:3].count(1000) >= 2, f"segments of {found} bytes")


# -- urgent data


@R.check("MUST-30", "the urgent mechanism is there: data is sent with URG when the application says so")
def urgent_sent(p: Probe) -> None:
    conn = p.established()
    conn.sock.urgent(b"!")
    conn.data(0.5, "AU")


@R.check("MUST-31", "a sequence of urgent data may have any length")
def urgent_length(p: Probe) -> None:
    conn = p.established()
    conn.sock.option(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    conn.flow.send("PAU", bytes(1000), urgent=3000)
    conn.flow.send("PAU", bytes(1000), urgent=2000)
    conn.flow.send("PAU", bytes(1000), urgent=1000)
    conn.flow.collect(p.soon)
    got = len(conn.sock.recv())
    p.require(got == 3000, f"the application got {got} of 3000 bytes")


@R.check("MUST-32", "the application is told when urgent data comes or its end moves on")
def urgent_told(p: Probe) -> None:
    conn = p.established()
    p.require(not _urgent_waits(conn.sock), "it says so before any came")
    conn.flow.send("PAU", b"ab!", urgent=3)
    conn.flow.collect(p.soon)
    p.require(_urgent_waits(conn.sock), "neither poll (POLLPRI) nor select says that urgent data came")


@R.check("MUST-33", "the application can learn whether there is more urgent data to read")
def urgent_left(p: Probe) -> None:
    conn = p.established()
    conn.sock.option(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    conn.flow.send("PAU", b"ab!cd", urgent=3)
    conn.flow.collect(p.soon)
    first = conn.sock.read()
    p.require(first in (b"ab", b"ab!"), f"a read goes on over the mark: {first!r}")
    rest = conn.sock.read() if first != b"ab!cd" else b""
    p.require(first + rest == b"ab!cd", f"the rest is {rest!r}")


@R.check(
    "MUST-66",
    "the urgent pointer is worked on while the receive window is zero",
    because={"kernel": "what ends beyond the window is dropped whole, with its pointer"},
)
def urgent_at_zero_window(p: Probe) -> None:
    conn = p.established(win=65535)
    _fill(p, conn.sock, conn.flow)
    conn.flow.inject("PAU", b"!", urgent=1)
    conn.flow.collect(p.soon)
    conn.sock.recv()
    p.require(conn.sock.at_mark(), "what the pointer named is not marked")


def _urgent_waits(sock: Sock) -> bool:
    return bool(select.select([], [], [sock.raw], 0)[2])


@R.check("MUST-62", "the urgent pointer names the octet after the urgent data")
def urgent_pointer(p: Probe) -> None:
    conn = p.established()
    conn.sock.urgent(b"ab!")
    packet = conn.data(0.5, "AU")
    p.require(packet[TCP].urgptr == 3, f"for three octets the pointer is {packet[TCP].urgptr}")


R.not_applicable("SHLD-13", "new applications do not use urgent data", "it is about applications")

# -- acknowledgements


@R.check("MUST-58", "acknowledgements are put together where that is possible")
def acks_aggregated(p: Probe) -> None:
    conn = p.established()
    for _ in range(40):
        conn.flow.send("PA", bytes(100))
    acks = len(conn.flow.collect(p.within(0.5)))
    p.require(acks < 40, f"40 small segments brought {acks} acknowledgements")
    p.require(acks > 0, "40 small segments brought no acknowledgement")


@R.check("MUST-59", "a queue of segments is worked off before the acknowledgement is sent")
def queue_first(p: Probe) -> None:
    conn = p.established()
    flow = conn.flow
    for _ in range(6):
        flow.send("PA", bytes(1460))
    found = flow.collect(p.within(0.5))
    p.require(found and found[-1][TCP].ack == flow.snd, "the last acknowledgement does not cover all")
    p.require(len(found) <= 6, f"6 segments brought {len(found)} acknowledgements")


@R.check("SHLD-31", "segments out of order are kept")
def out_of_order_kept(p: Probe) -> None:
    conn = p.established(talks=True)
    flow = conn.flow
    flow.inject("PA", b"world", seq=flow.snd + 5)
    flow.expect("A", p.within(0.5), ack=flow.snd)
    flow.send("PA", b"hello")
    flow.snd += 5
    flow.collect(0 if p.target.name == "remote" else p.soon)
    conn.delivered(b"helloworld")


@R.check("MAY-13", "a segment out of order is acknowledged at once")
def out_of_order_at_once(p: Probe) -> None:
    conn = p.established()
    conn.flow.inject("PA", b"later", seq=conn.flow.snd + 100)
    begin = p.now()
    conn.flow.expect("A", p.within(0.5))
    p.require(p.now() - begin < 0.03 + p.target.slack / 4, f"it took {p.now() - begin:.3f} s")


@R.check("SHLD-18", "acknowledgements are delayed")
def acks_delayed(p: Probe) -> None:
    conn = p.connected() if p.target.name != "remote" else p.established()
    for _ in range(24):  # past the first segments, which Linux and others acknowledge at once
        conn.flow.send("PA", bytes(10))
    conn.flow.collect(0.1)
    begin = p.now()
    conn.flow.send("PA", b"x")
    conn.flow.expect("A", p.within(0.5))
    p.require(p.now() - begin > 0.02, f"it came after {p.now() - begin:.3f} s")


@R.check("MUST-40", "an acknowledgement is delayed by less than 0.5 s")
def ack_in_time(p: Probe) -> None:
    conn = p.established()
    for size in (1, 100, 1460, 1, 1):
        begin = p.now()
        conn.flow.send("PA", bytes(size))
        conn.flow.expect("A", p.within(1.0))
        p.require(p.now() - begin < 0.5, f"it took {p.now() - begin:.3f} s")
        p.wait(0.1)


@R.check("SHLD-19", "at least every second full-sized segment is acknowledged")
def every_second(p: Probe) -> None:
    conn = p.established()
    flow = conn.flow
    for _ in range(10):
        flow.send("A", bytes(1460))
        flow.send("A", bytes(1460))
        found = flow.collect(0.03)
        p.require(found and found[-1][TCP].ack == flow.snd, "two full-sized segments are not acknowledged at once")


@R.check("MUST-66", "ACK and RST are worked on while the receive window is zero")
def control_at_zero_window(p: Probe) -> None:
    conn = p.established(win=65535)
    flow = conn.flow
    conn.send(b"waits for its acknowledgement")
    conn.data()
    _fill(p, conn.sock, flow)
    flow.send("A")
    p.wait(1.5)
    for packet in flow.collect(0):
        p.require(not payload(packet), "the acknowledgement was not taken: data is sent again")
    flow.inject("R", seq=flow.snd)
    p.require(conn.state == "CLOSED", f"a RST at a zero window leaves the connection {conn.state}")


def _fill(p: Probe, sock: Sock, flow: object) -> None:
    """Send until the receive window is zero; the application reads nothing."""
    from tap_harness.flow import Flow

    assert isinstance(flow, Flow)
    window = 65535
    for _ in range(2000):
        size = min(1460, window)
        if size == 0:
            return
        flow.send("PA", bytes(size))
        answers = flow.collect(p.within(0.3) if window <= 3000 else p.soon / 20)
        for packet in answers:
            window = packet[TCP].window - (flow.snd - packet[TCP].ack) % (1 << 32)
        if not answers:
            window -= size
    raise p.wrong("the receive window to close")
