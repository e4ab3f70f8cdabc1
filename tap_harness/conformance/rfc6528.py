"""RFC 6528, 6056, 4987, 5927, 1337, 6191: what an attacker must not guess, flood, forge or revive."""

from __future__ import annotations

import errno
import itertools
from typing import Any

from scapy.layers.inet import TCP
from scapy.packet import Packet

from tap_harness import segment
from tap_harness.conformance.probe import BUSY, Conn, Probe, Sock, option
from tap_harness.conformance.registry import MAY, MUST, SHOULD, document
from tap_harness.conformance.rfc7323 import START, stamp
from tap_harness.conformance.rfc9293_ip import icmp, in_flight
from tap_harness.conformance.rfc9293_open import numbers_of_one_pair
from tap_harness.diff import ANY
from tap_harness.flow import Flow, Options
from tap_harness.packets import payload
from tap_harness.scapy_peer import Peer

I = document("6528", "Defending against Sequence Number Attacks")  # noqa: E741
P = document("6056", "Recommendations for Transport-Protocol Port Randomization")
S = document("4987", "TCP SYN Flooding Attacks and Common Mitigations")
E = document("5927", "ICMP Attacks against TCP")
A = document("1337", "TIME-WAIT Assassination Hazards in TCP")
R = document("6191", "Reducing the TIME-WAIT State Using TCP Timestamps")
STAMPED: Options = [("MSS", 1460), *stamp(START)]

# -- initial sequence numbers and ports


@I.check("§3", "the numbers of a pair of sockets move on with a clock of some 4 us", SHOULD)
def clocked(p: Probe) -> None:
    for (before, low), (after, high) in itertools.pairwise(numbers_of_one_pair(p, 39002, 3, 0.5)):
        rate = segment.seq_diff(high, low) / (after - before)
        p.require(0 < rate < 1 << 31, f"they move by {rate:.0f} a second")


@I.check("§3", "other ports begin elsewhere", SHOULD)
def other_ports(p: Probe) -> None:
    found = [_isn(p.flow(), p) for _ in range(8)]
    near = sum(abs(segment.seq_diff(b, a)) < 1 << 22 for a, b in itertools.pairwise(found))
    p.require(near <= 1, f"{near} of 7 are near the one before")


@I.check("§3", "so do other addresses", SHOULD)
def other_addresses(p: Probe) -> None:
    here = p.flow()
    other = Peer(p.target.wire, ip=p.target.other_address, mac="02:00:00:00:00:03", target=p.target.address)
    there = other.flow(here.dport, sport=here.sport)
    distance = abs(segment.seq_diff(_isn(here, p), _isn(there, p)))
    p.require(distance > 1 << 22, f"two addresses' numbers are {distance} apart")


def _isn(flow: Flow, p: Probe) -> int:
    flow.send("S")
    flow.expect("SA", p.within(0.1), seq=ANY)
    return flow.irs


@I.check("§3", "a connection that the target opens begins elsewhere each time, too", SHOULD)
def active_open(p: Probe) -> None:
    found = [p.connecting()[1][TCP].seq for _ in range(8)]
    near = sum(abs(segment.seq_diff(b, a)) < 1 << 22 for a, b in itertools.pairwise(found))
    p.require(near <= 1, f"{near} of 7 are near the one before")


def _name(code: int) -> str:
    return errno.errorcode.get(code, str(code))


def ports(p: Probe, count: int) -> list[int]:
    """The ports of so many connections that the target opens."""
    return [int(p.connecting()[1][TCP].sport) for _ in range(count)]


@P.check("§3.1", "the ports of connections that are opened cannot be told from those before", SHOULD)
def unpredictable(p: Probe) -> None:
    found = ports(p, 12)
    near = sum(abs(b - a) <= 8 for a, b in itertools.pairwise(found))
    p.require(near <= 3, f"the ports are {found}")


@P.check("§3.1", "no connection with the same host and port gets the port of another", MUST)
def distinct(p: Probe) -> None:
    p.needs_sockets()
    p.target.sysctl("net.ipv4.ip_local_port_range", (40000, 40015))
    flow = p.peer.flow(0)
    found: list[int] = []
    for _ in range(16):
        sock = p.socket()
        code = sock.raw.connect_ex((p.peer.ip, flow.sport))
        p.require(code == errno.EINPROGRESS, f"connect gives {_name(code)} after {sorted(found)}")
        found.append(sock.raw.getsockname()[1])
    p.require(len(set(found)) == 16, f"the ports are {sorted(found)}")
    code = p.socket().raw.connect_ex((p.peer.ip, flow.sport))
    p.require(code == errno.EADDRNOTAVAIL, f"when all are taken connect gives {_name(code)}")


