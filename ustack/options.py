"""Socket options by the platform's numbers: which of them a socket has, and how their values look as bytes.

Responsible for: (level, name) of getsockopt and setsockopt, the layouts of struct linger and struct tcp_info.
Not for: what an option does, its range and default (ustack_ext.sockets.options).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from typing import Any

from ustack_ext.sockets.inspect import connection_details
from ustack_ext.sockets.options import Opt, algorithms

from . import ipoptions

_INT = struct.Struct("i")
_LINGER = struct.Struct("ii")
_U32, _UNLIMITED = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
_CA_NAME_MAX = 16  # Linux's TCP_CA_NAME_MAX
_NAMES = {
    "SOL_SOCKET": {
        "SO_ERROR": Opt.OPT_ERROR,
        "SO_ACCEPTCONN": Opt.OPT_ACCEPTCONN,
        "SO_REUSEADDR": Opt.OPT_REUSEADDR,
        "SO_BROADCAST": Opt.OPT_BROADCAST,
        "SO_KEEPALIVE": Opt.OPT_KEEPALIVE,
        "SO_LINGER": Opt.OPT_LINGER,
        "SO_RCVBUF": Opt.OPT_RCVBUF,
        "SO_SNDBUF": Opt.OPT_SNDBUF,
        "SO_BUSY_POLL": Opt.OPT_BUSY_POLL,
        "SO_MAX_PACING_RATE": Opt.OPT_MAX_PACING_RATE,
    },
    "IPPROTO_TCP": {
        "TCP_KEEPIDLE": Opt.OPT_KEEPIDLE,
        "TCP_KEEPINTVL": Opt.OPT_KEEPINTVL,
        "TCP_KEEPCNT": Opt.OPT_KEEPCNT,
        "TCP_NODELAY": Opt.OPT_NODELAY,
        "TCP_MAXSEG": Opt.OPT_MAXSEG,
        "TCP_USER_TIMEOUT": Opt.OPT_USER_TIMEOUT,
        "TCP_QUICKACK": Opt.OPT_QUICKACK,
        "TCP_CONGESTION": Opt.OPT_CONGESTION,
    },
    "IPPROTO_IP": {
        "IP_TTL": Opt.OPT_TTL,
        "IP_TOS": Opt.OPT_TOS,
        "IP_RECVTTL": Opt.OPT_RECVTTL,
        "IP_RECVTOS": Opt.OPT_RECVTOS,
        "IP_PKTINFO": Opt.OPT_PKTINFO,
        "IP_MTU": Opt.OPT_MTU,
    },
    "IPPROTO_IPV6": {
        "IPV6_V6ONLY": Opt.OPT_V6ONLY,
        "IPV6_UNICAST_HOPS": Opt.OPT_TTL,
        "IPV6_TCLASS": Opt.OPT_TOS,
        "IPV6_RECVHOPLIMIT": Opt.OPT_RECVTTL,
        "IPV6_RECVTCLASS": Opt.OPT_RECVTOS,
        "IPV6_RECVPKTINFO": Opt.OPT_PKTINFO,
        "IPV6_MTU": Opt.OPT_MTU,
    },
}
# Linux's numbers, for names that the socket module of this Python does not have.
IP_NUMBERS = {"IP_TTL": 2, "IP_TOS": 1, "IP_RECVTTL": 12, "IP_RECVTOS": 13, "IP_PKTINFO": 8, "IP_MTU": 14}
_NUMBERS = {"SO_BUSY_POLL": 46, "SO_MAX_PACING_RATE": 47, "IPV6_MTU": 24, **IP_NUMBERS}
_OPTIONS = {
    (getattr(socket, level), number): which
    for level, names in _NAMES.items()
    for name, which in names.items()
    if (number := getattr(socket, name, _NUMBERS.get(name))) is not None
}
# What the socket itself is.
_FIXED = {
    number: attribute
    for name, number, attribute in (
        ("SO_TYPE", getattr(socket, "SO_TYPE", None), "type"),
        ("SO_PROTOCOL", getattr(socket, "SO_PROTOCOL", None), "protocol"),
        ("SO_DOMAIN", getattr(socket, "SO_DOMAIN", None), "family"),
    )
    if number is not None
}
_TCP_INFO = getattr(socket, "TCP_INFO", None)


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def _protocol(sock: Any) -> int:
    if sock.proto:
        return int(sock.proto)
    return socket.IPPROTO_TCP if sock.type == socket.SOCK_STREAM else socket.IPPROTO_UDP


def _is_here(sock: Any, level: int) -> bool:
    if level == socket.IPPROTO_IPV6:
        return bool(sock.family == socket.AF_INET6)
    return level != socket.IPPROTO_TCP or sock.type == socket.SOCK_STREAM


def get(sock: Any, level: int, name: int, size: int) -> int | bytes:
    """getsockopt. size 0: an int. Raises OSError: ENOPROTOOPT for what there is not."""
    if not 0 <= size <= 1024:
        raise OSError("getsockopt buflen out of range")
    if ipoptions.takes(sock, level, name):
        return ipoptions.get(sock, level, name, size)
    which = _OPTIONS.get((level, name)) if _is_here(sock, level) else None
    if level == socket.SOL_SOCKET and name in _FIXED:
        sock.getsockname()  # raises on a closed socket
        value = _protocol(sock) if _FIXED[name] == "protocol" else int(getattr(sock, _FIXED[name]))
    elif (level, name) == (socket.IPPROTO_TCP, _TCP_INFO) and sock.type == socket.SOCK_STREAM:
        raw = tcp_info(sock)
        return raw[:size] if size else int(_INT.unpack_from(raw)[0])
    elif which is None:
        raise _error(errno.ENOPROTOOPT)
    else:
        value = sock._get_option(which)
    if which == Opt.OPT_CONGESTION:
        raw = algorithms()[value].encode().ljust(_CA_NAME_MAX, b"\0")
        return raw[:size] if size else int(_INT.unpack_from(raw)[0])
    if which == Opt.OPT_MAX_PACING_RATE:
        rate = value or _UNLIMITED
        raw = rate.to_bytes(8, sys.byteorder) if size >= 8 else min(rate, _U32).to_bytes(4, sys.byteorder)
        return raw[:size] if size else int(_INT.unpack(raw)[0])
    if which == Opt.OPT_LINGER:
        raw = _LINGER.pack(value >> 32, value & 0xFFFFFFFF)
        return raw[:size] if size else value >> 32
    if not size:
        return value
    # ip(7)'s options answer with one byte where there is room for no more.
    return _INT.pack(value)[:size] if size >= _INT.size else value.to_bytes(4, "little")[:size]


def put(sock: Any, level: int, name: int, value: Any, length: int | None) -> None:
    """setsockopt. Raises OSError: ENOPROTOOPT, EINVAL; TypeError."""
    if value is None:
        if length is None:
            raise TypeError("setsockopt() with None as value takes a length")
        raise _error(errno.ENOPROTOOPT)
    if ipoptions.takes(sock, level, name):
        ipoptions.put(sock, level, name, value)
        return
    which = _OPTIONS.get((level, name)) if _is_here(sock, level) else None
    if which == Opt.OPT_CONGESTION:
        value = _algorithm(_INT.pack(value) if isinstance(value, int) else memoryview(value).tobytes())
    elif which == Opt.OPT_MAX_PACING_RATE:
        value = _pacing_rate(_INT.pack(value) if isinstance(value, int) else memoryview(value).tobytes())
    elif not isinstance(value, int) or not -(1 << 31) <= value < 1 << 31:
        value = _from_bytes(memoryview(value).tobytes(), which)
    elif which == Opt.OPT_LINGER:
        raise _error(errno.EINVAL)  # an int is shorter than struct linger
    if which is None:
        sock.getsockname()
        raise _error(errno.ENOPROTOOPT)
    sock._set_option(which, value)


def _algorithm(raw: bytes) -> int:
    """The number of a congestion control algorithm by its name, which may end with a 0 byte."""
    if not raw:
        raise _error(errno.EINVAL)
    name = raw[: _CA_NAME_MAX - 1].split(b"\0")[0].decode("latin-1")
    if name not in algorithms():
        raise _error(errno.ENOENT)
    return algorithms().index(name)


def _pacing_rate(raw: bytes) -> int:
    """Bytes a second, 0 for no limit; Linux takes 32 bits or 64, all ones being no limit."""
    if len(raw) < _INT.size:
        raise _error(errno.EINVAL)
    if len(raw) >= 8:
        rate = int.from_bytes(raw[:8], sys.byteorder)
        return rate if rate < 1 << 63 else 0
    rate = int.from_bytes(raw[:4], sys.byteorder)
    return rate if rate != _U32 else 0


def _from_bytes(raw: bytes, which: Opt | None) -> int:
    if which == Opt.OPT_LINGER:
        if len(raw) < _LINGER.size:
            raise _error(errno.EINVAL)
        on, seconds = _LINGER.unpack_from(raw)
        return bool(on) << 32 | seconds & 0xFFFFFFFF
    if len(raw) >= _INT.size:
        return int(_INT.unpack_from(raw)[0])
    if which in (Opt.OPT_TTL, Opt.OPT_TOS) and raw:
        return raw[0]
    raise _error(errno.EINVAL)


# struct tcp_info of linux/tcp.h up to tcpi_min_rtt: 8 bytes, 24 numbers, 4 long ones, 4 numbers.
_TCP_INFO_STRUCT = struct.Struct("=8B24I4Q4I")


def tcp_info(sock: Any) -> bytes:
    """TCP_INFO in Linux's layout; what the stack does not count is 0."""
    d = connection_details(sock)
    if d is None:
        sock.getsockname()
        return _TCP_INFO_STRUCT.pack(7, *[0] * 39)
    mss = max(d["mss"], 1)
    return _TCP_INFO_STRUCT.pack(
        d["state_number"], d["ca_state"], d["retransmits"], d["probes"], min(d["backoff"], 255), d["options"],
        d["snd_wscale"] | d["rcv_wscale"] << 4, 0,
        d["rto"], d["ato"], d["mss"], d["rcv_mss"], d["unacked"], d["sacked"] // mss, d["lost"] // mss, d["retrans"], 0,
        _u32(d["last_data_sent_ms"]), 0, _u32(d["last_data_recv_ms"]), 0, d["pmtu"], d["rcv_ssthresh"], d["rtt"],
        d["rttvar"], min(d["ssthresh"] // mss, 0x7FFFFFFF), d["cwnd"] // mss, d["advmss"], 3, 0, d["rcv_wnd"], 0,
        d["pacing_rate"], d["max_pacing_rate"], 0, 0, 0, 0, 0, d["min_rtt"],
    )  # fmt: skip


def _u32(value: int) -> int:
    return min(value, 0xFFFFFFFF)
