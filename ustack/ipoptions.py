"""Options of UDP sockets at the IP and UDP levels: groups, ways out, error queues, segmentation.

Responsible for: (level, name) and the layouts of struct ip_mreq, ip_mreqn, ip_mreq_source, ip_msfilter, group_req,
group_source_req, group_filter, and of the ancillary data in_pktinfo, sockaddr_in and sock_extended_err. Not for: what
the options do (ustack_ext.sockets.ipoptions, udpcalls). Numbers are Linux's where the socket module has no name.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Any

from ustack_ext.sockets import udpcalls
from ustack_ext.sockets.ipoptions import IpOpt

_V4_MARK = 0xFFFF << 32  # IPv4 lives at ::ffff:a.b.c.d inside
_INT = struct.Struct("i")
_SOCKADDR_IN = struct.Struct("=HH4s8x")
_STORAGE = 128  # sizeof(struct sockaddr_storage)
_EXTENDED_ERR = struct.Struct("=IBBBxII")
_MSFILTER = struct.Struct("=4s4sII")
_INCLUDE, _EXCLUDE = 1, 0  # MCAST_INCLUDE, MCAST_EXCLUDE


def _number(name: str, default: int) -> int:
    return int(getattr(socket, name, default))


_INTS = {
    (socket.IPPROTO_IP, _number("IP_RECVERR", 11)): IpOpt.IPOPT_RECVERR,
    (socket.IPPROTO_IP, _number("IP_MTU_DISCOVER", 10)): IpOpt.IPOPT_MTU_DISCOVER,
    (socket.IPPROTO_IP, _number("IP_RECVORIGDSTADDR", 20)): IpOpt.IPOPT_RECVORIGDSTADDR,
    (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL): IpOpt.IPOPT_MULTICAST_TTL,
    (socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP): IpOpt.IPOPT_MULTICAST_LOOP,
    (socket.IPPROTO_IP, 49): IpOpt.IPOPT_MULTICAST_ALL,
    (socket.SOL_SOCKET, 11): IpOpt.IPOPT_NO_CHECK,
    (socket.IPPROTO_UDP, 103): IpOpt.IPOPT_SEGMENT,
    (socket.IPPROTO_UDP, 104): IpOpt.IPOPT_GRO,
}
_BYTES_TOO = (IpOpt.IPOPT_MULTICAST_TTL, IpOpt.IPOPT_MULTICAST_LOOP)  # ip(7): one byte is enough
_MULTICAST_IF = (socket.IPPROTO_IP, socket.IP_MULTICAST_IF)
_DEVICE = (socket.SOL_SOCKET, _number("SO_BINDTODEVICE", 25))
_MREQ = {socket.IP_ADD_MEMBERSHIP: udpcalls.JOIN, socket.IP_DROP_MEMBERSHIP: udpcalls.LEAVE}
_MREQ_SOURCE = {37: udpcalls.UNBLOCK, 38: udpcalls.BLOCK, 39: udpcalls.JOIN_SOURCE, 40: udpcalls.LEAVE_SOURCE}
_GROUP_REQ = {42: udpcalls.JOIN, 45: udpcalls.LEAVE}
_GROUP_SOURCE_REQ = {
    43: udpcalls.BLOCK,
    44: udpcalls.UNBLOCK,
    46: udpcalls.JOIN_SOURCE,
    47: udpcalls.LEAVE_SOURCE,
}
_IP_MSFILTER, _MCAST_MSFILTER = 41, 48
_STRUCTS = {*_MREQ, *_MREQ_SOURCE, *_GROUP_REQ, *_GROUP_SOURCE_REQ, _IP_MSFILTER, _MCAST_MSFILTER}

IP_PKTINFO = 8
IP_RECVERR = 11
IP_ORIGDSTADDR = 20
UDP_SEGMENT = 103
UDP_GRO = 104


def error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def takes(sock: Any, level: int, name: int) -> bool:
    """Whether the option is one of those here: only datagram sockets have them."""
    if sock.type == socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    if level == socket.IPPROTO_UDP and sock.type != socket.SOCK_DGRAM:
        return False
    key = (level, name)
    return key in _INTS or key in (_MULTICAST_IF, _DEVICE) or (level == socket.IPPROTO_IP and name in _STRUCTS)


def get(sock: Any, level: int, name: int, size: int) -> int | bytes:
    """getsockopt. Raises OSError."""
    key = (level, name)
    if key == _DEVICE:
        index = sock._get_option(IpOpt.IPOPT_BINDTODEVICE)
        return b"" if index == 0 else _name_of(sock, index).encode() + b"\0"
    if key == _MULTICAST_IF:
        index = sock._get_option(IpOpt.IPOPT_MULTICAST_IF)
        raw = socket.inet_aton(_address_of(sock, index))
        return raw[:size] if size else int(_INT.unpack(raw)[0])
    if key not in _INTS:
        raise error(errno.ENOPROTOOPT)
    value: int = sock._get_option(_INTS[key])
    if not size:
        return value
    return _INT.pack(value)[:size] if size >= _INT.size else value.to_bytes(4, "little")[:size]


def put(sock: Any, level: int, name: int, value: Any) -> None:
    """setsockopt. Raises OSError: EINVAL, ENODEV, EADDRINUSE, EADDRNOTAVAIL, ENOBUFS; TypeError."""
    key = (level, name)
    if key in _INTS:
        sock._set_option(_INTS[key], _int_of(value, _INTS[key] in _BYTES_TOO))
        return
    if isinstance(value, int):
        if key == _DEVICE or level != socket.IPPROTO_IP:
            raise error(errno.EINVAL)
        value = _INT.pack(value)  # IP_MULTICAST_IF takes an address as a number, too
    raw = memoryview(value).tobytes()
    if key == _DEVICE:
        text = raw.split(b"\0")[0].decode()
        sock._set_option(IpOpt.IPOPT_BINDTODEVICE, udpcalls.interface_index(sock.stack, 0, text) if text else 0)
    elif key == _MULTICAST_IF:
        sock._set_option(IpOpt.IPOPT_MULTICAST_IF, _interface_of(sock, raw, needs_group=False))
    elif name in _MREQ:
        udpcalls.membership(sock, _MREQ[name], _v4(raw[:4]), _interface_of(sock, raw, needs_group=True))
    elif name in _MREQ_SOURCE:
        _need(raw, 12)
        index = udpcalls.interface_index(sock.stack, _v4(raw[4:8]))
        udpcalls.membership(sock, _MREQ_SOURCE[name], _v4(raw[:4]), index, _v4(raw[8:12]))
    elif name in _GROUP_REQ:
        index, group = _group_req(raw)
        udpcalls.membership(sock, _GROUP_REQ[name], group, index)
    elif name in _GROUP_SOURCE_REQ:
        index, group = _group_req(raw)
        udpcalls.membership(sock, _GROUP_SOURCE_REQ[name], group, index, _sockaddr(raw, 8 + _STORAGE))
    else:
        _put_filter(sock, name, raw)


def _put_filter(sock: Any, name: int, raw: bytes) -> None:
    if name == _IP_MSFILTER:
        _need(raw, _MSFILTER.size)
        to, own, mode, count = _MSFILTER.unpack_from(raw)
        _need(raw, _MSFILTER.size + 4 * min(count, 1 << 16))
        group, index = _v4(to), udpcalls.interface_index(sock.stack, _v4(own))
        sources = [_v4(raw[at : at + 4]) for at in range(_MSFILTER.size, _MSFILTER.size + 4 * count, 4)]
    else:
        index, group = _group_req(raw)
        _need(raw, 16 + _STORAGE)
        mode, count = struct.unpack_from("=II", raw, 8 + _STORAGE)
        _need(raw, 16 + _STORAGE * (1 + min(count, 1 << 16)))
        sources = [_sockaddr(raw, 16 + _STORAGE * (1 + k)) for k in range(count)]
    if mode not in (_INCLUDE, _EXCLUDE):
        raise error(errno.EINVAL)
    udpcalls.set_filter(sock, group, index, mode == _EXCLUDE, sources)


# -- layouts


def _need(raw: bytes, size: int) -> None:
    if len(raw) < size:
        raise error(errno.EINVAL)


def _int_of(value: Any, short: bool) -> int:
    if isinstance(value, int):
        return value
    raw = memoryview(value).tobytes()
    if short and 1 <= len(raw) < _INT.size:
        return raw[0]
    _need(raw, _INT.size)
    return int(_INT.unpack_from(raw)[0])


def _v4(raw: bytes) -> int:
    return _V4_MARK | int.from_bytes(raw, "big")


def v4_number(text: str) -> int:
    """A dotted quad as the stack's 128-bit number."""
    return _v4(socket.inet_aton(text))


