"""RFC 7323: window scale, timestamps, PAWS."""

from __future__ import annotations

import errno
from typing import Any

from scapy.layers.inet import TCP
from scapy.packet import Packet

from tap_harness.conformance.probe import Conn, Probe, option
from tap_harness.conformance.registry import MAY, MUST, SHOULD, document
from tap_harness.conformance.rfc9293_window import fill
from tap_harness.diff import ANY
from tap_harness.flow import Options, window_scale
from tap_harness.packets import payload
from tap_harness.segment import seq_diff

R = document("7323", "TCP Extensions for High Performance")
START = 1000  # the peer's first TSval


def stamp(value: int, echo: int = 0) -> Options:
    """A timestamps option as it is usually laid out."""
    return [("NOP", None), ("NOP", None), ("Timestamp", (value % (1 << 32), echo))]


def stamped(p: Probe, value: int = START, talks: bool = False) -> Conn:
    """A connection with timestamps; the peer's clock stands at `value`."""
    conn = p.established([("MSS", 1460), *stamp(value)], talks=talks)
    conn.flow.options = stamp(value)
    return conn


def stamps(p: Probe, packet: Packet | None) -> tuple[int, int]:
    """(TSval, TSecr) of a segment, which must have them."""
    found: Any = None if packet is None else option(packet, "Timestamp")
    if found is None:
        raise p.wrong("a segment with timestamps", packet)
    return int(found[0]), int(found[1])


# -- window scale (§2)


@R.check("§2.2", "a window scale option is in a SYN-ACK only if it was in the SYN", MUST)
def scale_if_both(p: Probe) -> None:
    for options, wanted in (([("MSS", 1460)], False), (window_scale(3), True)):
        flow = p.flow()
        flow.send("S", options=options)
        found = option(flow.expect("SA", seq=ANY), "WScale") is not None
        p.require(found is wanted, f"with {options} in the SYN the SYN-ACK has {'one' if found else 'none'}")


@R.check("§2.2", "a window scale option is in no segment but a SYN", MUST)
def scale_in_syn_only(p: Probe) -> None:
    conn = p.established(window_scale(3), talks=True)
    conn.send(b"x")
    p.require(option(conn.data(), "WScale") is None, "a data segment has one")


@R.check("§2.2", "a window scale option in a segment without SYN is ignored", MUST)
def scale_elsewhere(p: Probe) -> None:
    conn = p.established([("MSS", 1000)], win=2000)
    conn.flow.inject("A", options=[("NOP", None), ("WScale", 5)], win=2000)
    conn.send(bytes(9000))
    size = sum(len(payload(packet)) for packet in p.burst(conn.flow))
    p.require(size <= 2000, f"{size} bytes into a window of 2000")


@R.check("§2.2", "the windows in SYN and SYN-ACK are not scaled", MUST)
def scale_not_in_syn(p: Probe) -> None:
    flow = p.flow()
    flow.send("S", options=window_scale(3))
    answer = flow.expect("SA", seq=ANY)
    shift = option(answer, "WScale")
    flow.send("A")
    flow.send("PA", b"x")
    after = flow.expect("A", p.within(0.6))
    p.require((after[TCP].window << shift) * 4 >= answer[TCP].window, "the window falls when the scale comes in")
    p.require(shift <= 14, f"the shift is {shift}")


@R.check("§2.3", "a peer's shift of more than 14 is taken as 14", MUST)
def scale_limit(p: Probe) -> None:
    conn = p.established(window_scale(20, 1000), win=65535)
    conn.flow.send("A", win=1)
    conn.send(bytes(40000))
    size = sum(len(payload(packet)) for packet in p.burst(conn.flow))
    for _ in range(3):
        conn.flow.send("A", win=1)
        size = sum(len(payload(packet)) for packet in p.burst(conn.flow))
        p.require(size <= 1 << 14, f"{size} bytes into a window of 1 << 14")
    conn.flow.send("A", win=4)


