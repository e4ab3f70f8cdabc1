"""Stack.capture() in virtual time: which frames are in the file, in what order, when, and what became of them."""

from __future__ import annotations

import contextlib
import io
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether

import ustack
from ustack import pcapng
from ustack.pcapng import INBOUND, OUTBOUND, Packet
from ustack.sim import Network

MS = 1_000_000
MACS = (bytes.fromhex("020000000001"), bytes.fromhex("020000000002"))
ONLY_UDP = [(0x30, 0, 0, 23), (0x15, 0, 1, 17), (0x6, 0, 0, 262144), (0x6, 0, 0, 0)]  # Ethernet, IPv4
FIRST_40 = [(0x6, 0, 0, 40)]


@pytest.fixture
def net() -> Iterator[Network]:
    with Network(seed=5) as made:
        yield made


class Captured:
    """A stack with a capture on a wire, and a raw other end."""

    def __init__(self, net: Network, **options: Any) -> None:
        self.net = net
        self.file = io.BytesIO()
        self.stack = net.stack()
        self.wire = net.wire(self.stack, None, addresses=("10.0.0.1/24", None), delay=0.001, macs=MACS)
        self.stack.add_neighbor(self.stack.interfaces()[-1].name, "10.0.0.2", MACS[1])
        net.run(5)  # announcements
        with contextlib.suppress(TimeoutError):
            while True:
                self.wire.b.recv(0)
        self.begin = net.now
        self.capture = self.stack.capture(self.file, **options)

    def send(self, packet: Any) -> None:
        self.wire.b.send(bytes(Ether(dst=MACS[0], src=MACS[1]) / packet))
        self.net.run(0.002)

    def packets(self) -> list[Packet]:
        self.capture.flush()
        return list(pcapng.read(io.BytesIO(self.file.getvalue())))


def datagram(port: int = 9, dst: str = "10.0.0.1", data: bytes = b"x") -> Any:
    return IP(src="10.0.0.2", dst=dst) / UDP(sport=5, dport=port) / data


def test_a_question_and_its_answer(net: Network) -> None:
    it = Captured(net)
    it.send(ARP(op=1, hwsrc=MACS[1], psrc="10.0.0.2", pdst="10.0.0.1"))
    question, answer = it.packets()
    assert (question.direction, answer.direction) == (INBOUND, OUTBOUND)
    assert (question.ns - it.begin, answer.ns - it.begin) == (MS, MS)
    assert {one.interface for one in (question, answer)} == {it.stack.interfaces()[-1].name}
    assert {one.linktype for one in (question, answer)} == {pcapng.ETHERNET}
    assert answer.data == it.wire.b.recv(0), "as it went over the wire"
    assert answer.length == len(answer.data)
    assert question.comments == answer.comments == ()


def test_it_says_why_a_packet_was_dropped(net: Network) -> None:
    it = Captured(net)
    it.send(datagram(dst="10.0.0.77"))
    it.send(datagram(port=9))
    broken = IP(bytes(datagram()))
    broken[UDP].chksum = 0x1234
    it.send(broken)
    reasons = [one.comments for one in it.packets() if one.direction == INBOUND]
    assert reasons == [("dropped: DropIpNotOurs",), ("dropped: UdpNoPorts",), ("dropped: UdpInCsumErrors",)]
    unreachable = [one for one in it.packets() if one.direction == OUTBOUND]
    assert [one.comments for one in unreachable] == [()], "the answer to the second stands behind it, unharmed"
    assert Ether(unreachable[0].data)[IP].proto == 1


def test_what_the_link_did_not_take_is_said_of_what_was_sent() -> None:
    end, other = ustack.pipe(queue=1)
    file = io.BytesIO()
    with ustack.Stack(driver="manual") as stack:
        name = stack.attach(end, addresses=["10.0.0.1/24"])
        stack.add_neighbor(name, "10.0.0.2", MACS[1])
        other.recv(0)  # an announcement
        with stack.capture(file), stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(2):
                sock.sendto(b"x", ("10.0.0.2", 7))
    got = [one.comments for one in pcapng.read(io.BytesIO(file.getvalue())) if one.direction == OUTBOUND]
    assert sorted(got)[-1] == ("dropped: DropTxQueueFull",)
    assert len([one for one in got if one == ()]) == 1
    other.close()


