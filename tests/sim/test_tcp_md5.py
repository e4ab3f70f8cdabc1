"""TCP's MD5 option (RFC 2385): what is signed, what is dropped, what it costs; two stacks in virtual time."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

import ustack
from tap_harness.md5sig import OPTION, TCP_MD5SIG, TCP_MD5SIG_EXT, digest, md5sig, signatures
from ustack import sim

V4, V6 = ("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")
REFUSED = ("TCPMD5NotFound", "TCPMD5Unexpected", "TCPMD5Failure")
FAMILIES = pytest.mark.parametrize("ends", [V4, V6], ids=["IPv4", "IPv6"])


def read(sock: Any, size: int) -> bytes:
    got = b""
    while len(got) < size and (more := sock.recv(size - len(got))):
        got += more
    return got


class Pair:
    """Two stacks; every segment that passes must be signed with `key`, unless it is None, and no option twice.

    drop: numbers of the packets of more than 500 bytes, from a, that are lost.
    """

    def __init__(self, ends: tuple[str, str] = V4, key: bytes | None = b"secret", mtu: int = 1500) -> None:
        self.net = sim.Network(seed=4)
        self.ends, self.key, self.six = ends, key, ":" in ends[0]
        self.flags: set[str] = set()
        self.largest = self.segments = self.blocks = self.large = 0
        self.drop: set[int] = set()
        self.last: Any = None
        self.forged: set[bytes] = set()
        self.a, self.b = self.net.stack("a"), self.net.stack("b")
        bits = 64 if self.six else 24
        self.wire = self.net.wire(
            self.a, self.b, delay=0.01, addresses=(f"{ends[0]}/{bits}", f"{ends[1]}/{bits}"), medium="ip", mtu=mtu
        )
        self.wire.a_to_b.filter = lambda frame, _: self.look(frame, True)
        self.wire.b_to_a.filter = lambda frame, _: self.look(frame, False)

    def look(self, frame: bytes, from_a: bool) -> bytes | None:
        packet = IPv6(frame) if self.six else IP(frame)
        if TCP not in packet or frame in self.forged:
            return frame
        self.segments += 1
        if self.key is not None:
            assert signatures(packet) == [digest(packet, self.key)]
        self.flags.add(str(packet[TCP].flags))
        self.largest = max(self.largest, len(frame))
        self.blocks = max([self.blocks, *(len(value) // 2 for kind, value in packet[TCP].options if kind == "SAck")])
        self.last = packet
        if from_a and len(frame) > 500:
            self.large += 1
            return None if self.large in self.drop else frame
        return frame

    def socket(self, stack: ustack.Stack) -> Any:
        sock = stack.socket(socket.AF_INET6 if self.six else socket.AF_INET)
        sock.settimeout(5)
        return sock

    def listener(self, key: bytes | None) -> Any:
        sock = self.socket(self.b)
        if key is not None:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, md5sig(self.ends[0], key))
        sock.bind((self.ends[1], 179))
        sock.listen()
        return sock

    def connector(self, key: bytes | None) -> Any:
        sock = self.socket(self.a)
        if key is not None:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, md5sig(self.ends[1], key))
        sock.bind((self.ends[0], 5000))
        return sock

    def connected(self) -> tuple[Any, Any]:
        """(a's, b's) socket, the connection signed."""
        listener, client = self.listener(self.key), self.connector(self.key)
        client.connect((self.ends[1], 179))
        conn, _ = listener.accept()
        listener.close()
        conn.settimeout(5)
        return client, conn

    def forge(self, flags: str, seq: int, ack: int, data: bytes = b"", key: bytes | None = None) -> None:
        """A segment to b that a did not send; with a key it is signed."""
        options = [] if key is None else [("NOP", None), ("NOP", None), (OPTION, bytes(16))]
        src, dst = self.ends
        ip = IPv6(src=src, dst=dst) if self.six else IP(src=src, dst=dst)

        def made() -> Packet:
            segment = TCP(sport=5000, dport=179, flags=flags, seq=seq, ack=ack, window=1000, options=options)
            return (type(ip))(bytes(ip / segment / Raw(data)))

        if key is not None:
            options[-1] = (OPTION, digest(made(), key))
        self.put(made())

    def put(self, packet: Packet) -> None:
        self.forged.add(bytes(packet))
        self.wire.a.send(bytes(packet))
        self.net.run(duration=0.1)

    def refused(self) -> int:
        return sum(stack.counters()[name] for stack in (self.a, self.b) for name in REFUSED)


@pytest.mark.rfc("2385", "2.0")
@FAMILIES
def test_all_of_a_connection_is_signed(ends: tuple[str, str]) -> None:
    """SYN, data both ways with losses, FIN, TIME-WAIT; the MSS has room for the option; nothing is cut by others."""
    pair = Pair(ends)
    pair.drop = {20, 21, 40}
    with pair.net:
        client, conn = pair.connected()

        def serve() -> bytes:
            with conn:
                got = b"".join(iter(lambda: conn.recv(65536), b""))
                conn.sendall(got[::-1])
            return got

        task = pair.net.spawn(serve)
        data = bytes(range(256)) * 1000
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: client.recv(65536), b"")) == data[::-1]
        assert task.result() == data
        client.close()
        pair.net.run(duration=1)
        counters = [stack.counters() for stack in (pair.a, pair.b)]
        assert pair.segments == sum(one["TcpOutSegs"] for one in counters)
        assert pair.refused() == 0
        assert counters[0]["TcpRetransSegs"] == 3
        assert pair.blocks == 2, "beside the signature there is room for two"
        assert pair.largest == 1500
        assert {"S", "SA", "A", "FPA"} <= pair.flags


@FAMILIES
def test_an_abort_is_signed(ends: tuple[str, str]) -> None:
    pair = Pair(ends)
    with pair.net:
        client, conn = pair.connected()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        with pytest.raises(ConnectionResetError):
            conn.recv(1)
        conn.close()
        assert "RA" in pair.flags


@pytest.mark.rfc("2385", "2.0")
@FAMILIES
@pytest.mark.parametrize(
    ("ours", "theirs", "counter"),
    [(b"one", b"two", "TCPMD5Failure"), (None, b"two", "TCPMD5NotFound"), (b"one", None, "TCPMD5Unexpected")],
)
def test_what_is_signed_otherwise_is_dropped(
    ends: tuple[str, str], ours: bytes | None, theirs: bytes | None, counter: str
) -> None:
    """Without a word, not even a reset: Linux counts it so."""
    pair = Pair(ends, ours)
    with pair.net:
        listener, client = pair.listener(theirs), pair.connector(ours)
        with pytest.raises(TimeoutError):
            client.connect((ends[1], 179))
        assert pair.b.counters()[counter] == pair.refused() >= 2
        assert pair.b.counters()["TcpOutSegs"] == 0
        client.close()
        listener.close()


@pytest.mark.rfc("2385", "4.1")
@FAMILIES
@pytest.mark.parametrize("flags", ["R", "A", "PA", "FA", "S", "RA"])
def test_a_connection_takes_nothing_unsigned(ends: tuple[str, str], flags: str) -> None:
    """A forged segment with the right numbers, unsigned or signed with another key, does nothing and gets nothing."""
    pair = Pair(ends)
    with pair.net:
        client, conn = pair.connected()
        client.sendall(b"hello")
        assert conn.recv(10) == b"hello"
        pair.net.run(duration=0.5)
        seq, ack = pair.last[TCP].ack, pair.last[TCP].seq  # what b said last
        before = pair.b.counters()
        pair.forge(flags, seq, ack, b"" if "R" in flags else b"forged")
        pair.forge(flags, seq, ack, b"" if "R" in flags else b"forged", key=b"Secret")
        after = pair.b.counters()
        assert (after["TCPMD5NotFound"], after["TCPMD5Failure"]) == (1, 1)
        assert after["TcpOutSegs"] == before["TcpOutSegs"]
        client.sendall(b"still here")
        assert conn.recv(100) == b"still here"
        pair.forge("PA", seq + 10, ack, b"!", key=pair.key)
        assert conn.recv(100) == b"!", "the forger's own segments are good, but for the key"
        client.close()
        conn.close()


def test_time_wait_is_as_strict() -> None:
    """RFC 2385 §2.0 for what a connection leaves behind: an unsigned reset or SYN does not end it."""
    pair = Pair()
    with pair.net:
        pair.b.sysctl["net.ipv4.tcp_rfc1337"] = 0
        client, conn = pair.connected()
        conn.close()
        assert client.recv(1) == b""
        client.close()
        pair.net.run(duration=1)
        assert (pair.last.src, pair.b.live()["timewaits"]) == (V4[1], 1)
        seq, ack = pair.last[TCP].ack, pair.last[TCP].seq
        for flags, number in (("R", seq), ("S", seq), ("S", seq + 100_000), ("FA", seq - 1)):
            pair.forge(flags, number, ack)
        assert pair.b.live()["timewaits"] == 1
        assert pair.b.counters()["TCPMD5NotFound"] == 4
        sent = pair.b.counters()["TcpOutSegs"]
        pair.forge("FA", seq - 1, ack, key=pair.key)
        assert pair.b.counters()["TcpOutSegs"] == sent + 1
        pair.forge("R", seq, ack, key=pair.key)
        assert pair.b.live()["timewaits"] == 0


def test_a_lost_state_is_reset_only_by_who_knows_the_key() -> None:
    """§4.1: a signed segment for nobody is answered if a listener on its port has the key, as Linux; else not."""
    pair = Pair(key=None)
    with pair.net:
        pair.forge("A", 1000, 2000, key=b"secret")
        assert pair.b.counters()["TcpOutRsts"] == 0
        listener = pair.socket(pair.b)
        listener.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, md5sig(V4[0], b"secret"))
        listener.bind((V4[1], 5000))
        listener.listen()
        pair.forge("A", 1000, 2000, key=b"wrong")
        assert pair.b.counters()["TcpOutRsts"] == 0
        pair.key = b"secret"
        pair.forge("A", 1000, 2000, key=b"secret")
        pair.net.run(duration=0.1)
        assert pair.b.counters()["TcpOutRsts"] == 1
        assert "R" in pair.flags
        listener.close()


def test_a_wrong_answer_to_a_syn_is_reset_with_a_signature() -> None:
    pair = Pair()
    with pair.net:
        listener = pair.listener(pair.key)
        pair.forge("A", 1000, 2000, key=pair.key)
        pair.net.run(duration=0.1)
        assert pair.b.counters()["TcpOutRsts"] == 1
        assert "R" in pair.flags
        listener.close()


def test_keys() -> None:
    """Linux's rules for the option: prefixes, replacing, taking away, what is refused."""
    with ustack.Stack(driver="manual") as stack:
        six, udp = stack.socket(socket.AF_INET6), stack.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock = stack.socket()
        for target, name, value in (
            (sock, TCP_MD5SIG, md5sig("10.0.0.1", b"k")),
            (sock, TCP_MD5SIG, md5sig("10.0.0.1", b"another") + b"more"),
            (sock, TCP_MD5SIG_EXT, md5sig("10.0.0.0", b"k", 8)),
            (sock, TCP_MD5SIG, md5sig("10.0.0.1", b"")),
            (six, TCP_MD5SIG, md5sig("fd00::1", b"k" * 80)),
            (six, TCP_MD5SIG, md5sig("10.0.0.1", b"k", mapped=True)),
            (six, TCP_MD5SIG_EXT, md5sig("10.0.0.0", b"k", 8, mapped=True)),
            (six, TCP_MD5SIG_EXT, md5sig("fd00::", b"k", 128)),
        ):
            target.setsockopt(socket.IPPROTO_TCP, name, value)
        too_long = md5sig("10.0.0.1", b"k" * 80).replace(struct.pack("=H", 80), struct.pack("=H", 81))
        for target, name, value, code in (
            (sock, TCP_MD5SIG, md5sig("10.0.0.1", b""), errno.ENOENT),
            (sock, TCP_MD5SIG_EXT, md5sig("10.0.0.0", b"", 9), errno.ENOENT),
            (sock, TCP_MD5SIG, md5sig("10.0.0.1", b"k")[:-1], errno.EINVAL),
            (sock, TCP_MD5SIG, 1, errno.EINVAL),
            (sock, TCP_MD5SIG, too_long, errno.EINVAL),
            (sock, TCP_MD5SIG, md5sig("fd00::1", b"k"), errno.EINVAL),
            (sock, TCP_MD5SIG_EXT, md5sig("10.0.0.0", b"k", 33), errno.EINVAL),
            (six, TCP_MD5SIG, md5sig("10.0.0.1", b"k"), errno.EINVAL),
            (six, TCP_MD5SIG_EXT, md5sig("10.0.0.0", b"k", 33, mapped=True), errno.EINVAL),
            (six, TCP_MD5SIG_EXT, md5sig("fd00::", b"k", 129), errno.EINVAL),
            (udp, TCP_MD5SIG, md5sig("10.0.0.1", b"k"), errno.ENOPROTOOPT),
        ):
            with pytest.raises(OSError) as caught:
                target.setsockopt(socket.IPPROTO_TCP, name, value)
            assert caught.value.errno == code
        with pytest.raises(OSError) as caught:
            sock.getsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, 256)
        assert caught.value.errno == errno.ENOPROTOOPT
        for k in range(1023):  # one is there
            sock.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, md5sig(f"10.1.{k >> 8}.{k & 255}", b"k"))
        with pytest.raises(OSError) as caught:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, md5sig("10.2.0.1", b"k"))
        assert caught.value.errno == errno.ENOMEM
        for each in (sock, six, udp):
            each.close()


