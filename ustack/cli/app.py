"""The `ustack` command itself: the parser over all verbs, and what every verb shares when it ends early.

Responsible for: exit codes of signals (130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, 141 closed stdout), one sentence instead
of a traceback for what a person can mend. Not for: what a verb does.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from . import (
    configure,
    conformance,
    curl,
    demo,
    doctor,
    gateway,
    iperf3,
    nc,
    packetdrill,
    ping,
    proxy,
    run,
    serve,
    ss,
    tcpdump,
    up,
)
from .errors import EXIT_FAILURE, EXIT_SIGNAL, CommandError, Terminated

VERBS = (
    *(demo, doctor, up, serve, run, proxy, gateway, curl, ping, nc, ss),
    *configure.VERBS,
    tcpdump,
    *(iperf3, packetdrill, conformance),
)

_DESCRIPTION = "A TCP/IP stack inside this process, and programs that run on it."
_EPILOG = """\
Start with `ustack doctor` (what this machine allows) and `ustack demo` (see it work).
`ustack VERB --help` tells what a verb takes. All verbs that run a stack share --tap, --address, --host-address,
--gateway.
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser with every verb in it; `args.run` is the chosen verb's function."""
    parser = argparse.ArgumentParser(
        prog="ustack", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"ustack {_version()}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    for verb in VERBS:
        verb.register(verbs)
    return parser


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("ustack")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated(number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; wrong usage raises SystemExit(2), as argparse does.

    argv: the arguments after the program's name; None: those of this process. Verbs may move the calling thread into
    a network namespace for good, so this belongs in a process of its own.
    """
    parser = build_parser()
    _complete(parser)
    args = parser.parse_args(argv)
    # A signal that is ignored from the start (nohup) stays so.
    ending = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _terminate) for number in ending}
    try:
        return _run(args)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks for completions, where argcomplete (the extra `cli`) is installed."""
    if "_ARGCOMPLETE" in os.environ:
        try:
            import argcomplete
        except ImportError:
            return
        argcomplete.autocomplete(parser)


def _run(args: argparse.Namespace) -> int:
    """Run a verb; whatever ends it early becomes an exit code, and a sentence where there is something to say."""
    code = 0
    try:
        code = args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_SIGNAL + signal.SIGINT
    except Terminated as end:
        return EXIT_SIGNAL + end.number
    except CommandError as error:
        print(f"ustack {args.verb}: {error}", file=sys.stderr)
        return error.code
    except BrokenPipeError:
        _silence_stdout()
        return code or EXIT_SIGNAL + signal.SIGPIPE
    except OSError as error:
        print(f"ustack {args.verb}: {error}", file=sys.stderr)
        return EXIT_FAILURE
    except ImportError as error:
        print(
            f"ustack {args.verb}: the extension modules do not load ({error}): run `pip install -e .` in the checkout, "
            "or reinstall the wheel",
            file=sys.stderr,
        )
        return EXIT_FAILURE
    return code


def _silence_stdout() -> None:
    """Nobody reads stdout any more: let the interpreter's last flush go nowhere, instead of complaining."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
