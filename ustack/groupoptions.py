"""Memberships of groups by setsockopt, over IPv4 and IPv6 (ip(7), ipv6(7), RFC 3493 §5.2, RFC 3678).

Responsible for: the names, and the layouts of struct ip_mreq, ip_mreqn, ip_mreq_source, ip_msfilter, ipv6_mreq,
group_req, group_source_req, group_filter. Not for: what a membership does (ustack_ext.sockets.udpcalls). Numbers are
Linux's where the socket module has no name.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Any

from ustack_ext.sockets import udpcalls

_V4_MARK = 0xFFFF << 32  # IPv4 lives at ::ffff:a.b.c.d inside
_STORAGE = 128  # sizeof(struct sockaddr_storage)
_MSFILTER = struct.Struct("=4s4sII")
_INCLUDE, _EXCLUDE = 1, 0  # MCAST_INCLUDE, MCAST_EXCLUDE

_MREQ = {socket.IP_ADD_MEMBERSHIP: udpcalls.JOIN, socket.IP_DROP_MEMBERSHIP: udpcalls.LEAVE}
_MREQ_SOURCE = {37: udpcalls.UNBLOCK, 38: udpcalls.BLOCK, 39: udpcalls.JOIN_SOURCE, 40: udpcalls.LEAVE_SOURCE}
_MREQ6 = {socket.IPV6_JOIN_GROUP: udpcalls.JOIN, socket.IPV6_LEAVE_GROUP: udpcalls.LEAVE}
_GROUP_REQ = {42: udpcalls.JOIN, 45: udpcalls.LEAVE}
_GROUP_SOURCE_REQ = {
    43: udpcalls.BLOCK,
    44: udpcalls.UNBLOCK,
    46: udpcalls.JOIN_SOURCE,
    47: udpcalls.LEAVE_SOURCE,
}
_IP_MSFILTER, _MCAST_MSFILTER = 41, 48
_EITHER = {*_GROUP_REQ, *_GROUP_SOURCE_REQ, _MCAST_MSFILTER}
_NAMES = {
    socket.IPPROTO_IP: {*_MREQ, *_MREQ_SOURCE, _IP_MSFILTER, *_EITHER},
    socket.IPPROTO_IPV6: {*_MREQ6, *_EITHER},
}
_FAMILIES = {socket.IPPROTO_IP: socket.AF_INET, socket.IPPROTO_IPV6: socket.AF_INET6}


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def takes(level: int, name: int) -> bool:
    """Whether it is one of the options here."""
    return name in _NAMES.get(level, ())


def put(sock: Any, level: int, name: int, value: Any) -> None:
    """setsockopt. Raises OSError: EINVAL, ENODEV, EADDRINUSE, EADDRNOTAVAIL, ENOBUFS, ENOMEM; TypeError."""
    if isinstance(value, int):
        raise _error(errno.EINVAL)
    raw = memoryview(value).tobytes()
    if name in _EITHER:
        _put_either(sock, _FAMILIES[level], name, raw)
    elif level == socket.IPPROTO_IPV6:
        need(raw, 20)
        udpcalls.membership(sock, _MREQ6[name], int.from_bytes(raw[:16], "big"), struct.unpack_from("=I", raw, 16)[0])
    elif name in _MREQ:
        udpcalls.membership(sock, _MREQ[name], v4(raw[:4]), interface_of(sock, raw, needs_group=True))
    elif name in _MREQ_SOURCE:
        need(raw, 12)
        index = udpcalls.interface_index(sock.stack, v4(raw[4:8]))
        udpcalls.membership(sock, _MREQ_SOURCE[name], v4(raw[:4]), index, v4(raw[8:12]))
    else:
        need(raw, _MSFILTER.size)
        to, own, mode, count = _MSFILTER.unpack_from(raw)
        need(raw, _MSFILTER.size + 4 * min(count, 1 << 16))
        group, index = v4(to), udpcalls.interface_index(sock.stack, v4(own))
        sources = [v4(raw[at : at + 4]) for at in range(_MSFILTER.size, _MSFILTER.size + 4 * count, 4)]
        _set_filter(sock, group, index, mode, sources)


def _put_either(sock: Any, family: int, name: int, raw: bytes) -> None:
    """RFC 3678 §5.1: the address is aligned to 8."""
    need(raw, 8 + 16)
    if family == socket.AF_INET and name in _GROUP_REQ and struct.unpack_from("=H", raw, 8)[0] != family:
        raise _error(errno.EINVAL)  # as Linux, which says EADDRNOTAVAIL everywhere else
    index, group = int(struct.unpack_from("=I", raw)[0]), _sockaddr(raw, 8, family)
    if name in _GROUP_REQ:
        udpcalls.membership(sock, _GROUP_REQ[name], group, index)
    elif name in _GROUP_SOURCE_REQ:
        source = _sockaddr(raw, 8 + _STORAGE, family)
        udpcalls.membership(sock, _GROUP_SOURCE_REQ[name], group, index, source)
    else:
        need(raw, 16 + _STORAGE)
        mode, count = struct.unpack_from("=II", raw, 8 + _STORAGE)
        need(raw, 16 + _STORAGE * (1 + min(count, 1 << 16)))
        sources = [_sockaddr(raw, 16 + _STORAGE * (1 + k), family) for k in range(count)]
        _set_filter(sock, group, index, mode, sources)


def _set_filter(sock: Any, group: int, index: int, mode: int, sources: list[int]) -> None:
    if mode not in (_INCLUDE, _EXCLUDE):
        raise _error(errno.EINVAL)
    udpcalls.set_filter(sock, group, index, mode == _EXCLUDE, sources)


# -- layouts


def need(raw: bytes, size: int) -> None:
    """Raises OSError (EINVAL) for a value that is too short."""
    if len(raw) < size:
        raise _error(errno.EINVAL)


def v4(raw: bytes) -> int:
    """A struct in_addr as the stack's 128-bit number."""
    return _V4_MARK | int.from_bytes(raw, "big")


def _sockaddr(raw: bytes, at: int, family: int) -> int:
    """The address of a struct sockaddr_in or sockaddr_in6; EADDRNOTAVAIL: it is of another family."""
    need(raw, at + (16 if family == socket.AF_INET else 28))
    if struct.unpack_from("=H", raw, at)[0] != family:
        raise _error(errno.EADDRNOTAVAIL)
    if family == socket.AF_INET:
        return v4(raw[at + 4 : at + 8])
    return int.from_bytes(raw[at + 8 : at + 24], "big")


def interface_of(sock: Any, raw: bytes, *, needs_group: bool) -> int:
    """The interface that a struct in_addr, ip_mreq or ip_mreqn means."""
    if len(raw) >= 12:
        index = int(struct.unpack_from("=i", raw, 8)[0])
        if index:
            return index
    if len(raw) >= 8:
        return udpcalls.interface_index(sock.stack, v4(raw[4:8]))
    if needs_group or len(raw) < 4:
        raise _error(errno.EINVAL)
    return udpcalls.interface_index(sock.stack, v4(raw[:4]))
