"""Ancillary data of datagrams, as cmsg(3) has it: what comes with one, and what may be said of one that is sent.

Responsible for: the layouts of struct in_pktinfo, in6_pktinfo, sockaddr_in, sockaddr_in6 and sock_extended_err, and for
which message goes with which family (ip(7), ipv6(7), RFC 3542 §6). Not for: asking for them (ipoptions), what they do
(ustack_ext.udp). Numbers are Linux's.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from . import options

Message = tuple[int, int, bytes]

_INT = struct.Struct("i")
_SOCKADDR_IN = struct.Struct("=HH4s8x")
_SOCKADDR_IN6 = struct.Struct("=HHI16sI")
_EXTENDED_ERR = struct.Struct("=IBBBxII")
_MAPPED = bytes(10) + b"\xff\xff"
# What the receiver wants of a datagram (CMSG_* of ustack_ext/sockets/state.pxd); eight bits higher, of an IPv6 one.
_TTL, _TOS, _PKTINFO, ORIGDST, _GRO, _PATHMTU = 1, 2, 4, 8, 16, 32

_IP, _IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
_IP_TTL, _IP_TOS, _IP_PKTINFO, _IP_RECVERR, _IP_ORIGDSTADDR = (
    *(options.IP_NUMBERS[name] for name in ("IP_TTL", "IP_TOS", "IP_PKTINFO", "IP_RECVERR")),
    20,
)
_IPV6_RECVERR, _IPV6_PKTINFO, _IPV6_HOPLIMIT, _IPV6_TCLASS, _IPV6_DONTFRAG, _IPV6_ORIGDSTADDR = 25, 50, 52, 67, 62, 74
_UDP_SEGMENT, _UDP_GRO = 103, 104
_ORIGIN_LOCAL = 1  # SO_EE_ORIGIN_LOCAL


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


# -- what comes


def received(details: tuple[int, int, int, int, bytes, int] | None, port: int) -> list[Message]:
    """The messages of a datagram, in Linux's order. details: (wants, ttl, tos, interface, destination, UDP_GRO's size);
    port: the one it came to."""
    if details is None:
        return []
    wants, ttl, tos, index, destination, gro_size = details
    if wants >> 8 & _PATHMTU:  # no datagram: the destination is that of the path, the size its MTU
        return [(_IPV6, options.IPV6_PATHMTU, path_mtu(destination, gro_size, index))]
    four = destination.startswith(_MAPPED)
    messages = []
    if wants >> 8 & _PKTINFO:  # of an IPv4 datagram, too, on a socket of both families
        messages.append((_IPV6, _IPV6_PKTINFO, destination + _INT.pack(index)))
    if four:
        messages += _received4(wants, ttl, tos, index, destination[12:], port)
    else:
        messages += _received6(wants >> 8, ttl, tos, destination, port, index)
    if wants & _GRO and gro_size:
        messages.append((socket.IPPROTO_UDP, _UDP_GRO, _INT.pack(gro_size)))
    return messages


def _received4(wants: int, ttl: int, tos: int, index: int, here: bytes, port: int) -> list[Message]:
    messages = []
    if wants & _PKTINFO:
        messages.append((_IP, _IP_PKTINFO, _INT.pack(index) + here + here))
    if wants & _TTL:
        messages.append((_IP, _IP_TTL, _INT.pack(ttl)))
    if wants & _TOS:
        messages.append((_IP, _IP_TOS, bytes([tos])))
    if wants & ORIGDST:
        messages.append((_IP, _IP_ORIGDSTADDR, _SOCKADDR_IN.pack(socket.AF_INET, socket.htons(port), here)))
    return messages


def _received6(wants: int, ttl: int, tos: int, here: bytes, port: int, index: int) -> list[Message]:
    messages = []
    if wants & _TTL:
        messages.append((_IPV6, _IPV6_HOPLIMIT, _INT.pack(ttl)))
    if wants & _TOS:
        messages.append((_IPV6, _IPV6_TCLASS, _INT.pack(tos)))
    if wants & ORIGDST:
        messages.append((_IPV6, _IPV6_ORIGDSTADDR, _sockaddr6(here, port, index)))
    return messages


def path_mtu(destination: bytes, mtu: int, zone: int) -> bytes:
    """struct ip6_mtuinfo (RFC 3542 §11.3). destination: 16 bytes; mtu: bytes of a packet."""
    return _sockaddr6(destination, 0, zone) + struct.pack("=I", mtu)


def _sockaddr6(address: bytes, port: int, zone: int) -> bytes:
    local = (address[0] == 0xFE and address[1] & 0xC0 == 0x80) or (address[0] == 0xFF and address[1] & 15 == 2)
    return _SOCKADDR_IN6.pack(socket.AF_INET6, socket.htons(port), 0, address, zone if local else 0)


def fitting(messages: list[Message], room: int) -> tuple[list[Message], int]:
    """(messages that fit into `room` bytes as CMSG_SPACE counts, MSG_CTRUNC or 0)."""
    for i, (_, _, data) in enumerate(messages):
        if room < socket.CMSG_LEN(len(data)):
            return messages[:i], socket.MSG_CTRUNC
        room -= socket.CMSG_SPACE(len(data))
    return messages, 0


def extended_error(details: tuple[int, int, int, int, int], offender: tuple[bytes, int], six: bool) -> Message:
    """The message of IP_RECVERR or IPV6_RECVERR: struct sock_extended_err, and who said so. offender: 16 bytes, and the
    scope id; six: of an IPv6 datagram."""
    code, origin, kind, sub, info = details
    raw = _EXTENDED_ERR.pack(code, origin, kind, sub, info, 0)
    address, zone = offender
    if six:
        there = bytes(_SOCKADDR_IN6.size) if origin == _ORIGIN_LOCAL else _sockaddr6(address, 0, zone)
        return _IPV6, _IPV6_RECVERR, raw + there
    there = bytes(16) if origin == _ORIGIN_LOCAL else _SOCKADDR_IN.pack(socket.AF_INET, 0, address[12:])
    return _IP, _IP_RECVERR, raw + there


# -- what is sent


@dataclass(slots=True)
class Sending:
    """What is said of one datagram; zeros (ttl, tos: -1) as the socket has it."""

    ttl: int = -1
    tos: int = -1
    source: int = 0  # the stack's 128-bit number
    index: int = 0
    segment: int = 0
    dont_frag: int = 0  # 1 not, 2 set


def sending(sock: Any, messages: Iterable[tuple[int, int, Any]]) -> Sending:
    """Reads sendmsg's ancillary data. Raises OSError: EINVAL for what there is not at a level that the socket has."""
    found = Sending()
    for level, kind, data in messages:
        raw = bytes(data)
        if level == socket.IPPROTO_UDP and kind == _UDP_SEGMENT and len(raw) == 2:
            found.segment = int.from_bytes(raw, sys.byteorder)
        elif level == _IP:
            _sending4(found, sock, kind, raw)
        elif level == _IPV6 and sock.family == socket.AF_INET6:
            _sending6(found, sock, kind, raw)
    return found


