"""`ustack tcpdump`: the packets of a running stack, printed or written to a file, as tcpdump(8) does.

Responsible for: options, filter expressions, the file. Not for: reaching the stack (ustack.control), one packet's line
(packetline.py).
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, BinaryIO

from .. import bpf, control, pcapng
from . import packetline
from .configure import one_stack
from .errors import EXIT_USAGE, CommandError, reason


def register(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "tcpdump",
        help="show or write the packets of a running stack, with why it dropped them",
        description="Show the packets of a running stack, a line each with why the stack dropped it if it did, or write"
        " them to a pcapng file. Ends with Ctrl-C.",
    )
    parser.add_argument("expression", nargs="*", metavar="EXPR", help="a filter, as in pcap-filter(7); needs tcpdump")
    parser.add_argument("-i", "--interface", metavar="NAME", help="of this interface only; any: of all (the default)")
    parser.add_argument("-w", "--write", metavar="FILE", help="write a pcapng file instead; -: to standard output")
    parser.add_argument("-c", "--count", type=int, metavar="N", help="end after N packets")
    parser.add_argument("-s", "--snaplen", type=int, metavar="BYTES", default=262144, help="of each packet at most")
    parser.add_argument("-e", "--ethernet", action="store_true", help="print Ethernet addresses, too")
    parser.add_argument("--stack", metavar="WHICH", help="the stack of this process id or device name")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print or write packets until there were enough, or the stack ends, or the user does."""
    options = _options(args)
    path = one_stack(args.stack)
    try:
        with control.watch(path, options) as stream:
            if args.write is None:
                return _print(args, stream)
            if args.write == "-":
                return _copy(args, stream, sys.stdout.buffer)
            with open(args.write, "wb") as file:
                return _copy(args, stream, file)
    except (BrokenPipeError, FileNotFoundError):
        raise
    except (OSError, ValueError) as error:
        raise CommandError(reason(error) if isinstance(error, OSError) else str(error)) from None


def _options(args: argparse.Namespace) -> dict[str, Any]:
    if args.snaplen <= 0 or (args.count is not None and args.count <= 0):
        raise CommandError("-s and -c take numbers above 0", EXIT_USAGE)
    if args.write == "-" and sys.stdout.isatty():
        raise CommandError("a capture is not written to a terminal", EXIT_USAGE)
    options: dict[str, Any] = {"snaplen": min(args.snaplen, 262144)}
    if args.interface not in (None, "any"):
        options["interface"] = args.interface
    if args.expression:
        expression = " ".join(args.expression)
        try:
            options["filter"] = {medium: bpf.compile_filter(expression, medium) for medium in ("ethernet", "ip")}
        except ValueError as error:
            raise CommandError(str(error), EXIT_USAGE) from None
        except FileNotFoundError as error:
            raise CommandError(f"{error}: `apt-get install tcpdump`, or leave the filter out") from None
    return options


def _print(args: argparse.Namespace, stream: BinaryIO) -> int:
    for number, one in enumerate(pcapng.read(stream), 1):
        print(packetline.line(one, ethernet=args.ethernet), flush=True)
        if number == args.count:
            break
    return 0


class _Counted:
    """A stream to read that keeps what was read of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.kept = b""

    def read(self, n: int) -> bytes:
        data = self._stream.read(n)
        self.kept += data
        return data


def _copy(args: argparse.Namespace, stream: BinaryIO, out: BinaryIO) -> int:
    """The blocks as they come, to the end of a packet: a file that was begun can be read at any time."""
    counted = _Counted(stream)
    packets = 0
    try:
        for packets, _ in enumerate(pcapng.read(counted), 1):
            out.write(counted.kept)
            counted.kept = b""
            out.flush()
            if packets == args.count:
                break
        else:
            out.write(counted.kept)
    finally:
        print(f"{packets} packets captured", file=sys.stderr)
    return 0
