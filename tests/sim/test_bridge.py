"""Bridges (IEEE 802.1D without spanning tree): where frames go, what is learnt, forgotten, refused. In virtual time."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from ustack import sim

ALL = "ff:ff:ff:ff:ff:ff"


def mac(number: int) -> str:
    return f"02:aa:00:00:{number >> 8:02x}:{number & 255:02x}"


class Switch:
    """A bridge of `count` wires whose other ends are the test's."""

    def __init__(self, count: int = 3, **settings: Any) -> None:
        self.net = sim.Network(seed=7)
        self.stack = self.net.stack("switch")
        self.wires = [self.net.wire(None, self.stack) for _ in range(count)]
        self.ports = [one.name for one in self.stack.interfaces()[1:]]
        self.stack.add_bridge("br0", self.ports, addresses=["10.0.0.1/24"], **settings)
        self.mac = self.stack.interfaces()[-1].mac or ""
        self.net.run(duration=1)
        self.heard()

    def heard(self) -> list[list[bytes]]:
        """What came out of each port since the last time."""
        self.net.run(duration=0.01)
        return [[wire.a.recv(0) for _ in range(wire.a.pending)] for wire in self.wires]

    def send(self, port: int, frame: Any) -> list[int]:
        """A frame into a port -> the ports that it came out of, unchanged."""
        self.wires[port].a.send(bytes(frame))
        out = self.heard()
        assert all(one == bytes(frame) for frames in out for one in frames)
        return [k for k, frames in enumerate(out) for _ in frames]

    def known(self) -> dict[str, int]:
        return {one.mac: self.ports.index(one.interface) for one in self.stack.stations("br0")}

    def drops(self) -> dict[str, int]:
        return {name: n for name, n in self.stack.counters().items() if name.startswith("Drop") and n}


@pytest.fixture
def switch() -> Iterator[Switch]:
    made = Switch()
    yield made
    made.net.close()


def frame(src: int, dst: int | str, data: bytes = b"data") -> Any:
    to = mac(dst) if isinstance(dst, int) else dst
    return Ether(src=mac(src), dst=to, type=0x88B5) / Raw(data)


def test_learning_and_flooding(switch: Switch) -> None:
    assert switch.send(0, frame(1, 2)) == [1, 2]  # unknown: everywhere but back
    assert switch.known() == {mac(1): 0}
    assert switch.send(1, frame(2, 1)) == [0]
    assert switch.send(0, frame(1, 2)) == [1]
    assert switch.send(2, frame(3, ALL)) == [0, 1]
    assert switch.send(2, frame(3, "01:00:5e:01:02:03")) == [0, 1]
    assert switch.known() == {mac(1): 0, mac(2): 1, mac(3): 2}
    # Where it came from it does not go back: the station has heard it already.
    assert switch.send(1, frame(4, 2)) == []
    assert switch.drops() == {"DropBridgeSamePort": 1, "DropEthNotOurs": 1, "DropEthType": 1}
    assert switch.stack.counters()["BridgeForwarded"] == 2


def test_tags_and_odd_types_go_through(switch: Switch) -> None:
    switch.send(1, frame(2, ALL))
    for one in (
        Ether(src=mac(1), dst=mac(2)) / Dot1Q(vlan=9) / IP(src="10.0.0.9", dst="10.0.0.8") / UDP() / Raw(b"x"),
        Ether(src=mac(1), dst=mac(2), type=4) / Raw(b"\x42\x42\x03"),  # 802.3
        Ether(src=mac(1), dst=mac(2), type=0x8100),  # without the rest of its tag
        Ether(src=mac(1), dst=mac(2), type=0x88B5) / Raw(bytes(1500)),
        Ether(src=mac(1), dst=mac(2)) / Dot1Q(vlan=9, type=0x88B5) / Raw(bytes(1500)),
    ):
        assert switch.send(0, one) == [1]


def test_stations_move_and_are_forgotten() -> None:
    switch = Switch(ageing_time=10)
    switch.send(0, frame(1, ALL))
    switch.send(1, frame(2, ALL))
    assert switch.send(1, frame(2, 1)) == [0]
    switch.send(2, frame(1, ALL))
    assert switch.known() == {mac(1): 2, mac(2): 1}
    assert switch.send(1, frame(2, 1)) == [2]
    assert switch.stack.counters()["BridgeMoves"] == 1
    switch.net.run(duration=6)
    switch.send(1, frame(2, ALL))
    switch.net.run(duration=5)
    assert switch.known() == {mac(2): 1}
    assert switch.send(1, frame(2, 1)) == [0, 2]  # unknown again
    switch.net.close()