def exchange(client: Any, listener: Any, to: tuple[str, int], data: bytes) -> None:
    client.connect(to)
    conn, _ = listener.accept()
    client.sendall(data)
    assert read(conn, len(data)) == data
    for sock in (client, conn, listener):
        sock.close()


def test_the_longest_prefix_counts() -> None:
    pair = Pair()
    with pair.net:
        listener = pair.listener(None)
        for prefix, key in ((0, b"any"), (31, b"secret"), (8, b"ten")):
            sig = md5sig("0.0.0.0" if prefix == 0 else "10.0.0.0", key, prefix)
            listener.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG_EXT, sig)
        exchange(pair.connector(pair.key), listener, (V4[1], 179), b"x" * 5000)


def test_a_key_for_all_of_ipv6_is_none_for_ipv4() -> None:
    pair = Pair(key=None)
    with pair.net:
        listener = pair.b.socket(socket.AF_INET6)
        listener.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG_EXT, md5sig("::", b"k", 0))
        listener.bind(("::", 179))
        listener.listen()
        exchange(pair.connector(None), listener, (V4[1], 179), b"x")


def test_an_ipv6_socket_has_keys_for_ipv4() -> None:
    pair = Pair()
    with pair.net:
        listener = pair.b.socket(socket.AF_INET6)
        listener.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, md5sig(V4[0], b"secret", mapped=True))
        listener.bind(("::", 179))
        listener.listen()
        exchange(pair.connector(pair.key), listener, (V4[1], 179), b"x" * 5000)