def _sending4(found: Sending, sock: Any, kind: int, raw: bytes) -> None:
    if kind == _IP_TTL and len(raw) == _INT.size and 1 <= _INT.unpack(raw)[0] <= 255:
        found.ttl = _INT.unpack(raw)[0]
    elif kind == _IP_TOS and len(raw) in (1, _INT.size) and not any(raw[1:]):
        found.tos = raw[0]  # a little-endian int's first byte is its value
    elif kind == _IP_PKTINFO and len(raw) == 12 and sock.type != socket.SOCK_STREAM:
        found.index = int(_INT.unpack_from(raw)[0])
        found.source = int.from_bytes(_MAPPED + raw[4:8], "big") if any(raw[4:8]) else 0
    else:
        raise _error(errno.EINVAL)


def _sending6(found: Sending, sock: Any, kind: int, raw: bytes) -> None:
    if kind == _IPV6_PKTINFO and len(raw) >= 20 and sock.type != socket.SOCK_STREAM:
        found.index = int(_INT.unpack_from(raw, 16)[0])
        found.source = int.from_bytes(raw[:16], "big")
        return
    limits = {_IPV6_HOPLIMIT: (-1, 255), _IPV6_TCLASS: (-1, 255), _IPV6_DONTFRAG: (0, 1)}
    value = _INT.unpack(raw)[0] if kind in limits and len(raw) == _INT.size else None
    if value is None or not limits[kind][0] <= value <= limits[kind][1]:
        raise _error(errno.EINVAL)
    if kind == _IPV6_HOPLIMIT:
        found.ttl = value
    elif kind == _IPV6_TCLASS:
        found.tos = value
    else:
        found.dont_frag = 1 + value
