"""`ustack nc`: stdin and stdout over a TCP connection or UDP datagrams of a stack, as netcat does.

Responsible for: connecting, listening, scanning, the relay with its half-close. Not for: protocols on top.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

from .errors import EXIT_FAILURE, CommandError, reason
from .session import add_stack_options, open_session, port_number, positive_seconds, resolve

_DESCRIPTION = "Carry stdin and stdout over a TCP connection, or UDP datagrams with -u, of a ustack stack."
_EPILOG = """\
examples:
  printf 'GET / HTTP/1.0\\r\\n\\r\\n' | sudo ustack nc 10.9.0.1 8000
  sudo ustack nc -l 9000                      then:  nc 10.9.0.2 9000
  sudo ustack nc -zv -w 1 10.9.0.1 20-25

The end of stdin is sent on as the end of the stream (a half-close); what the peer still says is printed until it
closes too.
"""
_PIECE = 65536


def register(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "nc",
        help="stdin and stdout over a stack's connection",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("host", metavar="HOST", help="where to connect to; with -l, the own address to listen on, and may be left out")
    add("port", metavar="PORT", nargs="?", help="the port; with -z also a range FIRST-LAST")
    add("-l", "--listen", action="store_true", help="wait for a connection instead of making one")
    add("-k", "--keep-open", action="store_true", help="with -l, wait for the next connection when one has ended")
    add("-u", "--udp", action="store_true", help="UDP instead of TCP")
    add("-6", "--ipv6", action="store_true", help="with -l and without HOST, listen over IPv6 instead of IPv4")
    add(
        "-z",
        "--zero",
        action="store_true",
        help="only look whether the port (or each of FIRST-LAST) accepts connections",
    )
    add(
        "-w",
        "--timeout",
        metavar="SECONDS",
        type=positive_seconds,
        help="limit for connecting, and for silence afterwards",
    )
    add("-v", "--verbose", action="store_true", help="say what happens on stderr")
    add_stack_options(parser)
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Connect, listen or scan."""
    name, ports = _target(args)
    with open_session(args, alone_is_useful=args.listen) as session:
        try:
            host = resolve(name, session.stack) if name else ""
        except (socket.gaierror, UnicodeError):
            raise CommandError(f"{name}: name not known") from None
        if args.listen:
            return _listen(session.stack, host, ports[0], args)
        if args.zero:
            return _scan(session.stack, host, ports, args)
        return _connect(session.stack, host, ports[0], args)


def _target(args: argparse.Namespace) -> tuple[str, list[int]]:
    """(host, ports) from the words on the command line; leaves through argparse's error when they do not fit."""
    if args.port is None and not args.listen:
        args.parser.error("give a host and a port")
    host, ports = (args.host, args.port) if args.port is not None else ("", args.host)
    if args.zero and (args.udp or args.listen):
        args.parser.error("-z looks at TCP ports: it goes with neither -u nor -l")
    first, dash, last = ports.partition("-")
    try:
        low = port_number(first)
        high = port_number(last) if dash else low
    except argparse.ArgumentTypeError as error:
        args.parser.error(str(error))
    if high < low or (dash and not args.zero):
        args.parser.error(f"{ports!r}: a range FIRST-LAST goes with -z only")
    return host, list(range(low, high + 1))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _say(args: argparse.Namespace, text: str) -> None:
    if args.verbose:
        print(text, file=sys.stderr, flush=True)


def _open_tcp(stack: Any, host: str, port: int, args: argparse.Namespace) -> Any:
    try:
        connected = stack.create_connection((host, port), timeout=args.timeout)
    except OSError as error:
        raise CommandError(f"connect to {host} port {port} (tcp) failed: {reason(error)}") from None
    _say(args, f"Connection to {host} {port} port [tcp/*] succeeded!")
    return connected


def _connect(stack: Any, host: str, port: int, args: argparse.Namespace) -> int:
    if args.udp:
        connected = stack.socket(_family(host), socket.SOCK_DGRAM)
        connected.connect((host, port))
    else:
        connected = _open_tcp(stack, host, port, args)
    with connected:
        return relay(connected, args)


def _scan(stack: Any, host: str, ports: list[int], args: argparse.Namespace) -> int:
    found = 0
    for port in ports:
        try:
            _open_tcp(stack, host, port, args).close()
            found += 1
        except CommandError as error:
            _say(args, f"nc: {error}")
    return 0 if found else EXIT_FAILURE


def _listen(stack: Any, host: str, port: int, args: argparse.Namespace) -> int:
    host = host or ("::" if args.ipv6 else "0.0.0.0")
    with stack.socket(_family(host), socket.SOCK_DGRAM if args.udp else socket.SOCK_STREAM) as listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if ":" in host:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((host, port))
            if not args.udp:
                listener.listen(1 if not args.keep_open else 16)
        except OSError as error:
            raise CommandError(f"port {port} cannot be listened on: {reason(error)}") from None
        _say(args, f"Listening on {host} {port}")
        if args.udp:
            return _serve_datagrams(listener, args)
        for connected, peer in _accepted(listener, args):
            with connected:
                _say(args, f"Connection received on {peer[0]} {peer[1]}")
                code = relay(connected, args)
            if not args.keep_open:
                return code
    return 0


def _accepted(listener: Any, args: argparse.Namespace) -> Iterator[tuple[Any, Any]]:
    while True:
        yield listener.accept()


def _serve_datagrams(sock: Any, args: argparse.Namespace) -> int:
    """Take the first sender as the peer, as netcat does."""
    datagram, peer = sock.recvfrom(_PIECE)
    sock.connect(peer)
    _say(args, f"Connection received on {peer[0]} {peer[1]}")
    _write_all(datagram)
    return relay(sock, args)


def relay(sock: Any, args: argparse.Namespace) -> int:
    """Carry stdin to the socket and the socket to stdout until the peer closes; returns the exit code.

    The end of stdin closes only our half. With -w, so long a silence of the peer ends it too.
    """
    sender = threading.Thread(target=_send_stdin, args=(sock, args.udp), name="nc-stdin", daemon=True)
    sender.start()
    sock.settimeout(args.timeout)
    while piece := _receive(sock):
        _write_all(piece)
    return 0


def _receive(sock: Any) -> bytes:
    """The next piece from the peer; nothing when it closed or was silent for too long."""
    try:
        return bytes(sock.recv(_PIECE))
    except TimeoutError:
        return b""
    except OSError as error:
        raise CommandError(f"read: {reason(error)}") from None


def _send_stdin(sock: Any, udp: bool) -> None:
    """The sending half.

    It reads the descriptor, not sys.stdin, whose lock a thread that never returns would hold at exit.
    """
    # The receiving half reports what goes wrong with the connection; here it only ends.
    with contextlib.suppress(OSError):
        while piece := os.read(0, _PIECE):
            sock.sendall(piece)
        if not udp:
            sock.shutdown(socket.SHUT_WR)


def _write_all(piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(1, view) :]
