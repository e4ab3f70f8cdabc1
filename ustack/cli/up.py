"""`ustack up`: a stack on a device until it is told to end.

It answers ARP and ping, and refuses connections as a host does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from typing import Any

from .session import add_stack_options, device_name, how_to_enter, note, open_session

_DESCRIPTION = "Run a stack on a TAP or TUN device until Ctrl-C. It answers ping; nothing listens on it."
_EPILOG = """\
examples:
  sudo ustack up ust0                                         then:  ping 10.9.0.2
  sudo ustack up tap7 --address 192.0.2.2/24 --gateway 192.0.2.1
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
        type=device_name,
        help="the device: a TAP or TUN that is there already, or the name of a TAP to make",
    )
    parser.add_argument("--json", action="store_true", help="say what is up as one line of JSON")
    add_stack_options(parser, device_option=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run until a signal ends it."""
    with open_session(args, alone_is_useful=True) as session:
        enter = how_to_enter(session.place)
        if args.json:
            print(
                json.dumps(
                    {
                        "device": session.device,
                        "addresses": session.addresses,
                        "host_addresses": session.host_addresses,
                        "gateway": session.gateway,
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
