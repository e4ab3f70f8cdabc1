"""`ustack ping`: ICMP echo from a stack of this process, printed as iputils does.

Responsible for: the echo requests, matching replies, the statistics and how they are printed. Not for: ICMP itself;
it uses an ICMP datagram socket with Linux's meaning (icmp(7), "ping socket"): the stack fills in identifier and
checksum. RFC 792, RFC 1122 §3.2.2.6; over IPv6 RFC 4443 §4.
"""

from __future__ import annotations

import argparse
import errno
import json
import math
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from .errors import EXIT_FAILURE, EXIT_USAGE, CommandError, reason
from .session import add_stack_options, open_session, positive_seconds, resolve

_DESCRIPTION = "Send ICMP echo requests from a ustack stack and print the replies as iputils' ping does."
_EPILOG = """\
examples:
  sudo ustack ping -c 3 10.9.0.1
  ustack ping --netns new -c 3 10.9.0.1       without root, in a namespace of its own

exit codes: 0 a reply came, 1 none came, 2 anything else that is wrong; 130 after Ctrl-C (with the statistics).
"""
_ECHO = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}  # request, reply
_HEADER = struct.Struct("!BBHHH")
_LARGEST = 65507  # 65535 less the IPv4 and ICMP headers
_UNREACHABLE = {
    errno.EHOSTUNREACH: "Destination Host Unreachable",
    errno.ENETUNREACH: "Destination Net Unreachable",
    errno.ECONNREFUSED: "Destination Port Unreachable",
    errno.EMSGSIZE: "Message too long",
}
_UNREACHABLE6 = {
    errno.EHOSTUNREACH: "Destination unreachable: Address unreachable",
    errno.ENETUNREACH: "Destination unreachable: No route",
    errno.ECONNREFUSED: "Destination unreachable: Port unreachable",
    errno.EMSGSIZE: "Message too long",
}


def _bounded(low: int, high: int, what: str) -> Any:
    def parse(text: str) -> int:
        if not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} ({low} to {high})")
        return int(text)

    return parse