def test_a_filter_of_ones_own(net: Network) -> None:
    it = Captured(net, filter=ONLY_UDP)
    it.send(ARP(op=1, hwsrc=MACS[1], psrc="10.0.0.2", pdst="10.0.0.1"))
    it.send(datagram(port=9))
    with it.stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"out", ("10.0.0.2", 7))
    assert [(one.direction, one.data[-1:]) for one in it.packets()] == [(INBOUND, b"x"), (OUTBOUND, b"t")]


def test_a_filter_and_snaplen_say_how_much_of_a_packet(net: Network) -> None:
    for options in ({"filter": FIRST_40}, {"snaplen": 40}):
        it = Captured(Network(seed=1), **options)
        it.send(datagram(data=b"x" * 100))
        inbound, outbound = it.packets()
        assert (len(inbound.data), inbound.length) == (40, 142)
        assert (len(outbound.data), outbound.length > 40) == (40, True)
        it.net.close()


def test_only_one_interface(net: Network) -> None:
    stack = net.stack()
    for number in (1, 2):
        net.wire(stack, None, addresses=(f"10.0.{number}.1/24", None), name=f"w{number}")
    names = [one.name for one in stack.interfaces() if one.name != "lo"]
    file = io.BytesIO()
    with stack.capture(file, interface=names[1]), stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for to in ("10.0.1.9", "10.0.2.9", "127.0.0.1"):
            sock.sendto(b"x", (to, 7))
    assert {one.interface for one in pcapng.read(io.BytesIO(file.getvalue()))} == {names[1]}
    with pytest.raises(OSError, match="No such device"):
        stack.capture(file, interface="nothing")


def test_the_loopback_is_written_down_once(net: Network) -> None:
    stack, file = net.stack(), io.BytesIO()
    with stack.capture(file), stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 7))
        sock.sendto(b"x", ("127.0.0.1", 7))
        assert sock.recv(9) == b"x"
    (one,) = pcapng.read(io.BytesIO(file.getvalue()))
    assert (one.interface, one.linktype, one.data[0]) == ("lo", pcapng.RAW, 0x45)


def test_an_interface_that_takes_the_place_of_another(net: Network) -> None:
    it = Captured(net)
    it.send(datagram())
    it.stack.detach(it.wire.a)
    it.wire = net.wire(it.stack, None, addresses=("10.0.0.1/24", None), macs=MACS, name="next")
    it.send(datagram())
    names = [one.interface for one in it.packets() if one.direction == INBOUND]
    assert len(set(names)) == 2


def test_a_superframe_is_one_frame(net: Network) -> None:
    a, b, file = net.stack(), net.stack(), io.BytesIO()
    net.wire(a, b, addresses=("10.0.0.1/24", "10.0.0.2/24"))
    with a.capture(file), b.create_server(("", 80)) as server, a.create_connection(("10.0.0.2", 80)) as client:
        conn, _ = server.accept()
        client.sendall(b"x" * 14480)
        got = b""
        while len(got) < 14480:
            got += conn.recv(65536)
        conn.close()
    sizes = [one.length for one in pcapng.read(io.BytesIO(file.getvalue())) if one.direction == OUTBOUND]
    assert max(sizes) > 1514


def test_the_same_connection_with_and_without_a_capture() -> None:
    """A capture changes nothing that goes over the wire but when acknowledgements of joined segments are sent."""
    got = []
    for capture in (False, True):
        with Network(seed=9) as net:
            a, b, file = net.stack(), net.stack(), io.BytesIO()
            net.wire(a, b, addresses=("10.0.0.1/24", "10.0.0.2/24"), delay=0.01, loss=0.02)
            if capture:
                b.capture(file)
            server = b.create_server(("", 80))
            client = a.create_connection(("10.0.0.2", 80))
            conn, _ = server.accept()
            net.spawn(lambda client=client: (client.sendall(bytes(range(256)) * 400), client.close()))
            data = b""
            while piece := conn.recv(65536):
                data += piece
            got.append(data)
    assert got[0] == got[1] == bytes(range(256)) * 400
    flags = [Ether(one.data)[TCP].flags for one in pcapng.read(io.BytesIO(file.getvalue())) if TCP in Ether(one.data)]
    assert "S" in {str(one) for one in flags}
    assert any("F" in str(one) for one in flags)


