"""IGMP and MLD for tests that say the same of both: how a family joins, what a router asks, what is reported."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.utils import checksum

from tap_harness.lab import Lab
from tests.sim.net_helpers import PEER_IP, PEER_MAC, STACK_IP, sent

TO_IN, TO_EX, ALLOW, BLOCK, IS_IN, IS_EX = 3, 4, 5, 6, 1, 2
BLOCK_SOURCE, UNBLOCK_SOURCE, JOIN_SOURCE, LEAVE_SOURCE = 43, 44, 46, 47  # MCAST_*
JOIN_GROUP, LEAVE_GROUP, MSFILTER = 42, 45, 48
ROUTER = "fe80::ff:fe00:1"
Record = tuple[int, str, tuple[str, ...]]


@dataclass(frozen=True)
class Family:
    """What one of the two protocols is called, and how its messages look."""

    name: str
    family: socket.AddressFamily
    level: int
    group: str
    other: str
    everybody: str  # all hosts, all nodes
    hosts: str  # a prefix of addresses to send from
    to_routers: str  # where reports go
    done_to: str
    report: int  # message types
    old_report: int
    done: int
    old_response: float  # s that an old query gives
    options: dict[str, int]
    query_malformed: str
    header: int  # bytes that a TTL of the IP header is at

    @property
    def six(self) -> bool:
        return self.family == socket.AF_INET6

    def host(self, number: int) -> str:
        return f"{self.hosts}{number}"

    def packed(self, address: str) -> bytes:
        return socket.inet_pton(self.family, address)

    def storage(self, address: str) -> bytes:
        """struct sockaddr_storage."""
        if self.six:
            return struct.pack("=HHI16sI", self.family, 0, 0, self.packed(address), 0).ljust(128, b"\0")
        return struct.pack("=HH4s", self.family, 0, self.packed(address)).ljust(128, b"\0")

    def request(self, index: int, group: str, source: str | None = None) -> bytes:
        """struct group_req, or group_source_req."""
        return struct.pack("=I4x", index) + self.storage(group) + (self.storage(source) if source else b"")

    # -- the stack's sockets

    def udp(self, lab: Lab, port: int = 0, *, bound: bool = True) -> Any:
        sock = lab.stack.socket(self.family, socket.SOCK_DGRAM)
        sock.setblocking(False)
        if bound:
            sock.bind(("", port))
        return sock

    def plain_request(self, group: str, index: int, own: str) -> bytes:
        """struct ipv6_mreq, or ip_mreq."""
        return self.packed(group) + (struct.pack("=I", index) if self.six else socket.inet_aton(own))

    def join(self, sock: Any, group: str | None = None) -> None:
        name = socket.IPV6_JOIN_GROUP if self.six else socket.IP_ADD_MEMBERSHIP
        sock.setsockopt(self.level, name, self.plain_request(group or self.group, 0, STACK_IP))

    def leave(self, sock: Any, group: str | None = None) -> None:
        name = socket.IPV6_LEAVE_GROUP if self.six else socket.IP_DROP_MEMBERSHIP
        sock.setsockopt(self.level, name, self.plain_request(group or self.group, 0, STACK_IP))

    def source(self, sock: Any, name: int, source: str) -> None:
        sock.setsockopt(self.level, name, self.request(0, self.group, source))

    # -- the wire

    def mac(self, group: str) -> str:
        raw = self.packed(group)
        if self.six:
            return "33:33:" + raw[12:].hex(":")
        return f"01:00:5e:{raw[1] & 127:02x}:{raw[2]:02x}:{raw[3]:02x}"

    def deliver(
        self, lab: Lab, data: bytes, group: str | None = None, src: str | None = None, port: int = 7000
    ) -> None:
        to = group or self.group
        source = src or self.host(1)
        header = IPv6(src=source, dst=to) if self.six else IP(src=source, dst=to)
        lab.peer.send_ether(Ether(src=PEER_MAC, dst=self.mac(to)) / header / UDP(sport=5, dport=port) / Raw(data))

    def send(self, lab: Lab, message: bytes, to: str, src: str | None = None, ttl: int = 1, alert: bool = True) -> None:
        """A message as a router sends it; its checksum is filled in."""
        frame: Any = Ether(src=PEER_MAC, dst=self.mac(to))
        if not self.six:
            whole = message[:2] + struct.pack(">H", checksum(message)) + message[4:]
            lab.peer.send_ether(frame / IP(src=src or PEER_IP, dst=to, ttl=ttl, proto=2) / Raw(whole))
            return
        source = src or ROUTER
        pseudo = self.packed(source) + self.packed(to) + struct.pack(">II", len(message), 58)
        whole = message[:2] + struct.pack(">H", checksum(pseudo + message)) + message[4:]
        options = b"\x05\x02\0\0\x01\0" if alert else b"\x01\x04\0\0\0\0"
        raw = b"\x3a\0" + options + whole
        lab.peer.send_ether(frame / IPv6(src=source, dst=to, hlim=ttl, nh=0) / Raw(raw))

    def query_message(self, group: str | None, ms: int, sources: tuple[str, ...] = (), qrv: int = 2) -> bytes:
        about = self.packed(group) if group else bytes(16 if self.six else 4)
        head = struct.pack(">BBHHH", 130, 0, 0, ms, 0) if self.six else struct.pack(">BBH", 0x11, ms // 100, 0)
        listed = b"".join(map(self.packed, sources))
        return head + about + struct.pack(">BBH", qrv, 125, len(sources)) + listed

    def query(
        self, lab: Lab, group: str | None = None, ms: int = 1000, sources: tuple[str, ...] = (), qrv: int = 2
    ) -> None:
        """A query of the present version."""
        self.send(lab, self.query_message(group, ms, sources, qrv), group or self.everybody)

    def old_query(self, lab: Lab) -> None:
        """A general one of MLDv1 or IGMPv2; it gives old_response seconds."""
        message = self.query_message(None, int(self.old_response * 1000))
        self.send(lab, message[: 24 if self.six else 8], self.everybody)

    def old_message(self, kind: int, group: str) -> bytes:
        head = struct.pack(">BBHI", kind, 0, 0, 0) if self.six else struct.pack(">BBH", kind, 0, 0)
        return head + self.packed(group)

    # -- what the stack says

    def messages(self, frames: list[Packet]) -> list[tuple[str, bytes]]:
        """(destination, message) of what was reported, each checked for what every one must have."""
        found = []
        for frame in frames:
            raw = bytes(frame)[14:]
            if self.six and IPv6 in frame and raw[6] == 0 and raw[40] == 58 and raw[48] in (131, 132, 143):
                message = raw[48 : 40 + int.from_bytes(raw[4:6], "big")]
                pseudo = raw[8:40] + struct.pack(">II", len(message), 58)
                assert (raw[7], raw[42:46], checksum(pseudo + message)) == (1, b"\x05\x02\0\0", 0), "RFC 3810 §5"
            elif not self.six and IP in frame and frame[IP].proto == 2:
                message = raw[24 : frame[IP].len]
                assert (raw[8], raw[1], raw[0], raw[20:24]) == (1, 0xC0, 0x46, b"\x94\x04\0\0"), "RFC 3376 §4"
                assert checksum(message) == 0
            else:
                continue
            to = frame[IPv6].dst if self.six else frame[IP].dst
            assert frame.dst == self.mac(to)
            found.append((str(to), message))
        return found

    def records(self, frames: list[Packet]) -> list[Record]:
        """The records of reports of the present version: (type, group, sources); not the solicited-node groups."""
        found = []
        width = 16 if self.six else 4
        for to, message in self.messages(frames):
            assert (message[0], to) == (self.report, self.to_routers)
            at = 8
            for _ in range(struct.unpack_from(">H", message, 6)[0]):
                kind, _, count = struct.unpack_from(">BBH", message, at)
                group = socket.inet_ntop(self.family, message[at + 4 : at + 4 + width])
                at += 4 + width
                listed = [message[at + width * k : at + width * (k + 1)] for k in range(count)]
                at += width * count
                if not group.startswith("ff02::1:ff"):
                    found.append((kind, group, tuple(socket.inet_ntop(self.family, one) for one in listed)))
            assert at == len(message)
        return found

    def old(self, frames: list[Packet]) -> list[tuple[str, int, str]]:
        """(destination, type, group) of messages of an older version; not the solicited-node groups'."""
        at = 8 if self.six else 4
        found = [(to, m[0], socket.inet_ntop(self.family, m[at:])) for to, m in self.messages(frames)]
        return [one for one in found if not one[2].startswith("ff02::1:ff")]