@P.check("§3.2", "none is well known: they are 1024 or more", SHOULD)
def not_well_known(p: Probe) -> None:
    found = ports(p, 12)
    p.require(min(found) >= 1024, f"the ports are {found}")


@P.check(
    "§3.2",
    "as many as can be are chosen from: all of 1024 to 65535",
    SHOULD,
    because=dict.fromkeys(
        ("stack", "kernel"),
        "net.ipv4.ip_local_port_range is Linux's 32768 to 60999, so that services keep the ports below",
    ),
)
def whole_range(p: Probe) -> None:
    found = p.target.sysctl("net.ipv4.ip_local_port_range")
    low, high = (int(one) for one in (found.split() if isinstance(found, str) else found))
    p.require(high - low > 60000, f"they are from {low} to {high}")


# -- SYN floods


def flooded(p: Probe, backlog: int = 4, count: int = 40) -> Sock:
    """A listener with a small backlog that has just been given so many SYNs whose senders are silent."""
    listener = p.listen(96, backlog)
    flood(p, count)
    return listener


def flood(p: Probe, count: int) -> None:
    """So many SYNs whose senders are silent."""
    for _ in range(count):
        p.peer.flow(96).send("S", options=[("MSS", 1000), *stamp(START), ("WScale", 5)])
    p.peer.take(lambda packet: False, p.soon)


def through(p: Probe, listener: Sock, options: Options) -> tuple[Conn, Packet]:
    """A handshake during which the flood goes on -> the connection, and its SYN-ACK."""
    flow = p.peer.flow(96)
    flow.send("S", options=options)
    answer = flow.expect("SA", p.within(0.3), seq=ANY)
    if (stamps := option(answer, "Timestamp")) is not None:
        flow.options = stamp(START + 1, stamps[0])
    flood(p, 20)
    flow.send("A")
    p.peer.take(lambda packet: False, p.soon)
    return Conn(p, flow, p.accept(listener)), answer


@S.check("§3.6", "while SYNs flood a listener whose queue is full, a host that answers gets its connection", SHOULD)
def cookie(p: Probe) -> None:
    conn, _ = through(p, flooded(p), [("MSS", 1460)])
    conn.flow.send("PA", b"here I am")
    conn.flow.collect(p.within(0.3))
    conn.delivered(b"here I am")


@S.check("§3.6", "the MSS that it told is kept, about", SHOULD)
def cookie_mss(p: Probe) -> None:
    conn, _ = through(p, flooded(p), [("MSS", 700)])
    conn.send(bytes(3000))
    sizes = [len(payload(one)) for one in p.burst(conn.flow)]
    p.require(sizes and 500 <= max(sizes) <= 700, f"segments of {sizes} bytes came")


@S.check("§3.6", "window scale and SACK are kept where it has timestamps", MAY)
def cookie_options(p: Probe) -> None:
    wide: Options = [("MSS", 1000), ("NOP", None), ("NOP", None), ("SAckOK", b""), *stamp(START), ("WScale", 5)]
    conn, answer = through(p, flooded(p), wide)
    p.require(option(answer, "WScale") is not None, "the SYN-ACK has no window scale")
    p.require(option(answer, "SAckOK") is not None, "the SYN-ACK has no SACK-permitted")
    conn.flow.inject("A", win=2000)  # 64000 octets
    conn.send(bytes(20000))
    found = sum(len(payload(one)) for one in p.burst(conn.flow))
    p.require(found > 2000, f"{found} octets came into a window of 2000, scaled by 5")


@S.check("§3.6", "an acknowledgement that no SYN-ACK asked for opens nothing and is reset", MUST)
def cookie_forged(p: Probe) -> None:
    listener = flooded(p)
    flow = p.peer.flow(96)
    for guess in (0x12345678, 0xDEADBEEF, 1):
        flow.inject("A", ack=guess)
        p.reset(flow, seq=guess)
    try:
        p.accept(listener)
    except BUSY:
        return
    raise p.wrong("no connection")


@S.check("§3.6", "once the flood is over, an acknowledgement that no SYN-ACK asked for opens nothing either", MUST)
def cookie_unasked(p: Probe) -> None:
    listener = p.listen(96)
    flow = p.peer.flow(96)
    flow.inject("A", ack=0x12345678)
    p.reset(flow)
    p.require(not p.pending(listener), "a connection came to be")


