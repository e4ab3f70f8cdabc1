"""`ustack demo`: a real file through the stack and back, with the kernel's own programs on the other side.

Responsible for: the order of things, the verdict, and where it can run (a namespace of its own, this one, or an
in-memory pipe). Not for: the kernel-side programs (demo_peers), HTTP (httpd, http_client), what is printed how
(demo_report).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ustack

from .. import control, namespace
from .demo_peers import hash_file, in_url, kernel_curl, kernel_server, make_random_file, ustack_curl
from .demo_report import Report
from .doctor import find_program, tap_place
from .errors import EXIT_FAILURE, CommandError
from .httpd import StackHTTPServer, file_handler, free_space
from .session import DEFAULT_ADDRESS, DEFAULT_DEVICE, DEFAULT_HOST_ADDRESS, explain_device
from .terminal import size

_DESCRIPTION = """\
Fetch and upload a random file through a TCP/IP stack inside this Python process, with the kernel's own curl as the
client; then fetch it with `ustack curl` from a server on the kernel's side. Everything happens in a network namespace
made for it (as root, or without root inside a user namespace); where neither is allowed, over an in-memory pipe
between two stacks.
"""
_PORT = 80
_KERNEL_PORT = 8080
_FILE = "random.bin"
@dataclass(frozen=True)
class _Ends:
    """The stack's address and the other side's, with their prefix lengths."""

    stack_net: str
    host_net: str

    @property
    def stack(self) -> str:
        return self.stack_net.split("/")[0]

    @property
    def host(self) -> str:
        return self.host_net.split("/")[0]


_FOUR = _Ends(DEFAULT_ADDRESS, DEFAULT_HOST_ADDRESS)
_SIX = _Ends("fd09::2/64", "fd09::1/64")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def byte_count(text: str) -> int:
    """An argparse type: bytes, with a binary unit where wanted: 65536, 64K, 256M, 1GiB."""
    found = re.fullmatch(r"(\d+)\s*([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found or not 1 <= int(found[1]) * _UNITS[found[2].upper()] <= 1 << 40:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size, such as 256M or 1G")
    return int(found[1]) * _UNITS[found[2].upper()]


def register(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "demo",
        help="see it work: the kernel's curl through a stack in this process",
        description=_DESCRIPTION,
        epilog="exit codes: 0 every checksum was equal, 1 something failed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--size",
        type=byte_count,
        default=256 << 20,
        metavar="BYTES",
        help="how large the file is, such as 16M or 1G (default: 256M)",
    )
    parser.add_argument(
        "--link",
        choices=("auto", "tap", "pipe"),
        default="auto",
        help="tap: the kernel on the other side; pipe: a second stack; auto: a TAP where it can be had (default)",
    )
    parser.add_argument("-6", "--ipv6", action="store_true", help="over IPv6")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Choose where to run, run, and give the verdict."""
    report = Report(sys.stdout)
    report.title(f"ustack demo: a TCP/IP stack inside this Python process (pid {os.getpid()})")
    place = _choose_place(args.link, report)
    with tempfile.TemporaryDirectory(prefix="ustack-demo-") as directory:
        if free_space(directory) < 2 * args.size + (16 << 20):
            raise CommandError(
                f"{directory} has {size(free_space(directory))} free and two files of {size(args.size)} are wanted: "
                "set TMPDIR to a larger place, or choose a smaller --size"
            )
        ends = _SIX if args.ipv6 else _FOUR
        if place is None:
            _over_pipe(Path(directory), args.size, ends, report)
        else:
            _over_tap(Path(directory), args.size, ends, place, report)
    return 0 if report.verdict("the in-memory pipe" if place is None else "a TAP") else EXIT_FAILURE


def _choose_place(link: str, report: Report) -> str | None:
    """Enter the namespace to run in; returns its kind, or None for the pipe.

    Raises CommandError when --link tap cannot be had.
    """
    place, refusals = (None, {}) if link == "pipe" else tap_place()
    if place in ("net", "user"):
        control.pin_directory()
        namespace.enter_new(user=place == "user")
    if place is None and link != "pipe":
        why = explain_device(refusals["here"], DEFAULT_DEVICE, "tap")
        if link == "tap":
            raise CommandError(why)
        report.warn(f"No TAP device can be made here: {why}. (`ustack doctor` tells more.)")
        report.warn("So the other side is not the kernel but a second ustack stack, over an in-memory pipe.")
    return place


