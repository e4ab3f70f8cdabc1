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

from . import ipoptions, rawoptions

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
        "SO_REUSEPORT": Opt.OPT_REUSEPORT,
        "SO_RCVLOWAT": Opt.OPT_RCVLOWAT,
        "SO_OOBINLINE": Opt.OPT_OOBINLINE,
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
        "TCP_CORK": Opt.OPT_CORK,
        "TCP_SYNCNT": Opt.OPT_SYNCNT,
        "TCP_DEFER_ACCEPT": Opt.OPT_DEFER_ACCEPT,
        "TCP_NOTSENT_LOWAT": Opt.OPT_NOTSENT_LOWAT,
        "TCP_WINDOW_CLAMP": Opt.OPT_WINDOW_CLAMP,
        "TCP_LINGER2": Opt.OPT_LINGER2,
        "TCP_FASTOPEN": Opt.OPT_FASTOPEN,
        "TCP_FASTOPEN_CONNECT": Opt.OPT_FASTOPEN_CONNECT,
        "TCP_FASTOPEN_NO_COOKIE": Opt.OPT_FASTOPEN_NO_COOKIE,
        "TCP_TIMESTAMP": Opt.OPT_TIMESTAMP,
        "TCP_UTO": Opt.OPT_UTO,
    },
    "IPPROTO_IP": {
        "IP_TTL": Opt.OPT_TTL,
        "IP_TOS": Opt.OPT_TOS,
        "IP_RECVTTL": Opt.OPT_RECVTTL,
        "IP_RECVTOS": Opt.OPT_RECVTOS,
        "IP_PKTINFO": Opt.OPT_PKTINFO,
        "IP_MTU": Opt.OPT_MTU,
        "IP_MTU_DISCOVER": Opt.OPT_MTU_DISCOVER,
        "IP_RECVERR": Opt.OPT_RECVERR,
    },
    "IPPROTO_IPV6": {
        "IPV6_V6ONLY": Opt.OPT_V6ONLY,
        "IPV6_UNICAST_HOPS": Opt.OPT_TTL,
        "IPV6_TCLASS": Opt.OPT_TOS,
        "IPV6_RECVHOPLIMIT": Opt.OPT_RECVTTL,
        "IPV6_RECVTCLASS": Opt.OPT_RECVTOS,
        "IPV6_RECVPKTINFO": Opt.OPT_PKTINFO,
        "IPV6_MTU": Opt.OPT_MTU,
        "IPV6_MTU_DISCOVER": Opt.OPT_MTU_DISCOVER,
        "IPV6_RECVERR": Opt.OPT_RECVERR,
    },
}
TCP_UTO = 1028  # RFC 5482's option, which Linux does not have: 1000 and the option's kind
# Linux's numbers, for names that the socket module of this Python does not have.
IP_NUMBERS = {
    "IP_TTL": 2, "IP_TOS": 1, "IP_RECVTTL": 12, "IP_RECVTOS": 13, "IP_PKTINFO": 8, "IP_MTU": 14, "IP_MTU_DISCOVER": 10,
    "IP_RECVERR": 11,
}  # fmt: skip
_NUMBERS = {
    "SO_BUSY_POLL": 46, "SO_MAX_PACING_RATE": 47, "TCP_NOTSENT_LOWAT": 25, "TCP_FASTOPEN_CONNECT": 30,
    "TCP_FASTOPEN_NO_COOKIE": 34, "TCP_TIMESTAMP": 24, "IPV6_MTU": 24, "IPV6_MTU_DISCOVER": 23, "IPV6_RECVERR": 25,
    "TCP_UTO": TCP_UTO, **IP_NUMBERS,
}  # fmt: skip
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
IPV6_PATHMTU = 61
_IP6_MTUINFO = struct.Struct("=28xI")  # as Linux: without the peer's address


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def _protocol(sock: Any) -> int:
    if sock.proto:
        return int(sock.proto)
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return 0  # packet(7): the EtherType is in the name
    return socket.IPPROTO_TCP if sock.type == socket.SOCK_STREAM else socket.IPPROTO_UDP


