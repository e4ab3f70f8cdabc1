"""RFC 2018 and 2883: selective acknowledgements, and those of duplicates."""

from __future__ import annotations

from scapy.layers.inet import TCP
from scapy.packet import Packet

from tap_harness.conformance.probe import Conn, Probe, option
from tap_harness.conformance.registry import MUST, SHOULD, document
from tap_harness.conformance.rfc7323 import stamp
from tap_harness.diff import ANY
from tap_harness.flow import Options
from tap_harness.packets import payload

R = document("2018", "TCP Selective Acknowledgment Options")
D = document("2883", "An Extension to SACK (D-SACK)")
SACK_OK: Options = [("MSS", 1000), ("NOP", None), ("NOP", None), ("SAckOK", b"")]


def blocks(packet: Packet, flow: object, base: int) -> list[tuple[int, int]]:
    """The SACK blocks of a segment, relative to base."""
    found = option(packet, "SAck") or ()
    edges = [(edge - base) % (1 << 32) for edge in found]
    return list(zip(edges[::2], edges[1::2], strict=True))


def sack(*edges: int) -> Options:
    """A SACK option with these absolute edges."""
    return [("NOP", None), ("NOP", None), ("SAck", tuple(edge % (1 << 32) for edge in edges))]


def holes(p: Probe, conn: Conn, *pieces: tuple[int, int]) -> list[tuple[int, int]]:
    """Send these pieces (offset, size) out of order -> the blocks of the last answer."""
    flow, last = conn.flow, None
    for offset, size in pieces:
        flow.inject("PA", bytes(size), seq=flow.snd + offset)
        last = flow.next(p.within(0.3))
        if last is None:
            raise p.wrong("an acknowledgement at once")
    assert last is not None
    return blocks(last, flow, flow.snd)


@R.check("§2", "SACK-permitted is in a SYN-ACK only if it was in the SYN, and in no other segment", MUST)
def permitted(p: Probe) -> None:
    plain = p.flow()
    plain.send("S", options=[("MSS", 1460)])
    p.require(option(plain.expect("SA", seq=ANY), "SAckOK") is None, "it is there without")
    conn = p.established(SACK_OK, talks=True)
    conn.send(b"x")
    p.require(option(conn.data(), "SAckOK") is None, "a data segment has it")


@R.check("§2", "the SYN offers SACK", SHOULD)
def offered(p: Probe) -> None:
    _, syn = p.connecting()
    p.require(option(syn, "SAckOK") is not None, "it does not")


@R.check("§3", "without permission no SACK option is sent", MUST)
def not_permitted(p: Probe) -> None:
    conn = p.established([("MSS", 1000)])
    p.require(holes(p, conn, (100, 10)) == [], "a SACK option without permission")


@R.check("§4", "the first block has the segment that caused the acknowledgement", MUST)
def first_block(p: Probe) -> None:
    conn = p.established(SACK_OK)
    for piece in ((3000, 100), (1000, 100), (5000, 100), (1100, 50)):
        found = holes(p, conn, piece)
        p.require(
            found and found[0][0] <= piece[0] < sum(piece) <= found[0][1], f"after {piece} the blocks are {found}"
        )


@R.check("§4", "as many blocks as fit, the latest first: four without timestamps, three with", SHOULD)
def block_count(p: Probe) -> None:
    pieces = [(offset, 10) for offset in (1000, 2000, 3000, 4000, 5000)]
    latest_first = [(offset, offset + 10) for offset in (5000, 4000, 3000, 2000)]
    found = holes(p, p.established(SACK_OK), *pieces)
    p.require(found == latest_first, f"without timestamps: {found}")
    conn = p.established([*SACK_OK, *stamp(1)])
    conn.flow.options = stamp(1)
    found = holes(p, conn, *pieces)
    p.require(found == latest_first[:3], f"with timestamps: {found}")


@R.check("§4", "blocks that touch are one block", MUST)
def block_merge(p: Probe) -> None:
    found = holes(p, p.established(SACK_OK), (1000, 100), (1200, 100), (1100, 100))
    p.require(found == [(1000, 1300)], f"the blocks are {found}")


@R.check("§4", "what is acknowledged cumulatively is no longer reported", MUST)
def block_gone(p: Probe) -> None:
    conn = p.established(SACK_OK)
    holes(p, conn, (100, 100), (300, 100))
    base = conn.flow.snd
    conn.flow.send("PA", bytes(100))
    answer = conn.flow.next(p.within(0.3))
    p.require(answer is not None and answer[TCP].ack == (base + 200) % (1 << 32), "the hole is not filled")
    assert answer is not None
    p.require(blocks(answer, conn.flow, base) == [(300, 400)], f"the blocks are {blocks(answer, conn.flow, base)}")


