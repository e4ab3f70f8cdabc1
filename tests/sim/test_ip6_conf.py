"""net.ipv6.conf.IF.*: one interface's knobs are its own; `all` and `default`; disable_ipv6."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest

import ustack

CONF = "net.ipv6.conf."


class Two:
    """A stack with two Ethernets whose frames are kept."""

    def __init__(self) -> None:
        self.stack = ustack.Stack(driver="manual", seed=bytes(32))
        self.stack.poll(1)
        self.frames: dict[str, list[bytes]] = {}
        for name in ("a0", "b.0"):
            self.add(name)

    def add(self, name: str, *, autoconf: bool = False) -> None:
        self.frames[name] = []
        link = ustack.Callback(
            self.frames[name].append, medium="ethernet", mac=f"02:00:00:00:00:{len(self.frames):02x}", mtu=1500
        )
        self.stack.attach(link, name=name, autoconf=autoconf)

    def run(self, seconds: float, start: float = 0) -> None:
        for tick in range(int(seconds * 10)):
            self.stack.poll(int((start + tick / 10) * 1e9) + 2)

    def addresses(self, name: str) -> list[str]:
        found = next(one for one in self.stack.interfaces() if one.name == name)
        return [one.address for one in found.addresses if ":" in one.address]


@pytest.fixture
def two() -> Iterator[Two]:
    made = Two()
    yield made
    made.stack.close()
    vars(made).clear()


def test_names_and_scopes(two: Two) -> None:
    knobs = two.stack.sysctl
    assert {CONF + "a0.hop_limit", CONF + "b/0.mtu", CONF + "lo.accept_ra", CONF + "default.hop_limit"} <= set(knobs)
    assert knobs[CONF + "a0.hop_limit"] == 64
    knobs[CONF + "a0.hop_limit"] = 9
    assert [knobs[f"{CONF}{name}.hop_limit"] for name in ("a0", "b/0", "all")] == [9, 64, 64]
    knobs[CONF + "default.hop_limit"] = 11
    two.add("c0")
    assert [knobs[f"{CONF}{name}.hop_limit"] for name in ("a0", "b/0", "c0")] == [9, 64, 11]
    knobs[CONF + "all.hop_limit"] = 13
    two.add("d0")
    assert {knobs[f"{CONF}{name}.hop_limit"] for name in ("a0", "b/0", "c0", "d0", "lo")} == {13}
    with pytest.raises(KeyError):
        knobs[CONF + "nothing0.hop_limit"]
    with pytest.raises(KeyError):
        knobs[CONF + "a0.unheard_of"] = 1
    with pytest.raises(ValueError, match="256"):
        knobs[CONF + "a0.hop_limit"] = 256


def test_each_interface_sends_with_its_own(two: Two) -> None:
    for name, net, limit in (("a0", "fd0a::", 9), ("b.0", "fd0b::", 64)):
        two.stack.add_address(name, net + "1/64")
        two.stack.add_neighbor(name, net + "2", "02:00:00:00:00:77")
        two.stack.sysctl[f"{CONF}a0.hop_limit"] = 9
        two.frames[name].clear()
        with two.stack.socket(ustack.AF_INET6, ustack.SOCK_DGRAM) as sock:
            sock.sendto(b"x", (net + "2", 9))
        assert two.frames[name][-1][14 + 7] == limit


def test_mtu(two: Two) -> None:
    knobs = two.stack.sysctl
    assert knobs[CONF + "a0.mtu"] == 1500
    knobs[CONF + "a0.mtu"] = 1280
    assert [knobs[CONF + name + ".mtu"] for name in ("a0", "b/0")] == [1280, 1500]
    two.stack.add_address("a0", "fd0a::1/64")
    two.stack.add_neighbor("a0", "fd0a::2", "02:00:00:00:00:77")
    two.frames["a0"].clear()
    with two.stack.socket(ustack.AF_INET6, ustack.SOCK_DGRAM) as sock:
        sock.sendto(bytes(1400), ("fd0a::2", 9))
    assert max(len(frame) for frame in two.frames["a0"]) <= 14 + 1280
    for value in (1279, 1501):
        with pytest.raises(ValueError, match=str(value)):
            knobs[CONF + "a0.mtu"] = value


def test_duplicate_address_detection_is_an_interfaces(two: Two) -> None:
    two.stack.sysctl[CONF + "a0.dad_transmits"] = 3
    two.stack.sysctl[CONF + "b/0.dad_transmits"] = 0
    for name in ("a0", "b.0"):
        two.stack.add_address(name, "fd0d::1/64", probe=True)
    two.run(8)
    asked = {
        name: sum(f[20] == 58 and f[54] == 135 and f[22:38] == bytes(16) for f in frames)
        for name, frames in two.frames.items()
    }
    assert asked == {"a0": 6, "b.0": 0}, "for the link-local address, too"


def test_disable_ipv6(two: Two) -> None:
    two.stack.add_address("a0", "fd0a::1/64")
    two.add("c0", autoconf=True)
    two.run(5)
    assert [len(two.addresses(name)) for name in ("a0", "c0")] == [2, 1]
    knobs = two.stack.sysctl
    knobs[CONF + "a0.disable_ipv6"] = 1
    assert (two.addresses("a0"), len(two.addresses("c0"))) == ([], 1)
    with pytest.raises(OSError, match="Permission denied") as caught:
        two.stack.add_address("a0", "fd0a::1/64")
    assert caught.value.errno == errno.EACCES
    knobs[CONF + "all.disable_ipv6"] = 1
    assert two.addresses("c0") == two.addresses("lo") == []
    knobs[CONF + "all.disable_ipv6"] = 0
    two.run(5, start=5)
    assert (two.addresses("a0"), len(two.addresses("c0"))) == ([], 1)
    two.stack.add_address("a0", "fd0a::1/64")


def test_what_comes_while_disabled_is_dropped(two: Two) -> None:
    sent: list[Any] = []
    link = ustack.Callback(sent.append, medium="ip", mtu=1500)
    two.stack.attach(link, name="ip0", addresses=["fd0c::1/64"])
    ping = bytes.fromhex("6000000000083a40") + bytes.fromhex("fd0c" + "00" * 13 + "02fd0c" + "00" * 13 + "01")
    two.stack.sysctl[CONF + "ip0.disable_ipv6"] = 1
    link.receive(ping + bytes(8))
    two.run(0.1, start=1)
    assert two.stack.counters()["DropIp6Disabled"] == 1