def test_a_full_buffer_is_written_by_itself(net: Network) -> None:
    it = Captured(net, buffer=65536)
    for number in range(100):
        it.send(datagram(data=bytes([number]) * 1000))
    assert it.file.getvalue().count(struct.pack("=I", 6)) > 50
    assert len([one for one in it.packets() if one.direction == INBOUND]) == 100
    assert it.capture.dropped == 0


def test_what_finds_no_room_is_counted() -> None:
    end, other = ustack.pipe()
    file = io.BytesIO()
    with ustack.Stack(driver="manual") as stack:
        name = stack.attach(end, addresses=["10.0.0.1/24"])
        stack.add_neighbor(name, "10.0.0.2", MACS[1])
        capture = stack.capture(file, buffer=8192)
        before = len(file.getvalue())
        for number in range(20):
            other.send(bytes(Ether(dst=end.mac, src=MACS[1]) / datagram(data=bytes([number]) * 1000)))
        stack.poll(10)
        seen = capture.frames
        assert capture.dropped > 0
        assert len(file.getvalue()) > before
        other.send(bytes(Ether(dst=end.mac, src=MACS[1]) / datagram(data=b"afterwards")))
        stack.poll(20)
        assert capture.frames > seen
    assert "afterwards" in str(list(pcapng.read(io.BytesIO(file.getvalue()))))


def test_a_stack_that_hands_packets_out_while_it_is_written() -> None:
    """The writer lets the engine run, and what that sends is handed out in Python, which looks at captures again."""
    sent: list[bytes] = []
    link = ustack.Callback(send=sent.append, medium="ip")
    file = io.BytesIO()
    with ustack.Stack(driver="manual") as stack:
        stack.attach(link, addresses=["10.0.0.1/24"])
        with stack.capture(file, buffer=8192) as capture, stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for number in range(50):
                link.receive(bytes(datagram(data=bytes([number]) * 300)))
                sock.sendto(b"x" * 300, ("10.0.0.2", 7))
                capture.flush()
                stack.poll(number * 10**9)
        assert capture.dropped == 0
    assert len(list(pcapng.read(io.BytesIO(file.getvalue())))) == capture.frames == 50 + len(sent)


def test_by_a_path_and_in_sections_of_the_stacks_life(net: Network, tmp_path: Path) -> None:
    it = Captured(net)
    path = tmp_path / "trace.pcapng"
    with it.stack.capture(str(path)) as second:
        it.send(datagram())
        assert (second.frames, it.capture.frames) == (2, 2)
    it.send(datagram())
    assert second.closed
    assert (second.frames, it.capture.frames) == (2, 4)
    with path.open("rb") as file:
        assert len(list(pcapng.read(file))) == 2
    it.stack.close()
    assert it.capture.closed
    assert len(list(pcapng.read(io.BytesIO(it.file.getvalue())))) >= 4
    with pytest.raises(OSError, match="closed"):
        it.stack.capture(io.BytesIO())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"snaplen": 0}, ValueError),
        ({"buffer": 100}, ValueError),
        ({"filter": [(0x6, 0)]}, ValueError),
        ({"filter": b"\xff" * 8}, OSError),
        ({"filter": [(0x20, 0, 0, 0)]}, OSError),  # falls off the end
    ],
)
def test_what_is_refused(net: Network, options: dict[str, Any], error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error):
        net.stack().capture(tmp_path / "file", **options)


def test_a_file_that_cannot_be_written(net: Network) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() > 0:
                raise OSError(28, "No space left on device")
            return super().write(data)

    it = Captured(net)
    capture = it.stack.capture(Full())
    it.send(datagram())
    with pytest.raises(OSError, match="No space"):
        capture.flush()
    assert capture.closed
    it.send(datagram())
    assert len([one for one in it.packets() if one.direction == INBOUND]) == 2, "the other goes on"
