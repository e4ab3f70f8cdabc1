"""`ustack run`: a Python program, unmodified, whose sockets are a stack's.

Responsible for: the options, and running the program as `python` would.
Not for: what patching means (Stack.patched).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import runpy
import sys
from typing import Any

import ustack

from .errors import EXIT_FAILURE, CommandError, Terminated
from .session import add_stack_options, open_session

_DESCRIPTION = "Run a Python program on a ustack stack: what it does through socket, ssl and asyncio goes that way."
_EPILOG = """\
examples:
  sudo ustack run fetch.py http://10.9.0.1:8000/
  sudo ustack run -m http.server 80                 then:  curl http://10.9.0.2/
  sudo ustack run --config examples/lab.toml --outside kernel program.py --its --own options

Options of ustack come before the program, whatever follows is the program's. Sockets of other families (AF_UNIX, …)
are the kernel's.
"""


def register(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "run",
        help="a Python program, unmodified, on a stack",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "-m",
        dest="module",
        nargs=argparse.REMAINDER,
        metavar="MODULE",
        help="run a module, as `python -m` does, instead of a file; what follows is its own",
    )
    add("--host", metavar="NAME=ADDR", action="append", default=[], help="a name the program may use; may be repeated")
    add(
        "--outside",
        choices=("refuse", "kernel"),
        help="what becomes of addresses that the stack has no route to: an error, or the kernel's network "
        "(default: refuse)",
    )
    add("program", metavar="PROGRAM [ARGUMENT ...]", nargs=argparse.REMAINDER, help="a Python file, and its arguments")
    add_stack_options(parser)
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Open the stack, patch, and run the program to its end."""
    if not args.module and not args.program:
        args.parser.error("give a Python file to run, or -m and a module")
    hosts = {}
    for entry in args.host:
        name, equals, address = entry.partition("=")
        if not equals:
            args.parser.error(f"--host: {entry!r} is not NAME=ADDR")
        hosts[name] = address
    with open_session(args) as session:
        session.stack.hosts.update({name.lower(): addresses for name, addresses in hosts.items()})
        outside = args.outside or (session.config.table("stack").get("outside") if session.config else None) or "refuse"
        asyncio.set_event_loop_policy(ustack.EventLoopPolicy(session.stack, outside))
        try:
            with session.stack.patched(outside=outside):
                return _run_program(args)
        finally:
            asyncio.set_event_loop_policy(None)


def _run_program(args: argparse.Namespace) -> int:
    try:
        if args.module:
            sys.argv = list(args.module)
            sys.path.insert(0, os.getcwd())
            runpy.run_module(args.module[0], run_name="__main__", alter_sys=True)
        else:
            path = args.program[0]
            if not os.path.exists(path):
                raise CommandError(f"there is no file {path!r}", 2)
            sys.argv = list(args.program)
            sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
            runpy.run_path(path, run_name="__main__")
    except (CommandError, KeyboardInterrupt, Terminated, SystemExit):
        raise
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return EXIT_FAILURE
    return 0
