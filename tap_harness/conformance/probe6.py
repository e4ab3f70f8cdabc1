"""A scenario's IPv6 side: the neighbour fd09::1 (fe80::1) that it plays, and what the target fd09::2 (fe80::2) says.

Responsible for packets in and out, and for answering what asks for the neighbour's address. Not for what is right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6ParamProblem,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tap_harness.conformance.probe import Probe

TARGET, PEER, THIRD = "fd09::2", "fd09::1", "fd09::77"
TARGET_LL, PEER_LL = "fe80::2", "fe80::1"
ALL_NODES, ALL_ROUTERS, SOLICITED = "ff02::1", "ff02::2", "ff02::1:ff00:2"
MULTICAST_MAC = "33:33:{:02x}:{:02x}:{:02x}:{:02x}"
DATA = b"are you there?"


class Six:
    """The neighbour. routers: the target has no addresses but those that routers tell it of."""

    def __init__(self, probe: Probe, *, routers: bool = False) -> None:
        self.probe = probe
        self.wire = probe.target.wire
        self.mac = probe.peer.mac
        self.target_mac = probe.peer.target_mac
        self.answers = True  # whoever asks for the neighbour's address is told
        probe.target.six(routers)
        if not routers:
            self.probe.wait(probe.soon)
            self.quiet()
            self.ping()

    def header(self, **fields: Any) -> Any:
        """An IPv6 header from the neighbour to the target."""
        return IPv6(**{"src": PEER, "dst": TARGET, "hlim": 64, **fields})

    def send(self, packet: Packet, dst: str | None = None) -> None:
        """One packet; dst: the link address it goes to, else the target's or the group's."""
        group = packet[IPv6].dst
        mac = self.target_mac
        if group.startswith("ff"):
            last = group.rsplit(":", 2)[-2:]
            low = (int(last[0] or "0", 16) << 16) | int(last[1] or "0", 16)
            mac = MULTICAST_MAC.format(*low.to_bytes(4, "big"))
        self.wire.send(bytes(Ether(src=self.mac, dst=dst or mac) / packet))
        self.probe.target.pump()

    def _told(self, frame: Packet) -> bool:
        """Whether the frame asked for one of the neighbour's addresses, and was answered."""
        if not self.answers or ICMPv6ND_NS not in frame or frame[IPv6].src == "::":
            return False
        wanted = frame[ICMPv6ND_NS].tgt
        if wanted not in (PEER, PEER_LL):
            return False
        body = ICMPv6ND_NA(R=0, S=1, O=1, tgt=wanted) / ICMPv6NDOptDstLLAddr(lladdr=self.mac)
        self.send(IPv6(src=wanted, dst=frame[IPv6].src, hlim=255) / body)
        return True

    def take(self, wanted: Callable[[Packet], bool], within: float | None = None) -> Packet | None:
        """The next IPv6 packet that is wanted; others are passed over."""
        p = self.probe
        deadline = p.now() + p.within(p.soon if within is None else within)
        while (frame := self.wire.receive(max(0.0, deadline - p.now()))) is not None:
            packet = Ether(frame)
            if p.peer.answer_arp(frame) or IPv6 not in packet or self._told(packet):
                continue
            if wanted(packet):
                return packet
        return None

    def quiet(self) -> None:
        """Pass over all that is there."""
        self.take(lambda packet: False, 0)

    def expect(self, layer: type[Packet], within: float | None = None, **fields: Any) -> Packet:
        """The next packet with that layer and these fields of it."""

        def fits(packet: Packet) -> bool:
            return layer in packet and all(packet[layer].getfieldval(k) == v for k, v in fields.items())

        found = self.take(fits, within)
        if found is None:
            raise self.probe.wrong(f"{layer.__name__} {fields or ''}")
        return found

    def silent(self, layer: type[Packet], within: float | None = None) -> None:
        """No packet with that layer may come."""
        found = self.take(lambda packet: layer in packet, within)
        if found is not None:
            raise self.probe.wrong(f"no {layer.__name__}", found)

    def ping(self, data: bytes = DATA, within: float = 1.0, **fields: Any) -> Packet:
        """The target must answer an echo request."""
        self.send(self.header(**fields) / ICMPv6EchoRequest(id=7, seq=1, data=data))
        return self.expect(ICMPv6EchoReply, within, data=data)

    def problem(self, code: int, pointer: int | None = None) -> Packet:
        """The target must say that there is a parameter problem."""
        found = self.expect(ICMPv6ParamProblem, code=code)
        if pointer is not None:
            self.probe.require(found[ICMPv6ParamProblem].ptr == pointer, f"the pointer is not {pointer}")
        return found


def raw_of(packet: Packet) -> bytes:
    """What lies behind the headers."""
    return bytes(packet[Raw]) if Raw in packet else b""
