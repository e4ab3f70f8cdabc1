"""Segments that arrive together are joined before TCP sees them (engine/gro): when, when not, and nothing else changes.

The stack's link is a Callback: receive_many() is one batch. A peer that puts an IP option (no-operations, RFC 791; over
IPv6 a header of padding, RFC 8200 §4.6) into its packets says the same to TCP, but is never joined: with it the stack
runs as it would without.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

import ustack
from tap_harness.md5sig import TCP_MD5SIG, md5sig

OURS = {4: bytes([10, 0, 0, 2]), 6: b"\xfd" + bytes(14) + b"\2"}
THEIRS = {family: address[:-1] + b"\1" for family, address in OURS.items()}
DSTOPTS, TCP = 60, 6
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << i for i in range(8))
ISS = 0xFFFFF000  # the sequence numbers wrap within a transfer
NEXT = ISS + 1
MS = 1_000_000
SYN_OPTIONS = bytes.fromhex("020405b4 0402 080a 00000064 00000000 01030307")


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Peer:
    """A scripted host at the other end of a stack's link."""

    def __init__(self, *, joinable: bool = True, mtu: int = 1520, family: int = 4, **options: Any) -> None:
        self.family = family
        self.stack = ustack.Stack(driver="manual", seed=bytes(32), **options)
        self.came: list[bytes] = []
        self.link = ustack.Callback(self.came.append, medium="ip", mtu=mtu)
        self.stack.attach(self.link, addresses=["10.0.0.2/24", "fd00::2/64"])
        self.ip_options = b"" if joinable else b"\1\1\1\1" if family == 4 else bytes([TCP, 0, 1, 4, 0, 0, 0, 0])
        self.now = MS
        self.stack.poll(self.now)
        self.listener = self.stack.create_server(
            ("", 80), backlog=64, family=ustack.AF_INET if family == 4 else ustack.AF_INET6
        )
        self.listener.setblocking(False)
        self.iss: dict[int, int] = {}

    def packet(self, seq: int, data: bytes = b"", **fields: Any) -> bytes:
        """A TCP segment off the wire. Fields: flags, ack, wnd, tsval, options, ttl, tos, df (IPv6: False is
        another flow label), port, broken."""
        got = fields.get
        port = got("port", 4000)
        flags = got("flags", ACK)
        options = got("options")
        if options is None:
            options = b"\1\1\x08\x0a" + struct.pack(">II", got("tsval", 100), 0)
        ack = got("ack", self.iss.get(port, 0) + 1 if flags & ACK else 0)
        head = struct.pack(
            ">HHIIBBHHH", port, 80, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, (5 + len(options) // 4) << 4, flags,
            got("wnd", 1000), 0, 0,
        )  # fmt: skip
        tcp = head + options + data
        theirs, ours = THEIRS[self.family], OURS[self.family]
        value = checksum(theirs + ours + struct.pack(">HH", TCP, len(tcp)) + tcp) ^ got("broken", 0)
        tcp = tcp[:16] + struct.pack(">H", value) + tcp[18:]
        if self.family == 6:
            first = 6 << 28 | got("tos", 0) << 20 | (0x12345 if got("df", True) else 0x12346)
            upper = self.ip_options + tcp
            proto = DSTOPTS if self.ip_options else TCP
            return struct.pack(">IHBB", first, len(upper), proto, got("ttl", 64)) + theirs + ours + upper
        ip = struct.pack(
            ">BBHHHBBH", 0x45 + len(self.ip_options) // 4, got("tos", 0), 20 + len(self.ip_options) + len(tcp), 0,
            0x4000 if got("df", True) else 0, got("ttl", 64), 6, 0,
        )  # fmt: skip
        ip += theirs + ours + self.ip_options
        return ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:] + tcp

    def connect(self, port: int = 4000) -> ustack.Socket:
        self.link.receive(self.packet(ISS, flags=SYN, options=SYN_OPTIONS, port=port))
        self.iss[port] = struct.unpack(">I", self.sent()[-1][4:8])[0]
        self.link.receive(self.packet(NEXT, port=port))
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        self.came.clear()
        return sock

    def wait(self, ms: int) -> None:
        self.now += ms * MS
        while (deadline := self.stack.next_deadline()) is not None and deadline <= self.now:
            self.stack.poll(deadline)
        self.stack.poll(self.now)

    def sent(self) -> list[bytes]:
        """The segments that the stack has sent."""
        found = [packet[20 if self.family == 4 else 40 :] for packet in self.came if packet[0] >> 4 == self.family]
        self.came.clear()
        return found

    def acks(self) -> list[int]:
        """The acknowledgement numbers of what the stack sent, from the stream's beginning."""
        return [struct.unpack(">I", segment[8:12])[0] - NEXT & 0xFFFFFFFF for segment in self.sent()]

    def close(self) -> None:
        self.listener.close()
        self.stack.close()
        assert not self.stack.live()["buffers"]
        del self.stack, self.link, self.listener


