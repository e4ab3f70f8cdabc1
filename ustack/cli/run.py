"""`ustack run`: a program, unmodified, on a stack: a Python file in this process, any other in a network of its own.

Responsible for: the options, and running a Python program as `python` would. Not for: what patching means
(Stack.patched), how other programs are run (ustack/launch.py).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.util
import ipaddress
import os
import runpy
import signal
import sys
from collections.abc import Iterator
from typing import Any

import ustack

from ..namespace import TUN_DEVICE
from .errors import EXIT_FAILURE, CommandError, Terminated, reason
from .session import add_stack_options, explain_device, open_session

_DESCRIPTION = """\
Run a Python program on a ustack stack: what it does through socket, ssl and asyncio goes that way.

After `--` stands any other program: it runs in a network of its own, whose only way out is a stack in this process that
goes on through the host's sockets (TCP, UDP, DNS). That needs no privilege where the kernel allows user namespaces.
"""
_EPILOG = """\
examples:
  sudo ustack run fetch.py http://10.9.0.1:8000/
  sudo ustack run -m http.server 80                 then:  curl http://10.9.0.2/
  sudo ustack run --config examples/lab.toml --outside kernel program.py --its --own options
  ustack run -- curl -s http://example.org/         any program; 10.0.2.2 is this machine's loopback there

Options of ustack come before the program, whatever follows is the program's. After `--` only --mtu, --dns (the server
behind the relay 10.0.2.3), --no-host-loopback and --block count; exit code and signals are passed on. Sockets of other
families (AF_UNIX, …) are the kernel's.
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
    add(
        "--no-host-loopback",
        action="store_true",
        help="with `--`: 10.0.2.2 does not stand for this machine's loopback address",
    )
    add(
        "--block",
        metavar="NETWORK",
        action="append",
        default=[],
        type=network,
        help="with `--`: a network that the program may not reach, such as 192.168.0.0/16; may be repeated",
    )
    add(
        "program",
        metavar="PROGRAM [ARGUMENT ...]",
        nargs=argparse.REMAINDER,
        help="a Python file, and its arguments; or `--`, any program, and its arguments",
    )
    add_stack_options(parser)
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Open the stack, patch, and run the program to its end; or launch it, if it is none of Python's."""
    if args.program[:1] == ["--"] and not args.module:
        return _launch(args)
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
            with session.stack.patched(outside=outside), _uvloop_on(session.stack, outside):
                return _run_program(args)
        finally:
            asyncio.set_event_loop_policy(None)


@contextlib.contextmanager
def _uvloop_on(stack: ustack.Stack, outside: str) -> Iterator[None]:
    """uvloop's event loops know the kernel's network only. A program that makes one, as uvicorn does wherever uvloop is
    installed, gets the stack's."""
    if importlib.util.find_spec("uvloop") is None:
        yield
        return
    uvloop: Any = importlib.import_module("uvloop")
    before = uvloop.new_event_loop, uvloop.run
    uvloop.new_event_loop = lambda: ustack.EventLoop(stack, outside)
    uvloop.run = asyncio.run  # by the policy
    try:
        yield
    finally:
        uvloop.new_event_loop, uvloop.run = before


def network(text: str) -> str:
    """An argparse type: a network, such as 192.168.0.0/16, or an address."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a network, such as 192.168.0.0/16") from None


def _launch(args: argparse.Namespace) -> int:
    from .. import launch

    argv = args.program[1:]
    if not argv:
        args.parser.error("give a program to run after `--`")
    if args.dns and len(args.dns) > 1:
        args.parser.error("with `--` there is one --dns")
    try:
        code = launch.launch(
            argv,
            mtu=args.mtu or launch.MTU,
            resolver=args.dns[0] if args.dns else None,
            host_loopback=not args.no_host_loopback,
            blocked=tuple(args.block),
        )
    except launch.LaunchError as error:
        raise CommandError(str(error), error.code) from None
    except OSError as error:
        if not os.access(TUN_DEVICE, os.R_OK | os.W_OK):
            raise CommandError(explain_device(error, launch.DEVICE, "tun")) from None
        raise CommandError(
            f"no network of its own for the program ({reason(error)}): run it with `sudo`, or allow user namespaces: "
            "`sudo sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000`"
        ) from None
    if code < 0:
        _end_as_it_did(-code)
    return code


def _end_as_it_did(number: int) -> None:
    """Whoever waits for this process sees the signal that ended the program."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # one core file is enough
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    os.kill(os.getpid(), number)


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
