"""RFC 9293: the window on both sides, zero windows and probes, silly windows (§3.8.6)."""

from __future__ import annotations

import itertools
import socket

from scapy.layers.inet import TCP
from scapy.packet import Packet

from tap_harness.conformance.probe import Conn, Probe, Sock
from tap_harness.conformance.registry import document
from tap_harness.flow import Flow, window_scale
from tap_harness.packets import payload
from tap_harness.segment import MODULUS, seq_diff

R = document("9293")


def window_end(packet: Packet, shift: int = 0) -> int:
    """The right edge of the window that a segment announces."""
    return int(packet[TCP].ack + (packet[TCP].window << shift)) % MODULUS


def fill(p: Probe, flow: Flow, most: int = 4000) -> list[int]:
    """Send until the receive window is closed, the application reading nothing -> the right edges that were seen."""
    edges: list[int] = []
    room = 1460
    for _ in range(most):
        if room == 0:
            break
        flow.send("PA", bytes(min(1460, room)))
        for packet in flow.collect(p.within(0.3) if room <= 1460 and edges else p.soon / 40):
            edges.append(window_end(packet))
        room = max(0, seq_diff(edges[-1], flow.snd)) if edges else 1460
    else:
        raise p.wrong("the receive window to close")
    return edges


@R.check("MUST-1", "a window is unsigned: 65535 is no negative number")
def window_unsigned(p: Probe) -> None:
    conn = p.established(win=65535, talks=True)
    sent = 0
    conn.send(bytes(60000))
    while (packet := conn.flow.next(p.within(0.3))) is not None and sent < 60000:
        if payload(packet) and packet[TCP].seq == conn.flow.rcv:
            conn.flow.rcv = (conn.flow.rcv + len(payload(packet))) % MODULUS
            sent += len(payload(packet))
            conn.flow.send("A", win=65535)
    p.require(sent == 60000, f"{sent} of 60000 bytes came")