def _is_here(sock: Any, level: int) -> bool:
    if level == socket.IPPROTO_IPV6:
        return bool(sock.family == socket.AF_INET6)
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return level == socket.SOL_SOCKET
    return level != socket.IPPROTO_TCP or sock.type == socket.SOCK_STREAM


def get(sock: Any, level: int, name: int, size: int) -> int | bytes:
    """getsockopt. size 0: an int. Raises OSError: ENOPROTOOPT for what there is not."""
    if not 0 <= size <= 1024:
        raise OSError("getsockopt buflen out of range")
    if rawoptions.takes(sock, level, name):
        return rawoptions.get(sock, level, name, size)
    if ipoptions.takes(sock, level, name):
        return ipoptions.get(sock, level, name, size)
    which = _OPTIONS.get((level, name)) if _is_here(sock, level) else None
    if level == socket.SOL_SOCKET and name in _FIXED:
        sock.getsockname()  # raises on a closed socket
        value = _protocol(sock) if _FIXED[name] == "protocol" else int(getattr(sock, _FIXED[name]))
    elif (level, name) == (socket.IPPROTO_TCP, _TCP_INFO) and sock.type == socket.SOCK_STREAM:
        raw = tcp_info(sock)
        return raw[:size] if size else int(_INT.unpack_from(raw)[0])
    elif (level, name) == (socket.IPPROTO_IPV6, IPV6_PATHMTU) and sock.family == socket.AF_INET6:
        if size < _IP6_MTUINFO.size:
            raise _error(errno.EINVAL)
        return _IP6_MTUINFO.pack(sock._get_option(Opt.OPT_MTU))
    elif which is None:
        raise _error(errno.ENOPROTOOPT)
    else:
        value = sock._get_option(which)
        if which not in (Opt.OPT_LINGER, Opt.OPT_MAX_PACING_RATE) and value >> 31:
            value -= 1 << 32  # unsigned inside, an int outside
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
    return _INT.pack(value)[:size] if size >= _INT.size else (value & 0xFFFFFFFF).to_bytes(4, "little")[:size]


def put(sock: Any, level: int, name: int, value: Any, length: int | None) -> None:
    """setsockopt. Raises OSError: ENOPROTOOPT, EINVAL; TypeError."""
    if value is None:
        if length is None:
            raise TypeError("setsockopt() with None as value takes a length")
        raise _error(errno.ENOPROTOOPT)
    if rawoptions.takes(sock, level, name):
        rawoptions.put(sock, level, name, value)
        return
    if ipoptions.takes(sock, level, name):
        ipoptions.put(sock, level, name, value)
        return
    if (level, name) in _MD5SIG and sock.type == socket.SOCK_STREAM:
        _put_md5(sock, b"" if isinstance(value, int) else memoryview(value).tobytes(), _MD5SIG[level, name])
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
    if level == socket.IPPROTO_IPV6 and which == Opt.OPT_TOS:
        if not -1 <= value <= 255:  # ipv6(7); IP_TOS takes the lowest byte of anything
            raise _error(errno.EINVAL)
        value = max(value, 0)
    sock._set_option(which, value)


# TCP_MD5SIG and TCP_MD5SIG_EXT take a struct tcp_md5sig: a sockaddr_storage, flags (1: the prefix's length counts, 2:
# the interface), prefix length, key length, interface, key. With the first of the two, flags and prefix mean nothing.
_MD5SIG = {(socket.IPPROTO_TCP, 14): False, (socket.IPPROTO_TCP, 32): True}
_MD5SIG_STRUCT = struct.Struct("=128sBBHi80s")
_MD5SIG_PREFIX, _MD5SIG_IFINDEX = 1, 2