def read(sock: ustack.Socket) -> bytes:
    """What there is now."""
    found = b""
    try:
        while piece := sock.recv(1 << 20):
            found += piece
    except BlockingIOError:
        pass
    return found


def pattern(start: int, end: int) -> bytes:
    return bytes((i * 7 + (i >> 8)) & 0xFF for i in range(start, end))


@pytest.fixture(params=[4, 6])
def peer(request: pytest.FixtureRequest) -> Any:
    made = Peer(family=request.param)
    yield made
    made.close()


def segments(peer: Peer, *ends: int, start: int = 0, **fields: Any) -> list[bytes]:
    """Consecutive segments that end at these offsets."""
    return [peer.packet(NEXT + a, pattern(a, b), **fields) for a, b in zip([start, *ends[:-1]], ends, strict=True)]


def merged(peer: Peer) -> int:
    return peer.stack.counters()["TCPGroMerged"]


def test_a_run_of_segments_is_taken_in_at_once(peer: Peer) -> None:
    sock = peer.connect()
    before = peer.stack.counters()
    assert peer.link.receive_many(segments(peer, *range(1448, 1448 * 11, 1448))) == 10
    after = peer.stack.counters()
    assert merged(peer) == 9
    ip = "Ip" if peer.family == 4 else "Ip6"
    assert [after[name] - before[name] for name in ("TcpInSegs", f"{ip}InReceives", f"{ip}InDelivers")] == [10, 10, 10]
    # without timestamps a segment would be larger
    assert after[f"{ip}InOctets"] - before[f"{ip}InOctets"] == 10 * len(segments(peer, 1448)[0])
    assert peer.acks() == [14480]
    assert read(sock) == pattern(0, 14480)
    assert next(one for one in peer.stack.interfaces() if one.name != "lo").rx_packets == 12
    sock.close()


def test_segments_of_any_length_join(peer: Peer) -> None:
    sock = peer.connect()
    peer.link.receive_many(segments(peer, 1, 1449, 1450, 1950, 3398, 3400))
    assert merged(peer) == 5
    assert read(sock) == pattern(0, 3400)
    sock.close()


def test_push_and_the_end_of_the_batch_end_a_packet(peer: Peer) -> None:
    sock = peer.connect()
    batch = segments(peer, 100, 200) + segments(peer, 300, start=200, flags=ACK | PSH) + segments(peer, 400, start=300)
    peer.link.receive_many(batch)
    assert merged(peer) == 2
    assert read(sock) == pattern(0, 400)
    peer.link.receive_many(segments(peer, 500, start=400))
    assert merged(peer) == 2
    assert read(sock) == pattern(400, 500)
    sock.close()