def test_link_local_peers() -> None:
    """The key is for the address, whatever its zone."""
    pair = Pair(V6)
    with pair.net:
        pair.net.run(duration=3)
        scope = next(one.index for one in pair.a.interfaces() if one.medium != "loopback")
        ours, theirs = (
            next(a.address.split("%")[0] for i in stack.interfaces() for a in i.addresses if a.address[:5] == "fe80:")
            for stack in (pair.a, pair.b)
        )
        listener, client = pair.b.socket(socket.AF_INET6), pair.a.socket(socket.AF_INET6)
        listener.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, md5sig(ours, b"secret"))
        client.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, md5sig(theirs, b"secret"))
        listener.bind(("::", 179))
        listener.listen()
        client.connect((theirs, 179, 0, scope))
        conn, _ = listener.accept()
        client.sendall(b"x" * 5000)
        assert len(read(conn, 5000)) == 5000
        for sock in (client, conn, listener):
            sock.close()


def test_a_listener_has_many_peers() -> None:
    """Each connection has its peer's key alone; the listener's may go, and the connection stays."""
    pair = Pair()
    with pair.net:
        listener = pair.listener(pair.key)
        for k in range(50):
            listener.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, md5sig(f"10.1.0.{k}", b"other"))
        client = pair.connector(pair.key)
        client.connect((V4[1], 179))
        conn, _ = listener.accept()
        listener.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, md5sig(V4[0], b""))
        client.sendall(b"x" * 5000)
        assert read(conn, 5000) == b"x" * 5000
        with pytest.raises(OSError, match="No such file"):
            conn.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, md5sig("10.1.0.1", b""))
        for sock in (client, conn, listener):
            sock.close()


