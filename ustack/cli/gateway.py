"""`ustack gateway`: what arrives on a device goes out through the host's own sockets.

Responsible for: the options, and running until a signal comes. Not for: what a gateway does (ustack/gateway.py).
"""

from __future__ import annotations

import argparse
import signal
from typing import Any

from .session import add_stack_options, note, open_session, plain_address

_DESCRIPTION = (
    "Be the gateway on a device: TCP connections and UDP flows that arrive on it, to any destination, go out through "
    "this machine's own sockets, without routing, NAT or privileges on the way out."
)
_EPILOG = """\
examples:
  sudo ustack gateway --tap ust0 --address 10.9.0.2/24 --host-address 10.9.0.1/24
      then route what is to go that way:  sudo ip route add 198.51.100.0/24 via 10.9.0.2 dev ust0
  ustack run -- PROGRAM     the same for one program, in a network of its own

The stack's addresses answer DNS on port 53 by asking this machine's resolver (or --resolver).
"""


def register(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "gateway",
        help="what arrives on the device goes out through the host's sockets",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--resolver", metavar="ADDR", type=plain_address, help="the DNS server to ask (default: this machine's)"
    )
    add_stack_options(parser)
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    from ..gateway import Gateway, host_resolver, raise_descriptor_limit

    if args.netns is not None:
        args.parser.error("--netns: the way out is by the sockets of the namespace this runs in")
    raise_descriptor_limit()
    with open_session(args) as session:
        own = tuple(one.split("/")[0] for one in session.addresses)
        with Gateway(session.stack, dns=own, resolver=args.resolver) as gateway:
            resolver = args.resolver or host_resolver()
            note(f"gateway {session.address} on {session.device}; DNS there is {resolver}")
            try:
                signal.pause()
            finally:
                done = gateway.counters()
                note(f"{done['flows']} flows, {done['bytes_in']} bytes out, {done['bytes_out']} bytes in")
    return 0