@pytest.mark.parametrize(
    ("fields", "taken"),
    [
        ({"wnd": 999}, True),
        ({"ttl": 63}, True),
        ({"tos": 4}, True),
        ({"df": False}, True),
        ({"tsval": 101}, True),
        ({"tsval": 99}, False),  # PAWS
        ({"options": b""}, False),  # RFC 7323 §3.2
        ({"options": b"\x08\x0a" + struct.pack(">II", 100, 0) + b"\1\1"}, True),
        ({"options": b"\1\1\x08\x0a" + struct.pack(">II", 100, 0) + b"\1\1\1\1"}, True),
        ({"flags": ACK | URG}, True),
        ({"flags": ACK | ECE}, True),
        ({"flags": ACK | CWR}, True),
        ({"flags": ACK | FIN}, True),
        ({"flags": 0, "ack": 0}, False),
        ({"flags": 0x10 | 0x02}, False),
        ({"broken": 1}, False),
    ],
    ids=str,
)
def test_only_what_differs_in_nothing_is_joined(peer: Peer, fields: dict[str, Any], taken: bool) -> None:
    """And in whatever way it differs, it is behind what came before it."""
    sock = peer.connect()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)  # urgent data, too, is where it stands
    peer.link.receive_many(segments(peer, 100, 200) + segments(peer, 300, start=200, **fields))
    assert merged(peer) == (2 if fields == {"tsval": 101} else 1)
    assert read(sock) == pattern(0, 300 if taken else 200)
    sock.close()
    peer.wait(130_000)


def damaged(packet: bytes, at: int, value: int, *, right: bool = True) -> bytes:
    """The packet with another byte in its IP header; right: and the checksum that belongs to it."""
    if packet[0] >> 4 == 6:
        return packet[:at] + bytes([value]) + packet[at + 1 :]
    header = bytearray(packet[:20])
    header[at] = value
    if right:
        header[10:12] = b"\0\0"
        header[10:12] = struct.pack(">H", checksum(bytes(header)))
    return bytes(header) + packet[20:]


@pytest.mark.parametrize(
    ("family", "at", "value", "right", "reason"),
    [
        (4, 11, 0xA5, False, "DropIpChecksum"),
        (4, 0, 0x75, True, "DropIpVersion"),
        (4, 0, 0x44, True, "DropIpHeader"),
        (4, 2, 0x7F, True, "DropIpTruncated"),
        (4, 9, 99, True, "DropIpUnknownProtocol"),
        (4, 12, 224, True, "DropIpMartianSource"),
        (4, 19, 99, True, "DropIpNotOurs"),
        (6, 0, 0x75, True, "DropIpVersion"),
        (6, 4, 0x7F, True, "DropIpTruncated"),
        (6, 6, 99, True, "DropIpUnknownProtocol"),
        (6, 6, 59, True, "DropIp6NoNextHeader"),
        (6, 8, 0xFF, True, "DropIp6Martian"),
        (6, 39, 99, True, "DropIpNotOurs"),
    ],
    ids=str,
)
def test_a_bad_ip_header_within_a_run_is_seen(family: int, at: int, value: int, right: bool, reason: str) -> None:
    peer = Peer(family=family)
    sock = peer.connect()
    batch = segments(peer, 100, 200, 300)
    batch[2] = damaged(batch[2], at, value, right=right)
    peer.link.receive_many(batch)
    assert peer.stack.counters()[reason] == 1
    assert merged(peer) == 1
    assert read(sock) == pattern(0, 200)
    sock.close()
    peer.close()


def test_a_fragment_within_a_run_is_none_of_it(peer: Peer) -> None:
    sock = peer.connect()
    batch = segments(peer, 100, 200, 304 - 32)
    if peer.family == 4:
        batch[2] = damaged(batch[2], 6, 0x20)  # more fragments follow
    else:
        packet = batch[2] + bytes(-len(batch[2]) % 8)
        head = packet[:4] + struct.pack(">HBB", len(packet) - 40 + 8, 44, 64) + packet[8:40]
        batch[2] = head + bytes([TCP, 0, 0, 1, 0, 0, 0, 9]) + packet[40:]
    peer.link.receive_many(batch)
    assert peer.stack.counters()["IpReasmReqds" if peer.family == 4 else "Ip6ReasmReqds"] == 1
    assert read(sock) == pattern(0, 200)
    sock.close()
    peer.wait(60_000)