@R.check("§2.4", "with a scale, too, the right edge of the window never moves left", MUST)
def scale_edge(p: Probe) -> None:
    flow = p.flow()
    flow.send("S", options=window_scale(3))
    shift = option(flow.expect("SA", seq=ANY), "WScale")
    flow.send("A")
    p.needs_sockets()
    reader = p.accept()
    edge = None
    for size in [1, 7, 100, 1460, 3, 999] * 20:
        flow.send("PA", bytes(size))
        for packet in flow.collect(p.soon / 20):
            now = packet[TCP].ack + (packet[TCP].window << shift)
            p.require(edge is None or seq_diff(now, edge) >= 0, f"it moved by {seq_diff(now, edge or 0)}")
            edge = now
    reader.close()


# -- timestamps (§3)


@R.check("§3.2", "timestamps are in a SYN-ACK only if they were in the SYN", MUST)
def stamps_if_both(p: Probe) -> None:
    plain = p.flow()
    plain.send("S", options=[("MSS", 1460)])
    p.require(option(plain.expect("SA", seq=ANY), "Timestamp") is None, "they are there without")
    flow = p.flow()
    flow.send("S", options=[("MSS", 1460), *stamp(START)])
    _, echo = stamps(p, flow.expect("SA", seq=ANY))
    p.require(echo == START, f"TSecr is {echo}, not {START}")


@R.check("§3.2", "once agreed upon, timestamps are in every segment but a RST", MUST)
def stamps_always(p: Probe) -> None:
    conn = stamped(p)
    conn.send(b"data")
    stamps(p, conn.data())
    conn.flow.send("PA", b"data")
    stamps(p, conn.flow.next(p.within(0.6)))
    conn.sock.shutdown()
    stamps(p, conn.flow.next(p.within(0.2)))


@R.check("§3.2", "TSecr is zero where there is no ACK", MUST)
def no_echo_in_syn(p: Probe) -> None:
    _, syn = p.connecting()
    _, echo = stamps(p, syn)
    p.require(echo == 0, f"the SYN has TSecr {echo}")


@R.check(
    "§3.2",
    "a segment without timestamps on a connection with them is dropped",
    SHOULD,
    because={"kernel": "it is taken"},
)
def missing_stamps(p: Probe) -> None:
    conn = stamped(p)
    conn.flow.inject("PA", b"without", options=[])
    conn.flow.collect(p.within(0.3))
    p.require(conn.sock.recv() == b"", "its data was delivered")


@R.check("§3.2", "a RST without timestamps is taken", MUST)
def reset_without_stamps(p: Probe) -> None:
    conn = stamped(p)
    conn.flow.inject("R", options=[], seq=conn.flow.snd)
    p.require(conn.sock.failure() == errno.ECONNRESET, "it was not taken")


@R.check("§4.3", "TSecr is the latest TSval of what was received in order", MUST)
def echo_latest(p: Probe) -> None:
    conn = stamped(p)
    for value in (START + 1, START + 50, START + 51):
        conn.flow.send("PA", b"x", options=stamp(value))
        found = conn.flow.collect(p.within(0.3))
        p.require(found, "no acknowledgement")
        _, echo = stamps(p, found[-1])
        p.require(echo == value, f"TSecr is {echo}, not {value}")


@R.check("§4.3", "a delayed acknowledgement echoes the earliest of the segments it is for", MUST)
def echo_earliest(p: Probe) -> None:
    conn = stamped(p)
    for value in range(START + 1, START + 40):  # past the acknowledgements at once
        conn.flow.send("PA", b"x", options=stamp(value))
    conn.flow.collect(0.1)
    conn.flow.send("PA", b"a", options=stamp(START + 100))
    if conn.flow.next(0.005) is not None:
        return  # acknowledged at once: nothing to tell apart
    conn.flow.send("PA", b"b", options=stamp(START + 200))
    found = conn.flow.collect(p.within(0.3))
    _, echo = stamps(p, found[0])
    p.require(echo in (START + 100, START + 39), f"TSecr is {echo}, not {START + 100}")


@R.check("§4.3", "a segment out of order does not change TS.Recent", MUST)
def echo_out_of_order(p: Probe) -> None:
    conn = stamped(p)
    conn.flow.inject("PA", b"later", seq=conn.flow.snd + 100, options=stamp(START + 500))
    _, echo = stamps(p, conn.flow.next(p.within(0.3)))
    p.require(echo == START, f"TSecr is {echo}, not {START}")


