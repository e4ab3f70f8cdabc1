"""One line for a packet: time, interface, direction, and what its headers say, much as tcpdump(8) prints it.

Responsible for: Ethernet, ARP, IPv4, IPv6, TCP, UDP, ICMP, by name and number. Not for: what is inside of them.
"""

from __future__ import annotations

import ipaddress
import struct
import time

from .. import pcapng

_DIRECTIONS = {pcapng.INBOUND: "In ", pcapng.OUTBOUND: "Out"}
_FLAGS = ((2, "S"), (1, "F"), (4, "R"), (8, "P"), (32, "U"), (64, "E"), (128, "W"), (16, "."))
_ICMP = {
    0: "echo reply",
    3: "unreachable",
    5: "redirect",
    8: "echo request",
    11: "time exceeded",
    12: "parameter problem",
}
_ICMP6 = {
    1: "unreachable",
    2: "packet too big",
    3: "time exceeded",
    4: "parameter problem",
    128: "echo request",
    129: "echo reply",
    130: "multicast listener query",
    131: "multicast listener report",
    132: "multicast listener done",
    133: "router solicitation",
    134: "router advertisement",
    135: "neighbor solicitation",
    136: "neighbor advertisement",
    137: "redirect",
    143: "multicast listener report v2",
}
_EXTENSIONS = {0: "hop-by-hop", 43: "routing", 60: "destination"}
_EXTENSIONS_MAX = 8


def line(packet: pcapng.Packet, ethernet: bool = False) -> str:
    """The packet in a line. ethernet: with the addresses of its frame."""
    seconds, rest = divmod(packet.ns, 10**9)
    clock = time.strftime("%H:%M:%S", time.localtime(seconds))
    why = "".join(f" {{{text}}}" for text in packet.comments)
    direction = _DIRECTIONS.get(packet.direction, "?  ")
    return f"{clock}.{rest // 1000:06} {packet.interface} {direction} {_what(packet, ethernet)}{why}"


def _what(packet: pcapng.Packet, ethernet: bool) -> str:
    data, head = packet.data, ""
    try:
        if packet.linktype == pcapng.ETHERNET:
            to, source, kind = struct.unpack_from("!6s6sH", data)
            data = data[14:]
            if ethernet:
                head = f"{source.hex(':')} > {to.hex(':')}, "
            while kind in (0x8100, 0x88A8):
                tag, kind = struct.unpack_from("!HH", data)
                data = data[4:]
                head += f"vlan {tag & 0xFFF}, "
            if kind == 0x0806:
                return head + _arp(data)
            if kind not in (0x0800, 0x86DD):
                return f"{head}ethertype 0x{kind:04x}, length {packet.length}"
        return head + (_ip6(data) if data[0] >> 4 == 6 else _ip4(data))
    except (struct.error, IndexError):
        return f"{head}[short packet], length {packet.length}"


def _arp(data: bytes) -> str:
    op, sha, spa, _, tpa = struct.unpack_from("!6xH6s4s6s4s", data)
    source, target = ipaddress.IPv4Address(spa), ipaddress.IPv4Address(tpa)
    if op == 1:
        return f"ARP, Request who-has {target} tell {source}"
    return f"ARP, Reply {source} is-at {sha.hex(':')}" if op == 2 else f"ARP, operation {op}"


def _ip4(data: bytes) -> str:
    first, length, fragment, protocol, source, target = struct.unpack_from("!BxH2xHxB2x4s4s", data)
    head = (first & 15) * 4
    ends = str(ipaddress.IPv4Address(source)), str(ipaddress.IPv4Address(target))
    size = (length or len(data)) - head
    offset = (fragment & 0x1FFF) * 8
    if offset:
        return f"IP {ends[0]} > {ends[1]}: fragment at {offset}, length {size}"
    more = " (first fragment)" if fragment & 0x2000 else ""
    return f"IP {_transport(protocol, ends, data[head:], size, _ICMP)}{more}"


def _ip6(data: bytes) -> str:
    length, following, source, target = struct.unpack_from("!4xHBx16s16s", data)
    ends = str(ipaddress.IPv6Address(source)), str(ipaddress.IPv6Address(target))
    payload = data[40:]
    size = length or len(payload)
    names = ""
    for _ in range(_EXTENSIONS_MAX):
        if following not in _EXTENSIONS:
            break
        names += f"{_EXTENSIONS[following]}, "
        following, more = struct.unpack_from("!BB", payload)
        payload = payload[more * 8 + 8 :]
        size -= more * 8 + 8
    if following == 44:
        following, offset = struct.unpack_from("!BxH", payload)
        if offset & 0xFFF8:
            return f"IP6 {ends[0]} > {ends[1]}: {names}fragment at {offset & 0xFFF8}, length {size - 8}"
        payload = payload[8:]
        size -= 8
        names += "first fragment, " if offset & 1 else ""
    return f"IP6 {_transport(following, ends, payload, size, _ICMP6, names)}"


def _transport(
    protocol: int, ends: tuple[str, str], data: bytes, size: int, icmp: dict[int, str], names: str = ""
) -> str:
    source, target = ends
    if protocol in (6, 17):
        ports = struct.unpack_from("!HH", data)
        between = f"{source}.{ports[0]} > {target}.{ports[1]}: {names}"
        return between + (f"UDP, length {size - 8}" if protocol == 17 else _tcp(data, size))
    between = f"{source} > {target}: {names}"
    if protocol in (1, 58):
        kind, code = struct.unpack_from("!BB", data)
        name = icmp.get(kind, f"type {kind}")
        if name.startswith("echo"):
            return f"{between}ICMP{'6' * (protocol == 58)} {name}, id %d, seq %d, length {size}" % struct.unpack_from(
                "!HH", data, 4
            )
        return f"{between}ICMP{'6' * (protocol == 58)} {name}{f' code {code}' if code else ''}, length {size}"
    if protocol == 2:
        return f"{between}IGMP type 0x{data[0]:02x}, length {size}"
    return f"{between}protocol {protocol}, length {size}"


def _tcp(data: bytes, size: int) -> str:
    seq, ack, head, flags, window = struct.unpack_from("!4xIIBBH", data)
    length = size - (head >> 4) * 4
    letters = "".join(letter for bit, letter in _FLAGS if flags & bit) or "none"
    numbers = f"seq {seq}" + (f":{seq + length & 0xFFFFFFFF}" if length else "")
    acked = f", ack {ack}" if flags & 16 else ""
    return f"Flags [{letters}], {numbers}{acked}, win {window}, length {length}"