def test_what_stands_before_tcp_keeps_a_segment_out_of_a_run(peer: Peer) -> None:
    """An option, or over IPv6 another header: between segments that have none it is taken, and not joined."""
    sock = peer.connect()
    batch = segments(peer, 100, 200, 300, 400)
    peer.ip_options = b"\1\1\1\1" if peer.family == 4 else bytes([TCP, 0, 1, 4, 0, 0, 0, 0])
    batch[1] = segments(peer, 200, start=100)[0]
    peer.link.receive_many(batch)
    assert merged(peer) == 1  # the third and the fourth
    assert read(sock) == pattern(0, 400)
    sock.close()


def test_padding_is_no_payload(peer: Peer) -> None:
    sock = peer.connect()
    peer.link.receive_many([packet + b"padding" for packet in segments(peer, 1, 2, 3, 500)])
    assert merged(peer) == 3
    assert read(sock) == pattern(0, 500)
    sock.close()


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ("020000000002 020000000001 0800", None),
        ("020000000003 020000000001 0800", "DropEthNotOurs"),
        ("020000000002 030000000001 0800", "DropEthSource"),
        ("ffffffffffff 020000000001 0800", "DropIpMartianDestination"),
        ("020000000002 020000000001 0806", "DropArpMalformed"),
        ("020000000002 020000000001 86dd", "DropIpVersion"),
    ],
)
def test_a_link_header_within_a_run_is_looked_at(link: str, reason: str | None) -> None:
    good = bytes.fromhex("020000000002 020000000001 0800")
    peer = Peer()
    wire = ustack.Callback(lambda _frame: None, medium="ethernet", mac=good[:6])
    peer.stack.detach(peer.link)
    peer.stack.attach(wire, addresses=["10.0.0.2/24"])
    peer.stack.add_neighbor(
        next(one.name for one in peer.stack.interfaces() if one.name != "lo"), "10.0.0.1", good[6:12]
    )
    before = peer.stack.counters()
    batch = [good + packet for packet in segments(peer, 100, 200, 300)]
    batch[2] = bytes.fromhex(link) + batch[2][14:]
    wire.receive_many(batch)
    after = peer.stack.counters()
    grown = {name for name in after if after[name] > before[name] and name.startswith(("DropEth", "DropArp", "DropIp"))}
    assert grown == ({reason} if reason else set())
    assert after["TCPGroMerged"] == (2 if reason is None else 1)
    peer.close()


def test_a_reset_is_behind_the_data(peer: Peer) -> None:
    """Its sequence number is right only if all that came before it was taken in."""
    sock = peer.connect()
    peer.link.receive_many([*segments(peer, 100, 200), peer.packet(NEXT + 200, flags=RST | ACK)])
    with pytest.raises(ConnectionResetError):
        while True:
            sock.recv(1000)
    sock.close()


def test_a_pure_acknowledgement_is_behind_the_data(peer: Peer) -> None:
    sock = peer.connect()
    sock.send(b"question")
    answer = segments(peer, 100, 200)
    peer.link.receive_many([*answer, peer.packet(NEXT + 200, ack=peer.iss[4000] + 9)])
    assert peer.stack.counters()["DropTcpOutOfWindow"] == 0
    assert merged(peer) == 1
    assert read(sock) == pattern(0, 200)
    sock.close()


