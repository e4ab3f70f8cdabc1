"""net.ipv6.* as stack.sysctl has them: each says what it does on a wire."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

import ustack

ALL = "net.ipv6.conf.all."


class Wire:
    """A stack on the manual driver with an Ethernet whose frames are kept."""

    def __init__(self, **knobs: int) -> None:
        self.frames: list[bytes] = []
        self.stack = ustack.Stack(driver="manual", seed=bytes(32))
        self.stack.poll(1)
        for name, value in knobs.items():
            self.stack.sysctl[ALL + name] = value
        link = ustack.Callback(self.frames.append, medium="ethernet", mac="02:00:00:00:00:01", mtu=1500)
        self.stack.attach(link, addresses=["fd09::1/64"], probe=True)
        self.link = link

    def state(self, host: str) -> str:
        return next(one.state for i in self.stack.interfaces() for one in i.addresses if one.address == host)

    def close(self) -> None:
        self.stack.close()
        del self.stack, self.link


@pytest.mark.rfc("4862", "5.1")
@pytest.mark.parametrize(("transmits", "probes"), [(0, 0), (1, 1), (3, 3)])
def test_dad_transmits(transmits: int, probes: int) -> None:
    wire = Wire(dad_transmits=transmits)
    assert wire.state("fd09::1") == ("TENTATIVE" if transmits else "PREFERRED")
    for second in range(1, 30):
        wire.stack.poll(second * 500_000_000)
    solicited = [frame for frame in wire.frames if frame[54:55] == b"\x87" and frame[62:78] == address("fd09::1")]
    assert len(solicited) == probes
    assert wire.state("fd09::1") == "PREFERRED"
    wire.close()


def address(text: str) -> bytes:
    return ipaddress.IPv6Address(text).packed


@pytest.mark.rfc("8200", "3")
def test_hop_limit_and_flow_labels() -> None:
    wire = Wire(dad_transmits=0, hop_limit=7)
    wire.stack.add_neighbor(wire.stack.interfaces()[1].name, "fd09::2", "02:00:00:00:00:02")

    def sent() -> bytes:
        wire.frames.clear()
        with wire.stack.socket(ustack.AF_INET6, ustack.SOCK_DGRAM) as sock:
            sock.sendto(b"x", ("fd09::2", 9))
        return wire.frames[-1][14:]

    packet = sent()
    assert packet[7] == 7
    assert packet[1:4] != bytes(3)
    wire.stack.sysctl["net.ipv6.auto_flowlabels"] = 0
    wire.stack.sysctl[ALL + "hop_limit"] = 9
    packet = sent()
    assert packet[7] == 9
    assert packet[1:4] == bytes(3)
    wire.close()


def test_the_names_and_their_defaults() -> None:
    with ustack.Stack(driver="manual") as stack:
        six: dict[str, Any] = {name: value for name, value in stack.sysctl.items() if name.startswith("net.ipv6.")}
    found = {name: value for name, value in six.items() if name.startswith(ALL) or ".conf." not in name}
    assert found == {
        ALL + "hop_limit": 64,
        ALL + "dad_transmits": 1,
        ALL + "use_tempaddr": 0,
        ALL + "temp_valid_lft": 604800,
        ALL + "temp_prefered_lft": 86400,
        ALL + "max_addresses": 16,
        ALL + "accept_ra": 1,
        ALL + "accept_redirects": 0,
        ALL + "forwarding": 0,
        ALL + "send_redirects": 1,
        ALL + "strong_es": 0,
        ALL + "router_solicitations": 3,
        ALL + "router_solicitation_interval": 4,
        ALL + "force_mld_version": 0,
        ALL + "disable_ipv6": 0,
        "net.ipv6.mld_max_msf": 64,
        "net.ipv6.mld_qrv": 2,
        "net.ipv6.icmp.echo_ignore_all": 0,
        "net.ipv6.auto_flowlabels": 1,
        "net.ipv6.ip6frag_time": 60,
    }
    scopes = {name.split(".")[3] for name in six if name.startswith("net.ipv6.conf.")}
    assert scopes == {"all", "default", "lo"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("hop_limit", 0), ("hop_limit", 256), ("use_tempaddr", 3), ("accept_redirects", 2), ("max_addresses", 0)],
)
def test_what_is_out_of_range_is_refused(name: str, value: int) -> None:
    with ustack.Stack(driver="manual") as stack, pytest.raises(ValueError, match="is not between"):
        stack.sysctl[ALL + name] = value
