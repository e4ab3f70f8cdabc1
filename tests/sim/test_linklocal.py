"""IPv4 link-local addresses in virtual time (RFC 3927)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.l2 import ARP, Ether

from ustack.sim import Network

OTHER = "02:00:00:00:00:99"


class World:
    """A stack at one end of a wire; at the other somebody who says that he has some of the addresses."""

    def __init__(self, net: Network) -> None:
        self.net, self.a = net, net.stack("a")
        self.wire = net.wire(self.a, None, delay=0.001)
        self.name = next(one.name for one in self.a.interfaces() if one.medium == "ethernet")
        self.taken: Any = lambda address: False
        self.heard: list[tuple[float, Any]] = []
        self.events: list[tuple[str, str]] = []
        net.spawn(self._answer)

    def _answer(self) -> None:
        while True:
            frame = Ether(self.wire.b.recv())
            if ARP in frame:
                self.heard.append((self.net.now / 1e9, frame[ARP]))
                if frame[ARP].psrc == "0.0.0.0" and self.taken(frame[ARP].pdst):
                    self.claim(frame[ARP].pdst)

    def claim(self, address: str) -> None:
        """An announcement of somebody else's."""
        packet = ARP(op=1, hwsrc=OTHER, psrc=address, pdst=address)
        self.wire.b.send(bytes(Ether(src=OTHER, dst="ff:ff:ff:ff:ff:ff") / packet))

    def begin(self) -> Any:
        return self.a.link_local(self.name, on_event=lambda event, address: self.events.append((event, address)))

    def addresses(self) -> list[str]:
        mine = (one for one in self.a.interfaces() if one.name == self.name)
        return [str(a) for one in mine for a in one.addresses if ":" not in a.address]


@pytest.fixture
def world() -> Iterator[World]:
    with Network(seed=1) as net:
        yield World(net)


@pytest.mark.rfc("3927", "2.1")
def test_an_address_is_claimed(world: World) -> None:
    mine = world.begin()
    address = mine.wait(20)
    assert address.startswith("169.254.")
    assert 1 <= int(address.split(".")[2]) <= 254
    assert (mine.state, world.addresses(), world.events) == ("BOUND", [f"{address}/16"], [("bound", address)])
    world.net.run(10)
    kinds = [arp.psrc for _, arp in world.heard]
    assert kinds == ["0.0.0.0"] * 3 + [address] * 2  # probes, announcements
    mine.close()
    assert (mine.state, world.addresses()) == ("STOPPED", [])
    assert world.begin().wait(20) == address  # §2.1: the same again


@pytest.mark.rfc("3927", "2.2.1")
def test_another_one_where_somebody_has_it(world: World) -> None:
    world.taken = lambda address: len(world.events) < 2
    address = world.begin().wait(60)
    assert [event for event, _ in world.events] == ["conflict", "conflict", "bound"]
    assert len({one for _, one in world.events}) == 3
    assert world.addresses() == [f"{address}/16"]


@pytest.mark.rfc("3927", "2.2.1")
def test_many_conflicts_slow_it_down(world: World) -> None:
    world.taken = lambda address: True
    world.begin()
    world.net.run(600)
    assert 12 <= len(world.events) <= 25
    assert world.addresses() == [] or len(world.addresses()) == 1


@pytest.mark.rfc("3927", "2.5")
def test_it_is_defended_once_and_then_given_up(world: World) -> None:
    mine = world.begin()
    address = mine.wait(20)
    world.net.run(15)
    world.heard.clear()
    world.claim(address)
    world.net.run(5)
    assert [arp.psrc for _, arp in world.heard] == [address]
    assert mine.address == address
    world.net.run(10)
    world.claim(address)  # more than ten seconds later: defended again
    world.net.run(2)
    assert mine.address == address
    world.claim(address)
    world.net.run(20)
    assert [event for event, _ in world.events] == ["bound", "lost", "bound"]
    assert mine.address not in (address, None)
    assert world.addresses() == [f"{mine.address}/16"]
