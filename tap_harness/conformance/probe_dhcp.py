"""A scenario's DHCP server, at the other end of the wire from the target's client: it says what the scenario says.

Responsible for packets in and out, for both versions. Not for what is right (rfc2131.py, rfc8415.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scapy.layers import dhcp6 as d6
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from tap_harness.conformance.probe import Probe

SERVER, ADDRESS, MASK = "10.0.0.2", "10.0.0.50", "255.255.255.0"
SERVER_MAC = "02:00:00:00:00:99"
LEASE = 3600
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE = (
    "discover", "offer", "request", "decline", "ack", "nak", "release",
)  # fmt: skip
_KINDS = {1: DISCOVER, 2: OFFER, 3: REQUEST, 4: DECLINE, 5: ACK, 6: NAK, 7: RELEASE}
SERVER6, ADDRESS6 = "fe80::99", "fd00::50"
SERVER_DUID = b"\x00\x03\x00\x01\x02\x00\x00\x00\x00\x99"
PATIENCE = 15.0  # seconds that a step of the client may take


class _Server:
    def __init__(self, probe: Probe, six: bool) -> None:
        self.probe = probe
        self.mac, self.client = probe.target.dhcp(six)
        self.wire = probe.target.wire

    def now(self) -> float:
        return self.wire.now()

    def take(self, wanted: Callable[[Packet], bool], within: float = PATIENCE) -> Packet | None:
        """The next frame that is wanted; the others are dealt with or passed over."""
        deadline = self.now() + within
        while (frame := self.wire.receive(max(0.0, deadline - self.now()))) is not None:
            packet = Ether(frame)
            if wanted(packet):
                return packet
            self.other(packet)
        return None

    def other(self, packet: Packet) -> None:
        """What nobody waits for."""

    def quiet(self, seconds: float) -> None:
        """Time passes; what is said meanwhile is passed over."""
        self.take(lambda packet: False, seconds)


def options(packet: Packet) -> dict[Any, Any]:
    """DHCP's options by scapy's names; lists where there are several values."""
    found = [one for one in packet[DHCP].options if isinstance(one, tuple)]
    return {name: values[0] if len(values) == 1 else list(values) for name, *values in found}


class Server4(_Server):
    """RFC 2131. `owner`: who has ADDRESS beside the client, and answers its probes; "": nobody."""

    def __init__(self, probe: Probe) -> None:
        self.owner = ""
        super().__init__(probe, six=False)

    def other(self, packet: Packet) -> None:
        """ARP for the server, and for what somebody else has."""
        if ARP not in packet or packet[ARP].op != 1:
            return
        wanted = packet[ARP].pdst
        mac = SERVER_MAC if wanted == SERVER else self.owner if wanted == ADDRESS else ""
        if mac:
            answer = ARP(op=2, hwsrc=mac, psrc=wanted, hwdst=packet[ARP].hwsrc, pdst=packet[ARP].psrc)
            self.wire.send(bytes(Ether(src=mac, dst=packet.src) / answer))

    def next(self, kind: str, within: float = PATIENCE) -> Packet:
        """The client's next message of a kind; another kind is wrong. Raises Mismatch."""
        found = self.take(lambda packet: DHCP in packet and packet[UDP].dport == 67, within)
        if found is None or self.kind(found) != kind:
            raise self.probe.wrong(f"DHCP{kind.upper()}", found)
        return found

    @staticmethod
    def kind(packet: Packet) -> str:
        """DISCOVER, …"""
        return _KINDS.get(options(packet).get("message-type", 0), "none")

    def silent(self, within: float) -> None:
        """No message may come."""
        found = self.take(lambda packet: DHCP in packet and packet[UDP].dport == 67, within)
        if found is not None:
            raise self.probe.wrong("no message", found)

    def say(self, to: Packet, kind: str, *more: Any, dst: str = "255.255.255.255", **fields: Any) -> None:
        """An answer. more: options beside those of every answer, or (name, None): one that is left out."""
        given: dict[str, Any] = {"message-type": kind, "server_id": SERVER}
        if kind != NAK:
            given.update(lease_time=LEASE, subnet_mask=MASK)
        given.update(dict(more))
        said = [(name, value) for name, value in given.items() if value is not None]
        bootp = BOOTP(**{
            "op": 2, "xid": to[BOOTP].xid, "chaddr": to[BOOTP].chaddr, "yiaddr": "0.0.0.0" if kind == NAK else ADDRESS,
            "flags": to[BOOTP].flags, **fields,
        })  # fmt: skip
        self.put(bootp / DHCP(options=[*said, "end"]), dst)

    def put(self, body: Any, dst: str = "255.255.255.255") -> None:
        """A packet from the server."""
        mac = "ff:ff:ff:ff:ff:ff" if dst == "255.255.255.255" else self.mac
        packet = IP(src=SERVER, dst=dst) / UDP(sport=67, dport=68) / body
        self.wire.send(bytes(Ether(src=SERVER_MAC, dst=mac) / packet))

    def offered(self, *more: Any) -> Packet:
        """DISCOVER, OFFER -> the REQUEST."""
        discover = self.next(DISCOVER)
        self.say(discover, OFFER, *more)
        return self.next(REQUEST)

    def bind(self, *more: Any) -> float:
        """A lease, in use -> when its REQUEST was sent."""
        request = self.offered(*more)
        began = self.now()
        self.say(request, ACK, *more)
        self.quiet(12)
        if not self.is_used():
            raise self.probe.wrong("the address to be in use")
        return began

    def is_used(self) -> bool:
        """Whether the client answers for its address."""
        question = ARP(op=1, hwsrc=SERVER_MAC, psrc=SERVER, pdst=ADDRESS)
        self.wire.send(bytes(Ether(src=SERVER_MAC, dst="ff:ff:ff:ff:ff:ff") / question))
        return self.take(lambda p: ARP in p and p[ARP].op == 2 and p[ARP].psrc == ADDRESS, 0.5) is not None


