"""`ustack run`: a Python program, unmodified, whose sockets are a stack's.

Responsible for: the options, the configuration file that may stand for them, and running the program as `python` would.
Not for: what patching means (Stack.patched).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import ustack

from .errors import EXIT_FAILURE, CommandError, Terminated, reason
from .session import add_stack_options, device_name, gateway_address, interface_address, mtu, open_session

_DESCRIPTION = "Run a Python program on a ustack stack: what it does through socket, ssl and asyncio goes that way."
_EPILOG = """\
examples:
  sudo ustack run fetch.py http://10.9.0.1:8000/
  sudo ustack run -m http.server 80                 then:  curl http://10.9.0.2/
  sudo ustack run --config lab.toml --outside kernel program.py --its --own options

Options of ustack come before the program, whatever follows is the program's. Sockets of other families (AF_UNIX, …)
are the kernel's. A configuration file is TOML (Python 3.11) or JSON: tap or tun, address, host-address (a string or
a list), gateway, mtu, offload, netns, outside, as the options; hosts, a table of names and their addresses.
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
    add("--config", metavar="FILE", type=Path, help="take the options from a file; those given here count for more")
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
    hosts = _configure(args)
    for entry in args.host:
        name, equals, address = entry.partition("=")
        if not equals:
            args.parser.error(f"--host: {entry!r} is not NAME=ADDR")
        hosts[name] = address
    with open_session(args) as session:
        session.stack.hosts.update({name.lower(): addresses for name, addresses in hosts.items()})
        outside = args.outside or "refuse"
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


# -- the configuration file

_CHECKS: dict[str, Any] = {
    "tap": device_name,
    "tun": device_name,
    "address": interface_address,
    "host-address": interface_address,
    "gateway": gateway_address,
    "mtu": mtu,
    "offload": None,
    "netns": None,
    "outside": None,
    "hosts": None,
}


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            found = json.loads(text)
        else:
            try:
                import tomllib  # type: ignore[import-not-found,unused-ignore]
            except ImportError:
                raise CommandError(f"{path}: TOML needs Python 3.11; write it as JSON, in a file *.json") from None
            found = tomllib.loads(text)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {reason(error)}") from None
    except ValueError as error:
        raise CommandError(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise CommandError(f"{path}: a table of options is wanted")
    return found


def _configure(args: argparse.Namespace) -> dict[str, Any]:
    """Put the file's options where none was given on the command line -> the table of hosts."""
    if args.config is None:
        return {}
    settings = _read(args.config)
    for name, value in settings.items():
        if name not in _CHECKS:
            raise CommandError(f"{args.config}: there is no option {name!r} (there are {', '.join(_CHECKS)})")
        check = _CHECKS[name]
        try:
            many = [value] if isinstance(value, str) else value
            if name in ("address", "host-address"):
                value = [check(text) for text in many]
            elif check is not None:
                value = check(str(value))
        except (argparse.ArgumentTypeError, TypeError) as error:
            raise CommandError(f"{args.config}: {name}: {error}") from None
        _fill_in(args, name, value)
    return dict(settings.get("hosts", {}))


def _fill_in(args: argparse.Namespace, name: str, value: Any) -> None:
    if name == "hosts":
        return
    if name == "tap":
        if args.device == args.parser.get_default("device") and not args.tun:
            args.device = value
        return
    attribute = name.replace("-", "_")
    if getattr(args, attribute) is None:
        setattr(args, attribute, value)