def _sockaddr(raw: bytes, at: int) -> int:
    _need(raw, at + _SOCKADDR_IN.size)
    family, _, address = _SOCKADDR_IN.unpack_from(raw, at)
    if family != socket.AF_INET:
        raise error(errno.EADDRNOTAVAIL)
    return _v4(address)


def _group_req(raw: bytes) -> tuple[int, int]:
    """(interface, group) of struct group_req and all that begin like it: the address is aligned to 8."""
    _need(raw, 8 + _SOCKADDR_IN.size)
    return int(struct.unpack_from("=I", raw)[0]), _sockaddr(raw, 8)


def _interface_of(sock: Any, raw: bytes, *, needs_group: bool) -> int:
    """The interface that a struct in_addr, ip_mreq or ip_mreqn means."""
    if len(raw) >= 12:
        index = int(_INT.unpack_from(raw, 8)[0])
        if index:
            return index
    if len(raw) >= 8:
        return udpcalls.interface_index(sock.stack, _v4(raw[4:8]))
    if needs_group or len(raw) < 4:
        raise error(errno.EINVAL)
    return udpcalls.interface_index(sock.stack, _v4(raw[:4]))


def _name_of(sock: Any, index: int) -> str:
    return next((one.name for one in sock.stack.interfaces() if one.index == index), "")


def _address_of(sock: Any, index: int) -> str:
    for one in sock.stack.interfaces():
        if one.index == index:
            return next((str(a).split("/")[0] for a in one.addresses if ":" not in str(a)), "0.0.0.0")
    return "0.0.0.0"


# -- ancillary data


def sockaddr_in(address: tuple[str, int]) -> bytes:
    return _SOCKADDR_IN.pack(socket.AF_INET, socket.htons(address[1]), socket.inet_aton(address[0]))


def extended_error(details: tuple[int, int, int, int, int], offender: str) -> tuple[int, int, bytes]:
    """The message of IP_RECVERR: struct sock_extended_err and the address of who said so."""
    code, origin, kind, sub, info = details
    raw = _EXTENDED_ERR.pack(code, origin, kind, sub, info, 0)
    there = sockaddr_in((offender, 0)) if origin == 2 else bytes(_SOCKADDR_IN.size)
    return socket.IPPROTO_IP, IP_RECVERR, raw + there


def packet_info(raw: bytes) -> tuple[int, int]:
    """(interface, source as a number, 0: none) of struct in_pktinfo. Raises OSError: EINVAL."""
    if len(raw) != 12:
        raise error(errno.EINVAL)
    index = int(_INT.unpack_from(raw)[0])
    return index, _v4(raw[4:8]) if any(raw[4:8]) else 0