def test_what_is_refused(switch: Switch) -> None:
    odd = {
        "DropBridgeReserved": [frame(1, f"01:80:c2:00:00:{k:02x}") for k in range(16)],
        "DropEthSource": [frame(1, ALL), frame(1, ALL)],
        "DropBridgeOwnAddress": [frame(1, ALL)],
    }
    odd["DropEthSource"][0].src, odd["DropEthSource"][1].src = "03:00:00:00:00:01", "00:00:00:00:00:00"
    odd["DropBridgeOwnAddress"][0].src = switch.mac
    for reason, frames in odd.items():
        for one in frames:
            assert switch.send(0, one) == []
        assert switch.drops().get(reason) == len(frames)
    assert switch.known() == {}
    assert switch.send(0, frame(1, "01:80:c2:00:00:10")) == [1, 2]


def test_a_flood_of_addresses_drives_out_its_own(switch: Switch) -> None:
    """2048 a port: those of the other ports stay known, memory stays bounded, and time goes by the frame."""
    switch.send(1, frame(1, ALL))
    for k in range(2, 5002):
        switch.wires[0].a.send(bytes(frame(k, 1)))
    switch.heard()
    known = switch.known()
    assert known[mac(1)] == 1
    assert len(known) == 2049
    assert mac(5001) in known
    assert mac(2) not in known
    assert switch.stack.counters()["BridgeTableFull"] == 5000 - 2048
    assert switch.send(2, frame(9999, 1)) == [1]


def test_the_stack_itself(switch: Switch) -> None:
    """It answers by the port from which it was asked, and only there once it knows."""
    who = Ether(src=mac(1), dst=ALL) / ARP(op=1, hwsrc=mac(1), psrc="10.0.0.9", pdst="10.0.0.1")
    switch.wires[2].a.send(bytes(who))
    out = switch.heard()
    assert [[Ether(one)[ARP].op for one in frames] for frames in out] == [[1], [1], [2]]
    assert Ether(out[2][0])[ARP].hwsrc == switch.mac
    with switch.stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"known", ("10.0.0.9", 9))
        assert [len(frames) for frames in switch.heard()] == [0, 0, 1]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.sendto(b"to all", ("10.0.0.255", 9))
        assert [len(frames) for frames in switch.heard()] == [1, 1, 1]
    # What is sent to its own address goes to nobody else.
    ping = Ether(src=mac(1), dst=switch.mac) / IP(src="10.0.0.9", dst="10.0.0.1") / UDP(dport=9) / Raw(b"x")
    switch.wires[2].a.send(bytes(ping))
    assert [len(frames) for frames in switch.heard()] == [0, 0, 1]


def test_hosts_through_the_bridge_and_the_bridge_itself() -> None:
    with sim.Network(seed=9) as net:
        switch, hosts = net.stack("switch"), [net.stack("a"), net.stack("b")]
        for k, host in enumerate(hosts, 2):
            net.wire(host, switch, addresses=([f"10.0.0.{k}/24", f"fd00::{k}/64"], None), delay=0.001, rate=1e8)
        names = [one.name for one in switch.interfaces()[1:]]
        switch.add_bridge("br0", names, addresses=["10.0.0.1/24", "fd00::1/64"])
        data = bytes(range(256)) * 1000
        far = [(hosts[1], "10.0.0.3"), (hosts[1], "fd00::3"), (switch, "10.0.0.1"), (switch, "fd00::1")]
        for server, address in far:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            listener = server.create_server((address, 0), family=family)

            def serve(listener: Any = listener) -> bytes:
                conn, _ = listener.accept()
                got = bytearray()
                while part := conn.recv(65536):
                    got += part
                conn.close()
                return bytes(got)

            task = net.spawn(serve)
            with hosts[0].create_connection((address, listener.getsockname()[1]), timeout=60) as client:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""
            assert task.result() == data
            listener.close()
        assert {one.mac: one.interface for one in switch.stations("br0")} == {
            hosts[k].interfaces()[-1].mac: names[k] for k in range(2)
        }
        assert switch.counters()["BridgeFlooded"] < 30


def test_frames_that_are_too_long_for_a_port() -> None:
    with sim.Network(seed=10) as net:
        switch = net.stack("switch")
        wires = [net.wire(None, switch, mtu=mtu) for mtu in (9000, 1500)]
        names = [one.name for one in switch.interfaces()[1:]]
        switch.add_bridge("br0", names)
        assert switch.interfaces()[-1].mtu == 1500
        for size, arrives in ((1500, 1), (1501, 0)):
            for tagged in (False, True):
                one = Ether(src=mac(1), dst=mac(2), type=0x88B5) / Raw(bytes(size))
                if tagged:
                    one = Ether(src=mac(1), dst=mac(2)) / Dot1Q(vlan=3, type=0x88B5) / Raw(bytes(size))
                wires[0].a.send(bytes(one))
                net.run(duration=0.01)
                assert wires[1].a.pending == arrives
                while wires[1].a.pending:
                    assert wires[1].a.recv(0) == bytes(one)
        assert switch.counters()["DropTxTooBig"] == 2


