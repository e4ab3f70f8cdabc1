"""Packet sockets on a stack's own interfaces: frames in and out, addresses, what is seen of what the stack sends.

packet(7).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

import ustack
from tap_harness.lab import Lab
from tests.sim.net_helpers import OTHER_MAC, PEER_IP, PEER_MAC, STACK_IP, counted, heard, send, sent, udp

ALL = 3  # ETH_P_ALL
OWN = 0x88B5  # IEEE 802: for experiments
SOL_PACKET, PACKET_STATISTICS, PACKET_IGNORE_OUTGOING = 263, 6, 23
HOST, BROADCAST, MULTICAST, OTHERHOST, OUTGOING = range(5)
KEEP_TEN = struct.pack("HBBI", 6, 0, 0, 10)


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    made.peer.ping()
    made.peer.discard()
    yield made
    made.close()


def device(lab: Lab) -> Any:
    return next(i for i in lab.stack.interfaces() if i.name != "lo")


def opened(lab: Lab, proto: int = ALL, kind: int = socket.SOCK_RAW) -> Any:
    sock = lab.stack.socket(socket.AF_PACKET, kind, socket.htons(proto))
    sock.setblocking(False)
    return sock


def frames(sock: Any) -> list[tuple[bytes, tuple[Any, ...]]]:
    found = []
    while True:
        try:
            found.append(sock.recvfrom(70000))
        except BlockingIOError:
            return found


def code_of(caught: pytest.ExceptionInfo[OSError]) -> str:
    return errno.errorcode[caught.value.errno or 0]


def own_frame(lab: Lab, dst: str | None = None, data: bytes = b"our own protocol") -> Ether:
    return Ether(src=PEER_MAC, dst=dst or device(lab).mac, type=OWN) / Raw(data)


def test_an_ethertype_of_ones_own(lab: Lab) -> None:
    with opened(lab, OWN) as sock, opened(lab, OWN, socket.SOCK_DGRAM) as cooked:
        frame = own_frame(lab)
        with counted(lab) as grown:
            lab.peer.send_ether(frame)
            lab.peer.send_ether(Ether(src=PEER_MAC, dst=device(lab).mac, type=0x88B6) / Raw(b"another"))
        address = (device(lab).name, OWN, HOST, 1, bytes.fromhex(PEER_MAC.replace(":", "")))
        assert frames(sock) == [(bytes(frame), address)]
        assert frames(cooked) == [(b"our own protocol", address)]
        assert grown["DropEthType"] == 1


def test_who_it_is_for(lab: Lab) -> None:
    with opened(lab, OWN) as sock:
        for dst in (device(lab).mac, "ff:ff:ff:ff:ff:ff", "01:00:5e:01:02:03", OTHER_MAC):
            lab.peer.send_ether(own_frame(lab, dst))
        assert [address[2] for _, address in frames(sock)] == [HOST, BROADCAST, MULTICAST, OTHERHOST]


def test_everything_both_ways(lab: Lab) -> None:
    with opened(lab) as sock, opened(lab, 0x0800) as only_in, udp(lab, 7000) as plain:
        send(lab, plain, b"out", (PEER_IP, 9))
        request = Ether(src=PEER_MAC, dst=device(lab).mac) / IP(src=PEER_IP, dst=STACK_IP) / ICMP() / Raw(b"12345678")
        lab.peer.send_ether(request)
        seen = [(address[2], address[1], Ether(data)) for data, address in frames(sock)]
        assert [(kind, proto) for kind, proto, _ in seen] == [(OUTGOING, 0x800), (HOST, 0x800), (OUTGOING, 0x800)]
        assert bytes(seen[0][2][UDP].payload) == b"out"
        assert seen[2][2][ICMP].type == 0
        assert seen[2][2].src == device(lab).mac
        assert [address[2] for _, address in frames(only_in)] == [HOST]
        sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        lab.peer.send_ether(request)
        assert [address[2] for _, address in frames(sock)] == [HOST]


def test_the_stack_goes_on_as_ever(lab: Lab) -> None:
    """ARP is answered, ping too, with and without listeners."""
    with opened(lab):
        lab.peer.send_ether(Ether(src=PEER_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(psrc=PEER_IP, pdst=STACK_IP))
        assert 2 in [p[ARP].op for p in sent(lab) if ARP in p]
        lab.peer.ping()
    lab.peer.ping()


def test_sending_a_frame(lab: Lab) -> None:
    with opened(lab, OWN) as sock, opened(lab) as other:
        sock.bind((device(lab).name, OWN))
        frame = bytes(own_frame(lab, PEER_MAC))
        assert sock.send(frame) == len(frame)
        assert sock.sendmsg([frame[:3], frame[3:]]) == len(frame)
        lab.carrier.pump()
        assert [bytes(p) for p in sent(lab)] == [frame, frame]
        assert [(data, address[2]) for data, address in frames(other)] == [(frame, OUTGOING)] * 2
        other.bind((device(lab).name, ALL))
        assert other.send(frame) == len(frame)
        assert frames(other) == []  # packet(7): nobody hears himself


def test_sending_cooked(lab: Lab) -> None:
    with opened(lab, OWN, socket.SOCK_DGRAM) as sock:
        peer = bytes.fromhex(PEER_MAC.replace(":", ""))
        assert sock.sendto(b"payload", (device(lab).name, OWN, 0, 0, peer)) == 7
        (frame,) = sent(lab)
        assert (frame.src, frame.dst, frame.type) == (device(lab).mac, PEER_MAC, OWN)
        assert bytes(frame.payload) == b"payload"


@pytest.mark.parametrize(
    ("kind", "data", "bound", "code"),
    [
        (socket.SOCK_RAW, bytes(60), False, "ENXIO"),
        (socket.SOCK_RAW, bytes(13), True, "EINVAL"),
        (socket.SOCK_RAW, bytes(1515), True, "EMSGSIZE"),
        (socket.SOCK_RAW, bytes(70000), True, "EMSGSIZE"),
        (socket.SOCK_DGRAM, bytes(60), True, "EINVAL"),
    ],
    ids=["no interface", "no header", "a byte too long", "far too long", "no address"],
)
def test_sending_refused(lab: Lab, kind: int, data: bytes, bound: bool, code: str) -> None:
    with opened(lab, OWN, kind) as sock:
        if bound:
            sock.bind((device(lab).name, 0))
        with pytest.raises(OSError) as caught:
            sock.send(data)
        assert code_of(caught) == code


def test_names(lab: Lab) -> None:
    with opened(lab, OWN) as sock:
        assert (sock.family, sock.type) == (socket.AF_PACKET, socket.SOCK_RAW)
        assert sock.getsockname() == ("", OWN, 0, 0, b"")
        sock.bind((device(lab).name, 0x1234))
        mac = bytes.fromhex(device(lab).mac.replace(":", ""))
        assert sock.getsockname() == (device(lab).name, 0x1234, 0, 1, mac)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == 0
        for call in (sock.getpeername, lambda: sock.connect((device(lab).name, 0)), lambda: sock.shutdown(2)):
            with pytest.raises(OSError) as caught:
                call()
            assert code_of(caught) == "ENOTSUP"
        with pytest.raises(OSError) as caught:
            sock.bind(("nowhere", 0))
        assert code_of(caught) == "ENODEV"
        with pytest.raises(OverflowError):
            sock.bind((device(lab).name, 65536))
        with pytest.raises(TypeError):
            sock.bind("ust0")
        assert [(c.protocol, c.local) for c in lab.stack.connections() if c.protocol == "p_raw"] == [
            ("p_raw", (device(lab).name, 0x1234))
        ]


def test_bound_to_another_interface_it_hears_nothing_of_this_one(lab: Lab) -> None:
    with opened(lab) as sock:
        sock.bind(("lo", ALL))
        lab.peer.send_ether(own_frame(lab))
        assert frames(sock) == []
        with udp(lab, 7000) as plain:
            send(lab, plain, b"to myself", ("127.0.0.1", 7000))
        both = frames(sock)
        assert [address[2] for _, address in both] == [OUTGOING, HOST]
        assert both[0][0] == both[1][0]
        assert both[0][0][:14] == bytes(12) + b"\x08\x00"
        assert both[0][1][3] == 772  # ARPHRD_LOOPBACK
        assert bytes(Ether(both[0][0])[UDP].payload) == b"to myself"


def test_what_is_short_or_lost(lab: Lab) -> None:
    with opened(lab) as sock:
        with counted(lab) as grown:
            lab.carrier.send(bytes(13))
        assert grown["DropEthTruncated"] == 1
        assert frames(sock) == []
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4000)
        with counted(lab) as grown:
            for _ in range(40):
                lab.peer.send_ether(own_frame(lab))
        kept = len(frames(sock))
        assert 0 < kept < 40
        assert grown["DropPacketQueueFull"] == 40 - kept
        assert struct.unpack("II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)) == (40, 40 - kept)
        assert struct.unpack("II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)) == (0, 0)


def test_a_filter(lab: Lab) -> None:
    outgoing_only = struct.pack("HBBIHBBIHBBIHBBI", 0x28, 0, 0, 0xFFFFF004, 0x15, 0, 1, 4, 6, 0, 0, 50, 6, 0, 0, 0)
    with opened(lab) as sock, opened(lab) as short:
        sock.setsockopt(socket.SOL_SOCKET, 26, outgoing_only)
        short.setsockopt(socket.SOL_SOCKET, 26, KEEP_TEN)
        lab.peer.ping()
        assert [address[2] for _, address in frames(sock)] == [OUTGOING]
        assert [len(data) for data, _ in frames(short)] == [10, 10]


def test_a_link_without_header() -> None:
    out: list[bytes] = []
    with ustack.Stack(driver="manual") as stack:
        link = ustack.Callback(send=out.append, medium="ip")
        name = stack.attach(link, addresses=["10.9.0.2/24"])
        with stack.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL)) as sock:
            sock.setblocking(False)
            packet = bytes(IP(src="10.9.0.1", dst="10.9.0.2") / UDP(dport=9) / Raw(b"in"))
            link.receive(packet)
            stack.poll(1)
            (data, address), *_ = frames(sock)
            assert (data, address) == (packet, (name, 0x0800, HOST, 0xFFFE, b""))
            assert sock.sendto(packet, (name, 0x0800)) == len(packet)
            stack.poll(2)
            assert out[-1] == packet


def test_memory_comes_back(lab: Lab) -> None:
    sock = opened(lab)
    for _ in range(10):
        lab.peer.send_ether(own_frame(lab))
    sock.close()
    assert heard(lab, 0.01) == []