class Server6(_Server):
    """RFC 8415. taken: somebody else has ADDRESS6."""

    def __init__(self, probe: Probe) -> None:
        self.taken = False
        super().__init__(probe, six=True)

    def other(self, packet: Packet) -> None:
        """Duplicate address detection, of what somebody else has."""
        if not self.taken or ICMPv6ND_NS not in packet or packet[ICMPv6ND_NS].tgt != ADDRESS6:
            return
        from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr

        body = ICMPv6ND_NA(tgt=ADDRESS6, R=0, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=SERVER_MAC)
        answer = IPv6(src=ADDRESS6, dst="ff02::1", hlim=255) / body
        self.wire.send(bytes(Ether(src=SERVER_MAC, dst="33:33:00:00:00:01") / answer))

    def next(self, kind: type[Packet], within: float = PATIENCE) -> Packet:
        """The client's next message; another kind is wrong. Raises Mismatch."""
        found = self.take(_is_query, within)
        if found is None or kind not in found:
            raise self.probe.wrong(kind.__name__, found)
        return found

    def silent(self, within: float) -> None:
        """No message may come."""
        found = self.take(_is_query, within)
        if found is not None:
            raise self.probe.wrong("no message", found)

    def say(self, to: Packet, kind: type[Packet], *more: Any, **change: Any) -> None:
        """An answer; more: options behind those of every answer. change: client, server (DUIDs; None: left out), trid,
        ia (None: none), lifetimes, times, status."""
        message: Any = kind(trid=change.get("trid", transaction(to)))
        client = change.get("client", duid(to, d6.DHCP6OptClientId))
        server = change.get("server", SERVER_DUID)
        if client is not None:
            message /= d6.DHCP6OptClientId(duid=client)
        if server is not None:
            message /= d6.DHCP6OptServerId(duid=server)
        if d6.DHCP6OptIA_NA in to and change.get("ia", True):
            message /= self.association(to[d6.DHCP6OptIA_NA].iaid, **change)
        for one in more:
            message /= one
        packet = IPv6(src=SERVER6, dst=to[IPv6].src) / UDP(sport=547, dport=546) / message
        self.wire.send(bytes(Ether(src=SERVER_MAC, dst=to.src) / packet))

    @staticmethod
    def association(iaid: int, **change: Any) -> Any:
        """An IA_NA with ADDRESS6."""
        preferred, valid = change.get("lifetimes", (3000, 4000))
        t1, t2 = change.get("times", (1000, 2000))
        inside: Any = d6.DHCP6OptIAAddress(addr=ADDRESS6, preflft=preferred, validlft=valid)
        if status := change.get("status"):
            inside = d6.DHCP6OptStatusCode(statuscode=status)
        return d6.DHCP6OptIA_NA(iaid=iaid, T1=t1, T2=t2, ianaopts=[inside])

    def requested(self, **change: Any) -> Packet:
        """SOLICIT, ADVERTISE at once the best -> the REQUEST."""
        solicit = self.next(d6.DHCP6_Solicit)
        self.say(solicit, d6.DHCP6_Advertise, d6.DHCP6OptPref(prefval=255), **change)
        return self.next(d6.DHCP6_Request)

    def bind(self, **change: Any) -> float:
        """An address, in use -> when its Request was sent."""
        request = self.requested(**change)
        began = self.now()
        self.say(request, d6.DHCP6_Reply, **change)
        self.quiet(5)
        if not self.is_used():
            raise self.probe.wrong("the address to be in use")
        return began

    def is_used(self) -> bool:
        """Whether the client answers for its address."""
        from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptSrcLLAddr

        body = ICMPv6ND_NS(tgt=ADDRESS6) / ICMPv6NDOptSrcLLAddr(lladdr=SERVER_MAC)
        question = IPv6(src=SERVER6, dst="ff02::1:ff00:50", hlim=255) / body
        self.wire.send(bytes(Ether(src=SERVER_MAC, dst="33:33:ff:00:00:50") / question))
        return self.take(lambda p: ICMPv6ND_NA in p and p[ICMPv6ND_NA].tgt == ADDRESS6, 0.5) is not None


def _is_query(packet: Packet) -> bool:
    return UDP in packet and IPv6 in packet and packet[UDP].dport == 547


def transaction(packet: Packet) -> int:
    """The transaction id of a DHCPv6 message."""
    return int(packet[UDP].payload.trid)


def duid(packet: Packet, layer: type[Packet]) -> bytes | None:
    """The DUID in an option of a message; None: there is no such option."""
    return bytes(packet[layer].duid) if layer in packet else None
