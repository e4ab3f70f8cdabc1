"""Options of raw and packet sockets, and SO_ATTACH_FILTER and its like for every datagram socket.

Responsible for: (level, name), which socket has which, and the layouts of struct icmp_filter, icmp6_filter and
tpacket_stats. Not for: what they do (ustack_ext.sockets.rawcalls). Numbers are Linux's where the socket module has no
name.

SO_ATTACH_FILTER takes the program itself: the bytes of an array of struct sock_filter (u16 code, u8 jt, u8 jf, u32 k,
in this machine's byte order), not a struct sock_fprog, whose pointer would be a number that anybody can make up.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Any

from ustack_ext.sockets import rawcalls
from ustack_ext.sockets.rawcalls import RawOpt

SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_LOCK_FILTER = 26, 27, 44
ICMP_FILTER, ICMP6_FILTER = 1, 1
IPV6_HDRINCL = 36
SOL_RAW, SOL_PACKET = 255, 263
PACKET_ADD_MEMBERSHIP, PACKET_DROP_MEMBERSHIP, PACKET_STATISTICS, PACKET_IGNORE_OUTGOING = 1, 2, 6, 23

_INT = struct.Struct("i")
_IP_HDRINCL = getattr(socket, "IP_HDRINCL", 3)
_IPV6_CHECKSUM = getattr(socket, "IPV6_CHECKSUM", 7)
_FILTERS = {(socket.SOL_SOCKET, name) for name in (SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_LOCK_FILTER)}
_FOUR = {(socket.IPPROTO_IP, _IP_HDRINCL): RawOpt.RAWOPT_HEADER, (SOL_RAW, ICMP_FILTER): None}
_SIX = {
    (socket.IPPROTO_IPV6, IPV6_HDRINCL): RawOpt.RAWOPT_HEADER,
    (socket.IPPROTO_IPV6, _IPV6_CHECKSUM): RawOpt.RAWOPT_CHECKSUM,
    (SOL_RAW, _IPV6_CHECKSUM): RawOpt.RAWOPT_CHECKSUM,
    (socket.IPPROTO_ICMPV6, ICMP6_FILTER): None,
}
_PACKET = {
    (SOL_PACKET, PACKET_IGNORE_OUTGOING): RawOpt.RAWOPT_IGNORE_OUTGOING,
    (SOL_PACKET, PACKET_STATISTICS): None,
    (SOL_PACKET, PACKET_ADD_MEMBERSHIP): None,
    (SOL_PACKET, PACKET_DROP_MEMBERSHIP): None,
}


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def _table(sock: Any) -> dict[tuple[int, int], RawOpt | None]:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return _PACKET
    if sock.type != socket.SOCK_RAW:
        return {}
    return _SIX if sock.family == socket.AF_INET6 else _FOUR


def takes(sock: Any, level: int, name: int) -> bool:
    """Whether the option is one of those here."""
    return sock.type != socket.SOCK_STREAM and ((level, name) in _FILTERS or (level, name) in _table(sock))


def get(sock: Any, level: int, name: int, size: int) -> int | bytes:
    """getsockopt. Raises OSError: ENOPROTOOPT, EOPNOTSUPP."""
    key = (level, name)
    which = RawOpt.RAWOPT_LOCK_FILTER if key == (socket.SOL_SOCKET, SO_LOCK_FILTER) else _table(sock).get(key)
    if which is not None:
        raw = _INT.pack(rawcalls.get_raw(sock, which))
    elif key == (SOL_PACKET, PACKET_STATISTICS):
        received, lost = rawcalls.statistics(sock)
        raw = struct.pack("II", received + lost, lost)
    elif key in _table(sock) and level != SOL_PACKET:
        _check_filter(sock, level)
        raw = rawcalls.refused_types(sock)[: _INT.size if level == SOL_RAW else None]
    else:
        raise _error(errno.ENOPROTOOPT)
    return raw[:size] if size else int(_INT.unpack_from(raw)[0])


def put(sock: Any, level: int, name: int, value: Any) -> None:
    """setsockopt. Raises OSError: EINVAL, EPERM, ENOENT, EOPNOTSUPP, ENOPROTOOPT."""
    key = (level, name)
    if key == (socket.SOL_SOCKET, SO_ATTACH_FILTER):
        rawcalls.attach_filter(sock, _bytes_of(value))
    elif key == (socket.SOL_SOCKET, SO_DETACH_FILTER):
        rawcalls.detach_filter(sock)
    elif key == (socket.SOL_SOCKET, SO_LOCK_FILTER):
        rawcalls.set_raw(sock, RawOpt.RAWOPT_LOCK_FILTER, _int_of(value))
    elif (which := _table(sock)[key]) is not None:
        rawcalls.set_raw(sock, which, _int_of(value))
    elif name == PACKET_STATISTICS and level == SOL_PACKET:
        raise _error(errno.ENOPROTOOPT)
    elif level != SOL_PACKET:  # groups and promiscuous mode: a packet socket sees whatever the link has
        _check_filter(sock, level)
        rawcalls.refuse_types(sock, _bytes_of(value)[: _INT.size if level == SOL_RAW else 32])


def _check_filter(sock: Any, level: int) -> None:
    if sock.proto != (socket.IPPROTO_ICMP if level == SOL_RAW else socket.IPPROTO_ICMPV6):
        raise _error(errno.EOPNOTSUPP)


def _bytes_of(value: Any) -> bytes:
    return struct.pack("I", value & 0xFFFFFFFF) if isinstance(value, int) else memoryview(value).tobytes()


def _int_of(value: Any) -> int:
    if isinstance(value, int):
        return value
    raw = memoryview(value).tobytes()
    if len(raw) < _INT.size:
        raise _error(errno.EINVAL)
    return int(_INT.unpack_from(raw)[0])
