"""`ustack gateway`: what arrives on a device goes out through the host's own sockets.

Responsible for: the options, and running until a signal comes. Not for: what a gateway does (ustack/gateway.py).
"""

from __future__ import annotations

import argparse
import signal
from typing import Any

from .session import add_stack_options, note, open_session, plain_address

_DESCRIPTION = (
    "Be the gateway on a device: TCP connections, UDP flows and pings that arrive on it, to any destination, go out "
    "through this machine's own sockets, without routing, NAT or privileges on the way out."
)
_EPILOG = """\
examples:
  sudo ip netns add lab
  sudo ustack gateway --netns lab --tap ust0 --address 10.9.0.2/24 --host-address 10.9.0.1/24
      the network of `lab` is reached through this machine's; in it:
      sudo ip netns exec lab ip route add default via 10.9.0.2
      sudo ip netns exec lab curl http://example.org/
  sudo ustack gateway --tap ust0
      for other machines, which this one routes to 10.9.0.2
  ustack run -- PROGRAM     the same for one program, in a network of its own, without root

With --netns (the id of a process, a path, a name; not `new`) the device is in that network namespace, and the way out
is by the sockets of the one this runs in. Without it, what this machine itself would send to the device again is
refused (host unreachable), or it would go round for ever.

The stack's addresses answer DNS on port 53 by asking this machine's resolver (or --resolver). Pings need ping sockets
(sysctl net.ipv4.ping_group_range), or root.
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

    if args.netns == "new":
        args.parser.error("--netns new: nobody else is in there; `ustack run -- PROGRAM` makes one for a program")
    if args.netns is not None and args.config is not None:
        args.parser.error("--netns: a device of --config is made where the stack is; give its options here")
    raise_descriptor_limit()
    with open_session(args, device_only=True) as session:
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
