"""UDP sockets as Linux has them: binding, matching, connecting, broadcast, errors, truncation, buffers.

RFC 768, 1122 §4.1.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tap_harness.lab import Lab
from tap_harness.scapy_peer import BROADCAST
from tests.sim.net_helpers import PEER_IP, PEER_MAC, STACK_IP, counted, heard, icmp_errors, received, send, sent, udp

PORT = 7000
OTHER = "10.9.0.5"


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    made.peer.ping()
    made.peer.discard()
    yield made
    made.close()


def deliver(lab: Lab, data: bytes, *, src: str = PEER_IP, sport: int = 5, dst: str = STACK_IP) -> None:
    """A datagram from the wire; to a broadcast address in a broadcast frame."""
    link = BROADCAST if dst.endswith(".255") else lab.peer.target_mac
    lab.peer.send_ether(Ether(src=PEER_MAC, dst=link) / IP(src=src, dst=dst) / UDP(sport=sport, dport=PORT) / Raw(data))


def code_of(caught: pytest.ExceptionInfo[OSError]) -> str:
    return errno.errorcode[caught.value.errno or 0]


# -- binding


def test_a_port_is_given_once(lab: Lab) -> None:
    with udp(lab, PORT), pytest.raises(OSError) as caught:
        udp(lab, PORT)
    assert code_of(caught) == "EADDRINUSE"
    udp(lab, PORT).close()


@pytest.mark.parametrize(
    ("first", "second", "fits"),
    [
        ("", STACK_IP, False),
        (STACK_IP, "", False),
        (STACK_IP, STACK_IP, False),
        (STACK_IP, "127.0.0.1", True),
        (STACK_IP, "10.9.0.255", True),
    ],
)
def test_one_port_on_several_addresses(lab: Lab, first: str, second: str, fits: bool) -> None:
    with udp(lab, PORT, first):
        if fits:
            udp(lab, PORT, second).close()
        else:
            with pytest.raises(OSError) as caught:
                udp(lab, PORT, second)
            assert code_of(caught) == "EADDRINUSE"


def reusing(lab: Lab, port: int = PORT) -> Any:
    sock = udp(lab, bound=False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("", port))
    return sock


def test_address_reuse_needs_both(lab: Lab) -> None:
    with reusing(lab), reusing(lab), pytest.raises(OSError) as caught:
        udp(lab, PORT)
    assert code_of(caught) == "EADDRINUSE"


def test_of_two_with_one_address_the_latest_bound_hears(lab: Lab) -> None:
    with reusing(lab) as first, reusing(lab) as second:
        deliver(lab, b"one")
        assert (len(received(first)), len(received(second))) == (0, 1)
        second.close()
        deliver(lab, b"two")
        assert len(received(first)) == 1


@pytest.mark.parametrize("address", ["10.9.0.77", "192.0.2.1"])
def test_addresses_that_are_not_ours(lab: Lab, address: str) -> None:
    with pytest.raises(OSError) as caught:
        udp(lab, PORT, address)
    assert code_of(caught) == "EADDRNOTAVAIL"


def test_bound_once(lab: Lab) -> None:
    with udp(lab, PORT) as sock, pytest.raises(OSError) as caught:
        sock.bind(("", PORT + 1))
    assert code_of(caught) == "EINVAL"


def test_sending_binds(lab: Lab) -> None:
    with udp(lab, bound=False) as sock:
        send(lab, sock, b"x", (PEER_IP, 9))
        assert 32768 <= sock.getsockname()[1] <= 60999


# -- who gets it


@pytest.mark.rfc("1122", "4.1.3.5 addresses")
def test_the_closest_match_hears(lab: Lab) -> None:
    """Connected before bound address before wildcard."""
    wildcard, bound, peer = reusing(lab), udp(lab, bound=False), udp(lab, bound=False)
    for sock in (bound, peer):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((STACK_IP, PORT))
    peer.connect((PEER_IP, 5))
    with wildcard, bound, peer:
        deliver(lab, b"from the peer")
        deliver(lab, b"from another port", sport=6)
        deliver(lab, b"from another host", src=OTHER)
        assert [data for data, _ in received(peer)] == [b"from the peer"]
        assert [data for data, _ in received(bound)] == [b"from another port", b"from another host"]
        bound.close()
        deliver(lab, b"rest", sport=6)
        assert [data for data, _ in received(wildcard)] == [b"rest"]


@pytest.mark.rfc("1122", "4.1.3.1 port unreachable")
def test_a_connected_socket_hears_its_peer_only(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        sock.connect((PEER_IP, 5))
        deliver(lab, b"another port", sport=6)
        assert received(sock) == []
        assert icmp_errors(heard(lab, 0.1)) == [(3, 3)], "to others there is nobody at this port"
        deliver(lab, b"another host", src=OTHER)
        deliver(lab, b"the peer")
        assert [data for data, _ in received(sock)] == [b"the peer"]


@pytest.mark.parametrize("destination", ["10.9.0.255", "255.255.255.255"])
def test_broadcasts_go_to_every_match(lab: Lab, destination: str) -> None:
    """Wildcards, reused ones, the one bound to the broadcast address; not the one bound to our own address."""
    sockets = [reusing(lab), reusing(lab), udp(lab, bound=False), udp(lab, bound=False)]
    for sock, address in zip(sockets[2:], (destination, STACK_IP), strict=True):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, PORT))
    deliver(lab, b"all", dst=destination)
    assert [len(received(sock)) for sock in sockets] == [1, 1, 1, 0]
    for sock in sockets:
        sock.close()
    deliver(lab, b"nobody", dst=destination)
    assert sent(lab) == []


# -- connecting


def test_connect_chooses_the_source_and_can_be_undone(lab: Lab) -> None:
    with udp(lab, bound=False) as sock:
        with pytest.raises(OSError) as caught:
            sock.send(b"to whom?")
        assert code_of(caught) == "EDESTADDRREQ"
        sock.connect((PEER_IP, 9))
        assert sock.getsockname()[0] == STACK_IP
        assert sock.getpeername() == (PEER_IP, 9)
        sock.connect((OTHER, 10))
        assert sock.getpeername() == (OTHER, 10)


def test_connected_may_still_send_elsewhere(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        sock.connect((OTHER, 9))
        send(lab, sock, b"x", (PEER_IP, 10))
        assert [(p[IP].dst, p[UDP].dport) for p in heard(lab, 0.1) if UDP in p] == [(PEER_IP, 10)]


def test_to_the_unspecified_address_means_this_host(lab: Lab) -> None:
    with udp(lab, PORT) as server, udp(lab) as client:
        send(lab, client, b"one", ("0.0.0.0", PORT))
        client.connect(("0.0.0.0", PORT))
        client.send(b"two")
        lab.carrier.pump()
        assert [data for data, _ in received(server)] == [b"one", b"two"]


@pytest.mark.rfc("1122", "4.1.3.6 broadcast")
@pytest.mark.parametrize("destination", ["10.9.0.255", "255.255.255.255"])
def test_broadcast_must_be_allowed(lab: Lab, destination: str) -> None:
    with udp(lab, PORT) as sock:
        for attempt in (lambda: sock.sendto(b"x", (destination, 9)), lambda: sock.connect((destination, 9))):
            with pytest.raises(PermissionError):
                attempt()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        send(lab, sock, b"x", (destination, 9))
        (frame,) = sent(lab)
        assert (frame.dst, frame[IP].dst, frame[IP].src) == (BROADCAST, destination, STACK_IP)


def test_multicast_out(lab: Lab) -> None:
    """RFC 1112 §6.1, §6.4: TTL 1 unless said otherwise, link address 01:00:5e and the low 23 bits."""
    with udp(lab, PORT) as sock:
        send(lab, sock, b"x", ("239.129.2.3", 9))
    (frame,) = sent(lab)
    assert (frame.dst, frame[IP].ttl) == ("01:00:5e:01:02:03", 1)


def test_without_an_address_a_broadcast_still_leaves() -> None:
    """A DHCP client has no address yet: 0.0.0.0 is its source (RFC 2131 §4.1)."""
    lab = Lab(settle=False)
    name = next(one.name for one in lab.stack.interfaces() if one.medium == "ethernet")
    lab.stack.remove_address(name, STACK_IP)
    lab.carrier.drain()
    with udp(lab, 68) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        send(lab, sock, b"discover", ("255.255.255.255", 67))
        (frame,) = sent(lab)
        assert (frame[IP].src, frame[IP].dst, frame[UDP].sport) == ("0.0.0.0", "255.255.255.255", 68)
    lab.close()


# -- data


@pytest.mark.rfc("768", "length")
def test_empty_datagrams_are_datagrams(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        assert send(lab, sock, b"", (PEER_IP, 9)) == 0
        (frame,) = [p for p in heard(lab, 0.1) if UDP in p]
        assert (frame[UDP].len, frame[IP].len) == (8, 28)
        deliver(lab, b"")
        assert received(sock) == [(b"", (PEER_IP, 5))]


def test_truncation(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        deliver(lab, b"0123456789")
        deliver(lab, b"next")
        data, _, flags, source = sock.recvmsg(4)
        assert (data, bool(flags & socket.MSG_TRUNC), source) == (b"0123", True, (PEER_IP, 5))
        data, _, flags, _ = sock.recvmsg(4)
        assert (data, bool(flags & socket.MSG_TRUNC)) == (b"next", False)


def test_peeking_leaves_it(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        deliver(lab, b"look")
        assert sock.recv(2, socket.MSG_PEEK) == b"lo"
        assert sock.recv(10, socket.MSG_PEEK) == b"look"
        assert sock.recv(10) == b"look"
        with pytest.raises(BlockingIOError):
            sock.recv(1)


def test_gathered_from_many_pieces(lab: Lab) -> None:
    """More pieces than a frame's vector holds are gathered first."""
    with udp(lab, PORT) as sock:
        for count in (1, 3, 60, 64, 65, 500):
            pieces = [bytes([n & 255]) * (n % 3) for n in range(count)]
            sock.sendmsg(pieces, [], 0, (PEER_IP, 9))
            lab.carrier.pump()
            (frame,) = [p for p in heard(lab, 0.01) if UDP in p]
            assert bytes(frame[UDP].payload)[: frame[UDP].len - 8] == b"".join(pieces)
            rebuilt = IP(bytes(frame[IP]))
            del rebuilt[UDP].chksum
            assert IP(bytes(rebuilt))[UDP].chksum == frame[UDP].chksum