@R.check("§4", "every acknowledgement tells the blocks while there are any", SHOULD)
def block_in_data(p: Probe) -> None:
    conn = p.established(SACK_OK)
    holes(p, conn, (100, 100))
    conn.send(b"data with a report")
    p.require(option(conn.data(), "SAck") is not None, "a data segment does not tell them")


# -- the sender


def under_way(p: Probe, count: int = 8, options: Options | None = None) -> tuple[Conn, int]:
    """A connection with `count` segments of 1000 bytes under way, which begin at the number that is given back."""
    conn = p.established(options or SACK_OK, win=65535, rtt=0.1)
    conn.send(bytes(1000 * count))
    found = p.burst(conn.flow)
    sizes = [len(payload(packet)) for packet in found]
    p.require(sizes == [1000] * count, f"{count} segments of 1000 bytes were expected: {sizes}")
    return conn, found[0][TCP].seq


@R.check("§5", "what was reported is not sent again while the rest is repaired", SHOULD)
def hole_only(p: Probe) -> None:
    conn, base = under_way(p)
    for last in (2, 3, 4, 5, 6, 7, 8):
        conn.flow.inject("A", ack=base, options=sack(base + 1000, base + 1000 * last))
    again = [packet[TCP].seq - base for packet in p.burst(conn.flow, 0.1)]
    p.require(again == [0], f"what came again begins at {again}")


@R.check("§8", "data is kept until it is acknowledged cumulatively: after a timeout all of it may come again", MUST)
def reneging(p: Probe) -> None:
    conn, base = under_way(p)
    conn.flow.inject("A", ack=base, options=sack(base + 1000, base + 8000))
    got, deadline = base, p.now() + p.within(8)
    while got < base + 8000 and p.now() < deadline:  # the receiver has thrown it all away
        packet = conn.flow.next(deadline - p.now())
        if packet is not None and packet[TCP].seq == got and payload(packet):
            got += len(payload(packet))
            conn.flow.inject("A", ack=got)
    p.require(got == base + 8000, f"only {got - base} of 8000 bytes were sent again")


@R.check("§5", "a report of what was never sent, or long acknowledged, does no harm", MUST)
def impossible_blocks(p: Probe) -> None:
    conn, base = under_way(p)
    for edges in ((base + 50000, base + 60000), (base - 90000, base - 80000), (base + 3000, base + 2000), (base, base)):
        conn.flow.inject("A", ack=base, options=sack(*edges))
    conn.flow.collect(p.soon)
    conn.flow.inject("A", ack=base + 8000)
    conn.flow.rcv = base + 8000
    conn.send(b"fine")
    conn.data(data=b"fine")


# -- D-SACK


@D.check("§4", "a duplicate below the acknowledgement is reported in the first block", SHOULD)
def duplicate_below(p: Probe) -> None:
    conn = p.established(SACK_OK)
    flow = conn.flow
    flow.send("PA", bytes(100))
    flow.collect(p.within(0.3))
    found = holes(p, conn, (-100, 100))
    p.require(found == [((-100) % (1 << 32), 0)], f"the blocks are {found}")


@D.check("§4", "a duplicate of what waits out of order is reported before the block that holds it", SHOULD)
def duplicate_above(p: Probe) -> None:
    conn = p.established(SACK_OK)
    found = holes(p, conn, (1000, 100), (1100, 100), (1000, 100))
    p.require(found == [(1000, 1100), (1000, 1200)], f"the blocks are {found}")


@D.check("§4", "a duplicate is reported once", SHOULD)
def duplicate_once(p: Probe) -> None:
    conn = p.established(SACK_OK)
    holes(p, conn, (1000, 100), (1000, 100))
    found = holes(p, conn, (3000, 100))
    p.require(found == [(3000, 3100), (1000, 1100)], f"after it the blocks are {found}")


@D.check(
    "§4",
    "of a segment that is a duplicate in part, that part is reported",
    SHOULD,
    because={"kernel": "it reports only segments that are duplicates as a whole"},
)
def duplicate_part(p: Probe) -> None:
    conn = p.established(SACK_OK)
    flow = conn.flow
    flow.send("PA", bytes(100))
    flow.collect(p.within(0.3))
    base = flow.snd
    flow.inject("PA", bytes(100), seq=base - 50)
    flow.snd += 50
    answer = flow.next(p.within(0.3))
    p.require(answer is not None, "no acknowledgement")
    assert answer is not None
    found = blocks(answer, flow, base)
    p.require(found[:1] == [((-50) % (1 << 32), 0)], f"the blocks are {found}")


@D.check("§4", "a D-SACK is no report of data: what it names is not taken as received", MUST)
def dsack_is_no_sack(p: Probe) -> None:
    conn, base = under_way(p)
    conn.flow.inject("A", ack=base + 2000, options=sack(base, base + 1000))
    conn.flow.inject("A", ack=base + 8000)
    conn.flow.rcv = base + 8000
    conn.send(b"fine")
    conn.data(data=b"fine")
