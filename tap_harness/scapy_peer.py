"""A scripted neighbour of the stack under test, made of scapy packets.

Responsible for the Ethernet and IP it takes to talk: addresses, answering ARP and neighbour solicitations, waiting with
a deadline, the record of the exchange for a readable failure. TCP conversations are `flow.Flow`, made by `Peer.flow()`.
"""

import ipaddress
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from tap_harness.carrier import Carrier
from tap_harness.diff import difference
from tap_harness.flow import Flow
from tap_harness.packets import Mismatch, describe

BROADCAST = "ff:ff:ff:ff:ff:ff"
SOLICITATIONS = 5
SHOWN = 40  # lines of the exchange that a failure message repeats

_ports = itertools.count(40000)


class Peer:
    """The neighbour with address `ip` and `mac` on `carrier`, talking to the stack that has address `target`.

    It answers ARP requests and neighbour solicitations for its own address while it waits for something else; with
    `arp` false it does not, and such frames are delivered like any other.

    Attributes: target_mac, the stack's link-layer address (resolved at the first need).
    """

    def __init__(
        self,
        carrier: Carrier,
        *,
        ip: str = "10.9.0.1",
        mac: str = "02:00:00:00:00:01",
        target: str = "10.9.0.2",
        arp: bool = True,
    ) -> None:
        self.carrier = carrier
        self.ip = ip
        self.mac = mac
        self.target = target
        self.arp = arp
        self._log: deque[tuple[float, str, bytes]] = deque(maxlen=SHOWN)
        self._count = 0
        self._target_mac: str | None = None
        self._stash: deque[Packet] = deque()
        self._start = carrier.now()

    def now(self) -> float:
        """The time at the stack in seconds."""
        return self.carrier.now()

    @property
    def target_mac(self) -> str:
        """The stack's link-layer address, asked for once. Raises Mismatch after a second without answer."""
        if self._target_mac is None:
            self._target_mac = self._solicit() if self.six else self._ask()
        return self._target_mac

    @property
    def six(self) -> bool:
        """Whether it speaks IPv6."""
        return ":" in self.ip

    def _ask(self) -> str:
        self.send_ether(Ether(src=self.mac, dst=BROADCAST) / ARP(op=1, hwsrc=self.mac, psrc=self.ip, pdst=self.target))
        reply = self.expect(ARP, within=1.0, op=2, psrc=self.target, pdst=self.ip, hwdst=self.mac)
        return str(reply[ARP].hwsrc)

    def _solicit(self) -> str:
        """RFC 4861 §7.2.2: to the group that the last three bytes of the address make."""
        tail = ipaddress.IPv6Address(self.target).packed[-3:]
        group = ipaddress.IPv6Address(ipaddress.IPv6Address("ff02::1:ff00:0").packed[:-3] + tail)
        question: Packet = ICMPv6ND_NS(tgt=self.target) / ICMPv6NDOptSrcLLAddr(lladdr=self.mac)
        header = IPv6(src=self.ip, dst=str(group), hlim=255)
        for _ in range(SOLICITATIONS):  # Linux is in the group a moment after it has the address
            self.send_ether(Ether(src=self.mac, dst=f"33:33:ff:{tail.hex(':')}") / header / question)
            answer = self.take(self._is_advertised, 1.0 / SOLICITATIONS)
            if answer is not None:
                return str(answer[ICMPv6NDOptDstLLAddr].lladdr)
        raise Mismatch(self.failure(f"expected an advertisement of {self.target} within 1.0 s", "nothing came"))

    def _is_advertised(self, packet: Packet) -> bool:
        return ICMPv6ND_NA in packet and packet[ICMPv6ND_NA].tgt == self.target

    def send(self, packet: Packet) -> None:
        """Send an IP packet (or anything above Ethernet) in a frame from this peer to the stack."""
        self.send_ether(Ether(src=self.mac, dst=self.target_mac) / packet)

    def send_ether(self, frame: Packet) -> None:
        """Send a frame with the Ethernet header it has."""
        data = bytes(frame)
        self._note("peer ", data)
        self.carrier.send(data)

    def send_bytes(self, frame: bytes) -> None:
        """Send raw bytes as a frame; they are not put into the log."""
        self.carrier.send(frame)

    def ip_header(self, **fields: Any) -> Packet:
        """An IP header from this peer to the stack; fields override."""
        if self.six:
            return IPv6(**{"src": self.ip, "dst": self.target, "hlim": 64, **fields})
        values: dict[str, Any] = {"src": self.ip, "dst": self.target, "id": 0, "flags": "DF", **fields}
        return IP(**values)

    def next(self, within: float) -> Packet | None:
        """The next frame from the stack that does not ask for this peer's address; None after `within` seconds."""
        deadline = self.carrier.now() + within
        while True:
            frame = self.carrier.receive(max(0.0, deadline - self.carrier.now()))
            if frame is None:
                return None
            packet = Ether(frame)
            self._note("stack", frame)
            if not (self.arp and self._answer_arp(packet)):
                return packet

    def put_back(self, packet: Packet) -> None:
        """Let the next one who asks have this packet first."""
        self._stash.appendleft(packet)

    def take(self, wanted: Callable[[Packet], bool], within: float) -> Packet | None:
        """The next packet for which wanted(packet) is true; others are kept for whoever asks for them later."""
        for kept in self._stash:
            if wanted(kept):
                self._stash.remove(kept)
                return kept
        deadline = self.carrier.now() + within
        while (packet := self.next(max(0.0, deadline - self.carrier.now()))) is not None:
            if wanted(packet):
                return packet
            self._stash.append(packet)
        return None

    def expect(self, layer: type[Packet], within: float = 1.0, **fields: object) -> Packet:
        """The next packet that has `layer`; each given field must match (see diff.matches). Raises Mismatch."""
        packet = self.take(lambda candidate: layer in candidate, within)
        got = None if packet is None else {name: packet[layer].getfieldval(name) for name in fields}
        table = difference(
            fields or {"layer": layer.__name__}, got if fields or packet is None else {"layer": layer.__name__}
        )
        if packet is None or table:
            raise Mismatch(self.failure(f"expected {layer.__name__} within {within} s", table or ""))
        return packet

    def expect_nothing(self, for_seconds: float = 0.0) -> None:
        """Nothing (but ARP that is answered) may come, for so long. What was stashed counts. Raises Mismatch."""
        packet = self._stash.popleft() if self._stash else self.next(for_seconds)
        if packet is not None:
            raise Mismatch(self.failure(f"expected silence for {for_seconds} s", f"got: {describe(packet)}"))

    def discard(self, for_seconds: float = 0.0) -> int:
        """Take and forget whatever comes in so many seconds and was stashed; returns the number of packets."""
        count = len(self._stash)
        self._stash.clear()
        deadline = self.carrier.now() + for_seconds
        while self.next(max(0.0, deadline - self.carrier.now())) is not None:
            count += 1
        return count

    def flow(self, port: int = 80, *, sport: int | None = None, isn: int = 1000) -> Flow:
        """A TCP conversation between this peer's port `sport` (a fresh one if None) and the stack's `port`."""
        return Flow(self, port, sport if sport is not None else next(_ports), isn)

    def ping(self, data: bytes = b"are you there?", within: float = 0.1) -> None:
        """An echo request must be answered with the same data (RFC 792, 4443)."""
        if self.six:
            self.send(self.ip_header() / ICMPv6EchoRequest(id=0x1234, seq=1, data=data))
            self.expect(ICMPv6EchoReply, within, id=0x1234, seq=1, data=data)
            return
        self.send(self.ip_header() / ICMP(type=8, id=0x1234, seq=1) / Raw(data))
        reply = self.expect(ICMP, within, type=0, id=0x1234, seq=1)
        if bytes(reply[ICMP].payload)[: len(data)] != data:
            raise Mismatch(self.failure("echo reply with other data", describe(reply)))

    def failure(self, what: str, detail: str) -> str:
        """A failure message: what was wanted, the detail, and the last lines of the exchange."""
        lines = [f"{when:12.6f} {who} {describe(Ether(frame))}" for when, who, frame in self._log]
        head = f"--- the exchange so far (the last {len(lines)} of {self._count} packets) ---"
        return "\n".join([what, detail, head, *lines])

    def answer_arp(self, frame: bytes) -> bool:
        """Answer an ARP request or a solicitation for this peer's address; True if the frame was one."""
        return self._answer_arp(Ether(frame))

    def _answer_arp(self, packet: Packet) -> bool:
        if ICMPv6ND_NS in packet:
            return self._answer_solicitation(packet)
        if ARP not in packet:
            return False
        request = packet[ARP]
        if request.op != 1 or request.pdst != self.ip:
            return False
        reply = ARP(op=2, hwsrc=self.mac, psrc=self.ip, hwdst=request.hwsrc, pdst=request.psrc)
        self.send_ether(Ether(src=self.mac, dst=request.hwsrc) / reply)
        return True

    def _answer_solicitation(self, packet: Packet) -> bool:
        if packet[ICMPv6ND_NS].tgt != self.ip or packet[IPv6].src == "::":
            return False
        answer: Packet = ICMPv6ND_NA(R=0, S=1, O=1, tgt=self.ip) / ICMPv6NDOptDstLLAddr(lladdr=self.mac)
        header = IPv6(src=self.ip, dst=packet[IPv6].src, hlim=255)
        self.send_ether(Ether(src=self.mac, dst=packet[Ether].src) / header / answer)
        return True

    def _note(self, who: str, frame: bytes) -> None:
        self._log.append((self.carrier.now() - self._start, who, frame))
        self._count += 1