def register(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "ping",
        help="send ICMP echo requests from a stack",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("host", metavar="HOST", help="an address, or a name")
    add(
        "-c",
        "--count",
        metavar="NUMBER",
        type=_bounded(1, 10**9, "a count"),
        help="stop after so many (default: Ctrl-C stops)",
    )
    add(
        "-i",
        "--interval",
        metavar="SECONDS",
        type=positive_seconds,
        default=1.0,
        help="time between two requests (default: 1)",
    )
    add(
        "-s",
        "--size",
        metavar="BYTES",
        type=_bounded(0, _LARGEST, "a payload size"),
        default=56,
        help="payload (default: 56)",
    )
    add(
        "-W",
        "--timeout",
        metavar="SECONDS",
        type=positive_seconds,
        default=10.0,
        help="wait so long for a reply (default: 10)",
    )
    add("-w", "--deadline", metavar="SECONDS", type=positive_seconds, help="stop after so long, whatever came")
    add("-t", "--ttl", metavar="HOPS", type=_bounded(1, 255, "a time to live"), help="time to live of the requests")
    add("-q", "--quiet", action="store_true", help="only the header and the statistics")
    add("--json", action="store_true", help="the statistics as one line of JSON, and nothing else")
    add_stack_options(parser)
    parser.set_defaults(run=run)


@dataclass
class Statistics:
    """What a run saw. Times in milliseconds."""

    transmitted: int = 0
    received: int = 0
    duplicates: int = 0
    errors: int = 0
    times: list[float] = field(default_factory=list)
    total: float = 0.0

    @property
    def loss(self) -> float:
        """Share of requests without a reply, in per cent."""
        return 100.0 * (self.transmitted - self.received) / self.transmitted if self.transmitted else 0.0

    def summary(self) -> tuple[float, float, float, float]:
        """(least, mean, largest, mdev) as iputils computes them: mdev is the standard deviation."""
        mean = sum(self.times) / len(self.times)
        square = sum(t * t for t in self.times) / len(self.times)
        return min(self.times), mean, max(self.times), math.sqrt(max(square - mean * mean, 0.0))


def format_time(milliseconds: float) -> str:
    """A round-trip time with the digits iputils gives it: 0.236, 1.45, 12.3, 145."""
    for limit, digits in ((1, 3), (10, 2), (100, 1)):
        if milliseconds < limit:
            return f"{milliseconds:.{digits}f}"
    return f"{milliseconds:.0f}"


def format_statistics(host: str, seen: Statistics) -> str:
    """The closing lines."""
    extra = f", +{seen.duplicates} duplicates" if seen.duplicates else ""
    extra += f", +{seen.errors} errors" if seen.errors else ""
    lines = [
        f"\n--- {host} ping statistics ---",
        f"{seen.transmitted} packets transmitted, {seen.received} received{extra}, {seen.loss:g}% packet loss, "
        f"time {seen.total:.0f}ms",
    ]
    lines.append("rtt min/avg/max/mdev = {:.3f}/{:.3f}/{:.3f}/{:.3f} ms".format(*seen.summary()) if seen.times else "")
    return "\n".join(lines)


class Pinger:
    """Sends requests and prints what comes back. `sock`: an ICMP datagram socket."""

    def __init__(self, sock: Any, address: str, args: argparse.Namespace) -> None:
        self._sock = sock
        self._address = address
        self._request, self._answer = _ECHO[_family(address)]
        self._reasons = _UNREACHABLE if _family(address) == socket.AF_INET else _UNREACHABLE6
        self._args = args
        self._pending: dict[int, float] = {}
        self._answered: set[int] = set()
        self.seen = Statistics()
        # The pattern iputils uses; a payload's first 8 bytes would hold its time stamp there.
        self._payload = bytes(i & 0xFF for i in range(args.size))

    def run(self) -> None:
        """Ping until the count or the deadline is reached."""
        started = next_send = time.monotonic()
        end = started + self._args.deadline if self._args.deadline else math.inf
        try:
            while True:
                now = time.monotonic()
                if now >= end or self._is_done(now):
                    return
                if now >= next_send and not self._all_sent():
                    self._send()
                    next_send = max(next_send + self._args.interval, now)
                    if self._is_done(now):
                        return
                wake = now + self._wait_for_last(now) if self._all_sent() else next_send
                self._receive(max(min(wake, end) - now, 1e-4))
        finally:
            self.seen.total = (time.monotonic() - started) * 1000

    def _all_sent(self) -> bool:
        return self._args.count is not None and self.seen.transmitted >= self._args.count

    def _is_done(self, now: float) -> bool:
        return self._all_sent() and (
            self.seen.received + self.seen.errors >= self._args.count or self._wait_for_last(now) <= 0
        )

    def _wait_for_last(self, now: float) -> float:
        """Seconds left for the last request's reply."""
        return max(self._pending.values(), default=now) + self._args.timeout - now

    def _send(self) -> None:
        sequence = (self.seen.transmitted + 1) & 0xFFFF
        self.seen.transmitted += 1
        self._answered.discard(sequence)
        self._pending[sequence] = time.monotonic()
        try:
            self._sock.sendto(_HEADER.pack(self._request, 0, 0, 0, sequence) + self._payload, (self._address, 0))
        except OSError as error:
            self._failed(error)

    def _receive(self, patience: float) -> None:
        self._sock.settimeout(patience)
        try:
            packet, ancillary, _, source = self._sock.recvmsg(65536, 64)
        except (TimeoutError, BlockingIOError):
            return
        except OSError as error:
            self._failed(error)
            return
        arrived = time.monotonic()
        if len(packet) < _HEADER.size:
            return
        kind, _, _, _, sequence = _HEADER.unpack_from(packet)
        sent = self._pending.get(sequence)
        if kind == self._answer and sent is not None:
            self._reply(packet, source[0], sequence, (arrived - sent) * 1000, _ttl(ancillary))

    def _reply(self, packet: bytes, source: str, sequence: int, milliseconds: float, ttl: int | None) -> None:
        again = sequence in self._answered
        self._answered.add(sequence)
        if again:
            self.seen.duplicates += 1
        else:
            self.seen.received += 1
        self.seen.times.append(milliseconds)
        if not (self._args.quiet or self._args.json):
            hops = f" ttl={ttl}" if ttl is not None else ""
            print(
                f"{len(packet)} bytes from {source}: icmp_seq={sequence}{hops} time={format_time(milliseconds)} ms"
                f"{' (DUP!)' if again else ''}",
                flush=True,
            )

    def _failed(self, error: OSError) -> None:
        """An ICMP error or an unresolved neighbour, which the socket reports as an error of the next call."""
        if error.errno not in self._reasons:
            raise CommandError(f"{self._address}: {reason(error)}", code=EXIT_USAGE) from None
        self.seen.errors += 1
        if not (self._args.quiet or self._args.json):
            print(
                f"From {self._args.address_of_stack} icmp_seq={self.seen.transmitted} {self._reasons[error.errno]}",
                flush=True,
            )


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _ttl(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if (level, kind) in ((socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)):
            return int.from_bytes(data, sys.byteorder) if len(data) <= 4 else None
    return None


def run(args: argparse.Namespace) -> int:
    """Ping a host."""
    with open_session(args, alone_is_useful=True) as session:
        try:
            address = resolve(args.host, session.stack)
        except (socket.gaierror, UnicodeError):
            raise CommandError(f"{args.host}: Name or service not known", code=EXIT_USAGE) from None
        args.address_of_stack = session.address
        family = _family(address)
        proto = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
        with session.stack.socket(family, socket.SOCK_DGRAM, proto) as sock:
            return ping(sock, address, args)


def ping(sock: Any, address: str, args: argparse.Namespace) -> int:
    """Ping an address on an ICMP datagram socket; prints, and returns the exit code."""
    six = _family(address) == socket.AF_INET6
    level = socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP
    sock.setsockopt(level, socket.IPV6_RECVHOPLIMIT if six else _IP_RECVTTL, 1)
    if args.ttl is not None:
        sock.setsockopt(level, socket.IPV6_UNICAST_HOPS if six else socket.IP_TTL, args.ttl)
    if not args.json:
        size = f"{args.size} data bytes" if six else f"{args.size}({args.size + 28}) bytes of data."
        print(f"PING {args.host} ({address}) {size}", flush=True)
    pinger = Pinger(sock, address, args)
    try:
        pinger.run()
    finally:
        if args.json:
            print(json.dumps(_as_json(address, pinger.seen)))
        else:
            print(format_statistics(args.host, pinger.seen))
        sys.stdout.flush()
    return 0 if pinger.seen.received else EXIT_FAILURE


_IP_RECVTTL = 12  # linux/in.h; not among the socket module's names on every version


def _as_json(address: str, seen: Statistics) -> dict[str, object]:
    summary = (
        dict(zip(("min", "avg", "max", "mdev"), (round(t, 3) for t in seen.summary()), strict=True))
        if seen.times
        else None
    )
    return {
        "address": address,
        "transmitted": seen.transmitted,
        "received": seen.received,
        "duplicates": seen.duplicates,
        "errors": seen.errors,
        "loss_percent": round(seen.loss, 3),
        "time_ms": round(seen.total),
        "rtt_ms": summary,
    }
