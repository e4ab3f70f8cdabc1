"""A stack and the kernel's TCP/IP at the two ends of a TAP: the usual surroundings of a test against the kernel.

The kernel is 10.9.0.1 or fd09::1, the stack 10.9.0.2 or fd09::2 (on the thread driver). Both families' addresses are
there; which of them a test speaks to is its Net's `family`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ustack
from tap_harness.ends import FOUR, SIX
from tap_harness.netns import Namespace
from tap_harness.tap import KernelTap
from tap_harness.wire import ImpairedWire, Impairment, packet_socket

KERNEL, STACK = FOUR.kernel, FOUR.stack
KERNEL6, STACK6 = SIX.kernel, SIX.stack


class Net:
    """A stack and a kernel that reach each other. `ns` is the namespace of the kernel's TCP.

    family: socket.AF_INET or AF_INET6; kernel_ip, stack_ip: the addresses of it; any_ip: its wildcard; header: bytes
    of its IP header; mss: bytes of TCP payload, options included, in a packet of 1500 bytes.
    """

    def __init__(self, ns: Namespace, stack: Any, cleanup: contextlib.ExitStack, six: bool = False) -> None:
        self.ns = ns
        self.stack = stack
        self._cleanup = cleanup
        self.ends = SIX if six else FOUR
        self.family = self.ends.family
        self.kernel_ip, self.stack_ip, self.any_ip = self.ends.kernel, self.ends.stack, self.ends.any
        self.header, self.mss = self.ends.header, self.ends.mss

    @property
    def six(self) -> bool:
        """Whether it is IPv6."""
        return self.ends.six

    def kernel_socket(self, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A kernel socket of the family."""
        return self.ns.socket(self.family, kind)

    def stack_socket(self, kind: int = socket.SOCK_STREAM) -> Any:
        """A stack socket of the family."""
        return self.stack.socket(self.family, kind)

    def name(self, host: str, port: int) -> tuple[Any, ...]:
        """An address of the family as sockets say it."""
        return self.ends.name(host, port)

    def amount(self, usual: int) -> int:
        """How much of a load over IPv4 is one over this family (Ends.amount)."""
        return self.ends.amount(usual)

    def url(self, host: str, port: int = 80) -> str:
        """http:// of an address."""
        return self.ends.url(host, port)

    def keep(self, thing: Any) -> Any:
        """Close `thing` at the end of the test."""
        self._cleanup.callback(thing.close)
        return thing

    def kernel_listen(self, backlog: int = 128) -> tuple[socket.socket, int]:
        """A listening kernel socket and its port."""
        listener = self.keep(self.kernel_socket())
        listener.bind((self.kernel_ip, 0))
        listener.listen(backlog)
        return listener, listener.getsockname()[1]

    def stack_listen(self, port: int = 0, backlog: int = 128) -> tuple[Any, int]:
        """A listening stack socket and its port."""
        listener = self.keep(self.stack.create_server(("", port), family=self.family, backlog=backlog))
        listener.settimeout(10)
        return listener, listener.getsockname()[1]

    def kernel_connect(self, port: int) -> socket.socket:
        """A kernel socket connected to the stack's port."""
        sock = self.keep(self.kernel_socket())
        sock.connect((self.stack_ip, port))
        return sock

    def stack_connect(self, port: int, timeout: float = 10) -> Any:
        """A stack socket connected to the kernel's port."""
        return self.keep(self.stack.create_connection((self.kernel_ip, port), timeout=timeout))

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
def direct(ns: Namespace, offload: bool = False, six: bool = False) -> Iterator[Net]:
    """The stack has the descriptor of a TAP whose netdev the kernel in `ns` has; offload: with a virtio header."""
    ends = SIX if six else FOUR
    with contextlib.ExitStack() as cleanup:
        tap = cleanup.enter_context(KernelTap(ns, addresses=[ends.kernel_net], vnet_hdr=offload))
        stack = cleanup.enter_context(ustack.Stack())
        link = ustack.Tap(fd=tap.dup(), offload=offload)
        stack.attach(link, addresses=[ends.stack_net], gateway=ends.kernel)
        yield Net(ns, stack, cleanup, six)


@contextlib.contextmanager
def over_wire(ns: Namespace, impairment: Impairment, six: bool = False) -> Iterator[Net]:
    """The stack and the kernel in `ns` each have a TAP; between the two is a wire as bad as `impairment`, both ways."""
    ends = SIX if six else FOUR
    with contextlib.ExitStack() as cleanup:
        near = cleanup.enter_context(Namespace())
        ours = cleanup.enter_context(KernelTap(near, "near0"))
        theirs = cleanup.enter_context(KernelTap(ns, "far0", addresses=[ends.kernel_net]))
        end = cleanup.enter_context(packet_socket(near, "near0"))
        cleanup.enter_context(ImpairedWire(end.fileno(), theirs.fd, there=impairment))
        stack = cleanup.enter_context(ustack.Stack())
        stack.attach(ustack.Tap(fd=ours.dup()), addresses=[ends.stack_net], gateway=ends.kernel)
        yield Net(ns, stack, cleanup, six)
