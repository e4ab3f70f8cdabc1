"""`ustack packetdrill`: run scripts in packetdrill's language on a stack in virtual time, or on the kernel.

The runner is part of the test harness, which is a user of ustack and not the other way round: it runs as a program of
its own, `python -m tap_harness.packetdrill`, where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from typing import Any

from .errors import CommandError

_RUNNER = "tap_harness"
_DESCRIPTION = (
    "Run packetdrill scripts (packets, system calls and their times) on a stack in virtual time, and show the first "
    "packet or result that is not as the script says."
)
_EPILOG = """\
exit codes: 0 every script passes, 1 something differs, 2 a file is no script (file:line:column) or asks for what there
is not. docs/packetdrill.md says how much of the language is known.

example:
  ustack packetdrill tests/scripts/handshake_passive.pkt
  ustack packetdrill --target kernel tests/scripts/handshake_passive.pkt
"""


def register(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "packetdrill",
        help="run packetdrill scripts in virtual time",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a script, or a directory of *.pkt")
    parser.add_argument(
        "--target",
        choices=("stack", "kernel"),
        default="stack",
        help="stack: a stack in virtual time (the default); kernel: Linux in real time, in a namespace (needs root)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of scripts that pass")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the harness's runner -> its exit code."""
    if importlib.util.find_spec(_RUNNER) is None:
        raise CommandError(f"the package {_RUNNER} is not installed: run `pip install -e .` in a checkout of ustack")
    quiet = ["--quiet"] if args.quiet else []
    command = [sys.executable, "-m", f"{_RUNNER}.packetdrill", *quiet, f"--target={args.target}", "--", *args.files]
    return subprocess.run(command).returncode
