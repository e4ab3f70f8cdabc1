"""Reading scapy packets that came from the stack: a line to print, their data, whether checksums are right."""

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from tap_harness import segment


class Mismatch(AssertionError):
    """What came is not what was expected; the message has a table and the exchange so far."""


def describe(packet: Packet) -> str:
    """One line about a packet, TCP as tcpdump does it but with absolute numbers."""
    if TCP not in packet or not isinstance(packet[TCP], TCP):
        return str(packet.summary())
    tcp = packet[TCP]
    size = len(payload(packet))
    options = " ".join(
        str(name) if value in (None, b"") else f"{name}={value}" for name, value in tcp.options if name != "NOP"
    )
    return f"{tcp.sport}>{tcp.dport} [{tcp.flags}] seq {tcp.seq} ack {tcp.ack} len {size} win {tcp.window}" + (
        f" <{options}>" if options else ""
    )


def payload(packet: Packet) -> bytes:
    """The TCP or UDP data of an IP packet, by its own length fields (without Ethernet padding)."""
    ip = packet[IPv6] if IPv6 in packet else packet[IP]
    transport = ip[TCP] if TCP in ip else ip[UDP]
    header = transport.dataofs * 4 if TCP in ip else 8
    whole = ip.plen if IPv6 in packet else ip.len and ip.len - ip.ihl * 4
    return bytes(transport)[header:whole] if whole else bytes(transport.payload)


def valid(packet: Packet) -> bool:
    """Whether the IP header and the TCP checksum of a packet from the stack are right."""
    return segment.parse(bytes(packet)) is not None
