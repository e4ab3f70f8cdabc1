"""Network address translation, in virtual time: RFC 3022, 4787, 5382, 5508."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP, IPerror, UDPerror
from scapy.layers.l2 import Ether
from scapy.packet import Raw

import ustack
from ustack import sim

OUTER = "192.0.2.1"
REMOTE = "192.0.2.2"
INNER = ("10.0.0.2", "10.0.1.2")


class House:
    """Two hosts behind a router that masquerades, and a remote one that has no route to them."""

    def __init__(self, **wire: Any) -> None:
        self.net = sim.Network(seed=11)
        self.hosts = [self.net.stack(f"host{k}") for k in range(2)]
        self.router, self.remote = self.net.stack("router"), self.net.stack("remote")
        for k, host in enumerate(self.hosts):
            self.net.wire(host, self.router, addresses=(f"{INNER[k]}/24", f"10.0.{k}.1/24"), delay=0.001)
            host.add_route("default", f"10.0.{k}.1")
        self.inside = self.router.interfaces()[1].name
        self.outside = self.net.wire(
            self.router, self.remote, addresses=(f"{OUTER}/24", f"{REMOTE}/24"), delay=0.005, **wire
        )
        self.wan = self.router.interfaces()[-1].name
        self.router.sysctl["net.ipv4.ip_forward"] = 1
        self.router.nat.masquerade(self.wan)
        self.seen: list[IP] = []
        self.outside.filter = self._look

    def _look(self, frame: bytes, number: int) -> bytes:
        if frame[12:14] == b"\x08\x00":
            self.seen.append(Ether(frame)[IP])
        return frame

    def __enter__(self) -> House:
        return self

    def __exit__(self, *exc: Any) -> None:
        # Nothing that was said outside names an inner address.
        for packet in self.seen:
            assert {packet.src, packet.dst} <= {OUTER, REMOTE}
            assert not any(socket.inet_aton(inner) in bytes(packet) for inner in INNER)
        self.net.close()


@pytest.fixture
def house() -> Iterator[House]:
    with House() as made:
        yield made


def udp(stack: ustack.Stack, address: str = "", port: int = 0) -> Any:
    sock = stack.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.bind((address, port))
    return sock


def echo_once(house: House, listener: Any) -> Any:
    def serve() -> tuple[str, int]:
        conn, peer = listener.accept()
        with conn:
            while data := conn.recv(65536):
                conn.sendall(data)
        return peer  # type: ignore[no-any-return]

    return house.net.spawn(serve)


@pytest.mark.rfc("3022", "4 translation of TCP")
def test_tcp_out(house: House) -> None:
    listener = house.remote.create_server(("", 80))
    data = bytes(range(251)) * 800
    peers = []
    for host in house.hosts:
        task = echo_once(house, listener)
        with host.create_connection((REMOTE, 80), timeout=30) as client:
            house.net.spawn(lambda client=client: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
            got = bytearray()
            while part := client.recv(65536):
                got += part
            assert got == data
        peers.append(task.result())
    assert {peer[0] for peer in peers} == {OUTER}
    flows = house.router.nat.flows()
    assert {flow.inner[0] for flow in flows} == set(INNER)
    assert [(flow.protocol, flow.outer) for flow in flows] == [("tcp", peer) for peer in peers]
    assert house.router.counters()["NatFlowsMade"] == 2
    listener.close()


@pytest.mark.rfc("4787", "REQ-1 endpoint-independent mapping")
def test_an_endpoint_has_one_port_outside(house: House) -> None:
    first, second = udp(house.remote, "", 1000), udp(house.remote, "", 2000)
    inner = udp(house.hosts[0], "", 5000)
    inner.sendto(b"one", (REMOTE, 1000))
    inner.sendto(b"two", (REMOTE, 2000))
    assert first.recvfrom(10)[1] == second.recvfrom(10)[1]
    other = udp(house.hosts[1], "", 5000)
    other.sendto(b"three", (REMOTE, 1000))
    assert first.recvfrom(10)[1] != second
    assert len({flow.outer for flow in house.router.nat.flows()}) == 2


@pytest.mark.rfc("4787", "REQ-8 filtering")
def test_only_the_flow_s_remote_is_let_in(house: House) -> None:
    inner, known, stranger = udp(house.hosts[0], "", 5000), udp(house.remote, "", 1000), udp(house.remote, "", 3000)
    inner.sendto(b"hello", (REMOTE, 1000))
    _, outer = known.recvfrom(10)
    stranger.sendto(b"knock", outer)
    known.sendto(b"answer", outer)
    assert inner.recvfrom(10) == (b"answer", (REMOTE, 1000))
    house.net.run(1)
    inner.settimeout(0)
    with pytest.raises(BlockingIOError):
        inner.recv(10)


def test_ports_of_the_stack_s_own_connections_are_never_taken(house: House) -> None:
    sink = udp(house.remote, "", 1000)
    low, high = house.router.sysctl["net.ipv4.ip_local_port_range"]
    for _ in range(200):
        with udp(house.hosts[0]) as inner:
            inner.sendto(b"x", (REMOTE, 1000))
            assert not low <= sink.recvfrom(10)[1][1] <= high


@pytest.mark.rfc("3022", "4.1 forwarding of ports")
def test_a_forwarded_port(house: House) -> None:
    house.router.nat.forward(house.wan, "tcp", 8080, (INNER[1], 80))
    listener = house.hosts[1].create_server(("", 80))
    task = echo_once(house, listener)
    with house.remote.create_connection((OUTER, 8080), timeout=10) as client:
        client.sendall(b"through")
        assert client.recv(100) == b"through"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert task.result()[0] == REMOTE  # the inner host sees who asks
    with pytest.raises(OSError) as caught:
        house.router.nat.forward(house.wan, "tcp", 8080, (INNER[0], 80))
    assert caught.value.errno == errno.EEXIST
    house.router.nat.unforward(house.wan, "tcp", 8080)
    with pytest.raises(ConnectionRefusedError):
        house.remote.create_connection((OUTER, 8080), timeout=10)
    listener.close()


def test_the_router_s_own_services_stay_its_own(house: House) -> None:
    listener = house.router.create_server(("", 80))
    house.remote.create_connection((OUTER, 80), timeout=10).close()
    with udp(house.router) as own:
        far = udp(house.remote, "", 9)
        own.sendto(b"mine", (REMOTE, 9))
        data, (address, port) = far.recvfrom(10)
        assert (data, address, port) == (b"mine", OUTER, own.getsockname()[1])
        far.sendto(b"yours", (address, port))
        assert own.recv(10) == b"yours"
    assert house.router.nat.flows() == []
    listener.close()


@pytest.mark.rfc("5508", "REQ-1 echoes")
def test_ping(house: House) -> None:
    for host in house.hosts:
        with host.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
            sock.settimeout(5)
            sock.sendto(struct.pack(">BBHHH", 8, 0, 0, 0, 7) + b"payload", (REMOTE, 0))
            reply = sock.recv(100)
            assert (reply[0], reply[6:8], reply[8:]) == (0, b"\0\7", b"payload")
    assert [flow.protocol for flow in house.router.nat.flows()] == ["icmp", "icmp"]


@pytest.mark.rfc("5508", "REQ-4 errors from outside")
def test_an_error_from_outside_reaches_the_inner_socket(house: House) -> None:
    inner = udp(house.hosts[0])
    inner.connect((REMOTE, 9))
    inner.send(b"nobody there")
    house.net.run(1)
    with pytest.raises(ConnectionRefusedError):
        inner.recv(10)


@pytest.mark.rfc("5508", "REQ-5 errors from inside")
def test_an_error_from_inside_names_the_outer_address(house: House) -> None:
    house.router.nat.forward(house.wan, "udp", 700, (INNER[0], 7))
    asking = udp(house.remote)
    asking.connect((OUTER, 700))
    asking.send(b"nobody there")
    house.net.run(1)
    with pytest.raises(ConnectionRefusedError):
        asking.recv(10)
    errors = [packet for packet in house.seen if packet.haslayer(ICMP)]
    assert [(one.src, one[IPerror].dst, one[UDPerror].dport) for one in errors] == [(OUTER, OUTER, 700)]


@pytest.mark.rfc("5508", "REQ-4 errors of the router itself")
def test_too_big_for_the_inside_is_said_with_the_outer_address() -> None:
    with House() as house:
        house.router.nat.forward(house.wan, "udp", 700, (INNER[0], 7))
        house.router.add_route(f"{INNER[0]}/32", None, house.inside, mtu=600)
        asking = udp(house.remote)
        asking.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
        asking.connect((OUTER, 700))
        asking.send(bytes(1000))
        house.net.run(1)
        (error,) = [packet for packet in house.seen if packet.haslayer(ICMP)]
        assert (error[ICMP].type, error[ICMP].code, error[ICMP].nexthopmtu) == (3, 4, 600)
        assert (error.src, error[IPerror].dst, error[UDPerror].dport) == (OUTER, OUTER, 700)


def test_fragments_are_put_together_first(house: House) -> None:
    far, inner = udp(house.remote, "", 1000), udp(house.hosts[0], "", 5000)
    data = bytes(range(250)) * 16
    inner.sendto(data, (REMOTE, 1000))
    got, outer = far.recvfrom(65535)
    assert got == data
    far.sendto(data[::-1], outer)
    assert inner.recv(65535) == data[::-1]


@pytest.mark.rfc("5382", "REQ-5 timers")
def test_flows_end_when_they_were_idle(house: House) -> None:
    listener = house.remote.create_server(("", 80))
    client = house.hosts[0].create_connection((REMOTE, 80), timeout=10)
    conn, _ = listener.accept()
    with udp(house.hosts[0]) as inner, udp(house.remote, "", 9):
        inner.sendto(b"x", (REMOTE, 9))
        house.net.run(1)
    assert sorted(flow.protocol for flow in house.router.nat.flows()) == ["tcp", "udp"]
    house.net.run(400)
    assert [flow.protocol for flow in house.router.nat.flows()] == ["tcp"]
    house.net.run(7000 - 400)
    client.sendall(b"still there")
    assert conn.recv(100) == b"still there"
    house.net.run(7000)
    assert len(house.router.nat.flows()) == 1
    client.close()
    conn.close()
    house.net.run(300)
    assert house.router.nat.flows() == []
    listener.close()


def test_the_table_is_bounded_and_keeps_connections(house: House) -> None:
    house.router.sysctl["net.netfilter.nf_conntrack_max"] = 50
    listener = house.remote.create_server(("", 80))
    client = house.hosts[0].create_connection((REMOTE, 80), timeout=10)
    conn, _ = listener.accept()
    sink = udp(house.remote, "", 9)
    for _ in range(300):
        with udp(house.hosts[1]) as inner:
            inner.sendto(b"x", (REMOTE, 9))
            sink.recv(10)
    assert len(house.router.nat.flows()) == 50
    assert house.router.counters()["NatFlowsShed"] == 251
    client.sendall(b"not mine")
    assert conn.recv(100) == b"not mine"
    for one in (client, conn, listener):
        one.close()


def test_hostile_packets_from_outside() -> None:
    """Short, odd, and about flows that are not: none passes, none changes a flow."""
    with sim.Network(seed=12) as net:
        host, router = net.stack(), net.stack()
        net.wire(host, router, addresses=("10.0.0.2/24", "10.0.0.1/24"))
        outside = net.wire(router, None, addresses=(f"{OUTER}/24", None))
        host.add_route("default", "10.0.0.1")
        router.sysctl["net.ipv4.ip_forward"] = 1
        wan = router.interfaces()[-1]
        router.add_neighbor(wan.name, REMOTE, "02:00:00:00:00:99")
        router.nat.masquerade(wan.name)
        inner = udp(host, "", 5000)
        inner.sendto(b"x", (REMOTE, 1000))
        net.run(1)
        (flow,) = router.nat.flows()
        port = flow.outer[1]
        known = IP(src=OUTER, dst=REMOTE) / UDP(sport=port, dport=1000) / b"x"
        quotes = [
            b"",
            b"\x45",
            bytes(known)[:20],
            bytes(known)[:22],
            bytes(IP(src=OUTER, dst=REMOTE) / UDP(sport=port + 1, dport=1000) / b"x"),
            b"\x4f" + bytes(known)[1:],
            bytes(IP(src=OUTER, dst=REMOTE, frag=7, proto=17) / UDP(sport=port, dport=1000)),
            bytes(IP(src=OUTER, dst=REMOTE, proto=47) / Raw(bytes(20))),
        ]
        packets = [IP(src=REMOTE, dst=OUTER) / ICMP(type=3, code=3) / Raw(quote) for quote in quotes]
        packets += [
            IP(src=REMOTE, dst=OUTER) / ICMP(type=3, code=3, chksum=1) / Raw(bytes(known)),
            IP(src=REMOTE, dst=OUTER, proto=6) / Raw(bytes(7)),
            IP(src=REMOTE, dst=OUTER, proto=17) / Raw(bytes(4)),
            IP(src=REMOTE, dst=OUTER, proto=1) / Raw(bytes(2)),
            IP(src="192.0.2.3", dst=OUTER) / UDP(sport=1000, dport=port) / b"from another",
            IP(src=REMOTE, dst=OUTER) / UDP(sport=1001, dport=port) / b"from another port",
        ]
        forwarded = router.counters()["IpForwDatagrams"]
        for packet in packets:
            outside.b.send(bytes(Ether(src="02:00:00:00:00:99", dst=wan.mac) / packet))
        net.run(1)
        assert router.counters()["IpForwDatagrams"] == forwarded
        assert len(router.nat.flows()) == 1
        outside.b.send(bytes(Ether(dst=wan.mac) / IP(src=REMOTE, dst=OUTER) / UDP(sport=1000, dport=port) / b"mine"))
        assert inner.recv(100) == b"mine"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("wan", "sctp", 1, (INNER[0], 1)), ValueError),
        (("wan", "tcp", 0, (INNER[0], 1)), ValueError),
        (("wan", "tcp", 1, (INNER[0], 65536)), ValueError),
        (("wan", "tcp", 1, ("fd00::1", 1)), ValueError),
        (("nowhere", "tcp", 1, (INNER[0], 1)), OSError),
    ],
)
def test_what_cannot_be_forwarded(house: House, arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        house.router.nat.forward(*arguments)