def test_receive_buffer_is_a_limit(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        with counted(lab) as grown:
            for number in range(100):
                deliver(lab, bytes([number]))
        kept = len(received(sock))
        assert 1 <= kept < 20
        assert grown["UdpRcvbufErrors"] == 100 - kept
        assert grown["UdpInDatagrams"] == kept


def test_type_of_service_and_time_to_live(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xB8)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 9)
        send(lab, sock, b"x", (PEER_IP, 9))
    (frame,) = [p for p in heard(lab, 0.1) if UDP in p]
    assert (frame[IP].tos, frame[IP].ttl) == (0xB8, 9)


# -- errors and ends


def refuse(lab: Lab, frame: Packet, code: int = 3) -> None:
    lab.peer.send(IP(src=PEER_IP, dst=STACK_IP) / ICMP(type=3, code=code) / IP(bytes(frame[IP])))


@pytest.mark.rfc("1122", "4.1.3.3 ICMP errors to the application")
@pytest.mark.parametrize(
    ("code", "name"), [(2, "ENOPROTOOPT"), (3, "ECONNREFUSED"), (13, "EHOSTUNREACH"), (10, "EHOSTUNREACH")]
)
def test_refusal_reaches_a_connected_socket_once(lab: Lab, code: int, name: str) -> None:
    with udp(lab, PORT) as sock:
        sock.connect((PEER_IP, 9))
        sock.send(b"?")
        (frame,) = [p for p in heard(lab, 0.1) if UDP in p]
        for attempt in (lambda: sock.recv(1), lambda: sock.send(b"?")):
            refuse(lab, frame, code)
            with pytest.raises(OSError) as caught:
                attempt()
            assert code_of(caught) == name
        refuse(lab, frame, code)
        assert errno.errorcode[sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)] == name
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert received(sock) == []


