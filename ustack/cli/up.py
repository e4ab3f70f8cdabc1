"""`ustack up`: a stack on a device until it is told to end.

It answers ARP and ping, and refuses connections as a host does, but for those to the small services it is told to have.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from typing import Any

from .errors import CommandError
from .session import add_stack_options, device_name, how_to_enter, note, open_session, port_number

_DESCRIPTION = (
    "Run a stack on a TAP or TUN device until Ctrl-C. It answers ping; nothing listens on it but the services that "
    "--service names."
)
_EPILOG = """\
examples:
  sudo ustack up ust0                                         then:  ping 10.9.0.2
  sudo ustack up ust0 --service echo:7 --service http:80=Hi   then:  curl http://10.9.0.2/
  sudo ustack up tap7 --address 192.0.2.2/24 --gateway 192.0.2.1
"""

# ustack.service.KINDS: that module needs the extension modules, which the parser does without.
KINDS = ("echo", "discard", "chargen", "answer", "http")
_WITH_TEXT = ("answer", "http")


def register(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "up",
        help="run a stack on a device and answer ping",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "device",
        metavar="DEVICE",
        type=device_name,
        help="the device: a TAP or TUN that is there already, or the name of a TAP to make",
    )
    parser.add_argument(
        "--service",
        metavar="KIND:PORT[=TEXT]",
        type=service,
        action="append",
        default=[],
        help="a TCP service answered by the data plane itself: echo, discard, chargen, http (TEXT: what every request "
        "gets) or answer (TEXT: sent for whatever comes, then the connection is closed); may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="say what is up as one line of JSON")
    add_stack_options(parser, device_option=False)
    parser.set_defaults(run=run)


def service(text: str) -> tuple[str, int, str]:
    """An argparse type: (kind, port, text) of "http:80=Hello"."""
    what, _, answer = text.partition("=")
    kind, _, port = what.partition(":")
    if kind not in KINDS:
        raise argparse.ArgumentTypeError(f"{text!r}: {kind!r} is no service ({', '.join(KINDS)})")
    if answer and kind not in _WITH_TEXT:
        raise argparse.ArgumentTypeError(f"{text!r}: {kind} sends no text of yours")
    return kind, port_number(port), answer


def start_services(stack: Any, services: list[tuple[str, int, str]]) -> None:
    """Start what --service asked for. Raises CommandError."""
    for kind, port, text in services:
        options: dict[str, Any] = {}
        if kind == "http":
            options["body"] = text + "\n"
        elif kind == "answer":
            options.update(answer=text.encode() + b"\n", close=True)
        try:
            stack.start_service(("", port), kind, **options)
        except (OSError, ValueError) as error:
            raise CommandError(f"the service {kind}:{port} cannot be had: {error}") from None


def run(args: argparse.Namespace) -> int:
    """Run until a signal ends it."""
    with open_session(args, alone_is_useful=True) as session:
        start_services(session.stack, args.service)
        enter = how_to_enter(session.place)
        if args.json:
            print(
                json.dumps(
                    {
                        "device": session.device,
                        "addresses": session.addresses,
                        "host_addresses": session.host_addresses,
                        "gateway": session.gateway,
                        "services": [f"{kind}:{port}" for kind, port, _ in args.service],
                        "pid": os.getpid(),
                        "enter": enter.split(),
                    }
                )
            )
        else:
            gateway = f", gateway {session.gateway}" if session.gateway else ""
            host = f"; the kernel's side has {', '.join(session.host_addresses)}" if session.host_addresses else ""
            print(
                f"{session.device} is up: the stack has {', '.join(session.addresses)}{gateway}{host} (Ctrl-C ends it)"
            )
        sys.stdout.flush()
        if enter and not args.json:
            note(f"this is a network namespace of its own; to reach it: {enter}ping {session.address}")
        threading.Event().wait()
    return 0