def test_flows_do_not_mix_and_the_oldest_of_too_many_goes(peer: Peer) -> None:
    ports = range(4000, 4009)
    socks = [peer.connect(port) for port in ports]
    firsts = [segments(peer, 100, port=port)[0] for port in ports]
    seconds = [segments(peer, 200, start=100, port=port)[0] for port in ports]
    peer.link.receive_many(firsts[:8] + seconds[:8])
    assert merged(peer) == 8
    peer.link.receive_many([segments(peer, 300, start=200, port=port)[0] for port in ports[:8]] + [firsts[8]])
    peer.link.receive_many([seconds[8]])
    third = [segments(peer, 400, start=300, port=port)[0] for port in ports[:8]]
    ninth = segments(peer, 300, start=200, port=ports[8])
    fourth = [segments(peer, 500, start=400, port=port)[0] for port in ports[:8]]
    peer.link.receive_many([*third, *ninth, *fourth])
    # the ninth flow pushed out the first, whose next pushed out the second, and so on: none was joined
    assert merged(peer) == 8
    for sock in socks[:8]:
        assert read(sock) == pattern(0, 500)
    assert read(socks[8]) == pattern(0, 300)
    for sock in socks:
        sock.close()


@pytest.mark.parametrize("family", [4, 6])
def test_a_packet_has_64_kilobytes_at_most(family: int) -> None:
    peer = Peer(mtu=9000, family=family)
    peer.listener.setsockopt(1, 8, 1 << 20)
    sock = peer.connect()
    peer.link.receive(segments(peer, 8900)[0])  # its ACK opens the window
    assert read(sock) == pattern(0, 8900)
    peer.link.receive_many(segments(peer, *range(17800, 8900 * 22, 8900), start=8900))
    assert merged(peer) == 20 - 3  # seven to a packet, and a rest of six
    assert read(sock) == pattern(8900, 8900 * 21)
    sock.close()
    peer.close()


def test_what_is_not_just_expected_is_looked_at_piece_by_piece(peer: Peer) -> None:
    """Behind a hole; over what is there already; beyond the window."""
    sock = peer.connect()
    peer.link.receive_many(segments(peer, 300, 400, 500, start=200))
    assert merged(peer) == 2
    assert peer.stack.counters()["TCPOFOQueue"] == 3
    assert peer.acks() == [0, 0, 0]
    peer.link.receive_many(segments(peer, 100, 200, 300, 400, 500, 600))
    assert merged(peer) == 2 + 5
    assert peer.stack.counters()["TCPDSACKOldSent"] == 3  # those that the hole's filling made duplicates
    assert read(sock) == pattern(0, 600)
    peer.link.receive_many(segments(peer, 500, 600, 700, start=400))
    assert read(sock) == pattern(600, 700)
    peer.acks()
    assert peer.stack.counters()["DropTcpOutOfWindow"] == 3 + 2
    peer.link.receive_many(segments(peer, *range(2100, 90_000, 1400), start=700))
    acked = peer.acks()[-1]
    assert read(sock) == pattern(700, acked)
    beyond = sum(start >= acked for start in range(700, 88_600, 1400))
    assert peer.stack.counters()["DropTcpOutOfWindow"] == 5 + beyond > 15
    sock.close()


def test_where_nobody_listens_each_segment_is_reset(peer: Peer) -> None:
    peer.iss[5000] = 7
    peer.listener.close()
    peer.link.receive_many(segments(peer, 100, 200, 300, port=5000))
    assert merged(peer) == 2
    assert [segment[13] for segment in peer.sent()] == [RST] * 3
    assert peer.stack.counters()["DropTcpNoSocket"] == 3


@pytest.mark.rfc("2385", "2.0")
def test_a_run_is_no_way_around_a_signature(peer: Peer) -> None:
    """Segments that are not signed are joined; each is then looked at, and dropped, for itself."""
    sock = peer.connect()
    sock.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, md5sig("10.0.0.1" if peer.family == 4 else "fd00::1", b"key"))
    assert peer.link.receive_many(segments(peer, *range(1448, 1448 * 11, 1448))) == 10
    assert merged(peer) == 9
    assert peer.stack.counters()["TCPMD5NotFound"] == 10
    assert read(sock) == b""
    assert peer.acks() == []
    sock.close()


