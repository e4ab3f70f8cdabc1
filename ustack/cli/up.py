"""`ustack up`: a stack on a device until it is told to end.

It answers ARP and ping, and refuses connections as a host does, but for those to the small services it is told to have.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import sys
import threading
from typing import Any

from ..conf.references import SERVICES_WITH_TEXT
from ..conf.schema import SERVICES
from .errors import CommandError
from .httpd import StackHTTPServer, file_handler
from .session import Session, add_stack_options, device_name, how_to_enter, note, open_session, port_number

_DESCRIPTION = (
    "Run a stack on a TAP or TUN device until Ctrl-C. It answers ping; nothing listens on it but the services that "
    "--service names."
)
_EPILOG = """\
examples:
  sudo ustack up ust0                                         then:  ping 10.9.0.2
  sudo ustack up ust0 --service echo:7 --service http:80=Hi   then:  curl http://10.9.0.2/
  sudo ustack up tap7 --address 192.0.2.2/24 --gateway 192.0.2.1
  sudo ustack up --config examples/lab.toml
"""


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
        nargs="?",
        type=device_name,
        help="the device: a TAP or TUN that is there already, or the name of a TAP to make (default: as --config says)",
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
    parser.set_defaults(run=run, parser=parser)


def service(text: str) -> tuple[str, int, str]:
    """An argparse type: (kind, port, text) of "http:80=Hello"."""
    what, _, answer = text.partition("=")
    kind, _, port = what.partition(":")
    if kind not in SERVICES:
        raise argparse.ArgumentTypeError(f"{text!r}: {kind!r} is no service ({', '.join(SERVICES)})")
    if answer and kind not in SERVICES_WITH_TEXT:
        raise argparse.ArgumentTypeError(f"{text!r}: {kind} sends no text of yours")
    return kind, port_number(port), answer


def _service_names(args: argparse.Namespace, session: Session) -> list[str]:
    configured = session.config.list("service") if session.config else []
    named = [(one["kind"], one["port"]) for one in configured] + [(kind, port) for kind, port, _ in args.service]
    return [f"{kind}:{port}" for kind, port in named]


def start_services(stack: Any, services: list[tuple[str, int, str]]) -> None:
    """Start what --service asked for. Raises CommandError."""
    from ..service import text_options  # needs the extension modules, which the parser does without

    for kind, port, text in services:
        try:
            stack.start_service(("", port), kind, **text_options(kind, text))
        except (OSError, ValueError) as error:
            raise CommandError(f"the service {kind}:{port} cannot be had: {error}") from None


def _serve(session: Session, servers: contextlib.ExitStack) -> None:
    """Start what [[serve]] of the configuration asks for. Raises CommandError."""
    assert session.config is not None
    for number, one in enumerate(session.config.list("serve")):
        directory = os.path.realpath(one["directory"])
        handler = file_handler(directory, uploads=one.get("upload", False), quiet=True)
        try:
            if not os.path.isdir(directory):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
            server = StackHTTPServer(session.stack, ("::", one["port"]), handler)
        except OSError as error:
            raise CommandError(str(session.config.report.error(("serve", number), str(error)))) from None
        thread = threading.Thread(target=server.serve_forever, name="ustack-serve", daemon=True)
        thread.start()
        servers.callback(thread.join)
        servers.callback(server.server_close)
        servers.callback(server.shutdown)


def run(args: argparse.Namespace) -> int:
    """Run until a signal ends it."""
    if args.device is None and args.config is None:
        args.parser.error("give a DEVICE, or a configuration by --config")
    with open_session(args, alone_is_useful=True) as session, contextlib.ExitStack() as servers:
        start_services(session.stack, args.service)
        if session.config is not None:
            _serve(session, servers)
        enter = how_to_enter(session.place)
        if args.json:
            print(
                json.dumps(
                    {
                        "device": session.device,
                        "addresses": session.addresses,
                        "host_addresses": session.host_addresses,
                        "gateway": session.gateway,
                        "services": _service_names(args, session),
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
