"""RFC 9293: options, checksum, initial sequence numbers, opening (§3.1, §3.2, §3.4.1, §3.5, §3.7.1, §3.9.1.1)."""

from __future__ import annotations

import errno
import itertools
import socket

from scapy.layers.inet import IP, TCP

from tap_harness import segment
from tap_harness.conformance.probe import PORT, Probe, Sock, option
from tap_harness.conformance.registry import document
from tap_harness.diff import ANY
from tap_harness.flow import Flow, Options
from tap_harness.packets import payload, valid

R = document("9293", "Transmission Control Protocol")
MSS_1460 = b"\x02\x04\x05\xb4"
TIMESTAMPS: Options = [("MSS", 1460), ("NOP", None), ("NOP", None), ("Timestamp", (1000, 0))]


def raw_options(flow: Flow, flags: str, options: bytes, data: bytes = b"") -> None:
    """Send the next segment of a conversation with option bytes that no library would write."""
    flow.inject(flags, options + data, dataofs=5 + len(options) // 4)
    flow.snd = (flow.snd + len(data) + ("S" in flags)) % segment.MODULUS


def sizes(p: Probe, options: Options | None) -> int:
    """The largest segment in what the target sends at once on a connection whose SYN had these options."""
    conn = p.established(options, talks=True)
    conn.send(bytes(4000))
    found = [len(payload(packet)) for packet in p.burst(conn.flow, p.within(0.1))]
    p.require(found, "no data came")
    return max(found)


# -- options


@R.check("MUST-4", "End of Option List, No-Operation and Maximum Segment Size are understood")
def basic_options(p: Probe) -> None:
    flow = p.flow()
    raw_options(flow, "S", b"\x01\x01" + b"\x02\x04\x02\xbc" + b"\x00\x00")
    flow.expect("SA", seq=ANY)


@R.check("MUST-5", "an option is taken in any segment")
def options_anywhere(p: Probe) -> None:
    conn = p.established(talks=True)
    flow = conn.flow
    raw_options(flow, "PA", b"\xfd\x04ab", b"one")
    flow.collect(p.soon)
    raw_options(flow, "PA", b"\x01\x01\x01\x01", b"two")
    flow.collect(p.soon)
    if p.target.name != "remote":
        conn.delivered(b"onetwo")


@R.check("MUST-6", "an unknown option is passed over by its length")
def unknown_option(p: Probe) -> None:
    flow = p.flow()
    raw_options(flow, "S", b"\xfd\x06abcd" + b"\x01\x01" + b"\x02\x04\x02\xbc")
    flow.expect("SA", seq=ANY)
    flow.send("A")


@R.check("MUST-7", "an option with an impossible length does no harm")
def illegal_lengths(p: Probe) -> None:
    for wrong in (
        b"\xfd\x00\x01\x01",
        b"\xfd\x01\x01\x01",
        b"\x02\x28\x05\xb4",
        b"\x01\x01\x01\x02",
        b"\x02\x04\x05\x02\xfd",
    ):
        padded = wrong + b"\x01" * (-len(wrong) % 4)
        raw_options(p.flow(), "S", padded)
        p.peer.discard(p.soon)
    conn = p.established()
    raw_options(conn.flow, "PA", b"\xfd\x00\x01\x01", b"x")
    conn.flow.collect(p.soon)
    p.established()


@R.check("MUST-14", "the MSS option is sent and received")
def mss_both_ways(p: Probe) -> None:
    flow = p.flow()
    flow.send("S", options=[("MSS", 700)])
    answer = flow.expect("SA", seq=ANY)
    p.require(option(answer, "MSS") is not None, "the SYN-ACK has no MSS option")
    p.require(sizes(p, [("MSS", 700)]) == 700, "segments are not as large as the MSS option says")


@R.check("SHLD-5", "an MSS option is in every SYN whose receive MSS is not the default")
def mss_in_syn(p: Probe) -> None:
    _, syn = p.connecting()
    p.require(option(syn, "MSS") is not None, "the SYN has no MSS option")


@R.check("MAY-3", "an MSS option is in every SYN")
def mss_always(p: Probe) -> None:
    flow = p.flow()
    flow.send("S", options=[])
    p.require(option(flow.expect("SA", seq=ANY), "MSS") is not None, "the SYN-ACK has no MSS option")


@R.check("MUST-15", "without an MSS option segments carry at most 536 bytes")
def default_mss(p: Probe) -> None:
    most = 1220 if p.peer.six else 536
    p.require(sizes(p, []) <= most, f"segments are larger than {most} bytes")


@R.check("MUST-16", "the effective MSS is the smallest of the peer's and the path's, less the options")
def effective_mss(p: Probe) -> None:
    conn = p.established(TIMESTAMPS, talks=True)
    conn.flow.options = TIMESTAMPS[1:]
    conn.send(bytes(4000))
    largest = max(len(payload(packet)) for packet in p.burst(conn.flow, p.within(0.1)))
    p.require(largest == 1448, f"the largest segment has {largest} bytes, not 1460 - 12")
    p.require(sizes(p, [("MSS", 9000)]) <= 1460, "segments are larger than the path takes")


@R.check("SHLD-6", "the MSS option says what the MTU of the interface allows")
def mss_of_mtu(p: Probe) -> None:
    flow = p.flow()
    flow.send("S", options=[("MSS", 1460)])
    found = option(flow.expect("SA", seq=ANY), "MSS")
    p.require(found == 1460, f"an interface with an MTU of 1500 announces {found}")


@R.check("MUST-64", "options may begin at any octet")
def unaligned_options(p: Probe) -> None:
    for before in range(4):
        flow = p.flow()
        raw_options(flow, "S", (b"\x01" * before + b"\x02\x04\x02\xbc").ljust(8, b"\x01"))
        flow.expect("SA", seq=ANY)
        flow.reset()
    conn = p.established(TIMESTAMPS)
    raw_options(conn.flow, "PA", b"\x01\x08\x0a\x00\x00\x03\xe9\x00\x00\x00\x00\x01", b"x")
    conn.flow.collect(p.soon)
    if p.target.name != "remote":
        conn.delivered(b"x")


@R.check("MUST-65", "the MSS option is for SYN segments only: one elsewhere is not sent, and not acted upon")
def mss_outside_syn(p: Probe) -> None:
    conn = p.established(talks=True)
    raw_options(conn.flow, "PA", b"\x02\x04\x01\x00", b"x")
    conn.flow.collect(p.soon)
    conn.send(bytes(1400))
    first = conn.data()
    p.require(option(first, "MSS") is None, "a data segment has an MSS option")
    p.require(len(payload(first)) > 256, "an MSS option in a data segment was obeyed")


@R.check("MUST-67", "the MSS that is announced is not reduced for options (RFC 6691)")
def mss_not_reduced(p: Probe) -> None:
    flow = p.flow()
    flow.send("S", options=TIMESTAMPS)
    p.require(option(flow.expect("SA", seq=ANY), "MSS") == 1460, "the MSS is not MTU - 40")


@R.check("MUST-68", "every option but EOL and NOP has a length octet")
def lengths_in_options(p: Probe) -> None:
    flow = p.flow()
    flow.send("S", options=[*TIMESTAMPS, ("SAckOK", b""), ("NOP", None), ("WScale", 3)])
    raw = segment.parse(bytes(flow.expect("SA", seq=ANY)))
    assert raw is not None
    at = 0
    while at < len(raw.options) and raw.options[at] != 0:
        if raw.options[at] == 1:
            at += 1
            continue
        p.require(at + 1 < len(raw.options) and raw.options[at + 1] >= 2, f"option {raw.options[at]} has no length")
        at += raw.options[at + 1]
    p.require(at <= len(raw.options), "the last option goes beyond the header")


@R.check("MUST-69", "the header is padded with zeros")
def padding(p: Probe) -> None:
    flow = p.flow()
    flow.send("S", options=[("MSS", 1460), ("WScale", 3)])
    raw = segment.parse(bytes(flow.expect("SA", seq=ANY)))
    assert raw is not None
    at = 0
    while at < len(raw.options) and raw.options[at] != 0:
        at += 1 if raw.options[at] == 1 else raw.options[at + 1]
    p.require(not any(raw.options[at:]), "there is something after the end of the option list")


# -- checksum


@R.check("MUST-2", "the checksum of every segment sent is right")
def checksum_sent(p: Probe) -> None:
    conn = p.established(talks=True)
    for size in (1, 2, 3, 255, 1460):
        conn.send(bytes(range(256)) * 5 + bytes(180) if size == 1460 else bytes(range(size)))
        packet = conn.data()
        p.require(valid(packet), f"the checksum of a segment with {size} bytes is wrong")
        conn.flow.collect(p.soon)
        conn.flow.send("A")


@R.check("MUST-3", "a segment with a wrong checksum is dropped")
def checksum_verified(p: Probe) -> None:
    flow = p.flow()
    right = IP(bytes(flow.build("S")))
    for wrong in (right[TCP].chksum ^ 1, right[TCP].chksum ^ 0x8000, 0, 0xFFFF):
        if wrong != right[TCP].chksum:
            flow.inject("S", chksum=wrong)
            p.silent(flow)
    conn = p.established()
    data = IP(bytes(conn.flow.build("PA", b"odd")))
    conn.flow.inject("PA", b"ode", chksum=data[TCP].chksum)
    p.silent(conn.flow, p.within(0.3))
    other = IP(bytes(data))
    other.src = p.target.other_address  # the pseudo-header is part of it
    del other[IP].chksum
    p.peer.send(IP(bytes(other)))
    p.silent(conn.flow)


# -- initial sequence numbers


def numbers_of_one_pair(p: Probe, sport: int, count: int, pause: float) -> list[tuple[float, int]]:
    """(when, the target's initial sequence number) of so many connections between one pair of sockets."""
    found = []
    for _ in range(count):
        flow = p.peer.flow(p.flow().dport, sport=sport)
        flow.send("S")
        flow.expect("SA", seq=ANY)
        found.append((p.now(), flow.irs))
        flow.send("A")
        flow.reset()
        p.wait(pause)
    return found


@R.check("MUST-8", "initial sequence numbers follow a clock")
def isn_clock(p: Probe) -> None:
    found = [number for _, number in numbers_of_one_pair(p, 39001, 4, 0.2)]
    steps = [segment.seq_diff(b, a) for a, b in itertools.pairwise(found)]
    p.require(all(step > 0 for step in steps), f"between connections of one pair of sockets it moved by {steps}")


@R.check("SHLD-1", "initial sequence numbers of other pairs of sockets cannot be told from one's own (RFC 6528)")
def isn_unpredictable(p: Probe) -> None:
    found = []
    for _ in range(24):
        flow = p.flow()
        flow.send("S")
        flow.expect("SA", seq=ANY)
        found.append(flow.irs)
        flow.send("A")
        flow.reset()
    near = sum(abs(segment.seq_diff(b, a)) < 1 << 24 for a, b in itertools.pairwise(found))
    p.require(near < 4, f"{near} of 23 are near the one before")


R.not_applicable(
    "MUST-9",
    "the function behind the initial sequence numbers cannot be computed from outside",
    "no number of answers proves it; SHLD-1 shows that the numbers of different pairs of sockets are unrelated",
)

# -- opening


@R.check("MUST-10", "a simultaneous open makes one connection")
def simultaneous_open(p: Probe) -> None:
    conn, _ = p.connecting()
    flow = conn.flow
    flow.send("S", options=[("MSS", 1460)], ack=0)
    flow.expect("SA", seq=flow.rcv - 1, ack=flow.snd)
    flow.send("SA", seq=flow.snd - 1)
    flow.snd -= 1
    flow.collect(p.soon)
    p.require(conn.state == "ESTABLISHED", f"the state is {conn.state}")
    flow.send("PA", b"hello")
    flow.collect(p.soon)
    conn.delivered(b"hello")


@R.check(
    "MUST-11",
    "SYN-RECEIVED remembers whether the open was passive (back to LISTEN) or active (refused)",
    because={"kernel": "a RST after a simultaneous open is reported as ECONNRESET, not as ECONNREFUSED"},
)
def origin_remembered(p: Probe) -> None:
    flow = p.flow()
    flow.send("S")
    flow.expect("SA", seq=ANY)
    flow.reset()
    p.silent(flow)
    p.established()  # the listener is still there
    conn, _ = p.connecting()
    conn.flow.send("S")
    conn.flow.expect("SA", seq=ANY)
    conn.flow.reset()
    got = conn.sock.error()
    p.require(got == errno.ECONNREFUSED, f"the application is told {errno.errorcode.get(got, got)}")


@R.check("MUST-41", "a passive open does not touch connections that exist")
def passive_open_harmless(p: Probe) -> None:
    conn = p.established()
    p.listen(PORT + 1)
    conn.flow.send("PA", b"still here")
    conn.flow.collect(p.soon)
    conn.delivered(b"still here")


def _reuse(sock: Sock, port: int) -> None:
    sock.option(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.raw.bind(("", port))


@R.check("MUST-42", "one can listen on a port while a connection from it is being opened")
def listen_beside_open(p: Probe) -> None:
    conn, _ = p.connecting(lambda sock: _reuse(sock, 5555))
    listener = p.socket()
    _reuse(listener, 5555)
    listener.raw.listen(1)
    other = p.peer.flow(5555)
    other.handshake()
    p.require(conn.flow.dport == 5555, "the connection has another port")
    p.require(p.pending(listener), "the listener got nothing")


@R.check("MUST-43", "the local address can be given when opening")
def local_address(p: Probe) -> None:
    _, syn = p.connecting(lambda sock: sock.raw.bind((p.target.address, 0)))
    p.require(syn[IP].src == p.target.address, f"the SYN comes from {syn[IP].src}")


@R.check("MUST-44", "without one, IP chooses the local address")
def chosen_address(p: Probe) -> None:
    conn, syn = p.connecting()
    p.require(syn[IP].src == p.target.address, f"the SYN comes from {syn[IP].src}")
    p.require(conn.sock.raw.getsockname()[0] == p.target.address, "getsockname says something else")


@R.check("MUST-45", "a connection keeps its local address")
def address_kept(p: Probe) -> None:
    conn = p.connected()
    for _ in range(3):
        conn.send(b"x")
        packet = conn.data()
        p.require(packet[IP].src == p.target.address, f"a segment comes from {packet[IP].src}")
        conn.flow.send("A")


@R.check("MUST-46", "an open to a broadcast or multicast address is refused")
def open_to_nobody(p: Probe) -> None:
    for address in ("255.255.255.255", "224.0.0.5", "10.9.0.255"):
        code = p.socket().raw.connect_ex((address, 80))
        p.target.pump()
        p.require(code not in (0, errno.EINPROGRESS), f"connect to {address} is taken")


@R.check("MUST-57", "a SYN to a broadcast or multicast address is dropped without a word")
def syn_to_all(p: Probe) -> None:
    port = p.flow().dport
    for address, mac in (
        ("255.255.255.255", "ff:ff:ff:ff:ff:ff"),
        ("224.0.0.1", "01:00:5e:00:00:01"),
        (".".join([*p.target.address.split(".")[:3], "255"]), "ff:ff:ff:ff:ff:ff"),
    ):
        for to in (port, 9):
            flow = p.peer.flow(to)
            _frame_to(p, flow, address, mac)
            p.silent(flow)


def _frame_to(p: Probe, flow: Flow, address: str, mac: str) -> None:
    from scapy.layers.l2 import Ether

    packet = p.peer.ip_header(dst=address) / TCP(sport=flow.sport, dport=flow.dport, flags="S", seq=1)
    p.peer.send_ether(Ether(src=p.peer.mac, dst=mac) / packet)


@R.check("MUST-63", "a SYN from a broadcast, multicast or unspecified address is ignored")
def syn_from_all(p: Probe) -> None:
    port = p.flow().dport
    for source in ("255.255.255.255", "224.0.0.5", "0.0.0.0", "127.0.0.1"):
        p.peer.send(IP(src=source, dst=p.target.address) / TCP(sport=4000, dport=port, flags="S", seq=1))
        got = p.peer.take(lambda packet: TCP in packet and packet[TCP].dport == 4000, p.soon)
        if got is not None:
            raise p.wrong(f"no answer to {source}", got)


@R.check("MUST-44", "an answer comes from the address that was asked")
def answer_from_asked(p: Probe) -> None:
    flow = p.flow()
    flow.send("S")
    p.require(flow.expect("SA", seq=ANY)[IP].src == p.target.address, "the SYN-ACK has another source")


# -- what the SYN-ACK must not be fooled by


@R.check("MUST-22", "a SYN that is not answered is sent again", takes=8)
def syn_again(p: Probe) -> None:
    conn, first = p.connecting()
    begin = p.now()
    again = conn.flow.expect("S", p.within(4), seq=first[TCP].seq, ack=ANY)
    p.require(p.close_to(p.now() - begin, 1.0, 0.2), f"the second SYN came after {p.now() - begin:.2f} s")
    p.require(again[TCP].seq == first[TCP].seq, "the second SYN has another sequence number")
