"""What the tests of the network layer share: datagram sockets of the stack, what it sent, whom it knows."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from tap_harness.checks import growth
from tap_harness.lab import Lab
from tap_harness.scapy_peer import BROADCAST

STACK_IP = "10.9.0.2"
PEER_IP = "10.9.0.1"
PEER_MAC = "02:00:00:00:00:01"
OTHER_MAC = "02:00:00:00:00:66"


def udp(lab: Lab, port: int = 0, address: str = "", *, bound: bool = True) -> Any:
    """A non-blocking UDP socket of the stack."""
    sock = lab.stack.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    if bound:
        try:
            sock.bind((address, port))
        except OSError:
            sock.close()
            raise
    return sock


def send(lab: Lab, sock: Any, data: bytes, to: tuple[str, int]) -> int:
    """sendto, and let the stack act on it."""
    sent = int(sock.sendto(data, to))
    lab.carrier.pump()
    return sent


def received(sock: Any, size: int = 65535) -> list[tuple[bytes, tuple[str, int]]]:
    """Everything a non-blocking socket has to read."""
    found = []
    while True:
        try:
            found.append(sock.recvfrom(size))
        except BlockingIOError:
            return found


def sent(lab: Lab, seconds: float = 0.0) -> list[Packet]:
    """Every frame the stack sends within so many seconds; nobody answers ARP meanwhile."""
    if seconds:
        lab.carrier.advance(seconds)
    return [Ether(frame) for frame in lab.carrier.drain()]


def heard(lab: Lab, seconds: float) -> list[Packet]:
    """Every packet the stack sends within so many seconds to the peer, who answers ARP meanwhile."""
    until = lab.carrier.now() + seconds
    found = []
    while (packet := lab.peer.next(max(0.0, until - lab.carrier.now()))) is not None:
        found.append(packet)
    return found


def flood(lab: Lab, frames: Iterable[bytes], batch: int = 256) -> int:
    """Hands over many frames, a batch at a time, and throws away what comes back; how many frames that was."""
    answers = 0
    rest = iter(frames)
    while some := list(islice(rest, batch)):
        lab.carrier.send_many(some)
        answers += len(lab.carrier.drain())
    return answers


def requests(packets: list[Packet], target: str) -> list[Packet]:
    """The ARP requests for an address among the packets."""
    return [packet for packet in packets if ARP in packet and packet[ARP].op == 1 and packet[ARP].pdst == target]


def arp(
    op: int, *, psrc: str, pdst: str, hwsrc: str = PEER_MAC, hwdst: str = "00:00:00:00:00:00", to: str = BROADCAST
) -> Packet:
    """An ARP frame; what is not said is a broadcast request of the peer."""
    return Ether(src=hwsrc, dst=to) / ARP(op=op, hwsrc=hwsrc, hwdst=hwdst, psrc=psrc, pdst=pdst)


def answer(lab: Lab, ip: str, mac: str) -> None:
    """The proper reply to the stack's request for `ip`, from whoever has `mac`."""
    stack_mac = lab.peer.target_mac
    lab.peer.send_ether(arp(2, psrc=ip, pdst=STACK_IP, hwsrc=mac, hwdst=stack_mac, to=stack_mac))


def neighbour(lab: Lab, ip: str) -> Any:
    """The stack's entry for an address, or None."""
    return next((entry for entry in lab.stack.neighbors() if entry.address == ip), None)


def state(lab: Lab, ip: str) -> str | None:
    """The state of the stack's entry for an address, or None."""
    entry = neighbour(lab, ip)
    return None if entry is None else str(entry.state)


def mac_of(lab: Lab, ip: str) -> str | None:
    """The link address the stack has for an IP address, or None."""
    entry = neighbour(lab, ip)
    return None if entry is None else entry.mac


def ping_answered(lab: Lab, data: bytes = b"x" * 56, **fields: Any) -> bool:
    """Whether an echo request with such an IP header is answered at once."""
    lab.peer.discard()
    lab.peer.send(lab.peer.ip_header(**fields) / ICMP(type=8, id=7, seq=9) / Raw(data))
    return any(ICMP in packet and packet[ICMP].type == 0 for packet in sent(lab))


def icmp_errors(packets: list[Packet]) -> list[tuple[int, int]]:
    """(type, code) of the ICMP messages that are errors."""
    return [(p[ICMP].type, p[ICMP].code) for p in packets if ICMP in p and p[ICMP].type in (3, 4, 5, 11, 12)]


@contextmanager
def counted(lab: Lab) -> Iterator[dict[str, int]]:
    """A dictionary that is filled, at the end of the block, with the counters that grew in it."""
    grown: dict[str, int] = {}
    before = lab.stack.counters()
    yield grown
    grown.update(growth(before, lab.stack.counters()))


def fragments(packet: Packet, cuts: list[int]) -> list[Packet]:
    """An IP packet cut at the given payload offsets (multiples of 8)."""
    data = bytes(packet[IP].payload)
    header = IP(bytes(packet[IP]))  # built once, so that the protocol number is that of the payload
    header.remove_payload()
    pieces = []
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        piece = header.copy()
        piece.flags = "MF" if end < len(data) else 0
        piece.frag = start // 8
        piece.len = None
        piece.chksum = None
        pieces.append(piece / Raw(data[start:end]))
    return pieces