def _over_tap(directory: Path, length: int, ends: _Ends, place: str, report: Report) -> None:
    where = {
        "net": "a network namespace of its own",
        "user": "a user and network namespace of its own (not root)",
        "here": "this network namespace",
    }[place]
    report.step(f"In {where}: the TAP {DEFAULT_DEVICE} between the kernel ({ends.host}) and the stack ({ends.stack})")
    with contextlib.ExitStack() as cleanup:
        served, digest = _prepare(directory, length, report)
        try:
            tap = ustack.Tap(DEFAULT_DEVICE, host_addresses=[ends.host_net])
        except OSError as error:
            raise CommandError(explain_device(error, DEFAULT_DEVICE, "tap")) from None
        # Once the address is there to bind, and before the stack's thread: this forks, and sets death-with-parent.
        kernel_side = cleanup.enter_context(
            kernel_server(served.parent, ends.host, _KERNEL_PORT, find_program("nginx"))
        )
        stack = cleanup.enter_context(ustack.Stack())
        stack.attach(tap, addresses=[ends.stack_net], gateway=ends.host)
        cleanup.enter_context(control.publish(stack, DEFAULT_DEVICE, [ends.stack_net]))
        cleanup.enter_context(_serving(stack, served.parent))
        fetch = kernel_curl(find_program("curl"), report)
        fetched = directory / "fetched.bin"
        report.step(
            f"The kernel's {fetch.name} fetches the file from the stack: Python's http.server on ustack sockets"
        )
        _fetch(fetch, stack, _url(ends.stack, _PORT, _FILE), fetched, digest, report)
        report.step(f"The kernel's {fetch.name} uploads it to the stack")
        _upload(fetch, stack, served, _url(ends.stack, _PORT, "uploaded.bin"), digest, report)
        there = f"{kernel_side.name} on {in_url(ends.host)}:{_KERNEL_PORT}"
        report.step(f"`ustack curl` fetches it from the kernel's side: {there}")
        kernel_side.wait_until_ready()
        own = ustack_curl(stack, report)
        _fetch(own, stack, _url(ends.host, _KERNEL_PORT, _FILE), fetched, digest, report)


def _over_pipe(directory: Path, length: int, ends: _Ends, report: Report) -> None:
    report.step(
        f"Two stacks in this process, {ends.stack} the server and {ends.host} the client, "
        "and an in-memory wire between them"
    )
    with contextlib.ExitStack() as cleanup:
        served, digest = _prepare(directory, length, report)
        server, client = cleanup.enter_context(ustack.Stack()), cleanup.enter_context(ustack.Stack())
        left, right = ustack.pipe()
        server.attach(left, addresses=[ends.stack_net])
        client.attach(right, addresses=[ends.host_net])
        cleanup.enter_context(_serving(server, served.parent))
        fetch = ustack_curl(client, report)
        report.step("`ustack curl` fetches the file: Python's http.server on ustack sockets")
        _fetch(fetch, server, _url(ends.stack, _PORT, _FILE), directory / "fetched.bin", digest, report)
        report.step("`ustack curl` uploads it")
        _upload(fetch, server, served, _url(ends.stack, _PORT, "uploaded.bin"), digest, report)


def _url(host: str, port: int, file: str) -> str:
    return f"http://{in_url(host)}{'' if port == 80 else f':{port}'}/{file}"


def _prepare(directory: Path, length: int, report: Report) -> tuple[Path, str]:
    """Make the file to serve in a directory of its own; returns it and its SHA-256."""
    report.step(f"A file of {size(length)} of random bytes")
    site = directory / "site"
    site.mkdir()
    path = site / _FILE
    digest = make_random_file(path, length)
    report.line(f"sha256 {digest}  {path}")
    return path, digest


@contextlib.contextmanager
def _serving(stack: Any, directory: Path) -> Iterator[None]:
    server = StackHTTPServer(stack, ("::", _PORT), file_handler(str(directory), uploads=True, quiet=True))
    thread = threading.Thread(target=server.serve_forever, name="http-server", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _fetch(client: Any, stack: Any, url: str, target: Path, digest: str, report: Report) -> None:
    with _measured(stack, report) as length:
        client.fetch(url, target)
        length.append(target.stat().st_size if target.exists() else 0)
    report.compare(f"{target.name} as fetched", hash_file(target) if target.exists() else None, digest)
    target.unlink(missing_ok=True)


def _upload(client: Any, stack: Any, source: Path, url: str, digest: str, report: Report) -> None:
    arrived = source.parent / url.rpartition("/")[2]
    with _measured(stack, report) as length:
        client.upload(source, url)
        length.append(arrived.stat().st_size if arrived.exists() else 0)
    report.compare(f"{arrived.name} as it arrived", hash_file(arrived) if arrived.exists() else None, digest)
    arrived.unlink(missing_ok=True)


@contextlib.contextmanager
def _measured(stack: Any, report: Report) -> Iterator[list[int]]:
    """Say how fast the bytes went that the block appends the number of, and in how many segments."""
    before, started = stack.counters(), time.monotonic()
    length: list[int] = []
    yield length
    seconds, after = time.monotonic() - started, stack.counters()
    report.figures(
        sum(length),
        seconds,
        {name: after.get(name, 0) - before.get(name, 0) for name in ("TcpOutSegs", "TcpInSegs", "TcpRetransSegs")},
    )