@FAMILIES
def test_cookies_are_signed_too(ends: tuple[str, str]) -> None:
    """They keep their timestamps, as Linux's, for what these carry; SACK then has no room, and losses are recovered."""
    pair = Pair(ends)
    pair.drop = {12}
    with pair.net:
        pair.b.sysctl["net.ipv4.tcp_syncookies"] = 2
        listener, client = pair.listener(pair.key), pair.connector(pair.key)
        exchange(client, listener, (ends[1], 179), bytes(range(256)) * 200)
        assert pair.b.counters()["SyncookiesRecv"] == 1
        assert pair.refused() == 0


def crossing(pair: Pair, prepare: Callable[[Any], None] = lambda _: None) -> None:
    def one(stack: ustack.Stack, mine: str, peer: str) -> bytes:
        with pair.socket(stack) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, md5sig(peer, b"secret"))
            prepare(sock)
            sock.bind((mine, 1000))
            sock.connect((peer, 1000))
            sock.sendall(mine.encode() * 2000)
            sock.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: sock.recv(65536), b""))

    here, there = pair.ends
    tasks = [pair.net.spawn(one, pair.a, here, there), pair.net.spawn(one, pair.b, there, here)]
    assert [task.result() for task in tasks] == [there.encode() * 2000, here.encode() * 2000]