def test_refusal_does_not_reach_an_unconnected_socket(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        send(lab, sock, b"?", (PEER_IP, 9))
        (frame,) = [p for p in heard(lab, 0.1) if UDP in p]
        refuse(lab, frame)
        assert received(sock) == []


def test_refused_by_ourselves(lab: Lab) -> None:
    """Over loopback the port unreachable is as real, and not limited."""
    with udp(lab) as sock:
        sock.connect(("127.0.0.1", 9))
        for _ in range(20):
            sock.send(b"?")
            lab.carrier.pump()
            with pytest.raises(ConnectionRefusedError):
                sock.recv(1)


def test_shutdown(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        with pytest.raises(OSError) as caught:
            sock.shutdown(socket.SHUT_RDWR)
        assert code_of(caught) == "ENOTCONN"
        sock.connect((PEER_IP, 5))
        deliver(lab, b"before")
        sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises(BrokenPipeError):
            sock.send(b"x")
        assert sock.recv(10) == b"before"
        assert sock.recv(10) == b""


def test_readiness(lab: Lab) -> None:
    with udp(lab, PORT) as sock:
        assert select.select([sock], [sock], [], 0) == ([], [sock], [])
        deliver(lab, b"x")
        assert select.select([sock], [], [], 0)[0] == [sock]
        sock.recv(1)
        assert select.select([sock], [], [], 0)[0] == []


def test_port_zero_cannot_be_sent_to(lab: Lab) -> None:
    with udp(lab) as sock, pytest.raises(OSError) as caught:
        sock.sendto(b"x", (PEER_IP, 0))
    assert code_of(caught) == "EINVAL"