@S.check("§3.2", "what a listener keeps of SYNs is bounded by its backlog", SHOULD)
def bounded(p: Probe) -> None:
    flooded(p, 4, 200)
    half_open = [one for one in p.target.connections() if "SYN" in _state(one) and "RECV" in _state(one)]
    p.require(len(half_open) <= 16, f"{len(half_open)} are half open, with a backlog of 4")


def _state(record: Any) -> str:
    found = record["state"] if isinstance(record, dict) else record.state
    return str(found).upper()


# -- ICMP

BEYOND = {"kernel": "SND.NXT, the number after the last that is in flight, is taken, too"}


@E.check(
    "§4.1",
    "an error that quotes a number which is not in flight does nothing, whatever it says",
    SHOULD,
    because=BEYOND,
)
def sequence_checked(p: Probe) -> None:
    conn, segment_ = in_flight(p)
    for offset in (-1, 9, 1 << 20, 1 << 31):
        fake: Any = segment_.copy()
        fake[TCP].seq = (segment_[TCP].seq + offset) % (1 << 32)
        for code in (2, 3, 4):
            icmp(p, fake, 3, code, **({"nexthopmtu": 600} if code == 4 else {}))
    p.require(conn.sock.error() == 0 and conn.state == "ESTABLISHED", "a blind error was believed")
    conn.flow.send("A")
    conn.send(bytes(1460))
    p.require(len(payload(conn.data())) == 1460, "a blind error made segments smaller")


@E.check("§4.1", "so while the connection is being opened: the number must be the SYN's", SHOULD, because=BEYOND)
def sequence_checked_opening(p: Probe) -> None:
    conn, syn = p.connecting()
    for offset in (1, -1, 1 << 20):
        fake: Any = syn.copy()
        fake[TCP].seq = (syn[TCP].seq + offset) % (1 << 32)
        icmp(p, fake, 3, 3)
    p.require(conn.sock.error() == 0, "a blind error ended the open")


@E.check("§5.2", "hard errors (protocol, port unreachable) do not end a connection that is established", SHOULD)
def hard_as_soft(p: Probe) -> None:
    conn, segment_ = in_flight(p)
    for code in (2, 3):
        icmp(p, segment_, 3, code)
        p.require(conn.state == "ESTABLISHED", f"code {code}: the connection is {conn.state}")
    conn.flow.send("A")
    conn.send(b"alive")
    conn.data(data=b"alive")


@E.check("§6.2", "source quench is ignored", MUST)
def quench(p: Probe) -> None:
    conn = p.established(win=65535)
    conn.send(bytes(60000))
    first = p.burst(conn.flow)
    for packet in first:
        icmp(p, packet, 4, 0)
    conn.flow.send("A")
    after = len(p.burst(conn.flow))
    p.require(after >= len(first), f"{len(first)} segments before it, {after} after it")


@E.check("§7.2", "the size is not lowered for a segment that was acknowledged", SHOULD)
def acknowledged(p: Probe) -> None:
    conn = p.established()
    conn.send(bytes(1460))
    first = conn.data()
    conn.flow.send("A")
    icmp(p, first, 3, 4, nexthopmtu=600)
    conn.send(bytes(1460))
    found = len(payload(conn.data()))
    p.require(found == 1460, f"a segment of {found} bytes came")


@E.check("§7.2", "a forged size cannot make segments absurdly small", SHOULD)
def least_size(p: Probe) -> None:
    conn = p.established()
    conn.send(bytes(1460))
    first = conn.data()
    icmp(p, first, 3, 4, nexthopmtu=68)
    found = len(payload(p.again(conn.flow, first[TCP].seq)))
    p.require(found >= 480, f"segments of {found} bytes came")


# -- TIME-WAIT


def time_wait(p: Probe, options: Options | None = None) -> Flow:
    """A conversation whose end at the target is in TIME-WAIT; the peer's clock stands at START."""
    conn = p.established(options)
    flow = conn.flow
    flow.options = [one for one in options or [] if one[0] in ("NOP", "Timestamp")]
    conn.sock.shutdown()
    flow.expect("FA", p.within(0.1))
    flow.send("FA")
    flow.expect("A")
    p.require(conn.state == "TIME-WAIT", f"the target says {conn.state}")
    conn.sock.close()
    return flow


ASSASSIN = {"kernel": "net.ipv4.tcp_rfc1337 is off"}


@A.check("§3", "a RST does not end TIME-WAIT", SHOULD, because=ASSASSIN)
def reset_ignored(p: Probe) -> None:
    flow = time_wait(p)
    flow.inject("R", seq=flow.snd, ack=0)
    p.wait(p.soon)
    p.require(p.state(flow) == "TIME-WAIT", f"it is {p.state(flow)}")