def test_without_memory_the_rest_of_a_run_is_lost() -> None:
    """What was taken is acknowledged, what was not is not, and comes again."""
    peer = Peer(memory=110_000)
    sock = peer.connect()
    peer.link.receive_many(segments(peer, *range(1448, 1448 * 41, 1448)))
    assert merged(peer) == 39
    assert peer.stack.counters()["TCPRcvQDrop"] == 1
    acked = peer.acks()[-1]
    assert 1448 < acked < 1448 * 40
    assert read(sock) == pattern(0, acked)
    peer.link.receive_many(segments(peer, *range(acked + 1448, acked + 1448 * 11, 1448), start=acked))
    assert read(sock) == pattern(acked, acked + 14480)
    sock.close()
    peer.close()


# ---- with and without

ODD: list[dict[str, Any]] = [
    {"wnd": 999}, {"ttl": 63}, {"tos": 2}, {"df": False}, {"tsval": 101}, {"tsval": 99}, {"tsval": 105},
    {"options": b""}, {"flags": ACK | PSH}, {"flags": ACK | PSH}, {"flags": ACK | URG}, {"flags": ACK | CWR},
    {"flags": 0}, {"ack": 5}, {"flags": ACK | FIN}, {"flags": RST | ACK}, {"flags": SYN | ACK}, {"broken": 0x100},
]  # fmt: skip
step = st.tuples(
    st.sampled_from([0] * 12 + [-1448, -100, 100, 1448, 40_000, -40_000]),  # where it starts, from where the last ended
    st.sampled_from([1, 100, 513, 1000, 1448, 1448, 1448]),
    st.sampled_from([{}] * 4 * len(ODD) + ODD),
    st.sampled_from([False] * 7 + [True]),  # the batch ends here
)
COUNTED = (
    "TcpInSegs",
    "IpInReceives",
    "Ip6InReceives",
    "TCPOFOQueue",
    "TcpInCsumErrors",
    "TCPDSACKOldSent",
    "TCPDSACKOfoSent",
    "PAWSEstab",
)


def play(peer: Peer, steps: list[tuple[int, int, dict[str, Any], bool]]) -> tuple[int, bytes, list[Any]]:
    """Sends it all; how many segments were joined, what the application read, and what can be seen of the end."""
    sock = peer.connect()
    at, batch, found = 0, [], b""
    for number, (jump, length, fields, ends) in enumerate(steps):
        at = max(0, at + jump)
        batch.append(peer.packet(NEXT + at, pattern(at, at + length), **fields))
        at += length
        if ends or number == len(steps) - 1:
            peer.link.receive_many(batch)
            batch.clear()
            peer.wait(1)
    problem = None
    try:
        found = read(sock)
    except OSError as error:
        problem = error.errno
    peer.wait(1000)
    peer.came.clear()
    peer.link.receive(peer.packet(NEXT - 1, tsval=200))  # a keep-alive: answered with all there is to say
    counters = peer.stack.counters()
    end: list[Any] = [problem, peer.sent(), {name: counters[name] for name in COUNTED}]
    end += [[(one.state, one.recv_q) for one in peer.stack.connections()], len(peer.stack.interfaces())]
    joined = merged(peer)
    sock.close()
    peer.close()
    return joined, found, end


@given(st.sampled_from([4, 6]), st.lists(step, min_size=10, max_size=60))
@settings(max_examples=200)
def test_nothing_but_the_cost_changes(family: int, steps: Any) -> None:
    joined, *seen = play(Peer(mtu=1600, family=family), steps)
    none, *expected = play(Peer(mtu=1600, joinable=False, family=family), steps)
    assert seen == expected
    assert none == 0
    event(f"joined: {min(joined, 8)}")
