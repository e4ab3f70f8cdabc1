"""TCP's MD5 option (RFC 2385) as tests need it: setsockopt's argument, and the digest a segment ought to have."""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import struct
from typing import Any

from scapy.layers.inet import TCP

TCP_MD5SIG, TCP_MD5SIG_EXT = 14, 32
OPTION = "MD5"  # as scapy names it


def md5sig(peer: str, key: bytes, prefix: int | None = None, mapped: bool = False) -> bytes:
    """Linux's struct tcp_md5sig.

    peer: an address; prefix: bits of it, for TCP_MD5SIG_EXT; mapped: an IPv4 address as ::ffff:a.b.c.d, for an AF_INET6
    socket.
    """
    address = ipaddress.ip_address(peer)
    if address.version == 4 and not mapped:
        name = struct.pack("=HH4s", socket.AF_INET, 0, address.packed)
    else:
        packed = b"\0" * 10 + b"\xff\xff" + address.packed if mapped else address.packed
        name = struct.pack("=HHI16s", socket.AF_INET6, 0, 0, packed)
    return struct.pack("=128sBBHi80s", name, prefix is not None, prefix or 0, len(key), 0, key)


def digest(packet: Any, key: bytes) -> bytes:
    """RFC 2385 §2.0, of scapy's packet, whose TCP header's options count by their length alone."""
    segment = bytes(packet[TCP])
    ends = ipaddress.ip_address(packet.src).packed + ipaddress.ip_address(packet.dst).packed
    pseudo = ends + (struct.pack("!HH", 6, len(segment)) if len(ends) == 8 else struct.pack("!II", len(segment), 6))
    data = segment[packet[TCP].dataofs * 4 :]
    return hashlib.md5(pseudo + segment[:16] + b"\0\0" + segment[18:20] + data + key).digest()


def signatures(packet: Any) -> list[bytes]:
    """What the MD5 options of a packet say."""
    return [value for kind, value in packet[TCP].options if kind == OPTION]
