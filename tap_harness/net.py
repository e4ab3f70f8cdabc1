"""A stack and the kernel's TCP/IP at the two ends of a TAP: the usual surroundings of a test against the kernel.

The kernel is 10.9.0.1, the stack 10.9.0.2 (on the thread driver).
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ustack
from tap_harness.netns import Namespace
from tap_harness.tap import KernelTap
from tap_harness.wire import ImpairedWire, Impairment, packet_socket

KERNEL = "10.9.0.1"
STACK = "10.9.0.2"
PREFIX = "/24"


class Net:
    """A stack and a kernel that reach each other. `ns` is the namespace of the kernel's TCP."""

    kernel_ip = KERNEL
    stack_ip = STACK

    def __init__(self, ns: Namespace, stack: Any, cleanup: contextlib.ExitStack) -> None:
        self.ns = ns
        self.stack = stack
        self._cleanup = cleanup

    def keep(self, thing: Any) -> Any:
        """Close `thing` at the end of the test."""
        self._cleanup.callback(thing.close)
        return thing

    def kernel_listen(self, backlog: int = 128) -> tuple[socket.socket, int]:
        """A listening kernel socket and its port."""
        listener = self.keep(self.ns.socket())
        listener.bind((KERNEL, 0))
        listener.listen(backlog)
        return listener, listener.getsockname()[1]

    def stack_listen(self, port: int = 0, backlog: int = 128) -> tuple[Any, int]:
        """A listening stack socket and its port."""
        listener = self.keep(self.stack.create_server(("", port), backlog=backlog))
        listener.settimeout(10)
        return listener, listener.getsockname()[1]

    def kernel_connect(self, port: int) -> socket.socket:
        """A kernel socket connected to the stack's port."""
        sock = self.keep(self.ns.socket())
        sock.connect((STACK, port))
        return sock

    def stack_connect(self, port: int, timeout: float = 10) -> Any:
        """A stack socket connected to the kernel's port."""
        return self.keep(self.stack.create_connection((KERNEL, port), timeout=timeout))

    def pair(self, role: str) -> tuple[Any, socket.socket]:
        """A connection, as (stack's socket, kernel's socket); role is the stack's: "client" or "server"."""
        if role == "client":
            listener, port = self.kernel_listen()
            ours = self.stack_connect(port)
            theirs, _ = listener.accept()
            theirs.settimeout(10)
        else:
            listener, port = self.stack_listen()
            theirs = self.kernel_connect(port)
            ours, _ = listener.accept()
            ours.settimeout(10)
        listener.close()
        return self.keep(ours), self.keep(theirs)

    def serve(self, handler: Callable[[Any], None], port: int = 0, backlog: int = 128) -> int:
        """A server on the stack, a thread a connection; handler(socket) is followed by close. Returns the port."""
        listener, port = self.stack_listen(port, backlog)
        listener.settimeout(None)

        def handle(connection: Any) -> None:
            with connection, contextlib.suppress(OSError):
                handler(connection)

        def accept() -> None:
            with contextlib.suppress(OSError):  # closing the listener at the end of the test wakes and ends it
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=handle, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return port

    def kernel_states(self, port: int | None = None) -> list[str]:
        """The states of the kernel's TCP connections as `ss` names them, those with `port` on either side only."""
        only = f"'( sport = :{port} or dport = :{port} )'" if port is not None else ""
        lines = self.ns.sh(f"ss -Htan state all {only}").splitlines()
        return [line.split()[0] for line in lines if line.split()[0] not in ("LISTEN", "UNCONN")]


def echo(connection: Any) -> None:
    """A handler for Net.serve: send back what comes, until the end."""
    while data := connection.recv(1 << 16):
        connection.sendall(data)


@contextlib.contextmanager
def direct(ns: Namespace, offload: bool = False) -> Iterator[Net]:
    """The stack has the descriptor of a TAP whose netdev the kernel in `ns` has; offload: with a virtio header."""
    with contextlib.ExitStack() as cleanup:
        tap = cleanup.enter_context(KernelTap(ns, addresses=[KERNEL + PREFIX], vnet_hdr=offload))
        stack = cleanup.enter_context(ustack.Stack())
        stack.attach(ustack.Tap(fd=tap.dup(), offload=offload), addresses=[STACK + PREFIX], gateway=KERNEL)
        yield Net(ns, stack, cleanup)


@contextlib.contextmanager
def over_wire(ns: Namespace, impairment: Impairment) -> Iterator[Net]:
    """The stack and the kernel in `ns` each have a TAP; between the two is a wire as bad as `impairment`, both ways."""
    with contextlib.ExitStack() as cleanup:
        near = cleanup.enter_context(Namespace())
        ours = cleanup.enter_context(KernelTap(near, "near0"))
        theirs = cleanup.enter_context(KernelTap(ns, "far0", addresses=[KERNEL + PREFIX]))
        end = cleanup.enter_context(packet_socket(near, "near0"))
        cleanup.enter_context(ImpairedWire(end.fileno(), theirs.fd, there=impairment))
        stack = cleanup.enter_context(ustack.Stack())
        stack.attach(ustack.Tap(fd=ours.dup()), addresses=[STACK + PREFIX], gateway=KERNEL)
        yield Net(ns, stack, cleanup)
