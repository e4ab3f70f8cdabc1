"""`ustack serve`: the files of a directory over HTTP, on a stack of this process."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from .errors import CommandError, reason
from .httpd import StackHTTPServer, file_handler
from .session import add_stack_options, how_to_enter, note, open_session, port_number

_DESCRIPTION = (
    "Serve the files of a directory over HTTP with Python's http.server, running on a ustack stack. Ctrl-C ends it."
)
_EPILOG = """\
example:
  sudo ustack serve --port 80 /srv/files      then, in another terminal:  curl http://10.9.0.2/
"""


def register(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "serve",
        help="serve files over HTTP on a stack",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "directory", nargs="?", default=".", metavar="DIR", help="what to serve (default: the current directory)"
    )
    parser.add_argument("-p", "--port", type=port_number, default=8000, help="the port to listen on (default: 8000)")
    parser.add_argument("--upload", action="store_true", help="also take PUT requests and write the files into DIR")
    parser.add_argument("-q", "--quiet", action="store_true", help="no line for each request")
    parser.add_argument("--json", action="store_true", help="say where it listens as one line of JSON")
    add_stack_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    directory = os.path.realpath(args.directory)
    if not os.path.isdir(directory):
        raise CommandError(f"{args.directory} is not a directory")
    with open_session(args, alone_is_useful=True) as session:
        handler = file_handler(directory, uploads=args.upload, quiet=args.quiet)
        try:
            server = StackHTTPServer(session.stack, ("::", args.port), handler)
        except OSError as error:
            raise CommandError(f"port {args.port} cannot be listened on: {reason(error)}") from None
        with server:
            host = f"[{session.address}]" if ":" in session.address else session.address
            url = f"http://{host}:{args.port}/"
            enter = how_to_enter(session.place)
            if args.json:
                print(
                    json.dumps(
                        {
                            "url": url,
                            "device": session.device,
                            "directory": directory,
                            "pid": os.getpid(),
                            "enter": enter.split(),
                        }
                    )
                )
            else:
                print(f"Serving {directory} on {url} (device {session.device}; Ctrl-C ends it)")
            sys.stdout.flush()
            if enter and not args.json:
                note(f"this is a network namespace of its own; to reach it: {enter}curl {url}")
            server.serve_forever()
    return 0