@R.check("REC-1", "windows are kept in 32 bits: more than 65535 bytes may be under way (RFC 7323)")
def window_wide(p: Probe) -> None:
    conn = p.established(window_scale(7), win=65535)
    conn.sock.option(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    for _ in range(8):  # slow start: each acknowledgement lets more out
        for _ in range(6):
            _offer(conn, 60000)
        if sum(len(payload(packet)) for packet in p.burst(conn.flow)) > 65535:
            return
        conn.flow.send("A")
    raise p.wrong("more than 65535 bytes ahead of the acknowledgement")


def _offer(conn: Conn, size: int) -> int:
    try:
        return conn.sock.send(bytes(size))
    except BlockingIOError:
        return 0


@R.check("SHLD-14", "a receiver does not take back window: its right edge never moves left")
def edge_never_back(p: Probe) -> None:
    conn = p.established()
    p.needs_sockets()
    edges = fill(p, conn.flow)
    steps = [seq_diff(b, a) for a, b in itertools.pairwise(edges)]
    p.require(all(step >= 0 for step in steps), f"the right edge moved by {min(steps)}")


@R.check("SHLD-15", "a sender sends nothing new when the window has shrunk below what is under way")
def nothing_new_after_shrink(p: Probe) -> None:
    conn = _shrunk(p)
    conn.send(b"new")
    for packet in p.burst(conn.flow, p.within(0.8)):
        end = packet[TCP].seq + len(payload(packet))
        p.require(seq_diff(end, conn.flow.rcv) <= 0, "data beyond what was sent before the shrink")


def _shrunk(p: Probe) -> Conn:
    """4000 bytes are under way, and the window shrinks to 1000 bytes; none is acknowledged."""
    conn = p.established([("MSS", 1000)], win=4000)
    conn.flow.win = 4000
    conn.send(bytes(4000))
    p.require(len(p.burst(conn.flow)) >= 4, "4000 bytes in segments of 1000 were expected")
    conn.flow.send("A", ack=conn.flow.rcv - 4000, win=1000)
    return conn


@R.check("SHLD-16", "a sender retransmits what is within the window after a shrink")
def retransmits_within(p: Probe) -> None:
    conn = _shrunk(p)
    again = conn.data(3, seq=conn.flow.rcv - 4000)
    p.require(len(payload(again)) <= 1000, "the retransmission goes beyond the window")


@R.check("SHLD-17", "a connection does not time out because data lies beyond a shrunken edge", takes=60)
def shrink_does_not_kill(p: Probe) -> None:
    conn = _shrunk(p)
    flow = conn.flow
    base = flow.rcv - 4000
    for _ in range(30):
        p.wait(2)
        flow.collect(0)
        flow.inject("A", ack=base + 1000, win=0)
    p.require(conn.state == "ESTABLISHED", f"the connection is {conn.state}")


@R.check("MUST-34", "a sender survives a window that shrinks")
def shrink_survived(p: Probe) -> None:
    conn = _shrunk(p)
    flow = conn.flow
    base = flow.rcv - 4000
    flow.inject("A", ack=base + 500, win=0)
    flow.collect(p.within(0.3))
    flow.inject("A", ack=base + 1000, win=60000)
    got, deadline = base + 1000, p.now() + p.within(4)
    while seq_diff(got, base + 4000) < 0 and p.now() < deadline:
        packet = flow.next(deadline - p.now())
        if packet is not None and payload(packet) and seq_diff(packet[TCP].seq, got) <= 0:
            got = max(got, packet[TCP].seq + len(payload(packet)))
            flow.inject("A", ack=got, win=60000)
    p.require(got == base + 4000, f"{got - base} of 4000 bytes arrived after the window had shrunk and opened")


# -- zero windows


def closed_window(p: Probe) -> Conn:
    """The peer's window is closed, and the target has 100 bytes to send."""
    conn = p.established(win=0)
    conn.flow.win = 0
    conn.send(b"z" * 100)
    return conn


def is_probe(p: Probe, conn: Conn, packet: Packet | None) -> bool:
    """A window probe: it makes the peer answer, because it is old, or carries data beyond the window."""
    return packet is not None and (bool(payload(packet)) or packet[TCP].seq == (conn.flow.rcv - 1) % MODULUS)


def probes(p: Probe, conn: Conn, count: int, answer: bool = True) -> list[float]:
    """The times between the first probes."""
    times = [p.now()]
    for number in range(count):
        packet = conn.flow.next(p.within(2.0 * 2**number + 1))
        if not is_probe(p, conn, packet):
            raise p.wrong(f"zero window probe {number + 1}", packet)
        times.append(p.now())
        if answer:
            conn.flow.inject("A", win=0)
    return [b - a for a, b in itertools.pairwise(times)]


@R.check("MUST-35", "zero window probing is there")
def probing(p: Probe) -> None:
    probes(p, closed_window(p), 1)


@R.check("MUST-36", "a probe is sent although the window is zero, and the transfer goes on when it opens")
def probing_resumes(p: Probe) -> None:
    conn = closed_window(p)
    probes(p, conn, 2)
    conn.flow.win = 5000
    conn.flow.inject("A")
    got = b""
    for packet in p.burst(conn.flow, p.within(0.5)):
        got = got or payload(packet)
    p.require(len(got) >= 99, "the data did not come when the window opened")


@R.check("SHLD-29", "the first probe comes a retransmission timeout after the window was closed")
def first_probe(p: Probe) -> None:
    gaps = probes(p, closed_window(p), 1)
    p.require(0.15 <= gaps[0] <= 1.2 + p.target.slack, f"it came after {gaps[0]:.2f} s")


@R.check("SHLD-30", "the time between probes grows exponentially")
def probes_back_off(p: Probe) -> None:
    gaps = probes(p, closed_window(p), 5 if p.target.virtual else 4)
    for before, after in itertools.pairwise(gaps[1:]):
        p.require(1.6 < after / before < 2.6, f"the gaps are {[round(gap, 2) for gap in gaps]}")


@R.check("MUST-37", "a connection stays as long as its probes are acknowledged", takes=3600)
def probed_for_ever(p: Probe) -> None:
    conn = closed_window(p)
    end = p.now() + 3600
    while p.now() < end:
        packet = conn.flow.next(end - p.now())
        if packet is not None:
            conn.flow.inject("A", win=0)
    p.require(conn.state == "ESTABLISHED", f"after an hour the connection is {conn.state}")


R.not_applicable("MAY-7", "a sender may retransmit beyond the window", "both are allowed")


@R.check("MAY-8", "a receiver may keep its window closed for any time: probes are answered")
def receiver_stays_closed(p: Probe) -> None:
    conn = p.established()
    p.needs_sockets()
    fill(p, conn.flow)
    for _ in range(3):
        p.wait(0.6)
        conn.flow.inject("A", b"?", seq=conn.flow.snd)
        packet = conn.flow.expect("A", p.within(0.3), win=0)
        p.require(packet[TCP].ack == conn.flow.snd, "the probe's octet was taken")


# -- silly windows


@R.check("MUST-38", "a sender avoids silly windows: small pieces wait for a window worth sending into")
def sender_sws(p: Probe) -> None:
    conn = p.established([("MSS", 1000)], win=3000)
    conn.flow.win = 3000
    conn.send(bytes(20000))
    p.burst(conn.flow)
    for _ in range(4):
        conn.flow.send("A", win=100)
        small = p.burst(conn.flow)
        p.require(not small, f"{sum(len(payload(packet)) for packet in small)} bytes for a window of 100")
    conn.flow.send("A", win=2000)
    p.require(len(payload(conn.data())) == 1000, "a full segment did not come when there was room for it")


@R.check("MUST-39", "a receiver avoids silly windows: the window opens by no less than a segment or half the buffer")
def receiver_sws(p: Probe) -> None:
    conn = p.established()
    flow = conn.flow
    edge = fill(p, flow)[-1]
    opened = 0
    for _ in range(400):
        conn.sock.read(1000)
        for packet in flow.collect(p.soon / 20):
            step = seq_diff(window_end(packet), edge)
            p.require(step == 0 or step >= 1460 or step >= 4096, f"the window opened by {step} bytes")
            opened += step > 0
            edge = window_end(packet)
        if opened == 2:
            return
    p.require(opened, "the window did not open while all was read")


def _drain(sock: Sock) -> None:
    sock.recv(1 << 22)


@R.check("§3.8.6.2.2", "when the application has read all, the peer is told of the window without being asked", "MUST")
def window_update(p: Probe) -> None:
    conn = p.established()
    p.needs_sockets()
    edge = fill(p, conn.flow)[-1]
    _drain(conn.sock)
    updates = conn.flow.collect(p.within(0.5))
    p.require(updates, "no window update came")
    p.require(seq_diff(window_end(updates[-1]), edge) > 1460, "the window stayed closed")


# -- acceptance of segments (§3.10.7.4, first)


@R.check("§3.4", "a segment is acceptable if any of it is in the window, and its part in the window is taken", "MUST")
def partly_in_window(p: Probe) -> None:
    conn = p.established()
    flow = conn.flow
    flow.send("PA", b"abcdef")
    flow.inject("PA", b"defghi", seq=flow.snd - 3)
    flow.snd += 3
    flow.collect(p.within(0.3))
    p.require(conn.sock.recv() == b"abcdefghi", "an overlapping segment was not cut to what is new")


@R.check("§3.10.7.4", "a segment outside the window is answered with an ACK and dropped", "MUST")
def outside_window(p: Probe) -> None:
    conn = p.established()
    flow = conn.flow
    for offset, data in ((-100, b"old"), (1 << 30, b"far")):
        p.challenge_rest()
        flow.inject("PA", data, seq=flow.snd + offset)
        flow.expect("A", p.within(0.3))
    p.require(conn.sock.recv() == b"", "data outside the window was delivered")


@R.check(
    "§3.8.6", "a window update is taken from the latest segment only: an old one does not take window back", "MUST"
)
def old_window_update(p: Probe) -> None:
    conn = p.established([("MSS", 1000)], win=2000)
    flow = conn.flow
    flow.send("PA", b"x", win=8000)
    flow.collect(p.within(0.3))
    flow.inject("A", seq=flow.snd - 1, win=0)  # SND.WL1 is newer than it
    conn.send(bytes(3000))
    got = sum(len(payload(packet)) for packet in p.burst(flow))
    p.require(got >= 2000, f"{got} bytes were sent into a window of 8000")
