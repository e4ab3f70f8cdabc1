"""`ustack proxy`: the kernel's programs reach a stack's network through SOCKS5 or HTTP CONNECT.

Responsible for: the options, and running until a signal comes. Not for: the protocols (ustack/proxy.py).
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from ..proxy import Proxy
from .errors import CommandError, reason
from .session import Session, add_stack_options, note, open_session

_DESCRIPTION = "Let the kernel's programs reach a ustack stack's network: a SOCKS5 or HTTP CONNECT proxy."
_EPILOG = """\
examples:
  sudo ustack proxy --socks5 127.0.0.1:1080            then:  curl -x socks5h://127.0.0.1:1080 http://10.9.0.1:8000/
  sudo ustack proxy --http-connect 127.0.0.1:3128      then:  curl -p -x http://127.0.0.1:3128 http://10.9.0.1:8000/

Names are looked up on the stack's side. There is no authentication: listen on loopback addresses only.
"""


def endpoint(text: str) -> tuple[str, int]:
    """An argparse type: ADDRESS:PORT."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 0xFFFF:
        raise argparse.ArgumentTypeError(f"{text!r} is not ADDRESS:PORT, such as 127.0.0.1:1080")
    return host.strip("[]"), int(port)


def register(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "proxy",
        help="SOCKS5 and HTTP CONNECT into the stack's network",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--socks5", metavar="ADDR:PORT", type=endpoint, help="listen there, in the kernel's network, for SOCKS5")
    add("--http-connect", metavar="ADDR:PORT", type=endpoint, help="listen there, in the kernel's network, for CONNECT")
    add_stack_options(parser)
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    if args.socks5 is None and args.http_connect is None:
        args.parser.error("give --socks5 or --http-connect")
    with open_session(args) as session:
        asyncio.run(_serve(session, args))
    return 0


async def _serve(session: Session, args: argparse.Namespace) -> None:
    proxy = Proxy(session.stack)
    try:
        for name, where, start in (
            ("SOCKS5", args.socks5, proxy.start_socks5),
            ("HTTP CONNECT", args.http_connect, proxy.start_http_connect),
        ):
            if where is None:
                continue
            try:
                host, port = await start(*where)
            except OSError as error:
                raise CommandError(f"cannot listen on {where[0]}:{where[1]}: {reason(error)}") from None
            note(f"{name} proxy on {host}:{port}, into the network of {session.address}")
        await asyncio.get_running_loop().create_future()
    finally:
        await proxy.close()
