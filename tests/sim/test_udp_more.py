"""UDP sockets' rarer sides: error queues, ancillary data, ways out, segmentation, batches, path MTU, limits.

ip(7), udp(7), RFC 768, 1122 §4.1, 1191.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.packet import Raw

import ustack
from tap_harness.lab import Lab
from tests.sim.net_helpers import PEER_IP, STACK_IP, counted, heard, received, send, udp

PORT = 7000
IP_PKTINFO, IP_RECVERR, IP_MTU_DISCOVER, IP_RECVORIGDSTADDR = 8, 11, 10, 20
UDP_SEGMENT, SO_NO_CHECK = 103, 11


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    made.peer.ping()
    made.peer.discard()
    yield made
    made.close()


def code_of(caught: pytest.ExceptionInfo[OSError]) -> str:
    return errno.errorcode[caught.value.errno or 0]


def refuse(lab: Lab, kind: int, code: int, mtu: int = 0) -> None:
    """The peer answers the last datagram that the stack sent with an ICMP error."""
    packet = next(p for p in heard(lab, 0.1) if UDP in p)
    lab.peer.send(lab.peer.ip_header() / ICMP(type=kind, code=code, nexthopmtu=mtu) / Raw(bytes(packet[IP])[:60]))


# -- the error queue


@pytest.mark.rfc("1122", "4.1.3.3 ICMP")
@pytest.mark.parametrize("connected", [False, True])
def test_an_error_is_kept_with_all_that_is_known(lab: Lab, connected: bool) -> None:
    with udp(lab, PORT) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        assert sock.getsockopt(socket.IPPROTO_IP, IP_RECVERR) == 1
        if connected:
            sock.connect((PEER_IP, 9))
        send(lab, sock, b"anybody?", (PEER_IP, 9))
        refuse(lab, 3, 3)
        data, ancillary, flags, address = sock.recvmsg(100, 512, socket.MSG_ERRQUEUE)
        assert data == b"anybody?"
        assert flags & socket.MSG_ERRQUEUE
        assert address == (PEER_IP, 9)
        ((level, kind, raw),) = ancillary
        assert (level, kind) == (socket.IPPROTO_IP, IP_RECVERR)
        code, origin, icmp_type, icmp_code, info = struct.unpack_from("=IBBBxI", raw)
        assert (code, origin, icmp_type, icmp_code, info) == (errno.ECONNREFUSED, 2, 3, 3, 0)
        assert socket.inet_ntoa(raw[20:24]) == PEER_IP
        with pytest.raises(BlockingIOError):
            sock.recvmsg(100, 512, socket.MSG_ERRQUEUE)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_without_the_option_nothing_is_kept(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        send(lab, sock, b"x", (PEER_IP, 9))
        refuse(lab, 3, 3)
        with pytest.raises(BlockingIOError):
            sock.recvmsg(100, 512, socket.MSG_ERRQUEUE)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_the_error_queue_is_bounded_by_the_receive_buffer(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        send(lab, sock, b"x", (PEER_IP, 9))
        packet = next(p for p in heard(lab, 0.1) if UDP in p)
        for _ in range(100):
            lab.peer.send(lab.peer.ip_header() / ICMP(type=3, code=1) / Raw(bytes(packet[IP])))
        found = 0
        while True:
            try:
                sock.recvmsg(100, 512, socket.MSG_ERRQUEUE)
            except BlockingIOError:
                break
            found += 1
        assert 1 <= found < 20


# -- path MTU


@pytest.mark.rfc("1191", "3")
def test_a_socket_that_forbids_fragments_learns_the_path(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, 2)
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        sock.connect((PEER_IP, 9))
        send(lab, sock, bytes(1400), (PEER_IP, 9))
        refuse(lab, 3, 4, 1000)
        _, ancillary, _, _ = sock.recvmsg(2000, 512, socket.MSG_ERRQUEUE)
        assert struct.unpack_from("=IBBBxI", ancillary[0][2]) == (errno.EMSGSIZE, 2, 3, 4, 1000)
        with pytest.raises(OSError) as caught:
            sock.send(bytes(1000))
        assert code_of(caught) == "EMSGSIZE"
        _, ancillary, _, _ = sock.recvmsg(2000, 512, socket.MSG_ERRQUEUE)
        assert struct.unpack_from("=IBBBxI", ancillary[0][2]) == (errno.EMSGSIZE, 1, 0, 0, 1000), "told by this host"
        assert sock.send(bytes(972)) == 972


@pytest.mark.parametrize(("mode", "size", "flags"), [(0, 100, 0), (1, 100, 2), (1, 3000, 1), (2, 100, 2), (3, 100, 2)])
def test_what_each_mode_sets(lab: Lab, mode: int, size: int, flags: int) -> None:
    """DF is 2, "more fragments" 1."""
    with udp(lab, PORT) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, mode)
        send(lab, sock, bytes(size), (PEER_IP, 9))
        assert int(next(p for p in heard(lab, 0.1) if IP in p)[IP].flags) == flags


# -- ancillary data and ways out


def test_the_destination_as_it_was(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVORIGDSTADDR, 1)
        lab.peer.send(lab.peer.ip_header() / UDP(sport=5, dport=PORT) / Raw(b"x"))
        _, ancillary, _, _ = sock.recvmsg(100, 512)
        ((level, kind, raw),) = ancillary
        assert (level, kind) == (socket.IPPROTO_IP, 20)
        assert struct.unpack("=HH4s8x", raw) == (socket.AF_INET, socket.htons(PORT), socket.inet_aton(STACK_IP))


def test_a_datagrams_own_source(lab: Lab) -> None:
    lab.stack.add_address(lab.stack.interfaces()[1].name, "10.9.0.7/24")
    with udp(lab, PORT) as sock:
        info = struct.pack("=i4s4s", 0, socket.inet_aton("10.9.0.7"), bytes(4))
        sock.sendmsg([b"x"], [(socket.IPPROTO_IP, IP_PKTINFO, info)], 0, (PEER_IP, 9))
        lab.carrier.pump()
        sock.sendto(b"x", (PEER_IP, 9))
        lab.carrier.pump()
        assert [p[IP].src for p in heard(lab, 0.1) if UDP in p] == ["10.9.0.7", STACK_IP]


def test_bound_to_a_device() -> None:
    """Two interfaces with one port: each socket hears its own, and sends by it."""
    with ustack.sim.Network(seed=1) as net:
        host, left, right = net.stack("host"), net.stack("left"), net.stack("right")
        net.wire(host, left, addresses=("10.1.0.1/24", "10.1.0.2/24"), name="a")
        net.wire(host, right, addresses=("10.2.0.1/24", "10.2.0.2/24"), name="b")
        names = [one.name for one in host.interfaces() if one.medium != "loopback"]
        socks = [host.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in names]
        for sock, name in zip(socks, names, strict=True):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode() + b"\0")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16) == name.encode() + b"\0"
            sock.bind(("", PORT))
        for stack, to in ((left, "10.1.0.1"), (right, "10.2.0.1")):
            with stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(to.encode(), (to, PORT))
        assert [sock.recv(100) for sock in socks] == [b"10.1.0.1", b"10.2.0.1"]
        with pytest.raises(OSError) as caught:
            socks[0].sendto(b"x", ("10.2.0.2", 9))
        assert code_of(caught) == "ENETUNREACH"
        with pytest.raises(OSError) as caught:
            socks[0].setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"nothing0")
        assert code_of(caught) == "ENODEV"
        for sock in socks:
            sock.close()


# -- many at a time


@pytest.mark.parametrize("by", ["option", "message"])
def test_one_call_many_segments(lab: Lab, by: str) -> None:
    data = bytes(range(256)) * 10
    with udp(lab, PORT) as sock:
        ancillary: list[Any] = []
        if by == "option":
            sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        else:
            ancillary = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 1000))]
        assert sock.sendmsg([data[:300], data[300:]], ancillary, 0, (PEER_IP, 9)) == len(data)
        lab.carrier.pump()
        sent = [p for p in heard(lab, 0.1) if UDP in p]
        assert [bytes(p[Raw]) for p in sent] == [data[:1000], data[1000:2000], data[2000:]]
        with pytest.raises(OSError) as caught:
            sock.sendmsg([bytes(60000)], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 100))], 0, (PEER_IP, 9))
        assert code_of(caught) == ("EINVAL")


def test_many_in_one_call_each_way(lab: Lab) -> None:
    with udp(lab, PORT) as sender, udp(lab, PORT + 1) as receiver:
        sender.connect((STACK_IP, PORT + 1))
        messages: list[Any] = [b"%d" % k for k in range(90)]
        messages[7] = (b"7", (STACK_IP, PORT + 1))
        assert sender.send_many(messages) == 90
        lab.carrier.pump()
        got: list[tuple[bytes, tuple[str, int]]] = []
        while len(got) < 90:
            some = receiver.recv_many(40, 1)
            assert len(some) <= 40
            got += some
            lab.carrier.pump()
        assert [data for data, _ in got] == [(b"%d" % k)[:1] for k in range(90)]
        assert {address for _, address in got} == {(STACK_IP, PORT)}
        with pytest.raises(BlockingIOError):
            receiver.recv_many(10)
        with pytest.raises(OSError) as caught:
            receiver.send_many([b"no peer"])
        assert code_of(caught) == "EDESTADDRREQ"


def test_a_batch_waits_for_the_first() -> None:
    with ustack.sim.Network(seed=1) as net:
        a, b = net.stack(), net.stack()
        net.wire(a, b, addresses=("10.0.0.1/24", "10.0.0.2/24"), delay=0.01)
        sock = b.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("", PORT))
        with a.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", ("10.0.0.2", PORT))
            assert [data for data, _ in sock.recv_many(10)] == [b"x"]
        sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            sock.recv_many(10)
        sock.close()


# -- checksums and limits


@pytest.mark.rfc("768", "no checksum")
def test_no_checksum_where_none_is_wanted(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        send(lab, sock, b"x", (PEER_IP, 9))
        assert next(p for p in heard(lab, 0.1) if UDP in p)[UDP].chksum == 0


def test_all_queues_together_have_a_limit(lab: Lab) -> None:
    lab.stack.sysctl["net.ipv4.udp_mem"] = (1, 2, 4)
    socks = [udp(lab, PORT + k) for k in range(20)]
    with counted(lab) as grown:
        for k in range(20):
            lab.peer.send(lab.peer.ip_header() / UDP(sport=5, dport=PORT + k) / Raw(bytes(1000)))
    got = sum(len(received(sock)) for sock in socks)
    assert 1 <= got <= 16
    assert grown["UdpMemErrors"] == 20 - got
    lab.peer.send(lab.peer.ip_header() / UDP(sport=5, dport=PORT) / Raw(b"again"))
    assert len(received(socks[0])) == 1, "what was read is free again"
    for sock in socks:
        sock.close()
