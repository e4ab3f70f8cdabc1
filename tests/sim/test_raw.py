"""Raw sockets: which packets they get, their filters and options, what they send.

raw(7), RFC 3542 §3.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.packet import Packet, Raw

import ustack
from tap_harness.lab import Lab
from tests.sim.net_helpers import PEER_IP, STACK_IP, counted, fragments, heard, received, send, udp
from ustack import sim

OWN = 253  # RFC 3692: for experiments
ICMP_FILTER, SOL_RAW = 1, 255
SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_LOCK_FILTER = 26, 27, 44
IPV6_CHECKSUM, ICMP6_FILTER = 7, 1
KEEP_TEN = struct.pack("HBBI", 6, 0, 0, 10)
NOTHING = struct.pack("HBBI", 6, 0, 0, 0)
SIX = socket.AF_INET6


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    made.peer.ping()
    made.peer.discard()
    yield made
    made.close()


def raw(lab: Lab, proto: int = OWN) -> Any:
    sock = lab.stack.socket(socket.AF_INET, socket.SOCK_RAW, proto)
    sock.setblocking(False)
    return sock


def code_of(caught: pytest.ExceptionInfo[OSError]) -> str:
    return errno.errorcode[caught.value.errno or 0]


def from_peer(proto: int = OWN, data: bytes = b"hello", **fields: Any) -> Packet:
    return IP(src=PEER_IP, dst=STACK_IP, proto=proto, ttl=9, **fields) / Raw(data)


# -- in


def test_a_packet_comes_with_its_header(lab: Lab) -> None:
    with raw(lab) as sock:
        with counted(lab) as grown:
            lab.peer.send(from_peer(tos=4))
        ((data, address),) = received(sock)
        assert address == (PEER_IP, 0)
        packet = IP(data)
        assert (packet.ttl, packet.tos, packet.proto, bytes(packet.payload)) == (9, 4, OWN, b"hello")
        assert "DropIpUnknownProtocol" not in grown
        assert [p for p in heard(lab, 0.1) if ICMP in p] == []
    lab.peer.send(from_peer())  # nobody speaks it any more
    assert [p[ICMP].code for p in heard(lab, 0.1) if ICMP in p] == [2]


def test_others_get_theirs_too(lab: Lab) -> None:
    with raw(lab, socket.IPPROTO_UDP) as first, raw(lab, socket.IPPROTO_UDP) as second, udp(lab, 7000) as plain:
        lab.peer.send(IP(src=PEER_IP, dst=STACK_IP) / UDP(sport=9, dport=7000) / Raw(b"to all"))
        for sock in (first, second):
            ((data, _),) = received(sock)
            assert data[28:] == b"to all"
        assert received(plain) == [(b"to all", (PEER_IP, 9))]


def test_fragments_are_put_together(lab: Lab) -> None:
    with raw(lab) as sock:
        for piece in fragments(from_peer(data=b"0123456789" * 8), [0, 32, 64]):
            lab.peer.send(piece)
        ((data, _),) = received(sock)
        assert data[20:] == b"0123456789" * 8


def test_bound_and_connected(lab: Lab) -> None:
    with raw(lab) as sock, raw(lab) as stranger:
        sock.bind((STACK_IP, 0))
        sock.connect((PEER_IP, 0))
        assert (sock.getsockname(), sock.getpeername()) == ((STACK_IP, OWN), (PEER_IP, 0))
        stranger.connect(("10.9.0.77", 0))
        lab.peer.send(from_peer())
        assert len(received(sock)) == 1
        assert received(stranger) == []
        with pytest.raises(OSError) as caught:
            sock.bind(("10.9.0.99", 0))
        assert code_of(caught) == "EINVAL"  # it has a peer
    with raw(lab) as sock, pytest.raises(OSError) as caught:
        sock.bind(("10.9.0.99", 0))
    assert code_of(caught) == "EADDRNOTAVAIL"


def test_icmp_filter(lab: Lab) -> None:
    with raw(lab, socket.IPPROTO_ICMP) as sock:
        sock.setsockopt(SOL_RAW, ICMP_FILTER, ~(1 << 13))  # timestamp requests only
        assert sock.getsockopt(SOL_RAW, ICMP_FILTER, 4) == struct.pack("I", ~(1 << 13) & 0xFFFFFFFF)
        for kind in (8, 13, 40):
            lab.peer.send(lab.peer.ip_header() / ICMP(type=kind) / Raw(b"12345678"))
        assert [data[20] for data, _ in received(sock)] == [13, 40]  # it says nothing of types from 32 on
    with raw(lab) as sock, pytest.raises(OSError) as caught:
        sock.setsockopt(SOL_RAW, ICMP_FILTER, 0)
    assert code_of(caught) == "ENOTSUP"


def test_ancillary_data(lab: Lab) -> None:
    with raw(lab) as sock:
        sock.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
        sock.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
        lab.peer.send(from_peer())
        _, ancillary, _, address = sock.recvmsg(100, 200)
        found = {kind: data for _, kind, data in ancillary}
        assert struct.unpack("i", found[socket.IP_TTL]) == (9,)
        assert found[8][4:8] == socket.inet_aton(STACK_IP)
        assert address == (PEER_IP, 0)


def test_what_does_not_fit_is_counted(lab: Lab) -> None:
    with raw(lab) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4000)
        with counted(lab) as grown:
            for _ in range(50):
                lab.peer.send(from_peer())
        kept = len(received(sock))
        assert 0 < kept < 50
        assert grown["DropRawQueueFull"] == 50 - kept


def test_the_error_queue(lab: Lab) -> None:
    with raw(lab) as sock:
        sock.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
        send(lab, sock, b"anybody?", (PEER_IP, 0))
        packet = next(p for p in heard(lab, 0.1) if p[IP].proto == OWN)
        lab.peer.send(lab.peer.ip_header() / ICMP(type=3, code=2) / Raw(bytes(packet[IP])))
        data, ancillary, _, address = sock.recvmsg(100, 512, socket.MSG_ERRQUEUE)
        assert (data, address) == (b"anybody?", (PEER_IP, 0))
        assert struct.unpack_from("=IBBB", ancillary[0][2]) == (errno.ENOPROTOOPT, 2, 3, 2)


def test_an_error_reaches_who_is_connected(lab: Lab) -> None:
    with raw(lab) as sock, raw(lab) as other:
        sock.connect((PEER_IP, 0))
        sock.send(b"anybody?")
        lab.carrier.pump()
        packet = next(p for p in heard(lab, 0.1) if p[IP].proto == OWN)
        lab.peer.send(lab.peer.ip_header() / ICMP(type=3, code=2) / Raw(bytes(packet[IP])))
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ENOPROTOOPT
        assert other.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


# -- out


def test_sending(lab: Lab) -> None:
    with raw(lab) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 33)
        assert send(lab, sock, b"out", (PEER_IP, 0)) == 3
        (packet,) = (p[IP] for p in heard(lab, 0.1) if IP in p)
        assert (packet.src, packet.dst, packet.proto, packet.ttl) == (STACK_IP, PEER_IP, OWN, 33)
        assert bytes(packet.payload) == b"out"
        with pytest.raises(OSError) as caught:
            sock.send(b"to whom?")
        assert code_of(caught) == "EDESTADDRREQ"
        with pytest.raises(OSError) as caught:
            sock.sendto(b"x", ("10.9.0.255", 0))
        assert code_of(caught) == "EACCES"  # SO_BROADCAST


def test_long_packets_are_cut(lab: Lab) -> None:
    with raw(lab) as sock:
        send(lab, sock, bytes(3000), (PEER_IP, 0))
        assert [int(p[IP].frag) for p in heard(lab, 0.1) if IP in p] == [0, 185, 370]
        with pytest.raises(OSError) as caught:
            sock.sendto(bytes(65536), (PEER_IP, 0))
        assert code_of(caught) == "EMSGSIZE"


@pytest.mark.parametrize("proto", [OWN, socket.IPPROTO_RAW])
def test_header_included(lab: Lab, proto: int) -> None:
    """raw(7): what is filled in are length and checksum always, source and identification where they are zero."""
    with raw(lab, proto) as sock:
        if proto == OWN:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL) == 1
        given: Any = IP(src="0.0.0.0", dst=PEER_IP, proto=77, ttl=3, id=0, len=1, chksum=1, tos=8) / Raw(b"as it is")
        assert send(lab, sock, bytes(given), (PEER_IP, 0)) == 28
        (packet,) = (p[IP] for p in heard(lab, 0.1) if IP in p)
        assert (packet.src, packet.proto, packet.ttl, packet.tos, packet.len) == (STACK_IP, 77, 3, 8, 28)
        assert bytes(packet.payload) == b"as it is"
        good = packet.copy()
        del good.chksum
        assert IP(bytes(good)).chksum == packet.chksum
        spoofed: Any = IP(src="192.0.2.7", dst=PEER_IP, id=99, options=b"\x01\x01\x01\x00")
        sock.sendmsg([bytes(spoofed)[:5], bytes(spoofed)[5:], b"pieces"], [], 0, (PEER_IP, 0))
        lab.carrier.pump()
        (packet,) = (p[IP] for p in heard(lab, 0.1) if IP in p)
        assert (packet.src, packet.id, packet.ihl, bytes(packet.payload)) == ("192.0.2.7", 99, 6, b"pieces")


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"", "EINVAL"), (bytes(19), "EINVAL"), (b"\x4f" + bytes(40), "EINVAL"), (b"\x45" + bytes(1500), "EMSGSIZE")],
    ids=["nothing", "nineteen bytes", "a header beyond the end", "longer than the MTU"],
)
def test_header_included_refused(lab: Lab, data: bytes, code: str) -> None:
    with raw(lab, socket.IPPROTO_RAW) as sock, pytest.raises(OSError) as caught:
        sock.sendto(data, (PEER_IP, 0))
    assert code_of(caught) == code


def test_to_oneself(lab: Lab) -> None:
    with raw(lab) as sock:
        send(lab, sock, b"here", ("127.0.0.1", 0))
        ((data, address),) = received(sock)
        assert (data[20:], address) == (b"here", ("127.0.0.1", 0))


# -- making them


@pytest.mark.parametrize(
    ("family", "kind", "proto", "code"),
    [
        (socket.AF_INET, socket.SOCK_RAW, 0, "EPROTONOSUPPORT"),
        (socket.AF_INET, socket.SOCK_RAW, 300, "EINVAL"),
        (socket.AF_INET, socket.SOCK_SEQPACKET, 0, "ESOCKTNOSUPPORT"),
        (socket.AF_PACKET, socket.SOCK_STREAM, 0, "ESOCKTNOSUPPORT"),
        (socket.AF_UNIX, socket.SOCK_RAW, 0, "EAFNOSUPPORT"),
    ],
)
def test_refused(lab: Lab, family: int, kind: int, proto: int, code: str) -> None:
    with pytest.raises(OSError) as caught:
        lab.stack.socket(family, kind, proto)
    assert code_of(caught) == code


def test_what_it_is(lab: Lab) -> None:
    with raw(lab, 200) as sock:
        assert (sock.family, sock.type, sock.proto) == (socket.AF_INET, socket.SOCK_RAW, 200)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_RAW
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == 200
        assert [c.protocol for c in lab.stack.connections() if c.protocol == "raw"] == ["raw"]
        for call in (lambda: sock.listen(), lambda: sock.recv_view(), lambda: sock.send_zerocopy(b"x")):
            with pytest.raises(OSError) as caught:
                call()
            assert code_of(caught) == "ENOTSUP"
    with pytest.raises(OSError) as caught:
        sock.recv(1)
    assert code_of(caught) == "EBADF"


def test_many_at_a_time(lab: Lab) -> None:
    with raw(lab) as sock:
        assert sock.send_many([(b"a", (PEER_IP, 0)), (b"b", (PEER_IP, 0))]) == 2
        for data in (b"one", b"two"):
            lab.peer.send(from_peer(data=data))
        assert [(data[20:], address) for data, address in sock.recv_many(9)] == [
            (b"one", (PEER_IP, 0)),
            (b"two", (PEER_IP, 0)),
        ]


# -- SO_ATTACH_FILTER


def test_a_filter_cuts_and_drops(lab: Lab) -> None:
    with udp(lab, 7000) as sock:
        for program, expected in ((KEEP_TEN, [b"XY"]), (NOTHING, [])):
            sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
            with counted(lab) as grown:
                lab.peer.send(IP(src=PEER_IP, dst=STACK_IP) / UDP(sport=9, dport=7000) / Raw(b"XYZ"))
            assert [data for data, _ in received(sock)] == expected  # counted from the UDP header
        assert grown["DropSocketFilter"] == 1
        sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        lab.peer.send(IP(src=PEER_IP, dst=STACK_IP) / UDP(sport=9, dport=7000) / Raw(b"XYZ"))
        assert [data for data, _ in received(sock)] == [b"XYZ"]
        with pytest.raises(OSError) as caught:
            sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        assert code_of(caught) == "ENOENT"


def test_a_raw_sockets_filter_begins_at_the_ip_header(lab: Lab) -> None:
    wanted = struct.pack("HBBIHBBIHBBIHBBI", 0x30, 0, 0, 8, 0x15, 0, 1, 9, 6, 0, 0, 0xFFFF, 6, 0, 0, 0)  # TTL 9
    with raw(lab) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, wanted)
        lab.peer.send(from_peer(data=b"wanted"))
        lab.peer.send(IP(src=PEER_IP, dst=STACK_IP, proto=OWN, ttl=8) / Raw(b"not wanted"))
        assert [data[20:] for data, _ in received(sock)] == [b"wanted"]


def test_a_groups_members_have_filters(lab: Lab) -> None:
    group = socket.inet_aton("239.1.2.3") + socket.inet_aton(STACK_IP)
    with udp(lab, 7000) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        port = struct.pack("HBBIHBBIHBBIHBBI", 0x28, 0, 0, 2, 0x15, 0, 1, 7000, 6, 0, 0, 0xFFFF, 6, 0, 0, 0)
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, port)
        send(lab, sock, b"to us as well", ("239.1.2.3", 7000))
        assert [data for data, _ in received(sock)] == [b"to us as well"]


def test_a_locked_filter_stays(lab: Lab) -> None:
    with raw(lab) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, NOTHING)
        sock.setsockopt(socket.SOL_SOCKET, SO_LOCK_FILTER, 1)
        assert sock.getsockopt(socket.SOL_SOCKET, SO_LOCK_FILTER) == 1
        for name, value in ((SO_ATTACH_FILTER, KEEP_TEN), (SO_DETACH_FILTER, 0), (SO_LOCK_FILTER, 0)):
            with pytest.raises(OSError) as caught:
                sock.setsockopt(socket.SOL_SOCKET, name, value)
            assert code_of(caught) == "EPERM"


def test_streams_have_none(lab: Lab) -> None:
    with lab.stack.socket() as sock, pytest.raises(OSError) as caught:
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, KEEP_TEN)
    assert code_of(caught) == "ENOPROTOOPT"


def test_a_bad_program_is_refused_and_the_old_one_stays(lab: Lab) -> None:
    with raw(lab) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, NOTHING)
        with pytest.raises(OSError) as caught:
            sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, b"\xff" * 8)
        assert code_of(caught) == "EINVAL"
        lab.peer.send(from_peer())
        assert received(sock) == []


# -- IPv6


class Pair:
    """Two stacks on one wire."""

    def __init__(self, network: sim.Network) -> None:
        self.network = network
        self.left, self.right = network.stack("left"), network.stack("right")
        network.wire(self.left, self.right, addresses=("fd09::1/64", "fd09::2/64"), delay=0.001)

    def raw(self, stack: ustack.Stack, proto: int) -> Any:
        sock = stack.socket(SIX, socket.SOCK_RAW, proto)
        sock.settimeout(3)
        return sock


@pytest.fixture
def pair() -> Iterator[Pair]:
    with sim.Network(seed=6) as network:
        yield Pair(network)


@pytest.mark.rfc("3542", "3")
def test_ipv6_comes_without_its_header(pair: Pair) -> None:
    with pair.raw(pair.left, OWN) as left, pair.raw(pair.right, OWN) as right:
        assert left.sendto(b"payload only", ("fd09::2", 0)) == 12
        assert right.recvfrom(100) == (b"payload only", ("fd09::1", 0, 0, 0))
        assert left.sendto(bytes(4000), ("fd09::2", 0)) == 4000
        assert right.recv(5000) == bytes(4000)  # in fragments
        with pytest.raises(OSError) as caught:
            left.sendto(b"mapped", ("::ffff:10.9.0.2", 0))
        assert code_of(caught) == "ENETUNREACH"


@pytest.mark.rfc("3542", "3.1")
def test_ipv6_checksum(pair: Pair) -> None:
    with pair.raw(pair.left, OWN) as left, pair.raw(pair.right, OWN) as right:
        left.setsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM, 2)
        assert left.getsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM) == 2
        right.setsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM, 2)
        left.sendto(b"ab\0\0efgh", ("fd09::2", 0))
        data = right.recv(100)
        assert (data[:2], data[4:]) == (b"ab", b"efgh")
        assert data[2:4] != b"\0\0"
        left.setsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM, -1)
        left.sendto(b"ab\0\0wrong", ("fd09::2", 0))
        left.sendto(data, ("fd09::2", 0))
        assert right.recv(100) == data
        assert pair.right.counters()["DropRawChecksum"] == 1
        with pytest.raises(OSError) as caught:
            left.setsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM, 3)
        assert code_of(caught) == "EINVAL"


@pytest.mark.rfc("3542", "3.2")
def test_icmpv6_filter_and_checksum(pair: Pair) -> None:
    """A ping of one's own: the checksum is the stack's, and replies only are let through."""
    only_replies = bytearray(b"\xff" * 32)
    struct.pack_into("I", only_replies, 4 * (129 >> 5), ~(1 << (129 & 31)) & 0xFFFFFFFF)
    with pair.raw(pair.left, socket.IPPROTO_ICMPV6) as sock:
        sock.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, bytes(only_replies))
        assert sock.getsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, 32) == bytes(only_replies)
        sock.sendto(struct.pack("!BBHHH", 128, 0, 0, 0x1234, 5) + b"ping", ("fd09::2", 0))
        data, address = sock.recvfrom(100)
        assert (data[0], data[4:], address[0]) == (129, b"\x12\x34\x00\x05ping", "fd09::2")


def test_tcp_goes_on_beside_a_raw_socket(pair: Pair) -> None:
    """Nothing goes the short way past it, and it costs the connection nothing but copies."""
    with pair.raw(pair.right, socket.IPPROTO_TCP) as sock, pair.right.create_server(("fd09::2", 80), family=SIX) as srv:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        with pair.left.create_connection(("fd09::2", 80)) as client:
            server, _ = srv.accept()
            sender = pair.network.spawn(lambda: (client.sendall(bytes(100_000)), client.shutdown(socket.SHUT_WR)))
            got = 0
            while piece := server.recv(65536):
                got += len(piece)
            sender.result()
            server.close()
        assert got == 100_000
        sock.setblocking(False)
        lengths = [len(data) - (data[12] >> 4) * 4 for data, _ in received(sock)]
        assert sum(lengths) == 100_000
