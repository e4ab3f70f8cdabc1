"""Fetch a page over a stack on a TAP device, with nothing but a socket and a file over it.

    python -m http.server --bind 10.9.0.1 8000 &            (once the device is up, or on any host behind it)
    sudo python examples/http_get.py http://10.9.0.1:8000/

Needs the right to make a TAP (CAP_NET_ADMIN), or one that exists and belongs to this user: `ustack doctor` tells.
"""

from __future__ import annotations

import argparse
import sys
from urllib.parse import urlsplit

import ustack


def get(stack: ustack.Stack, url: str) -> tuple[str, bytes]:
    """The status line and the body of what a URL with a numeric address names. Raises OSError, ValueError."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{url!r} is no http:// URL")
    path = parts.path or "/"
    if parts.query:
        path += "?" + parts.query
    with stack.create_connection((parts.hostname, parts.port or 80), timeout=10) as sock:
        sock.sendall(f"GET {path} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
        with sock.makefile("rb") as answer:
            status = answer.readline().decode("latin-1").strip()
            while answer.readline().strip():
                pass
            return status, answer.read()


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch a page over a stack of its own.")
    parser.add_argument("url", help="http://ADDRESS[:PORT]/PATH; the address is numeric")
    parser.add_argument("--tap", default="ust0", help="the device (default: ust0)")
    parser.add_argument("--host-address", default="10.9.0.1/24", help="the kernel's side (default: 10.9.0.1/24)")
    parser.add_argument("--address", default="10.9.0.2/24", help="the stack's side (default: 10.9.0.2/24)")
    args = parser.parse_args()

    with ustack.Stack() as stack:
        gateway = args.host_address.split("/")[0]
        tap = ustack.Tap(args.tap, host_addresses=[args.host_address])
        stack.attach(tap, addresses=[args.address], gateway=gateway)
        status, body = get(stack, args.url)
    print(status, file=sys.stderr)
    sys.stdout.buffer.write(body)


if __name__ == "__main__":
    main()