def _put_md5(sock: Any, raw: bytes, extended: bool) -> None:
    if len(raw) < _MD5SIG_STRUCT.size:
        raise _error(errno.EINVAL)
    address, flags, prefix, length, interface, key = _MD5SIG_STRUCT.unpack_from(raw)
    family = int.from_bytes(address[:2], sys.byteorder)
    if length > len(key) or (extended and flags & _MD5SIG_IFINDEX and interface) or family != sock.family:
        raise _error(errno.EINVAL)
    v4 = family == socket.AF_INET
    number = int.from_bytes(address[4:8], "big") if v4 else int.from_bytes(address[8:24], "big")
    v4 = v4 or number >> 32 == 0xFFFF
    bits = 32 if v4 else 128
    prefix = prefix if extended and flags & _MD5SIG_PREFIX else bits
    if prefix > bits:
        raise _error(errno.EINVAL)
    number = 0xFFFF << 32 | number & 0xFFFFFFFF if v4 else number
    keep = 128 - bits + prefix
    sock._set_md5(number >> (128 - keep) << (128 - keep), keep, key[:length])


# ioctl(2) by Linux's numbers: FIONREAD is SIOCINQ, TIOCOUTQ is SIOCOUTQ.
_QUEUES = {0x541B: Opt.OPT_INQ, 0x5411: Opt.OPT_OUTQ, 0x894B: Opt.OPT_OUTQNSD, 0x8905: Opt.OPT_ATMARK}


def queued(sock: Any, request: int) -> int:
    """Bytes in one of the socket's queues, or whether it is at the mark (SIOCATMARK). Raises OSError: EINVAL."""
    if request not in _QUEUES:
        raise _error(errno.EINVAL)
    return int(sock._get_option(_QUEUES[request]))


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


# struct tcp_info of linux/tcp.h up to tcpi_total_rto_time: 8 bytes, 24 numbers, 4 long ones, 6, 4 long, 2, 2 long, 6,
# 2 short, 1.
_TCP_INFO_STRUCT = struct.Struct("=8B24I4Q6I4Q2I2Q6I2HI")
_TCP_INFO_FIELDS = 8 + 24 + 4 + 6 + 4 + 2 + 2 + 6 + 2 + 1


def tcp_info(sock: Any) -> bytes:
    """TCP_INFO in Linux's layout; what the stack does not count is 0."""
    d = connection_details(sock)
    if d is None:
        sock.getsockname()
        return _TCP_INFO_STRUCT.pack(10 if sock._get_option(Opt.OPT_ACCEPTCONN) else 7, *[0] * (_TCP_INFO_FIELDS - 1))
    mss = max(d["mss"], 1)
    return _TCP_INFO_STRUCT.pack(
        d["state_number"], d["ca_state"], d["retransmits"], d["probes"], min(d["backoff"], 255), d["options"],
        d["snd_wscale"] | d["rcv_wscale"] << 4, d["app_limited"],
        d["rto"], d["ato"], d["mss"], d["rcv_mss"], d["unacked"], d["sacked"] // mss, d["lost"] // mss, d["retrans"], 0,
        _u32(d["last_data_sent_ms"]), 0, _u32(d["last_data_recv_ms"]), _u32(d["last_data_recv_ms"]), d["pmtu"],
        d["rcv_ssthresh"], d["rtt"], d["rttvar"], min(d["ssthresh"] // mss, 0x7FFFFFFF), d["cwnd"] // mss, d["advmss"],
        3, d["rcv_rtt"], d["rcv_space"], _u32(d["total_retrans"]),
        d["pacing_rate"], d["max_pacing_rate"], d["bytes_acked"], d["bytes_received"],
        d["segs_out"], d["segs_in"], d["notsent_bytes"], d["min_rtt"], d["data_segs_in"], d["data_segs_out"],
        d["delivery_rate"], d["busy_time"], d["rwnd_limited"], d["sndbuf_limited"],
        d["delivered"], d["delivered_ce"], d["bytes_sent"], d["bytes_retrans"],
        d["dsack_dups"], d["reord_seen"], d["rcv_ooopack"], d["snd_wnd"], d["rcv_wnd"], 0,
        d["total_rto"], 0, 0,
    )  # fmt: skip


def _u32(value: int) -> int:
    return min(value, 0xFFFFFFFF)
