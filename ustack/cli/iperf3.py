"""`ustack iperf3`: measure throughput with an iperf3 at the other end, as its server or (TCP) as its client."""

from __future__ import annotations

import argparse
import json
import re
import socket
import sys
from dataclasses import asdict
from typing import Any

from .errors import EXIT_FAILURE, CommandError, reason
from .session import add_stack_options, how_to_enter, note, open_session, port_number, resolve
from .terminal import rate, size

_DESCRIPTION = "Measure throughput on a stack with iperf3's protocol: the other side is any iperf3."
_EPILOG = """\
examples:
  sudo ustack iperf3 -s --offload          then:  iperf3 -c 10.9.0.2, with -P, -R, --bidir, -u, ...
  sudo ustack iperf3 -c 10.9.0.1 -t 5 -R   where an `iperf3 -s` runs
"""


def _scaled(text: str, base: int, what: str) -> int:
    found = re.fullmatch(r"(\d{1,15})([kmgt]?)", text.lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of {what}, such as 100M")
    return int(found[1]) * base ** " kmgt".index(found[2] or " ")


def byte_count(text: str) -> int:
    """An argparse type: bytes; K, M, G and T are powers of 1024, as iperf3 has them."""
    return _scaled(text, 1024, "bytes")


def bit_rate(text: str) -> int:
    """An argparse type: bit/s; K, M, G and T are powers of 1000."""
    return _scaled(text, 1000, "bit/s")


def block_length(text: str) -> int:
    """An argparse type: bytes of a block, 1 to 1M."""
    found = byte_count(text)
    if not 1 <= found <= 1 << 20:
        raise argparse.ArgumentTypeError(f"{text!r} is not the length of a block (1 to 1M)")
    return found


def stream_count(text: str) -> int:
    """An argparse type: streams at a time, 1 to 128."""
    if not text.isdigit() or not 1 <= int(text) <= 128:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of streams (1 to 128)")
    return int(text)


def whole_seconds(text: str) -> int:
    """An argparse type: seconds, a whole number up to a day."""
    if not text.isdigit() or int(text) > 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds (up to 86400)")
    return int(text)


def register(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "iperf3",
        help="measure throughput with an iperf3 at the other end",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    role = parser.add_mutually_exclusive_group(required=True)
    role.add_argument("-s", "--server", action="store_true", help="wait for iperf3 clients, one test at a time")
    role.add_argument("-c", "--client", metavar="HOST", help="run a TCP test against an iperf3 server")
    add("-p", "--port", type=port_number, default=5201, help="the server's port (default: 5201)")
    add("-1", "--one-off", action="store_true", help="server: end after one test")
    add("-t", "--time", metavar="SECONDS", type=whole_seconds, default=10, help="client: for so long (default: 10)")
    add("-n", "--bytes", metavar="BYTES", type=byte_count, default=0, help="client: so much instead, in all streams")
    add("-O", "--omit", metavar="SECONDS", type=whole_seconds, default=0, help="client: leave out the first seconds")
    add("-P", "--parallel", metavar="STREAMS", type=stream_count, default=1, help="client: streams (default: 1)")
    add("-R", "--reverse", action="store_true", help="client: the server sends")
    add("--bidir", action="store_true", help="client: both send")
    add("-b", "--bitrate", metavar="RATE", type=bit_rate, default=0, help="client: bit/s a stream (default: no limit)")
    add("-l", "--length", metavar="BYTES", type=block_length, default=131072, help="client: of a block (default: 128K)")
    add("-w", "--window", metavar="BYTES", type=byte_count, default=0, help="client: of the sockets' buffers")
    add("-N", "--no-delay", action="store_true", help="client: switch Nagle's algorithm off")
    add("-J", "--json", action="store_true", help="say what a test came to as one line of JSON")
    add_stack_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it or, with -1, a test did; or run one test."""
    with open_session(args, alone_is_useful=args.server) as session:
        return _serve(session, args) if args.server else _client(session.stack, args)


def _say(text: str) -> None:
    print(text, flush=True)


def _progress(args: argparse.Namespace) -> Any:
    def show(begin: float, end: float, count: int) -> None:
        if not args.json:
            _say(f"{begin:7.2f}-{end:<7.2f} s  {size(count):>10}  {rate(count, end - begin):>14}")

    return show


def _serve(session: Any, args: argparse.Namespace) -> int:
    from ..iperf3 import Server

    failed = []

    def done(report: Any) -> None:
        failed.append(report.error is not None)
        _show(report, args)

    try:
        server = Server(session.stack, args.port, _progress(args), done)
    except OSError as error:
        raise CommandError(f"port {args.port} cannot be listened on: {reason(error)}") from None
    try:
        if not args.json:
            _say(f"iperf3 server on {session.address}, port {args.port} (device {session.device}; Ctrl-C ends it)")
        enter = how_to_enter(session.place)
        if enter:
            note(f"this is a network namespace of its own; to reach it: {enter}iperf3 -c {session.address}")
        server.serve(args.one_off)
    finally:
        server.close()
    return EXIT_FAILURE if failed[-1] else 0


def _client(stack: Any, args: argparse.Namespace) -> int:
    from ..iperf3 import Client, Failure, Settings

    settings = Settings(
        omit=args.omit, time=0 if args.bytes else args.time, num=args.bytes, parallel=args.parallel,
        reverse=args.reverse, bidirectional=args.bidir, length=args.length, bandwidth=args.bitrate, window=args.window,
        nodelay=args.no_delay,
    )  # fmt: skip
    try:
        host = resolve(args.client, stack)
    except (socket.gaierror, UnicodeError):
        raise CommandError(f"{args.client}: name not known") from None
    try:
        report = Client(stack, (host, args.port), settings, _progress(args)).run()
    except Failure as error:
        raise CommandError(f"{args.client}, port {args.port}: {error}") from None
    except OSError as error:
        raise CommandError(f"{args.client}, port {args.port}: {reason(error)}") from None
    _show(report, args)
    return 0


def _show(report: Any, args: argparse.Namespace) -> None:
    if args.json:
        _say(json.dumps(asdict(report)))
        return
    for one in report.streams:
        _say(_line(one, report.settings.udp))
    if report.error is not None:
        print(f"ustack iperf3: the test with {report.peer[0]} ended early: {report.error}", file=sys.stderr, flush=True)


def _line(one: dict[str, Any], udp: bool) -> str:
    """A stream's sum."""
    text = f"[{one['id']:3}] 0.00-{one['seconds']:<7.2f} s  {size(one['bytes']):>10}  "
    text += f"{rate(one['bytes'], one['seconds']):>14}  {'sent' if one['sender'] else 'received'}"
    if one["sender"] and one["retransmits"] >= 0:
        text += f", {one['retransmits']} retransmitted"
    if udp and not one["sender"]:
        text += f", {one['errors']} of {one['packets']} lost, jitter {one['jitter'] * 1000:.3f} ms"
    return text