@R.check("§4.3", "the segment that fills a hole is echoed", MUST)
def echo_hole(p: Probe) -> None:
    conn = stamped(p)
    flow = conn.flow
    flow.inject("PA", b"second", seq=flow.snd + 5, options=stamp(START + 20))
    flow.collect(p.soon)
    flow.send("PA", b"first", options=stamp(START + 10))
    flow.snd += 6
    found = flow.collect(p.within(0.3))
    _, echo = stamps(p, found[-1])
    p.require(echo == START + 10, f"TSecr is {echo}, not {START + 10}")


@R.check("§5.4", "the timestamp clock ticks between once in 1 ms and once in 1 s", MUST)
def clock_rate(p: Probe) -> None:
    conn = stamped(p)
    conn.flow.send("PA", b"x")
    first, _ = stamps(p, conn.flow.next(p.within(0.6)))
    begin = p.now()
    p.wait(3)
    conn.flow.send("PA", b"x")
    second, _ = stamps(p, conn.flow.next(p.within(0.6)))
    ticks = (second - first) % (1 << 32) / (p.now() - begin)
    p.require(0.9 <= ticks <= 1100, f"it ticks {ticks:.0f} times a second")


@R.check("§7.1", "timestamps begin at a random offset for each connection", SHOULD)
def random_offset(p: Probe) -> None:
    found = []
    for _ in range(4):
        flow = p.flow()
        flow.send("S", options=[("MSS", 1460), *stamp(START)])
        found.append(stamps(p, flow.expect("SA", seq=ANY))[0])
    spread = max(abs(seq_diff(value, found[0])) for value in found)
    p.require(spread > 100_000, f"they are within {spread} of each other")


# -- PAWS (§5)


@R.check("§5.3", "PAWS: a segment with an older timestamp is acknowledged and dropped", MUST)
def paws(p: Probe) -> None:
    conn = stamped(p)
    conn.flow.inject("PA", b"old", options=stamp(START - 500))
    conn.flow.expect("A", p.within(0.3), ack=conn.flow.snd)
    p.require(conn.sock.recv() == b"", "its data was delivered")


@R.check("§5.3", "PAWS: timestamps wrap", MUST)
def paws_wraps(p: Probe) -> None:
    conn = stamped(p, 0xFFFFFFF0)
    conn.flow.send("PA", b"after", options=stamp(5))
    conn.flow.collect(p.within(0.3))
    p.require(conn.sock.recv() == b"after", "a timestamp after the wrap is taken for an old one")


@R.check("§5.2", "PAWS is not for RSTs", MUST)
def paws_reset(p: Probe) -> None:
    conn = stamped(p)
    conn.flow.inject("R", seq=conn.flow.snd, options=stamp(START - 500))
    p.require(conn.sock.failure() == errno.ECONNRESET, "a RST with an old timestamp is not taken")


@R.check("§5.5", "TS.Recent is no longer believed when a connection was idle for 24 days", MUST, takes=25 * 86400)
def paws_idle(p: Probe) -> None:
    conn = stamped(p, 1 << 20)
    p.wait(25 * 86400)
    conn.flow.send("PA", b"awake", options=stamp(START))
    conn.flow.collect(0.3)
    p.require(conn.sock.recv() == b"awake", "data after 25 days is taken for old")


@R.check("§5.3", "a duplicate of a segment that was taken, with its old timestamp, is not taken again", MUST)
def paws_duplicate(p: Probe) -> None:
    conn = stamped(p)
    flow = conn.flow
    flow.send("PA", b"one", options=stamp(START + 1))
    flow.send("PA", b"two", options=stamp(START + 2))
    flow.inject("PA", b"one", seq=flow.snd - 6, options=stamp(START + 1))
    flow.collect(p.within(0.3))
    p.require(conn.sock.recv() == b"onetwo", "the stream is broken")


R.not_applicable("§3.2", "RSTs may have timestamps", "both are allowed", MAY)


@R.check("§2.4", "a zero window is announced as zero whatever the scale", MUST)
def scale_zero(p: Probe) -> None:
    conn = p.established()
    p.needs_sockets()
    fill(p, conn.flow)
    conn.flow.inject("A", b"?", seq=conn.flow.snd)
    conn.flow.expect("A", p.within(0.3), win=0)