@A.check(
    "§3",
    "an old duplicate, the acknowledgement of it, and the RST that follows do not end it",
    SHOULD,
    because=ASSASSIN,
)
def assassination(p: Probe) -> None:
    flow = time_wait(p)
    flow.inject("PA", b"an old duplicate", seq=flow.snd - 17)
    answer = flow.next(p.within(0.3))
    if answer is None:
        raise p.wrong("an acknowledgement of the old duplicate")
    flow.inject("R", seq=answer[TCP].ack, ack=0)
    p.wait(p.soon)
    p.require(p.state(flow) == "TIME-WAIT", f"it is {p.state(flow)}")


@A.check("§2", "an old duplicate of data in TIME-WAIT is delivered to no connection that follows (H1)", MUST)
def old_data(p: Probe) -> None:
    flow = time_wait(p)
    old = flow.snd - 6
    flow.snd += 100_000
    flow.send("S", options=[("MSS", 1460)])
    flow.expect("SA", p.within(0.3), seq=ANY)
    flow.send("A")
    sock = p.accept()
    flow.inject("PA", b"stale", seq=old)
    flow.collect(p.soon)
    flow.send("PA", b"fresh")
    flow.collect(p.within(0.3))
    p.require(sock.recv() == b"fresh", "old data was delivered")


# RFC 6191 §2: what a SYN for a connection in TIME-WAIT must have


@R.check("§2", "a SYN with a later timestamp opens the connection anew, whatever its number is", SHOULD)
def later(p: Probe) -> None:
    flow = time_wait(p, STAMPED)
    flow.snd -= 50_000
    flow.send("S", options=[("MSS", 1460), *stamp(START + 10)])
    flow.expect("SA", p.within(0.3), seq=ANY)


@R.check("§2", "one with the same timestamp does if its number is above the old ones", SHOULD)
def same(p: Probe) -> None:
    flow = time_wait(p, STAMPED)
    flow.snd += 50_000
    flow.send("S", options=[("MSS", 1460), *stamp(START)])
    flow.expect("SA", p.within(0.3), seq=ANY)


@R.check("§2", "and does not if it is below them", SHOULD)
def same_below(p: Probe) -> None:
    _refused(p, time_wait(p, STAMPED), -50_000, [("MSS", 1460), *stamp(START)])


@R.check("§2", "one with an earlier timestamp does not, whatever its number is", SHOULD)
def earlier(p: Probe) -> None:
    _refused(p, time_wait(p, STAMPED), 50_000, [("MSS", 1460), *stamp(START - 10)])


def _refused(p: Probe, flow: Flow, offset: int, options: Options) -> None:
    flow.inject("S", seq=flow.snd + offset, options=options)
    found = flow.next(p.within(0.1))
    p.require(found is None or "S" not in str(found[TCP].flags), "it is answered by a SYN-ACK")
    p.require(p.state(flow) == "TIME-WAIT", f"TIME-WAIT has become {p.state(flow)}")


@R.check("§2", "one without timestamps does if its number is above the old ones", MAY)
def without(p: Probe) -> None:
    flow = time_wait(p)
    flow.snd += 50_000
    flow.send("S", options=[("MSS", 1460)])
    flow.expect("SA", p.within(0.3), seq=ANY)


@R.check("§2", "and does not if it is below them", SHOULD)
def without_below(p: Probe) -> None:
    _refused(p, time_wait(p), -50_000, [("MSS", 1460)])


@R.check("§2", "the new connection's numbers begin above those of the old one", MUST)
def numbers_above(p: Probe) -> None:
    flow = time_wait(p, STAMPED)
    old = flow.rcv
    flow.snd += 50_000
    flow.send("S", options=[("MSS", 1460), *stamp(START + 10)])
    answer = flow.expect("SA", p.within(0.3), seq=ANY)
    p.require(segment.seq_diff(answer[TCP].seq, old) > 0, "they begin below")


@R.check("§3", "a connection of the target's own does not take a pair of sockets in TIME-WAIT at once", MUST)
def own_at_once(p: Probe) -> None:
    conn = p.connected([("MSS", 1460), *stamp(START)])
    flow = conn.flow
    flow.options = stamp(START)
    port = flow.dport
    conn.sock.shutdown()
    flow.expect("FA", p.within(0.1))
    flow.send("FA")
    flow.expect("A")
    conn.sock.close()
    p.target.sysctl("net.ipv4.ip_local_port_range", (port, port))
    sock = p.socket()
    code = sock.raw.connect_ex((p.peer.ip, flow.sport))
    p.require(code == errno.EADDRNOTAVAIL, f"connect gives {_name(code)}")
