"""`ustack conformance`: check a TCP/IP stack requirement by requirement: this one, the kernel's, or one on a wire.

The checks are part of the test harness, which is a user of ustack and not the other way round: they run as a program of
its own, `python -m tap_harness.conformance`, where it and scapy are installed. The options are here, for both.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

from .errors import CommandError

_RUNNER = "tap_harness"
_DESCRIPTION = (
    "Check a TCP/IP stack against the requirements of the RFCs, one scenario each: ustack itself in virtual time, the "
    "kernel of this machine in a namespace, or any host on a network by raw frames."
)
_EPILOG = """\
exit codes: 0 no MUST is failed, 1 some are, 2 it cannot be run as asked. A result is pass, fail, or n/a with the
reason. docs/conformance.md has what came out for ustack and for a Linux kernel.

examples:
  ustack conformance --rfc 9293
  ustack conformance --target kernel --html report.html
  ustack conformance --target eth0:192.0.2.7 --source 192.0.2.99 --echo-port 7 --discard-port 9
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the runner takes."""
    parser.add_argument(
        "--target", default="stack", metavar="TARGET", help="stack (default), kernel, or IFACE:ADDRESS of a host"
    )
    parser.add_argument("--rfc", action="append", default=[], metavar="N", help="only this RFC; can be repeated")
    parser.add_argument("--only", action="append", default=[], metavar="ID", help="only this one, as --list names it")
    parser.add_argument("--list", action="store_true", help="print the requirements and run nothing")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report, and traces in a directory beside it")
    parser.add_argument("--traces", type=Path, metavar="DIR", help="write a pcapng file for each failure")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="run stack and kernel, write a page of both")
    parser.add_argument(
        "--patience", type=float, default=10.0, metavar="SECONDS", help="longest wait where time is real (default: 10)"
    )
    parser.add_argument("--source", metavar="ADDRESS", help="IFACE:ADDRESS: the address to speak from; no host's")
    parser.add_argument(
        "--discard-port", type=int, default=9, metavar="PORT", help="IFACE:ADDRESS: its discard service (default: 9)"
    )
    parser.add_argument(
        "--echo-port", type=int, default=7, metavar="PORT", help="IFACE:ADDRESS: its echo service (default: 7)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print failures and totals only")


def register(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "conformance",
        help="check a stack against the RFCs' requirements",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the harness's program -> its exit code."""
    for package, extra in ((_RUNNER, "."), ("scapy", ".[test]")):
        if importlib.util.find_spec(package) is None:
            raise CommandError(
                f"the package {package} is not installed: run `pip install -e '{extra}'` in a checkout of ustack"
            )
    return subprocess.run([sys.executable, "-m", f"{_RUNNER}.conformance", *_options(args)]).returncode


def _options(args: argparse.Namespace) -> list[str]:
    """The arguments as a command line again."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words: list[str] = []
    for action in parser._actions:
        name = action.option_strings[-1]
        value = getattr(args, action.dest, None)
        if value is True:
            words.append(name)
        elif isinstance(value, list):
            words += [f"{name}={one}" for one in value]
        elif value not in (None, False):
            words.append(f"{name}={value}")
    return words
