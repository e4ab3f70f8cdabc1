"""What %{ Python }% sees: struct tcp_info's fields by the names of linux/tcp.h, and constants."""

from __future__ import annotations

import socket
import struct
from typing import Any

_STRUCT = struct.Struct("=8B24I4Q6I4Q2I2Q6I2HI")
_BYTES = (
    "state", "ca_state", "retransmits", "probes", "backoff", "options", "wscale", "flags",
)  # fmt: skip
_WORDS = (
    "rto", "ato", "snd_mss", "rcv_mss", "unacked", "sacked", "lost", "retrans", "fackets", "last_data_sent",
    "last_ack_sent", "last_data_recv", "last_ack_recv", "pmtu", "rcv_ssthresh", "rtt", "rttvar", "snd_ssthresh",
    "snd_cwnd", "advmss", "reordering", "rcv_rtt", "rcv_space", "total_retrans", "pacing_rate",
    "max_pacing_rate", "bytes_acked", "bytes_received", "segs_out", "segs_in", "notsent_bytes", "min_rtt",
    "data_segs_in", "data_segs_out", "delivery_rate", "busy_time", "rwnd_limited", "sndbuf_limited", "delivered",
    "delivered_ce", "bytes_sent", "bytes_retrans", "dsack_dups", "reord_seen", "rcv_ooopack", "snd_wnd", "rcv_wnd",
    "rehash", "total_rto", "total_rto_recoveries", "total_rto_time",
)  # fmt: skip
_STATES = (
    "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT",
    "LAST_ACK", "LISTEN", "CLOSING",
)  # fmt: skip
_CA_STATES = ["Open", "Disorder", "CWR", "Recovery", "Loss"]
_SHORT = {"tcpi_cwnd": "tcpi_snd_cwnd", "tcpi_ssthresh": "tcpi_snd_ssthresh", "tcpi_mss": "tcpi_snd_mss"}

CONSTANTS: dict[str, Any] = {
    **{f"TCP_{name}": number for number, name in enumerate(_STATES, 1)},
    **{f"TCP_CA_{name}": number for number, name in enumerate(_CA_STATES)},
    "TCPI_OPT_TIMESTAMPS": 1,
    "TCPI_OPT_SACK": 2,
    "TCPI_OPT_WSCALE": 4,
    "TCPI_OPT_ECN": 8,
    "TCPI_OPT_ECN_SEEN": 16,
    "TCPI_OPT_SYN_DATA": 32,
}


def fields(sock: Any) -> dict[str, int]:
    """tcpi_… of a socket. Raises OSError."""
    raw = sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, "TCP_INFO", 11), _STRUCT.size)
    raw = bytes(raw).ljust(_STRUCT.size, b"\0")  # an older kernel knows less
    names = [f"tcpi_{name}" for name in (*_BYTES, *_WORDS)]
    found = dict(zip(names, _STRUCT.unpack(raw), strict=True))
    found["tcpi_snd_wscale"] = found["tcpi_wscale"] & 15
    found["tcpi_rcv_wscale"] = found["tcpi_wscale"] >> 4
    return {**found, **{short: found[name] for short, name in _SHORT.items()}}
