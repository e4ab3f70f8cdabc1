"""Options of UDP sockets at the IP, IPv6, UDP and UDP-Lite levels: groups, ways out, error queues, segmentation.

Responsible for: (level, name), and how values look as bytes. Not for: what the options do
(ustack_ext.sockets.ipoptions), memberships (groupoptions), ancillary data (ancillary). Numbers are Linux's where the
socket module has no name.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Any

from ustack_ext.sockets import udpcalls
from ustack_ext.sockets.ipoptions import IpOpt

from . import groupoptions

IPPROTO_UDPLITE = 136
UDPLITE_SEND_CSCOV, UDPLITE_RECV_CSCOV = 10, 11

_INT = struct.Struct("i")


def _number(name: str, default: int) -> int:
    return int(getattr(socket, name, default))


_IP, _IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
_INTS = {
    (_IP, _number("IP_RECVERR", 11)): IpOpt.IPOPT_RECVERR,
    (_IP, _number("IP_MTU_DISCOVER", 10)): IpOpt.IPOPT_MTU_DISCOVER,
    (_IP, _number("IP_RECVORIGDSTADDR", 20)): IpOpt.IPOPT_RECVORIGDSTADDR,
    (_IP, socket.IP_MULTICAST_TTL): IpOpt.IPOPT_MULTICAST_TTL,
    (_IP, socket.IP_MULTICAST_LOOP): IpOpt.IPOPT_MULTICAST_LOOP,
    (_IP, 49): IpOpt.IPOPT_MULTICAST_ALL,
    (_IPV6, 25): IpOpt.IPOPT_RECVERR6,
    (_IPV6, 23): IpOpt.IPOPT_MTU_DISCOVER6,
    (_IPV6, 74): IpOpt.IPOPT_RECVORIGDSTADDR6,
    (_IPV6, socket.IPV6_MULTICAST_IF): IpOpt.IPOPT_MULTICAST_IF6,
    (_IPV6, socket.IPV6_MULTICAST_HOPS): IpOpt.IPOPT_MULTICAST_HOPS6,
    (_IPV6, socket.IPV6_MULTICAST_LOOP): IpOpt.IPOPT_MULTICAST_LOOP6,
    (_IPV6, 29): IpOpt.IPOPT_MULTICAST_ALL6,
    (_IPV6, _number("IPV6_RECVPKTINFO", 49)): IpOpt.IPOPT_RECVPKTINFO6,
    (_IPV6, _number("IPV6_RECVHOPLIMIT", 51)): IpOpt.IPOPT_RECVHOPLIMIT6,
    (_IPV6, _number("IPV6_RECVTCLASS", 66)): IpOpt.IPOPT_RECVTCLASS6,
    (_IPV6, _number("IPV6_DONTFRAG", 62)): IpOpt.IPOPT_DONTFRAG6,
    (_IPV6, socket.IPV6_UNICAST_HOPS): IpOpt.IPOPT_UNICAST_HOPS6,
    (_IPV6, _number("IPV6_RECVPATHMTU", 60)): IpOpt.IPOPT_RECVPATHMTU6,
    (_IPV6, 24): IpOpt.IPOPT_MTU6,
    (socket.SOL_SOCKET, 11): IpOpt.IPOPT_NO_CHECK,
    (socket.IPPROTO_UDP, 103): IpOpt.IPOPT_SEGMENT,
    (socket.IPPROTO_UDP, 104): IpOpt.IPOPT_GRO,
    (socket.IPPROTO_UDP, UDPLITE_SEND_CSCOV): IpOpt.IPOPT_SEND_CSCOV,
    (socket.IPPROTO_UDP, UDPLITE_RECV_CSCOV): IpOpt.IPOPT_RECV_CSCOV,
    (IPPROTO_UDPLITE, UDPLITE_SEND_CSCOV): IpOpt.IPOPT_SEND_CSCOV,
    (IPPROTO_UDPLITE, UDPLITE_RECV_CSCOV): IpOpt.IPOPT_RECV_CSCOV,
}
_BYTES_TOO = (IpOpt.IPOPT_MULTICAST_TTL, IpOpt.IPOPT_MULTICAST_LOOP)  # ip(7): one byte is enough
_MULTICAST_IF = (_IP, socket.IP_MULTICAST_IF)
_DEVICE = (socket.SOL_SOCKET, _number("SO_BINDTODEVICE", 25))


def error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def takes(sock: Any, level: int, name: int) -> bool:
    """Whether the option is one of those here: only datagram sockets have them."""
    if sock.type == socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    if level in (socket.IPPROTO_UDP, IPPROTO_UDPLITE) and sock.type != socket.SOCK_DGRAM:
        return False
    if level == _IPV6 and sock.family != socket.AF_INET6:
        return False
    key = (level, name)
    return key in _INTS or key in (_MULTICAST_IF, _DEVICE) or groupoptions.takes(level, name)


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
    elif groupoptions.takes(level, name):
        groupoptions.put(sock, level, name, value)
    elif key == _DEVICE:
        if isinstance(value, int):
            raise error(errno.EINVAL)
        text = memoryview(value).tobytes().split(b"\0")[0].decode()
        sock._set_option(IpOpt.IPOPT_BINDTODEVICE, udpcalls.interface_index(sock.stack, 0, text) if text else 0)
    else:
        # An address as a number will do, too.
        raw = _INT.pack(value) if isinstance(value, int) else memoryview(value).tobytes()
        sock._set_option(IpOpt.IPOPT_MULTICAST_IF, groupoptions.interface_of(sock, raw, needs_group=False))


def _int_of(value: Any, short: bool) -> int:
    if isinstance(value, int):
        return value
    raw = memoryview(value).tobytes()
    if short and 1 <= len(raw) < _INT.size:
        return raw[0]
    groupoptions.need(raw, _INT.size)
    return int(_INT.unpack_from(raw)[0])


def _name_of(sock: Any, index: int) -> str:
    return next((one.name for one in sock.stack.interfaces() if one.index == index), "")


def _address_of(sock: Any, index: int) -> str:
    for one in sock.stack.interfaces():
        if one.index == index:
            return next((str(a).split("/")[0] for a in one.addresses if ":" not in str(a)), "0.0.0.0")
    return "0.0.0.0"
