"""An echo server on a TAP device: a thread for each connection, as with the standard library's sockets.

    sudo python examples/echo_server.py             then:  nc 10.9.0.2 7

Needs the right to make a TAP (CAP_NET_ADMIN), or one that exists and belongs to this user: `ustack doctor` tells.
"""

from __future__ import annotations

import argparse
import threading

import ustack


def echo(connection: ustack.Socket, peer: tuple[str, int]) -> None:
    """Send everything back until the peer ends."""
    print(f"{peer[0]}:{peer[1]} connected", flush=True)
    with connection:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except OSError as error:
            print(f"{peer[0]}:{peer[1]} went away: {error}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Echo what comes, on a stack of its own.")
    parser.add_argument("--tap", default="ust0", help="the device (default: ust0)")
    parser.add_argument("--host-address", default="10.9.0.1/24", help="the kernel's side (default: 10.9.0.1/24)")
    parser.add_argument("--address", default="10.9.0.2/24", help="the stack's side (default: 10.9.0.2/24)")
    parser.add_argument("--port", type=int, default=7)
    args = parser.parse_args()

    with ustack.Stack() as stack:
        stack.attach(ustack.Tap(args.tap, host_addresses=[args.host_address]), addresses=[args.address])
        with stack.create_server(("", args.port)) as server:
            print(f"listening on {args.address.split('/')[0]} port {args.port}; Ctrl-C ends it", flush=True)
            while True:
                connection, peer = server.accept()
                threading.Thread(target=echo, args=(connection, peer), daemon=True).start()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