def test_syns_that_cross_are_signed() -> None:
    pair = Pair()
    with pair.net:
        crossing(pair)
        assert pair.refused() == 0


def test_fast_open_gives_way() -> None:
    """Both options don't fit beside the others: the connection opens in the usual way, with the data behind it."""
    pair = Pair()
    with pair.net:
        for stack in (pair.a, pair.b):
            stack.sysctl["net.ipv4.tcp_fastopen"] = 3
        listener, client = pair.listener(pair.key), pair.connector(pair.key)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
        assert client.sendto(b"early", socket.MSG_FASTOPEN, (V4[1], 179)) == 5
        conn, _ = listener.accept()
        assert conn.recv(10) == b"early"
        for sock in (client, conn, listener):
            sock.close()


def test_a_key_may_come_later() -> None:
    """Both ends of an open connection begin to sign; what was sent in large pieces before goes again in small ones."""
    pair = Pair(key=None)
    with pair.net:
        client, conn = pair.connected()
        pair.wire.a_to_b.up = False
        client.setblocking(False)
        sent = client.send(bytes(20_000))
        assert sent > 3000
        pair.net.run(duration=0.05)
        client.setblocking(True)
        client.settimeout(5)
        client.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, md5sig(V4[1], b"secret"))
        conn.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, md5sig(V4[0], b"secret"))
        pair.wire.a_to_b.up = True
        pair.key = b"secret"
        conn.settimeout(30)
        assert read(conn, sent) == bytes(sent)
        client.close()
        conn.close()


def test_a_longer_segment_is_tried_with_its_signature() -> None:
    """Packetization layer discovery (RFC 4821) counts the option."""
    pair = Pair(mtu=1400)
    with pair.net:
        for stack in (pair.a, pair.b):
            stack.sysctl["net.ipv4.tcp_mtu_probing"] = 2
        client, conn = pair.connected()
        task = pair.net.spawn(lambda: len(read(conn, 400_000)))
        client.sendall(bytes(400_000))
        assert task.result() == 400_000
        assert pair.a.counters()["TCPMTUPSuccess"] >= 1
        assert pair.largest == 1400
        client.close()
        conn.close()


@pytest.mark.parametrize("written", [1420, 1430, 1440, 1445])
def test_blocks_never_make_a_packet_too_long(written: int) -> None:
    """Not only beside a signature: a nearly full segment reports as many holes as it has room for."""
    pair = Pair(key=None)
    with pair.net:
        client, conn = pair.connected()
        pair.drop = {1, 3, 5, 7}
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(9):
            client.send(bytes(600))
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair.net.run(duration=0.015)
        conn.send(bytes(written))
        pair.net.run(duration=5)
        assert pair.blocks >= 2
        assert pair.largest <= 1500
        assert pair.b.counters()["TcpRetransSegs"] == 0
        client.close()
        conn.close()