IGMP = Family(
    name="igmp",
    family=socket.AF_INET,
    level=socket.IPPROTO_IP,
    group="239.1.2.3",
    other="239.1.2.4",
    everybody="224.0.0.1",
    hosts="10.9.0.",
    to_routers="224.0.0.22",
    done_to="224.0.0.2",
    report=0x22,
    old_report=0x16,
    done=0x17,
    old_response=10.0,
    options={"IF": socket.IP_MULTICAST_IF, "TTL": socket.IP_MULTICAST_TTL, "LOOP": socket.IP_MULTICAST_LOOP, "ALL": 49},
    query_malformed="DropIgmpMalformed",
    header=8,
)
MLD = Family(
    name="mld",
    family=socket.AF_INET6,
    level=socket.IPPROTO_IPV6,
    group="ff05::1:3",
    other="ff05::1:4",
    everybody="ff02::1",
    hosts="fd09::",
    to_routers="ff02::16",
    done_to="ff02::2",
    report=143,
    old_report=131,
    done=132,
    old_response=10.0,
    options={
        "IF": socket.IPV6_MULTICAST_IF,
        "TTL": socket.IPV6_MULTICAST_HOPS,
        "LOOP": socket.IPV6_MULTICAST_LOOP,
        "ALL": 29,
    },
    query_malformed="DropIcmp6Malformed",
    header=7,
)


@contextlib.contextmanager
def both_families() -> Iterator[Lab]:
    """A laboratory whose stack has fd09::2, too, and has said what there was to say about it."""
    made = Lab()
    made.stack.add_address(made.stack.interfaces()[1].name, "fd09::2/64")
    made.peer.ping()
    sent(made, 5)
    made.peer.discard()
    yield made
    made.close()