def test_ports_come_and_go(switch: Switch) -> None:
    switch.send(0, frame(1, ALL))
    switch.send(1, frame(2, ALL))
    shown = {one.name: one for one in switch.stack.interfaces()}
    assert shown["br0"].ports == tuple(switch.ports)
    assert [shown[name].bridge for name in switch.ports] == ["br0"] * 3
    switch.stack.detach(switch.wires[0].b)
    assert switch.stack.stations("br0")[0].mac == mac(2)
    assert {one.name: one.ports for one in switch.stack.interfaces()}["br0"] == tuple(switch.ports[1:])
    assert switch.send(1, frame(2, 1)) == [2]
    switch.stack.add_vlan("br0", 7, addresses=["10.7.0.1/24"])
    switch.stack.remove_interface("br0")
    assert [one.name for one in switch.stack.interfaces()] == ["lo", *switch.ports[1:]]
    switch.stack.add_address(switch.ports[1], "10.1.0.1/24")
    switch.stack.add_bridge("br1", switch.ports[2])


def test_a_vlan_of_a_bridge_and_of_a_port(switch: Switch) -> None:
    """Frames of a port's VLAN are the VLAN's; others with a tag go through, and to a VLAN of the bridge."""
    switch.stack.add_vlan("br0", 7, addresses=["10.7.0.1/24"])
    switch.stack.add_vlan(switch.ports[0], 8, addresses=["10.8.0.1/24"])
    switch.heard()  # the addresses are announced

    def who(number: int) -> Any:
        arp = ARP(op=1, hwsrc=mac(1), psrc=f"10.{number}.0.9", pdst=f"10.{number}.0.1")
        return Ether(src=mac(1), dst=ALL) / Dot1Q(vlan=number) / arp

    switch.wires[0].a.send(bytes(who(8)))
    out = switch.heard()
    assert [len(frames) for frames in out] == [1, 0, 0]
    assert (Ether(out[0][0])[Dot1Q].vlan, Ether(out[0][0])[ARP].op) == (8, 2)
    switch.wires[0].a.send(bytes(who(7)))
    out = switch.heard()
    assert [[(Ether(one)[Dot1Q].vlan, Ether(one)[ARP].op) for one in f] for f in out] == [[(7, 2)], [(7, 1)], [(7, 1)]]


def test_what_cannot_be(switch: Switch) -> None:
    stack = switch.stack
    switch.net.wire(None, stack)
    spare = stack.interfaces()[-1].name

    def refused(*arguments: Any, **options: Any) -> str:
        with pytest.raises(OSError) as caught:
            stack.add_bridge(*arguments, **options)
        return errno.errorcode[caught.value.errno or 0]

    assert refused("br1", [switch.ports[0]]) == "EBUSY"
    assert refused("br1", ["br0"]) == refused("br1", [stack.add_vlan("br0", 5)]) == "ELOOP"
    assert refused("br1", ["lo"]) == "EINVAL"
    assert refused("br1", ["nothing"]) == "ENODEV"
    assert refused("br0", [spare]) == "EEXIST"
    for ports in ([], [spare, spare], [str(k) for k in range(16)]):
        with pytest.raises(ValueError, match="ports"):
            stack.add_bridge("br1", ports)
    with pytest.raises(ValueError, match="mtu"):
        stack.add_bridge("br1", [spare], mtu=1501)
    with pytest.raises(ValueError, match="ageing"):
        stack.add_bridge("br1", [spare], ageing_time=-1)
    with pytest.raises(ValueError, match="mac"):
        stack.add_bridge("br1", [spare], mac="01:00:00:00:00:00")
    with pytest.raises(OSError, match="Invalid"):
        stack.add_address(switch.ports[0], "10.3.0.1/24")
    with pytest.raises(OSError, match="Invalid"):
        stack.add_address(switch.ports[0], "fd03::1/64")
    stack.add_address(spare, "10.4.0.1/24")
    assert refused("br1", [spare]) == "EINVAL"
    with pytest.raises(ValueError, match="no bridge"):
        stack.stations(spare)
    assert "br1" not in {one.name for one in stack.interfaces()}
